//! The calls of the bridge as values. Field meanings are those of the LLBBridge messages.

use std::collections::BTreeMap;

use gateway_llb::pb;

/// Solve a definition, or run another frontend; not both. Neither: an empty (scratch) result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SolveRequest {
    /// Lazy: read on first use of the ref, unless `evaluate`.
    pub definition: Option<pb::Definition>,
    /// `dockerfile.v0` or `gateway.v0`; empty for none. Runs at once.
    pub frontend: String,
    pub frontend_opts: BTreeMap<String, String>,
    pub frontend_inputs: BTreeMap<String, pb::Definition>,
    pub cache_imports: Vec<CacheImport>,
    pub evaluate: bool,
    /// Raw JSON-free policies (protobuf bytes of the policy message), kept as received.
    pub source_policies: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheImport {
    pub kind: String,
    pub attrs: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResolveImageConfigRequest {
    /// Without a scheme; needs a tag or digest.
    pub reference: String,
    pub platform: Option<pb::Platform>,
    /// `default`, `pull`, `local` or empty.
    pub resolve_mode: String,
    /// Name of the progress vertex; empty for `resolve image config for ...`.
    pub log_name: String,
    /// 0 registry, 1 OCI layout; others count as the registry.
    pub resolver_type: i32,
    pub session_id: String,
    pub store_id: String,
    pub source_policies: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageConfig {
    /// Digest of the top manifest or index, as referenced.
    pub digest: String,
    /// Raw config JSON of the chosen platform.
    pub config: Vec<u8>,
    /// Normalised, without digest unless one was given.
    pub reference: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResolveSourceMetaRequest {
    pub source: pb::SourceOp,
    pub platform: Option<pb::Platform>,
    pub log_name: String,
    pub resolve_mode: String,
    pub git_return_object: bool,
    pub image: Option<ImageMetaRequest>,
    pub http_checksum: Option<HttpChecksumRequest>,
    pub source_policies: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageMetaRequest {
    pub no_config: bool,
    pub attestation_chain: bool,
    pub resolve_attestations: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpChecksumRequest {
    pub algorithm: i32,
    pub suffix: Vec<u8>,
}

/// What is known of a source. `source` is after policy and normalised: use that one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceMeta {
    pub source: pb::SourceOp,
    pub image: Option<ImageMeta>,
    pub git: Option<GitMeta>,
    pub http: Option<HttpMeta>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageMeta {
    pub digest: String,
    pub config: Vec<u8>,
    /// If it was asked for and the image has an index.
    pub attestation_chain: Option<AttestationChain>,
}

/// What vouches for an image: from its index to the signature of its attestations. Digests are
/// empty for what is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttestationChain {
    /// The index.
    pub root: String,
    /// That of the platform.
    pub image_manifest: String,
    pub attestation_manifest: String,
    pub signature_manifests: Vec<String>,
    /// By digest: the index, the manifests of attestations and signatures with the signatures
    /// themselves, and the attestations of the types that were asked for.
    pub blobs: BTreeMap<String, AttestationBlob>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttestationBlob {
    pub media_type: String,
    pub annotations: BTreeMap<String, String>,
    pub data: Vec<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitMeta {
    pub checksum: String,
    pub reference: String,
    pub commit_checksum: String,
    pub commit_object: Vec<u8>,
    pub tag_object: Vec<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpMeta {
    pub checksum: String,
    pub filename: String,
    /// Seconds since the epoch.
    pub last_modified: Option<i64>,
    pub checksum_response: Option<(String, Vec<u8>)>,
}

/// A part of a file, in bytes. Length 0 is an empty part, not "to the end".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRange {
    pub offset: i64,
    pub length: i64,
}

/// What a file is, with Go's file mode bits (directory 0x8000_0000, symbolic link 0x0800_0000).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stat {
    pub path: String,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: i64,
    /// Nanoseconds since the epoch.
    pub mod_time: i64,
    pub linkname: String,
    pub devmajor: i64,
    pub devminor: i64,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Stat {
    pub const MODE_DIR: u32 = 1 << 31;
    pub const MODE_SYMLINK: u32 = 1 << 27;
    /// All bits that say what a file is: none of them for a regular one.
    pub const MODE_TYPE: u32 = 0x8f28_0000;

    pub fn is_dir(&self) -> bool {
        self.mode & Self::MODE_DIR != 0
    }
}

/// A lint or other warning of a frontend.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Warning {
    /// Vertex it belongs to; may be empty.
    pub digest: String,
    /// 0 counts as 1.
    pub level: i64,
    pub short: Vec<u8>,
    pub detail: Vec<Vec<u8>>,
    pub url: String,
    pub info: Option<pb::SourceInfo>,
    pub ranges: Vec<pb::Range>,
}
