//! What clients ask the daemon beside builds, and what builds tell them: call by call, over the protobufs of
//! other people.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1 as api;
use bytes::Bytes;
use gateway_llb::pb;
use gateway_proto::convert::definition::from_entries;
use gateway_proto::frontend as bridge;
use gateway_proto::frontend::exec_message::Input;
use gateway_proto::frontend::llb_bridge_client::LlbBridgeClient;
use gateway_proto::frontend::result::Result as Given;
use gateway_tests::calls::{busybox, marshal, of, step, theirs};
use gateway_tests::client::wire::SolveRequest;
use gateway_tests::client::{Client, Offers, Session, Tree, new_id};
use gateway_tests::daemon::Daemon;
use gateway_tests::rig::Rig;
use gateway_tests::tls::{Authority, ServerFiles};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

/// All that a stream of a build says, from the beginning to its end.
async fn all(status: &mut gateway_tests::client::Stream) -> api::StatusResponse {
    let mut all = api::StatusResponse::default();
    while let Some(more) = status
        .next::<api::StatusResponse>()
        .await
        .expect("an end that is none of a failure")
    {
        all.vertexes.extend(more.vertexes);
        all.logs.extend(more.logs);
        all.warnings.extend(more.warnings);
    }
    all
}

async fn status(client: &Client, name: &str) -> gateway_tests::client::Stream {
    let mut status = client.stream("/moby.buildkit.v1.Control/Status", &[]).await;
    let request = api::StatusRequest {
        r#ref: name.to_owned(),
    };
    status.send(&request).await;
    status.finish();
    status
}

