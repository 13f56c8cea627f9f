//! Attributes of sources, given to them by a policy, as whoever guards a company's builds does it:
//! above all that they must be signed, here with keys and signatures by GnuPG and OpenSSH.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gateway_tests::git::{GitDaemon, git};
use gateway_tests::program::{Home, run, stderr};
use gateway_tests::registry::Registry;
use gateway_tests::web::{Page, Web};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// Characters of the name that a layout's path becomes.
const STORE_NAME: usize = 25;

/// A key ring of its own; its agent ends with it.
struct Keys {
    dir: tempfile::TempDir,
}

impl Keys {
    /// With one key.
    fn new() -> Keys {
        // A socket's path must be short.
        let dir = tempfile::tempdir_in("/tmp").expect("a temporary folder");
        let keys = Keys { dir };
        keys.gpg(&[
            "--passphrase",
            "",
            "--quick-generate-key",
            "Signer <signer@example.com>",
            "ed25519",
            "sign",
            "never",
        ]);
        let script = format!(
            "#!/bin/sh\nexec gpg --homedir {} --batch \"$@\"\n",
            keys.dir.path().display()
        );
        std::fs::write(keys.script(), script).expect("a script");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(keys.script(), mode).expect("a script");
        keys
    }

    fn script(&self) -> PathBuf {
        self.dir.path().join("gpg.sh")
    }

    fn gpg(&self, args: &[&str]) -> String {
        output(
            Command::new("gpg")
                .arg("--homedir")
                .arg(self.dir.path())
                .args([
                    "--batch",
                    "--quiet",
                    "--no-tty",
                    "--pinentry-mode",
                    "loopback",
                ])
                .args(args),
        )
    }

    fn public(&self) -> String {
        self.gpg(&["--armor", "--export"])
    }

