//! Answers of frontends are used again. When the image, the options and everything that it was told
//! are the same, a frontend that is a function of these need not run: what it asked last time is
//! asked again, in process, and when all answers are what they were, so is its own.
//!
//! Only for images without network that are known to decide by nothing else.

mod record;
mod transcript;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use gateway_api::{BuildResult, Error, Gateway, Invocation, Ref, Refs, Warning};
use gateway_images::config::RunConfig;
use gateway_images::reference::Reference;
use gateway_llb::digest_of;
use gateway_proto::convert::{files, request, result, source};
use gateway_proto::frontend;
use gateway_solver::Job;
use prost::Message;

pub use record::Recorder;
use transcript::{Asked, Kind, Renames, Transcript, answer_digest, canonical};

use super::FrontendCall;
use super::image::FrontendImage;

/// The label of images that decide by nothing but what they are told.
const LABEL_DETERMINISTIC: &str = "gateway.frontend.deterministic";
/// Images that need no label for it.
const FAMILY: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];
/// Part of every key: raised when what is stored means something else.
const FORM: u32 = 1;
/// Questions to registries at one time; what a registry allows is its client's business.
const MAX_QUESTIONS: usize = 16;

/// Whether such an image may be replayed at all. `source` is what was resolved in the end: a policy
/// may have put another image in the place of the one that the build file names.
pub fn is_replayable(source: &str, config: &RunConfig, network_none: bool) -> bool {
    let label = config.labels.get(LABEL_DETERMINISTIC);
    let pure = match label.map(String::as_str) {
        Some(text) => matches!(text, "1" | "true"),
        None => Reference::parse(source).is_ok_and(|reference| {
            reference.domain() == "docker.io" && FAMILY.contains(&reference.path())
        }),
    };
    pure && network_none
}

/// One call that may be replayed.
pub struct Replay {
    key: String,
}

impl Replay {
    /// `None` for calls that must run: without the cache, with inputs, of images that may not.
    pub fn of(
        job: &Job,
        call: &FrontendCall,
        image: &FrontendImage,
        network_none: bool,
        invocation: &Invocation,
    ) -> Option<Replay> {
        let must_run = call.opts.contains_key("no-cache")
            || !call.inputs.is_empty()
            || image.digest.is_empty()
            || !is_replayable(&image.name, &image.config, network_none);
        if must_run {
            return None;
        }
        // Builds of several directories with the same options keep their answers apart.
        let local = call.opts.values().filter_map(|v| v.strip_prefix("local:"));
        let names = ["context", "dockerfile"].into_iter().chain(local);
        let dirs: BTreeMap<&str, _> = names.map(|n| (n, job.session().local_place(n))).collect();
        let Invocation {
            opts,
            session_id: _,
            product,
            workers,
            frontend_caps,
            llb_caps,
        } = invocation;
        let text = format!(
            "{FORM}\0{}\0{opts:?}\0{product}\0{workers:?}\0{frontend_caps:?}\0{llb_caps:?}\0{dirs:?}",
            image.digest
        );
        Some(Replay {
            key: digest_of(text.as_bytes()),
        })
    }

    /// What the frontend would return, if everything that it would be told is what it was. Its
    /// warnings are shown then.
    pub async fn replay(&self, job: &Job, gateway: &dyn Gateway) -> Option<BuildResult> {
        let bytes = job.solver().recall(&self.key)?;
        let transcript = Transcript::decode(&bytes[..]).ok()?;
        let session = &gateway.invocation().session_id;
        let mut player = Player {
            gateway,
            renames: Renames::of(&transcript.session, session)?,
            refs: BTreeMap::new(),
            warnings: Vec::new(),
        };
        let mut left = transcript.calls.as_slice();
        while let Some(call) = left.first() {
            let questions = left.iter().take_while(|call| is_question(call)).count();
            let (now, later) = left.split_at_checked(questions.max(1))?;
            left = later;
            if questions == 0 {
                if player.ask(call).await? != call.answer {
                    return None;
                }
                continue;
            }
            // Asked side by side, as most frontends ask them, but looked at in their order: what
            // comes after an answer that changed might not be asked any more, nor exist.
            let mut answers: Vec<BoxFuture<'_, Option<String>>> = Vec::new();
            for call in now {
                answers.push(player.question(call).boxed());
            }
            let mut answers = futures_util::stream::iter(answers).buffered(MAX_QUESTIONS);
            for call in now {
                if answers.next().await?? != call.answer {
                    return None;
                }
            }
        }
        let returned = frontend::Result::decode(&transcript.result[..]).ok()?;
        let returned = map_refs(result::from_wire(returned), |reference| {
            player.reference(&reference.id)
        })?;
        for warning in player.warnings {
            gateway.warn(warning).await.ok()?;
        }
        Some(returned)
    }

