//! Who may build what: entitlements by user, group and certificate. And until when: what clients read whose daemon is
//! stopped.

use std::path::Path;
use std::sync::Arc;

use gateway_tests::client::build::{bridge_solve, driven};
use gateway_tests::client::graph::{self, Rights};
use gateway_tests::client::wire::{Named, NewContainerRequest, Nothing, Progress, SolveRequest};
use gateway_tests::client::{Client, Failure, Offers, Session, Tree, new_id};
use gateway_tests::daemon::Daemon;
use gateway_tests::registry::Registry;
use gateway_tests::tls::{Authority, ServerFiles};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsConnector;

const IMAGE: &str = "docker.io/library/busybox:latest";

const HOST: Rights = Rights {
    host_network: true,
    insecure: false,
};
const INSECURE: Rights = Rights {
    host_network: false,
    insecure: true,
};
const NOT_GRANTED: &str = "is not allowed by build daemon configuration";

/// A build of one step with these rights by a client that allows as much.
async fn runs(client: &Client, rights: Rights) -> Result<(), Failure> {
    let wanted = if rights.insecure {
        "security.insecure"
    } else {
        "network.host"
    };
    let session = Session::open(client, Offers::default()).await;
    let request = SolveRequest {
        name: new_id(),
        session: session.id.clone(),
        definition: Some(graph::run(IMAGE, &["true"], rights)),
        entitlements: vec![wanted.to_owned()],
        ..SolveRequest::default()
    };
    let built = client.solve(&request).await.map(drop);
    if let Err(error) = &built {
        assert!(
            error
                .message
                .contains(&format!("granting entitlement {wanted} {NOT_GRANTED}")),
            "{error:?}"
        );
    }
    built
}

