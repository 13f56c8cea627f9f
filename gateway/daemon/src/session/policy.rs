//! Sources judged by the client, as `moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier` asks.

use async_trait::async_trait;
use gateway_api::{Code, Detail, Error, SourceMeta};
use gateway_bridge::{SourceJudge, Verdict};
use gateway_llb::pb;
use gateway_proto::convert::source::{meta_request_from_wire, meta_to_wire};
use gateway_proto::sourcepolicy::PolicyAction;

use super::{Sessions, client_error};
use crate::peer::Peer;
use crate::proto::session::check_policy_response::Result as Answer;
use crate::proto::session::{CheckPolicyRequest, CheckPolicyResponse, DecisionResponse};

const CHECK: &str = "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy";

/// What the reference calls a decision in the details of errors.
const DECISION: &str = "github.com/moby/buildkit/policysession.DecisionResponse+json";

/// A client reads files and asks registries to decide.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(5 * 60);

/// The judge that one session is.
pub struct SessionJudge {
    sessions: Sessions,
    peer: Peer,
    id: String,
}

impl SessionJudge {
    pub fn new(sessions: Sessions, peer: Peer, id: &str) -> Self {
        SessionJudge {
            sessions,
            peer,
            id: id.to_owned(),
        }
    }
}

#[async_trait]
impl SourceJudge for SessionJudge {
    async fn judge(
        &self,
        platform: Option<&pb::Platform>,
        source: SourceMeta,
    ) -> Result<Verdict, Error> {
        let handle = self.sessions.find(&self.peer, &self.id).await?;
        let identifier = source.source.identifier.clone();
        let request = CheckPolicyRequest {
            platform: platform.cloned(),
            source: Some(meta_to_wire(source)),
            ..CheckPolicyRequest::default()
        };
        let answer = handle
            .channel()
            .unary::<_, CheckPolicyResponse>(CHECK, request);
        let answer = tokio::time::timeout(LIMIT, handle.until_closed(answer)).await;
        let answer = answer.map_err(|_| {
            Error::new(
                Code::DeadlineExceeded,
                format!("the client did not judge {identifier} in time"),
            )
        })?;
        let answer = answer
            .and_then(std::convert::identity)
            .map_err(|status| client_error(&status))?;
        match answer.result {
            Some(Answer::Request(request)) => meta_request_from_wire(request)
                .map(|request| Verdict::Ask(Box::new(request)))
                .ok_or_else(|| Error::unknown("the client's policy asked about no source")),
            Some(Answer::Decision(decision)) => verdict(&identifier, decision),
            None => Err(Error::unknown("no decision in policy response")),
        }
    }
}

pub(super) fn verdict(identifier: &str, decision: DecisionResponse) -> Result<Verdict, Error> {
    match PolicyAction::try_from(decision.action) {
        Ok(PolicyAction::Allow) => Ok(Verdict::Allow),
        Ok(PolicyAction::Convert) => decision
            .update
            .map(Verdict::Convert)
            .ok_or_else(|| Error::unknown("convert action requires updated source")),
        // What is not known allows nothing.
        _ => {
            let mut error = Error::unknown(format!(
                "source {identifier:?} not allowed by policy: action DENY"
            ));
            let messages = decision.deny_messages.iter();
            let messages: Vec<_> = messages
                .map(|deny| serde_json::json!({"message": deny.message}))
                .collect();
            if !messages.is_empty() {
                let value = serde_json::json!({
                    "action": PolicyAction::Deny as i32, "denyMessages": messages,
                });
                error.details.push(Detail::Other {
                    type_url: DECISION.to_owned(),
                    value: value.to_string().into_bytes(),
                });
            }
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::session::DenyMessage;

    #[test]
    fn p60_only_what_is_allowed_or_converted_is_used() {
        let decision = |action: i32| DecisionResponse {
            action,
            deny_messages: vec![DenyMessage {
                message: "not from there".to_owned(),
            }],
            update: None,
        };
        assert!(matches!(
            verdict("a", decision(PolicyAction::Allow as i32)),
            Ok(Verdict::Allow)
        ));
        for action in [PolicyAction::Deny as i32, 77] {
            let error = verdict("docker-image://x", decision(action)).err().unwrap();
            assert!(error.message.contains("docker-image://x"), "{error}");
            let [Detail::Other { value, .. }] = &error.details[..] else {
                panic!("{:?}", error.details);
            };
            assert!(String::from_utf8_lossy(value).contains("not from there"));
        }
        assert!(verdict("a", decision(PolicyAction::Convert as i32)).is_err());
    }
}
