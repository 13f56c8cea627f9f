//! A daemon inside of the test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gateway_api::FrontendFn;
use gateway_bridge::{Engine, EngineOptions, FrontendLimits, FrontendPolicy};
use gateway_daemon::{
    Daemon, DaemonOptions, Grants, HistoryLimits, Listener, PeerLimits, Policies, Worker,
};
use gateway_images::registry::{Registries, RegistriesConfig};
use gateway_solver::{Solver, SolverOptions, StepOptions};

/// With frontends of the test's own, on a socket.
pub async fn daemon(
    dir: &Path,
    builtins: BTreeMap<String, FrontendFn>,
    policies: Option<Policies>,
    peers: PeerLimits,
) -> PathBuf {
    let solver = Solver::open(SolverOptions {
        root: dir.join("store"),
        registries: Registries::new(RegistriesConfig {
            offline: true,
            ..RegistriesConfig::default()
        }),
        launcher: gateway_sandbox::LauncherOptions::default(),
        max_parallelism: 0,
        steps: StepOptions::default(),
        default_platform: gateway_llb::platform::host(),
    })
    .await
    .unwrap();
    let engine = Engine::new(EngineOptions {
        solver: solver.clone(),
        builtins,
        policy: FrontendPolicy::default(),
        limits: FrontendLimits::default(),
    });
    let daemon = Daemon::new(DaemonOptions {
        engine,
        solver,
        root: dir.join("daemon"),
        worker: Worker::default(),
        version: "test".to_owned(),
        grants: Grants::default(),
        limits: FrontendLimits::default(),
        peers,
        history: HistoryLimits::default(),
        policies,
        collector: None,
    })
    .unwrap();
    let socket = dir.join("socket");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move { daemon.serve(Listener::Unix(listener)).await });
    socket
}
