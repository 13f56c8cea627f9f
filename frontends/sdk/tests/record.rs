//! A conversation is recorded, written, read and played back.

use std::sync::Arc;

use gateway_frontend::api::{BuildResult, Code, Error, Gateway, Ref, SolveRequest};
use gateway_frontend::llb::{Constraints, LocalSource, MarshalOptions};
use gateway_frontend::record::{Recorder, Recording, Replay};
use gateway_frontend::testing::MockGateway;

/// Reads a file, misses another, and returns what it solved.
async fn frontend(gateway: Arc<dyn Gateway>) -> Result<BuildResult, Error> {
    let source = LocalSource {
        session: gateway.invocation().session_id.clone(),
        ..LocalSource::new("context")
    };
    let definition = source
        .state(Constraints::new().name("load it"))
        .marshal(&MarshalOptions::default())
        .map_err(|e| Error::unknown(e.to_string()))?;
    let request = SolveRequest {
        definition: Some(definition),
        ..SolveRequest::default()
    };
    let mut solved = gateway.solve(request).await?;
    let Some((_, reference)) = solved.refs.iter().next() else {
        return Err(Error::unknown("nothing solved"));
    };
    let reference = reference.clone();
    let text = gateway.read_file(&reference, "there", None).await?;
    let missing = gateway.read_file(&reference, "missing", None).await;
    solved.metadata.insert("text".to_owned(), text);
    let message = missing.unwrap_err().message.into_bytes();
    solved.metadata.insert("missing".to_owned(), message);
    Ok(solved)
}

async fn recorded() -> Recording {
    let gateway = MockGateway::new()
        .opt("target", "x")
        .file("context", "there", "hello");
    let recorder = Recorder::new(gateway.shared());
    let returned = frontend(recorder.clone()).await;
    recorder.finish(&returned)
}

#[tokio::test]
async fn a_recording_answers_the_same_frontend_without_a_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("1-x.json");
    recorded().await.write(&path).unwrap();
    let recording = Recording::read(&path).unwrap();
    assert_eq!(
        recording.calls(),
        ["solve: load it", "read_file: there", "read_file: missing"]
    );

    let replay = Replay::new(recording).shared();
    assert_eq!(replay.invocation().opts["target"], "x");
    assert_eq!(replay.unasked().len(), 3);
    let returned = frontend(replay.clone()).await;
    assert_eq!(returned, replay.returned());
    let returned = returned.unwrap();
    assert_eq!(returned.metadata["text"], b"hello");
    assert_eq!(
        returned.metadata["missing"],
        b"open missing: no such file or directory"
    );
    assert_eq!(replay.unasked(), [""; 0]);
}

#[tokio::test]
async fn a_call_that_was_not_recorded_is_named() {
    let replay = Replay::new(recorded().await);
    let reference = Ref::new("0", None);
    let error = replay
        .read_file(&reference, "other", None)
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition);
    assert!(error.message.contains("no such read_file"), "{error}");
    assert!(error.message.contains("other"), "{error}");
}

#[tokio::test]
async fn errors_of_frontends_are_recorded_too() {
    let recorder = Recorder::new(MockGateway::new().shared());
    let returned = Err(Error::invalid("no"));
    let replay = Replay::new(recorder.finish(&returned));
    assert_eq!(replay.returned(), returned);
}

#[test]
fn what_is_no_recording_is_refused() {
    assert!(
        Recording::parse(b"{}")
            .unwrap_err()
            .to_string()
            .contains("no recording")
    );
    let text = br#"{"version":9,"opts":{},"session":"","product":"","host":"","calls":[],"returned":{"ok":""}}"#;
    assert_eq!(
        Recording::parse(text).unwrap_err().to_string(),
        "this recording has version 9; version 1 is known"
    );
}
