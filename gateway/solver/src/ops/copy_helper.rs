//! The copy helper of frontends from before file ops.
//!
//! Those of 2018 turn each COPY and ADD into a command of the pinned image
//! `docker/dockerfile-copy:v0.1.9`. Fetching and running it gives nothing that we cannot do
//! ourselves, and mirrors rarely have it: the image is recognised by its digest and never
//! fetched, its command is done here. Arguments, as those frontends write them:
//! `copy [--unpack] [--chown=USER[:GROUP]] SOURCE... DEST`, sources below read-only mounts
//! `/src-N`, the destination relative to the result mounted at `/dest`.

use std::sync::Arc;

use gateway_api::Error;
use gateway_llb::{path, pb};

use super::{file, image};
use crate::fs::actions::{ActionInputs, apply};
use crate::fs::root::{self, Root};
use crate::fs::{FsError, Owner, gopath, owner};
use crate::job::JobInner;
use crate::live::LiveVertex;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Snapshot, Store};
use crate::view::View;

/// What the tag v0.1.9, the only one that frontends were released with, is pinned to.
const IMAGE_DIGEST: &str =
    "sha256:e8f159d3f00786604b93c675ee2783f8dc194bb565e61ca5788f6a6e9d304061";
/// Where the result is mounted.
const DEST: &str = "/dest";

/// Whether a reference (without a scheme) is that of the helper image.
pub fn is_image(reference: &str) -> bool {
    reference
        .rsplit_once('@')
        .is_some_and(|(_, digest)| digest == IMAGE_DIGEST)
}

/// Whether the op is a command of the helper image.
pub fn is_copy(job: &JobInner, vertex: &LiveVertex, op: &pb::ExecOp) -> bool {
    let command = op.meta.as_ref().and_then(|meta| meta.args.first());
    if command.map(String::as_str) != Some("copy") {
        return false;
    }
    let root = op.mounts.iter().find(|mount| mount.dest == "/");
    let input = root
        .and_then(|mount| usize::try_from(mount.input).ok())
        .and_then(|index| vertex.inputs.get(index))
        .and_then(|(key, _)| job.graph.get(key).ok());
    match input.as_ref().and_then(|input| input.op.op.as_ref()) {
        Some(pb::op::Op::Source(source)) => source
            .identifier
            .strip_prefix("docker-image://")
            .is_some_and(is_image),
        _ => false,
    }
}

/// The input whose whole content would be hashed for nothing: the file system copied into.
pub fn changed_input(op: &pb::ExecOp) -> Option<usize> {
    let dest = op.mounts.iter().find(|mount| mount.dest == DEST)?;
    usize::try_from(dest.input).ok()
}

pub async fn run(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::ExecOp,
    inputs: Vec<Snapshot>,
) -> Outcome<Vec<Snapshot>> {
    let args = op.meta.as_ref().map(|meta| meta.args.as_slice());
    let command = Command::parse(args.unwrap_or_default())
        .ok_or_else(|| Error::unknown("invalid arguments of the copy helper"))?;
    for snapshot in &inputs {
        image::ensure(job, snapshot).await?;
    }
    let _permit = job.permit().await?;
    let running = job.reports.start(&vertex.digest);
    let (store, op, name) = (job.store().clone(), op.clone(), vertex.name.clone());
    let outcome = blocking(move || command.run(&store, &op, &inputs, &name)).await;
    running.finish(&outcome);
    outcome
}

/// The command line, read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Command {
    unpack: bool,
    chown: Option<String>,
    sources: Vec<String>,
    dest: String,
}

