//! What one client may have at once: it is told when it wants more, others notice nothing, and what it leaves
//! is free again.

mod rig;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use gateway_api::{BuildResult, Error, FrontendFn, Gateway};
use gateway_daemon::PeerLimits;
use gateway_tests::client::wire::{Nothing, SolveRequest};
use gateway_tests::client::{Client, Failure, Offers, Session, Stream, Tree, graph, new_id};

const WORKERS: &str = "/moby.buildkit.v1.Control/ListWorkers";
const RESOURCE_EXHAUSTED: Option<u32> = Some(8);

const LIMITS: PeerLimits = PeerLimits {
    connections: 3,
    sessions: 2,
    builds: 2,
};

async fn never() -> Result<BuildResult, Error> {
    std::future::pending().await
}

async fn socket(dir: &Path) -> std::path::PathBuf {
    let never: FrontendFn = Arc::new(|_: Arc<dyn Gateway>| Box::pin(never()));
    let builtins = BTreeMap::from([("never".to_owned(), never)]);
    let socket = rig::daemon(dir, builtins, None, LIMITS).await;
    for (path, mode) in [(dir, 0o755), (&socket, 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    socket
}

async fn asked(client: &Client) -> Result<Nothing, Failure> {
    client.ask(WORKERS, &[], &Nothing {}).await
}

/// Until it is so: what is left is free again soon, not at once.
async fn at_last<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("not so: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p24_connections_of_a_client_are_so_many_and_others_come_in_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket(dir.path()).await;
    let mut open = Vec::new();
    for _ in 0..LIMITS.connections {
        let client = Client::unix_as(&socket, 40_001).await;
        asked(&client).await.unwrap();
        open.push(client);
    }
    let refused = asked(&Client::unix_as(&socket, 40_001).await)
        .await
        .unwrap_err();
    assert_eq!(refused.code, RESOURCE_EXHAUSTED, "{refused:?}");
    assert!(
        refused.message.contains("more than 3 connections"),
        "{refused:?}"
    );
    // Very many that say nothing, as many as a listener takes: they are not waited for.
    let path = socket.clone();
    let silent = std::thread::spawn(move || {
        let user = rustix::process::Uid::from_raw(40_001);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        (0..500)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect::<Vec<_>>()
    });
    let silent = tokio::task::spawn_blocking(|| silent.join().unwrap())
        .await
        .unwrap();
    let other = Client::unix_as(&socket, 40_002).await;
    asked(&other).await.unwrap();
    // All but a few of them are closed already, without a word.
    at_last("most are closed", || async {
        let closed = |stream: &&UnixStream| {
            stream.set_nonblocking(true).unwrap();
            let mut byte = [0];
            matches!(std::io::Read::read(&mut &**stream, &mut byte), Ok(0))
        };
        silent.iter().filter(closed).count() >= 400
    })
    .await;
    drop((open.pop(), silent));
    // While those that were silent still hold the places of those who are told, a refusal has no words.
    at_last("there is room again", || async {
        match Client::try_unix_as(&socket, 40_001).await {
            Ok(client) => asked(&client).await.is_ok(),
            Err(_) => false,
        }
    })
    .await;
}

fn offers() -> Offers {
    Offers::context(Tree::of(&[("a", "a")]))
}

#[tokio::test(flavor = "multi_thread")]
async fn p24_sessions_of_a_client_are_so_many_and_one_that_ended_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket(dir.path()).await;
    let client = Client::unix_as(&socket, 40_001).await;
    let context = || graph::local("context", &[]);
    let mut open = Vec::new();
    for _ in 0..LIMITS.sessions {
        let session = Session::open(&client, offers()).await;
        client.define(&session.id, context()).await.unwrap();
        open.push(session);
    }
    let session = Session::open(&client, offers()).await;
    let id = session.id.clone();
    // It is ended by the other side.
    session.ended().await;
    let error = client.define(&id, context()).await.unwrap_err();
    assert!(error.message.contains("no active session"), "{error:?}");
    // Another user's, and those that are there, are as good as before.
    let other = Client::unix_as(&socket, 40_002).await;
    let theirs = Session::open(&other, offers()).await;
    other.define(&theirs.id, context()).await.unwrap();
    client.define(&open[0].id, context()).await.unwrap();
    open.pop();
    at_last("there is room again", || async {
        let session = Session::open(&client, offers()).await;
        client.define(&session.id, context()).await.is_ok()
    })
    .await;
}

async fn begun(client: &Client) -> Stream {
    let request = SolveRequest {
        name: new_id(),
        frontend: "never".to_owned(),
        ..SolveRequest::default()
    };
    let mut call = client.stream("/moby.buildkit.v1.Control/Solve", &[]).await;
    call.send(&request).await;
    call.finish();
    at_last("it runs", || async {
        let running = client.running().await.unwrap();
        running.iter().any(|record| record.name == request.name)
    })
    .await;
    call
}

#[tokio::test(flavor = "multi_thread")]
async fn p24_builds_of_a_client_are_so_many_and_one_that_ended_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket(dir.path()).await;
    let clients = [
        Client::unix_as(&socket, 40_001).await,
        Client::unix_as(&socket, 40_001).await,
    ];
    // Whichever of its connections they come over.
    let running = [begun(&clients[0]).await, begun(&clients[1]).await];
    let request = || SolveRequest {
        name: new_id(),
        frontend: "never".to_owned(),
        ..SolveRequest::default()
    };
    let refused = clients[0].solve(&request()).await.unwrap_err();
    assert_eq!(refused.code, RESOURCE_EXHAUSTED, "{refused:?}");
    assert!(
        refused.message.contains("2 builds of one client"),
        "{refused:?}"
    );
    // It is no build that was: history does not know it.
    let other = Client::unix_as(&socket, 40_002).await;
    assert_eq!(other.running().await.unwrap().len(), 2);
    let of_other = begun(&other).await;
    // A client that is gone has no builds.
    clients[1].vanish();
    at_last("its build ended", || async {
        other.running().await.unwrap().len() == 2
    })
    .await;
    let again = begun(&clients[0]).await;
    drop((running, of_other, again));
}

/// What the daemon's first frame says of a setting.
fn setting(socket: &Path, wanted: u16) -> Option<u32> {
    use std::io::{Read, Write};
    let mut stream = UnixStream::connect(socket).unwrap();
    // The preface, and settings of ours: none.
    let mut words = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    words.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    stream.write_all(&words).unwrap();
    let mut header = [0; 9];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header[3], 4, "settings come first");
    let mut settings = vec![0; usize::from(header[2])];
    stream.read_exact(&mut settings).unwrap();
    settings.chunks_exact(6).find_map(|one| {
        let name = u16::from_be_bytes([one[0], one[1]]);
        (name == wanted).then(|| u32::from_be_bytes([one[2], one[3], one[4], one[5]]))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_a_connection_is_told_how_many_streams_and_how_large_headers_it_may_have() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket(dir.path()).await;
    let told = tokio::task::spawn_blocking(move || (setting(&socket, 3), setting(&socket, 6)));
    assert_eq!(told.await.unwrap(), (Some(10_000), Some(256 << 10)));
}
