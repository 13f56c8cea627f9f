//! The JSON form of a policy, as users write it for BuildKit's clients. Names of members may be
//! written in any case and enumerations as names or numbers, as there; but a member that is not
//! known, or a value of another kind, is an error and not a rule that says less than it should.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Action, Condition, Constraint, MatchType, PolicyError, Rule, Update};

/// The version of the format that is understood; a document need not say one.
const VERSION: u64 = 1;

fn wrong(place: &str, problem: impl Into<String>) -> PolicyError {
    PolicyError::Document {
        place: place.to_owned(),
        problem: problem.into(),
    }
}

/// The rules of a document.
pub fn rules(json: &str) -> Result<Vec<Rule>, PolicyError> {
    let document: Value = serde_json::from_str(json)?;
    let members = members(&document, "policy", &["version", "rules"])?;
    if let Some(version) = members.get("version")
        && version.as_u64().is_none_or(|number| number > VERSION)
    {
        return Err(wrong(
            "version",
            format!("{version} is not known, only {VERSION} is"),
        ));
    }
    list(members.get("rules").copied(), "rules")?
        .iter()
        .enumerate()
        .map(|(index, value)| rule(value, &format!("rule {}", index + 1)))
        .collect()
}

fn rule(value: &Value, place: &str) -> Result<Rule, PolicyError> {
    let of_rule = members(value, place, &["action", "selector", "updates"])?;
    let selector = of_rule
        .get("selector")
        .ok_or_else(|| wrong(place, "no selector"))?;
    let at = format!("{place}, selector");
    let of_selector = members(selector, &at, &["identifier", "match_type", "constraints"])?;
    let constraints = list(of_selector.get("constraints").copied(), &at)?
        .iter()
        .map(|value| constraint(value, &format!("{place}, constraint")))
        .collect::<Result<_, _>>()?;
    let identifier = string(of_selector.get("identifier").copied(), &at)?;
    if identifier.is_empty() {
        return Err(wrong(&at, "no identifier"));
    }
    Ok(Rule {
        action: one_of(
            of_rule.get("action").copied(),
            &format!("{place}, action"),
            &[
                ("ALLOW", Action::Allow),
                ("DENY", Action::Deny),
                ("CONVERT", Action::Convert),
            ],
        )?,
        identifier,
        match_type: one_of(
            of_selector.get("match_type").copied(),
            &format!("{place}, match_type"),
            &[
                ("WILDCARD", MatchType::Wildcard),
                ("EXACT", MatchType::Exact),
                ("REGEX", MatchType::Regex),
            ],
        )?,
        constraints,
        updates: match of_rule.get("updates") {
            Some(value) => Some(update(value, &format!("{place}, updates"))?),
            None => None,
        },
    })
}

fn constraint(value: &Value, place: &str) -> Result<Constraint, PolicyError> {
    let members = members(value, place, &["key", "value", "condition"])?;
    Ok(Constraint {
        key: string(members.get("key").copied(), place)?,
        value: string(members.get("value").copied(), place)?,
        condition: one_of(
            members.get("condition").copied(),
            &format!("{place}, condition"),
            &[
                ("EQUAL", Condition::Equal),
                ("NOTEQUAL", Condition::NotEqual),
                ("MATCHES", Condition::Matches),
            ],
        )?,
    })
}

fn update(value: &Value, place: &str) -> Result<Update, PolicyError> {
    let members = members(value, place, &["identifier", "attrs"])?;
    let mut attrs = BTreeMap::new();
    if let Some(value) = members.get("attrs") {
        for (key, value) in object(value, place)? {
            attrs.insert(key.clone(), string(Some(value), place)?);
        }
    }
    Ok(Update {
        identifier: string(members.get("identifier").copied(), place)?,
        attrs,
    })
}

fn object<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, PolicyError> {
    value
        .as_object()
        .ok_or_else(|| wrong(place, format!("{value} is no object")))
}

/// The members that are there, by their known names; `null` counts as absent.
fn members<'a>(
    value: &'a Value,
    place: &str,
    known: &[&'static str],
) -> Result<BTreeMap<&'static str, &'a Value>, PolicyError> {
    let mut members = BTreeMap::new();
    for (key, value) in object(value, place)? {
        let Some(name) = known.iter().find(|name| name.eq_ignore_ascii_case(key)) else {
            return Err(wrong(
                place,
                format!("unknown member {key:?}; {} are known", known.join(", ")),
            ));
        };
        if value.is_null() {
            continue;
        }
        if members.insert(*name, value).is_some() {
            return Err(wrong(place, format!("{name} is there twice")));
        }
    }
    Ok(members)
}

fn list<'a>(value: Option<&'a Value>, place: &str) -> Result<&'a [Value], PolicyError> {
    match value {
        None => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(value) => Err(wrong(place, format!("{value} is no list"))),
    }
}

fn string(value: Option<&Value>, place: &str) -> Result<String, PolicyError> {
    match value {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value) => Err(wrong(place, format!("{value} is no string"))),
    }
}

/// By name or by number; the first when it is not said.
fn one_of<T: Copy>(
    value: Option<&Value>,
    place: &str,
    known: &[(&str, T)],
) -> Result<T, PolicyError> {
    let found = match value {
        None => known.first(),
        Some(Value::String(name)) => known.iter().find(|(known, _)| known == name),
        Some(value) => value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
            .and_then(|number| known.get(number)),
    };
    let unknown = || {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let shown = value.map(Value::to_string).unwrap_or_default();
        wrong(
            place,
            format!("{shown} is not known; {} are", names.join(", ")),
        )
    };
    found.map(|(_, value)| *value).ok_or_else(unknown)
}
