//! Source policies as frontends send them: protobuf messages to the solver's rules. A message that
//! is not understood in full is refused: it would guard less than it was meant to.

use std::collections::BTreeMap;

use gateway_api::{Code, Error};
use gateway_proto::sourcepolicy as wire;
use gateway_solver::policy::{
    Action, Condition, Constraint, MatchType, Policy, Rule, SourcePolicies, Update,
};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};

/// The version of the message that is understood; it need not say one.
const VERSION: i64 = 1;

/// Policies as messages of the protocol.
///
/// # Errors
/// A message that is none, or says something that is not understood.
pub fn read(messages: &[Vec<u8>]) -> Result<SourcePolicies, Error> {
    let policies = messages.iter().map(|bytes| policy(bytes));
    let policies: Vec<Policy> = policies.collect::<Result<_, String>>().map_err(|problem| {
        Error::new(
            Code::InvalidArgument,
            format!("invalid source policy of a frontend: {problem}"),
        )
    })?;
    Ok(SourcePolicies::new(policies))
}

fn policy(bytes: &[u8]) -> Result<Policy, String> {
    let message = wire::Policy::decode(bytes).map_err(|error| error.to_string())?;
    if !POLICY.knows(bytes) {
        return Err("it has parts that are not known here".to_owned());
    }
    if !(0..=VERSION).contains(&message.version) {
        let version = message.version;
        return Err(format!("version {version} is not known, only {VERSION} is"));
    }
    let rules = message.rules.into_iter().enumerate().map(|(index, rule)| {
        self::rule(rule).map_err(|problem| format!("rule {}: {problem}", index + 1))
    });
    let rules = rules.collect::<Result<_, _>>()?;
    Policy::new("the frontend's policy", rules).map_err(|error| error.to_string())
}

fn rule(rule: wire::Rule) -> Result<Rule, String> {
    let unknown = |what: &str, number: i32| format!("{what} {number} is not known");
    let action = match wire::PolicyAction::try_from(rule.action) {
        Ok(wire::PolicyAction::Allow) => Action::Allow,
        Ok(wire::PolicyAction::Deny) => Action::Deny,
        Ok(wire::PolicyAction::Convert) => Action::Convert,
        Err(_) => return Err(unknown("action", rule.action)),
    };
    let selector = rule.selector.ok_or("invalid nil selector in policy")?;
    let match_type = match wire::MatchType::try_from(selector.match_type) {
        Ok(wire::MatchType::Wildcard) => MatchType::Wildcard,
        Ok(wire::MatchType::Exact) => MatchType::Exact,
        Ok(wire::MatchType::Regex) => MatchType::Regex,
        Err(_) => return Err(unknown("match type", selector.match_type)),
    };
    let constraints = selector.constraints.into_iter().map(|constraint| {
        Ok(Constraint {
            condition: match wire::AttrMatch::try_from(constraint.condition) {
                Ok(wire::AttrMatch::Equal) => Condition::Equal,
                Ok(wire::AttrMatch::Notequal) => Condition::NotEqual,
                Ok(wire::AttrMatch::Matches) => Condition::Matches,
                Err(_) => return Err(unknown("condition", constraint.condition)),
            },
            key: constraint.key,
            value: constraint.value,
        })
    });
    Ok(Rule {
        action,
        identifier: selector.identifier,
        match_type,
        constraints: constraints.collect::<Result<_, String>>()?,
        updates: rule.updates.map(|updates| Update {
            identifier: updates.identifier,
            attrs: updates.attrs.into_iter().collect::<BTreeMap<_, _>>(),
        }),
    })
}

/// The fields of a message that are known; those that are messages with theirs.
struct Fields(&'static [(u32, Option<&'static Fields>)]);

static POLICY: Fields = Fields(&[(1, None), (2, Some(&RULE))]);
static RULE: Fields = Fields(&[(1, None), (2, Some(&SELECTOR)), (3, Some(&UPDATE))]);
static SELECTOR: Fields = Fields(&[(1, None), (2, None), (3, Some(&CONSTRAINT))]);
static CONSTRAINT: Fields = Fields(&[(1, None), (2, None), (3, None)]);
static UPDATE: Fields = Fields(&[(1, None), (2, Some(&ATTR))]);
static ATTR: Fields = Fields(&[(1, None), (2, None)]);

impl Fields {
    /// Whether a message has only these. Decoding drops others silently.
    fn knows(&self, mut message: &[u8]) -> bool {
        while !message.is_empty() {
            if self.known_field(&mut message).is_none() {
                return false;
            }
        }
        true
    }

    fn known_field(&self, rest: &mut &[u8]) -> Option<()> {
        let (number, kind) = decode_key(rest).ok()?;
        let (_, nested) = self.0.iter().find(|(known, _)| *known == number)?;
        match kind {
            WireType::Varint => drop(decode_varint(rest).ok()?),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
                let content = rest.get(..length)?;
                *rest = rest.get(length..)?;
                if nested.is_some_and(|fields| !fields.knows(content)) {
                    return None;
                }
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deny(identifier: &str) -> wire::Policy {
        wire::Policy {
            version: 1,
            rules: vec![wire::Rule {
                action: wire::PolicyAction::Deny.into(),
                selector: Some(wire::Selector {
                    identifier: identifier.into(),
                    constraints: vec![wire::AttrConstraint::default()],
                    ..wire::Selector::default()
                }),
                updates: Some(wire::Update {
                    attrs: [("key".to_owned(), String::new())].into(),
                    ..wire::Update::default()
                }),
            }],
        }
    }

    fn refusal(policy: &wire::Policy, appended: &[u8]) -> String {
        let mut bytes = policy.encode_to_vec();
        bytes.extend(appended);
        read(&[bytes]).unwrap_err().message
    }

    #[test]
    fn a_message_is_read_in_full_or_refused() {
        assert!(!read(&[deny("a").encode_to_vec()]).unwrap().is_empty());
        assert!(read(&[]).unwrap().is_empty());
        for (change, wanted) in [
            (
                (|policy| policy.version = 2) as fn(&mut wire::Policy),
                "version 2 is not known, only 1 is",
            ),
            (
                |policy| policy.rules[0].action = 9,
                "rule 1: action 9 is not known",
            ),
            (
                |policy| policy.rules[0].selector = None,
                "rule 1: invalid nil selector in policy",
            ),
            (
                |policy| policy.rules[0].selector.as_mut().unwrap().match_type = 3,
                "rule 1: match type 3 is not known",
            ),
            (
                |policy| {
                    policy.rules[0].selector.as_mut().unwrap().constraints[0].condition = -1;
                },
                "rule 1: condition -1 is not known",
            ),
            (
                |policy| policy.rules[0].selector.as_mut().unwrap().identifier = "a**".into(),
                "rule 1: invalid wildcard \"a**\": two asterisks in a row",
            ),
        ] {
            let mut policy = deny("a");
            change(&mut policy);
            let text = refusal(&policy, &[]);
            assert_eq!(
                text,
                format!("invalid source policy of a frontend: {wanted}")
            );
        }
        // A field 9 of the policy, and one of its first rule.
        for bytes in [[0x48, 1].as_slice(), &[0x12, 2, 0x48, 1]] {
            assert!(refusal(&deny("a"), bytes).ends_with("it has parts that are not known here"));
        }
        assert!(read(&[vec![0xff]]).is_err());
    }
}
