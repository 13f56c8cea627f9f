//! Our client against our server: every call, both kinds of end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use gateway_api::caps::CapSet;
use gateway_api::*;
use gateway_bridge::FrontendLimits;
use gateway_bridge::service::{BridgeService, Outcome};
use gateway_bridge::transport::{Observed, serve};
use gateway_frontend::{Environment, RunError};
use gateway_llb::pb;

use crate::mock::Mock;

type Boxed = Pin<Box<dyn Future<Output = Result<BuildResult, Error>> + Send>>;

/// Runs a frontend function over a connection; what it returned, as the host sees it.
async fn converse<F>(
    mock: Arc<Mock>,
    frontend: fn(Arc<dyn Gateway>) -> F,
) -> (Option<Result<BuildResult, Error>>, Result<(), RunError>)
where
    F: Future<Output = Result<BuildResult, Error>> + Send + 'static,
{
    let outcome = Arc::new(Outcome::default());
    let service = BridgeService::new(mock, outcome.clone(), &FrontendLimits::default());
    let (host, child) = tokio::io::duplex(64 * 1024);
    let (read, write) = tokio::io::split(host);
    let server = tokio::spawn(serve(read, write, service, Arc::new(Observed::default())));
    let function: FrontendFn = Arc::new(move |gateway| -> Boxed { Box::pin(frontend(gateway)) });
    let environment = Environment {
        opts: [("filename".to_owned(), "F".to_owned())].into(),
        ..Environment::default()
    };
    let ended = gateway_frontend::serve(child, environment, function).await;
    let _ = server.await.unwrap();
    (outcome.get().cloned(), ended)
}

fn definition(size: usize) -> pb::Definition {
    pb::Definition {
        def: vec![vec![7; size]],
        ..pb::Definition::default()
    }
}

fn solve(definition: pb::Definition) -> SolveRequest {
    SolveRequest {
        definition: Some(definition),
        ..SolveRequest::default()
    }
}

fn only(refs: &Refs) -> Ref {
    match refs {
        Refs::Single(reference) => reference.clone(),
        other => panic!("not a single ref: {other:?}"),
    }
}

#[tokio::test]
async fn every_call_reaches_the_gateway_and_its_answer_the_frontend() {
    let mut mock = Mock::new();
    mock.files
        .insert("Dockerfile".to_owned(), b"FROM x".to_vec());
    mock.inputs.insert("context".to_owned(), definition(3));
    let mock = Arc::new(mock);
    let (returned, ended) = converse(mock.clone(), |gateway| async move {
        assert_eq!(gateway.invocation().opts["filename"], "F");
        assert_eq!(gateway.invocation().workers[0].id, "w");
        assert!(gateway.invocation().llb_caps.supports("file.base"));
        assert_eq!(gateway.inputs().await?["context"], definition(3));
        let solved = gateway.solve(solve(definition(5))).await?;
        let reference = only(&solved.refs);
        assert_eq!(reference.def, Some(definition(5)));
        let read = gateway.read_file(&reference, "Dockerfile", None).await?;
        assert_eq!(read, b"FROM x");
        let range = FileRange {
            offset: 2,
            length: 2,
        };
        let read = gateway
            .read_file(&reference, "Dockerfile", Some(range))
            .await?;
        assert_eq!(read, b"OM");
        let missing = gateway.read_file(&reference, "x", None).await.unwrap_err();
        assert_eq!(missing.message, "open x: no such file or directory");
        assert_eq!(gateway.read_dir(&reference, "/", None).await?.len(), 1);
        assert!(
            gateway
                .read_dir(&reference, "/", Some("y"))
                .await?
                .is_empty()
        );
        assert!(gateway.stat_file(&reference, "d").await?.is_dir());
        gateway.evaluate(&reference).await?;
        let config = gateway
            .resolve_image_config(ResolveImageConfigRequest {
                reference: "alpine:1".to_owned(),
                ..ResolveImageConfigRequest::default()
            })
            .await?;
        assert_eq!(config.reference, "docker.io/library/alpine:1");
        let source = pb::SourceOp {
            identifier: "docker-image://alpine:1".to_owned(),
            ..pb::SourceOp::default()
        };
        let meta = gateway
            .resolve_source_meta(ResolveSourceMetaRequest {
                source: source.clone(),
                ..ResolveSourceMetaRequest::default()
            })
            .await?;
        let image = meta.image.unwrap();
        assert_eq!((meta.source, image.digest), (source, config.digest));
        assert_eq!(image.attestation_chain, Some(crate::mock::chain()));
        gateway
            .warn(Warning {
                short: b"w".to_vec(),
                ..Warning::default()
            })
            .await?;
        Ok(BuildResult {
            refs: Refs::Map([("linux/amd64".to_owned(), reference)].into()),
            metadata: [("k".to_owned(), b"v".to_vec())].into(),
            ..BuildResult::default()
        })
    })
    .await;
    ended.unwrap();
    let returned = returned.unwrap().unwrap();
    assert_eq!(returned.metadata["k"], b"v");
    let Refs::Map(map) = returned.refs else {
        panic!()
    };
    assert_eq!(map["linux/amd64"].id, "ref0");
    assert_eq!(mock.warnings.lock().unwrap()[0].level, 1);
}

