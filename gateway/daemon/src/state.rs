//! A daemon: the engine, and what outlives a connection.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_bridge::service::Builds;
use gateway_bridge::{Engine, FrontendLimits};
use gateway_llb::pb;
use gateway_proto::types::{BuildkitVersion, GcPolicy, WorkerRecord};
use gateway_solver::{DiskSpace, PruneOptions, Solver};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::control::{History, Jobs};
use crate::docker::Uploads;
use crate::grants::Grants;
use crate::peer::{Client, Credentials, Peer};
use crate::session::{Locals, Sessions};
use crate::trace::{Collector, Traces};

/// What clients are told of the one who works.
#[derive(Debug, Clone, Default)]
pub struct Worker {
    pub id: String,
    pub labels: BTreeMap<String, String>,
    /// The default one first.
    pub platforms: Vec<pb::Platform>,
}

/// How long finished builds are remembered.
#[derive(Debug, Clone, Copy)]
pub struct HistoryLimits {
    /// Younger ones are kept.
    pub age: Duration,
    /// At least this many are kept.
    pub entries: usize,
}

impl Default for HistoryLimits {
    /// Those of the reference.
    fn default() -> Self {
        HistoryLimits {
            age: Duration::from_secs(48 * 3600),
            entries: 50,
        }
    }
}

/// What one client may have at once: more is refused, with the number.
#[derive(Debug, Clone, Copy)]
pub struct PeerLimits {
    pub connections: usize,
    pub sessions: usize,
    pub builds: usize,
}

impl Default for PeerLimits {
    fn default() -> Self {
        PeerLimits {
            // Docker has three for each of its builds.
            connections: 2048,
            // Every build of every client has one or two.
            sessions: 4096,
            // More than any machine can do something useful for.
            builds: 1000,
        }
    }
}

/// The limits that the store is kept within, once the disk is known.
pub type Policies = Arc<dyn Fn(DiskSpace) -> Vec<PruneOptions> + Send + Sync>;

/// Configuration, as values.
pub struct DaemonOptions {
    pub engine: Engine,
    pub solver: Solver,
    /// For the daemon's own files; made if it is missing.
    pub root: PathBuf,
    pub worker: Worker,
    /// What we are called (`Info`), and the release.
    pub version: String,
    /// What builds may be granted.
    pub grants: Grants,
    pub limits: FrontendLimits,
    pub peers: PeerLimits,
    pub history: HistoryLimits,
    /// `None`: the store is never collected by itself.
    pub policies: Option<Policies>,
    /// Where the spans go that clients send; dropped without one.
    pub collector: Option<Collector>,
}

/// Between builds of one client there is less.
const LULL: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone)]
pub struct Daemon(pub(crate) Arc<State>);

pub(crate) struct State {
    pub options: DaemonOptions,
    pub sessions: Sessions,
    pub locals: Locals,
    pub jobs: Jobs,
    pub history: History,
    pub uploads: Uploads,
    pub traces: Traces,
    peers: Mutex<HashMap<Peer, Present>>,
    /// Connections that are open.
    connections: watch::Sender<usize>,
    /// Room for clients that are told why they may not come in.
    pub refusals: Arc<Semaphore>,
    /// No new connections.
    pub stopping: CancellationToken,
}

