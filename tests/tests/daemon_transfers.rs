//! Directories and messages between the daemon and a client that sends them as clients do, and as they
//! do at their worst: in the smallest pieces, all at once, slowly, largest first.
//!
//! The full sizes take minutes and gigabytes:
//! `cargo nextest run --profile transfers --run-ignored only -p gateway-tests --test daemon_transfers`.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gateway_tests::client::files::{DIR, Received, file};
use gateway_tests::client::session::Settings;
use gateway_tests::client::wire::{Exporter, Named, Nothing, Progress, SolveRequest, Stat};
use gateway_tests::client::{Client, Content, Offers, Session, Tree, graph, new_id};
use gateway_tests::daemon::Daemon;

fn sliced(slice: usize) -> Settings {
    Settings {
        slice,
        ..Settings::default()
    }
}

fn same_key(key: &str) -> Settings {
    Settings {
        shared_key: key.to_owned(),
        ..Settings::default()
    }
}

fn context() -> gateway_tests::client::wire::Definition {
    graph::local("context", &[("local.sharedkeyhint", "context")])
}

/// A file of the directories that the daemon keeps.
fn kept(daemon: &Daemon, name: &str) -> Option<PathBuf> {
    let slots = std::fs::read_dir(daemon.home.store().join("daemon/locals")).ok()?;
    let files = slots
        .flatten()
        .map(|slot| slot.path().join("files").join(name));
    files.into_iter().find(|path| path.exists())
}

/// The long ones end by the limits of their profile.
const LONG: Duration = Duration::from_secs(3600);

