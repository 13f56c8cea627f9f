//! Attributes of sources and fields of ops that no other test shows. docs/llb.md lists them all.

use std::collections::BTreeMap;

use gateway_llb::{Constraints, LocalSource, ProxyEnv, Secret, State, digest_of, pb};
use gateway_solver::policy::SourcePolicies;
use gateway_solver::{CacheDestination, CacheExport, SolvedRefs, SolvedResult};
use prost::Message;

use crate::Bench;
use crate::bench::{base, definition, sh};

fn terminal(digest: String, index: i64) -> Vec<u8> {
    pb::Op {
        inputs: vec![pb::Input { digest, index }],
        ..pb::Op::default()
    }
    .encode_to_vec()
}

/// The client's directory with these attributes.
fn context(attrs: &[(&str, &str)]) -> pb::Definition {
    let known = definition(&LocalSource::new("context").state(Constraints::new()));
    let mut op = pb::Op::decode(&known.def[0][..]).unwrap();
    let Some(pb::op::Op::Source(source)) = &mut op.op else {
        panic!("no source");
    };
    let attrs = attrs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    source.attrs.extend(attrs);
    let bytes = op.encode_to_vec();
    let last = terminal(digest_of(&bytes), 0);
    pb::Definition {
        def: vec![bytes, last],
        metadata: BTreeMap::new(),
        source: None,
    }
}