impl Daemon {
    /// # Errors
    /// When the directory cannot be used.
    pub fn new(options: DaemonOptions) -> std::io::Result<Daemon> {
        // What is kept of clients, programs with rights of root too, is for nobody else on this machine.
        let mut private = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
        private.recursive(true).create(&options.root)?;
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o700);
        std::fs::set_permissions(&options.root, mode)?;
        // What a daemon before this one left unfinished.
        let scratch = options.root.join("tmp");
        let _ = std::fs::remove_dir_all(&scratch);
        std::fs::create_dir_all(&scratch)?;
        Ok(Daemon(Arc::new(State {
            sessions: Sessions::new(options.peers.sessions),
            locals: Locals::open(&options.root.join("locals"))?,
            jobs: Jobs::new(options.peers.builds),
            history: History::open(&options.root.join("history"), options.history)?,
            uploads: Uploads::default(),
            traces: Traces::new(options.collector.clone()),
            peers: Mutex::default(),
            connections: watch::Sender::new(0),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            stopping: CancellationToken::new(),
            options,
        })))
    }

    /// No more connections; builds that run are cancelled. [`Daemon::idle`] ends when all is over.
    pub fn stop(&self) {
        // Builds first: what their clients read is that they were stopped, not what they miss from then on.
        self.0.jobs.stop();
        self.0.stopping.cancel();
    }

    /// Ends when nobody is connected and nothing is built any more.
    pub async fn idle(&self) {
        let mut connections = self.0.connections.subscribe();
        let mut jobs = self.0.jobs.count();
        loop {
            if *connections.borrow_and_update() == 0 && *jobs.borrow_and_update() == 0 {
                return;
            }
            tokio::select! {
                _ = connections.changed() => {}
                _ = jobs.changed() => {}
            }
        }
    }

    /// Ends when something was built and nothing has been for a moment: the time to give back what it took.
    pub async fn lull(&self) {
        let mut jobs = self.0.jobs.count();
        jobs.mark_unchanged();
        loop {
            if jobs.changed().await.is_err() {
                return std::future::pending().await;
            }
            while *jobs.borrow_and_update() == 0 {
                tokio::select! {
                    () = tokio::time::sleep(LULL) => return,
                    _ = jobs.changed() => {}
                }
            }
        }
    }

    /// Ends when there was neither a connection nor a build for this long.
    pub async fn idle_for(&self, limit: Duration) {
        loop {
            self.idle().await;
            let mut connections = self.0.connections.subscribe();
            tokio::select! {
                () = tokio::time::sleep(limit) => return,
                _ = connections.changed() => {}
            }
        }
    }
}

/// Clients at once that are told why they may not come in; the rest of them are not told. What one client
/// has too many must not take the places of others.
const REFUSALS: usize = 64;

/// A peer that is connected.
#[derive(Default)]
struct Present {
    connections: usize,
    /// Its builds whose frontends are clients.
    builds: Builds,
}

/// A connection that is open; counted until dropped.
pub(crate) struct Connected {
    daemon: Daemon,
    peer: Peer,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut peers = self.daemon.peers();
        if let Some(present) = peers.get_mut(&self.peer) {
            present.connections -= 1;
            if present.connections == 0 {
                peers.remove(&self.peer);
            }
        }
        drop(peers);
        let connections = &self.daemon.0.connections;
        connections.send_modify(|count| *count -= 1);
    }
}

impl Daemon {
    fn peers(&self) -> MutexGuard<'_, HashMap<Peer, Present>> {
        self.0.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// In words for the peer, when it has too many.
    pub(crate) fn connected(&self, peer: &Peer) -> Result<Connected, String> {
        let mut peers = self.peers();
        let present = peers.entry(peer.clone()).or_default();
        let most = self.0.options.peers.connections;
        if present.connections >= most {
            return Err(format!(
                "more than {most} connections of one client at once"
            ));
        }
        present.connections += 1;
        drop(peers);
        self.0.connections.send_modify(|count| *count += 1);
        Ok(Connected {
            daemon: self.clone(),
            peer: peer.clone(),
        })
    }

    /// A peer with what its builds may be granted.
    pub(crate) fn client(&self, peer: Peer, credentials: &Credentials) -> Client {
        let granted = self.0.options.grants.of(&peer, credentials);
        Client { peer, granted }
    }

    /// The builds of one peer whose frontends are clients.
    pub(crate) fn builds(&self, peer: &Peer) -> Builds {
        let peers = self.peers();
        peers
            .get(peer)
            .map(|present| present.builds.clone())
            .unwrap_or_default()
    }

    pub(crate) fn version(&self) -> BuildkitVersion {
        BuildkitVersion {
            package: "gateway".to_owned(),
            version: self.0.options.version.clone(),
            ..BuildkitVersion::default()
        }
    }

    pub(crate) fn worker(&self) -> WorkerRecord {
        let options = &self.0.options;
        let policies = match (&options.policies, options.solver.disk_space()) {
            (Some(policies), Ok(disk)) => policies(disk),
            _ => Vec::new(),
        };
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        WorkerRecord {
            id: options.worker.id.clone(),
            labels: options.worker.labels.clone(),
            platforms: options.worker.platforms.clone(),
            gc_policy: policies
                .into_iter()
                .map(|policy| GcPolicy {
                    all: policy.all,
                    keep_duration: i64::try_from(policy.keep_duration.as_nanos())
                        .unwrap_or(i64::MAX),
                    filters: policy.filters,
                    reserved_space: bytes(policy.reserved_space),
                    max_used_space: bytes(policy.max_used_space),
                    min_free_space: bytes(policy.min_free_space),
                })
                .collect(),
            buildkit_version: Some(self.version()),
            cdi_devices: Vec::new(),
        }
    }
}