impl Command {
    fn parse(args: &[String]) -> Option<Command> {
        let mut command = Command::default();
        let mut rest = args.get(1..)?;
        while let Some((flag, tail)) = rest.split_first() {
            match flag.as_str() {
                "--unpack" => command.unpack = true,
                text => match text.strip_prefix("--chown=") {
                    Some(owner) => command.chown = Some(owner.to_owned()),
                    None if text.starts_with("--") => return None,
                    None => break,
                },
            }
            rest = tail;
        }
        let (dest, sources) = rest.split_last()?;
        if sources.is_empty() {
            return None;
        }
        command.sources = sources.to_vec();
        command.dest = match dest.ends_with('/') {
            true => format!(
                "{}/",
                path::clean(&format!("/{dest}")).trim_end_matches('/')
            ),
            false => path::clean(&format!("/{dest}")),
        };
        Some(command)
    }

    fn run(
        &self,
        store: &Store,
        op: &pb::ExecOp,
        inputs: &[Snapshot],
        description: &str,
    ) -> Outcome<Vec<Snapshot>> {
        let failed = |error: FsError| Error::unknown(error.to_string());
        let input = |mount: &pb::Mount| -> Snapshot {
            usize::try_from(mount.input)
                .ok()
                .and_then(|index| inputs.get(index).cloned())
                .unwrap_or_default()
        };
        let dest = op.mounts.iter().find(|mount| mount.dest == DEST);
        let base = dest.map(input).unwrap_or_default();
        let work = store.work_dir().map_err(internal)?;
        let upper = work.sub("fs").map_err(internal)?;
        let scratch = work.sub("work").map_err(internal)?;
        let lowers = match base.layers.is_empty() {
            true => Vec::new(),
            false => store.lowers(&base),
        };
        let view = View::writable(&lowers, &upper, &scratch).map_err(internal)?;
        let target = Root::open(view.path()).map_err(internal)?;
        let owner = self.owner(&target).map_err(failed)?;
        let mut prepared = false;
        for argument in &self.sources {
            let (mount, selected, exact) = locate(op, argument)
                .ok_or_else(|| Error::unknown(format!("no source is mounted at {argument}")))?;
            let view = View::read_only(&store.lowers(&input(mount))).map_err(internal)?;
            let from = Root::open(view.path()).map_err(internal)?;
            if !prepared {
                self.prepare(&from, &selected, &target, owner)
                    .map_err(failed)?;
                prepared = true;
            }
            let action = self.action(selected, exact, owner);
            let inputs = ActionInputs {
                target: &target,
                source: Some(&from),
                users: None,
                groups: None,
                cancel: None,
            };
            apply(&action, &inputs).map_err(|error| {
                Error::unknown(format!(
                    "failed to copy {argument} to {}: {error}",
                    self.dest
                ))
            })?;
        }
        drop((target, view));
        Ok(vec![file::commit(store, &base, &work, description)?])
    }

    /// Makes the directory that takes the files. Unlike a file op's, its parents stay root's, and
    /// it gets the owner also when it was there.
    fn prepare(
        &self,
        from: &Root,
        source: &str,
        target: &Root,
        owner: Option<Owner>,
    ) -> Result<(), FsError> {
        let source = from.resolve(source.as_bytes())?;
        let is_dir = from
            .lstat_if_exists(&source)?
            .is_some_and(|meta| meta.is_dir());
        let into = self.dest.ends_with('/') || is_dir || self.sources.len() > 1;
        let dest = target.resolve(self.dest.as_bytes())?;
        let dir = match into {
            true => dest,
            false => gopath::dir(&dest),
        };
        target.mkdir_all(&dir, 0o755, None, None)?;
        if let Some(owner) = owner {
            use std::os::fd::AsFd;
            target
                .open_parent(&dir)
                .and_then(|(parent, name)| root::chown(parent.as_fd(), name, owner))
                .map_err(|errno| FsError::path("lchown", &dir, errno))?;
        }
        Ok(())
    }

