//! Mistakes that everybody makes, and the page that each of them gets: what failed, where, why, and what to do.

use std::path::Path;
use std::process::Output;

use gateway_tests::program::{Home, run, stderr};
use gateway_tests::registry::Registry;

/// The longest page, in lines: what a terminal shows at once.
const PAGE: usize = 24;

struct Mistakes {
    registry: Registry,
    home: Home,
}

impl Mistakes {
    fn new() -> Mistakes {
        let registry = Registry::with_base_images();
        let home = Home::new(&registry.as_docker_hub());
        Mistakes { registry, home }
    }

    /// What is printed for a build of these files, with what differs from run to run by name.
    fn page(&self, files: &[(&str, &str)], flags: &[&str]) -> String {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("making it");
            std::fs::write(path, text).expect("writing the context");
        }
        let output = run(self
            .home
            .build()
            .env_remove("SSH_AUTH_SOCK")
            .args(["--progress=quiet"])
            .args(flags)
            .arg(dir.path()));
        self.told(&output, dir.path())
    }

    fn told(&self, output: &Output, context: &Path) -> String {
        let text = stderr(output);
        assert!(text.lines().count() <= PAGE, "more than a page: {text}");
        let address = self.registry.address.to_string();
        let text = text
            .replace(&context.display().to_string(), "CONTEXT")
            .replace(&address, "REGISTRY");
        let code = output.status.code().expect("its exit code");
        format!("{}\n[{code}]", references_by_name(&text))
    }
}

