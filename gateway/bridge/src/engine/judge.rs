//! Sources that the client judges while it builds: each is shown to it before it is looked at. What it
//! wants instead becomes a rule of a policy, which the solver applies like any other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gateway_api::{Error, ResolveSourceMetaRequest, SourceMeta};
use gateway_llb::pb;
use gateway_solver::Job;
use gateway_solver::policy::{
    Action, Condition, Constraint, MatchType, Policy, Rule, SourcePolicies, Update,
};
use prost::Message as _;
use tokio::sync::OnceCell;

/// Questions about one source, and conversions of one, before it counts as a circle; BuildKit's number.
const MAX_ROUNDS: usize = 10;

/// What a client says of a source.
pub enum Verdict {
    Allow,
    /// It has to be told this first.
    Ask(Box<ResolveSourceMetaRequest>),
    Convert(pb::SourceOp),
}

/// Whoever judges.
#[async_trait]
pub trait SourceJudge: Send + Sync {
    /// `source` holds what is known of it so far.
    ///
    /// # Errors
    /// Also for a source that is denied.
    async fn judge(
        &self,
        platform: Option<&pb::Platform>,
        source: SourceMeta,
    ) -> Result<Verdict, Error>;
}

/// What was said of one source, or is being asked.
type Decision = Arc<OnceCell<Option<Rule>>>;

/// The judge of one build, and what it said.
pub(crate) struct Judge {
    judge: Arc<dyn SourceJudge>,
    /// Those of the build, which hold before the judge sees a source.
    policies: SourcePolicies,
    decided: Mutex<HashMap<Vec<u8>, Decision>>,
}

impl Judge {
    pub fn new(judge: Arc<dyn SourceJudge>, policies: SourcePolicies) -> Judge {
        Judge {
            judge,
            policies,
            decided: Mutex::default(),
        }
    }

    /// The policies with what the judge adds for one source.
    ///
    /// # Errors
    /// The source is denied.
    pub async fn of_source(
        &self,
        job: &Job,
        source: pb::SourceOp,
        platform: Option<pb::Platform>,
        policies: SourcePolicies,
    ) -> Result<SourcePolicies, Error> {
        let mut rules = Vec::new();
        // Boxed: frontends call frontends on one stack, and looking at a source takes much of it.
        let settled = self.settle(job, &source, platform.as_ref(), &policies, &mut rules);
        Box::pin(settled).await?;
        with(policies, rules)
    }

    /// The same for all sources of a definition. One that cannot be read is passed on: loading it says
    /// what is wrong.
    ///
    /// # Errors
    /// A source is denied, or one could not be shown to the judge.
    pub async fn of_definition(
        &self,
        job: &Job,
        definition: &pb::Definition,
        policies: SourcePolicies,
    ) -> Result<SourcePolicies, Error> {
        let mut rules = Vec::new();
        for bytes in &definition.def {
            let Ok(op) = pb::Op::decode(bytes.as_slice()) else {
                return Ok(policies);
            };
            match op.op {
                Some(pb::op::Op::Source(source)) => {
                    let platform = op.platform.as_ref();
                    let settled = self.settle(job, &source, platform, &policies, &mut rules);
                    Box::pin(settled).await?;
                }
                Some(pb::op::Op::Build(_)) => {
                    return Err(Error::new(
                        gateway_api::Code::Unimplemented,
                        "a graph that is made while it is solved (BuildOp) cannot be judged by the client's policy",
                    ));
                }
                _ => {}
            }
        }
        with(policies, rules)
    }

    /// Asks about a source, and about what is used in its place, until one is allowed.
    async fn settle(
        &self,
        job: &Job,
        source: &pb::SourceOp,
        platform: Option<&pb::Platform>,
        policies: &SourcePolicies,
        rules: &mut Vec<Rule>,
    ) -> Result<(), Error> {
        let policies = self.policies.and(policies);
        for _ in 0..MAX_ROUNDS {
            let now = with(policies.clone(), rules.clone())?.settled(source)?;
            let Some(rule) = self.decide(job, now, platform).await? else {
                return Ok(());
            };
            if rules.contains(&rule) {
                break;
            }
            rules.push(rule);
        }
        Err(Error::unknown(format!(
            "the client's policy converts {} in a circle",
            source.identifier
        )))
    }

    /// What the judge says, asked once.
    async fn decide(
        &self,
        job: &Job,
        source: pb::SourceOp,
        platform: Option<&pb::Platform>,
    ) -> Result<Option<Rule>, Error> {
        let key = pb::Op {
            platform: platform.cloned(),
            op: Some(pb::op::Op::Source(source.clone())),
            ..pb::Op::default()
        };
        let cell = {
            let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
            decided.entry(key.encode_to_vec()).or_default().clone()
        };
        let rule = cell.get_or_try_init(|| self.ask(job, source, platform));
        rule.await.cloned()
    }

    async fn ask(
        &self,
        job: &Job,
        source: pb::SourceOp,
        platform: Option<&pb::Platform>,
    ) -> Result<Option<Rule>, Error> {
        let mut known = SourceMeta {
            source: source.clone(),
            ..SourceMeta::default()
        };
        for _ in 0..MAX_ROUNDS {
            match self.judge.judge(platform, known.clone()).await? {
                Verdict::Allow => return Ok(None),
                Verdict::Convert(to) => {
                    return Ok((to != source).then(|| conversion(&source, to)));
                }
                Verdict::Ask(request) => {
                    if request.source != source {
                        return Err(Error::unknown(format!(
                            "the client's policy asked about another source: {:?} instead of {:?}",
                            request.source.identifier, source.identifier
                        )));
                    }
                    let answer = job
                        .resolve_source_meta(*request, &SourcePolicies::default())
                        .await
                        .map_err(|error| {
                            error.context("error resolving source metadata for the client's policy")
                        })?;
                    known = SourceMeta {
                        source: source.clone(),
                        ..answer
                    };
                }
            }
        }
        Err(Error::unknown(format!(
            "the client's policy asked about {} more than {MAX_ROUNDS} times",
            source.identifier
        )))
    }
}

/// For this very source, with these attributes.
fn conversion(from: &pb::SourceOp, to: pb::SourceOp) -> Rule {
    let constraints = from.attrs.iter().map(|(key, value)| Constraint {
        key: key.clone(),
        value: value.clone(),
        condition: Condition::Equal,
    });
    Rule {
        action: Action::Convert,
        identifier: from.identifier.clone(),
        match_type: MatchType::Exact,
        constraints: constraints.collect(),
        updates: Some(Update {
            identifier: to.identifier,
            attrs: to.attrs,
        }),
    }
}

fn with(policies: SourcePolicies, rules: Vec<Rule>) -> Result<SourcePolicies, Error> {
    if rules.is_empty() {
        return Ok(policies);
    }
    let policy = Policy::new("the client's policy", rules)
        .map_err(|error| Error::invalid(error.to_string()))?;
    Ok(policies.and(&SourcePolicies::new([policy])))
}
