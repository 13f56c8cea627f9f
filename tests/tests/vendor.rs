//! What a vendored layout holds besides images, files and checkouts: single blobs, and bundles of commits. And what it
//! cannot hold is refused when it is to be saved.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gateway_tests::base_images::{Layout, Tar};
use gateway_tests::git::{GitDaemon, git};
use gateway_tests::program::{Home, run, stderr};
use gateway_tests::raw_frontend::{self, RAW};
use gateway_tests::registry::Registry;
use serde_json::json;
use sha2::{Digest, Sha256};

/// Characters of the name that the client gives to a layout.
const STORE_NAME: usize = 25;

fn context() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = format!("# syntax = {RAW}\n");
    std::fs::write(dir.path().join("Dockerfile"), file).expect("the build file");
    dir
}

/// Flags of a build that is this source.
fn source(identifier: &str, attrs: &str) -> Vec<String> {
    vec![
        "--build-arg=MODE=source".to_owned(),
        format!("--build-arg=SOURCE={identifier}"),
        format!("--build-arg=ATTRS={attrs}"),
    ]
}

fn vendor(home: &Home, context: &Path, flags: &[String]) -> (Output, PathBuf) {
    let dir = context.with_extension("vendor");
    let mut command = home.command(&["vendor"]);
    (run(command.args(flags).arg(&dir).arg(context)), dir)
}

/// A build from the layout, with an empty store, where there is no network.
fn build(home: &Home, context: &Path, dir: &Path, flags: &[String]) -> (Output, PathBuf) {
    let dest = context.with_extension("out");
    let _ = std::fs::remove_dir_all(&dest);
    let _ = std::fs::remove_dir_all(home.store());
    let inner = home.build();
    let mut command = Command::new("unshare");
    command.arg("--net").arg(inner.get_program());
    command.args(inner.get_args()).args(flags);
    command.arg(format!("--vendored={}", dir.display()));
    command.arg(format!("--output=type=local,dest={}", dest.display()));
    (run(command.arg("--progress=plain").arg(context)), dest)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn refused(output: &Output, wanted: &[&str]) {
    let text = stderr(output);
    assert!(!output.status.success(), "{text}");
    for part in wanted {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn a_single_blob_of_a_registry_is_saved_and_needs_the_registry_no_more() {
    let mut registry = Registry::start();
    raw_frontend::push(&registry);
    let files = tempfile::tempdir().expect("a temporary folder");
    let mut layout = Layout::create(files.path()).expect("a layout");
    let tar = Tar::default().file("f", b"x", (0o644, 0, 0)).bytes();
    let image = layout.image(&[tar], json!({}), "amd64").expect("an image");
    let digest = image["digest"].as_str().expect("a digest").to_owned();
    layout.name(image, "one");
    layout.close().expect("closing the layout");
    registry.push_layout(files.path(), "one", "test/one:1");
    let hex = digest.trim_start_matches("sha256:");
    let manifest = std::fs::read(files.path().join("blobs/sha256").join(hex)).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let blob = manifest["layers"][0]["digest"].as_str().expect("a digest");
    let hex = blob.trim_start_matches("sha256:");

    let home = Home::new(&registry.as_docker_hub());
    let context = context();
    let name = format!("docker.io/test/one@{blob}");
    let flags = source(&format!("docker-image+blob://{name}"), "");
    let (output, dir) = vendor(&home, context.path(), &flags);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(dir.join("blobs/sha256").join(hex).is_file());
    registry.stop();

    let (output, dest) = build(&home, context.path(), &dir, &flags);
    assert!(output.status.success(), "{}", stderr(&output));
    let same = |path: &Path| std::fs::read(path).expect("the blob");
    let original = files.path().join("blobs/sha256").join(hex);
    assert_eq!(same(&dest.join(hex)), same(&original));

    let saved = dir.join("blobs/sha256").join(hex);
    let mut bytes = same(&saved);
    bytes[10] ^= 1;
    std::fs::write(&saved, &bytes).expect("a flipped bit");
    let damaged = build(&home, context.path(), &dir, &flags).0;
    refused(&damaged, &[&name, "gateway vendor"]);
    std::fs::remove_file(&saved).expect("removing the blob");
    let gone = build(&home, context.path(), &dir, &flags).0;
    refused(&gone, &[&name, "gateway vendor"]);
}

#[test]
fn a_bundle_of_commits_is_saved_with_its_checkout_and_no_repository_is_asked() {
    let registry = Registry::start();
    raw_frontend::push(&registry);
    let home = Home::new(&registry.as_docker_hub());
    let context = context();
    let daemon = GitDaemon::start();
    let repository = daemon.repository("r.git", &[("source", "one")]);
    let commit = git(&repository, &["rev-parse", "main"]).trim().to_owned();
    let files = tempfile::tempdir().expect("a temporary folder");
    let bundle = files.path().join("bundle");
    git(
        &repository,
        &["bundle", "create", &bundle.display().to_string(), "main"],
    );
    let url = format!("{}#main", daemon.url("r.git"));
    let at = format!("git.fullurl={}", daemon.url("r.git"));
    let plain = source(&url, &at);
    let (output, dir) = vendor(&home, context.path(), &plain);
    assert!(output.status.success(), "{}", stderr(&output));
    drop(daemon);
    let (output, dest) = build(&home, context.path(), &dir, &plain);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(read(&dest.join("source")), "one");
    // Signatures are seen in repositories, and this is only a checkout.
    let signed = source(&url, &format!("{at},git.sig.pubkey=a key"));
    let output = build(&home, context.path(), &dir, &signed).0;
    refused(&output, &["its repository is needed", "r.git"]);

    let bytes = std::fs::read(&bundle).expect("the bundle");
    let digest = hex::encode(Sha256::digest(&bytes));
    let layout = files.path().join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256")).expect("a layout");
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    std::fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("a layout");
    std::fs::write(layout.join("index.json"), index).expect("a layout");
    std::fs::write(layout.join("blobs/sha256").join(&digest), &bytes).expect("a layout");
    let store = hex::encode(Sha256::digest(layout.as_os_str().as_encoded_bytes()));
    let attrs = format!(
        "{at},git.checksum={commit},oci.store={},git.bundle=oci-layout+blob://not/real@sha256:{digest}",
        &store[..STORE_NAME]
    );
    // The name of a branch is looked up in the bundle, also later.
    let flags = source(&url, &attrs);
    let mut with_layout = flags.clone();
    let named = format!("{}@sha256:{digest}", layout.display());
    with_layout.push(format!("--build-context=blobs=oci-layout://{named}"));
    let (output, dir) = vendor(&home, context.path(), &with_layout);
    assert!(output.status.success(), "{}", stderr(&output));
    std::fs::remove_dir_all(&layout).expect("removing the layout");
    let (output, dest) = build(&home, context.path(), &dir, &flags);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(read(&dest.join("source")), "one");
}