/// `ref 0123...` as `ref ID`, and times as T.
fn references_by_name(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let mut line = line.to_owned();
        if let Some((before, rest)) = line.clone().split_once("checksum of ref ") {
            let end = rest.find(':').unwrap_or(rest.len());
            line = format!("{before}checksum of ref ID{}", &rest[end..]);
        }
        match line.split_once(' ') {
            Some((time, said)) if time.contains('.') && time.parse::<f64>().is_ok() => {
                format!("T {said}")
            }
            _ => line,
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn build_files_and_contexts() {
    let mistakes = Mistakes::new();
    insta::assert_snapshot!(mistakes.page(&[("app.Dockerfile", "FROM scratch\n")], &[]), @r#"
    error: failed to solve: failed to read dockerfile: open Dockerfile: no such file or directory
    There is no Dockerfile in CONTEXT, but app.Dockerfile. Choose one: --file CONTEXT/app.Dockerfile
    [1]
    "#);
    insta::assert_snapshot!(mistakes.page(&[("Dockerfile", "")], &[]), @r#"
    error: failed to solve: the Dockerfile cannot be empty
    It begins with FROM: the image that the build starts from.
    [1]
    "#);
    insta::assert_snapshot!(mistakes.page(&[("Dockerfile", "RUN true\n")], &[]), @r#"
    Dockerfile:1
    --------------------
       1 | >>> RUN true
       2 |     
    --------------------
    error: failed to solve: no build stage in current context
    Before the first FROM there can be ARG alone.
    [1]
    "#);
    let package = ("package.json", "{}\n");
    let copy = ("Dockerfile", "FROM busybox\nCOPY pakage.json /\n");
    insta::assert_snapshot!(mistakes.page(&[copy, package], &[]), @r#"
    ------
     > [2/2] COPY pakage.json /:
    ------
    Dockerfile:2
    --------------------
       1 |     FROM busybox
       2 | >>> COPY pakage.json /
       3 |     
    --------------------
    error: failed to solve: failed to compute cache key: failed to calculate checksum of ref ID: "/pakage.json": not found
    There is no pakage.json in the context, CONTEXT; did you mean package.json?
    [1]
    "#);
    let copy = ("Dockerfile", "FROM busybox\nCOPY package.json /\n");
    let ignore = (".dockerignore", "*.json\n");
    insta::assert_snapshot!(mistakes.page(&[copy, package, ignore], &[]), @r#"
    ------
     > [2/2] COPY package.json /:
    ------
    Dockerfile:2
    --------------------
       1 |     FROM busybox
       2 | >>> COPY package.json /
       3 |     
    --------------------
    error: failed to solve: failed to compute cache key: failed to calculate checksum of ref ID: "/package.json": not found
    The file is in the context, but CONTEXT/.dockerignore leaves it out; a line !package.json behind takes it in.
    [1]
    "#);
    let outside = ("Dockerfile", "FROM busybox\nCOPY ../x /\n");
    insta::assert_snapshot!(mistakes.page(&[outside], &[]), @r#"
    ------
     > [2/2] COPY ../x /:
    ------
    Dockerfile:2
    --------------------
       1 |     FROM busybox
       2 | >>> COPY ../x /
       3 |     
    --------------------
    error: failed to solve: failed to compute cache key: failed to calculate checksum of ref ID: "/x": not found
    The context is all that a build sees: nothing outside of it can be copied. Make a directory above it the context, or add one: --build-context NAME=DIR, and COPY --from=NAME.
    [1]
    "#);
}

#[test]
fn stages_images_and_arguments() {
    let mistakes = Mistakes::new();
    let file = |text: &'static str| [("Dockerfile", text)];
    let stages =
        "FROM busybox AS builder\nRUN true\nFROM busybox\nCOPY --from=buidler /bin/sh /x\n";
    let page = mistakes.page(&file(stages), &[]);
    for part in ["Dockerfile:4", "did you mean the stage builder?", "[3]"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    insta::assert_snapshot!(mistakes.page(&file("FROM busybox AS base\n"), &["--target=bse"]), @r#"
    error: failed to solve: target stage "bse" could not be found (did you mean base?)
    [1]
    "#);
    insta::assert_snapshot!(mistakes.page(&file("ARG V\nFROM busybox:$V\n"), &[]), @r#"
    Dockerfile:2
    --------------------
       1 |     ARG V
       2 | >>> FROM busybox:$V
       3 |     
    --------------------
    error: failed to solve: failed to parse stage name "busybox:": invalid reference format
    If V has no value, give it one: --build-arg V=VALUE, or ARG V=VALUE before the first FROM.
    [1]
    "#);
    insta::assert_snapshot!(mistakes.page(&file("FROM busybox\nRUNN true\n"), &[]), @r#"
    Dockerfile:2
    --------------------
       1 |     FROM busybox
       2 | >>> RUNN true
       3 |     
    --------------------
    error: failed to solve: dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)
    [1]
    "#);
}

#[test]
fn steps_and_what_they_need() {
    let mistakes = Mistakes::new();
    let file = |text: &'static str| [("Dockerfile", text)];
    let secret = "FROM busybox\nRUN --mount=type=secret,id=npm,required cat /run/secrets/npm\n";
    insta::assert_snapshot!(mistakes.page(&file(secret), &[]), @r#"
    Dockerfile:2
    --------------------
       1 |     FROM busybox
       2 | >>> RUN --mount=type=secret,id=npm,required cat /run/secrets/npm
       3 |     
    --------------------
    error: failed to solve: secret npm: not found
    The step needs it: --secret id=npm,src=FILE, or id=npm,env=VARIABLE.
    [1]
    "#);
    let ssh = "FROM busybox\nRUN --mount=type=ssh,required true\n";
    insta::assert_snapshot!(mistakes.page(&file(ssh), &[]), @r#"
    Dockerfile:2
    --------------------
       1 |     FROM busybox
       2 | >>> RUN --mount=type=ssh,required true
       3 |     
    --------------------
    error: failed to solve: no SSH key "" forwarded from the client
    The step needs keys: --ssh default for those of your agent (SSH_AUTH_SOCK), --ssh default=KEYFILE for others; with an id of its own, --ssh ID=...
    [1]
    "#);
    insta::assert_snapshot!(mistakes.page(&file("FROM busybox\nRUN nosuchprogram\n"), &[]), @r#"
    ------
     > [2/2] RUN nosuchprogram:
    T /bin/sh: nosuchprogram: not found
    ------
    Dockerfile:2
    --------------------
       1 |     FROM busybox
       2 | >>> RUN nosuchprogram
       3 |     
    --------------------
    error: failed to solve: process "/bin/sh -c nosuchprogram" did not complete successfully: exit code: 127
    127 says that there is no such program: is it installed in this image, and in PATH?
    [1]
    "#);
    insta::assert_snapshot!(mistakes.page(&file("FROM busybox\nUSER nobodyatall\nRUN true\n"), &[]), @r#"
    ------
     > [2/2] RUN true:
    ------
    Dockerfile:3
    --------------------
       1 |     FROM busybox
       2 |     USER nobodyatall
       3 | >>> RUN true
       4 |     
    --------------------
    error: failed to solve: process "/bin/sh -c true" did not complete successfully: unable to find user nobodyatall: no matching entries in passwd file
    Make it in a step before (adduser, useradd), or write its number.
    [1]
    "#);
    insta::assert_snapshot!(mistakes.page(&file("FROM busybox\nRUN --network=host true\n"), &[]), @r#"
    Dockerfile:2
    --------------------
       1 |     FROM busybox
       2 | >>> RUN --network=host true
       3 |     
    --------------------
    error: failed to solve: failed to load LLB: network.host is not allowed
    The step needs more than builds may do. Let it, if you trust the build file: --allow network.host
    [4]
    "#);
}

#[test]
fn stores_that_cannot_be_where_they_are_to_be() {
    let mistakes = Mistakes::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("file"), "").unwrap();
    std::fs::write(dir.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    for root in [dir.path().join("file"), "/proc/store".into()] {
        let mut build = std::process::Command::new(gateway_tests::program::binary());
        let output = run(build.arg("build").arg("--root").arg(&root).arg(dir.path()));
        let page = mistakes.told(&output, dir.path());
        assert!(
            page.contains("name another place with --root or GATEWAY_ROOT"),
            "{page}"
        );
    }
}

#[test]
fn flags_that_cannot_be_meant() {
    let mistakes = Mistakes::new();
    let file = [("Dockerfile", "FROM busybox\n")];
    for (flags, told) in [
        (&["--tag=Foo:bar"][..], "error: --tag \"Foo:bar\": "),
        (
            &["--push"],
            "error: --push: the image has no name to push it to: --tag REGISTRY/NAME",
        ),
        (&["--secret=id=x,src=/no/such"], "/no/such: No such file"),
        (&["--ssh=default"], "SSH_AUTH_SOCK is not set"),
        (&["--output=type=ocii,dest=x"], "unknown type \"ocii\""),
        (&["--file=/no/such"], "cannot read the build file /no/such"),
        (
            &["--policy=filename=no.rego"],
            "error: --policy \"no.rego\": No such file",
        ),
        (&["--no-cahce"], "--no-cache"),
    ] {
        let page = mistakes.page(&file, flags);
        assert!(
            page.contains(told) && page.ends_with("[2]"),
            "{flags:?}: {page}"
        );
    }
}
