//! Containers that a frontend may run over its refs (`NewContainer`, `ExecProcess`).

use async_trait::async_trait;
use gateway_llb::pb;

use crate::error::Error;

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

#[async_trait]
pub trait Container: Send + Sync {
    async fn start(&self, request: ProcessRequest) -> Result<Box<dyn Process>, Error>;
    async fn release(self: Box<Self>) -> Result<(), Error>;
}

#[async_trait]
pub trait Process: Send {
    /// None after `Exit` and the ends of all outputs.
    async fn next_event(&mut self) -> Option<Result<ProcessEvent, Error>>;
    async fn write(&mut self, data: &[u8]) -> Result<(), Error>;
    async fn close_input(&mut self) -> Result<(), Error>;
    async fn resize(&mut self, rows: u32, columns: u32) -> Result<(), Error>;
    /// A name without `SIG`: `KILL`, `TERM`, ...
    async fn signal(&mut self, name: &str) -> Result<(), Error>;
}
