//! Caches that the reference wrote: a build of the same context on an empty store runs no step.

use std::path::{Path, PathBuf};

use gateway_tests::expect::Events;
use gateway_tests::image::{images, read_archive};
use gateway_tests::program::{Home, run, stderr};
use gateway_tests::registry::Registry;

/// Layers of the image, lowest first, in both recorded caches.
const LAYERS: [&str; 4] = [
    "sha256:8f1cb6d0d1ff2cb05e40c925022ff25c8ffc00ae455b33e28e500a24fefe155d",
    "sha256:1d15ef95110b0635636d488b93727f6f13d4c0ed32ba30aed3999543ce4475ed",
    "sha256:b7eeff144cc3d009df15dab7c0eae9c1a15ff20c64b0018b63ed44a9c43dbad6",
    "sha256:39d07eec29c7e94d42cd898773dabe713e83b822f0fac9fb42f7130e350a6207",
];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/oracle/cache")
}

struct Built {
    events: Events,
    stderr: String,
    layers: Vec<String>,
}

impl Built {
    /// The names of the steps that ran.
    fn ran(&self) -> Vec<&str> {
        self.events
            .vertices
            .iter()
            .filter(|(name, (cached, _))| is_step(name) && !cached)
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

fn is_step(name: &str) -> bool {
    name.starts_with('[') && !name.starts_with("[internal] load ")
}

fn local(cache: &Path) -> String {
    format!("type=local,src={}", cache.display())
}

fn build(home: &Home, cache: &str) -> Built {
    let archive = home.dir.path().join("image.tar");
    let mut command = home.build();
    command
        .args(["--progress=rawjson", "--opt"])
        .arg("build-arg:SOURCE_DATE_EPOCH=1600000000")
        .arg("--output")
        .arg(format!("type=oci,dest={}", archive.display()));
    command.args(["--cache-from", cache]);
    let output = run(command.arg(data().join("context")));
    let stderr = stderr(&output);
    assert!(output.status.success(), "{stderr}");
    let image = images(&read_archive(&archive))
        .into_iter()
        .next()
        .expect("an image");
    let layers = image.manifest["layers"].as_array().expect("layers");
    Built {
        events: Events::read(&stderr),
        stderr,
        layers: layers
            .iter()
            .map(|layer| layer["digest"].as_str().unwrap_or_default().to_owned())
            .collect(),
    }
}

#[test]
fn a_build_with_a_recorded_cache_runs_no_step_and_has_its_layers() {
    for cache in ["cache-max", "cache-min"] {
        let home = Home::new("");
        let built = build(&home, &local(&data().join(cache)));
        assert_eq!(built.ran(), [""; 0], "{cache}: {}", built.stderr);
        assert_eq!(built.layers, LAYERS, "{cache}");
        let again = build(&home, &local(&data().join(cache)));
        assert_eq!(again.ran(), [""; 0], "{cache}: {}", again.stderr);
    }
}

#[test]
fn a_broken_cache_fails_no_build_and_says_why() {
    let broken = tempfile::tempdir().expect("a temporary folder");
    let blobs = broken.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("making a folder");
    let cache = data().join("cache-max");
    std::fs::copy(cache.join("index.json"), broken.path().join("index.json")).expect("copying");
    let manifest = "da462f7b8fbdab9285e59dbdd7edea16f4471e78519cd5af89cfcf5a4a089fbb";
    std::fs::write(blobs.join(manifest), "{}").expect("writing a blob");
    for (dir, problem) in [
        (broken.path(), "has other content"),
        (Path::new("/no/such/cache"), "cannot read"),
    ] {
        let built = build(&Home::new(""), &local(dir));
        assert!(built.stderr.contains(problem), "{}", built.stderr);
        assert_eq!(built.ran().len(), 7, "{:?}", built.ran());
    }
}

#[test]
fn a_cache_without_a_layer_serves_what_it_still_has() {
    let partial = tempfile::tempdir().expect("a temporary folder");
    let blobs = partial.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("making a folder");
    let cache = data().join("cache-max");
    std::fs::copy(cache.join("index.json"), partial.path().join("index.json")).expect("copying");
    for blob in std::fs::read_dir(cache.join("blobs/sha256"))
        .expect("blobs")
        .flatten()
    {
        if LAYERS
            .last()
            .is_some_and(|top| !top.ends_with(&*blob.file_name().to_string_lossy()))
        {
            std::fs::copy(blob.path(), blobs.join(blob.file_name())).expect("copying");
        }
    }
    let built = build(&Home::new(""), &local(partial.path()));
    let ran = built.ran();
    assert!(
        ran.iter().any(|name| name.contains("COPY <<EOF /doc")),
        "{ran:?}"
    );
    assert!(
        !ran.iter().any(|name| name.contains("COPY a.txt")),
        "{ran:?}"
    );
    assert_eq!(built.layers[..3], LAYERS[..3]);
}

#[test]
fn a_cache_in_a_registry_is_as_good_as_one_in_a_directory() {
    let registry = Registry::start();
    registry.push_layout(&data().join("cache-max"), "latest", "library/cache:max");
    let home = Home::new(&registry.as_docker_hub());
    let built = build(&home, "type=registry,ref=cache:max");
    assert_eq!(built.ran(), [""; 0], "{}", built.stderr);
    assert_eq!(built.layers, LAYERS);
    let built = build(
        &Home::new(&registry.as_docker_hub()),
        "type=registry,ref=cache:none",
    );
    assert!(
        built
            .stderr
            .contains("importing cache manifest from docker.io/library/cache:none")
    );
    assert_eq!(built.ran().len(), 7, "{:?}", built.ran());
}
