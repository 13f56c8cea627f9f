//! One build: its results, its session, its progress.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway_api::progress::Progress;
use gateway_api::{
    Code, Error, FileRange, ImageConfig, ResolveImageConfigRequest, ResolveSourceMetaRequest,
    SourceMeta, Stat, Warning,
};
use gateway_llb::pb;
use gateway_session::Session;
use tokio_util::sync::CancellationToken;

use crate::export::{ExportResponse, Exporter, SolvedResult};
use crate::result::{RefInner, ResultRef, RootFs, ScratchDir};
use crate::solver::Solver;

/// What one build brings along.
pub struct JobOptions {
    pub session: Arc<dyn Session>,
    pub progress: Progress,
    /// Of `network.host`, `security.insecure`, `device`.
    pub entitlements: BTreeSet<String>,
    pub cancel: CancellationToken,
}

/// One build. Dropping all clones releases its results.
#[derive(Clone)]
pub struct Job(pub(crate) Arc<JobInner>);

pub(crate) struct JobInner {
    pub(crate) solver: Solver,
    pub(crate) options: JobOptions,
}

impl Job {
    pub(crate) fn new(solver: Solver, options: JobOptions) -> Self {
        Job(Arc::new(JobInner { solver, options }))
    }

    /// Never fails: a broken definition fails at its first use.
    pub fn load(&self, definition: pb::Definition) -> ResultRef {
        ResultRef(Arc::new(RefInner { definition }))
    }

    /// Does the work of a result.
    pub async fn evaluate(&self, _result: &ResultRef) -> Result<(), Error> {
        Err(pending())
    }

    /// A regular file's content, or a part of it. Follows symbolic links inside the root.
    pub async fn read_file(
        &self,
        _result: &ResultRef,
        _path: &str,
        _range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        Err(pending())
    }

    /// One level of a directory, sorted by name.
    pub async fn read_dir(
        &self,
        _result: &ResultRef,
        _path: &str,
        _include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        Err(pending())
    }

    pub async fn stat_file(&self, _result: &ResultRef, _path: &str) -> Result<Stat, Error> {
        Err(pending())
    }

    /// The config of an image, under a progress vertex of the request's log name.
    pub async fn resolve_image_config(
        &self,
        _request: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error> {
        Err(pending())
    }

    pub async fn resolve_source_meta(
        &self,
        _request: ResolveSourceMetaRequest,
    ) -> Result<SourceMeta, Error> {
        Err(pending())
    }

    /// The root file system of a result, for running a container on it.
    pub async fn rootfs(&self, _result: &ResultRef) -> Result<RootFs, Error> {
        Err(pending())
    }

    /// Directories for a throw-away overlay upper.
    pub fn scratch_dir(&self) -> Result<ScratchDir, Error> {
        Err(pending())
    }

    /// Shows a warning of a frontend.
    pub fn warn(&self, _warning: Warning) {}

    pub fn progress(&self) -> &Progress {
        &self.0.options.progress
    }

    pub fn session(&self) -> &Arc<dyn Session> {
        &self.0.options.session
    }

    pub fn entitlements(&self) -> &BTreeSet<String> {
        &self.0.options.entitlements
    }

    pub fn cancelled(&self) -> &CancellationToken {
        &self.0.options.cancel
    }

    pub fn solver(&self) -> &Solver {
        &self.0.solver
    }

    /// Does the work of all results and hands them to the exporters.
    pub async fn export(
        &self,
        _result: SolvedResult,
        _exporters: &[Exporter],
    ) -> Result<ExportResponse, Error> {
        Err(pending())
    }
}

fn pending() -> Error {
    Error::new(Code::Unimplemented, "not supported yet")
}
