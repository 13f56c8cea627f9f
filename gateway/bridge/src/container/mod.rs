//! Containers of frontends, as the engine runs them: mounts made by the solver, processes in one
//! sandbox. The first process started is the sandbox's first; later ones join it.

mod process;
mod signal;
mod stdio;
mod terminal;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gateway_api::{
    Code, Container, ContainerRequest, Error, FileRange, Process, ProcessRequest, Stat,
};
use gateway_llb::pb;
use gateway_sandbox::{Network, ProcessSpec, SandboxSpec, Security, StubRemoval};
use gateway_solver::{ContainerMounts, Job, MountSource};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use process::{Further, LocalProcess};

/// What a process gets that says nothing else.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_TERM: &str = "TERM=xterm";

/// Requests to join the sandbox that wait for its first process to be there.
const PENDING_FURTHER: usize = 64;

/// A container of one frontend call. Dropping it kills what runs in it.
pub(crate) struct LocalContainer {
    inner: Arc<Inner>,
    _end: DropGuard,
}

/// What the container's processes have in common. The mounts stay until the last of them ended.
struct Inner {
    job: Job,
    mounts: Arc<ContainerMounts>,
    network: Network,
    hostname: String,
    extra_hosts: Vec<(String, String)>,
    /// For messages.
    name: String,
    cancel: CancellationToken,
    started: AtomicBool,
    security: Mutex<Option<Security>>,
    /// To the first process; closed when it has ended.
    further: mpsc::Sender<Further>,
    /// Taken by the first process.
    joining: Mutex<Option<mpsc::Receiver<Further>>>,
    running: watch::Sender<usize>,
    failure: Mutex<Option<Error>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// More than the build may do.
fn need(job: &Job, entitlement: &str) -> Result<(), Error> {
    match job.entitlements().contains(entitlement) {
        true => Ok(()),
        false => Err(Error::unknown(format!("{entitlement} is not allowed"))
            .caused_by(gateway_api::Cause::Policy)),
    }
}

impl LocalContainer {
    /// `sources` are those of the request's mounts, in their order; `cancel` ends it.
    ///
    /// # Errors
    /// A mount cannot be made, or the build may not do what is asked for.
    pub async fn new(
        job: &Job,
        name: String,
        request: ContainerRequest,
        sources: Vec<MountSource>,
        cancel: CancellationToken,
    ) -> Result<LocalContainer, Error> {
        let Ok(mode) = pb::NetMode::try_from(request.network) else {
            let mode = request.network;
            return Err(Error::invalid(format!("unknown network mode {mode}")));
        };
        if mode == pb::NetMode::Host {
            need(job, "network.host")?;
        }
        let network = job.steps().network(mode);
        let extra_hosts = job.extra_hosts(&request.extra_hosts)?;
        let list = request.mounts.into_iter().zip(sources).collect();
        let mounts = Arc::new(job.container_mounts(list).await?);
        let (further, joining) = mpsc::channel(PENDING_FURTHER);
        Ok(LocalContainer {
            _end: cancel.clone().drop_guard(),
            inner: Arc::new(Inner {
                job: job.clone(),
                mounts,
                network,
                hostname: request.hostname,
                extra_hosts,
                name,
                cancel,
                started: AtomicBool::new(false),
                security: Mutex::default(),
                further,
                joining: Mutex::new(Some(joining)),
                running: watch::Sender::new(0),
                failure: Mutex::default(),
            }),
        })
    }
}

impl Inner {
    fn gone(&self) -> Error {
        Error::unknown(format!("container {} not found", self.name))
    }

    /// A container has one confinement: that of its first process.
    fn security(&self, number: i32) -> Result<Security, Error> {
        let wanted = match pb::SecurityMode::try_from(number) {
            Ok(pb::SecurityMode::Sandbox) => Security::Sandbox,
            Ok(pb::SecurityMode::Insecure) => {
                need(&self.job, "security.insecure")?;
                Security::Insecure
            }
            Err(_) => {
                return Err(Error::invalid(format!("unknown security mode {number}")));
            }
        };
        match *locked(&self.security).get_or_insert(wanted) {
            first if first == wanted => Ok(wanted),
            _ => Err(Error::new(
                Code::Unimplemented,
                "all processes of a container have the security mode of the first",
            )),
        }
    }

    async fn env(&self, request: &ProcessRequest) -> Result<Vec<String>, Error> {
        let mut env = request.meta.env.clone();
        let mut default = |variable: &str, wanted: bool| {
            let prefix = variable.split_inclusive('=').next().unwrap_or(variable);
            if wanted && !env.iter().any(|known| known.starts_with(prefix)) {
                env.push(variable.to_owned());
            }
        };
        default(DEFAULT_PATH, true);
        default(DEFAULT_TERM, request.tty);
        env.extend(self.job.secret_env(&request.secret_env).await?);
        Ok(env)
    }

    fn specification(
        &self,
        request: &ProcessRequest,
        env: Vec<String>,
        security: Security,
    ) -> SandboxSpec {
        let meta = &request.meta;
        let mut spec = SandboxSpec {
            root_readonly: self.mounts.root_readonly(),
            mounts: self.mounts.mounts().to_vec(),
            env,
            cwd: meta.cwd.clone(),
            user: meta.user.clone(),
            hostname: self.hostname.clone(),
            extra_hosts: self.extra_hosts.clone(),
            network: self.network.clone(),
            security,
            remove_mount_stubs: match meta.remove_mount_stubs_recursive {
                true => StubRemoval::Recursive,
                false => StubRemoval::Leaf,
            },
            terminal: request.tty,
            ..SandboxSpec::new(self.mounts.root(), meta.args.clone())
        };
        self.job.steps().apply(&mut spec);
        spec
    }
}

#[async_trait]
impl Container for LocalContainer {
    async fn start(&self, request: ProcessRequest) -> Result<Box<dyn Process>, Error> {
        let inner = &self.inner;
        if inner.cancel.is_cancelled() {
            return Err(inner.gone());
        }
        let env = inner.env(&request).await?;
        let security = inner.security(request.security)?;
        let process = if inner.started.swap(true, Ordering::Relaxed) {
            let specification = ProcessSpec {
                args: request.meta.args.clone(),
                env,
                cwd: request.meta.cwd.clone(),
                user: request.meta.user.clone(),
                terminal: request.tty,
            };
            LocalProcess::join(inner.clone(), specification, &request)?
        } else {
            let specification = inner.specification(&request, env, security);
            LocalProcess::first(inner.clone(), specification, &request)?
        };
        Ok(Box::new(process))
    }

    async fn read_file(
        &self,
        mount: usize,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        self.inner.mounts.read_file(mount, path, range).await
    }

    async fn read_dir(
        &self,
        mount: usize,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        self.inner.mounts.read_dir(mount, path, include).await
    }

    async fn stat_file(&self, mount: usize, path: &str) -> Result<Stat, Error> {
        self.inner.mounts.stat_file(mount, path).await
    }

    async fn release(&self) -> Result<(), Error> {
        // What is killed by this has not failed.
        let failure = locked(&self.inner.failure).take();
        self.inner.cancel.cancel();
        let mut running = self.inner.running.subscribe();
        // The sender lives as long as `self`.
        let _ = running.wait_for(|count| *count == 0).await;
        failure.map_or(Ok(()), Err)
    }
}
