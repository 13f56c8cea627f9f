//! Clients that lie, break the protocols, or reach for what belongs to others. Whatever they do, they are
//! told what is wrong where that is possible, and the daemon serves the next client.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_tests::client::build::{bridge_solve, driven};
use gateway_tests::client::files::{DIR, LINK, Lie, file};
use gateway_tests::client::graph::{self, Rights};
use gateway_tests::client::session::Settings;
use gateway_tests::client::wire::{Definition, Nothing, ReturnRequest, SolveRequest, Stat};
use gateway_tests::client::{Client, Content, Offers, Session, Tree, new_id};
use gateway_tests::daemon::Daemon;
use gateway_tests::registry::Registry;

const WORKERS: &str = "/moby.buildkit.v1.Control/ListWorkers";

fn context() -> Definition {
    graph::local("context", &[("local.sharedkeyhint", "context")])
}

/// The daemon serves whoever comes next.
async fn alive(daemon: &Daemon) {
    let client = Client::unix(&daemon.socket()).await;
    let session = Session::open(&client, Offers::context(Tree::of(&[("a", "a")]))).await;
    client.define(&session.id, context()).await.unwrap();
}

fn locals(daemon: &Daemon) -> Vec<String> {
    let mut found = Vec::new();
    let slots = std::fs::read_dir(daemon.home.store().join("daemon/locals"));
    for slot in slots.unwrap().flatten() {
        let files = std::fs::read_dir(slot.path().join("files")).unwrap();
        found.extend(
            files
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned()),
        );
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_lists_that_lie_are_refused_with_the_reason_and_nothing_of_them_stays() {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    let dir = |path: &str| Stat {
        path: path.to_owned(),
        mode: DIR,
        ..Stat::default()
    };
    let link = |path: &str, to: &str| Stat {
        path: path.to_owned(),
        mode: LINK,
        link: to.to_owned(),
        ..Stat::default()
    };
    let outside = daemon.home.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let never = |stats: Vec<Stat>| -> Vec<_> {
        stats
            .into_iter()
            .map(|stat| (stat, Content::Never))
            .collect()
    };
    let sent = |stat: Stat, content| vec![(stat, content)];
    let numbered: Vec<_> = (0..100)
        .map(|number| {
            (
                file(&format!("{number:03}"), 9, 1),
                Content::Bytes("x".into()),
            )
        })
        .collect();
    for (entries, lie, reason) in [
        (never(vec![file("../x", 1, 1)]), Lie::None, "invalid path"),
        (never(vec![file("/x", 1, 1)]), Lie::None, "invalid path"),
        (never(vec![file("a/../x", 1, 1)]), Lie::None, "invalid path"),
        (never(vec![file("a\0b", 1, 1)]), Lie::None, "invalid path"),
        (
            never(vec![file(&"n".repeat(5000), 1, 1)]),
            Lie::None,
            "invalid path",
        ),
        (
            never(vec![file("b", 1, 1), file("a", 1, 1)]),
            Lie::None,
            "out of order",
        ),
        (
            never(vec![file("a", 1, 1), file("a", 1, 1)]),
            Lie::None,
            "out of order",
        ),
        (never(vec![file("a/b", 1, 1)]), Lie::None, "not announced"),
        (
            never(vec![
                link("l", &outside.display().to_string()),
                file("l/x", 1, 1),
            ]),
            Lie::None,
            "not announced",
        ),
        (
            never(vec![Stat {
                link: "no".into(),
                ..file("a", 0, 1)
            }]),
            Lie::None,
            "unknown path",
        ),
        (
            never(vec![Stat {
                mode: 1 << 31 | 1 << 27,
                ..file("a", 0, 1)
            }]),
            Lie::None,
            "is of no file",
        ),
        (
            never(vec![Stat {
                size: i64::MAX,
                ..file("a", 0, 1)
            }]),
            Lie::None,
            "no space",
        ),
        (
            never(vec![Stat {
                size: -1,
                ..file("a", 0, 1)
            }]),
            Lie::None,
            "below zero",
        ),
        (
            sent(file("a", 1, 1), Content::Endless),
            Lie::None,
            "bytes came of a file of 1",
        ),
        (
            never(vec![dir("d")]),
            Lie::EndlessList,
            "list of files is larger",
        ),
        (never(Vec::new()), Lie::Unasked, "invalid file request"),
        (numbered, Lie::AllAtOnce, "more than 64 files sent at once"),
        (
            never(vec![file("a", 1, 1)]),
            Lie::EarlyEnd,
            "ended the transfer",
        ),
    ] {
        let tree = Tree::lying(entries, lie);
        let session = Session::open(&client, Offers::context(tree)).await;
        let error = client.define(&session.id, context()).await.unwrap_err();
        assert!(error.code.is_some(), "{reason}: {error:?}");
        assert!(error.message.contains(reason), "{reason}: {error:?}");
        drop(session);
        // What came of a client that only left early may be of use to it.
        let kept = locals(&daemon);
        assert!(
            kept.is_empty() || lie == Lie::EarlyEnd,
            "{reason}: {kept:?}"
        );
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    let memory = daemon.holds().memory;
    assert!(memory < 1500, "{memory} MiB");
    alive(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p05_a_client_that_does_not_end_its_calls_is_left() {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    let entries = vec![(file("a", 1, 1), Content::Bytes("x".into()))];
    let session = Session::open(
        &client,
        Offers::context(Tree::lying(entries, Lie::NoGoodbye)),
    )
    .await;
    client.define(&session.id, context()).await.unwrap();
}

/// It takes its time: twice fifteen seconds for an answer, and five before each question.
#[tokio::test(flavor = "multi_thread")]
async fn p47_a_client_that_does_not_say_that_it_lives_is_given_up() {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    let entries = (0..10).map(|n| (file(&format!("f{n}"), 1, 1), Content::Never));
    let tree = Tree::lying(entries.collect(), Lie::Stall);
    let offers = Offers {
        dead: true,
        ..Offers::context(tree)
    };
    let session = Session::open(&client, offers).await;
    let error = client.define(&session.id, context()).await.unwrap_err();
    assert!(
        error.message.contains("the client closed its session"),
        "{error:?}"
    );
    alive(&daemon).await;
}

/// Two users of one machine.
struct Two {
    daemon: Daemon,
    a: Client,
    b: Client,
}

impl Two {
    async fn new(config: &str, more: &[&str]) -> Two {
        let daemon = Daemon::start(config, more);
        daemon.open_to_all();
        let a = Client::unix_as(&daemon.socket(), 40_001).await;
        let b = Client::unix_as(&daemon.socket(), 40_002).await;
        Two { daemon, a, b }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_another_user_is_not_found_whoever_knows_its_id() {
    let two = Two::new("", &[]).await;
    let secret_tree = Tree::of(&[("private", "of a")]);
    let of_a = Session::open(&two.a, Offers::context(secret_tree.clone())).await;
    // As the session of a build.
    let error = two.b.define(&of_a.id, context()).await.unwrap_err();
    assert!(error.message.contains("no active session"), "{error:?}");
    // As the session that a graph names, in a build with a session of its own.
    let own = Tree::of(&[("public", "of b")]);
    let of_b = Session::open(&two.b, Offers::context(own.clone())).await;
    let named = graph::local("context", &[("local.session", &of_a.id)]);
    let built = two.b.define(&of_b.id, named).await;
    assert!(built.is_ok(), "the own session is asked instead: {built:?}");
    assert_eq!((secret_tree.asked_count(), own.asked_count()), (0, 1));
    // As its own: the id is free for it, and a's session is a's still.
    let settings = Settings {
        id: of_a.id.clone(),
        ..Settings::default()
    };
    let same_id = Session::with(&two.b, Offers::context(own.clone()), settings).await;
    two.b.define(&same_id.id, context()).await.unwrap();
    two.a.define(&of_a.id, context()).await.unwrap();
    assert_eq!(secret_tree.asked_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_clients_of_one_user_each_has_its_own_session() {
    let daemon = Daemon::start("", &[]);
    let (first, second) = (
        Client::unix(&daemon.socket()).await,
        Client::unix(&daemon.socket()).await,
    );
    let (one, two) = (Tree::of(&[("f", "one")]), Tree::of(&[("f", "two!")]));
    let a = Session::open(&first, Offers::context(one.clone())).await;
    let b = Session::open(&second, Offers::context(two.clone())).await;
    // The same definition at the same time, and never the other's files.
    for _ in 0..5 {
        let (of_a, of_b) = tokio::join!(
            first.define(&a.id, context()),
            second.define(&b.id, context())
        );
        of_a.unwrap();
        of_b.unwrap();
    }
    assert!(one.asked_count() >= 1 && two.asked_count() >= 1);
    for guess in ["", "0", "x:y", "../a", &"9".repeat(25)] {
        let error = second.define(guess, context()).await.unwrap_err();
        assert!(
            error.message.contains("no active session"),
            "{guess}: {error:?}"
        );
    }
    // An id that is taken stays with whom it is of.
    let mut settings = Settings::default();
    settings.id.clone_from(&a.id);
    let thief = Session::with(&second, Offers::default(), settings).await;
    thief.ended().await;
    first.define(&a.id, context()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_key_of_another_user_opens_no_kept_directory() {
    let two = Two::new("", &[]).await;
    let key = || Settings {
        shared_key: "project:0123456789abcdef".to_owned(),
        ..Settings::default()
    };
    let tree = || Tree::of(&[("private", "of a")]);
    let of_a = Session::with(&two.a, Offers::context(tree()), key()).await;
    two.a.define(&of_a.id, context()).await.unwrap();
    // The same name, size and time: what b says to have it must send.
    let guessed = tree();
    let of_b = Session::with(&two.b, Offers::context(guessed.clone()), key()).await;
    two.b.define(&of_b.id, context()).await.unwrap();
    assert_eq!(guessed.asked(), [["private"]]);
    // While a itself is not asked again.
    let again = tree();
    let of_a = Session::with(&two.a, Offers::context(again.clone()), key()).await;
    two.a.define(&of_a.id, context()).await.unwrap();
    assert_eq!(again.asked_count(), 0);
    // Nor may users of this machine look into what is kept.
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(two.daemon.home.store().join("daemon")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_of_another_user_cannot_be_spoken_for_ended_or_searched_for_sessions() {
    let two = Two::new("", &[]).await;
    let tree = Tree::of(&[("private", "of a")]);
    let of_a = Session::open(&two.a, Offers::context(tree.clone())).await;
    let (build, running) = driven(&two.a, &of_a.id, &[]).await;
    bridge_solve(&two.a, &build, context()).await.unwrap();
    assert_eq!(tree.asked_count(), 1);
    let error = bridge_solve(&two.b, &build, context()).await.unwrap_err();
    assert!(error.message.contains("no such job"), "{error:?}");
    let path = "/moby.buildkit.v1.frontend.LLBBridge/Return";
    let id = [("buildkit-controlapi-buildid", build.as_str())];
    let returned = two
        .b
        .ask::<Nothing>(path, &id, &ReturnRequest::default())
        .await;
    assert!(returned.is_err());
    // Over docker's HTTP.
    let cancel = format!(
        "POST /v1.41/build/cancel?id={build} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    );
    let answer = std::thread::spawn({
        let socket = two.daemon.socket();
        move || {
            let user = rustix::process::Uid::from_raw(40_002);
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            let mut stream = UnixStream::connect(socket).unwrap();
            stream.write_all(cancel.as_bytes()).unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        }
    });
    let answer = tokio::task::spawn_blocking(move || answer.join().unwrap())
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    bridge_solve(&two.a, &build, context()).await.unwrap();
    // What is known of running builds names no session.
    let options = [
        ("local-sessionid:context".to_owned(), of_a.id.clone()),
        ("filename".to_owned(), "Dockerfile".to_owned()),
    ];
    let with_options = SolveRequest {
        name: new_id(),
        session: of_a.id.clone(),
        options: options.into_iter().collect(),
        ..SolveRequest::default()
    };
    let mut call = two.a.stream("/moby.buildkit.v1.Control/Solve", &[]).await;
    call.send(&with_options).await;
    call.finish();
    let seen = async {
        loop {
            let running = two.b.running().await.unwrap();
            if let Some(record) = running.into_iter().find(|r| r.name == with_options.name) {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let record = seen.await;
    let options: Vec<&str> = record.options.keys().map(String::as_str).collect();
    assert_eq!(options, ["filename"]);
    let _ = two
        .a
        .ask::<Nothing>(path, &id, &ReturnRequest::default())
        .await;
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn p39_a_build_gets_what_both_its_client_and_the_daemon_allow_however_it_asks() {
    let registry = Registry::with_base_images();
    let config = registry.as_docker_hub();
    let image = "docker.io/library/busybox:latest";
    let host = Rights {
        host_network: true,
        ..Rights::default()
    };
    let insecure = Rights {
        insecure: true,
        ..Rights::default()
    };
    let daemon = Daemon::start(&config, &["--allow-insecure-entitlement", "network.host"]);
    let client = Client::unix(&daemon.socket()).await;
    let session = Session::open(&client, Offers::default()).await;
    let define = async |rights, entitlements: &[&str]| {
        let request = SolveRequest {
            name: new_id(),
            session: session.id.clone(),
            definition: Some(graph::run(image, &["true"], rights)),
            entitlements: entitlements.iter().map(|e| (*e).to_owned()).collect(),
            ..SolveRequest::default()
        };
        client.solve(&request).await
    };
    // Allowed by the daemon, not by the client.
    let error = define(host, &[]).await.unwrap_err();
    assert!(error.message.contains("network.host"), "{error:?}");
    // By both.
    define(host, &["network.host"]).await.unwrap();
    // By the client, not by the daemon.
    let error = define(insecure, &["security.insecure"]).await.unwrap_err();
    let refusal =
        "granting entitlement security.insecure is not allowed by build daemon configuration";
    assert!(error.message.contains(refusal), "{error:?}");
    let error = define(insecure, &["network.host"]).await.unwrap_err();
    assert!(error.message.contains("security.insecure"), "{error:?}");
    // The same from within: what a frontend solves, and containers that it starts.
    let (build, running) = driven(&client, &session.id, &[]).await;
    let solved = bridge_solve(&client, &build, graph::run(image, &["true"], host)).await;
    assert!(solved.unwrap_err().message.contains("network.host"));
    let container = gateway_tests::client::wire::NewContainerRequest {
        id: "c".to_owned(),
        network: 1,
    };
    let path = "/moby.buildkit.v1.frontend.LLBBridge/NewContainer";
    let id = [("buildkit-controlapi-buildid", build.as_str())];
    let error = client
        .ask::<Nothing>(path, &id, &container)
        .await
        .unwrap_err();
    assert!(error.message.contains("network.host"), "{error:?}");
    running.abort();
}

/// Raw words, and whatever comes back until the other side ends it or nothing comes for a moment.
fn say(socket: &Path, words: &[u8]) -> Vec<u8> {
    let stream = UnixStream::connect(socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(700)))
        .unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut reader = stream.try_clone().unwrap();
    let answers = std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut some = [0; 65_536];
        while let Ok(count @ 1..) = reader.read(&mut some) {
            all.extend_from_slice(&some[..count]);
        }
        all
    });
    // It may have closed already.
    let _ = (&stream).write_all(words);
    answers.join().unwrap()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `POST` of a path, as HPACK has it.
fn headers(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend(path.as_bytes());
    block.extend([0x01, 9]);
    block.extend(b"localhost");
    block
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn p01_p05_floods_and_nonsense_end_their_own_connection_and_no_other() {
    let daemon = Daemon::start("", &[]);
    alive(&daemon).await;
    let before = daemon.holds().memory;
    let bystander = Client::unix(&daemon.socket()).await;
    let socket = daemon.socket();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |count: usize| -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.extend(seed.to_le_bytes());
        }
        bytes
    };
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let after_hello = |frames: Vec<u8>| [hello.clone(), frames].concat();
    let repeated = |count: u32, make: &dyn Fn(u32) -> Vec<u8>| -> Vec<u8> {
        (0..count).flat_map(|number| make(number * 2 + 1)).collect()
    };
    let list = headers(WORKERS);
    // One long header in the table, then named again and again.
    let mut bomb = headers(WORKERS);
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'y'; 4000]);
    bomb.extend([0xbe; 12_000]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("half a preface", PREFACE[..10].to_vec()),
        ("noise", random(100_000)),
        ("noise behind a preface", [PREFACE, &random(100_000)].concat()),
        ("noise behind settings", after_hello(random(100_000))),
        ("settings of a wrong length", [PREFACE, &frame(SETTINGS, 0, 0, &[1; 5])].concat()),
        ("settings without end", after_hello(repeated(50_000, &|_| frame(SETTINGS, 0, 0, &[])))),
        ("a frame of 16 MiB", after_hello(frame(DATA, 0, 1, &vec![0; (1 << 24) - 1]))),
        ("headers without end", after_hello([
            frame(HEADERS, 0, 1, &list),
            repeated(20_000, &|_| frame(CONTINUATION, 0, 1, &[0x00, 1, b'a', 1, b'b'])),
        ].concat())),
        ("headers that grow", after_hello(frame(HEADERS, END_HEADERS, 1, &bomb))),
        ("streams that are reset at once", after_hello(repeated(20_000, &|id| {
            [frame(HEADERS, END_HEADERS, id, &list), frame(RESET, 0, id, &[0, 0, 0, 8])].concat()
        }))),
        ("data of nothing", after_hello([
            frame(HEADERS, END_HEADERS, 1, &headers("/moby.buildkit.v1.Control/Session")),
            repeated(50_000, &|_| frame(DATA, 0, 1, &[])),
        ].concat())),
        ("more streams than are allowed", after_hello(repeated(12_000, &|id| {
            frame(HEADERS, END_HEADERS, id, &list)
        }))),
        ("a line without end", [b"POST /".as_slice(), &vec![b'x'; 2 << 20]].concat()),
        ("headers of HTTP without end", [
            b"POST /build HTTP/1.1\r\n".as_slice(),
            "a: b\r\n".repeat(100_000).as_bytes(),
        ].concat()),
        ("noise behind an upgrade", [
            b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".as_slice(),
            &random(10_000),
        ].concat()),
        ("noise as a session", [
            b"POST /session HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nX-Docker-Expose-Session-Uuid: noise\r\n\r\n".as_slice(),
            &random(10_000),
        ].concat()),
    ];
    for (name, words) in cases {
        let socket = socket.clone();
        let said = tokio::task::spawn_blocking(move || say(&socket, &words));
        let _ = said.await.unwrap();
        let answer = bystander.ask::<Nothing>(WORKERS, &[], &Nothing {}).await;
        assert!(answer.is_ok(), "after {name}: {answer:?}");
    }
    alive(&daemon).await;
    let after = daemon.holds().memory;
    assert!(after < before + 300, "{before} MiB, then {after} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn p05_pings_are_answered_however_many() {
    let daemon = Daemon::start("", &[]);
    let pings: Vec<u8> = (0..5000_u64)
        .flat_map(|number| frame(PING, 0, 0, &number.to_be_bytes()))
        .collect();
    let words = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &pings].concat();
    let socket = daemon.socket();
    let answers = tokio::task::spawn_blocking(move || say(&socket, &words))
        .await
        .unwrap();
    let (mut at, mut acknowledged) = (0, 0);
    while let Some(header) = answers.get(at..at + 9) {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        acknowledged += usize::from(header[3] == PING && header[4] == 1);
        assert_ne!(header[3], 7, "a GOAWAY for pings");
        at += 9 + length;
    }
    assert_eq!(acknowledged, 5000);
}

/// Every call with bytes that mean nothing, and with the beginnings of ones that do.
#[tokio::test(flavor = "multi_thread")]
async fn p01_any_bytes_to_any_call_are_answered_and_harm_nobody() {
    let daemon = Daemon::start("", &[]);
    let client = Client::unix(&daemon.socket()).await;
    let control = [
        "DiskUsage",
        "Prune",
        "Solve",
        "Status",
        "ListenBuildHistory",
        "UpdateBuildHistory",
        "ListWorkers",
        "Info",
        "Session",
        "Nothing",
    ];
    let bridge = [
        "ResolveImageConfig",
        "ResolveSourceMeta",
        "Solve",
        "ReadFile",
        "ReadDir",
        "StatFile",
        "Evaluate",
        "Ping",
        "Return",
        "Inputs",
        "NewContainer",
        "ReleaseContainer",
        "ExecProcess",
        "Warn",
    ];
    let content = [
        "Info", "Read", "List", "Status", "Update", "Write", "Abort", "Delete",
    ];
    let paths = control
        .iter()
        .map(|name| format!("/moby.buildkit.v1.Control/{name}"));
    let paths = paths.chain(
        bridge
            .iter()
            .map(|name| format!("/moby.buildkit.v1.frontend.LLBBridge/{name}")),
    );
    let paths = paths.chain(
        content
            .iter()
            .map(|name| format!("/containerd.services.content.v1.Content/{name}")),
    );
    let more = [
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "/grpc.health.v1.Health/Check",
        "/no.such.Service/Call",
    ];
    let paths: Vec<String> = paths
        .chain(more.iter().map(|path| (*path).to_owned()))
        .collect();
    let session = Session::open(&client, Offers::default()).await;
    let (build, running) = driven(&client, &session.id, &[]).await;
    let mut seed = 1_u64;
    let mut calls = tokio::task::JoinSet::new();
    let client = Arc::new(client);
    for path in paths {
        for round in 0..8 {
            let mut bytes = Vec::new();
            for _ in 0..round * 13 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                bytes.push((seed >> 33) as u8);
            }
            let mut message = vec![u8::from(round == 7), 0, 0, 0];
            // Lengths that are true, and one that promises more.
            message.push(u8::try_from(bytes.len()).unwrap() + u8::from(round == 6));
            message.extend(bytes);
            let (client, path, build) = (client.clone(), path.clone(), build.clone());
            calls.spawn(async move {
                let id = [("buildkit-controlapi-buildid", build.as_str())];
                let mut call = client.stream(&path, &id).await;
                call.send_bytes(message.into()).await;
                call.finish();
                // Answers that do not end, as of those who listen to history, are left.
                let read = async { while let Ok(Some(_)) = call.next::<Nothing>().await {} };
                let _ = tokio::time::timeout(Duration::from_secs(20), read).await;
            });
        }
    }
    while let Some(called) = calls.join_next().await {
        called.unwrap();
    }
    running.abort();
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    alive(&daemon).await;
}

/// Requests that are begun and not ended hold memory: the connection that has too many is told.
#[tokio::test(flavor = "multi_thread")]
async fn p22_unfinished_requests_of_a_connection_hold_so_much_and_no_more() {
    let daemon = Daemon::start("", &[]);
    alive(&daemon).await;
    let before = daemon.holds().memory;
    let client = Arc::new(Client::unix(&daemon.socket()).await);
    let mut calls = tokio::task::JoinSet::new();
    let mut open = Vec::new();
    for _ in 0..40 {
        let mut call = client.stream("/moby.buildkit.v1.Control/Solve", &[]).await;
        let frames = call.frames();
        open.push(frames.clone());
        calls.spawn(async move { call.next::<Nothing>().await });
        tokio::spawn(async move {
            let header = bytes::Bytes::from_static(&[0, 0, 0xff, 0xff, 0xff]);
            let piece = bytes::Bytes::from(vec![0; 1 << 20]);
            let _ = frames.send(Ok(hyper::body::Frame::data(header))).await;
            for _ in 0..15 {
                if frames
                    .send(Ok(hyper::body::Frame::data(piece.clone())))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }
    let refused = calls.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(
        refused
            .message
            .contains("unfinished requests hold more than"),
        "{refused:?}"
    );
    let during = daemon.holds().memory;
    assert!(during < before + 700, "{before} MiB, then {during} MiB");
    drop(open);
    alive(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_answer_nothing_keep_nobody_else_waiting() {
    let registry = Registry::with_base_images();
    let daemon = Daemon::start(&registry.as_docker_hub(), &[]);
    let client = Arc::new(Client::unix(&daemon.socket()).await);
    let mut stuck = tokio::task::JoinSet::new();
    for number in 0..40 {
        let client = client.clone();
        stuck.spawn(async move {
            let text =
                format!("FROM busybox\nRUN --mount=type=secret,id=s,required echo {number}\n");
            let entries = vec![Tree::dockerfile(&text)];
            // Half of them do not even end the list of their files.
            let mut offers = Offers::context(Tree::new(entries));
            offers.silent = true;
            if number % 2 == 0 {
                let entries = (0..10).map(|n| (file(&format!("f{n}"), 1, 1), Content::Never));
                let tree = Tree::lying(entries.collect(), Lie::Stall);
                offers.trees.insert("dockerfile".to_owned(), tree);
            }
            let session = Session::open(&client, offers).await;
            let _ = client.build(&session.id, Vec::new()).await;
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let started = Instant::now();
    alive(&daemon).await;
    assert!(started.elapsed() < Duration::from_secs(60));
    stuck.abort_all();
    client.vanish();
    let other = Client::unix(&daemon.socket()).await;
    let begun = Instant::now();
    while !other.running().await.unwrap().is_empty() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "builds of a client that is gone"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
