//! A gateway that writes down what a frontend asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gateway_api::{
    BuildResult, Container, ContainerRequest, Error, FileRange, Gateway, ImageConfig, Invocation,
    Ref, ResolveImageConfigRequest, ResolveSourceMetaRequest, SolveRequest, SourceMeta, Stat,
    Warning,
};
use gateway_llb::pb;
use gateway_proto::convert::{files, request, result, source};
use gateway_proto::frontend;
use prost::Message;

use super::transcript::{Asked, Kind, Transcript, answer_digest};

/// Larger conversations are not kept: they cost more to compare than to have again.
const MAX_BYTES: usize = 4 << 20;

/// One frontend call's gateway, recorded.
pub struct Recorder {
    gateway: Arc<dyn Gateway>,
    /// With the bytes of all that was asked; `None` once something was asked that cannot be asked again.
    calls: Mutex<Option<(Vec<Asked>, usize)>>,
}

impl Recorder {
    pub fn new(gateway: Arc<dyn Gateway>) -> Self {
        Recorder {
            gateway,
            calls: Mutex::new(Some((Vec::new(), 0))),
        }
    }

    /// The conversation with what came of it; `None` for one that cannot be replayed.
    pub fn transcript(&self, returned: &BuildResult) -> Option<Transcript> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let (calls, _) = calls.clone()?;
        let known = |id: &str| calls.iter().any(|call| call.refs.iter().any(|r| r == id));
        let refs = returned.refs.iter();
        let all_known = refs
            .into_iter()
            .all(|(_, r)| r.is_scratch() || known(&r.id));
        if !all_known || !returned.attestations.is_empty() {
            return None;
        }
        let without_definitions = super::map_refs(returned.clone(), |reference| {
            Some(Ref::new(reference.id, None))
        })?;
        let transcript = Transcript {
            session: self.gateway.invocation().session_id.clone(),
            calls,
            result: result::to_wire(without_definitions, true).encode_to_vec(),
        };
        (transcript.encoded_len() <= MAX_BYTES).then_some(transcript)
    }

    fn note(&self, kind: Kind, request: Vec<u8>, answer: String, refs: Vec<String>) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((asked, bytes)) = calls.as_mut() else {
            return;
        };
        *bytes += request.len();
        if *bytes > MAX_BYTES {
            *calls = None;
            return;
        }
        asked.push(Asked {
            kind: kind.into(),
            request,
            answer,
            refs,
        });
    }

    fn give_up(&self) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls = None;
    }
}

/// Whether an address in it holds a user's password: such a thing is stored nowhere.
fn tells_a_password(definition: Option<&pb::Definition>) -> bool {
    let ops = definition.map_or(&[][..], |definition| &definition.def);
    let sources = ops.iter().filter_map(|op| match pb::Op::decode(&op[..]) {
        Ok(pb::Op {
            op: Some(pb::op::Op::Source(source)),
            ..
        }) => Some(source),
        _ => None,
    });
    sources.into_iter().any(|source| {
        let texts = [&source.identifier]
            .into_iter()
            .chain(source.attrs.values());
        texts.into_iter().any(|text| has_password(text))
    })
}

/// `scheme://user:password@host`, or a user of the web without one: some tokens are written so.
fn has_password(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) => user.contains(':') || matches!(scheme, "http" | "https"),
        // A source that is a URL in front of a URL.
        None => has_password(rest),
    }
}

/// What of a solve's answer a frontend can decide by. The definition comes back with a result; of
/// interest is only whether it is the one that was asked for.
pub fn solved_bytes(solved: &BuildResult, asked: Option<&pb::Definition>) -> Vec<u8> {
    let refs = solved.refs.iter();
    let refs = refs.map(|(key, r)| (key, r.is_scratch(), r.def.as_ref() == asked));
    let refs: Vec<_> = refs.collect();
    format!("{refs:?}{:?}", solved.metadata).into_bytes()
}

pub fn image_config_bytes(config: &ImageConfig) -> Vec<u8> {
    source::image_config_to_wire(config.clone()).encode_to_vec()
}

pub fn source_meta_bytes(meta: &SourceMeta) -> Vec<u8> {
    source::meta_to_wire(meta.clone()).encode_to_vec()
}

pub fn read_dir_bytes(entries: &[Stat]) -> Vec<u8> {
    let entries = entries.iter().cloned().map(files::stat_to_wire).collect();
    frontend::ReadDirResponse { entries }.encode_to_vec()
}

pub fn stat_bytes(stat: &Stat) -> Vec<u8> {
    files::stat_to_wire(stat.clone()).encode_to_vec()
}

