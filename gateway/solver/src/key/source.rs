//! Cache keys of sources.

use gateway_llb::pb;

use super::digest_of;
use super::go_json::{Object, texts_or_null};

/// The op digest of a source with the key `key`; keys of a session stay out of other builds.
pub fn source_digest(key: &str) -> String {
    let digest = digest_of(format!("buildkit.source.v0:{key}").as_bytes());
    if key.starts_with("session:") {
        digest.replacen("sha256:", "random:", 1)
    } else {
        digest
    }
}

/// The first key of an image: what its reference resolved to, for a platform.
pub fn image_key(manifest: &str, platform: &pb::Platform, limit: Option<i64>) -> String {
    let json = Object::new()
        .text_always("Digest", manifest)
        .text_always("OS", &platform.os)
        .text_always("Arch", &platform.architecture)
        .text("Variant", &platform.variant)
        .text("OSVersion", &platform.os_version)
        .texts("OSFeatures", &platform.os_features)
        .int("Limit", limit.unwrap_or_default())
        .done();
    digest_of(json.as_bytes())
}

/// The second key of an image: its layers. `None` without layers.
pub fn chain_id(diff_ids: &[String]) -> Option<String> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(first.clone(), |chain, diff_id| {
        digest_of(format!("{chain} {diff_id}").as_bytes())
    }))
}

/// What selects the files of a local source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalFilter {
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub follow: Vec<String>,
}

/// The key of a local source: never the same in another session.
pub fn local_key(name: &str, session: &str, filter: &LocalFilter) -> String {
    let json = Object::new()
        .text_always("SessionID", session)
        .raw("IncludePatterns", &texts_or_null(&filter.include))
        .raw("ExcludePatterns", &texts_or_null(&filter.exclude))
        .raw("FollowPaths", &texts_or_null(&filter.follow))
        .done();
    format!("session:{name}:{}", digest_of(json.as_bytes()))
}
