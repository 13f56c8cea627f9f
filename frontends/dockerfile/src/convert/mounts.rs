//! `RUN --mount`.

use gateway_api::Error;
use gateway_llb::{
    CacheSharing, Constraints, FileActions, Mkdir, Mount, Owner, Run, Secret, Ssh, State, caps,
    path,
};

use super::Converter;
use super::stage::{Command, Stage};
use crate::parse::{
    self,
    mount::{self, MountType, Sharing},
};

/// The mounts of a command.
#[derive(Default)]
pub(super) struct Mounts {
    mounts: Vec<Mount>,
    secrets: Vec<Secret>,
    ssh: Vec<Ssh>,
    /// Variables that hold secrets.
    pub secret_env: Vec<String>,
}

impl Mounts {
    pub fn add_to(&self, mut step: Run) -> Run {
        for mount in &self.mounts {
            step = step.mount(mount.clone());
        }
        for secret in &self.secrets {
            step = step.secret(secret.clone());
        }
        for ssh in &self.ssh {
            step = step.ssh(ssh.clone());
        }
        step
    }
}

impl Converter<'_> {
    pub(super) fn mounts(
        &mut self,
        stage: &mut Stage,
        command: &Command,
        run: &parse::Run,
    ) -> Result<Mounts, Error> {
        let mut mounts = Mounts::default();
        let mut parsed = Vec::with_capacity(run.mounts.len());
        for raw in &run.mounts {
            let mut expand = |word: &str| {
                self.expand(stage, &command.instruction, word)
                    .map_err(|e| e.message)
            };
            parsed.push(mount::Mount::parse(raw, &mut expand).map_err(Error::unknown)?);
        }
        for (mount, source) in parsed.into_iter().zip(&command.sources) {
            match mount.kind {
                MountType::Secret => {
                    let secret = secret(&mount)?;
                    let known = &mut stage.parameters.secrets;
                    known
                        .entry(secret.id.clone())
                        .or_insert((command.instruction.location, mount.required));
                    mounts.secret_env.extend(secret.env.clone());
                    mounts.secrets.push(secret);
                }
                MountType::Ssh => {
                    mounts.ssh.push(ssh(&mount)?);
                    let id = match mount.id.as_str() {
                        "" => "default",
                        id => id,
                    };
                    let known = &mut stage.parameters.ssh;
                    known
                        .entry(id.to_owned())
                        .or_insert((command.instruction.location, mount.required));
                }
                MountType::Bind | MountType::Cache | MountType::Tmpfs => {
                    let done = self.file_mount(stage, &mount, *source)?;
                    mounts.mounts.push(done);
                }
            }
        }
        Ok(mounts)
    }

    fn file_mount(
        &mut self,
        stage: &Stage,
        mount: &mount::Mount,
        source: usize,
    ) -> Result<Mount, Error> {
        let from_context = mount.from.is_empty() && mount.kind != MountType::Cache;
        let mut state = self.build_context.state();
        if !from_context {
            let Some(source) = self.state_of(source, stage) else {
                let from = parse::quote::go_quote(&mount.from);
                let target = parse::quote::go_quote(&mount.target);
                return Err(Error::unknown(format!(
                    "cannot mount from stage {from} to {target}, stage needs to be defined before current command"
                )));
            };
            state = source;
        }
        let target = if path::clean(&mount.target).starts_with('/') {
            mount.target.clone()
        } else {
            path::join(&["/", stage.state.get_dir(), &mount.target])
        };
        if target == "/" {
            return Err(Error::unknown("invalid mount target \"/\""));
        }
        let inside = path::join(&["/", &mount.source]);
        let mut selector = (inside != "/").then(|| inside.clone());
        let owned = mount.uid.is_some() || mount.gid.is_some() || mount.mode.is_some();
        if selector.is_none() && owned {
            state = owned_cache(&state, mount);
            selector = Some("/cache".to_owned());
        }

        let mut out = match mount.kind {
            MountType::Tmpfs => Mount::tmpfs(target, mount.size),
            MountType::Cache => {
                let id = if mount.id.is_empty() {
                    path::clean(&mount.target)
                } else {
                    mount.id.clone()
                };
                let sharing = match mount.sharing {
                    None | Some(Sharing::Shared) => CacheSharing::Shared,
                    Some(Sharing::Private) => CacheSharing::Private,
                    Some(Sharing::Locked) => CacheSharing::Locked,
                };
                let namespace = &self.client.config().cache_id_namespace;
                Mount::cache(target, &state, format!("{namespace}/{id}"), sharing)
            }
            _ => Mount::bind(target, &state),
        };
        if mount.read_only {
            out = out.readonly();
        } else if mount.kind == MountType::Bind
            && self
                .client
                .supports(caps::EXEC_MOUNT_BIND_READWRITE_NO_OUTPUT)
        {
            out = out.no_output();
        }
        if let Some(selector) = selector {
            out = out.selector(selector);
        }

        if from_context {
            self.context_paths.insert(inside);
        } else if let Some(source) = self.stages.get(source) {
            source.use_path(&inside);
        }
        Ok(out)
    }
}

/// A directory with the owner and mode that a new cache begins with.
fn owned_cache(base: &State, mount: &mount::Mount) -> State {
    let options = Mkdir {
        mode: mount.mode.unwrap_or(0o755),
        owner: Some(Owner::ids(
            mount.uid.unwrap_or_default(),
            mount.gid.unwrap_or_default(),
        )),
        ..Mkdir::default()
    };
    base.file(
        FileActions::new().mkdir("/cache", options),
        Constraints::new().name("[internal] setting cache mount permissions"),
    )
}

fn secret(mount: &mount::Mount) -> Result<Secret, Error> {
    let id = if !mount.source.is_empty() {
        &mount.source
    } else if !mount.id.is_empty() {
        &mount.id
    } else if !mount.target.is_empty() {
        path::base(&mount.target)
    } else {
        return Err(Error::unknown("one of source, target required"));
    };
    let target = if !mount.target.is_empty() {
        Some(mount.target.clone())
    } else if mount.env.is_none() {
        Some(format!("/run/secrets/{}", path::base(id)))
    } else {
        None
    };
    Ok(Secret {
        id: id.to_owned(),
        target,
        env: mount.env.clone(),
        uid: mount.uid.unwrap_or_default(),
        gid: mount.gid.unwrap_or_default(),
        mode: mount.mode.unwrap_or(0o400),
        optional: !mount.required,
    })
}

fn ssh(mount: &mount::Mount) -> Result<Ssh, Error> {
    if !mount.source.is_empty() {
        return Err(Error::unknown("ssh does not support source"));
    }
    Ok(Ssh {
        id: mount.id.clone(),
        target: mount.target.clone(),
        uid: mount.uid.unwrap_or_default(),
        gid: mount.gid.unwrap_or_default(),
        mode: mount.mode.unwrap_or(0o600),
        optional: !mount.required,
    })
}
