//! What a client lends to its builds, secrets, agents and archives, is for its builds alone: whoever asks for
//! the same under the same name at the same time gets its own or nothing.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use gateway_tests::client::build::{built, logs, map};
use gateway_tests::client::session::{DIFF_COPY, SECRET, SEND};
use gateway_tests::client::wire::{Exporter, SolveRequest, SolveResponse};
use gateway_tests::client::{Client, Failure, Offers, Session, Tree, new_id};
use gateway_tests::rig::Rig;
use sha2::{Digest, Sha256};

const A: u32 = 40_001;
const B: u32 = 40_002;

fn dockerfile(steps: &str) -> Offers {
    let text = format!("FROM busybox\n{steps}\n");
    Offers::context(Tree::new(vec![Tree::dockerfile(&text)]))
}

/// A daemon whose socket anybody may open.
fn open_rig() -> Rig {
    let rig = Rig::new();
    rig.daemon.open_to_all();
    rig
}

/// A build without the cache, and what its steps said.
async fn build(client: &Client, session: &str) -> (Result<SolveResponse, Failure>, String) {
    let request = SolveRequest {
        name: new_id(),
        session: session.to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        options: map(&[("no-cache", "")]),
        ..SolveRequest::default()
    };
    let (built, said) = built(client, &request).await;
    (built, logs(&said))
}

