//! The mounts of a step: where each comes from, and what is kept of it.

use std::path::PathBuf;
use std::sync::Arc;

use gateway_api::Error;
use gateway_llb::{path, pb};
use gateway_sandbox::{Mount, MountKind, Root, SecretBytes};
use gateway_session::Secret;

use super::ssh;
use crate::job::JobInner;
use crate::ops::cache_mount::{self, CacheMount};
use crate::ops::file::commit;
use crate::shared::Outcome;
use crate::solve::internal;
use crate::store::{Snapshot, Store, WorkDir};

/// Everything a step has mounted, kept until its end.
pub struct Mounts {
    root: Root,
    root_readonly: bool,
    mounts: Vec<Mount>,
    outputs: Vec<Tree>,
    shown: Vec<Shown>,
    works: Vec<Arc<WorkDir>>,
    caches: Vec<CacheMount>,
    agents: Vec<ssh::Forward>,
}

/// A snapshot with changes over it that are no layer of the store. Cheap to clone; the changes
/// stay as long as a clone of it.
#[derive(Clone, Default)]
pub struct Tree {
    pub base: Snapshot,
    /// Each has them in its subdirectory `fs`; lowest first.
    pub changes: Vec<Arc<WorkDir>>,
}

impl From<Snapshot> for Tree {
    fn from(base: Snapshot) -> Tree {
        Tree {
            base,
            changes: Vec::new(),
        }
    }
}

impl Tree {
    /// Topmost first; empty for scratch.
    pub fn lowers(&self, store: &Store) -> Vec<PathBuf> {
        let changes = self.changes.iter().rev();
        let mut lowers: Vec<PathBuf> = changes.map(|work| work.path().join("fs")).collect();
        if !self.base.layers.is_empty() {
            lowers.extend(store.lowers(&self.base));
        }
        lowers
    }

    fn with(&self, work: Arc<WorkDir>) -> Tree {
        let mut changed = self.clone();
        changed.changes.push(work);
        changed
    }
}

/// Where the files of a mount are, for those who look at them from outside.
#[derive(Clone)]
pub enum Shown {
    /// They are in memory, or are no files.
    Nothing,
    Tree(Tree),
    Dir(PathBuf),
}

/// A secret of the client.
pub async fn secret(job: &Arc<JobInner>, id: &str) -> Outcome<Option<Secret>> {
    job.options
        .session
        .secret(id)
        .await
        .map_err(|error| Error::unknown(error.to_string()))
}

impl Mounts {
    /// `cwd` is what relative mount points start from; `fresh` empties cache mounts first.
    pub async fn prepare(
        job: &Arc<JobInner>,
        fresh: bool,
        list: &[pb::Mount],
        meta: &pb::Meta,
        inputs: &[Tree],
    ) -> Outcome<Mounts> {
        let mut mounts = Mounts {
            root: Root::Dir {
                path: PathBuf::new(),
                readonly: true,
            },
            root_readonly: false,
            mounts: Vec::new(),
            outputs: Vec::new(),
            shown: Vec::new(),
            works: Vec::new(),
            caches: Vec::new(),
            agents: Vec::new(),
        };
        for mount in list {
            let input = match mount.input {
                -1 => Tree::default(),
                index => usize::try_from(index)
                    .ok()
                    .and_then(|index| inputs.get(index).cloned())
                    .ok_or_else(|| Error::unknown(format!("invalid mount input {index}")))?,
            };
            if mount.dest == "/" {
                mounts.add_root(job, mount, input)?;
            } else {
                let kind = mounts.add(job, fresh, mount, meta, input).await?;
                if let Some(kind) = kind {
                    let dest = match mount.dest.starts_with('/') {
                        true => path::clean(&mount.dest),
                        false => path::clean(&format!("/{}/{}", meta.cwd, mount.dest)),
                    };
                    mounts.mounts.push(Mount { dest, kind });
                }
            }
        }
        // Parents before what is mounted in them.
        mounts.mounts.sort_by(|a, b| a.dest.cmp(&b.dest));
        Ok(mounts)
    }

    pub fn root(&self) -> Root {
        self.root.clone()
    }

    pub fn root_readonly(&self) -> bool {
        self.root_readonly
    }

    pub fn take(&mut self) -> Vec<Mount> {
        std::mem::take(&mut self.mounts)
    }

    /// What each mount shows, in the order of the op.
    pub fn shown(&self) -> &[Shown] {
        &self.shown
    }

    /// A work directory for changes, its upper and work.
    fn work(&mut self, job: &JobInner) -> Outcome<(Arc<WorkDir>, PathBuf, PathBuf)> {
        let work = Arc::new(job.store().work_dir().map_err(internal)?);
        let upper = work.sub("fs").map_err(internal)?;
        let scratch = work.sub("work").map_err(internal)?;
        self.works.push(work.clone());
        Ok((work, upper, scratch))
    }

    fn show(&mut self, mount: &pb::Mount, tree: Tree) {
        if mount.output != -1 {
            self.outputs.push(tree.clone());
        }
        self.shown.push(Shown::Tree(tree));
    }

