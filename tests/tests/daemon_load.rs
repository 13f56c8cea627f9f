//! Many clients at once, many builds one after the other, and clients that vanish: afterwards the daemon
//! holds what it held before.
//!
//! The long soak: `cargo nextest run --profile soak --run-ignored only -p gateway-tests --test daemon_load`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gateway_tests::client::files::{Lie, Received};
use gateway_tests::client::wire::{Exporter, Named, Progress, SolveRequest};
use gateway_tests::client::{Client, Content, Failure, Offers, Session, Tree, files, new_id};
use gateway_tests::daemon::{Daemon, Holds, has_control_groups};
use gateway_tests::registry::Registry;
use gateway_tests::remains::nothing_left_behind;

/// Builds of the same steps but for one, which is run.
fn tree(number: usize) -> Tree {
    let text = format!("FROM busybox\nCOPY a b c /\nRUN echo {number} > /number\n");
    let mut entries = vec![Tree::dockerfile(&text)];
    for name in ["a", "b", "c"] {
        let text = format!("{name}{}", number % 10);
        entries.push((
            files::file(name, text.len(), 1),
            Content::Bytes(text.into()),
        ));
    }
    Tree::new(entries)
}

/// What every build is told: where its control groups are, to be counted.
fn options(daemon: &Daemon) -> BTreeMap<String, String> {
    BTreeMap::from([("cgroup-parent".to_owned(), daemon.cgroup_parent())])
}

async fn build(
    client: &Client,
    number: usize,
    options: BTreeMap<String, String>,
) -> Result<(), Failure> {
    let session = Session::open(client, Offers::context(tree(number))).await;
    let request = SolveRequest {
        name: new_id(),
        session: session.id.clone(),
        frontend: "dockerfile.v0".to_owned(),
        options,
        ..SolveRequest::default()
    };
    client.solve(&request).await.map(|_| ())
}

/// Builds of so many clients, each with a connection of its own.
async fn builds(daemon: &Daemon, clients: usize, each: usize, at_once: bool, first: usize) {
    let mut running = tokio::task::JoinSet::new();
    let most = Arc::new(AtomicUsize::new(0));
    let now = Arc::new(AtomicUsize::new(0));
    for client in 0..clients {
        let (socket, options) = (daemon.socket(), options(daemon));
        let (now, most) = (now.clone(), most.clone());
        running.spawn(async move {
            let connection = Arc::new(Client::unix(&socket).await);
            let mut own = tokio::task::JoinSet::new();
            for number in 0..each {
                let (connection, now, most) = (connection.clone(), now.clone(), most.clone());
                let options = options.clone();
                let build = async move {
                    most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                    let built = build(&connection, first + client * each + number, options).await;
                    now.fetch_sub(1, Ordering::Relaxed);
                    built.unwrap();
                };
                match at_once {
                    true => {
                        own.spawn(build);
                    }
                    false => build.await,
                }
            }
            while let Some(built) = own.join_next().await {
                built.unwrap();
            }
        });
    }
    while let Some(client) = running.join_next().await {
        client.unwrap();
    }
    if at_once {
        assert_eq!(most.load(Ordering::Relaxed), clients * each);
    }
}

