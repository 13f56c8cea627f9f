//! Builds by built-in frontends, by images, and by both together.

use std::time::{Duration, Instant};

use gateway_api::{
    BuildResult, Code, Detail, Error, Ref, Refs, ResolveSourceMetaRequest, SolveRequest,
};
use gateway_llb::{Constraints, LocalSource, MarshalOptions, pb};
use gateway_solver::policy::{Policy, SourcePolicies};
use prost::Message;
use tokio_util::sync::CancellationToken;

use crate::rig::{RAW, Rig};

fn local(name: &str) -> pb::Definition {
    let source = LocalSource {
        session: "the-session".to_owned(),
        ..LocalSource::new(name)
    };
    source
        .state(Constraints::new())
        .marshal(&MarshalOptions::new(gateway_llb::platform::host()))
        .unwrap()
}

fn solve(definition: pb::Definition) -> SolveRequest {
    SolveRequest {
        definition: Some(definition),
        ..SolveRequest::default()
    }
}

fn single(result: &BuildResult) -> Ref {
    match &result.refs {
        Refs::Single(reference) => reference.clone(),
        other => panic!("{other:?}"),
    }
}

pub async fn a_builtin_frontend_reads_the_context_and_returns_it() {
    let rig = Rig::new().with_builtin("test.v0", |gateway| async move {
        let solved = gateway.solve(solve(local("context"))).await?;
        let reference = single(&solved);
        let file = gateway.read_file(&reference, "Dockerfile", None).await?;
        assert_eq!(file, b"FROM scratch\n");
        assert!(
            gateway
                .read_file(&reference, "missing", None)
                .await
                .is_err()
        );
        let again = single(&gateway.solve(solve(local("context"))).await?);
        assert_ne!(again.id, reference.id, "p30");
        gateway.evaluate(&again).await?;
        Ok(solved)
    });
    rig.build("test.v0", &[]).await.unwrap();
}

pub async fn a_panicking_builtin_is_an_error() {
    let rig = Rig::new().with_builtin("test.v0", |_| async { panic!("on purpose") });
    let error = rig.build("test.v0", &[]).await.unwrap_err();
    assert_eq!(error.code, Code::Internal);
}

pub async fn p29_an_unknown_frontend_is_refused_by_name() {
    let rig = Rig::new().with_builtin("test.v0", |gateway| async move {
        let request = SolveRequest {
            frontend: "test.v0".to_owned(),
            ..solve(local("context"))
        };
        let error = gateway.solve(request).await.unwrap_err();
        assert_eq!(
            error.message,
            "cannot solve with both Definition and Frontend specified"
        );
        Ok(BuildResult::default())
    });
    let error = rig.build("other.v0", &[]).await.unwrap_err();
    assert_eq!(error.message, "invalid frontend: other.v0");
    rig.build("test.v0", &[]).await.unwrap();
}

pub async fn p18_gateway_devel_is_refused() {
    let opts = [("source", "x"), ("gateway-devel", "")];
    let error = Rig::new().build("gateway.v0", &opts).await.unwrap_err();
    assert_eq!(error.message, "development gateway is no longer supported");
}

pub async fn a_missing_source_is_refused() {
    let error = Rig::new().build("gateway.v0", &[]).await.unwrap_err();
    assert_eq!(error.message, "no source specified for gateway");
}

pub async fn p17_a_source_outside_the_list_is_refused() {
    let mut rig = Rig::new();
    rig.policy.allowed_repositories = vec!["docker/dockerfile".to_owned()];
    let error = rig.build_raw("current").await.unwrap_err();
    assert_eq!(
        error.message,
        "'test/raw:1' is not an allowed gateway source"
    );
    rig.policy.gateway_enabled = false;
    let error = rig.build_raw("current").await.unwrap_err();
    assert!(error.message.starts_with("invalid frontend: gateway.v0"));
}

pub async fn p01_images_of_all_ages_run_in_the_sandbox() {
    let rig = Rig::new();
    for mode in ["2018", "2019", "2020", "current", "final"] {
        let built = rig.build_raw(mode).await;
        let built = built.unwrap_or_else(|error| panic!("{mode}: {error}"));
        assert!(
            built.metadata.contains_key("containerimage.config"),
            "{mode}"
        );
    }
    assert!(!rig.path("raw/written").exists());
}

pub async fn p08_p09_p14_the_process_is_what_the_protocol_says() {
    let rig = Rig::new();
    let opts = [
        RAW[0],
        RAW[1],
        ("build-arg:MODE", "probe"),
        ("cmdline", "test/raw:1 a b"),
    ];
    let built = rig.build("gateway.v0", &opts).await.unwrap();
    let probe = &built.exporter["frontend.probe"];
    for line in [
        "cwd=/",
        "pid=1",
        "uid=0 0 0 0",
        "hostname=buildkitsandbox",
        "root written=true",
        "session=the-session",
        "source=test/raw:1",
        "cmdline=test/raw:1 a b",
        "args=/run",
    ] {
        assert!(
            probe.lines().any(|l| l == line),
            "{line} is not in\n{probe}"
        );
    }
    assert!(probe.contains("workers=[{\"id\":"), "{probe}");
    // The root is thrown away: a second run finds it as the first did.
    assert!(!rig.path("raw/written").exists());
}

