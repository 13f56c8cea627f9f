//! Images made of results.

use std::collections::BTreeMap;
use std::io::Read;

use gateway_llb::{Constraints, ImageSource, ResolveMode};
use gateway_solver::policy::SourcePolicies;
use gateway_solver::{Exporter, OutputTarget, SolvedRefs, SolvedResult};

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
