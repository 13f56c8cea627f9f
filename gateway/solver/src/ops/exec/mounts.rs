//! The mounts of a step: where each comes from, and what is kept of it.

use std::path::PathBuf;
use std::sync::Arc;

use gateway_api::Error;
use gateway_llb::{path, pb};
use gateway_sandbox::{Mount, MountKind, Root, SecretBytes};
use gateway_session::Secret;

use super::ssh;
use crate::job::JobInner;
use crate::live::LiveVertex;
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
    outputs: Vec<Output>,
    works: Vec<WorkDir>,
    caches: Vec<CacheMount>,
    agents: Vec<ssh::Forward>,
}

/// What becomes of a mount that is an output.
enum Output {
    Unchanged(Snapshot),
    /// Base and number of the work directory.
    Changed(Snapshot, usize),
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
    pub async fn prepare(
        job: &Arc<JobInner>,
        vertex: &LiveVertex,
        op: &pb::ExecOp,
        meta: &pb::Meta,
        inputs: &[Snapshot],
    ) -> Outcome<Mounts> {
        let mut mounts = Mounts {
            root: Root::Dir {
                path: PathBuf::new(),
                readonly: true,
            },
            root_readonly: false,
            mounts: Vec::new(),
            outputs: Vec::new(),
            works: Vec::new(),
            caches: Vec::new(),
            agents: Vec::new(),
        };
        for mount in &op.mounts {
            let input = match mount.input {
                -1 => Snapshot::scratch(),
                index => usize::try_from(index)
                    .ok()
                    .and_then(|index| inputs.get(index).cloned())
                    .ok_or_else(|| Error::unknown(format!("invalid mount input {index}")))?,
            };
            if mount.dest == "/" {
                mounts.add_root(job, mount, input)?;
            } else {
                let kind = mounts.add(job, vertex, mount, input).await?;
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

    /// A work directory for changes: its number, upper and work.
    fn work(&mut self, job: &JobInner) -> Outcome<(usize, PathBuf, PathBuf)> {
        let work = job.store().work_dir().map_err(internal)?;
        let upper = work.sub("fs").map_err(internal)?;
        let scratch = work.sub("work").map_err(internal)?;
        self.works.push(work);
        Ok((self.works.len() - 1, upper, scratch))
    }

    fn add_root(&mut self, job: &JobInner, mount: &pb::Mount, input: Snapshot) -> Outcome<()> {
        if mount.mount_type() != pb::MountType::Bind {
            return Err(Error::unknown(format!(
                "invalid mount type {} for /",
                mount.mount_type().as_str_name()
            )));
        }
        let (number, upper, work) = self.work(job)?;
        self.root = Root::Overlay {
            lowers: layers(job, &input),
            upper,
            work,
        };
        self.root_readonly = mount.readonly;
        if mount.output != -1 {
            self.outputs.push(Output::Changed(input, number));
        }
        Ok(())
    }

    async fn add(
        &mut self,
        job: &Arc<JobInner>,
        vertex: &LiveVertex,
        mount: &pb::Mount,
        input: Snapshot,
    ) -> Outcome<Option<MountKind>> {
        match mount.mount_type() {
            pb::MountType::Bind => self.add_bind(job, mount, input).map(Some),
            pb::MountType::Tmpfs => Ok(Some(MountKind::Tmpfs {
                size_bytes: mount
                    .tmpfs_opt
                    .as_ref()
                    .and_then(|options| u64::try_from(options.size).ok())
                    .unwrap_or_default(),
            })),
            pb::MountType::Cache => {
                let options = mount.cache_opt.clone().unwrap_or_default();
                let base = (mount.input != -1).then_some(&input);
                let fresh = vertex.metadata.ignore_cache;
                let cache = cache_mount::acquire(job, &options, base, fresh).await?;
                let kind = MountKind::Bind {
                    source: cache.dir.clone(),
                    selector: mount.selector.clone(),
                    readonly: mount.readonly,
                };
                self.caches.push(cache);
                if mount.output != -1 && mount.input != -1 {
                    self.outputs.push(Output::Unchanged(input));
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

    fn add_bind(
        &mut self,
        job: &JobInner,
        mount: &pb::Mount,
        input: Snapshot,
    ) -> Outcome<MountKind> {
        let lowers = layers(job, &input);
        let selector = mount.selector.clone();
        if mount.readonly {
            if mount.output != -1 {
                self.outputs.push(Output::Unchanged(input));
            }
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
        let (number, upper, work) = self.work(job)?;
        if mount.output != -1 {
            self.outputs.push(Output::Changed(input, number));
        }
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
        let (number, dir, _) = self.work(job)?;
        debug_assert_eq!(number + 1, self.works.len());
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
        let works = self.works;
        self.outputs
            .into_iter()
            .map(|output| match output {
                Output::Unchanged(snapshot) => Ok(snapshot),
                Output::Changed(base, number) => match works.get(number) {
                    Some(work) => commit(store, &base, work, description),
                    None => Err(Error::unknown("a step lost its work directory")),
                },
            })
            .collect()
    }
}

/// Topmost first; empty for scratch.
fn layers(job: &JobInner, snapshot: &Snapshot) -> Vec<PathBuf> {
    match snapshot.layers.is_empty() {
        true => Vec::new(),
        false => job.store().lowers(snapshot),
    }
}
