//! Sources: where file systems come from.

use std::collections::BTreeMap;

use crate::state::{Vertex, VertexOp};
use crate::{Constraints, GitRemote, State, caps, pb};

#[derive(Debug)]
pub(crate) struct SourceSpec {
    pub identifier: String,
    pub attrs: BTreeMap<String, String>,
}

impl SourceSpec {
    pub fn platform_specific(&self) -> bool {
        self.identifier.starts_with("docker-image://")
            || self.identifier.starts_with("oci-layout://")
    }

    pub fn to_op(&self) -> pb::SourceOp {
        pb::SourceOp {
            identifier: self.identifier.clone(),
            attrs: self.attrs.clone(),
        }
    }
}

fn state(
    identifier: String,
    attrs: Vec<(&str, String)>,
    caps: &[&str],
    mut constraints: Constraints,
) -> State {
    for cap in caps {
        constraints = constraints.cap(cap);
    }
    State::of(Vertex {
        op: VertexOp::Source(SourceSpec {
            identifier,
            attrs: attrs
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        }),
        constraints,
    })
}

fn json_list(values: &[String]) -> String {
    // A list of strings cannot fail to encode; `<`, `>` and `&` are escaped as the reference
    // client does, since the text enters the digest.
    serde_json::to_string(values)
        .unwrap_or_default()
        .replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// When an image is asked of its registry again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResolveMode {
    /// Registry first, local copy as fallback.
    #[default]
    Default,
    /// Always the registry.
    ForcePull,
    /// The local copy where there is one.
    PreferLocal,
}

impl ResolveMode {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::ForcePull => "pull",
            Self::PreferLocal => "local",
        }
    }
}

/// An image of a registry.
#[derive(Clone, Debug, Default)]
pub struct ImageSource {
    /// Full reference with a tag or digest.
    pub reference: String,
    /// When the registry is asked.
    pub resolve_mode: ResolveMode,
    /// `internal` or `frontend` for images that are not of the user's build.
    pub record_type: Option<String>,
    /// Only the first layers.
    pub layer_limit: Option<u32>,
    /// The digest that it must have.
    pub checksum: Option<String>,
}

impl ImageSource {
    /// An image by its full reference.
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            ..Self::default()
        }
    }

    /// The image's file system.
    pub fn state(self, constraints: Constraints) -> State {
        let mut attrs = Vec::new();
        let mut needed = vec![caps::SOURCE_IMAGE];
        if self.resolve_mode != ResolveMode::Default {
            attrs.push(("image.resolvemode", self.resolve_mode.as_str().to_owned()));
        }
        if self.resolve_mode == ResolveMode::ForcePull {
            needed.push(caps::SOURCE_IMAGE_RESOLVE_MODE);
        }
        if let Some(kind) = self.record_type {
            attrs.push(("image.recordtype", kind));
        }
        if let Some(limit) = self.layer_limit {
            attrs.push(("image.layerlimit", limit.to_string()));
            needed.push(caps::SOURCE_IMAGE_LAYER_LIMIT);
        }
        if let Some(checksum) = self.checksum {
            attrs.push(("image.checksum", checksum));
            needed.push(caps::SOURCE_IMAGE_CHECKSUM);
        }
        let identifier = format!("docker-image://{}", self.reference);
        state(identifier, attrs, &needed, constraints)
    }
}

/// An image of an OCI layout on the client's side.
#[derive(Clone, Debug, Default)]
pub struct OciLayoutSource {
    /// Name and digest.
    pub reference: String,
    /// Session that has the store.
    pub session: String,
    /// The store's name.
    pub store: String,
    /// Only the first layers.
    pub layer_limit: Option<u32>,
}

impl OciLayoutSource {
    /// The image's file system.
    pub fn state(self, constraints: Constraints) -> State {
        let mut attrs = Vec::new();
        if !self.session.is_empty() {
            attrs.push(("oci.session", self.session));
        }
        if !self.store.is_empty() {
            attrs.push(("oci.store", self.store));
        }
        if let Some(limit) = self.layer_limit {
            attrs.push(("oci.layerlimit", limit.to_string()));
        }
        let identifier = format!("oci-layout://{}", self.reference);
        state(identifier, attrs, &[caps::SOURCE_OCI_LAYOUT], constraints)
    }
}

/// A folder on the client's side.
#[derive(Clone, Debug, Default)]
pub struct LocalSource {
    /// Its name in the session.
    pub name: String,
    /// Session that has it. Without one the vertex is unique to its build.
    pub session: String,
    /// Only matching paths are sent.
    pub include_patterns: Vec<String>,
    /// Matching paths are not sent.
    pub exclude_patterns: Vec<String>,
    /// Only these paths are sent, and what they link to.
    pub follow_paths: Vec<String>,
    /// What tells snapshots of equal names apart.
    pub shared_key_hint: String,
    /// Send all again instead of comparing times and sizes.
    pub differ_none: bool,
}

impl LocalSource {
    /// A folder of the session by its name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// The folder's files.
    pub fn state(self, constraints: Constraints) -> State {
        let mut attrs = Vec::new();
        let mut needed = vec![caps::SOURCE_LOCAL];
        if !self.session.is_empty() {
            attrs.push(("local.session", self.session));
            needed.push(caps::SOURCE_LOCAL_SESSION_ID);
        }
        for (attr, cap, list) in [
            (
                "local.includepattern",
                caps::SOURCE_LOCAL_INCLUDE_PATTERNS,
                &self.include_patterns,
            ),
            (
                "local.excludepatterns",
                caps::SOURCE_LOCAL_EXCLUDE_PATTERNS,
                &self.exclude_patterns,
            ),
            (
                "local.followpaths",
                caps::SOURCE_LOCAL_FOLLOW_PATHS,
                &self.follow_paths,
            ),
        ] {
            if !list.is_empty() {
                attrs.push((attr, json_list(list)));
                needed.push(cap);
            }
        }
        if !self.shared_key_hint.is_empty() {
            attrs.push(("local.sharedkeyhint", self.shared_key_hint));
            needed.push(caps::SOURCE_LOCAL_SHARED_KEY_HINT);
        }
        if self.differ_none {
            // Not asked for as a capability: a builder without it may compare.
            attrs.push(("local.differ", "none".to_owned()));
        }
        let identifier = format!("local://{}", self.name);
        state(identifier, attrs, &needed, constraints)
    }
}

