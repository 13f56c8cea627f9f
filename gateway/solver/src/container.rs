//! The file systems of a frontend's containers: made of results, of what failed steps left, and of
//! the mounts that steps have too. What runs in them is the caller's business.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use gateway_api::{Code, Error, FileRange, Stat};
use gateway_llb::pb;
use gateway_sandbox::{Mount, Root};

use crate::job::{Job, JobInner};
use crate::ops::exec;
use crate::ops::exec::mounts::{Mounts, Shown, Tree};
use crate::ops::image;
use crate::read::{self, Place};
use crate::result::ResultRef;
use crate::shared::Outcome;

/// What a mount starts from.
#[derive(Clone, Debug)]
pub enum MountSource {
    Nothing,
    Result(ResultRef),
    /// An id from the details of a failed step's error.
    Kept(String),
}

/// The mounts of one container. What is written to them is private to it and gone with this.
pub struct ContainerMounts {
    job: Arc<JobInner>,
    held: Mounts,
    mounts: Vec<Mount>,
}

impl Job {
    /// Whether an id in an error's details names a file system that is still there.
    pub fn has_kept(&self, id: &str) -> bool {
        self.inner().kept(id).is_some()
    }

    /// Makes the file systems of a container; indexes of inputs and outputs in the mounts have no
    /// say. First use of a result does its work.
    ///
    /// # Errors
    /// A build failure with its details; no or no possible mount for `/`; a secret, an agent or an
    /// id that is not there.
    pub async fn container_mounts(
        &self,
        list: Vec<(pb::Mount, MountSource)>,
    ) -> Result<ContainerMounts, Error> {
        let job = self.inner();
        if !list.iter().any(|(mount, _)| mount.dest == "/") {
            return Err(Error::invalid("a container needs a mount for /"));
        }
        let mut mounts = Vec::with_capacity(list.len());
        let mut inputs = Vec::with_capacity(list.len());
        let mut seen = BTreeSet::new();
        for (mut mount, source) in list {
            if !seen.insert(mount.dest.clone()) {
                let dest = mount.dest;
                return Err(Error::invalid(format!("there are two mounts for {dest}")));
            }
            let tree = match source {
                MountSource::Nothing => None,
                MountSource::Result(result) => Some(Tree::from(self.ready(&result).await?)),
                MountSource::Kept(id) => Some(job.kept(&id).ok_or_else(|| unknown(&id))?),
            };
            // Results only; -1 is what makes a mount none.
            mount.output = -1;
            mount.input = match tree {
                None => -1,
                Some(tree) => {
                    image::ensure(job, &tree.base).await?;
                    inputs.push(tree);
                    i64::try_from(inputs.len()).unwrap_or(i64::MAX) - 1
                }
            };
            mounts.push(mount);
        }
        let meta = pb::Meta {
            cwd: "/".to_owned(),
            ..pb::Meta::default()
        };
        let prepared = Mounts::prepare(job, false, &mounts, &meta, &inputs);
        let mut held = job.until_cancelled(prepared).await?;
        let mounts = held.take();
        Ok(ContainerMounts {
            job: job.clone(),
            held,
            mounts,
        })
    }

    /// The variables whose values are secrets, as `NAME=value`.
    ///
    /// # Errors
    /// A secret that is not optional is not there, or is no text.
    pub async fn secret_env(&self, list: &[pb::SecretEnv]) -> Result<Vec<String>, Error> {
        exec::secret_env(self.inner(), list).await
    }

    /// Lines for `/etc/hosts` as `(host, address)`.
    ///
    /// # Errors
    /// An address that is none.
    pub fn extra_hosts(&self, list: &[pb::HostIp]) -> Result<Vec<(String, String)>, Error> {
        exec::extra_hosts(list)
    }
}

fn unknown(id: &str) -> Error {
    Error::new(Code::NotFound, format!("there is no file system {id}"))
}

impl ContainerMounts {
    pub fn root(&self) -> Root {
        self.held.root()
    }

    pub fn root_readonly(&self) -> bool {
        self.held.root_readonly()
    }

    /// All but that for `/`, in the order in which they are to be made.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// A file of a mount, by the mount's index in the request and an absolute path in it.
    ///
    /// # Errors
    /// No such mount or file, or nothing that could be read from outside.
    pub async fn read_file(
        self: &Arc<Self>,
        index: usize,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        absolute(path)?;
        read::file(self.place(index)?, path, range).await
    }

    /// One level of a directory, sorted by name.
    ///
    /// # Errors
    /// As [`ContainerMounts::read_file`].
    pub async fn read_dir(
        self: &Arc<Self>,
        index: usize,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        absolute(path)?;
        read::dir(self.place(index)?, path, include).await
    }

    /// Follows links inside the mount; one that leads out of it stands for itself.
    ///
    /// # Errors
    /// As [`ContainerMounts::read_file`].
    pub async fn stat_file(self: &Arc<Self>, index: usize, path: &str) -> Result<Stat, Error> {
        absolute(path)?;
        read::stat_or_link(self.place(index)?, path).await
    }

    fn place(self: &Arc<Self>, index: usize) -> Outcome<Place<Arc<Self>>> {
        let shown = self.held.shown();
        let lowers = match shown.get(index) {
            None => {
                let count = shown.len();
                return Err(Error::unknown(format!(
                    "mount index {index} is out of bounds ({count} available)"
                )));
            }
            Some(Shown::Nothing) => {
                return Err(Error::unknown(format!(
                    "the mount of index {index} exists in the container only"
                )));
            }
            Some(Shown::Dir(dir)) => vec![dir.clone()],
            Some(Shown::Tree(tree)) => tree.lowers(self.job.store()),
        };
        Ok(Place {
            lowers: match lowers.is_empty() {
                true => vec![self.empty()],
                false => lowers,
            },
            lease: self.clone(),
        })
    }

    fn empty(&self) -> PathBuf {
        self.job.store().empty_dir()
    }
}

/// Paths of a container have no directory to start from.
fn absolute(path: &str) -> Outcome<()> {
    match path.starts_with('/') {
        true => Ok(()),
        false => Err(Error::unknown(format!(
            "Rel: can't make {path} relative to /"
        ))),
    }
}