/// Waits until the daemon holds no more than before; threads and memory linger a little.
async fn settles(daemon: &Daemon, before: Holds) -> Holds {
    let begun = Instant::now();
    loop {
        let now = daemon.holds();
        let same = now.descriptors <= before.descriptors + 2
            && now.threads <= before.threads + 4
            && now.mounts <= before.mounts
            && now.children <= before.children
            && now.cgroups <= before.cgroups
            && now.files <= before.files
            && now.memory <= before.memory + MEMORY;
        if same {
            return now;
        }
        let waited = begun.elapsed();
        assert!(
            waited < Duration::from_secs(90),
            "{now:?}, {before:?} before"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// MiB that may stay: history of the builds, what the allocator keeps for the next ones.
const MEMORY: usize = 48;

struct Rig {
    _registry: Registry,
    daemon: Daemon,
}

impl Rig {
    async fn new() -> Rig {
        let registry = Registry::with_base_images();
        let daemon = Daemon::start(&registry.as_docker_hub(), &[]);
        let rig = Rig {
            _registry: registry,
            daemon,
        };
        // Opens what stays open: the launcher, the database, the image.
        builds(&rig.daemon, 4, 2, true, 0).await;
        // Connections to the registry, and threads that nobody needs, go after ten seconds.
        tokio::time::sleep(Duration::from_secs(12)).await;
        rig
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_builds_at_once_of_fifty_clients_complete_and_leave_nothing() {
    let rig = Rig::new().await;
    let before = rig.daemon.holds();
    let begun = Instant::now();
    builds(&rig.daemon, 50, 4, true, 1000).await;
    let (took, during) = (begun.elapsed(), rig.daemon.holds());
    let after = settles(&rig.daemon, before).await;
    println!("200 builds in {took:?}: {before:?}, right behind {during:?}, then {after:?}");
}

async fn soak(count: usize) {
    let mut rig = Rig::new().await;
    let before = rig.daemon.holds();
    let begun = Instant::now();
    builds(&rig.daemon, 5, count / 5, false, 10_000).await;
    let took = begun.elapsed();
    let after = settles(&rig.daemon, before).await;
    println!("{count} builds in {took:?}: {before:?}, then {after:?}");
    assert!(rig.daemon.stop(), "{}", rig.daemon.log());
    nothing_left_behind(&rig.daemon.home.store());
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_builds_one_after_the_other_leave_nothing() {
    soak(50).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: profile soak"]
async fn a_thousand_builds_one_after_the_other_leave_nothing() {
    soak(1000).await;
}

/// A build with something of everything: files that come, a step that runs, files that go.
async fn begin(
    daemon: &Daemon,
    client: &Client,
    offers: Offers,
    number: usize,
) -> (String, Session, gateway_tests::client::Stream) {
    let session = Session::open(client, offers).await;
    let mut options = options(daemon);
    options.insert("build-arg:NUMBER".to_owned(), number.to_string());
    let request = SolveRequest {
        name: new_id(),
        session: session.id.clone(),
        frontend: "dockerfile.v0".to_owned(),
        options,
        exporters: vec![Exporter {
            kind: "local".to_owned(),
            attrs: BTreeMap::new(),
        }],
        ..SolveRequest::default()
    };
    let mut solve = client.stream("/moby.buildkit.v1.Control/Solve", &[]).await;
    solve.send(&request).await;
    solve.finish();
    (request.name, session, solve)
}

fn everything(sleep: &str) -> Vec<(gateway_tests::client::wire::Stat, Content)> {
    let text = format!(
        "FROM busybox\nARG NUMBER\nCOPY f* /in/\nRUN echo $((6*7)) begun $NUMBER; sleep {sleep}; echo $NUMBER > /in/number\n"
    );
    let mut entries = vec![Tree::dockerfile(&text)];
    entries.extend((0..500).map(|number| {
        let name = format!("f{number:04}");
        (files::file(&name, 5, 1), Content::Bytes("hello".into()))
    }));
    entries
}

fn taking(
    entries: Vec<(gateway_tests::client::wire::Stat, Content)>,
    lie: Lie,
) -> (Offers, Tree, Arc<Received>) {
    let tree = Tree::lying(entries, lie);
    let received = Arc::new(Received::default());
    let mut offers = Offers::context(tree.clone());
    offers.received = Some(received.clone());
    (offers, tree, received)
}

/// Nothing of a client that is gone is left.
async fn nothing_is_left(daemon: &Daemon, before: Holds, when: &str) {
    let other = Client::unix(&daemon.socket()).await;
    let begun = Instant::now();
    while !other.running().await.unwrap().is_empty() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "builds go on: {when}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(other);
    let after = settles(daemon, before).await;
    assert!(after.files <= before.files, "{when}: {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p24_clients_that_vanish_at_a_named_moment_leave_nothing() {
    let rig = Rig::new().await;
    let before = rig.daemon.holds();
    let wait = async |what: &str, so: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !so() {
            assert!(begun.elapsed() < Duration::from_secs(60), "not so: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // During the transfer to the daemon.
    let client = Client::unix(&rig.daemon.socket()).await;
    let (offers, tree, _) = taking(everything("0"), Lie::Stall);
    let _build = begin(&rig.daemon, &client, offers, 1).await;
    wait("the list comes", &|| tree.sent() > 200).await;
    client.vanish();
    nothing_is_left(&rig.daemon, before, "during the transfer").await;

    // During a step.
    let client = Client::unix(&rig.daemon.socket()).await;
    let (offers, _, _) = taking(everything("100000"), Lie::None);
    let (name, _session, _solve) = begin(&rig.daemon, &client, offers, 2).await;
    let mut status = client.stream("/moby.buildkit.v1.Control/Status", &[]).await;
    status.send(&Named { name }).await;
    status.finish();
    let begun = AtomicBool::new(false);
    while !begun.load(Ordering::Relaxed) {
        let said = status
            .next::<Progress>()
            .await
            .unwrap()
            .expect("the build runs");
        let text = said
            .logs
            .iter()
            .any(|log| String::from_utf8_lossy(&log.text).contains("42 begun"));
        begun.store(text, Ordering::Relaxed);
    }
    // What is counted is there while the step runs.
    let holds = rig.daemon.holds();
    if has_control_groups() {
        assert!(holds.cgroups > before.cgroups, "{holds:?}");
    }
    client.vanish();
    nothing_is_left(&rig.daemon, before, "during a step").await;

    // During the transfer to the client.
    let client = Client::unix(&rig.daemon.socket()).await;
    let (offers, _, received) = taking(everything("0"), Lie::None);
    received.stalled.store(true, Ordering::Relaxed);
    let (_, session, _solve) = begin(&rig.daemon, &client, offers, 3).await;
    let offers = session.offers.clone();
    wait("files go out", &|| offers.calls_of("FileSend/DiffCopy") > 0).await;
    client.vanish();
    nothing_is_left(&rig.daemon, before, "during the export").await;

    // And it builds on.
    builds(&rig.daemon, 1, 1, true, 5000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p24_clients_that_vanish_at_any_moment_leave_nothing() {
    let rig = Rig::new().await;
    // How long a whole build takes says when there is something to vanish from.
    let client = Client::unix(&rig.daemon.socket()).await;
    let (offers, _, received) = taking(everything("0.1"), Lie::None);
    let begun = Instant::now();
    let (_, _session, mut solve) = begin(&rig.daemon, &client, offers, 100).await;
    solve.next::<Named>().await.unwrap();
    let whole = begun.elapsed();
    assert!(received.entries.load(Ordering::Relaxed) > 500);
    drop((solve, _session, client));
    let before = rig.daemon.holds();
    // Moments that are spread over it, some behind its end.
    for moment in 0..20_u32 {
        let client = Client::unix(&rig.daemon.socket()).await;
        let (offers, _, _) = taking(everything("0.1"), Lie::None);
        let _build = begin(&rig.daemon, &client, offers, 200 + moment as usize).await;
        let jitter = Duration::from_micros(u64::from(moment) * 7919 % 5000);
        tokio::time::sleep(whole * moment / 18 + jitter).await;
        client.vanish();
    }
    nothing_is_left(&rig.daemon, before, "at any moment").await;
    builds(&rig.daemon, 1, 1, true, 6000).await;
}