/// A file of the web.
#[derive(Clone, Debug, Default)]
pub struct HttpSource {
    /// Where it is.
    pub url: String,
    /// Its name in the state.
    pub filename: String,
    /// The digest that it must have.
    pub checksum: String,
    /// Permission bits; 0 for the default.
    pub perm: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Secret with the authorization header.
    pub auth_header_secret: String,
}

impl HttpSource {
    /// The file, alone in its file system.
    pub fn state(self, constraints: Constraints) -> State {
        let mut attrs = Vec::new();
        let mut needed = vec![caps::SOURCE_HTTP];
        if !self.checksum.is_empty() {
            attrs.push(("http.checksum", self.checksum));
            needed.push(caps::SOURCE_HTTP_CHECKSUM);
        }
        if !self.filename.is_empty() {
            attrs.push(("http.filename", self.filename));
        }
        if self.perm != 0 {
            attrs.push(("http.perm", format!("0{:o}", self.perm)));
            needed.push(caps::SOURCE_HTTP_PERM);
        }
        for (attr, id) in [("http.uid", self.uid), ("http.gid", self.gid)] {
            if id != 0 {
                attrs.push((attr, id.to_string()));
                needed.push(caps::SOURCE_HTTP_UID_GID);
            }
        }
        if !self.auth_header_secret.is_empty() {
            attrs.push(("http.authheadersecret", self.auth_header_secret));
            needed.push(caps::SOURCE_HTTP_AUTH);
        }
        state(self.url, attrs, &needed, constraints)
    }
}

/// A git repository at one commit.
#[derive(Clone, Debug, Default)]
pub struct GitSource {
    /// The repository, in any form that git takes.
    pub remote: String,
    /// Branch, tag or commit; empty for the default branch.
    pub reference: String,
    /// Only this folder.
    pub subdir: String,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// The commit that it must be.
    pub checksum: String,
    /// Leave submodules out.
    pub skip_submodules: bool,
    /// `checkout` or `commit`: which time files get. Empty for the default.
    pub mtime: String,
    /// Fetch only the commit.
    pub fetch_by_commit: bool,
    /// For ssh: the host keys to trust.
    pub known_ssh_hosts: String,
    /// For ssh: the agent to use; empty for the default one.
    pub ssh_id: String,
}

impl GitSource {
    /// The checked out files.
    pub fn state(self, constraints: Constraints) -> State {
        let remote = GitRemote::parse(&self.remote)
            .or_else(|_| GitRemote::parse(&format!("https://{}", self.remote)));
        let mut attrs = Vec::new();
        let mut needed = vec![caps::SOURCE_GIT];
        let mut identifier = match &remote {
            Ok(remote) => remote.id(),
            Err(_) => self.remote.clone(),
        };
        if remote.is_ok() && !(self.reference.is_empty() && self.subdir.is_empty()) {
            identifier.push('#');
            identifier.push_str(&self.reference);
            if !self.subdir.is_empty() {
                identifier.push(':');
                identifier.push_str(&self.subdir);
            }
        }
        if self.keep_git_dir {
            attrs.push(("git.keepgitdir", "true".to_owned()));
            needed.push(caps::SOURCE_GIT_KEEP_GIT_DIR);
        }
        let full_url = remote
            .as_ref()
            .map_or_else(|_| self.remote.clone(), |remote| remote.url.clone());
        if !full_url.is_empty() {
            attrs.push(("git.fullurl", full_url));
            needed.push(caps::SOURCE_GIT_FULL_URL);
        }
        attrs.push(("git.authtokensecret", "GIT_AUTH_TOKEN".to_owned()));
        attrs.push(("git.authheadersecret", "GIT_AUTH_HEADER".to_owned()));
        if remote.as_ref().is_ok_and(|remote| remote.ssh) {
            if !self.known_ssh_hosts.is_empty() {
                attrs.push(("git.knownsshhosts", self.known_ssh_hosts));
            }
            needed.push(caps::SOURCE_GIT_KNOWN_SSH_HOSTS);
            let id = if self.ssh_id.is_empty() {
                "default".to_owned()
            } else {
                self.ssh_id
            };
            attrs.push(("git.mountsshsock", id));
            needed.push(caps::SOURCE_GIT_MOUNT_SSH_SOCK);
        }
        if !self.checksum.is_empty() {
            attrs.push(("git.checksum", self.checksum));
            needed.push(caps::SOURCE_GIT_CHECKSUM);
        }
        if self.skip_submodules {
            attrs.push(("git.skipsubmodules", "true".to_owned()));
            needed.push(caps::SOURCE_GIT_SKIP_SUBMODULES);
        }
        if !self.mtime.is_empty() {
            attrs.push(("git.mtime", self.mtime));
            needed.push(caps::SOURCE_GIT_MTIME);
        }
        if self.fetch_by_commit {
            attrs.push(("git.fetchbycommit", "true".to_owned()));
            needed.push(caps::SOURCE_GIT_FETCH_BY_COMMIT);
        }
        state(format!("git://{identifier}"), attrs, &needed, constraints)
    }
}