#[async_trait]
impl Gateway for Recorder {
    fn invocation(&self) -> &Invocation {
        self.gateway.invocation()
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, Error> {
        let inputs = self.gateway.inputs().await?;
        if !inputs.is_empty() {
            self.give_up();
        }
        Ok(inputs)
    }

    async fn solve(&self, request: SolveRequest) -> Result<BuildResult, Error> {
        if !request.frontend.is_empty() || !request.frontend_inputs.is_empty() {
            self.give_up();
        }
        if tells_a_password(request.definition.as_ref()) {
            self.give_up();
        }
        let definition = request.definition.clone();
        let asked = request::solve_to_wire(request.clone()).encode_to_vec();
        let answer = self.gateway.solve(request).await;
        let bytes = |solved| solved_bytes(solved, definition.as_ref());
        let digest = answer_digest(answer.as_ref().map(bytes));
        let refs = match &answer {
            Ok(solved) => solved.refs.iter().map(|(_, r)| r.id.clone()).collect(),
            Err(_) => Vec::new(),
        };
        self.note(Kind::Solve, asked, digest, refs);
        answer
    }

    async fn resolve_image_config(
        &self,
        request: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error> {
        let asked = source::image_request_to_wire(request.clone()).encode_to_vec();
        let answer = self.gateway.resolve_image_config(request).await;
        let digest = answer_digest(answer.as_ref().map(image_config_bytes));
        self.note(Kind::ImageConfig, asked, digest, Vec::new());
        answer
    }

    async fn resolve_source_meta(
        &self,
        request: ResolveSourceMetaRequest,
    ) -> Result<SourceMeta, Error> {
        let asked = source::meta_request_to_wire(request.clone()).encode_to_vec();
        let answer = self.gateway.resolve_source_meta(request).await;
        let digest = answer_digest(answer.as_ref().map(source_meta_bytes));
        self.note(Kind::SourceMeta, asked, digest, Vec::new());
        answer
    }

    async fn read_file(
        &self,
        reference: &Ref,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        let asked = frontend::ReadFileRequest {
            r#ref: reference.id.clone(),
            file_path: path.to_owned(),
            range: range.map(files::range_to_wire),
            ..Default::default()
        };
        let answer = self.gateway.read_file(reference, path, range).await;
        let digest = answer_digest(answer.as_ref().map(|bytes| bytes.to_vec()));
        self.note(Kind::ReadFile, asked.encode_to_vec(), digest, Vec::new());
        answer
    }

    async fn read_dir(
        &self,
        reference: &Ref,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        let asked = frontend::ReadDirRequest {
            r#ref: reference.id.clone(),
            dir_path: path.to_owned(),
            include_pattern: include.unwrap_or_default().to_owned(),
            ..Default::default()
        };
        let answer = self.gateway.read_dir(reference, path, include).await;
        let digest = answer_digest(answer.as_ref().map(|entries| read_dir_bytes(entries)));
        self.note(Kind::ReadDir, asked.encode_to_vec(), digest, Vec::new());
        answer
    }

    async fn stat_file(&self, reference: &Ref, path: &str) -> Result<Stat, Error> {
        let asked = frontend::StatFileRequest {
            r#ref: reference.id.clone(),
            path: path.to_owned(),
            ..Default::default()
        };
        let answer = self.gateway.stat_file(reference, path).await;
        let digest = answer_digest(answer.as_ref().map(stat_bytes));
        self.note(Kind::StatFile, asked.encode_to_vec(), digest, Vec::new());
        answer
    }

    async fn evaluate(&self, reference: &Ref) -> Result<(), Error> {
        let asked = frontend::EvaluateRequest {
            r#ref: reference.id.clone(),
        };
        let answer = self.gateway.evaluate(reference).await;
        let digest = answer_digest(answer.as_ref().map(|()| Vec::new()));
        self.note(Kind::Evaluate, asked.encode_to_vec(), digest, Vec::new());
        answer
    }

    async fn warn(&self, warning: Warning) -> Result<(), Error> {
        let asked = request::warning_to_wire(warning.clone()).encode_to_vec();
        let answer = self.gateway.warn(warning).await;
        let digest = answer_digest(answer.as_ref().map(|()| Vec::new()));
        self.note(Kind::Warn, asked, digest, Vec::new());
        answer
    }

    async fn new_container(&self, request: ContainerRequest) -> Result<Box<dyn Container>, Error> {
        self.give_up();
        self.gateway.new_container(request).await
    }
}

#[cfg(test)]
mod tests {
    use gateway_llb::{Constraints, GitSource, MarshalOptions};

    use super::*;

    #[test]
    fn conversations_about_addresses_with_passwords_are_not_kept() {
        for (url, expected) in [
            ("https://user:secret@example.com/a.git", true),
            ("https://token@example.com/a.git", true),
            ("ssh://git:secret@example.com/a.git", true),
            ("ssh://git@example.com/a.git", false),
            ("https://example.com/a@b:c", false),
            ("https://example.com/a.git", false),
        ] {
            let source = GitSource {
                remote: url.to_owned(),
                ..GitSource::default()
            };
            let state = source.state(Constraints::new());
            let definition = state.marshal(&MarshalOptions::default()).unwrap();
            assert_eq!(tells_a_password(Some(&definition)), expected, "{url}");
        }
        assert!(!tells_a_password(None));
    }
}