fn dockerfile(session: &Session) -> SolveRequest {
    SolveRequest {
        name: new_id(),
        session: session.id.clone(),
        frontend: "dockerfile.v0".to_owned(),
        ..SolveRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_p42_a_build_is_told_of_from_its_beginning_to_its_end_and_warnings_with_their_places() {
    let rig = Rig::new();
    let client = rig.client().await;
    let text = "from busybox AS base\nRUN echo said $((6*7)); exit 3\n";
    let offers = Offers::context(Tree::new(vec![Tree::dockerfile(text)]));
    let session = Session::open(&client, offers).await;
    let request = dockerfile(&session);
    // Asked before the build is.
    let mut early = status(&client, &request.name).await;
    let (built, early) = tokio::join!(client.solve(&request), all(&mut early));
    let error = built.unwrap_err();
    assert!(error.message.contains("exit code: 3"), "{error:?}");
    // And when all is over, twice.
    for said in [
        early,
        all(&mut status(&client, &request.name).await).await,
        all(&mut status(&client, &request.name).await).await,
    ] {
        let logs: Vec<u8> = said.logs.iter().flat_map(|log| log.msg.clone()).collect();
        assert!(String::from_utf8_lossy(&logs).contains("said 42"));
        let step = |v: &&api::Vertex| v.name.contains("RUN echo said");
        let step: Vec<&api::Vertex> = said.vertexes.iter().filter(step).collect();
        assert!(step[0].started.is_none(), "it is announced: {step:?}");
        assert!(
            step.iter()
                .any(|v| v.started.is_some() && v.completed.is_none())
        );
        let last = step.last().unwrap();
        assert!(last.completed.is_some() && last.error.contains("exit code: 3"));
        assert!(said.logs.iter().all(|log| log.timestamp.is_some()));
        let warning = &said.warnings[0];
        let short = String::from_utf8_lossy(&warning.short).into_owned();
        assert!(short.starts_with("FromAsCasing"), "{short}");
        assert!(!warning.url.is_empty() && !warning.detail.is_empty());
        let info = warning.info.as_ref().unwrap();
        assert_eq!(info.filename, "Dockerfile");
        assert_eq!(info.data, text.as_bytes());
        let start = warning.ranges[0].start.as_ref().unwrap();
        assert_eq!(start.line, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_clients_ask_about_sources_and_for_the_inputs_of_their_build() {
    let rig = Rig::new();
    let mut control = rig.control().await;
    let given = step("echo given > /given");
    let request = api::SolveRequest {
        r#ref: "asks".to_owned(),
        frontend_inputs: HashMap::from([("base".to_owned(), theirs(&given))]),
        ..Default::default()
    };
    let built = tokio::spawn(async move { control.solve(request).await });
    let mut client = LlbBridgeClient::new(rig.channel().await);
    let inputs = client.inputs(of("asks", bridge::InputsRequest {})).await;
    let inputs = inputs.expect("the inputs").into_inner().definitions;
    assert_eq!(from_entries(inputs)["base"].def, given.def);
    let source = |identifier: &str| bridge::ResolveSourceMetaRequest {
        source: Some(pb::SourceOp {
            identifier: identifier.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let image = "docker-image://docker.io/library/busybox:latest";
    let meta = client.resolve_source_meta(of("asks", source(image))).await;
    let meta = meta.expect("an answer").into_inner();
    let image = meta.image.expect("an image");
    assert!(image.digest.starts_with("sha256:"), "{image:?}");
    let config: serde_json::Value = serde_json::from_slice(&image.config).expect("a config");
    assert_eq!(config["os"], "linux");
    let pinned = meta.source.expect("the source").identifier;
    assert!(pinned.contains("busybox"), "{pinned}");
    let none = "docker-image://docker.io/library/no-such-image:latest";
    let none = client.resolve_source_meta(of("asks", source(none))).await;
    assert!(none.unwrap_err().message().contains("no-such-image"));
    let nothing = bridge::ReturnRequest {
        result: Some(bridge::Result {
            result: Some(Given::Ref(bridge::Ref::default())),
            ..Default::default()
        }),
        ..Default::default()
    };
    client.r#return(of("asks", nothing)).await.expect("taken");
    built.await.unwrap().expect("the build");
}

#[tokio::test(flavor = "multi_thread")]
async fn p02_platforms_are_those_that_run_here_the_own_one_first() {
    let rig = Rig::new();
    let workers = rig.control().await;
    let workers = workers
        .clone()
        .list_workers(api::ListWorkersRequest::default())
        .await;
    let platforms = workers.expect("workers").into_inner().record[0]
        .platforms
        .clone();
    let shown: Vec<String> = platforms
        .iter()
        .map(|p| format!("{}/{}/{}", p.os, p.architecture, p.variant))
        .collect();
    let host = gateway_llb::platform::host();
    assert_eq!(platforms[0].architecture, host.architecture, "{shown:?}");
    let mut once = shown.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), shown.len(), "{shown:?}");
    if host.architecture == "amd64" {
        let told = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        for (flag, level) in [("sse4_2", "v2"), ("avx2", "v3"), ("avx512vl", "v4")] {
            let has = told.split_whitespace().any(|word| word == flag);
            let told = shown.contains(&format!("linux/amd64/{level}"));
            assert_eq!(told, has, "{level}: {shown:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p49_p50_p54_what_is_kept_is_told_with_its_size_and_goes_when_chosen() {
    let rig = Rig::new();
    let mut control = rig.control().await;
    for (name, command) in [
        ("large", "dd if=/dev/urandom of=/large bs=1024 count=3000"),
        ("small", "echo small > /small"),
    ] {
        let request = api::SolveRequest {
            r#ref: name.to_owned(),
            definition: Some(theirs(&step(command))),
            ..Default::default()
        };
        control.solve(request).await.expect("the build");
    }
    let usage = async |filter: &str| {
        let request = api::DiskUsageRequest {
            filter: vec![filter.to_owned()],
            ..Default::default()
        };
        let used = rig.control().await.disk_usage(request).await;
        used.expect("usage").into_inner().record
    };
    let prune = async |request: api::PruneRequest| {
        let pruned = rig.control().await.prune(request).await;
        let mut pruned = pruned.expect("pruning").into_inner();
        let mut gone = Vec::new();
        while let Some(record) = pruned.message().await.expect("a record") {
            gone.push(record.id);
        }
        gone
    };
    let named = |records: &[api::UsageRecord], text: &str| {
        let found = records
            .iter()
            .find(|record| record.description.contains(text));
        found.cloned().expect("a record")
    };
    let all = usage("").await;
    let (large, small) = (named(&all, "of=/large"), named(&all, "/small"));
    let expected = 3000 * 1024;
    assert!(
        (expected..expected + 100_000).contains(&large.size),
        "{large:?}"
    );
    assert!((0..100_000).contains(&small.size), "{small:?}");
    assert!(!large.in_use && !large.parents.is_empty() && large.usage_count >= 1);
    // Filters: one record, those that are not it, what is none.
    assert_eq!(usage(&format!("id=={}", large.id)).await.len(), 1);
    let others = usage(&format!("id!={}", large.id)).await;
    assert_eq!(others.len(), all.len() - 1);
    assert!(usage("type==source.local").await.is_empty());
    // Nothing is old.
    let old = api::PruneRequest {
        all: true,
        keep_duration: i64::try_from(Duration::from_secs(3600).as_nanos()).unwrap(),
        ..Default::default()
    };
    assert!(prune(old).await.is_empty());
    // Room enough for all.
    let roomy = api::PruneRequest {
        all: true,
        max_used_space: 1 << 40,
        ..Default::default()
    };
    assert!(prune(roomy).await.is_empty());
    let one = api::PruneRequest {
        filter: vec![format!("id=={}", small.id)],
        ..Default::default()
    };
    assert_eq!(prune(one).await, std::slice::from_ref(&small.id));
    assert_eq!(usage("").await.len(), all.len() - 1);
    // What is left is brought below a size.
    let total: i64 = usage("").await.iter().map(|record| record.size).sum();
    let least = api::PruneRequest {
        all: true,
        max_used_space: total - 1_000_000,
        ..Default::default()
    };
    assert!(!prune(least).await.is_empty());
    let left: i64 = usage("").await.iter().map(|record| record.size).sum();
    assert!(left <= total - 1_000_000, "{left} of {total}");
    // Everything of a finished build is written already: to ask for that changes nothing.
    let finalize = api::UpdateBuildHistoryRequest {
        r#ref: "large".to_owned(),
        finalize: true,
        ..Default::default()
    };
    control
        .update_build_history(finalize)
        .await
        .expect("finalized");
    let listen = api::BuildHistoryRequest {
        r#ref: "large".to_owned(),
        early_exit: true,
        ..Default::default()
    };
    let events = control.listen_build_history(listen).await;
    let mut events = events.expect("the history").into_inner();
    let event = events.message().await.expect("an event").expect("one");
    assert!(event.record.expect("a record").trace.is_some());
}

/// What a collector got: paths, headers and bodies.
type Heard = Arc<Mutex<Vec<(String, http::HeaderMap, Bytes)>>>;

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// Where a collector listens, with a certificate or without.
struct Door {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    /// Those that came and did not believe the certificate.
    disbelieved: Arc<AtomicUsize>,
}

impl Door {
    async fn open(files: Option<&ServerFiles>) -> Door {
        let tls = files.map(|files| {
            let certificate = CertificateDer::from_pem_file(&files.certificate).expect("PEM");
            let key = PrivateKeyDer::from_pem_file(&files.key).expect("PEM");
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key);
            TlsAcceptor::from(Arc::new(config.expect("a certificate")))
        });
        Door {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            tls,
            disbelieved: Arc::default(),
        }
    }

    fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.listener.local_addr().unwrap())
    }

    async fn next(&self) -> Box<dyn Connection> {
        loop {
            let (stream, _) = self.listener.accept().await.expect("a connection");
            match &self.tls {
                None => return Box::new(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => return Box::new(stream),
                    Err(_) => self.disbelieved.fetch_add(1, Ordering::SeqCst),
                },
            };
        }
    }
}

/// A collector of gRPC.
async fn grpc_collector(door: Door, heard: Heard) {
    loop {
        let stream = door.next().await;
        let heard = heard.clone();
        let service = hyper::service::service_fn(move |request: http::Request<_>| {
            let heard = heard.clone();
            async move {
                let (head, body): (_, hyper::body::Incoming) = request.into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                let path = head.uri.path().to_owned();
                heard.lock().unwrap().push((path, head.headers, body));
                let mut answer = http::Response::new(Full::new(Bytes::from_static(&[0; 5])));
                let headers = answer.headers_mut();
                headers.insert("content-type", "application/grpc".parse().unwrap());
                headers.insert("grpc-status", "0".parse().unwrap());
                Ok::<_, Infallible>(answer)
            }
        });
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// A collector of HTTP/1.1: the first line, the headers, a body of the length that they say.
async fn http_collector(door: Door, heard: Heard) {
    loop {
        let mut stream = door.next().await;
        let mut all = Vec::new();
        let end = loop {
            let mut some = [0; 4096];
            let count = stream.read(&mut some).await.expect("words");
            all.extend_from_slice(&some[..count]);
            let end = all.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
        };
        let head = String::from_utf8_lossy(&all[..end]).into_owned();
        let mut headers = http::HeaderMap::new();
        for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
            let name = http::HeaderName::try_from(name).unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        let length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
        let mut body = all.split_off(end);
        while body.len() < length {
            let mut some = [0; 4096];
            let count = stream.read(&mut some).await.expect("words");
            body.extend_from_slice(&some[..count]);
        }
        let path = head.split(' ').nth(1).unwrap().to_owned();
        heard.lock().unwrap().push((path, headers, body.into()));
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.expect("heard");
    }
}

/// Spans, as far as nobody looks into them.
#[derive(Clone, PartialEq, Message)]
struct Spans {
    #[prost(bytes = "vec", repeated, tag = "1")]
    resource_spans: Vec<Vec<u8>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn p25_spans_of_clients_go_on_to_a_collector_as_they_came() {
    let spans = Spans {
        resource_spans: vec![b"\x0a\x03abc".to_vec(), vec![7; 100_000]],
    };
    let keys = tempfile::tempdir().unwrap();
    let authority = Authority::new("of collectors");
    let files = authority.server(keys.path(), &["127.0.0.1"]);
    let ca = keys.path().join("ca.pem");
    authority.write_ca(&ca);
    for (protocol, files) in [
        ("grpc", None),
        ("http/protobuf", None),
        ("grpc", Some(&files)),
        ("http/protobuf", Some(&files)),
    ] {
        let heard = Heard::default();
        let door = Door::open(files).await;
        let endpoint = door.endpoint();
        let collector = match protocol {
            "grpc" => tokio::spawn(grpc_collector(door, heard.clone())),
            _ => tokio::spawn(http_collector(door, heard.clone())),
        };
        let daemon = Daemon::start_with(
            "",
            &[],
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=of%20the collector"),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca.display().to_string()),
            ],
        );
        let client = Client::unix(&daemon.socket()).await;
        let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        client
            .ask::<gateway_tests::client::wire::Nothing>(path, &[], &spans)
            .await
            .expect("taken");
        let mut waited = 0;
        while heard.lock().unwrap().is_empty() {
            waited += 1;
            assert!(waited < 1200, "nothing came: {protocol}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (to, headers, body) = heard.lock().unwrap()[0].clone();
        let (wanted, body) = match protocol {
            "grpc" => (path, body.slice(5..)),
            _ => ("/v1/traces", body),
        };
        assert_eq!(to, wanted);
        assert_eq!(headers["x-key"], "of the collector");
        assert_eq!(Spans::decode(body).unwrap(), spans);
        collector.abort();
        // A collector that is gone keeps nobody waiting.
        let again = client.ask::<gateway_tests::client::wire::Nothing>(path, &[], &spans);
        again.await.expect("taken");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p25_spans_go_to_no_collector_whose_certificate_is_of_nobody_that_is_trusted() {
    let keys = tempfile::tempdir().unwrap();
    let (theirs, ours) = (Authority::new("theirs"), Authority::new("ours"));
    let files = theirs.server(keys.path(), &["127.0.0.1"]);
    let ca = keys.path().join("ca.pem");
    ours.write_ca(&ca);
    let door = Door::open(Some(&files)).await;
    let (heard, disbelieved) = (Heard::default(), door.disbelieved.clone());
    let endpoint = door.endpoint();
    tokio::spawn(grpc_collector(door, heard.clone()));
    let daemon = Daemon::start_with(
        "",
        &[],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca.display().to_string()),
        ],
    );
    let client = Client::unix(&daemon.socket()).await;
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let spans = Spans::default();
    let taken = client.ask::<gateway_tests::client::wire::Nothing>(path, &[], &spans);
    taken.await.expect("taken");
    let mut waited = 0;
    while disbelieved.load(Ordering::SeqCst) == 0 {
        waited += 1;
        assert!(waited < 1200, "nobody came");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(heard.lock().unwrap().is_empty());
    let mut daemon = daemon;
    daemon.stop();
    // Files that are not there are told at the start, and end nothing.
    let daemon = Daemon::start_with(
        "",
        &[],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file"),
        ],
    );
    let log = daemon.log();
    assert!(log.contains("/no/such/file"), "{log}");
}

fn init(container: &str, command: &str, tty: bool) -> Input {
    Input::Init(bridge::InitMessage {
        container_id: container.to_owned(),
        meta: Some(pb::Meta {
            args: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
            cwd: "/".to_owned(),
            env: vec!["PATH=/bin:/usr/bin".to_owned()],
            ..Default::default()
        }),
        fds: if tty { vec![0, 1] } else { vec![0, 1, 2] },
        tty,
        ..Default::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn p59_processes_of_a_client_have_terminals_and_hear_signals() {
    processes_have_terminals_and_hear_signals(Rig::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p59_the_same_under_a_runtime_of_others() {
    for runtime in ["runc", "crun"] {
        let rig = Rig::configured(&format!("[worker.oci]\nbinary = \"{runtime}\"\n"));
        processes_have_terminals_and_hear_signals(rig).await;
    }
}

async fn processes_have_terminals_and_hear_signals(rig: Rig) {
    let mut control = rig.control().await;
    let request = api::SolveRequest {
        r#ref: "shell".to_owned(),
        ..Default::default()
    };
    let built = tokio::spawn(async move { control.solve(request).await });
    let mut client = LlbBridgeClient::new(rig.channel().await);
    let request = bridge::SolveRequest {
        definition: Some(marshal(&busybox())),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..Default::default()
    };
    let solved = client.solve(of("shell", request)).await.expect("a result");
    let result = solved.into_inner().result.expect("one");
    let Some(Given::Ref(reference)) = result.result.clone() else {
        panic!("{result:?}");
    };
    for (name, command, tty) in [
        (
            "terminal",
            // What is typed may overtake the size; a terminal without one has nothing to tell.
            "test -t 0 && echo a terminal; read word; until stty size 2>/dev/null | grep .; do sleep 0.1; done; echo $word",
            true,
        ),
        (
            "signal",
            "trap 'echo heard; exit 5' TERM; echo ready; while true; do sleep 0.1; done",
            false,
        ),
    ] {
        let container = bridge::NewContainerRequest {
            container_id: name.to_owned(),
            mounts: vec![pb::Mount {
                dest: "/".to_owned(),
                result_id: reference.id.clone(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let made = client.new_container(of("shell", container)).await;
        made.expect("a container");
        let message = |input| bridge::ExecMessage {
            process_id: name.to_owned(),
            input: Some(input),
        };
        let (send, sent) = tokio::sync::mpsc::channel(8);
        send.send(message(init(name, command, tty))).await.unwrap();
        let stream = of("shell", ReceiverStream::new(sent));
        let heard = client.exec_process(stream).await.expect("a process");
        let mut heard = heard.into_inner();
        let (mut output, mut code, mut told) = (String::new(), None, false);
        while let Some(heard) = heard.message().await.expect("a message") {
            match heard.input {
                Some(Input::File(piece)) => {
                    output.push_str(&String::from_utf8_lossy(&piece.data));
                }
                Some(Input::Exit(exit)) => {
                    code = Some(exit.code);
                    // All is said when the client has no more to say either.
                    let end = bridge::FdMessage {
                        fd: 0,
                        eof: true,
                        ..Default::default()
                    };
                    send.send(message(Input::File(end))).await.unwrap();
                }
                Some(Input::Done(_)) => break,
                _ => {}
            }
            // It is there, and reads.
            if !told && output.contains('\n') {
                told = true;
                if tty {
                    let size = bridge::ResizeMessage { rows: 33, cols: 77 };
                    send.send(message(Input::Resize(size))).await.unwrap();
                    let typed = bridge::FdMessage {
                        fd: 0,
                        data: b"typed\n".to_vec(),
                        ..Default::default()
                    };
                    send.send(message(Input::File(typed))).await.unwrap();
                } else {
                    let signal = bridge::SignalMessage {
                        name: "TERM".to_owned(),
                    };
                    send.send(message(Input::Signal(signal))).await.unwrap();
                }
            }
        }
        if tty {
            assert!(output.starts_with("a terminal"), "{output}");
            assert!(output.contains("33 77"), "{output}");
            assert_eq!(code, Some(0), "{output}");
        } else {
            assert!(output.contains("heard"), "{output}");
            assert_eq!(code, Some(5), "{output}");
        }
        drop(send);
        let release = bridge::ReleaseContainerRequest {
            container_id: name.to_owned(),
        };
        let _ = client.release_container(of("shell", release)).await;
    }
    let back = bridge::ReturnRequest {
        result: Some(result),
        ..Default::default()
    };
    client.r#return(of("shell", back)).await.expect("taken");
    built.await.unwrap().expect("the build");
}
