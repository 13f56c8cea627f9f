//! What a frontend returns, and what a solve gives back: refs, metadata, attestations.

use std::collections::BTreeMap;

use gateway_llb::pb;

/// A handle to a (lazy) result: opaque, valid for one frontend call until that call ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Ref {
    /// Empty for scratch.
    pub id: String,
    /// The definition it came from, so that it can be an input of new LLB; absent from old hosts.
    pub def: Option<pb::Definition>,
}

impl Ref {
    pub fn new(id: impl Into<String>, def: Option<pb::Definition>) -> Self {
        Ref { id: id.into(), def }
    }

    pub fn scratch() -> Self {
        Ref {
            id: String::new(),
            def: None,
        }
    }

    pub fn is_scratch(&self) -> bool {
        self.id.is_empty()
    }
}

/// The file systems of a result.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Refs {
    /// Nothing at all (metadata only).
    #[default]
    None,
    Single(Ref),
    /// By platform id, as listed in the metadata `refs.platforms`.
    Map(BTreeMap<String, Ref>),
}

impl Refs {
    pub fn iter(&self) -> impl Iterator<Item = (Option<&str>, &Ref)> {
        let (single, map) = match self {
            Refs::None => (None, None),
            Refs::Single(reference) => (Some(reference), None),
            Refs::Map(map) => (None, Some(map)),
        };
        single.into_iter().map(|reference| (None, reference)).chain(
            map.into_iter()
                .flatten()
                .map(|(key, reference)| (Some(key.as_str()), reference)),
        )
    }
}

/// The result of a frontend, or of a nested solve.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BuildResult {
    pub refs: Refs,
    /// `containerimage.config`, `refs.platforms` and others; unknown keys are kept.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// By platform id, as in `refs`.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
}

/// Keys of result metadata that more than one room names.
pub mod metadata {
    pub const IMAGE_CONFIG: &str = "containerimage.config";
    pub const BASE_IMAGE_CONFIG: &str = "containerimage.base.config";
    pub const PLATFORMS: &str = "refs.platforms";
    pub const SOURCE_DATE_EPOCH: &str = "source.date.epoch";
    pub const IMAGE_NAME: &str = "image.name";
}

#[derive(Debug, Clone, PartialEq)]
pub struct Attestation {
    /// InToto = 0, Bundle = 1.
    pub kind: i32,
    pub metadata: BTreeMap<String, Vec<u8>>,
    pub reference: Option<Ref>,
    pub path: String,
    pub in_toto_predicate_type: String,
    pub in_toto_subjects: Vec<InTotoSubject>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct InTotoSubject {
    /// Self = 0, Raw = 1.
    pub kind: i32,
    pub digest: Vec<String>,
    pub name: String,
}
