//! LLBBridge for clients that are frontends themselves: the same service, for many builds at once.
//! A call names its build in the metadata. The build's request and its first call travel on their
//! own ways, so a call may be there before its build.

use std::collections::{HashMap, HashSet};
use std::result::Result;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_api::{Code, Error, FrontendFn};
use gateway_proto::error::to_status;
use gateway_proto::frontend::llb_bridge_server::LlbBridge;
use gateway_proto::frontend::*;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::{BridgeService, Outcome, exec};
use crate::host::FrontendLimits;

/// The metadata that names a call's build.
pub const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// How long a call waits for its build, as the reference does.
const EARLY: Duration = Duration::from_secs(3);

/// The builds whose frontend is a client, by id. Cheap to clone.
#[derive(Clone, Default)]
pub struct Builds(Arc<Inner>);

struct Inner {
    builds: Mutex<HashMap<String, Arc<BridgeService>>>,
    /// Builds that will be there: calls wait for them as long as it takes.
    announced: Mutex<HashSet<String>>,
    changed: watch::Sender<()>,
}

impl Default for Inner {
    fn default() -> Self {
        Inner {
            builds: Mutex::default(),
            announced: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl Inner {
    fn locked(&self) -> MutexGuard<'_, HashMap<String, Arc<BridgeService>>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A build that is being prepared; its calls wait while this exists.
pub struct Announcement {
    builds: Builds,
    id: String,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.builds.announced().remove(&self.id);
        self.builds.0.changed.send_replace(());
    }
}

/// A build that can be spoken for; no more when dropped.
struct Registration {
    builds: Builds,
    id: String,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.builds.0.locked().remove(&self.id);
    }
}

impl Builds {
    /// The frontend that is the client of this build: it runs until the client's Return.
    pub fn frontend(&self, id: impl Into<String>, limits: &FrontendLimits) -> FrontendFn {
        let (builds, id, limits) = (self.clone(), id.into(), limits.clone());
        Arc::new(move |gateway| {
            let (builds, id) = (builds.clone(), id.clone());
            let outcome = Arc::new(Outcome::default());
            let service = BridgeService::new(gateway, outcome.clone(), &limits);
            Box::pin(async move {
                let _registration = builds.register(id, service)?;
                outcome.wait().await;
                match outcome.get() {
                    Some(returned) => returned.clone(),
                    None => Err(Error::unknown("no result for incomplete build")),
                }
            })
        })
    }

    fn announced(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0
            .announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A build with this id is on its way, however long that takes.
    pub fn announce(&self, id: impl Into<String>) -> Announcement {
        let id = id.into();
        self.announced().insert(id.clone());
        self.0.changed.send_replace(());
        Announcement {
            builds: self.clone(),
            id,
        }
    }

    fn register(&self, id: String, service: BridgeService) -> Result<Registration, Error> {
        let mut builds = self.0.locked();
        if builds.contains_key(&id) {
            return Err(Error::new(
                Code::AlreadyExists,
                format!("a build with the id {id} is under way"),
            ));
        }
        builds.insert(id.clone(), Arc::new(service));
        self.0.changed.send_replace(());
        drop(builds);
        Ok(Registration {
            builds: self.clone(),
            id,
        })
    }

    /// The service of the build that a call names.
    async fn find(&self, metadata: &MetadataMap, call: &str) -> Result<Arc<BridgeService>, Status> {
        let failed = |error: Error| to_status(&error.context(format!("forwarding {call}")));
        let id = metadata
            .get(BUILD_ID)
            .and_then(|id| id.to_str().ok())
            .filter(|id| !id.is_empty())
            .ok_or_else(|| failed(Error::unknown("no buildid found in context")))?;
        let mut changed = self.0.changed.subscribe();
        let early = tokio::time::sleep(EARLY);
        tokio::pin!(early);
        loop {
            if let Some(service) = self.0.locked().get(id) {
                return Ok(service.clone());
            }
            let announced = self.announced().contains(id);
            tokio::select! {
                changed = changed.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                () = &mut early, if !announced => {
                    return Err(failed(Error::new(Code::NotFound, format!("no such job {id}"))));
                }
            }
        }
    }
}

/// Each call goes to the service of its build.
macro_rules! forward {
    ($($name:ident, $text:literal, $request:ty => $response:ty;)+) => {
        #[tonic::async_trait]
        impl LlbBridge for Builds {
            $(async fn $name(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                let service = self.find(request.metadata(), $text).await?;
                LlbBridge::$name(service.as_ref(), request).await
            })+

            type ExecProcessStream = exec::Answers;

            async fn exec_process(
                &self,
                request: Request<Streaming<ExecMessage>>,
            ) -> Result<Response<Self::ExecProcessStream>, Status> {
                let service = self.find(request.metadata(), "ExecProcess").await?;
                LlbBridge::exec_process(service.as_ref(), request).await
            }
        }
    };
}

forward! {
    ping, "Ping", PingRequest => PongResponse;
    solve, "Solve", SolveRequest => SolveResponse;
    r#return, "Return", ReturnRequest => ReturnResponse;
    inputs, "Inputs", InputsRequest => InputsResponse;
    resolve_image_config, "ResolveImageConfig",
        ResolveImageConfigRequest => ResolveImageConfigResponse;
    resolve_source_meta, "ResolveSourceMeta",
        ResolveSourceMetaRequest => ResolveSourceMetaResponse;
    read_file, "ReadFile", ReadFileRequest => ReadFileResponse;
    read_dir, "ReadDir", ReadDirRequest => ReadDirResponse;
    stat_file, "StatFile", StatFileRequest => StatFileResponse;
    evaluate, "Evaluate", EvaluateRequest => EvaluateResponse;
    warn, "Warn", WarnRequest => WarnResponse;
    new_container, "NewContainer", NewContainerRequest => NewContainerResponse;
    release_container, "ReleaseContainer", ReleaseContainerRequest => ReleaseContainerResponse;
    read_file_container, "ReadFileContainer", ReadFileRequest => ReadFileResponse;
    read_dir_container, "ReadDirContainer", ReadDirRequest => ReadDirResponse;
    stat_file_container, "StatFileContainer", StatFileRequest => StatFileResponse;
}