/// A file of a new build's result, or why there is none.
async fn read(bench: &Bench, known: pb::Definition, path: &str) -> Result<Vec<u8>, String> {
    let job = bench.job().await;
    let result = job.load(known, &SourcePolicies::default());
    let read = job.read_file(&result, path, None).await;
    read.map_err(|error| error.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_stats_of_a_directory_and_the_content_of_exceptions_are_taken() {
    let bench = Bench::new();
    bench.write("a/large", "content");
    bench.write("a/kept", "kept");
    bench.write("b", "b");
    let attrs = [
        ("local.metadatatransfer", "true"),
        ("local.metadatatransferexclude", "[\"a/kept\"]"),
        ("local.excludepatterns", "[\"b\"]"),
    ];
    let list = read(&bench, context(&attrs), "/.fsutil-metadata").await;
    let list = list.unwrap();
    let mut paths = Vec::new();
    let mut rest = list.as_slice();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap();
        let (stat, after) = after.split_at(length);
        // The first field is the path.
        assert_eq!(stat[0], 0x0a);
        let path = &stat[2..2 + usize::from(stat[1])];
        paths.push(String::from_utf8(path.to_vec()).unwrap());
        rest = after;
    }
    assert_eq!(paths, ["a", "a/kept", "a/large"]);
    let kept = read(&bench, context(&attrs), "/a/kept").await;
    assert_eq!(kept.unwrap(), b"kept");
    let large = read(&bench, context(&attrs), "/a/large").await;
    assert!(large.unwrap_err().contains("no such file"));

    // A step that uses it runs again when a stat changes, and only then.
    let step = || {
        let state = base().run([
            "/bin/sh",
            "-c",
            "cat /m/.fsutil-metadata | busybox wc -c > /out",
        ]);
        let local = LocalSource::new("context").state(Constraints::new());
        let mount = gateway_llb::Mount::bind("/m", &local).readonly();
        let mut known = definition(&state.mount(mount).root());
        with_attrs(&mut known, &attrs);
        known
    };
    let size = read(&bench, step(), "/out").await.unwrap();
    assert_eq!(
        String::from_utf8(size).unwrap().trim(),
        list.len().to_string()
    );
    bench.ran();
    read(&bench, step(), "/out").await.unwrap();
    assert!(!bench.ran().iter().any(|name| name.contains("wc -c")));
    bench.write("a/large", "longer content");
    read(&bench, step(), "/out").await.unwrap();
    assert!(bench.ran().iter().any(|name| name.contains("wc -c")));
}

/// Gives the definition's source of the context more attributes.
fn with_attrs(known: &mut pb::Definition, attrs: &[(&str, &str)]) {
    let mut renamed = BTreeMap::new();
    for bytes in &mut known.def {
        let mut op = pb::Op::decode(&bytes[..]).unwrap();
        for input in &mut op.inputs {
            if let Some(new) = renamed.get(&input.digest) {
                input.digest = String::clone(new);
            }
        }
        if let Some(pb::op::Op::Source(source)) = &mut op.op
            && source.identifier == "local://context"
        {
            let attrs = attrs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            source.attrs.extend(attrs);
        }
        let old = digest_of(bytes);
        *bytes = op.encode_to_vec();
        renamed.insert(old, digest_of(bytes));
    }
    known.metadata = BTreeMap::new();
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_a_local_source_choose_its_files_and_odd_ones_are_refused() {
    let bench = Bench::new();
    bench.write("a", "a");
    bench.write("b", "b");
    std::os::unix::fs::symlink("b", bench.dir.path().join("context/link")).unwrap();
    for (attrs, there, missing) in [
        (("local.includepattern", "[\"a\"]"), "/a", "/b"),
        (("local.excludepatterns", "[\"a\"]"), "/b", "/a"),
        (("local.followpaths", "[\"link\"]"), "/link", "/a"),
    ] {
        assert!(
            read(&bench, context(&[attrs]), there).await.is_ok(),
            "{attrs:?}"
        );
        let error = read(&bench, context(&[attrs]), missing).await.unwrap_err();
        assert!(error.contains("no such file"), "{error}");
    }
    for name in ["local.includepattern", "local.metadatatransferexclude"] {
        let error = read(&bench, context(&[(name, "a")]), "/a")
            .await
            .unwrap_err();
        assert!(
            error.contains(&format!("invalid value for {name}")),
            "{error}"
        );
    }
    let other = read(&bench, context(&[("local.session", "vm:x")]), "/a").await;
    let error = other.unwrap_err();
    assert!(
        error.contains("no access allowed to dir \"vm-context\""),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_sees_the_environment_that_its_op_describes() {
    let bench = Bench::new();
    let script = "echo $HTTP_PROXY $http_proxy $NO_PROXY; echo \"[$nothing]\" \"[${gone-unset}]\"; \
                  busybox hostname; busybox grep myhost /etc/hosts; busybox id -u; \
                  ulimit -n; pwd";
    let secret = |id: &str, env: &str| Secret {
        id: id.into(),
        target: None,
        env: Some(env.into()),
        uid: 0,
        gid: 0,
        mode: 0,
        optional: true,
    };
    let script = format!("({script}) > /tmp/out 2>&1");
    let state = sh(&base(), "busybox chmod 777 /tmp")
        .hostname("box")
        .user("7:8")
        .dir("/made/here")
        .run(["/bin/sh", "-c", &script])
        .proxy(ProxyEnv {
            http_proxy: "http://proxy:1".into(),
            no_proxy: "local".into(),
            ..ProxyEnv::default()
        })
        .extra_host("myhost", "10.1.2.3")
        .ulimit("nofile", 77, 99)
        .secret(secret("absent", "nothing"))
        .root();
    let seen = bench.file(&state, "/tmp/out").await;
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[0], "http://proxy:1 http://proxy:1 local");
    assert_eq!(lines[1], "[] [unset]");
    assert_eq!(lines[2], "box");
    assert!(lines[3].starts_with("10.1.2.3"), "{seen}");
    assert_eq!(lines[4..], ["7", "77", "/made/here"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_diffs_and_passthroughs_combine_results() {
    let bench = Bench::new();
    let one = sh(&base(), "echo one > /one; echo one > /both");
    let two = sh(&base(), "echo two > /two; echo two > /both");
    let more = sh(&one, "echo more > /more; rm /both");
    let nothing = Constraints::new;
    let merged = State::merge(&[one.clone(), two.clone()], nothing());
    assert_eq!(bench.file(&merged, "/one").await, "one\n");
    assert_eq!(bench.file(&merged, "/both").await, "two\n");
    let diff = State::diff(&one, &more, nothing());
    assert_eq!(bench.file(&diff, "/more").await, "more\n");
    let above = State::merge(&[merged.clone(), diff.clone()], nothing());
    assert_eq!(bench.file(&above, "/two").await, "two\n");
    // What the upper side removed is removed wherever the difference goes.
    for (state, path) in [(&diff, "/one"), (&above, "/both")] {
        let error = read(&bench, definition(state), path).await.unwrap_err();
        assert!(error.contains("no such file"), "{error}");
    }

    // The second result under the number 0.
    let (mut known, other) = (definition(&one), definition(&two));
    let last = |known: &pb::Definition| {
        let op = pb::Op::decode(&known.def.last().unwrap()[..]).unwrap();
        op.inputs[0].clone()
    };
    let inputs = vec![last(&known), last(&other)];
    known.def.pop();
    known
        .def
        .extend(other.def[..other.def.len() - 1].iter().cloned());
    let through = pb::Op {
        inputs,
        op: Some(pb::op::Op::Passthrough(pb::PassthroughOp {
            id: "id".into(),
            outputs: vec![1, 0],
        })),
        ..pb::Op::default()
    };
    let bytes = through.encode_to_vec();
    let digest = digest_of(&bytes);
    known.def.push(bytes);
    for (index, path) in [(0, "/two"), (1, "/one")] {
        let mut known = known.clone();
        known.def.push(terminal(digest.clone(), index));
        assert!(read(&bench, known, path).await.is_ok(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_cannot_be_honoured_are_refused_by_name() {
    let bench = Bench::new();
    let run = || base().run(["/bin/sh", "-c", "true"]);
    for (run, expected) in [
        (
            run().extra_host("h", "nowhere"),
            "failed to parse IP nowhere",
        ),
        (
            run().device("vendor.example/none=x", false),
            "vendor.example/none=x",
        ),
        (
            run().secret(Secret {
                id: "absent".into(),
                target: None,
                env: Some("X".into()),
                uid: 0,
                gid: 0,
                mode: 0,
                optional: false,
            }),
            "secret absent: not found",
        ),
    ] {
        let error = bench.build(&run.root()).await.err().unwrap().message;
        assert!(error.contains(expected), "{error}");
    }
}

/// How many results a cache of the whole build has.
async fn results_in_cache(bench: &Bench, state: &State, dest: &str) -> usize {
    let (job, result) = bench.build(state).await.unwrap();
    let dest = bench.dir.path().join(dest);
    let solved = SolvedResult {
        refs: SolvedRefs::Single(Some(result)),
        attestations: BTreeMap::new(),
        metadata: BTreeMap::new(),
    };
    let cache = CacheExport {
        to: CacheDestination::Local {
            dest: dest.clone(),
            tag: "latest".into(),
            reset: false,
        },
        max: true,
        ignore_error: false,
        attrs: BTreeMap::new(),
    };
    job.export(solved, &[], &[cache]).await.unwrap();
    let blobs = std::fs::read_dir(dest.join("blobs/sha256")).unwrap();
    let config = blobs
        .filter_map(|blob| std::fs::read(blob.unwrap().path()).ok())
        .filter_map(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
        .find(|json| json["records"].is_array())
        .expect("a cache");
    let records = config["records"].as_array().unwrap();
    let with_layers = records.iter().filter(|record| record["layers"].is_array());
    with_layers.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_must_not_be_exported_is_in_no_cache() {
    let bench = Bench::new();
    let step = |constraints: Constraints| {
        let first = base().run(["/bin/sh", "-c", "echo 1 > /one"]);
        sh(&first.with(constraints).root(), "echo 2 > /two")
    };
    let all = results_in_cache(&bench, &step(Constraints::new()), "all").await;
    let unexported = Constraints::new().export_cache(false);
    let fewer = results_in_cache(&bench, &step(unexported), "fewer").await;
    assert_eq!(fewer + 1, all);
}