pub async fn p10_p11_p13_entrypoint_network_and_own_image_come_with_the_image() {
    use base64::Engine as _;
    let rig = Rig::new().with_builtin("test.v0", |gateway| async move {
        let config = r#"{"architecture":"amd64","os":"linux","config":{
            "Entrypoint":["/frontend","probe"],"Cmd":["ignored"],"User":"1234:5678",
            "WorkingDir":"/made/here","Env":["OF_THE_IMAGE=yes"],
            "Labels":{"moby.buildkit.frontend.network.none":"true","moby.buildkit.frontend.caps":"moby.buildkit.frontend.inputs"}
            },"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = base64::engine::general_purpose::STANDARD.encode(config);
        let metadata = format!(r#"{{"containerimage.config":"{config}"}}"#);
        let request = SolveRequest {
            frontend: "gateway.v0".to_owned(),
            frontend_opts: [
                ("source".to_owned(), "test/raw:1".to_owned()),
                ("context:test/raw:1".to_owned(), "input:raw".to_owned()),
                ("input-metadata:raw".to_owned(), metadata),
            ]
            .into(),
            frontend_inputs: [("raw".to_owned(), local("image"))].into(),
            ..SolveRequest::default()
        };
        gateway.solve(request).await
    });
    let built = rig.build("test.v0", &[]).await.unwrap();
    let probe = &built.exporter["frontend.probe"];
    for line in [
        "args=/frontend probe",
        "cwd=/made/here",
        "uid=0 0 0 0",
        "interfaces=lo",
        "image variable=yes",
        "own image written=false",
    ] {
        assert!(
            probe.lines().any(|l| l == line),
            "{line} is not in\n{probe}"
        );
    }
    let size = format!("own image={}", local("image").encoded_len());
    assert!(probe.lines().any(|l| l == size), "{size}: {probe}");
}

pub async fn p52_p48_a_nested_image_is_returned_by_the_outer_frontend() {
    let rig = Rig::new().with_builtin("test.v0", |gateway| async move {
        let mut opts = gateway.invocation().opts.clone();
        opts.extend(RAW.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let solved = gateway
            .solve(SolveRequest {
                frontend: "gateway.v0".to_owned(),
                frontend_opts: opts,
                ..SolveRequest::default()
            })
            .await?;
        let reference = single(&solved);
        assert!(reference.def.is_some());
        let file = gateway.read_file(&reference, "Dockerfile", None).await?;
        assert_eq!(file, b"FROM scratch\n");
        Ok(solved)
    });
    let built = rig.build("test.v0", &[]).await.unwrap();
    assert_eq!(built.exporter["frontend.raw"], "yes");
    let error = rig
        .build("test.v0", &[("build-arg:MODE", "return-error")])
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition);
    assert_eq!(error.message, "my frontend error");
    let frontend = Detail::Frontend {
        name: "gateway.v0".to_owned(),
        source: "test/raw:1".to_owned(),
    };
    assert!(error.details.contains(&frontend));
}

pub async fn p38_inputs_reach_a_nested_frontend() {
    let rig = Rig::new()
        .with_builtin("outer.v0", |gateway| async move {
            gateway
                .solve(SolveRequest {
                    frontend: "inner.v0".to_owned(),
                    frontend_inputs: [("given".to_owned(), local("context"))].into(),
                    ..SolveRequest::default()
                })
                .await
        })
        .with_builtin("inner.v0", |gateway| async move {
            let inputs = gateway.inputs().await?;
            assert_eq!(inputs["given"], local("context"));
            gateway.solve(solve(inputs["given"].clone())).await
        });
    rig.build("outer.v0", &[]).await.unwrap();
}

pub async fn frontends_that_call_themselves_end_at_a_limit() {
    let rig = Rig::new().with_builtin("test.v0", |gateway| async move {
        gateway
            .solve(SolveRequest {
                frontend: "test.v0".to_owned(),
                ..SolveRequest::default()
            })
            .await
    });
    let error = rig.build("test.v0", &[]).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(error.message.contains("levels deep"), "{error}");
}

pub async fn a_missing_entrypoint_is_named_with_its_image() {
    let rig = Rig::new();
    std::fs::remove_file(rig.path("raw/run")).unwrap();
    let error = rig.build_raw("current").await.unwrap_err();
    assert!(
        error
            .message
            .contains("frontend test/raw:1: the image has no ENTRYPOINT and /run cannot be run"),
        "{error}"
    );
    assert_eq!(error.exit_code(), Some(1));
}

pub async fn p22_p53_an_exit_code_comes_with_the_last_output() {
    let rig = Rig::new();
    let error = rig.build_raw("return-exit").await.unwrap_err();
    assert!(error.message.contains("exit code: 5"), "{error}");
    assert!(
        error.message.contains("raw frontend: return-exit"),
        "{error}"
    );
    let statuses = rig.statuses.lock().unwrap();
    let mut vertexes = statuses.iter().flat_map(|status| &status.vertexes);
    let vertex = vertexes.find(|vertex| vertex.name == "[frontend] test/raw:1");
    let digest = &vertex.unwrap().digest;
    let mut logs = statuses.iter().flat_map(|status| &status.logs);
    assert!(logs.any(|log| &log.vertex == digest && log.data.starts_with(b"raw frontend")));
}

