//! Containers that a frontend may run over its refs (`NewContainer`, `ExecProcess`).

use async_trait::async_trait;
use gateway_llb::pb;

use crate::error::Error;
use crate::request::{FileRange, Stat};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerRequest {
    /// `result_id` of a mount is a ref id of this call, or an id from a solve error.
    pub mounts: Vec<pb::Mount>,
    pub network: i32,
    pub platform: Option<pb::Platform>,
    pub constraints: Option<pb::WorkerConstraints>,
    pub extra_hosts: Vec<pb::HostIp>,
    pub hostname: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProcessRequest {
    pub meta: pb::Meta,
    /// Which of 0, 1, 2 the caller wants; the others are empty or discarded.
    pub fds: Vec<u32>,
    pub tty: bool,
    pub security: i32,
    pub secret_env: Vec<pb::SecretEnv>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ProcessEvent {
    Started,
    Output {
        fd: u32,
        data: Vec<u8>,
    },
    OutputEnd {
        fd: u32,
    },
    /// None: success.
    Exit(Option<Error>),
}

/// Processes over mounts. The first one started is the main process: when it ends, the others end
/// with it and no further ones can be started. Dropping it releases it.
#[async_trait]
pub trait Container: Send + Sync {
    /// Starts a process. One that cannot be executed is no error here: its events say so.
    ///
    /// # Errors
    /// More is asked for than this build may do, or a secret is not there.
    async fn start(&self, request: ProcessRequest) -> Result<Box<dyn Process>, Error>;

    /// A file of a mount, by the mount's index in the request and an absolute path in it. Works
    /// before, while and after processes run.
    async fn read_file(
        &self,
        mount: usize,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error>;

    /// One level, sorted by name; `include` is a pattern relative to the directory.
    async fn read_dir(
        &self,
        mount: usize,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error>;

    /// Follows symbolic links; one that leads out of the mount stands for itself.
    async fn stat_file(&self, mount: usize, path: &str) -> Result<Stat, Error>;

    /// Kills what runs and waits for its end.
    ///
    /// # Errors
    /// That of the first process that failed before; callers may ignore it.
    async fn release(&self) -> Result<(), Error>;
}

/// A process of a container. Dropping it kills it where the transport can tell; releasing the
/// container always does.
#[async_trait]
pub trait Process: Send + Sync {
    /// `Started`, output, `Exit`, the ends of all outputs, then `None`; output may follow `Exit`.
    /// The future may be dropped without losing an event. One caller at a time.
    async fn next_event(&self) -> Option<Result<ProcessEvent, Error>>;

    /// Waits while the process does not read. What a process that has ended would get is dropped.
    ///
    /// # Errors
    /// Its input was not asked for, or is closed already.
    async fn write(&self, data: &[u8]) -> Result<(), Error>;

    /// # Errors
    /// As [`Process::write`].
    async fn close_input(&self) -> Result<(), Error>;

    /// The terminal's size in characters; nothing happens without a terminal.
    async fn resize(&self, rows: u32, columns: u32) -> Result<(), Error>;

    /// A name without `SIG`: `KILL`, `TERM`, ...
    ///
    /// # Errors
    /// There is no signal of this name.
    async fn signal(&self, name: &str) -> Result<(), Error>;
}
