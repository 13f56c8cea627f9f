//! Images made of results.

use std::collections::BTreeMap;
use std::io::Read;

use gateway_api::Attestation;
use gateway_llb::{Constraints, ImageSource, ResolveMode};
use gateway_solver::policy::SourcePolicies;
use gateway_solver::{
    AttestationContent, Exporter, OutputTarget, SolvedAttestation, SolvedRefs, SolvedResult,
};

use crate::Bench;
use crate::bench::{base, definition, sh};

fn tar_entries(path: &std::path::Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (name, bytes)
        })
        .collect()
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}

fn single(result: gateway_solver::ResultRef, config: &str) -> SolvedResult {
    SolvedResult {
        refs: SolvedRefs::Single(Some(result)),
        metadata: BTreeMap::from([(
            "containerimage.config".to_owned(),
            config.as_bytes().to_vec(),
        )]),
        attestations: BTreeMap::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oci_tar_holds_one_layer_a_step_with_only_its_changes() {
    let bench = Bench::new();
    let job = bench.job().await;
    let state = sh(
        &sh(&base(), "echo one > /a; echo two > /b"),
        "rm /a; mkdir /d",
    );
    let state = sh(&state, "test -e /b");
    let result = job.load(definition(&state), &SourcePolicies::default());
    let dest = bench.dir.path().join("out.tar");
    let config = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh"]}}"#;
    let exporter = Exporter::Oci {
        dest: OutputTarget::File(dest.clone()),
        tar: true,
        names: vec!["example.com/x:1".into()],
        attrs: BTreeMap::from([("compression".to_owned(), "uncompressed".to_owned())]),
    };
    let response = job
        .export(single(result, config), &[exporter], &[])
        .await
        .unwrap();
    let entries = tar_entries(&dest);
    let index = json(&entries["index.json"]);
    let listed = &index["manifests"][0];
    assert_eq!(
        listed["digest"],
        response.attrs["containerimage.digest"].as_str()
    );
    assert_eq!(
        listed["annotations"]["io.containerd.image.name"],
        "example.com/x:1"
    );
    let blob = |digest: &serde_json::Value| {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        entries[&format!("blobs/sha256/{hex}")].clone()
    };
    let manifest = json(&blob(&listed["digest"]));
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 4);
    let config = json(&blob(&manifest["config"]["digest"]));
    assert_eq!(config["config"]["Cmd"][0], "/bin/sh");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 4);
    assert_eq!(config["history"].as_array().unwrap().len(), 4);
    let names = |layer: &serde_json::Value| -> Vec<String> {
        let bytes = blob(&layer["digest"]);
        let mut archive = tar::Archive::new(&bytes[..]);
        archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(names(&layers[1]), ["a", "b"]);
    assert_eq!(names(&layers[2]), [".wh.a", "d/"]);
    assert_eq!(names(&layers[3]), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_the_store_is_the_base_of_another_build_without_a_registry() {
    let bench = Bench::new();
    let job = bench.job().await;
    let result = job.load(
        definition(&sh(&base(), "echo from-base > /base")),
        &SourcePolicies::default(),
    );
    let exporter = Exporter::ImageStore {
        names: vec!["example.com/base:1".into()],
        attrs: BTreeMap::new(),
    };
    let config = r#"{"architecture":"amd64","os":"linux","config":{}}"#;
    job.export(single(result, config), &[exporter], &[])
        .await
        .unwrap();
    drop(job);
    // As after a prune of everything but the blobs.
    std::fs::remove_dir_all(bench.store().join("layers")).unwrap();
    bench.ran();
    let mut source = ImageSource::new("example.com/base:1");
    source.resolve_mode = ResolveMode::PreferLocal;
    let state = source.state(Constraints::new().name("FROM base")).dir("/");
    let state = sh(&state, "cat /base > /copy");
    assert_eq!(bench.file(&state, "/copy").await, "from-base\n");
    assert_eq!(bench.ran(), ["FROM base", "/bin/sh -c cat /base > /copy"]);
    bench.build(&state).await.unwrap();
    assert!(!bench.ran().iter().any(|name| name.contains("cat")));
}

/// What a frontend attests of the result with the key of its platform.
fn attest(
    content: &gateway_solver::ResultRef,
    kind: i32,
    path: &str,
    predicate: &str,
) -> SolvedAttestation {
    SolvedAttestation {
        attestation: Attestation {
            kind,
            metadata: BTreeMap::new(),
            reference: None,
            path: path.into(),
            in_toto_predicate_type: predicate.into(),
            in_toto_subjects: Vec::new(),
        },
        content: AttestationContent::Result(content.clone()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_attested_of_files_lies_beside_them() {
    let bench = Bench::new();
    let job = bench.job().await;
    let none = SourcePolicies::default();
    let files = job.load(
        definition(&sh(
            &base(),
            "mkdir /d && echo x > /d/f && /bin/busybox ln -s /etc/passwd /a.json",
        )),
        &none,
    );
    let said = job.load(
        definition(&sh(
            &base(),
            r#"mkdir -p /x/bundle && echo '{"k": 1}' > /x/a.json && /bin/busybox ln -s a.json /x/l.json && /bin/busybox mkfifo /x/pipe \
               && echo '{"predicateType":"https://example.com/b","subject":[{"name":"n","digest":{"sha256":"00"}}],"predicate":{"q":2}}' > /x/bundle/one.json"#,
        )),
        &none,
    );
    let export = async |attestation: SolvedAttestation, attrs: &[(&str, &str)]| {
        let dest = tempfile::tempdir().unwrap();
        let mut result = single(files.clone(), r#"{"architecture":"amd64","os":"linux"}"#);
        result.attestations = [("linux/amd64".to_owned(), vec![attestation])].into();
        let attrs = attrs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let exporter = Exporter::Local {
            dest: dest.path().to_owned(),
            attrs: attrs.collect(),
        };
        job.export(result, &[exporter], &[]).await.map(|_| dest)
    };
    let dest = export(
        attest(&said, 0, "x/a.json", "https://example.com/p"),
        &[("attestation-prefix", "p-")],
    )
    .await
    .unwrap();
    let statement = json(&std::fs::read(dest.path().join("p-a.json")).unwrap());
    assert_eq!(statement["predicate"], serde_json::json!({"k": 1}));
    assert_eq!(statement["predicateType"], "https://example.com/p");
    let about = statement["subject"].as_array().unwrap();
    let file = about.iter().find(|s| s["name"] == "d/f").unwrap();
    assert_eq!(
        file["digest"]["sha256"],
        "73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac"
    );
    // A link of the result under the same name is replaced, not followed.
    let dest = export(attest(&said, 0, "x/a.json", "t"), &[("mode", "delete")])
        .await
        .unwrap();
    assert!(
        dest.path()
            .join("a.json")
            .symlink_metadata()
            .unwrap()
            .is_file()
    );

    let dest = export(attest(&said, 1, "x/bundle", ""), &[]).await.unwrap();
    let statement = json(&std::fs::read(dest.path().join("one.json")).unwrap());
    assert_eq!(statement["predicate"], serde_json::json!({"q": 2}));
    assert_eq!(statement["subject"][0]["name"], "n");

    for (attestation, wanted) in [
        (
            attest(&said, 0, "", "t"),
            "attestation does not have set path",
        ),
        (
            attest(&said, 0, "x/none", "t"),
            "cannot read in-toto attestation",
        ),
        (
            attest(&said, 0, "x/pipe", "t"),
            "x/pipe is not a regular file",
        ),
        (
            attest(&said, 0, "x/bundle", "t"),
            "x/bundle is not a regular file",
        ),
        (
            attest(&said, 0, "x/a.json", "https://slsa.dev/provenance/v1"),
            "frontend may not set provenance attestations",
        ),
        (
            attest(&said, 1, "x/bundle", "https://spdx.dev/Document"),
            "bundle entry https://example.com/b does not match required predicate type https://spdx.dev/Document",
        ),
        (attest(&said, 1, "x", ""), "x/bundle is not a regular file"),
    ] {
        let error = export(attestation, &[]).await.err().unwrap();
        assert!(
            error.message.contains(wanted),
            "{wanted}: {}",
            error.message
        );
    }
}
