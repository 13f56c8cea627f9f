//! File changes: the actions of a file op.

use std::sync::Arc;

use crate::state::Output;
use crate::{State, path, pb};

/// Who owns what an action makes. Names are looked up in the file system that is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user; none keeps the default.
    pub user: Option<User>,
    /// The group; none means the user's own.
    pub group: Option<User>,
}

/// A user or group, by number or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// By number.
    Id(u32),
    /// By name.
    Name(String),
}

impl Owner {
    /// A numeric owner.
    pub fn ids(uid: u32, gid: u32) -> Self {
        Self {
            user: Some(User::Id(uid)),
            group: Some(User::Id(gid)),
        }
    }

    /// From `user` or `user:group`, each a number, `root` or a name.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(2, ':');
        Self {
            user: parts.next().map(User::parse),
            group: parts.next().map(User::parse),
        }
    }

    fn to_pb(&self, base: i64) -> pb::ChownOpt {
        pb::ChownOpt {
            user: self.user.as_ref().map(|u| u.to_pb(base)),
            group: self.group.as_ref().map(|u| u.to_pb(base)),
        }
    }
}

impl User {
    fn parse(text: &str) -> Self {
        if text == "root" {
            return Self::Id(0);
        }
        match text.parse::<i32>() {
            // Negative numbers wrap, as they always did on this wire.
            Ok(id) => Self::Id(id as u32),
            // An empty name means number 0.
            Err(_) if text.is_empty() => Self::Id(0),
            Err(_) => Self::Name(text.to_owned()),
        }
    }

    fn to_pb(&self, base: i64) -> pb::UserOpt {
        let user = match self {
            Self::Id(id) => pb::user_opt::User::ById(*id),
            Self::Name(name) => pb::user_opt::User::ByName(pb::NamedUserOpt {
                name: name.clone(),
                input: base,
            }),
        };
        pb::UserOpt { user: Some(user) }
    }
}

/// New permission bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chmod {
    /// Octal bits.
    Bits(u32),
    /// The symbolic syntax of chmod, such as `u=rwX,go=`.
    Symbolic(String),
}

/// Copies from another state.
#[derive(Clone, Debug, Default)]
pub struct Copy {
    /// New owner; none keeps the source's.
    pub owner: Option<Owner>,
    /// New permissions; none keeps the source's.
    pub chmod: Option<Chmod>,
    /// Follow the source if it is a link.
    pub follow_symlinks: bool,
    /// Copy what is in a directory, not the directory.
    pub dir_contents_only: bool,
    /// Unpack a source that is an archive.
    pub attempt_unpack: bool,
    /// Make missing parents of the destination.
    pub create_dest_path: bool,
    /// The source is a pattern.
    pub allow_wildcard: bool,
    /// A pattern that matches nothing is no error.
    pub allow_empty_wildcard: bool,
    /// Only paths that match.
    pub include_patterns: Vec<String>,
    /// No paths that match.
    pub exclude_patterns: Vec<String>,
    /// Paths that must exist.
    pub required_paths: Vec<String>,
    /// Replace what is in the way, whatever its type.
    pub always_replace: bool,
    /// New modification time in nanoseconds since 1970.
    pub timestamp: Option<i64>,
}

/// Makes a directory.
#[derive(Clone, Debug, Default)]
pub struct Mkdir {
    /// Permission bits.
    pub mode: u32,
    /// Make missing parents.
    pub parents: bool,
    /// Owner of what is made.
    pub owner: Option<Owner>,
    /// Modification time in nanoseconds since 1970.
    pub timestamp: Option<i64>,
}

/// Writes a file.
#[derive(Clone, Debug, Default)]
pub struct Mkfile {
    /// Permission bits.
    pub mode: u32,
    /// The content.
    pub data: Vec<u8>,
    /// Owner of the file.
    pub owner: Option<Owner>,
    /// Modification time in nanoseconds since 1970.
    pub timestamp: Option<i64>,
}

/// Removes a path.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rm {
    /// A missing path is no error.
    pub allow_not_found: bool,
    /// The path is a pattern.
    pub allow_wildcard: bool,
}

/// Makes a symbolic link.
#[derive(Clone, Debug, Default)]
pub struct Symlink {
    /// Owner of the link.
    pub owner: Option<Owner>,
    /// Modification time in nanoseconds since 1970.
    pub timestamp: Option<i64>,
}

/// Actions that are done one after the other in one op.
#[derive(Clone, Debug, Default)]
pub struct FileActions(Vec<Action>);

#[derive(Clone, Debug)]
enum Action {
    Copy(State, String, String, Box<Copy>),
    Mkdir(String, Mkdir),
    Mkfile(String, Mkfile),
    Rm(String, Rm),
    Symlink(String, String, Symlink),
}

impl FileActions {
    /// No actions yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// True while there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Copies `src` of `from` to `dest`.
    pub fn copy(mut self, from: &State, src: &str, dest: &str, options: Copy) -> Self {
        self.0.push(Action::Copy(
            from.clone(),
            src.to_owned(),
            dest.to_owned(),
            Box::new(options),
        ));
        self
    }

    /// Makes a directory.
    pub fn mkdir(mut self, path: &str, options: Mkdir) -> Self {
        self.0.push(Action::Mkdir(path.to_owned(), options));
        self
    }

    /// Writes a file.
    pub fn mkfile(mut self, path: &str, options: Mkfile) -> Self {
        self.0.push(Action::Mkfile(path.to_owned(), options));
        self
    }

