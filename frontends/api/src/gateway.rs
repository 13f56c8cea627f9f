//! The trait itself, and what a frontend is called with.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use gateway_llb::pb;

use crate::caps::CapSet;
use crate::container::{Container, ContainerRequest};
use crate::error::Error;
use crate::request::*;
use crate::result::{BuildResult, Ref};

/// What a frontend call is given beside the calls it may make: known at its start and unchanging.
#[derive(Debug, Clone, Default)]
pub struct Invocation {
    /// All frontend options, `source` and `cmdline` included.
    pub opts: BTreeMap<String, String>,
    /// The client's session: goes verbatim into `local.session` attributes.
    pub session_id: String,
    /// `buildkit`, `docker` or empty: only used in error texts about capabilities.
    pub product: String,
    /// Default worker first.
    pub workers: Vec<Worker>,
    pub frontend_caps: CapSet,
    pub llb_caps: CapSet,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Worker {
    pub id: String,
    pub labels: BTreeMap<String, String>,
    pub platforms: Vec<pb::Platform>,
}

/// What a frontend may ask. Implemented by the engine (in process) and by the stdio client.
///
/// Every future may be dropped to cancel the call.
#[async_trait]
pub trait Gateway: Send + Sync {
    fn invocation(&self) -> &Invocation;

    /// Definitions that the caller handed over by name; empty if none.
    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, Error>;

    async fn solve(&self, request: SolveRequest) -> Result<BuildResult, Error>;

    async fn resolve_image_config(
        &self,
        request: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error>;

    async fn resolve_source_meta(
        &self,
        request: ResolveSourceMetaRequest,
    ) -> Result<SourceMeta, Error>;

    /// First use of a ref builds it; a build failure comes back here with its details.
    async fn read_file(
        &self,
        reference: &Ref,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error>;

    /// One level, sorted by name; `include` is a pattern relative to the directory.
    async fn read_dir(
        &self,
        reference: &Ref,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error>;

    /// Follows symbolic links, inside the root only.
    async fn stat_file(&self, reference: &Ref, path: &str) -> Result<Stat, Error>;

    async fn evaluate(&self, reference: &Ref) -> Result<(), Error>;

    async fn warn(&self, warning: Warning) -> Result<(), Error>;

    /// A container over refs of this call; released when dropped or when the call ends.
    async fn new_container(&self, request: ContainerRequest) -> Result<Box<dyn Container>, Error>;
}

/// A frontend as a function: the same code runs in process and as an image.
pub type FrontendFn = Arc<
    dyn Fn(
            Arc<dyn Gateway>,
        ) -> Pin<Box<dyn Future<Output = Result<BuildResult, Error>> + Send + 'static>>
        + Send
        + Sync,
>;