/// Which of host network and insecure steps it gets.
async fn granted(client: &Client) -> (bool, bool) {
    (
        runs(client, HOST).await.is_ok(),
        runs(client, INSECURE).await.is_ok(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn p39_builds_are_granted_what_their_user_or_group_is_and_others_what_all_are() {
    let registry = Registry::with_base_images();
    let config = format!(
        "insecure-entitlements = [\"network.host\"]
{}
[[client]]
users = [40001]
entitlements = [\"security.insecure\"]
[[client]]
groups = [\"40900\"]
users = [40002]
entitlements = []
",
        registry.as_docker_hub()
    );
    let daemon = Daemon::start(&config, &[]);
    daemon.open_to_all();
    let socket = daemon.socket();
    let trusted = Client::unix_as(&socket, 40_001).await;
    assert_eq!(granted(&trusted).await, (false, true));
    let distrusted = Client::unix_as(&socket, 40_002).await;
    assert_eq!(granted(&distrusted).await, (false, false));
    let other = Client::unix_as(&socket, 40_003).await;
    assert_eq!(granted(&other).await, (true, false));
    // The same user from a process that is in the group: it is the process that is asked.
    let member = Client::unix_in(&socket, 40_003, &[40_900]).await;
    assert_eq!(granted(&member).await, (false, false));
    // The list of rules is read from above.
    let both = Client::unix_in(&socket, 40_001, &[40_900]).await;
    assert_eq!(granted(&both).await, (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn p39_what_a_client_is_not_granted_it_does_not_get_by_frontends_containers_or_http() {
    let registry = Registry::with_base_images();
    let config = format!(
        "{}[[client]]\nusers = [40001]\nentitlements = [\"network.host\"]\n",
        registry.as_docker_hub()
    );
    let daemon = Daemon::start(&config, &[]);
    daemon.open_to_all();
    let granted = Client::unix_as(&daemon.socket(), 40_001).await;
    let other = Client::unix_as(&daemon.socket(), 40_002).await;
    let step = || graph::run(IMAGE, &["true"], HOST);
    let container = NewContainerRequest {
        id: "c".to_owned(),
        network: 1,
    };
    let new_container = "/moby.buildkit.v1.frontend.LLBBridge/NewContainer";
    // A build that its client drives: with the grant both work, without it the build is not begun.
    let session = Session::open(&granted, Offers::default()).await;
    let (build, running) = driven(&granted, &session.id, &["network.host"]).await;
    bridge_solve(&granted, &build, step()).await.unwrap();
    let id = [("buildkit-controlapi-buildid", build.as_str())];
    let made: Result<Nothing, _> = granted.ask(new_container, &id, &container).await;
    // It has no root file system: what was asked of it was allowed.
    assert!(!made.is_err_and(|error| error.message.contains("not allowed")));
    running.abort();
    let session = Session::open(&other, Offers::default()).await;
    let (build, running) = driven(&other, &session.id, &["network.host"]).await;
    let error = bridge_solve(&other, &build, step()).await.unwrap_err();
    assert!(error.message.contains("no such job"), "{error:?}");
    running.abort();
    // And one that is begun without it gets nothing from within.
    let (build, running) = driven(&other, &session.id, &[]).await;
    let error = bridge_solve(&other, &build, step()).await.unwrap_err();
    assert!(
        error.message.contains("network.host is not allowed"),
        "{error:?}"
    );
    let id = [("buildkit-controlapi-buildid", build.as_str())];
    let made: Result<Nothing, _> = other.ask(new_container, &id, &container).await;
    let error = made.unwrap_err();
    assert!(
        error.message.contains("network.host is not allowed"),
        "{error:?}"
    );
    running.abort();
    // What docker build --network host asks for over HTTP.
    let post = |user, session: &Session| {
        let (socket, session) = (daemon.socket(), session.id.clone());
        tokio::task::spawn_blocking(move || http_build(&socket, user, &session))
    };
    let refused = post(40_002, &session).await.unwrap();
    assert!(refused.contains(NOT_GRANTED), "{refused}");
    let session = Session::open(&granted, Offers::context(Tree::of(&[("a", "a")]))).await;
    let begun = post(40_001, &session).await.unwrap();
    assert!(!begun.contains(NOT_GRANTED), "{begun}");
    // The session has no build file.
    assert!(begun.contains("errorDetail"), "{begun}");
}

/// `POST /build` of a host network by a user, and all that comes back.
fn http_build(socket: &Path, user: u32, session: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = gateway_tests::client::connected_as(socket, user, &[]);
    let query = format!("version=2&remote=client-session&session={session}&networkmode=host");
    let request = format!(
        "POST /v1.41/build?{query} HTTP/1.1\r\nhost: d\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A connection by the holder of a certificate.
async fn over_tls(address: &str, ca: &Path, files: &ServerFiles) -> Client {
    let certificates = |path: &Path| {
        let all = CertificateDer::pem_file_iter(path).unwrap();
        all.map(|one| one.unwrap()).collect::<Vec<_>>()
    };
    let mut roots = rustls::RootCertStore::empty();
    for root in certificates(ca) {
        roots.add(root).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            certificates(&files.certificate),
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    Client::over(connector.connect(name, stream).await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn p39_p55_builds_are_granted_what_their_certificate_is() {
    let registry = Registry::with_base_images();
    let keys = tempfile::tempdir().unwrap();
    let authority = Authority::new("of builders");
    let ca = keys.path().join("ca.pem");
    authority.write_ca(&ca);
    let files = |name: &str, names: &[&str]| {
        let dir = keys.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        authority.server(&dir, names)
    };
    let server = files("server", &["127.0.0.1"]);
    let (first, second) = (
        files("first", &["a.example"]),
        files("second", &["ci.example"]),
    );
    let third = files("third", &["c.example"]);
    let certificate = CertificateDer::from_pem_file(&first.certificate).unwrap();
    let fingerprint = Sha256::digest(&certificate);
    let fingerprint: Vec<String> = fingerprint
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    let config = format!(
        "{}[[client]]
certificates = [\"{}\"]
entitlements = [\"network.host\"]
[[client]]
names = [\"DNS:ci.example\", \"CN=somebody\"]
entitlements = [\"security.insecure\"]
",
        registry.as_docker_hub(),
        fingerprint.join(":")
    );
    let path = |path: &Path| path.display().to_string();
    let mut daemon = Daemon::start(
        &config,
        &[
            "--addr",
            "tcp://127.0.0.1:0",
            "--tlscert",
            &path(&server.certificate),
            "--tlskey",
            &path(&server.key),
            "--tlscacert",
            &path(&ca),
        ],
    );
    let listens = |daemon: &Daemon| {
        let log = daemon.log();
        log.lines()
            .find_map(|line| Some(line.strip_prefix("listening on tcp://")?.to_owned()))
    };
    daemon.wait("it says where it listens", |daemon| {
        listens(daemon).is_some()
    });
    let address = listens(&daemon).unwrap();
    for (files, expected) in [
        (&first, (true, false)),
        (&second, (false, true)),
        (&third, (false, false)),
    ] {
        let client = over_tls(&address, &ca, files).await;
        assert_eq!(
            granted(&client).await,
            expected,
            "{}",
            path(&files.certificate)
        );
    }
}

#[test]
fn p39_p62_mistakes_about_clients_end_a_daemon_at_its_start_and_unknown_keys_do_not() {
    let mut daemon = Daemon::start(
        "[[client]]\nusers = [40001]\nentitlements = []\nuser = 1\n",
        &[],
    );
    let log = daemon.log();
    let told = "unknown key user in [[client]] number 1; users is like it";
    assert!(log.contains(told), "{log}");
    assert!(daemon.stop());
    for (config, flags, told) in [
        (
            "[[client]]\nusers = [\"nobody of that name\"]\nentitlements = []\n",
            &[][..],
            "number 1: no user of this machine",
        ),
        (
            "[[client]]\nusers = [1]\nentitlements = [\"network.hots\"]\n",
            &[],
            "unknown entitlement \"network.hots\"",
        ),
        ("[[client]]\nentitlements = []\n", &[], "it means nobody"),
        (
            "",
            &["--allow-insecure-entitlement", "network.hots"],
            "--allow-insecure-entitlement",
        ),
    ] {
        let home = gateway_tests::program::Home::new(config);
        let output = gateway_tests::program::run(&mut Daemon::command(&home, flags));
        let said = gateway_tests::program::stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{config}: {said}");
        assert!(said.contains(told), "{config}: {said}");
        let file = home.dir.path().join("config.toml").display().to_string();
        assert!(!flags.is_empty() || said.contains(&file), "{said}");
    }
}

/// Reads what is said of a build until a step of it has said something.
async fn has_begun(client: &Client, build: &str) {
    let mut status = client.stream("/moby.buildkit.v1.Control/Status", &[]).await;
    status
        .send(&Named {
            name: build.to_owned(),
        })
        .await;
    status.finish();
    while let Some(said) = status.next::<Progress>().await.expect("the status") {
        if !said.logs.is_empty() {
            return;
        }
    }
    panic!("no step of the build said anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn p23_clients_whose_daemon_is_stopped_read_so_and_that_their_builds_were_canceled() {
    let registry = Registry::with_base_images();
    let mut daemon = Daemon::start(&registry.as_docker_hub(), &[]);
    let client = Arc::new(Client::unix(&daemon.socket()).await);
    let session = Session::open(&client, Offers::default()).await;
    let endless = |word: &str| {
        let script = format!("echo {word}; sleep 100000");
        graph::run(IMAGE, &["sh", "-c", &script], Rights::default())
    };
    // One that the daemon drives, and one that its client does.
    let request = SolveRequest {
        name: new_id(),
        session: session.id.clone(),
        definition: Some(endless("one")),
        ..SolveRequest::default()
    };
    let defined = tokio::spawn({
        let (client, request) = (client.clone(), request.clone());
        async move { client.solve(&request).await }
    });
    let (build, running) = driven(&client, &session.id, &[]).await;
    let solved = tokio::spawn({
        let (client, build, step) = (client.clone(), build.clone(), endless("two"));
        async move { bridge_solve(&client, &build, step).await }
    });
    has_begun(&client, &request.name).await;
    has_begun(&client, &build).await;
    let stopped = tokio::task::spawn_blocking(move || (daemon.stop(), daemon));
    let canceled = Some(1);
    let defined = defined.await.unwrap().unwrap_err();
    let solved = solved.await.unwrap().unwrap_err();
    for failure in [defined, solved] {
        assert_eq!(failure.code, canceled, "{failure:?}");
        assert!(
            failure.message.contains("its daemon is being stopped"),
            "{failure:?}"
        );
    }
    running.await.unwrap();
    let (ended_well, daemon) = stopped.await.unwrap();
    assert!(ended_well, "{}", daemon.log());
}