#[tokio::test]
async fn p45_p46_an_error_with_a_megabyte_of_details_travels_both_ways() {
    let source = SourceLocation {
        info: pb::SourceInfo {
            filename: "Dockerfile".to_owned(),
            data: vec![b'#'; 1 << 20],
            ..pb::SourceInfo::default()
        },
        ranges: Vec::new(),
    };
    let unknown = Detail::Other {
        type_url: "example.org/Unknown".to_owned(),
        value: vec![1, 2, 3],
    };
    let failure = Error::new(Code::FailedPrecondition, "it failed")
        .with(Detail::Vertex {
            digest: "sha256:aa".to_owned(),
        })
        .with(Detail::Source(source))
        .with(unknown);
    let mut mock = Mock::new();
    mock.failure = Some(failure.clone());
    let (returned, ended) = converse(Arc::new(mock), |gateway| async move {
        let solved = gateway.solve(solve(definition(1))).await?;
        gateway.evaluate(&only(&solved.refs)).await?;
        Ok(BuildResult::default())
    })
    .await;
    assert_eq!(returned.unwrap().unwrap_err(), failure);
    assert!(matches!(ended, Err(RunError::Frontend(error)) if error == failure));
}

#[tokio::test]
async fn p20_fifteen_mebibytes_pass_both_ways_and_seventeen_are_resource_exhausted() {
    let mut mock = Mock::new();
    mock.files.insert("big".to_owned(), vec![1; 17 << 20]);
    let (returned, _) = converse(Arc::new(mock), |gateway| async move {
        let solved = gateway.solve(solve(definition(15 << 20))).await?;
        let reference = only(&solved.refs);
        assert_eq!(reference.def, Some(definition(15 << 20)));
        let range = FileRange {
            offset: 0,
            length: 15 << 20,
        };
        let read = gateway.read_file(&reference, "big", Some(range)).await?;
        assert_eq!(read.len(), 15 << 20);
        let error = gateway
            .read_file(&reference, "big", None)
            .await
            .unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted);
        assert!(
            error
                .message
                .contains("trying to send message larger than max (17825"),
            "{error}"
        );
        // The connection is as good as before.
        gateway.evaluate(&reference).await?;
        Ok(BuildResult::default())
    })
    .await;
    returned.unwrap().unwrap();
}

#[tokio::test]
async fn a_panicking_frontend_returns_an_error() {
    let (returned, ended) = converse(Arc::new(Mock::new()), |_| async move {
        panic!("of its own {}", "making")
    })
    .await;
    let error = returned.unwrap().unwrap_err();
    assert_eq!(error.message, "frontend panicked: of its own making");
    assert!(ended.is_err());
}

#[tokio::test]
async fn p51_a_panicking_handler_fails_its_own_request_only() {
    let (returned, _) = converse(Arc::new(Mock::new()), |gateway| async move {
        let request = SolveRequest {
            frontend: "panic".to_owned(),
            ..SolveRequest::default()
        };
        let error = gateway.solve(request).await.unwrap_err();
        assert_eq!(error.code, Code::Internal);
        gateway.solve(solve(definition(1))).await?;
        Ok(BuildResult::default())
    })
    .await;
    returned.unwrap().unwrap();
}

#[tokio::test]
async fn a_graph_that_needs_what_the_host_lacks_is_refused_by_name() {
    let (returned, _) = converse(Arc::new(Mock::new()), |gateway| async move {
        let mut definition = definition(1);
        let metadata = pb::OpMetadata {
            caps: [("mergeop".to_owned(), true)].into(),
            ..pb::OpMetadata::default()
        };
        definition.metadata.insert("sha256:aa".to_owned(), metadata);
        gateway.solve(solve(definition)).await
    })
    .await;
    let error = returned.unwrap().unwrap_err();
    assert!(error.message.contains("mergeop"), "{error}");
}

#[tokio::test]
async fn p31_a_host_without_return_gets_a_final_solve() {
    let mut mock = Mock::new();
    mock.invocation.frontend_caps = CapSet::enabled(FROZEN);
    const FROZEN: [&str; 4] = gateway_api::caps::FROZEN_FRONTEND_CAPS;
    let mock = Arc::new(mock);
    let (returned, ended) = converse(mock.clone(), |gateway| async move {
        assert!(gateway.inputs().await?.is_empty());
        let mut solved = gateway.solve(solve(definition(4))).await?;
        solved
            .metadata
            .insert("containerimage.config".to_owned(), b"{}".to_vec());
        Ok(solved)
    })
    .await;
    ended.unwrap();
    let returned = returned.unwrap().unwrap();
    assert_eq!(returned.metadata["containerimage.config"], b"{}");
    assert_eq!(only(&returned.refs).id, "ref1");
    let solved = mock.solved.lock().unwrap();
    assert_eq!(solved[0].definition, solved[1].definition);
}

#[tokio::test]
async fn an_older_host_is_asked_by_older_calls() {
    let mut mock = Mock::new();
    mock.invocation.frontend_caps = CapSet::enabled([
        "solve.base",
        "resolveimage",
        "readfile",
        "statfile",
        "return",
    ]);
    let (returned, _) = converse(Arc::new(mock), |gateway| async move {
        let source = pb::SourceOp {
            identifier: "docker-image://alpine:1".to_owned(),
            ..pb::SourceOp::default()
        };
        let meta = gateway
            .resolve_source_meta(ResolveSourceMetaRequest {
                source,
                ..Default::default()
            })
            .await?;
        assert_eq!(
            meta.source.identifier,
            "docker-image://docker.io/library/alpine:1"
        );
        let solved = gateway.solve(solve(definition(4))).await?;
        gateway.evaluate(&only(&solved.refs)).await?;
        gateway.warn(Warning::default()).await?;
        Ok(solved)
    })
    .await;
    assert_eq!(only(&returned.unwrap().unwrap().refs).id, "ref0");
}
