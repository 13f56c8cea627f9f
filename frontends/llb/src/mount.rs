//! What a command sees besides its root: mounts, secrets, agents.

use crate::{State, pb};

/// Who else may use a cache mount at the same time.
pub type CacheSharing = pb::CacheSharingOpt;

/// A mount of a command besides its root.
#[derive(Clone, Debug)]
pub struct Mount {
    pub(crate) target: String,
    pub(crate) source: State,
    pub(crate) selector: String,
    pub(crate) readonly: bool,
    pub(crate) no_output: bool,
    pub(crate) kind: MountKind,
    pub(crate) content_cache: pb::MountContentCache,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum MountKind {
    Bind,
    Cache { id: String, sharing: CacheSharing },
    Tmpfs { size: i64 },
}

impl Mount {
    /// `source` at `target`; writable unless said otherwise.
    pub fn bind(target: impl Into<String>, source: &State) -> Self {
        Self {
            target: target.into(),
            source: source.clone(),
            selector: String::new(),
            readonly: false,
            no_output: false,
            kind: MountKind::Bind,
            content_cache: pb::MountContentCache::Default,
        }
    }

    /// A directory that survives builds. `source` is its content when it is new.
    pub fn cache(
        target: impl Into<String>,
        source: &State,
        id: impl Into<String>,
        sharing: CacheSharing,
    ) -> Self {
        Self {
            kind: MountKind::Cache {
                id: id.into(),
                sharing,
            },
            ..Self::bind(target, source)
        }
    }

    /// A directory in memory; `size` in bytes, 0 for no limit of its own.
    pub fn tmpfs(target: impl Into<String>, size: i64) -> Self {
        Self {
            kind: MountKind::Tmpfs { size },
            ..Self::bind(target, &State::scratch())
        }
    }

    /// Only a part of the source.
    pub fn selector(mut self, path: impl Into<String>) -> Self {
        self.selector = path.into();
        self
    }

    /// Refuses writes.
    pub fn readonly(mut self) -> Self {
        self.readonly = true;
        self
    }

    /// Lets the command write, and throws the writes away.
    pub fn no_output(mut self) -> Self {
        self.no_output = true;
        self
    }

    /// Whether the mount's content may be a part of the cache key.
    pub fn content_cache(mut self, mode: pb::MountContentCache) -> Self {
        self.content_cache = mode;
        self
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.no_output && !self.readonly && self.kind == MountKind::Bind
    }
}

/// A secret as a file, a variable or both.
#[derive(Clone, Debug)]
pub struct Secret {
    /// The client's name of it.
    pub id: String,
    /// Path of the file, if it is wanted as one.
    pub target: Option<String>,
    /// Name of the variable, if it is wanted as one.
    pub env: Option<String>,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Permission bits of the file.
    pub mode: u32,
    /// Go on without it when the client has none.
    pub optional: bool,
}

/// An ssh agent's socket.
#[derive(Clone, Debug)]
pub struct Ssh {
    /// The client's name of the agent; empty for its default one.
    pub id: String,
    /// Path of the socket; empty for `/run/buildkit/ssh_agent.N`.
    pub target: String,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// Permission bits of the socket.
    pub mode: u32,
    /// Go on without it when the client has none.
    pub optional: bool,
}

impl Mount {
    pub(crate) fn to_pb(&self, input: i64, output: i64) -> pb::Mount {
        let mut mount = pb::Mount {
            input,
            selector: self.selector.clone(),
            dest: self.target.clone(),
            output,
            readonly: self.readonly,
            content_cache: self.content_cache.into(),
            ..pb::Mount::default()
        };
        match &self.kind {
            MountKind::Bind => {}
            MountKind::Cache { id, sharing } => {
                mount.set_mount_type(pb::MountType::Cache);
                mount.cache_opt = Some(pb::CacheOpt {
                    id: id.clone(),
                    sharing: (*sharing).into(),
                });
            }
            MountKind::Tmpfs { size } => {
                mount.set_mount_type(pb::MountType::Tmpfs);
                mount.tmpfs_opt = Some(pb::TmpfsOpt { size: *size });
            }
        }
        mount
    }
}
