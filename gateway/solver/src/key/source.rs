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
    /// Only stats, and the content of what matches these.
    pub metadata: bool,
    pub metadata_exceptions: Vec<String>,
}

/// The key of a local source: never the same in another session.
pub fn local_key(name: &str, session: &str, filter: &LocalFilter) -> String {
    let json = Object::new()
        .text_always("SessionID", session)
        .raw("IncludePatterns", &texts_or_null(&filter.include))
        .raw("ExcludePatterns", &texts_or_null(&filter.exclude))
        .raw("FollowPaths", &texts_or_null(&filter.follow))
        .flag("MetadataTransfer", filter.metadata)
        .texts("MetadataExceptions", &filter.metadata_exceptions)
        .done();
    format!("session:{name}:{}", digest_of(json.as_bytes()))
}

/// What makes two downloads the same file. The URL is no part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpKey<'a> {
    pub filename: &'a str,
    pub perm: i64,
    pub uid: i64,
    pub gid: i64,
    pub checksum: &'a str,
    /// In the form of HTTP's own dates.
    pub last_modified: Option<&'a str>,
    pub auth_header_secret: &'a str,
    /// Sorted by name.
    pub headers: &'a [(String, String)],
}

/// The key of a downloaded file.
pub fn http_key(key: &HttpKey<'_>) -> String {
    let json = Object::new()
        .text_always("Filename", key.filename)
        .raw("Perm", &key.perm.to_string())
        .raw("UID", &key.uid.to_string())
        .raw("GID", &key.gid.to_string())
        .text_always("Checksum", key.checksum)
        .text("LastModTime", key.last_modified.unwrap_or_default())
        .text("AuthHeaderSecret", key.auth_header_secret)
        .list("Header", key.headers, |(name, value)| {
            Object::new()
                .text_always("Name", name)
                .text_always("Value", value)
                .done()
        })
        .done();
    digest_of(json.as_bytes())
}

/// What makes two blobs the same file. Where they are is no part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlobKey<'a> {
    pub digest: &'a str,
    pub filename: &'a str,
    pub perm: i64,
    pub uid: i64,
    pub gid: i64,
}

/// The key of a blob as a file.
pub fn blob_key(key: &BlobKey<'_>) -> String {
    let json = Object::new()
        .text_always("Digest", key.digest)
        .text_always("Filename", key.filename)
        .raw("Perm", &key.perm.to_string())
        .raw("UID", &key.uid.to_string())
        .raw("GID", &key.gid.to_string())
        .done();
    digest_of(json.as_bytes())
}

/// What of a commit is checked out, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitKey<'a> {
    pub commit: &'a str,
    pub keep_git_dir: bool,
    /// The full name of the ref; counts only when `.git` is kept.
    pub reference: &'a str,
    pub subdir: &'a str,
    pub skip_submodules: bool,
    pub mtime: &'a str,
    /// The commit becomes a bundle.
    pub bundle: bool,
}

/// The key of a checkout: a text, not a digest.
pub fn git_key(key: &GitKey<'_>) -> String {
    let mut text = key.commit.to_owned();
    if key.keep_git_dir {
        text.push_str(".git");
        if !key.reference.is_empty() {
            text.push('#');
            text.push_str(key.reference);
        }
    }
    if !key.subdir.is_empty() {
        text.push(':');
        text.push_str(key.subdir);
    }
    if key.skip_submodules {
        text.push_str("(skip-submodules)");
    }
    if !matches!(key.mtime, "" | "checkout") {
        text.push_str(&format!("(mtime={})", key.mtime));
    }
    if key.bundle {
        text.push_str("(bundle)");
    }
    text
}
