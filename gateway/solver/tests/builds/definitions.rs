//! Build ops: definitions that lie in files.

use std::collections::BTreeMap;

use gateway_llb::{digest_of, pb};
use gateway_solver::policy::SourcePolicies;
use prost::Message;

use crate::Bench;
use crate::bench::{base, definition, local, sh};

/// The result of a build op over a directory of the session.
fn build_of(attrs: &[(&str, &str)]) -> pb::Definition {
    let source = definition(&local("context"));
    let input = pb::Op::decode(source.def[1].as_slice()).unwrap().inputs[0].clone();
    let op = pb::Op {
        inputs: vec![input],
        op: Some(pb::op::Op::Build(pb::BuildOp {
            builder: -1,
            inputs: BTreeMap::from([(
                "buildkit.llb.definition".to_owned(),
                pb::BuildInput { input: 0 },
            )]),
            attrs: attrs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            def: None,
        })),
        ..pb::Op::default()
    };
    let bytes = op.encode_to_vec();
    let terminal = pb::Op {
        inputs: vec![pb::Input {
            digest: digest_of(&bytes),
            index: 0,
        }],
        ..pb::Op::default()
    };
    pb::Definition {
        def: vec![source.def[0].clone(), bytes, terminal.encode_to_vec()],
        ..source
    }
}

async fn file_of(bench: &Bench, definition: pb::Definition) -> Result<String, String> {
    let job = bench.job().await;
    let result = job.load(definition, &SourcePolicies::default());
    match job.read_file(&result, "/made", None).await {
        Ok(bytes) => Ok(String::from_utf8(bytes).unwrap()),
        Err(error) => Err(error.message),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_in_a_file_is_solved_in_the_ops_place() {
    let bench = Bench::new();
    let context = bench.dir.path().join("context");
    let made =
        |text: &str| definition(&sh(&base(), &format!("echo {text} > /made"))).encode_to_vec();
    std::fs::write(context.join("buildkit.llb.definition"), made("one")).unwrap();
    assert_eq!(file_of(&bench, build_of(&[])).await.unwrap(), "one\n");
    // What the file says now counts, not what it said.
    std::fs::write(context.join("buildkit.llb.definition"), made("two")).unwrap();
    assert_eq!(file_of(&bench, build_of(&[])).await.unwrap(), "two\n");
    std::fs::create_dir_all(context.join("sub")).unwrap();
    std::fs::write(context.join("sub/other"), made("three")).unwrap();
    let named = build_of(&[("llbbuild.filename", "sub/other")]);
    assert_eq!(file_of(&bench, named).await.unwrap(), "three\n");
    // The inner steps are those of any other build.
    assert!(bench.ran().iter().any(|name| name.contains("echo three")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_is_none_is_named() {
    let bench = Bench::new();
    let context = bench.dir.path().join("context");
    let failure =
        async |attrs: &[(&str, &str)]| file_of(&bench, build_of(attrs)).await.unwrap_err();
    let text = failure(&[("llbbuild.filename", "none")]).await;
    assert!(text.contains("failed to open none"), "{text}");
    std::fs::write(context.join("bad"), [0xff]).unwrap();
    let text = failure(&[("llbbuild.filename", "bad")]).await;
    assert!(text.contains("bad is no LLB definition"), "{text}");
    let text = failure(&[("llbbuild.filename", "/")]).await;
    assert!(text.contains("/ is not a regular file"), "{text}");
    std::fs::write(context.join("empty"), []).unwrap();
    let text = failure(&[("llbbuild.filename", "empty")]).await;
    assert!(text.contains("invalid empty definition"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_has_its_own_build_op_is_refused() {
    let bench = Bench::new();
    let context = bench.dir.path().join("context");
    // The op's digest says where the file is and not what is in it, so that this is possible.
    let op = build_of(&[]);
    std::fs::write(context.join("buildkit.llb.definition"), op.encode_to_vec()).unwrap();
    let text = file_of(&bench, op).await.unwrap_err();
    assert!(text.contains("has the build op itself"), "{text}");
}