    fn sign(&self, path: &Path) -> String {
        let path = path.to_str().expect("a path of text");
        self.gpg(&["--armor", "--detach-sign", "-o", "-", path])
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf")
            .arg("--homedir")
            .arg(self.dir.path())
            .args(["--kill", "all"])
            .output();
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("a program of Debian");
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// A home, a context with one ADD, and a policy that gives its source more attributes.
struct Trial {
    home: Home,
    context: tempfile::TempDir,
    /// Of the command line.
    more: Vec<String>,
}

impl Trial {
    fn new() -> Trial {
        Trial::with("")
    }

    fn with(config: &str) -> Trial {
        Trial {
            home: Home::new(config),
            context: tempfile::tempdir().expect("a temporary folder"),
            more: Vec::new(),
        }
    }

    fn build(&self, source: &str, attrs: &[(&str, &str)]) -> Output {
        let dockerfile = match source.strip_prefix("docker-image://") {
            Some(image) => {
                format!("FROM {image} AS image\nFROM scratch\nCOPY --from=image / /in/\n")
            }
            None => format!("FROM scratch\nADD {source} /in/\n"),
        };
        std::fs::write(self.context.path().join("Dockerfile"), dockerfile).expect("a build file");
        let attrs: serde_json::Map<_, _> = attrs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        let scheme = source.split("://").next().expect("a scheme");
        let policy = json!({"rules": [{
            "action": "CONVERT",
            "selector": {"identifier": format!("{scheme}://*")},
            "updates": {"attrs": attrs},
        }]});
        let file = self.context.path().join("policy.json");
        std::fs::write(&file, policy.to_string()).expect("a policy");
        let dest = self.home.dir.path().join("out");
        let _ = std::fs::remove_dir_all(&dest);
        run(self
            .home
            .build()
            .args(["--progress=plain", "--source-policy"])
            .arg(file)
            .args(&self.more)
            .arg("--output")
            .arg(format!("type=local,dest={}", dest.display()))
            .arg(self.context.path()))
    }

    fn built(&self, source: &str, attrs: &[(&str, &str)]) -> PathBuf {
        let output = self.build(source, attrs);
        assert!(output.status.success(), "{}", stderr(&output));
        self.home.dir.path().join("out/in")
    }

    fn refused(&self, source: &str, attrs: &[(&str, &str)], why: &str) {
        let output = self.build(source, attrs);
        let text = stderr(&output);
        assert!(!output.status.success(), "{text}");
        assert!(text.contains(why), "{why:?} is not in:\n{text}");
    }
}

#[test]
fn a_file_of_the_web_must_be_signed_by_a_given_key() {
    let (keys, others, trial, web) = (Keys::new(), Keys::new(), Trial::new(), Web::start());
    let file = trial.context.path().join("release.tar");
    std::fs::write(&file, "the release").expect("a file");
    let signature = keys.sign(&file);
    let page = |body: &str| Page {
        body: body.into(),
        ..Page::default()
    };
    web.put("/release", page("the release"));
    let url = web.url("/release");
    let (key, other) = (keys.public(), others.public());
    let by = |key| {
        [
            ("http.sig.pubkey", key),
            ("http.sig.signature", &*signature),
        ]
    };

    let out = trial.built(&url, &by(&key));
    let text = std::fs::read_to_string(out.join("release")).expect("the file");
    assert_eq!(text, "the release");
    let why = "failed to verify pgp signature: signature by";
    trial.refused(&url, &by(&other), why);
    let both = format!("{other}{key}");
    trial.built(&url, &by(&both));
    let half = [("http.sig.pubkey", key.as_str())];
    trial.refused(&url, &half, "requires both pubkey and signature");

    web.put("/release", page("the release, and more"));
    trial.refused(&url, &by(&key), "it is not a signature of this content");
    // Nor does a checksum stand in for it.
    let pinned = "sha256:5a9bb3d8c7ed1ed0f1b5a1a7d31b2c1a33cf0ab1cb90e8c1b0cd7ae7b2a1c0aa";
    let mut attrs = by(&key).to_vec();
    attrs.push(("http.checksum", pinned));
    trial.refused(&url, &attrs, "digest mismatch");
}

fn signed_by(key: &str) -> (&str, &str) {
    ("git.sig.pubkey", key)
}

#[test]
fn a_commit_or_its_tag_must_be_signed_by_a_given_pgp_key() {
    let (keys, others, trial, daemon) =
        (Keys::new(), Keys::new(), Trial::new(), GitDaemon::start());
    let dir = daemon.repository("r.git", &[("a", "unsigned")]);
    git(&dir, &["tag", "-a", "-m", "no signature", "plain"]);
    let script = keys.script().display().to_string();
    git(&dir, &["config", "gpg.program", &script]);
    git(&dir, &["config", "user.signingkey", "signer@example.com"]);
    git(&dir, &["tag", "-s", "-m", "signed tag", "v1"]);
    git(
        &dir,
        &["commit", "--quiet", "--allow-empty", "-S", "-m", "signed"],
    );
    git(&dir, &["tag", "-a", "-m", "of a signed commit", "v2"]);
    let url = daemon.url("r.git");
    let (at, key, other) = (
        |name: &str| format!("{url}#{name}"),
        keys.public(),
        others.public(),
    );
    let by = signed_by;
    let (tag, commit) = (
        ("git.sig.requiresignedtag", "true"),
        ("git.sig.ignoresignedtag", "true"),
    );

    let out = trial.built(&at("main"), &[by(&key)]);
    assert!(out.join("a").exists());
    trial.built(&at("v1"), &[by(&key)]);
    trial.built(&at("v1"), &[by(&key), tag]);
    trial.built(&at("v2"), &[by(&key)]);
    trial.built(&at("v1"), &[by(&key), ("git.sig.rejectexpired", "true")]);

    trial.refused(&at("main"), &[by(&other)], "made by none of the given keys");
    trial.refused(&at("plain"), &[by(&key)], "git object is not signed");
    trial.refused(&at("v1"), &[by(&key), commit], "git object is not signed");
    trial.refused(&at("v2"), &[by(&key), tag], "git object is not signed");
    let why = "signed tag required but no signed tag found";
    trial.refused(&at("main"), &[by(&key), tag], why);
    trial.refused(&at("main"), &[tag], why);
    // The checkouts are here already; that changes nothing.
    trial.refused(&at("main"), &[by("none")], "public key");
}

#[test]
fn a_commit_or_its_tag_must_be_signed_by_a_given_ssh_key() {
    let (trial, daemon) = (Trial::new(), GitDaemon::start());
    let dir = daemon.repository("r.git", &[("a", "unsigned")]);
    let key = |name: &str, kind: &[&str]| {
        let path = trial.context.path().join(name);
        output(
            Command::new("ssh-keygen")
                .args(["-q", "-N", "", "-C", "me@example.com", "-t"])
                .args(kind)
                .arg("-f")
                .arg(&path),
        );
        let public = std::fs::read_to_string(path.with_extension("pub")).expect("a key");
        (path.display().to_string(), public)
    };
    let (mut public, mut last) = (Vec::new(), String::new());
    git(&dir, &["config", "gpg.format", "ssh"]);
    for (name, kind) in [
        ("ed", &["ed25519"][..]),
        ("p256", &["ecdsa", "-b", "256"]),
        ("p521", &["ecdsa", "-b", "521"]),
        ("rsa", &["rsa", "-b", "2048"]),
    ] {
        let (path, key) = key(name, kind);
        git(&dir, &["config", "user.signingkey", &path]);
        git(
            &dir,
            &["commit", "--quiet", "--allow-empty", "-S", "-m", name],
        );
        git(&dir, &["tag", "-s", "-m", name, name]);
        public.push((name, key));
        last = path;
    }
    let at = |name: &str| format!("{}#{name}", daemon.url("r.git"));
    for (name, key) in &public {
        // Comments and other lines of such files are passed over.
        let keys = format!("# signers\n\n{key}");
        trial.built(&at(name), &[("git.sig.pubkey", &keys)]);
    }
    let (tag, commit) = (
        ("git.sig.requiresignedtag", "true"),
        ("git.sig.ignoresignedtag", "true"),
    );
    let rsa = ("git.sig.pubkey", public[3].1.as_str());
    trial.built(&at("rsa"), &[rsa, tag]);
    trial.built(&at("rsa"), &[rsa, commit]);
    trial.refused(&at("ed"), &[rsa], "it was made by another key");

    // A signature that the same key made for something else.
    let file = trial.context.path().join("text");
    std::fs::write(&file, "text").expect("a file");
    output(
        Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", "file", "-f", &last])
            .arg(&file),
    );
    let foreign = std::fs::read_to_string(file.with_extension("sig")).expect("a signature");
    let raw = git(&dir, &["cat-file", "tag", "rsa"]);
    let message = raw.split("-----BEGIN").next().expect("a message");
    std::fs::write(&file, format!("{message}{foreign}")).expect("a tag");
    let path = file.display().to_string();
    let forged = git(&dir, &["hash-object", "-t", "tag", "-w", &path]);
    git(&dir, &["update-ref", "refs/tags/forged", &forged]);
    let why = "unexpected SSH signature namespace: \"file\"";
    trial.refused(&at("forged"), &[rsa, tag], why);
}

#[test]
fn a_repository_becomes_a_bundle_with_all_its_history() {
    let (trial, daemon) = (Trial::new(), GitDaemon::start());
    let dir = daemon.repository("r.git", &[("a", "one")]);
    let first = git(&dir, &["rev-parse", "HEAD"]);
    let second = daemon.commit(&dir, &[("a", "two")]);
    let bundled = ("git.checkoutbundle", "true");
    for (name, branch, commit) in [
        ("main", "refs/heads/main", &second),
        (first.as_str(), "refs/heads/main", &first),
    ] {
        let url = format!("{}#{name}", daemon.url("r.git"));
        // The files first: they need no history.
        trial.built(&url, &[]);
        let out = trial.built(&url, &[bundled]);
        let names: Vec<_> = std::fs::read_dir(&out).expect("a folder").collect();
        assert_eq!(names.len(), 1);
        let path = out.join("bundle").display().to_string();
        let copy = tempfile::tempdir().expect("a folder");
        git(copy.path(), &["init", "--quiet", "--bare"]);
        git(copy.path(), &["fetch", "--quiet", &path, "+refs/*:refs/*"]);
        assert_eq!(&git(copy.path(), &["rev-parse", branch]), commit);
        let count = git(copy.path(), &["rev-list", "--count", branch]);
        assert_eq!(count, if *commit == first { "1" } else { "2" });
    }
    let url = format!("{}#main:sub", daemon.url("r.git"));
    trial.refused(&url, &[bundled], "incompatible with git.subdir");
}

#[test]
fn attributes_of_images_are_kept_to_or_refused() {
    let registry = Registry::with_base_images();
    let trial = Trial::with(&registry.as_docker_hub());
    let image = "docker-image://busybox:latest";
    for mode in ["", "default", "pull", "local"] {
        trial.built(image, &[("image.resolvemode", mode)]);
    }
    trial.refused(
        image,
        &[("image.resolvemode", "soon")],
        "invalid resolvemode: soon",
    );
    let out = trial.built(image, &[("image.layerlimit", "1")]);
    assert!(out.join("bin").exists());
    for limit in ["0", "-1", "many"] {
        let why = format!("invalid layer limit {limit}");
        trial.refused(image, &[("image.layerlimit", limit)], &why);
    }
    trial.refused(
        image,
        &[("image.layerlimit", "99")],
        "layer limit 99 is greater than",
    );
    let none = format!("sha256:{}", "0".repeat(64));
    let why = format!("does not match expected checksum {none}");
    trial.refused(image, &[("image.checksum", &none)], &why);
    for kind in ["regular", "internal", "frontend"] {
        trial.built(image, &[("image.recordtype", kind)]);
    }
    trial.refused(
        image,
        &[("image.recordtype", "best")],
        "invalid record type",
    );
}

#[test]
fn attributes_of_files_of_the_web_are_kept_to_or_refused() {
    use std::os::unix::fs::PermissionsExt as _;

    let (trial, web) = (Trial::new(), Web::start());
    let page = Page {
        body: b"text".to_vec(),
        ..Page::default()
    };
    web.put("/f", page.clone());
    let url = web.url("/f");
    // The build file's ADD still takes the name in the address.
    trial.refused(&url, &[("http.filename", "g")], "\"/f\": not found");
    let out = trial.built(&url, &[("http.perm", "0o640")]);
    let mode = std::fs::metadata(out.join("f"))
        .expect("the file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o640);
    web.asked();
    web.put("/h", page);
    let headers = [
        ("http.header.Accept", "text/x"),
        ("http.header.Cookie", "c"),
    ];
    trial.built(&web.url("/h"), &headers);
    let asked = web.asked();
    let get = asked
        .iter()
        .find(|asked| asked.method == "GET")
        .expect("a request");
    assert_eq!(get.headers["accept"], "text/x");
    assert!(!get.headers.contains_key("cookie"));
    for name in ["http.perm", "http.uid", "http.gid"] {
        let why = format!("{name}: \"x\" is not a number");
        trial.refused(&url, &[(name, "x")], &why);
    }
    let secret = [("http.authheadersecret", "absent")];
    trial.refused(&url, &secret, "failed to retrieve HTTP auth secret absent");
}

#[test]
fn attributes_of_repositories_are_kept_to_or_refused() {
    let (trial, daemon) = (Trial::new(), GitDaemon::start());
    let lib = daemon.repository("lib.git", &[("l", "l")]);
    let dir = daemon.repository("r.git", &[("a", "a")]);
    let url = daemon.url("lib.git");
    git(&dir, &["submodule", "--quiet", "add", &url, "lib"]);
    let commit = daemon.commit(&dir, &[("a", "b")]);
    git(&dir, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    drop(lib);
    let main = format!("{}#main", daemon.url("r.git"));
    let modified = |path: PathBuf| {
        let time = std::fs::metadata(path).and_then(|metadata| metadata.modified());
        let time = time.expect("a time").duration_since(std::time::UNIX_EPOCH);
        time.expect("a time").as_secs()
    };
    let out = trial.built(&main, &[("git.mtime", "commit")]);
    assert!(out.join("lib/l").exists());
    assert_eq!(modified(out.join("a")), 1_580_608_922);
    // Times do not count by content: in the same store the first copy would be found again.
    let other = Trial::new();
    let out = other.built(&main, &[("git.mtime", "checkout")]);
    assert_ne!(modified(out.join("a")), 1_580_608_922);
    let out = trial.built(&main, &[("git.skipsubmodules", "true")]);
    assert!(!out.join("lib/l").exists());
    let one = [
        ("git.fetchbycommit", "true"),
        ("git.checksum", commit.as_str()),
    ];
    let out = trial.built(&main, &one);
    assert!(out.join("a").exists());
    trial.refused(&main, &one[..1], "fetch-by-commit requires a checksum");
    let why = "invalid checksum xyz for Git URL";
    trial.refused(&main, &[("git.checksum", "xyz")], why);
    let why = "no SSH key \"nobody\" forwarded";
    trial.refused(&main, &[("git.mountsshsock", "nobody")], why);
}

#[test]
fn a_bundle_stands_for_a_repository_that_is_gone() {
    let (mut trial, daemon) = (Trial::new(), GitDaemon::start());
    let dir = daemon.repository("r.git", &[("a", "one")]);
    let first = git(&dir, &["rev-parse", "HEAD"]);
    let commit = daemon.commit(&dir, &[("a", "two")]);
    let url = format!("{}#main", daemon.url("r.git"));
    let made = trial.built(&url, &[("git.checkoutbundle", "true")]);
    let bundle = std::fs::read(made.join("bundle")).expect("a bundle");
    drop(daemon);

    // The client's layout has it as a blob.
    let digest = hex::encode(Sha256::digest(&bundle));
    let layout = trial.context.path().join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256")).expect("a layout");
    let files = [
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        (
            "index.json",
            br#"{"schemaVersion":2,"manifests":[]}"#.to_vec(),
        ),
        (&format!("blobs/sha256/{digest}"), bundle),
    ];
    for (name, bytes) in files {
        std::fs::write(layout.join(name), bytes).expect("a layout");
    }
    let named = format!("{}@sha256:{digest}", layout.display());
    trial.more = vec![format!("--build-context=blobs=oci-layout://{named}")];
    let store = hex::encode(Sha256::digest(layout.as_os_str().as_encoded_bytes()));
    let locator = format!("oci-layout+blob://not/real@sha256:{digest}");
    let at = |commit: &'static str| {
        vec![
            ("git.bundle", locator.clone()),
            ("oci.store", store[..STORE_NAME].to_owned()),
            ("git.checksum", commit.to_owned()),
        ]
    };
    let (first, commit): (&'static str, &'static str) = (first.leak(), commit.leak());
    let text = |attrs: &[(&str, String)], url: &str| {
        // A store that has seen neither.
        let fresh = Trial {
            more: trial.more.clone(),
            ..Trial::new()
        };
        let attrs: Vec<(&str, &str)> = attrs.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let out = fresh.built(url, &attrs);
        std::fs::read_to_string(out.join("a")).expect("the file")
    };
    assert_eq!(text(&at(commit), &url), "two");
    let by_commit = url.replace("#main", &format!("#{first}"));
    assert_eq!(text(&at(first), &by_commit), "one");

    let refused = |attrs: Vec<(&str, String)>, url: &str, why: &str| {
        let attrs: Vec<(&str, &str)> = attrs.iter().map(|(k, v)| (*k, v.as_str())).collect();
        trial.refused(url, &attrs, why);
    };
    refused(at(first), &url, "expected checksum to match");
    let nobodys = "0123456789012345678901234567890123456789";
    let by_nobody = url.replace("#main", &format!("#{nobodys}"));
    refused(at(nobodys), &by_nobody, "not found in bundle");
    let mut elsewhere = at(commit);
    elsewhere[1].1 = "nowhere".to_owned();
    refused(elsewhere, &by_commit.replace(first, "other"), "nowhere");
    let unpinned = at(commit)[..2].to_vec();
    refused(unpinned, &url, "git.bundle requires git.checksum to be set");
}