    fn add_root(&mut self, job: &JobInner, mount: &pb::Mount, input: Tree) -> Outcome<()> {
        if mount.mount_type() != pb::MountType::Bind {
            return Err(Error::unknown(format!(
                "invalid mount type {} for /",
                mount.mount_type().as_str_name()
            )));
        }
        let (dir, upper, work) = self.work(job)?;
        self.root = Root::Overlay {
            lowers: input.lowers(job.store()),
            upper,
            work,
        };
        self.root_readonly = mount.readonly;
        self.show(mount, input.with(dir));
        Ok(())
    }

    async fn add(
        &mut self,
        job: &Arc<JobInner>,
        fresh: bool,
        mount: &pb::Mount,
        meta: &pb::Meta,
        input: Tree,
    ) -> Outcome<Option<MountKind>> {
        match mount.mount_type() {
            pb::MountType::Bind => return self.add_bind(job, mount, input).map(Some),
            pb::MountType::Cache => {}
            _ => self.shown.push(Shown::Nothing),
        }
        match mount.mount_type() {
            pb::MountType::Bind => Ok(None),
            pb::MountType::Tmpfs => Ok(Some(MountKind::Tmpfs {
                size_bytes: mount
                    .tmpfs_opt
                    .as_ref()
                    .and_then(|options| u64::try_from(options.size).ok())
                    .unwrap_or_default(),
            })),
            pb::MountType::Cache => {
                let options = mount.cache_opt.clone().unwrap_or_default();
                let base = (mount.input != -1).then_some(&input.base);
                let description = cache_mount::description(mount, &options, meta);
                let cache = cache_mount::acquire(job, &options, base, fresh, &description).await?;
                let kind = MountKind::Bind {
                    source: cache.dir.clone(),
                    selector: mount.selector.clone(),
                    readonly: mount.readonly,
                };
                self.shown.push(Shown::Dir(cache.dir.clone()));
                self.caches.push(cache);
                if mount.output != -1 && mount.input != -1 {
                    self.outputs.push(input);
                }
                Ok(Some(kind))
            }
            pb::MountType::Secret => {
                let options = mount.secret_opt.clone().unwrap_or_default();
                match secret(job, &options.id).await? {
                    Some(value) => Ok(Some(MountKind::SecretFile {
                        data: SecretBytes(value.expose().to_vec()),
                        uid: options.uid,
                        gid: options.gid,
                        mode: options.mode & 0o777,
                    })),
                    None if options.optional => Ok(None),
                    None => Err(Error::unknown(format!("secret {}: not found", options.id))),
                }
            }
            pb::MountType::Ssh => self.add_ssh(job, mount).await,
        }
    }

    fn add_bind(&mut self, job: &JobInner, mount: &pb::Mount, input: Tree) -> Outcome<MountKind> {
        let lowers = input.lowers(job.store());
        let selector = mount.selector.clone();
        if mount.readonly {
            self.show(mount, input);
            return Ok(match lowers.as_slice() {
                [] => MountKind::Bind {
                    source: job.store().empty_dir(),
                    selector,
                    readonly: true,
                },
                [single] => MountKind::Bind {
                    source: single.clone(),
                    selector,
                    readonly: true,
                },
                _ => MountKind::Overlay {
                    lowers,
                    upper: None,
                    work: None,
                    selector,
                    readonly: true,
                },
            });
        }
        let (dir, upper, work) = self.work(job)?;
        self.show(mount, input.with(dir));
        Ok(match lowers.is_empty() {
            true => MountKind::Bind {
                source: upper,
                selector,
                readonly: false,
            },
            false => MountKind::Overlay {
                lowers,
                upper: Some(upper),
                work: Some(work),
                selector,
                readonly: false,
            },
        })
    }

    async fn add_ssh(
        &mut self,
        job: &Arc<JobInner>,
        mount: &pb::Mount,
    ) -> Outcome<Option<MountKind>> {
        let options = mount.ssh_opt.clone().unwrap_or_default();
        let id = match options.id.as_str() {
            "" => "default",
            id => id,
        };
        let agent = job.options.session.ssh_socket(id).await;
        let agent = agent.map_err(|error| Error::unknown(error.to_string()))?;
        let Some(agent) = agent else {
            return match options.optional {
                true => Ok(None),
                false => Err(Error::unknown(format!(
                    // The id as the mount has it: empty stands for the default one.
                    "no SSH key {:?} forwarded from the client",
                    options.id
                ))),
            };
        };
        let (_, dir, _) = self.work(job)?;
        let forward =
            ssh::forward(&dir, agent, options.uid, options.gid, options.mode).map_err(internal)?;
        let source = forward.socket.clone();
        self.agents.push(forward);
        Ok(Some(MountKind::Bind {
            source,
            selector: String::new(),
            readonly: false,
        }))
    }

    /// Makes results of the outputs, in the order of the mounts.
    pub fn commit(self, store: &Store, description: &str) -> Outcome<Vec<Snapshot>> {
        drop(self.agents);
        self.outputs
            .into_iter()
            .map(|tree| match tree.changes.last() {
                None => Ok(tree.base),
                Some(work) => commit(store, &tree.base, work, description),
            })
            .collect()
    }
}