async fn very_many(count: usize) {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    let tree = Tree::many(count);
    // As Go does: each message by itself.
    let session = Session::with(&client, Offers::context(tree.clone()), sliced(60)).await;
    let request = SolveRequest {
        name: new_id(),
        session: session.id.clone(),
        definition: Some(context()),
        ..SolveRequest::default()
    };
    client.solve_within(&request, LONG).await.unwrap();
    assert_eq!(tree.asked_count(), count + 1);
    let last = kept(&daemon, &format!("d{:05}/f99", count / 100 - 1)).unwrap();
    assert_eq!(
        std::fs::read_to_string(last).unwrap(),
        format!("{}", count - 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p05_p15_very_many_small_files_arrive_in_small_pieces() {
    very_many(10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute: profile transfers"]
async fn p05_p15_300_000_small_files_arrive_in_small_pieces() {
    very_many(300_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_slices_of_one_byte_are_as_good_as_any() {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    for slice in [1, 3, 1 << 20] {
        let tree = Tree::of(&[("a", "one"), ("b", "two")]);
        let settings = Settings {
            slice,
            ..same_key(&format!("slices of {slice}"))
        };
        let session = Session::with(&client, Offers::context(tree.clone()), settings).await;
        client.define(&session.id, context()).await.unwrap();
        assert_eq!(tree.asked_count(), 2, "slices of {slice}");
    }
}

async fn large(size: u64) {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    let stat = file("large", usize::try_from(size).unwrap(), 1);
    let tree = Tree::new(vec![(stat, Content::Zeros(size))]);
    let session = Session::open(&client, Offers::context(tree)).await;
    let request = SolveRequest {
        name: new_id(),
        session: session.id.clone(),
        definition: Some(context()),
        ..SolveRequest::default()
    };
    client.solve_within(&request, LONG).await.unwrap();
    let meta = std::fs::metadata(kept(&daemon, "large").unwrap()).unwrap();
    assert_eq!(meta.size(), size);
    assert!(daemon.holds().memory < 400, "{:?}", daemon.holds());
}

#[tokio::test(flavor = "multi_thread")]
async fn p15_a_large_file_arrives_whole_and_is_never_in_memory() {
    large(200 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "ten gigabytes: profile transfers"]
async fn p15_a_file_of_ten_gigabytes_arrives_whole_and_is_never_in_memory() {
    large(10 << 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p29_an_unchanged_context_is_one_list_and_a_changed_one_what_changed() {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    let send = async |entries: Vec<(Stat, Content)>| {
        let tree = Tree::new(entries);
        let session = Session::with(&client, Offers::context(tree.clone()), same_key("mine")).await;
        client.define(&session.id, context()).await.unwrap();
        (tree.asked().concat(), tree.sent())
    };
    let entry = |name: &str, size, time| {
        let text = "x".repeat(size);
        (file(name, size, time), Content::Bytes(text.into()))
    };
    let all = || -> Vec<_> {
        let names = (0..1000).map(|number| entry(&format!("f{number:04}"), 3, 1));
        names.collect()
    };
    let (asked, _) = send(all()).await;
    assert_eq!(asked.len(), 1000);
    // Each entry, the end of the list, the end: nothing is asked in between.
    let (asked, sent) = send(all()).await;
    assert_eq!((asked.len(), sent), (0, 1002));
    let mut changed = all();
    changed[1] = entry("f0001", 3, 2);
    changed[2] = entry("f0002", 4, 1);
    changed[3].0.mode = 0o755;
    changed.remove(4);
    let (mut asked, _) = send(changed).await;
    asked.sort();
    assert_eq!(asked, ["f0001", "f0002", "f0003"]);
    assert!(kept(&daemon, "f0005").is_some());
    assert!(kept(&daemon, "f0004").is_none());
}

/// A client that makes many builds makes them on one connection: with three calls of each that last as
/// long as it does.
#[tokio::test(flavor = "multi_thread")]
async fn p05_a_hundred_builds_at_once_share_one_connection() {
    let daemon = Daemon::start("", &[]);
    let client = Arc::new(Client::unix(&daemon.socket()).await);
    let trees: Vec<Tree> = (0..100)
        .map(|number| {
            // A directory that another build has had is not asked for again.
            let names = ["a", "b", "c"].map(|name| format!("{name}{number}"));
            Tree::of(&names.each_ref().map(|name| (name.as_str(), "text")))
        })
        .collect();
    let mut builds = tokio::task::JoinSet::new();
    let gate = Arc::new(tokio::sync::Barrier::new(trees.len()));
    for tree in &trees {
        let (client, tree, gate) = (client.clone(), tree.clone(), gate.clone());
        builds.spawn(async move {
            let name = new_id();
            let session = Session::with(&client, Offers::context(tree), sliced(50)).await;
            gate.wait().await;
            // Not before: it waits three seconds for its build, less than a hundred sessions may take to begin.
            let mut status = client.stream("/moby.buildkit.v1.Control/Status", &[]).await;
            status.send(&Named { name: name.clone() }).await;
            status.finish();
            let request = SolveRequest {
                name,
                session: session.id.clone(),
                definition: Some(context()),
                ..SolveRequest::default()
            };
            client.solve(&request).await.unwrap();
            let mut said = 0;
            while status.next::<Progress>().await.unwrap().is_some() {
                said += 1;
            }
            assert!(said > 0);
        });
    }
    while let Some(built) = builds.join_next().await {
        built.unwrap();
    }
    assert!(trees.iter().all(|tree| tree.asked_count() == 3));
}

/// Transfers that wait with thousands of small frames on the way, on one connection.
#[tokio::test(flavor = "multi_thread")]
async fn p05_many_lists_of_small_files_at_once_are_no_attack() {
    let daemon = Daemon::start("", &[]);
    let client = Arc::new(Client::unix(&daemon.socket()).await);
    let mut builds = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let client = client.clone();
        builds.spawn(async move {
            let tree = Tree::many(1500);
            let session = Session::with(&client, Offers::context(tree.clone()), sliced(60)).await;
            client.define(&session.id, context()).await.unwrap();
            assert_eq!(tree.asked_count(), 1501);
        });
    }
    while let Some(built) = builds.join_next().await {
        built.unwrap();
    }
}

/// More calls than the client takes at once: they wait their turn, and its health is asked beside them.
#[tokio::test(flavor = "multi_thread")]
async fn p05_more_calls_than_a_client_takes_wait_their_turn() {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    let mut offers = Offers::default();
    let names: Vec<String> = (0..120).map(|number| format!("dir{number}")).collect();
    for name in &names {
        offers.trees.insert(name.clone(), Tree::of(&[("a", "a")]));
    }
    let settings = Settings {
        streams: 100,
        ..Settings::default()
    };
    let session = Arc::new(Session::with(&client, offers, settings).await);
    let builds = names.iter().map(|name| {
        let definition = graph::local(name, &[]);
        client.define(&session.id, definition)
    });
    let mut most = 0;
    let builds = builds.collect::<Vec<_>>();
    let all = async {
        for built in join_all(builds).await {
            built.unwrap();
        }
    };
    tokio::pin!(all);
    loop {
        tokio::select! {
            () = &mut all => break,
            () = tokio::time::sleep(Duration::from_millis(1)) => {
                most = most.max(session.offers.open.load(Ordering::Relaxed));
            }
        }
    }
    assert!(most <= 100, "{most} calls at once");
    assert_eq!(session.offers.calls_of("FileSync/DiffCopy"), 120);
}

async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut waiting = false;
        for (future, done) in running.iter_mut().zip(&mut done) {
            if done.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *done = Some(value),
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        match waiting {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(()),
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p05_behind_a_goaway_calls_that_are_open_go_on_and_new_ones_fail() {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    let entries = (0..100).map(|number| {
        let name = format!("f{number:02}");
        (file(&name, 1, 1), Content::Bytes("x".into()))
    });
    let tree = Tree::lying(entries.collect(), gateway_tests::client::files::Lie::Stall);
    let session = Session::open(&client, Offers::context(tree.clone())).await;
    let built = client.define(&session.id, context());
    let leave = async {
        while tree.sent() < 40 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        session.take_no_more();
        tokio::time::sleep(Duration::from_millis(300)).await;
        tree.go_on();
    };
    let (built, ()) = tokio::join!(built, leave);
    built.unwrap();
    assert_eq!(tree.asked_count(), 100);
    // The connection is over: nobody waits for it.
    let error = client.define(&session.id, context()).await.unwrap_err();
    assert!(
        error.message.contains("session") || error.message.contains("client"),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_messages_of_sixteen_megabytes_are_taken_and_larger_ones_are_refused_by_name() {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    let padded = |bytes: usize| {
        let mut definition = context();
        definition.def.insert(0, vec![0; bytes]);
        definition
    };
    // Understood, and then refused for what it is.
    let error = client.define("", padded(15 << 20)).await.unwrap_err();
    assert!(error.code.is_some() && error.code != Some(8), "{error:?}");
    let error = client.define("", padded(17 << 20)).await.unwrap_err();
    assert!(error.message.contains("large"), "{error:?}");
    // Headers that no client has: this call fails, and the connection is as good as before.
    let huge = "x".repeat(300 << 10);
    let path = "/moby.buildkit.v1.Control/ListWorkers";
    let refused = client
        .ask::<Nothing>(path, &[("x-huge", &huge)], &Nothing {})
        .await;
    assert!(refused.is_err());
    client.ask::<Nothing>(path, &[], &Nothing {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_headers_of_a_client_may_be_many_and_not_endless() {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    for (header, fine) in [(200 << 10, true), (2 << 20, false)] {
        let offers = Offers {
            header,
            ..Offers::context(Tree::of(&[("a", "a")]))
        };
        let session = Session::open(&client, offers).await;
        let built = client.define(&session.id, context()).await;
        assert_eq!(built.is_ok(), fine, "{header} bytes: {built:?}");
    }
}

async fn exported(count: usize) {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    let received = Arc::new(Received::default());
    let offers = Offers {
        received: Some(received.clone()),
        ..Offers::context(Tree::many(count))
    };
    let session = Session::open(&client, offers).await;
    let local = || Exporter {
        kind: "local".to_owned(),
        attrs: BTreeMap::new(),
    };
    let copied = SolveRequest {
        name: new_id(),
        session: session.id.clone(),
        frontend: "dockerfile.v0".to_owned(),
        exporters: vec![local()],
        ..SolveRequest::default()
    };
    client.solve_within(&copied, LONG).await.unwrap();
    // `COPY d* /` copies the content of the directories over each other.
    assert_eq!(received.entries.load(Ordering::Relaxed), 100);
    let flat = graph::local("context", &[]);
    let request = SolveRequest {
        name: new_id(),
        session: session.id.clone(),
        definition: Some(flat),
        exporters: vec![local()],
        ..SolveRequest::default()
    };
    client.solve_within(&request, LONG).await.unwrap();
    let all = 100 + count + count / 100 + 1;
    assert_eq!(received.entries.load(Ordering::Relaxed), all);
}

/// The client asks for files while the list still comes; neither side may wait for the other.
#[tokio::test(flavor = "multi_thread")]
async fn p19_very_many_files_are_exported_to_a_client_that_asks_as_the_list_comes() {
    exported(2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute: profile transfers"]
async fn p19_300_000_files_are_exported_to_a_client_that_asks_as_the_list_comes() {
    exported(300_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_a_tree_of_a_thousand_levels_is_no_trouble() {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    let deep = (1..=1000).map(|depth| {
        let dir = Stat {
            path: vec!["d"; depth].join("/"),
            mode: DIR,
            time: 1,
            ..Stat::default()
        };
        (dir, Content::Never)
    });
    for entries in [deep.collect(), Vec::new()] {
        let tree = Tree::new(entries);
        let session = Session::with(&client, Offers::context(tree), same_key("deep")).await;
        client.define(&session.id, context()).await.unwrap();
    }
    assert!(kept(&daemon, "d").is_none());
}