    /// Removes a path.
    pub fn rm(mut self, path: &str, options: Rm) -> Self {
        self.0.push(Action::Rm(path.to_owned(), options));
        self
    }

    /// Makes `new` a link to `old`.
    pub fn symlink(mut self, old: &str, new: &str, options: Symlink) -> Self {
        self.0
            .push(Action::Symlink(old.to_owned(), new.to_owned(), options));
        self
    }

    pub(crate) fn bind(self, base: &State) -> BoundActions {
        BoundActions {
            base: base.output.clone(),
            dir: Arc::clone(&base.meta.dir),
            actions: self.0,
        }
    }
}

#[derive(Debug)]
pub(crate) struct BoundActions {
    pub base: Option<Output>,
    dir: Arc<str>,
    actions: Vec<Action>,
}

impl BoundActions {
    /// The outputs that the actions read, in the order in which they become inputs. Scratch
    /// sources are `None`.
    pub fn sources(&self) -> Vec<Option<&Output>> {
        self.actions
            .iter()
            .map(|action| match action {
                Action::Copy(from, ..) => from.output.as_ref(),
                _ => None,
            })
            .collect()
    }

    pub fn take_inputs(&mut self, out: &mut Vec<Output>) {
        out.extend(self.base.take());
        for action in &mut self.actions {
            if let Action::Copy(from, ..) = action {
                out.extend(from.output.take());
            }
        }
    }

    /// The op. `base` and `sources` are input numbers (-1 for scratch), `inputs` their count.
    pub fn to_op(
        &self,
        base: i64,
        sources: &[i64],
        inputs: i64,
    ) -> Result<pb::FileOp, &'static str> {
        if self.actions.is_empty() {
            return Err("action is required");
        }
        let last = self.actions.len() - 1;
        let actions = self
            .actions
            .iter()
            .zip(sources)
            .enumerate()
            .map(|(i, (action, source))| pb::FileAction {
                input: if i == 0 { base } else { inputs + i as i64 - 1 },
                secondary_input: *source,
                output: if i == last { 0 } else { -1 },
                action: Some(action.to_pb(&self.dir, base)),
            })
            .collect();
        Ok(pb::FileOp { actions })
    }
}

impl Action {
    fn to_pb(&self, dir: &str, base: i64) -> pb::file_action::Action {
        use pb::file_action::Action as Pb;
        let owner = |owner: &Option<Owner>| owner.as_ref().map(|o| o.to_pb(base));
        match self {
            Self::Copy(from, src, dest, o) => {
                let (mode, mode_str) = match &o.chmod {
                    None => (-1, String::new()),
                    Some(Chmod::Bits(bits)) => (*bits as i32, String::new()),
                    Some(Chmod::Symbolic(text)) => (0, text.clone()),
                };
                let cleaned = path::clean(src);
                let src = if cleaned.starts_with('/') {
                    cleaned
                } else {
                    path::join(&[from.get_dir(), &cleaned])
                };
                Pb::Copy(pb::FileActionCopy {
                    src,
                    dest: path::normalize(dir, dest, true),
                    owner: owner(&o.owner),
                    mode,
                    follow_symlink: o.follow_symlinks,
                    dir_copy_contents: o.dir_contents_only,
                    attempt_unpack_docker_compatibility: o.attempt_unpack,
                    create_dest_path: o.create_dest_path,
                    allow_wildcard: o.allow_wildcard,
                    allow_empty_wildcard: o.allow_empty_wildcard,
                    timestamp: o.timestamp.unwrap_or(-1),
                    include_patterns: o.include_patterns.clone(),
                    exclude_patterns: o.exclude_patterns.clone(),
                    always_replace_existing_dest_paths: o.always_replace,
                    mode_str,
                    required_paths: o.required_paths.clone(),
                })
            }
            Self::Mkdir(path, o) => Pb::Mkdir(pb::FileActionMkDir {
                path: path::normalize(dir, path, false),
                mode: (o.mode & 0o777) as i32,
                make_parents: o.parents,
                owner: owner(&o.owner),
                timestamp: o.timestamp.unwrap_or(-1),
            }),
            Self::Mkfile(path, o) => Pb::Mkfile(pb::FileActionMkFile {
                path: path::normalize(dir, path, false),
                mode: (o.mode & 0o777) as i32,
                data: o.data.clone(),
                owner: owner(&o.owner),
                timestamp: o.timestamp.unwrap_or(-1),
            }),
            Self::Rm(path, o) => Pb::Rm(pb::FileActionRm {
                path: path::normalize(dir, path, false),
                allow_not_found: o.allow_not_found,
                allow_wildcard: o.allow_wildcard,
            }),
            Self::Symlink(old, new, o) => Pb::Symlink(pb::FileActionSymlink {
                oldpath: old.clone(),
                newpath: new.clone(),
                owner: owner(&o.owner),
                timestamp: o.timestamp.unwrap_or(-1),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers_root_or_names() {
        assert_eq!(Owner::parse("root").user, Some(User::Id(0)));
        assert_eq!(Owner::parse("5").group, None);
        let owner = Owner::parse("bob:staff");
        assert_eq!(owner.user, Some(User::Name("bob".into())));
        assert_eq!(owner.group, Some(User::Name("staff".into())));
        assert_eq!(Owner::parse("a:").group, Some(User::Id(0)));
    }
}