    fn owner(&self, target: &Root) -> Result<Option<Owner>, FsError> {
        let Some(text) = self.chown.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let opt = |text: &str| {
            let user = match text.parse() {
                Ok(id) => pb::user_opt::User::ById(id),
                Err(_) if text == "root" => pb::user_opt::User::ById(0),
                Err(_) => pb::user_opt::User::ByName(pb::NamedUserOpt {
                    name: text.to_owned(),
                    input: 0,
                }),
            };
            Some(pb::UserOpt { user: Some(user) })
        };
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (opt(user), opt(group)),
            None => (opt(text), None),
        };
        // The helper has the users of the file system that is copied into.
        owner::resolve(
            Some(&pb::ChownOpt { user, group }),
            Some(target),
            Some(target),
        )
    }

    fn action(&self, src: String, exact: bool, owner: Option<Owner>) -> pb::FileAction {
        let by_id = |id| {
            Some(pb::UserOpt {
                user: Some(pb::user_opt::User::ById(id)),
            })
        };
        pb::FileAction {
            input: 0,
            secondary_input: 1,
            output: 0,
            action: Some(pb::file_action::Action::Copy(pb::FileActionCopy {
                src,
                dest: match self.sources.len() {
                    1 => self.dest.clone(),
                    _ => format!("{}/", self.dest.trim_end_matches('/')),
                },
                owner: owner.map(|owner| pb::ChownOpt {
                    user: by_id(owner.uid),
                    group: by_id(owner.gid),
                }),
                mode: -1,
                // A mount is made of what a link leads to; a pattern matches links themselves.
                follow_symlink: exact,
                dir_copy_contents: true,
                attempt_unpack_docker_compatibility: self.unpack,
                create_dest_path: true,
                allow_wildcard: !exact,
                timestamp: -1,
                ..pb::FileActionCopy::default()
            })),
        }
    }
}

/// The mount that an argument lies in, the path in the mount's input, and whether it is the mount
/// itself rather than a pattern in it.
fn locate<'a>(op: &'a pb::ExecOp, argument: &str) -> Option<(&'a pb::Mount, String, bool)> {
    op.mounts
        .iter()
        .filter(|mount| mount.dest != "/" && mount.dest != DEST)
        .filter_map(|mount| {
            let rest = argument.strip_prefix(&mount.dest)?;
            let inside = rest.is_empty() || rest.starts_with('/');
            inside.then(|| {
                let selected = path::clean(&format!("/{}/{rest}", mount.selector));
                (mount, selected, rest.trim_matches('/').is_empty())
            })
        })
        .max_by_key(|(mount, _, _)| mount.dest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn command_lines_of_2018_are_read() {
        let command =
            Command::parse(&args("copy --unpack --chown=u:g /src-0/a /src-1 app/")).unwrap();
        assert_eq!(
            command,
            Command {
                unpack: true,
                chown: Some("u:g".into()),
                sources: vec!["/src-0/a".into(), "/src-1".into()],
                dest: "/app/".into(),
            }
        );
        assert_eq!(Command::parse(&args("copy /src-0/a a")).unwrap().dest, "/a");
        assert_eq!(Command::parse(&args("copy /src-0 ./")).unwrap().dest, "/");
        assert_eq!(Command::parse(&args("copy --what /src-0 a")), None);
        assert_eq!(Command::parse(&args("copy a")), None);
    }

    #[test]
    fn an_argument_leads_to_its_mount_and_the_path_in_it() {
        let mount = |dest: &str, selector: &str| pb::Mount {
            dest: dest.into(),
            selector: selector.into(),
            ..pb::Mount::default()
        };
        let op = pb::ExecOp {
            mounts: vec![
                mount("/", ""),
                mount("/dest", ""),
                mount("/src-0/a.txt", "d/a.txt"),
                mount("/src-1", "/dir"),
            ],
            ..pb::ExecOp::default()
        };
        let found = |argument| locate(&op, argument).map(|(_, path, exact)| (path, exact));
        assert_eq!(found("/src-0/a.txt"), Some(("/d/a.txt".into(), true)));
        assert_eq!(found("/src-1/*.c"), Some(("/dir/*.c".into(), false)));
        assert_eq!(found("/src-2/x"), None);
    }
}