#[tokio::test(flavor = "multi_thread")]
async fn p26_a_secret_of_a_session_is_for_its_builds_alone() {
    let rig = open_rig();
    let (a, b) = (rig.client_of(A).await, rig.client_of(B).await);
    let step = "RUN --mount=type=secret,id=s,required sha256sum < /run/secrets/s";
    let lends = |secret: &str| {
        let mut offers = dockerfile(step);
        offers
            .secrets
            .insert("s".to_owned(), secret.as_bytes().to_vec());
        offers
    };
    let sum = |secret: &str| hex::encode(Sha256::digest(secret));
    let of_a = Session::open(&a, lends("of a")).await;
    // One that has none, while there is one that has, of another user and of the same.
    for client in [&b, &rig.client_of(A).await] {
        let poor = Session::open(client, dockerfile(step)).await;
        let (built, said) = build(client, &poor.id).await;
        let error = built.unwrap_err();
        assert!(error.message.contains("secret s: not found"), "{error:?}");
        assert!(!said.contains(&sum("of a")), "{said}");
    }
    // With the session of another user as its own.
    let (built, _) = build(&b, &of_a.id).await;
    let error = built.unwrap_err();
    assert!(error.message.contains("no active session"), "{error:?}");
    assert_eq!(of_a.offers.calls_of("Secrets/GetSecret"), 0);
    // The same step at the same time, of three clients, two of them one user's: each has its own.
    let third = rig.client_of(A).await;
    let of_b = Session::open(&b, lends("of b")).await;
    let of_third = Session::open(&third, lends("of a, elsewhere")).await;
    for _ in 0..3 {
        let (for_a, for_b, for_third) = tokio::join!(
            build(&a, &of_a.id),
            build(&b, &of_b.id),
            build(&third, &of_third.id)
        );
        for ((built, said), secret) in [
            (for_a, "of a"),
            (for_b, "of b"),
            (for_third, "of a, elsewhere"),
        ] {
            built.unwrap();
            assert!(said.contains(&sum(secret)), "{secret}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p27_an_agent_of_a_session_is_for_its_builds_alone() {
    let rig = open_rig();
    let (a, b) = (rig.client_of(A).await, rig.client_of(B).await);
    // Other steps run while this one has the agent: they look for its socket.
    let step = "RUN --mount=type=ssh,id=mine,required test -S $SSH_AUTH_SOCK && sleep 2";
    let mut lends = dockerfile(step);
    lends.agents.insert("mine".to_owned(), b"agent".to_vec());
    let of_a = Session::open(&a, lends).await;
    for client in [&b, &rig.client_of(A).await] {
        let poor = Session::open(client, dockerfile(step)).await;
        let (built, _) = build(client, &poor.id).await;
        let error = built.unwrap_err();
        assert!(error.message.contains("no SSH key"), "{error:?}");
    }
    let (built, _) = build(&b, &of_a.id).await;
    assert!(built.unwrap_err().message.contains("no active session"));
    assert_eq!(of_a.offers.calls_of("SSH/CheckAgent"), 0);
    assert_eq!(of_a.offers.calls_of("SSH/ForwardAgent"), 0);
    let looks = "RUN find / -xdev -type s 2>/dev/null; ls -d /run/buildkit* /tmp/* 2>/dev/null; grep -c agent /proc/self/mountinfo; true";
    let of_b = Session::open(&b, dockerfile(looks)).await;
    let (for_a, for_b) = tokio::join!(build(&a, &of_a.id), build(&b, &of_b.id));
    for_a.0.unwrap();
    for_b.0.unwrap();
    assert!(!for_b.1.contains("ssh_agent"), "{}", for_b.1);
    assert_eq!(of_a.offers.calls_of("SSH/CheckAgent"), 1);
    assert_eq!(of_a.offers.calls_of("SSH/ForwardAgent"), 0);
    // Nor may users of this machine open what the daemon keeps of agents.
    let open = std::thread::spawn({
        let dir = rig.daemon.home.store().join("daemon");
        move || {
            let user = rustix::process::Uid::from_raw(B);
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            std::fs::read_dir(dir).map(|_| ())
        }
    });
    let refused = open.join().unwrap().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
}

/// A request over HTTP of one user, whole, and what came back.
fn http(socket: &Path, user: u32, words: Vec<u8>) -> std::thread::JoinHandle<String> {
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        let user = rustix::process::Uid::from_raw(user);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        let mut stream = UnixStream::connect(socket).unwrap();
        // It may be refused before all of it is taken.
        let _ = stream.write_all(&words);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    })
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn archive(dockerfile: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(dockerfile.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "Dockerfile", dockerfile.as_bytes())
        .unwrap();
    tar.into_inner().unwrap()
}

async fn answered(answer: std::thread::JoinHandle<String>) -> String {
    tokio::task::spawn_blocking(|| answer.join().unwrap())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p31_p57_a_context_for_a_build_is_taken_from_its_user_alone() {
    let rig = open_rig();
    let socket = rig.daemon.socket();
    let text = |who: &str| archive(&format!("FROM busybox\nRUN echo built by $((6*7)) {who}\n"));
    let build = "/build?version=2&remote=upload-request&buildid=wanted1&nocache=1&outputs=%5B%7B%22Type%22%3A%22cacheonly%22%7D%5D";
    let of_a = http(&socket, A, post(build, b""));
    let upload = "/build?version=2&buildid=upload-request:wanted1";
    // It waits for the build that is not there for this user.
    let of_b = answered(http(&socket, B, post(upload, &text("b")))).await;
    assert!(of_b.starts_with("HTTP/1.1 404"), "{of_b}");
    let nobodys = answered(of_a).await;
    assert!(
        nobodys.contains("the context of the build was not sent"),
        "{nobodys}"
    );
    // While its own user's is taken.
    let of_a = http(&socket, A, post(&build.replace("wanted1", "wanted2"), b""));
    let upload = upload.replace("wanted1", "wanted2");
    let taken = answered(http(&socket, A, post(&upload, &text("a")))).await;
    assert!(taken.starts_with("HTTP/1.1 200"), "{taken}");
    let built = answered(of_a).await;
    assert!(built.contains("moby.buildkit.trace"), "{built}");
    assert!(!built.contains("errorDetail"), "{built}");
}

/// Clients that lie over HTTP: each is answered or left, and the next one is served.
#[tokio::test(flavor = "multi_thread")]
async fn p57_nonsense_over_http_is_refused_with_the_reason() {
    let rig = open_rig();
    let socket = rig.daemon.socket();
    let before = rig.daemon.holds();
    let gzip = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    };
    let mut link = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    link.append_link(&mut header, "manifest.json", "/etc/passwd")
        .unwrap();
    let link = link.into_inner().unwrap();
    let zeros = gzip(&vec![0; 64 << 20]);
    let lying = br#"[{"Config":"../../etc/passwd","RepoTags":["x:y"],"Layers":["/etc/passwd"]}]"#;
    let mut named = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(lying.len() as u64);
    header.set_mode(0o644);
    named
        .append_data(&mut header, "manifest.json", &lying[..])
        .unwrap();
    let named = named.into_inner().unwrap();
    let chunked = |body: &str| {
        format!("POST /images/load HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
            .into_bytes()
    };
    for (what, words, reason) in [
        (
            "no archive",
            post("/images/load", b"nonsense"),
            "errorDetail",
        ),
        ("nothing", post("/images/load", b""), "errorDetail"),
        (
            "a link for a list",
            post("/images/load", &link),
            "errorDetail",
        ),
        ("zeros", post("/images/load", &zeros), "errorDetail"),
        (
            "files of this machine",
            post("/images/load", &named),
            "errorDetail",
        ),
        ("noise in chunks", chunked("zz\r\nxx"), ""),
        (
            "the old builder",
            post("/build?t=a", b""),
            "DOCKER_BUILDKIT=1",
        ),
        (
            "no context",
            post("/build?version=2", b""),
            "has no context",
        ),
        (
            "a context of nothing",
            post("/build?version=2", b"nonsense"),
            "errorDetail",
        ),
        (
            "a broken list",
            post("/build?version=2&buildargs=%7B", b""),
            "buildargs",
        ),
        (
            "a container",
            post("/containers/create", b"{}"),
            "has no containers",
        ),
        ("no upgrade", post("/grpc", b""), "upgraded to h2c"),
        ("no session", post("/session", b""), "upgraded to h2c"),
    ] {
        let answer = answered(http(&socket, B, words)).await;
        assert!(answer.contains(reason), "{what}: {answer}");
        assert!(!answer.contains("root:"), "{what}: {answer}");
        let alive = post("/_nothing", b"");
        let alive = answered(http(&socket, A, alive)).await;
        assert!(alive.starts_with("HTTP/1.1 404"), "{what}: {alive}");
    }
    // Nothing of it stays.
    for _ in 0..600 {
        if rig.daemon.holds().files <= before.files {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?}, {before:?} before", rig.daemon.holds());
}

/// A library of ours panics at such details; neither the build nor the client is lost by it.
#[tokio::test(flavor = "multi_thread")]
async fn p17_refusals_of_a_client_with_details_of_no_form_are_refusals_all_the_same() {
    let rig = Rig::new();
    let client = rig.client().await;
    let step = "RUN --mount=type=secret,id=s,required true";
    for path in [DIFF_COPY, SECRET, SEND] {
        for in_trailers in [false, true] {
            let mut offers = dockerfile(step);
            offers.unreadable = Some((path, in_trailers));
            offers.secrets.insert("s".to_owned(), Vec::new());
            let session = Session::open(&client, offers).await;
            let request = SolveRequest {
                name: new_id(),
                session: session.id.clone(),
                frontend: "dockerfile.v0".to_owned(),
                options: map(&[("no-cache", "")]),
                exporters: vec![Exporter {
                    kind: "local".to_owned(),
                    attrs: map(&[]),
                }],
                ..SolveRequest::default()
            };
            let (built, _) = built(&client, &request).await;
            let error = built.expect_err("nothing is given or taken");
            assert!(error.code.is_some(), "{path}: {error:?}");
            assert!(error.message.contains("not today"), "{path}: {error:?}");
        }
    }
    assert!(
        !rig.daemon.log().contains("panicked"),
        "{}",
        rig.daemon.log()
    );
}
