//! Files of the web, git repositories and OCI layouts as parts of builds, from real servers.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use gateway_tests::git::{GitDaemon, git};
use gateway_tests::program::{Home, run, stderr};
use gateway_tests::web::{Page, Web};
use sha2::{Digest as _, Sha256};

/// A home and a context with this build file.
fn prepared(dockerfile: &str) -> (Home, tempfile::TempDir) {
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(context.path().join("Dockerfile"), dockerfile).expect("the build file");
    (Home::new(""), context)
}

/// Builds into a directory.
fn build(home: &Home, args: &[&str], context: &str, out: &str) -> (Output, std::path::PathBuf) {
    let dest = home.dir.path().join(out);
    let output = run(home
        .build()
        .args(["--progress=plain", "--output"])
        .arg(format!("type=local,dest={}", dest.display()))
        .args(args)
        .arg(context));
    (output, dest)
}

fn built(home: &Home, args: &[&str], context: &str, out: &str) -> (String, std::path::PathBuf) {
    let (output, dest) = build(home, args, context, out);
    assert!(output.status.success(), "{}", stderr(&output));
    (stderr(&output), dest)
}

fn failed(home: &Home, args: &[&str], context: &str) -> String {
    let (output, _) = build(home, args, context, "failed");
    assert!(!output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

fn text(dir: &Path, path: &str) -> String {
    std::fs::read_to_string(dir.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Every file below a directory that holds the text, in name or content.
fn holding(dir: &Path, needle: &str, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a type");
        if path.to_string_lossy().contains(needle) {
            found.push(path.display().to_string());
        }
        if kind.is_dir() {
            holding(&path, needle, found);
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(needle.len()).any(|w| w == needle.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
}

fn assert_nowhere(home: &Home, needle: &str) {
    let mut found = Vec::new();
    holding(&home.store(), needle, &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_file_of_the_web_is_added_and_asked_for_again_only_when_it_changed() {
    let web = Web::start();
    let page = |body: &str, etag: &str| Page {
        body: body.into(),
        etag: Some(etag.into()),
        headers: vec!["Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT".into()],
        ..Page::default()
    };
    web.put("/d/file.txt", page("one", "\"1\""));
    let url = web.url("/d/file.txt");
    let (home, context) = prepared(&format!("FROM scratch\nADD {url} /in/\n"));
    let context = utf8(context.path());
    let (_, first) = built(&home, &[], context, "first");
    assert_eq!(text(&first, "in/file.txt"), "one");
    let modified = std::fs::metadata(first.join("in/file.txt"))
        .and_then(|metadata| metadata.modified())
        .expect("a time");
    let seconds = modified
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a time");
    assert_eq!(seconds.as_secs(), 784_111_777);
    web.asked();

    let (shown, again) = built(&home, &[], context, "again");
    assert_eq!(text(&again, "in/file.txt"), "one");
    let asked = web.asked();
    let methods: Vec<&str> = asked.iter().map(|asked| asked.method.as_str()).collect();
    assert_eq!(methods, ["HEAD"], "{asked:?}");
    assert_eq!(asked[0].headers["if-none-match"], "\"1\"");
    assert!(shown.contains("CACHED"), "{shown}");

    web.put("/d/file.txt", page("two", "\"2\""));
    let (_, changed) = built(&home, &[], context, "changed");
    assert_eq!(text(&changed, "in/file.txt"), "two");
}

#[test]
fn a_checksum_is_kept_to_and_makes_asking_needless() {
    let web = Web::start();
    let page = Page {
        body: b"content".to_vec(),
        ..Page::default()
    };
    web.put("/f", page);
    let (url, right, wrong) = (web.url("/f"), sha256(b"content"), sha256(b"other"));
    let (home, context) = prepared(&format!("FROM scratch\nADD --checksum={right} {url} /f\n"));
    let (_, out) = built(&home, &[], utf8(context.path()), "out");
    assert_eq!(text(&out, "f"), "content");
    assert_eq!(web.asked().len(), 1);
    built(&home, &[], utf8(context.path()), "again");
    assert!(web.asked().is_empty());

    let dockerfile = format!("FROM scratch\nADD --checksum={wrong} {url} /f\n");
    std::fs::write(context.path().join("Dockerfile"), dockerfile).expect("the build file");
    let shown = failed(&home, &[], utf8(context.path()));
    let expected = format!("digest mismatch for {url}: {right} (expected: {wrong})");
    assert!(shown.contains(&expected), "{shown}");

    let dockerfile = format!("FROM scratch\nADD {} /f\n", web.url("/none"));
    std::fs::write(context.path().join("Dockerfile"), dockerfile).expect("the build file");
    let shown = failed(&home, &[], utf8(context.path()));
    assert!(shown.contains("invalid response status 404"), "{shown}");
}

#[test]
fn a_login_goes_to_its_own_host_and_stays_out_of_the_store() {
    const TOKEN: &str = "unmistakable-token-5309";
    let (web, other) = (Web::start(), Web::start());
    web.put(
        "/private",
        Page {
            login: Some(format!("Bearer {TOKEN}")),
            location: Some(other.url("/file")),
            ..Page::default()
        },
    );
    other.put(
        "/file",
        Page {
            body: b"behind the login".to_vec(),
            ..Page::default()
        },
    );
    let (home, context) = prepared(&format!("FROM scratch\nADD {} /f\n", web.url("/private")));
    let shown = failed(&home, &[], utf8(context.path()));
    assert!(shown.contains("invalid response status 401"), "{shown}");
    let token = home.dir.path().join("token");
    std::fs::write(&token, TOKEN).expect("a secret");
    let secret = format!(
        "--secret=id=HTTP_AUTH_TOKEN_127.0.0.1,src={}",
        token.display()
    );
    let (shown, out) = built(&home, &[&secret], utf8(context.path()), "out");
    assert_eq!(text(&out, "f"), "behind the login");
    assert!(!shown.contains(TOKEN));
    let elsewhere: Vec<BTreeMap<String, String>> = other
        .asked()
        .into_iter()
        .map(|asked| asked.headers)
        .collect();
    assert_eq!(elsewhere.len(), 1);
    assert!(!elsewhere[0].contains_key("authorization"), "{elsewhere:?}");
    assert_nowhere(&home, TOKEN);
}

#[test]
fn a_git_repository_is_added_at_the_commit_that_a_name_means() {
    let daemon = GitDaemon::start();
    let files = [
        ("a.txt", "one"),
        ("sub/b.txt", "b"),
        ("run.sh", "#!/bin/sh\n"),
    ];
    let dir = daemon.repository("r.git", &files);
    git(&dir, &["tag", "-a", "-m", "release", "v1"]);
    let first = git(&dir, &["rev-parse", "HEAD"]);
    let second = daemon.commit(&dir, &[("a.txt", "two")]);
    let url = daemon.url("r.git");
    let (home, context) = prepared(&format!(
        "FROM scratch\nADD {url} /head\nADD {url}#v1 /tag\nADD {url}#main:sub /sub\n\
         ADD {url}#{first} /commit\nADD --keep-git-dir=true {url}#main /kept\n"
    ));
    let (_, out) = built(&home, &[], utf8(context.path()), "out");
    assert_eq!(text(&out, "head/a.txt"), "two");
    assert!(!out.join("head/.git").exists());
    assert_eq!(text(&out, "tag/a.txt"), "one");
    assert_eq!(text(&out, "sub/b.txt"), "b");
    assert!(!out.join("sub/a.txt").exists());
    assert_eq!(text(&out, "commit/a.txt"), "one");
    assert_eq!(git(&out.join("kept"), &["rev-parse", "HEAD"]), second);
    assert_eq!(git(&out.join("kept"), &["status", "--porcelain"]), "");
    let origin = git(&out.join("kept"), &["remote", "get-url", "origin"]);
    assert_eq!(origin, url);

    let (shown, _) = built(&home, &[], utf8(context.path()), "again");
    assert!(shown.contains("CACHED"), "{shown}");

    let dockerfile = format!("FROM scratch\nADD --checksum={second} {url}#v1 /x\n");
    std::fs::write(context.path().join("Dockerfile"), dockerfile).expect("the build file");
    let shown = failed(&home, &[], utf8(context.path()));
    let expected = format!("expected checksum to match {second}");
    assert!(shown.contains(&expected), "{shown}");
    let dockerfile = format!("FROM scratch\nADD {url}#none /x\n");
    std::fs::write(context.path().join("Dockerfile"), dockerfile).expect("the build file");
    let shown = failed(&home, &[], utf8(context.path()));
    assert!(
        shown.contains("repository does not contain ref none"),
        "{shown}"
    );
}

#[test]
fn a_git_repository_with_a_submodule_is_a_context() {
    let daemon = GitDaemon::start();
    let dockerfile = "FROM scratch\nCOPY . /all/\n";
    daemon.repository("lib.git", &[("lib.txt", "library")]);
    let dir = daemon.repository("app.git", &[("Dockerfile", dockerfile), ("app.txt", "app")]);
    git(
        &dir,
        &["submodule", "--quiet", "add", &daemon.url("lib.git"), "lib"],
    );
    git(&dir, &["commit", "--quiet", "-m", "submodule"]);
    let home = Home::new("");
    let (_, out) = built(
        &home,
        &[],
        &format!("{}#main", daemon.url("app.git")),
        "out",
    );
    assert_eq!(text(&out, "all/app.txt"), "app");
    assert_eq!(text(&out, "all/lib/lib.txt"), "library");
    assert!(!out.join("all/lib/.git").exists());
}

#[test]
fn an_archive_of_the_web_is_a_context() {
    let web = Web::start();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in [("Dockerfile", "FROM scratch\nCOPY a /b\n"), ("a", "a")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        archive
            .append_data(&mut header, name, text.as_bytes())
            .expect("an archive");
    }
    let page = Page {
        body: archive.into_inner().expect("an archive"),
        ..Page::default()
    };
    web.put("/context.tar", page);
    let home = Home::new("");
    let (_, out) = built(&home, &[], &web.url("/context.tar"), "out");
    assert_eq!(text(&out, "b"), "a");
}

#[test]
fn an_image_of_an_oci_layout_is_a_named_context() {
    let (home, context) = prepared("FROM scratch\nCOPY a /a\nLABEL l=v\n");
    std::fs::write(context.path().join("a"), "from the layout").expect("a file");
    let layout = home.dir.path().join("layout");
    let output = run(home
        .build()
        .args(["-t", "example/base:v1", "--output"])
        .arg(format!("type=oci,tar=false,dest={}", layout.display()))
        .arg(context.path()));
    assert!(output.status.success(), "{}", stderr(&output));

    let fresh = Home::new("");
    std::fs::write(context.path().join("Dockerfile"), "FROM base\n").expect("the build file");
    let named = |tag: &str| {
        format!(
            "--build-context=base=oci-layout://{}{tag}",
            layout.display()
        )
    };
    for tag in ["", ":v1"] {
        let (_, out) = built(&fresh, &[&named(tag)], utf8(context.path()), "out");
        assert_eq!(text(&out, "a"), "from the layout");
    }
    let shown = failed(&fresh, &[&named(":v2")], utf8(context.path()));
    assert!(shown.contains("no image is called \"v2\""), "{shown}");
}
