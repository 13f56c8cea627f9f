//! What is accepted as a definition, and what of it counts.

use std::collections::BTreeMap;

use gateway_llb::{Constraints, LocalSource, digest_of, pb};
use gateway_solver::policy::SourcePolicies;
use prost::Message;

use crate::Bench;
use crate::bench::{base, copy_in, definition, sh};

/// The file `/out` of a definition's result, by a new build.
async fn out(bench: &Bench, definition: pb::Definition) -> Result<String, String> {
    let job = bench.job().await;
    let result = job.load(definition, &SourcePolicies::default());
    match job.read_file(&result, "/out", None).await {
        Ok(bytes) => Ok(String::from_utf8(bytes).unwrap()),
        Err(error) => Err(error.message),
    }
}

fn terminal(digest: String, index: i64) -> Vec<u8> {
    pb::Op {
        inputs: vec![pb::Input { digest, index }],
        ..pb::Op::default()
    }
    .encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn s01_s02_ops_may_come_in_any_order_and_twice() {
    let bench = Bench::new();
    bench.write("f", "1");
    let known = definition(&sh(&copy_in(&base(), "/f", "/f"), "cat /f > /out"));
    assert_eq!(out(&bench, known.clone()).await.unwrap(), "1");
    bench.ran();
    let mut mixed = known.clone();
    let last = mixed.def.pop().unwrap();
    mixed.def.reverse();
    mixed.def.extend(mixed.def.clone());
    mixed.def.push(last);
    assert_eq!(out(&bench, mixed).await.unwrap(), "1");
    assert_eq!(bench.ran(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_ops_that_the_result_does_not_need_are_not_run() {
    let bench = Bench::new();
    let mut wanted = definition(&sh(&base(), "echo wanted > /out"));
    let other = definition(&sh(&base(), "echo other > /out"));
    let last = wanted.def.pop().unwrap();
    wanted.def.extend(other.def.iter().rev().skip(1).cloned());
    wanted.def.push(last);
    assert_eq!(out(&bench, wanted).await.unwrap(), "wanted\n");
    assert!(!bench.ran().iter().any(|name| name.contains("other")));
}

#[tokio::test(flavor = "multi_thread")]
async fn s07_an_output_that_does_not_exist_is_told_with_both_numbers() {
    let bench = Bench::new();
    let mut known = definition(&sh(&base(), "true"));
    known.def.pop();
    let digest = digest_of(known.def.last().unwrap());
    known.def.push(terminal(digest, 3));
    let error = out(&bench, known).await.unwrap_err();
    assert!(
        error.contains("invalid response from exec need 3 index but 1 results received"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s08_bytes_that_no_encoder_writes_are_an_op_too() {
    let bench = Bench::new();
    let mut known = definition(&sh(&base(), "echo odd > /out"));
    known.def.pop();
    let step = known.def.pop().unwrap();
    // The same op with a field that is written out although it has its default, and one nobody knows.
    let mut odd = step.to_vec();
    odd.extend([0x9a, 0x3f, 0x01, 0x41]);
    let digest = digest_of(&odd);
    known.def.push(odd);
    known.def.push(terminal(digest, 0));
    assert_eq!(out(&bench, known).await.unwrap(), "odd\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn s09_a_capability_that_nobody_knows_is_refused() {
    let bench = Bench::new();
    let state = base()
        .run(["/bin/sh", "-c", "true"])
        .with(Constraints::new().cap("nope.cap"))
        .root();
    let error = out(&bench, definition(&state)).await.unwrap_err();
    assert!(error.contains("unknown API capability nope.cap"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s10_attributes_that_nobody_knows_do_no_harm() {
    let bench = Bench::new();
    bench.write("out", "here");
    let mut known = definition(&LocalSource::new("context").state(Constraints::new()));
    let mut op = pb::Op::decode(&known.def[0][..]).unwrap();
    let Some(pb::op::Op::Source(source)) = &mut op.op else {
        panic!("no source");
    };
    source.attrs.insert("local.unheard".into(), "of".into());
    let bytes = op.encode_to_vec();
    let last = terminal(digest_of(&bytes), 0);
    known.def = vec![bytes, last];
    known.metadata = BTreeMap::new();
    assert_eq!(out(&bench, known).await.unwrap(), "here");
}

#[tokio::test(flavor = "multi_thread")]
async fn s11_names_limits_and_groups_do_not_count() {
    let bench = Bench::new();
    let step = |constraints: Constraints| {
        let run = base().run(["/bin/sh", "-c", "echo 1 > /out"]);
        definition(&run.with(constraints).root())
    };
    out(&bench, step(Constraints::new())).await.unwrap();
    bench.ran();
    let limits = pb::LinuxResources {
        cpu_shares: 100,
        ..pb::LinuxResources::default()
    };
    for other in [
        Constraints::new().name("another name"),
        Constraints::new().linux_resources(limits),
        Constraints::new().progress_group("id", "group", true),
    ] {
        out(&bench, step(other)).await.unwrap();
        assert_eq!(bench.ran(), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s12_what_the_build_may_not_do_is_refused_before_anything_runs() {
    for (network, security, expected) in [
        (
            pb::NetMode::Host,
            pb::SecurityMode::Sandbox,
            "network.host is not allowed",
        ),
        (
            pb::NetMode::Unset,
            pb::SecurityMode::Insecure,
            "security.insecure is not allowed",
        ),
    ] {
        let bench = Bench::new();
        let first = sh(&base(), "echo 1 > /out");
        let second = first.run(["/bin/sh", "-c", "true"]);
        let state = second.network(network).security(security).root();
        let error = out(&bench, definition(&state)).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert_eq!(bench.ran(), [""; 0]);
    }
}
