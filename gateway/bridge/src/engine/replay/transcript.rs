//! What a frontend asked and returned, as it is stored. Of what it was told there are digests only.

use std::collections::{BTreeMap, HashMap, HashSet};

use gateway_api::Error;
use gateway_images::digest::Digest;
use gateway_llb::{digest_of, pb};
use prost::Message;

/// One frontend call.
#[derive(Clone, PartialEq, Message)]
pub struct Transcript {
    /// The session that its definitions name.
    #[prost(string, tag = "1")]
    pub session: String,
    #[prost(message, repeated, tag = "2")]
    pub calls: Vec<Asked>,
    /// The message `Result`, with the ids of the recorded refs.
    #[prost(bytes = "vec", tag = "3")]
    pub result: Vec<u8>,
}

/// One request and what its answer hashes to.
#[derive(Clone, PartialEq, Message)]
pub struct Asked {
    #[prost(enumeration = "Kind", tag = "1")]
    pub kind: i32,
    /// The message that a frontend in a container sends.
    #[prost(bytes = "vec", tag = "2")]
    pub request: Vec<u8>,
    #[prost(string, tag = "3")]
    pub answer: String,
    /// Ids of the refs in the answer, in its order.
    #[prost(string, repeated, tag = "4")]
    pub refs: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    Unknown = 0,
    Solve = 1,
    ImageConfig = 2,
    SourceMeta = 3,
    ReadFile = 4,
    ReadDir = 5,
    StatFile = 6,
    Evaluate = 7,
    Warn = 8,
}

/// What an answer hashes to: its bytes, or the error in its place.
pub fn answer_digest(answer: Result<Vec<u8>, &Error>) -> String {
    match answer {
        Ok(bytes) => Digest::of(&bytes).to_string(),
        Err(error) => {
            let Error {
                code,
                message,
                details,
            } = error;
            digest_of(format!("{code:?} {message} {details:?}").as_bytes())
        }
    }
}

/// The length of `sha256:` and its hex digits.
const DIGEST_LEN: usize = 71;

/// Texts that stand for others of the same length. Lengths stay, so messages can be changed without
/// being understood: nothing in them is lost.
#[derive(Default)]
pub struct Renames {
    texts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of ops, which change with what they hold.
    digests: HashMap<Vec<u8>, Vec<u8>>,
}

impl Renames {
    /// `None` when the lengths differ.
    pub fn of(old: &str, new: &str) -> Option<Renames> {
        let mut renames = Renames::default();
        renames.add(old, new).then_some(renames)
    }

    fn add(&mut self, old: &str, new: &str) -> bool {
        if old.len() != new.len() || old.is_empty() {
            return false;
        }
        if old != new {
            self.texts.push((old.into(), new.into()));
        }
        true
    }

    /// The bytes with all texts and digests replaced.
    pub fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for (old, new) in &self.texts {
            let mut at = 0;
            while let Some(found) = out.get(at..).and_then(|rest| find(rest, old)) {
                let start = at + found;
                if let Some(slot) = out.get_mut(start..start + new.len()) {
                    slot.copy_from_slice(new);
                }
                at = start + new.len();
            }
        }
        let mut at = 0;
        while let Some(found) = out.get(at..).and_then(|rest| find(rest, b"sha256:")) {
            let start = at + found;
            at = start + 1;
            if let Some(slot) = out.get_mut(start..start + DIGEST_LEN)
                && let Some(new) = self.digests.get(&*slot)
            {
                slot.copy_from_slice(new);
            }
        }
        out
    }

    fn text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.bytes(text.as_bytes())).into_owned()
    }

    /// The definition with all replaced and its digests made anew. `None` where an op comes before
    /// its inputs: nobody writes that.
    pub fn definition(&mut self, mut definition: pb::Definition) -> Option<pb::Definition> {
        let mut left: HashSet<String> = definition.def.iter().map(|op| digest_of(op)).collect();
        for op in &mut definition.def {
            let old = digest_of(op);
            let read = pb::Op::decode(&op[..]).ok()?;
            if read.inputs.iter().any(|input| left.contains(&input.digest)) {
                return None;
            }
            *op = self.bytes(op);
            left.remove(&old);
            let new = digest_of(op);
            if old != new {
                self.digests.insert(old.into(), new.into());
            }
        }
        let metadata = std::mem::take(&mut definition.metadata);
        definition.metadata = metadata
            .into_iter()
            .map(|(digest, metadata)| (self.text(&digest), metadata))
            .collect();
        if let Some(source) = &mut definition.source {
            let locations = std::mem::take(&mut source.locations);
            source.locations = locations
                .into_iter()
                .map(|(digest, locations)| (self.text(&digest), locations))
                .collect();
            for info in &mut source.infos {
                if let Some(inner) = info.definition.take() {
                    info.definition = Some(self.definition(inner)?);
                }
            }
        }
        Some(definition)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// The ops of a definition without what a client makes up anew each time.
pub fn canonical(definition: &pb::Definition) -> Option<String> {
    let mut made_up: BTreeMap<String, String> = BTreeMap::new();
    for op in &definition.def {
        if let Some(pb::op::Op::Source(source)) = pb::Op::decode(&op[..]).ok()?.op {
            for name in ["local.unique", "local.session"] {
                if let Some(value) = source.attrs.get(name).filter(|value| !value.is_empty()) {
                    made_up.insert(value.clone(), "0".repeat(value.len()));
                }
            }
        }
    }
    let mut renames = Renames::default();
    for (old, new) in &made_up {
        renames.add(old, new);
    }
    let definition = renames.definition(definition.clone())?;
    definition.def.last().map(|op| digest_of(op))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_llb::{Constraints, LocalSource, MarshalOptions};

    fn definition(session: &str, unique: &str) -> pb::Definition {
        let source = LocalSource {
            session: session.to_owned(),
            ..LocalSource::new("context")
        };
        let state = source.state(Constraints::new());
        let options = MarshalOptions {
            local_unique_id: unique.to_owned(),
            ..MarshalOptions::default()
        };
        state.marshal(&options).unwrap()
    }

    #[test]
    fn another_session_gives_the_definition_that_a_frontend_would_make_for_it() {
        let (old, new) = (definition("one", "u"), definition("two", "u"));
        assert_ne!(old, new);
        let mut renames = Renames::of("one", "two").unwrap();
        assert_eq!(renames.definition(old.clone()), Some(new));
        assert!(Renames::of("one", "other").is_none());
        let wrong = pb::Definition {
            def: old.def.iter().rev().cloned().collect(),
            ..old
        };
        assert_eq!(renames.definition(wrong), None);
    }

    #[test]
    fn what_is_made_up_each_time_makes_no_difference() {
        let one = canonical(&definition("one", "first"));
        assert!(one.is_some());
        assert_eq!(one, canonical(&definition("two", "other")));
    }
}