pub async fn p24_text_on_stdout_is_quoted() {
    let error = Rig::new().build_raw("text").await.unwrap_err();
    assert!(
        error.message.contains("hello, this is not HTTP/2"),
        "{error}"
    );
}

pub async fn p23_cancelling_kills_the_frontend_within_a_second() {
    let rig = Rig::new();
    let cancel = CancellationToken::new();
    let canceller = cancel.clone();
    let statuses = rig.statuses.clone();
    let cancelled_at = tokio::spawn(async move {
        // Once the frontend has said that it runs.
        while !statuses
            .lock()
            .unwrap()
            .iter()
            .any(|status| !status.logs.is_empty())
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        canceller.cancel();
        Instant::now()
    });
    let opts = [RAW[0], RAW[1], ("build-arg:MODE", "sleep")];
    let error = rig
        .build_until("gateway.v0", &opts, cancel)
        .await
        .unwrap_err();
    let took = cancelled_at.await.unwrap().elapsed();
    assert_eq!(error.code, Code::Canceled);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

pub async fn p26_a_broken_definition_fails_on_first_use() {
    let rig = Rig::new().with_builtin("test.v0", |gateway| async move {
        let broken = pb::Definition {
            def: vec![b"\xff\xff".to_vec()],
            ..pb::Definition::default()
        };
        let solved = gateway.solve(solve(broken.clone())).await?;
        let error: Error = gateway.evaluate(&single(&solved)).await.unwrap_err();
        assert!(error.message.starts_with("failed to load LLB"), "{error}");
        let eager = SolveRequest {
            evaluate: true,
            ..solve(broken)
        };
        assert!(gateway.solve(eager).await.is_err());
        Ok(BuildResult::default())
    });
    rig.build("test.v0", &[]).await.unwrap();
}

/// A policy message that denies what `identifier` names.
fn deny(identifier: &str) -> Vec<u8> {
    use gateway_proto::sourcepolicy::{Policy, PolicyAction, Rule, Selector};
    let rule = Rule {
        action: PolicyAction::Deny.into(),
        selector: Some(Selector {
            identifier: identifier.to_owned(),
            ..Selector::default()
        }),
        ..Rule::default()
    };
    Policy {
        version: 1,
        rules: vec![rule],
    }
    .encode_to_vec()
}

pub async fn policies_of_a_request_hold_for_it_and_for_the_frontend_it_calls() {
    const DENIED: &str = "source \"local://context\" denied by policy";
    let rig = Rig::new()
        .with_builtin("inner.v0", |gateway| async move {
            gateway.solve(solve(local("dockerfile"))).await?;
            let solved = gateway.solve(solve(local("context"))).await?;
            gateway.evaluate(&single(&solved)).await?;
            Ok(solved)
        })
        .with_builtin("test.v0", |gateway| async move {
            let policies = vec![deny("local://context")];
            let request = SolveRequest {
                source_policies: policies.clone(),
                evaluate: true,
                ..solve(local("context"))
            };
            let error = gateway.solve(request).await.unwrap_err();
            assert!(error.message.contains(DENIED), "{error}");
            let request = ResolveSourceMetaRequest {
                source: pb::SourceOp {
                    identifier: "local://context".into(),
                    ..pb::SourceOp::default()
                },
                source_policies: policies.clone(),
                ..ResolveSourceMetaRequest::default()
            };
            let error = gateway.resolve_source_meta(request).await.unwrap_err();
            assert!(
                error
                    .message
                    .starts_with(&format!("could not resolve image due to policy: {DENIED}")),
                "{error}"
            );
            let inner = |source_policies| SolveRequest {
                frontend: "inner.v0".into(),
                source_policies,
                ..SolveRequest::default()
            };
            let error = gateway.solve(inner(policies)).await.unwrap_err();
            assert!(error.message.contains(DENIED), "{error}");
            // They hold for nothing else.
            let unread = gateway.solve(inner(vec![vec![0xff]])).await.unwrap_err();
            assert_eq!(unread.code, Code::InvalidArgument);
            gateway.solve(inner(Vec::new())).await
        });
    rig.build("test.v0", &[]).await.unwrap();
}

pub async fn policies_of_the_build_hold_for_every_frontend() {
    let json = r#"{"rules": [{"action": "DENY", "selector": {"identifier": "local://raw"}}]}"#;
    let mut rig = Rig::new();
    let policy = Policy::parse("policy.json", json).unwrap();
    rig.source_policies = SourcePolicies::new([policy]);
    // The frontend's own image is that directory.
    let error = rig.build_raw("current").await.unwrap_err();
    assert!(
        error
            .message
            .contains("source \"local://raw\" denied by policy"),
        "{error}"
    );
}
