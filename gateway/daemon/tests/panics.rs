//! What breaks in one build breaks that build: it is told so, and the daemon goes on.

mod rig;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gateway_api::{BuildResult, Error, FrontendFn, Gateway};
use gateway_daemon::PeerLimits;
use gateway_solver::{DiskSpace, PruneOptions};
use gateway_tests::client::wire::{
    HistoryEvent, HistoryRequest, Named, Nothing, Progress, SolveRequest, SolveResponse,
};
use gateway_tests::client::{Client, Failure, new_id};

fn frontend<F>(function: fn() -> F) -> FrontendFn
where
    F: Future<Output = Result<BuildResult, Error>> + Send + 'static,
{
    Arc::new(move |_: Arc<dyn Gateway>| Box::pin(function()))
}

async fn panics() -> Result<BuildResult, Error> {
    panic!("a mistake of ours")
}

async fn panics_later() -> Result<BuildResult, Error> {
    tokio::task::yield_now().await;
    let list: Vec<u8> = Vec::new();
    let _ = list[std::hint::black_box(3)];
    Ok(BuildResult::default())
}

async fn fine() -> Result<BuildResult, Error> {
    Ok(BuildResult::default())
}

/// Whether answers about the store's limits panic.
static PANIC: AtomicBool = AtomicBool::new(false);

fn policies(_: DiskSpace) -> Vec<PruneOptions> {
    assert!(!PANIC.load(Ordering::Relaxed), "a mistake of ours");
    Vec::new()
}

async fn daemon(dir: &Path) -> PathBuf {
    let frontends = BTreeMap::from([
        ("panics".to_owned(), frontend(panics)),
        ("panics.later".to_owned(), frontend(panics_later)),
        ("fine".to_owned(), frontend(fine)),
    ]);
    rig::daemon(
        dir,
        frontends,
        Some(Arc::new(policies)),
        PeerLimits::default(),
    )
    .await
}

async fn build(client: &Client, name: &str, frontend: &str) -> Result<SolveResponse, Failure> {
    let request = SolveRequest {
        name: name.to_owned(),
        frontend: frontend.to_owned(),
        ..SolveRequest::default()
    };
    client.solve(&request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_its_build_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let socket = daemon(dir.path()).await;
    let client = Client::unix(&socket).await;
    for frontend in ["panics", "panics.later"] {
        let name = new_id();
        let (failed, other) = tokio::join!(
            build(&client, &name, frontend),
            build(&client, "other", "fine")
        );
        let error = failed.unwrap_err();
        assert_eq!(error.code, Some(13), "{error:?}");
        assert!(error.message.contains("internal failure"), "{error:?}");
        other.unwrap();
        // It is over for everybody: its progress ends, and history knows how.
        let mut status = client.stream("/moby.buildkit.v1.Control/Status", &[]).await;
        status.send(&Named { name: name.clone() }).await;
        status.finish();
        while status.next::<Progress>().await.unwrap().is_some() {}
        assert!(client.running().await.unwrap().is_empty());
        let path = "/moby.buildkit.v1.Control/ListenBuildHistory";
        let mut history = client.stream(path, &[]).await;
        let about = HistoryRequest {
            name: name.clone(),
            early_exit: true,
            ..HistoryRequest::default()
        };
        history.send(&about).await;
        history.finish();
        let event = history.next::<HistoryEvent>().await.unwrap().unwrap();
        assert_eq!((event.kind, event.record.unwrap().name), (1, name));
        let other = Deleted {
            name: "other".to_owned(),
            delete: true,
        };
        let path = "/moby.buildkit.v1.Control/UpdateBuildHistory";
        client.ask::<Nothing>(path, &[], &other).await.unwrap();
    }
    build(&client, "last", "fine").await.unwrap();

    // A call that panics is that call; its connection goes on.
    PANIC.store(true, Ordering::Relaxed);
    let workers = "/moby.buildkit.v1.Control/ListWorkers";
    assert!(
        client
            .ask::<Nothing>(workers, &[], &Nothing {})
            .await
            .is_err()
    );
    PANIC.store(false, Ordering::Relaxed);
    client
        .ask::<Nothing>(workers, &[], &Nothing {})
        .await
        .unwrap();
}

#[derive(Clone, PartialEq, prost::Message)]
struct Deleted {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "3")]
    delete: bool,
}
