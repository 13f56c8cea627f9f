//! Cache keys: what makes two ops the same work.
//!
//! The digest of an op is the hash of a JSON text in Go's spelling; equal bytes are what lets us
//! use caches that BuildKit wrote, and it ours. Pure functions of messages; the store of keys is
//! in `cache`.

mod exec;
mod file;
pub mod go_json;
mod other;
mod source;
#[cfg(test)]
mod tests;

pub use exec::exec_key;
pub use file::file_key;
pub use other::{build_key, diff_key, merge_key, passthrough_key};
pub use source::{
    BlobKey, GitKey, HttpKey, LocalFilter, blob_key, chain_id, git_key, http_key, image_key,
    local_key, source_digest,
};

pub use gateway_llb::digest_of;

/// The part of a key that the op itself says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpKey {
    pub digest: String,
    /// By input of the op.
    pub deps: Vec<Dep>,
}

impl OpKey {
    /// A key whose inputs count as a whole.
    pub fn plain(digest: String, inputs: usize) -> Self {
        OpKey {
            digest,
            deps: vec![Dep::default(); inputs],
        }
    }
}

/// How an input enters a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dep {
    /// Digest put on links of the input's own keys.
    pub selector: Option<String>,
    /// Which content to hash; an empty list is the whole tree, `None`: content never counts.
    pub content: Option<Vec<Selector>>,
}

/// A part of a tree whose content counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    pub path: String,
    pub wildcard: bool,
    pub follow_links: bool,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub required: Vec<String>,
}

impl Selector {
    pub fn is_filtered(&self) -> bool {
        self.wildcard
            || !self.include.is_empty()
            || !self.exclude.is_empty()
            || !self.required.is_empty()
    }
}

/// The id of a key without inputs: of a source, or of content (output -1).
pub fn root_key(digest: &str, output: i64) -> String {
    let id = digest_of(format!("{digest}@{output}").as_bytes());
    match digest.strip_prefix("random:") {
        // Stays recognisable, so that it is never exported.
        Some(_) => id.replacen("sha256:", "random:", 1),
        None => id,
    }
}

/// The id of a content digest as a key.
pub fn content_key(digest: &str) -> String {
    root_key(digest, -1)
}

fn selector_digest<'a>(paths: impl IntoIterator<Item = &'a str>) -> String {
    let paths: Vec<&str> = paths.into_iter().collect();
    digest_of(paths.join("\0").as_bytes())
}

/// Sorted, once each, without paths below other paths of the list.
fn dedupe_paths(paths: Vec<String>) -> Vec<String> {
    if paths.len() <= 1 {
        return paths;
    }
    let set: std::collections::BTreeSet<String> = paths.into_iter().collect();
    let below = |path: &str, other: &str| {
        path != other
            && path
                .strip_prefix(other)
                .is_some_and(|rest| other.ends_with('/') || rest.starts_with('/'))
    };
    set.iter()
        .filter(|path| !set.iter().any(|other| below(path, other)))
        .cloned()
        .collect()
}