    /// Keeps what the frontend asked and returned.
    pub fn keep(&self, job: &Job, recorder: &Recorder, returned: &BuildResult) {
        if let Some(transcript) = recorder.transcript(returned) {
            job.solver()
                .remember(&self.key, &transcript.encode_to_vec());
        }
    }
}

/// Whether the call asks about images and other sources by name: no answer needs another's.
fn is_question(call: &Asked) -> bool {
    matches!(
        Kind::try_from(call.kind),
        Ok(Kind::ImageConfig | Kind::SourceMeta)
    )
}

/// Asks again what was asked.
struct Player<'a> {
    gateway: &'a dyn Gateway,
    renames: Renames,
    /// Refs of now by their ids of then.
    refs: BTreeMap<String, Ref>,
    warnings: Vec<Warning>,
}

impl Player<'_> {
    fn reference(&self, id: &str) -> Option<Ref> {
        match id {
            "" => Some(Ref::scratch()),
            id => self.refs.get(id).cloned(),
        }
    }

    /// The answer to a question about a source.
    async fn question(&self, call: &Asked) -> Option<String> {
        let bytes = self.renames.bytes(&call.request);
        let gateway = self.gateway;
        Some(match Kind::try_from(call.kind).ok()? {
            Kind::ImageConfig => {
                let asked = frontend::ResolveImageConfigRequest::decode(&bytes[..]).ok()?;
                let asked = source::image_request_from_wire(asked);
                let answer = gateway.resolve_image_config(asked).await;
                answer_digest(answer.as_ref().map(record::image_config_bytes))
            }
            Kind::SourceMeta => {
                let asked = frontend::ResolveSourceMetaRequest::decode(&bytes[..]).ok()?;
                let asked = source::meta_request_from_wire(asked)?;
                let answer = gateway.resolve_source_meta(asked).await;
                answer_digest(answer.as_ref().map(record::source_meta_bytes))
            }
            _ => return None,
        })
    }

    /// What the answer of now hashes to; `None` for what cannot be asked.
    async fn ask(&mut self, call: &Asked) -> Option<String> {
        let bytes = self.renames.bytes(&call.request);
        let gateway = self.gateway;
        Some(match Kind::try_from(call.kind).ok()? {
            Kind::Unknown => return None,
            Kind::Solve => {
                // The definition gets new digests, so the message is changed part by part.
                let asked = frontend::SolveRequest::decode(&call.request[..]).ok()?;
                let mut asked = request::solve_from_wire(asked);
                if let Some(definition) = asked.definition.take() {
                    asked.definition = Some(self.renames.definition(definition)?);
                }
                let definition = asked.definition.clone();
                let answer = gateway.solve(asked).await;
                if let Ok(solved) = &answer {
                    let refs = solved.refs.iter().map(|(_, reference)| reference.clone());
                    self.refs.extend(call.refs.iter().cloned().zip(refs));
                }
                let bytes = |solved| record::solved_bytes(solved, definition.as_ref());
                answer_digest(answer.as_ref().map(bytes))
            }
            Kind::ImageConfig | Kind::SourceMeta => self.question(call).await?,
            Kind::ReadFile => {
                let asked = frontend::ReadFileRequest::decode(&bytes[..]).ok()?;
                let reference = self.reference(&asked.r#ref)?;
                let range = asked.range.map(files::range_from_wire);
                let answer = gateway.read_file(&reference, &asked.file_path, range).await;
                answer_digest(answer.as_ref().map(|bytes| bytes.to_vec()))
            }
            Kind::ReadDir => {
                let asked = frontend::ReadDirRequest::decode(&bytes[..]).ok()?;
                let reference = self.reference(&asked.r#ref)?;
                let include = Some(asked.include_pattern.as_str()).filter(|text| !text.is_empty());
                let answer = gateway.read_dir(&reference, &asked.dir_path, include).await;
                answer_digest(
                    answer
                        .as_ref()
                        .map(|entries| record::read_dir_bytes(entries)),
                )
            }
            Kind::StatFile => {
                let asked = frontend::StatFileRequest::decode(&bytes[..]).ok()?;
                let reference = self.reference(&asked.r#ref)?;
                let answer = gateway.stat_file(&reference, &asked.path).await;
                answer_digest(answer.as_ref().map(record::stat_bytes))
            }
            Kind::Evaluate => {
                let asked = frontend::EvaluateRequest::decode(&bytes[..]).ok()?;
                let reference = self.reference(&asked.r#ref)?;
                let answer = gateway.evaluate(&reference).await;
                answer_digest(answer.as_ref().map(|()| Vec::new()))
            }
            Kind::Warn => {
                // Shown when all is known to be the same; else the frontend says it itself.
                let asked = frontend::WarnRequest::decode(&bytes[..]).ok()?;
                self.warnings.push(request::warning_from_wire(asked));
                call.answer.clone()
            }
        })
    }
}

/// The result with other refs; `None` when one has no counterpart.
fn map_refs(mut of: BuildResult, with: impl Fn(Ref) -> Option<Ref>) -> Option<BuildResult> {
    let map = |reference: Ref| match reference.is_scratch() {
        true => Some(reference),
        false => with(reference),
    };
    of.refs = match of.refs {
        Refs::None => Refs::None,
        Refs::Single(reference) => Refs::Single(map(reference)?),
        Refs::Map(all) => {
            let all = all.into_iter().map(|(key, r)| Some((key, map(r)?)));
            Refs::Map(all.collect::<Option<_>>()?)
        }
    };
    Some(of)
}

/// Whether two results are the same build.
///
/// # Errors
/// Says what differs.
pub fn compare(source: &str, replayed: &BuildResult, ran: &BuildResult) -> Result<(), Error> {
    let shape = |of: &BuildResult| -> Vec<(Option<String>, Option<String>)> {
        let refs = of.refs.iter();
        refs.map(|(key, r)| (key.map(str::to_owned), r.def.as_ref().and_then(canonical)))
            .collect()
    };
    let what = if shape(replayed) != shape(ran) {
        "its LLB"
    } else if replayed.metadata != ran.metadata {
        "its metadata"
    } else {
        return Ok(());
    };
    Err(Error::unknown(format!(
        "frontend {source} is not deterministic: {what} differs from what it returned for the same inputs before"
    ))
    .with_help(format!(
        "Its answers must not be replayed: give its image the label {LABEL_DETERMINISTIC}=false."
    )))
}

/// The line that users see in place of the frontend's own steps.
pub fn note(job: &Job, source: &str, gateway: &Arc<impl Gateway + ?Sized>) {
    let now = time::OffsetDateTime::now_utc();
    let unique = Arc::as_ptr(gateway).cast::<()>() as usize;
    job.progress().vertex(gateway_api::progress::Vertex {
        digest: digest_of(format!("replay {source} {unique}").as_bytes()),
        name: format!("[frontend] {source}: nothing changed for it, its answers are replayed"),
        started: Some(now),
        completed: Some(now),
        cached: true,
        ..Default::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(labels: &[(&str, &str)]) -> RunConfig {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        RunConfig {
            labels: labels.collect(),
            ..RunConfig::default()
        }
    }

    #[test]
    fn what_differs_from_before_is_named() {
        let one = BuildResult::default();
        let mut other = BuildResult::default();
        assert!(compare("f", &one, &other).is_ok());
        other.metadata.insert("k".into(), vec![1]);
        let error = compare("f", &one, &other).unwrap_err();
        assert!(
            error
                .message
                .contains("frontend f is not deterministic: its metadata")
        );
        other.refs = Refs::Single(Ref::scratch());
        let error = compare("f", &one, &other).unwrap_err();
        assert!(
            error.message.contains("its LLB differs"),
            "{}",
            error.message
        );
    }

    #[test]
    fn only_images_known_to_be_functions_and_without_network_are_replayed() {
        let plain = config(&[]);
        assert!(is_replayable("docker/dockerfile:1", &plain, true));
        assert!(is_replayable(
            "docker.io/docker/dockerfile-upstream",
            &plain,
            true
        ));
        assert!(!is_replayable("docker/dockerfile:1", &plain, false));
        for other in [
            "me/dockerfile",
            "example.com/docker/dockerfile:1",
            "docker/other",
        ] {
            assert!(!is_replayable(other, &plain, true), "{other}");
            let labelled = config(&[(LABEL_DETERMINISTIC, "true")]);
            assert!(is_replayable(other, &labelled, true), "{other}");
        }
        let never = config(&[(LABEL_DETERMINISTIC, "false")]);
        assert!(!is_replayable("docker/dockerfile:1", &never, true));
    }
}
