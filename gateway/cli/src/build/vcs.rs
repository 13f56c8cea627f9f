//! Where the context comes from, when it is a checkout of a git repository: for provenance, and as labels of the
//! image when the variables of `docker buildx` ask for them.
//!
//! `git` is run only when somebody wants to know: it costs more than an unchanged build.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use gateway_images::registry::shown_url;

use crate::environment::Environment;

const LABELS: &str = "BUILDX_GIT_LABELS";
const INFO: &str = "BUILDX_GIT_INFO";
const CHECK_DIRTY: &str = "BUILDX_GIT_CHECK_DIRTY";
/// Remotes that are asked for their address when the branch follows none.
const REMOTES: [&str; 2] = ["origin", "upstream"];

/// Adds what is known of the repository. `dirs` are the build's own directories by their names.
pub fn options(
    env: &Environment,
    dirs: &[(&str, PathBuf)],
    file: &Path,
    opts: &mut BTreeMap<String, String>,
) {
    let is_on = |name: &str, default: bool| match env.get(name).map(String::as_str) {
        Some("full") => true,
        text => text.and_then(gateway_api::parse_bool).unwrap_or(default),
    };
    let labels = is_on(LABELS, false);
    let info = is_on(INFO, true) && opts.contains_key("attest:provenance");
    let Some((_, context)) = dirs.first().filter(|_| labels || info) else {
        return;
    };
    let Some(root) = git(context, &["rev-parse", "--show-toplevel"]) else {
        return;
    };
    let mut add = |attribute: &str, label: &str, value: &str| {
        if info && !attribute.is_empty() {
            opts.insert(format!("vcs:{attribute}"), value.to_owned());
        }
        if labels && !label.is_empty() {
            // What a flag says of the label counts.
            opts.entry(format!("label:{label}"))
                .or_insert_with(|| value.to_owned());
        }
    };
    if let Some(mut revision) = git(context, &["rev-parse", "--verify", "--quiet", "HEAD"]) {
        let dirty = is_on(CHECK_DIRTY, false)
            && git(context, &["status", "--porcelain", "--ignored"]).is_none_or(|s| !s.is_empty());
        if dirty {
            revision += "-dirty";
        }
        add("revision", "org.opencontainers.image.revision", &revision);
    }
    if let Some(source) = remote(context) {
        add("source", "org.opencontainers.image.source", &source);
    }
    let below = |path: &Path| {
        let path = std::fs::canonicalize(path).ok()?;
        let below = path
            .strip_prefix(&root)
            .ok()?
            .to_string_lossy()
            .into_owned();
        Some(if below.is_empty() {
            ".".to_owned()
        } else {
            below
        })
    };
    if let Some(file) = below(file) {
        add("", "com.docker.image.source.entrypoint", &file);
    }
    for (name, dir) in dirs {
        if let Some(dir) = below(dir) {
            add(&format!("localdir:{name}"), "", &dir);
        }
    }
}

/// The address of what the current branch follows, without a login.
fn remote(context: &Path) -> Option<String> {
    let followed = git(context, &["symbolic-ref", "--quiet", "HEAD"])
        .and_then(|branch| {
            let format = "--format=%(upstream:remotename)";
            git(context, &["for-each-ref", format, &branch])
        })
        .filter(|name| !name.is_empty());
    let names = followed.iter().map(String::as_str).chain(REMOTES);
    names
        .filter_map(|name| git(context, &["remote", "get-url", name]))
        .find(|address| !address.is_empty())
        .map(|address| shown_url(&address))
}

/// The first line of what git says; `None` when it fails or is not there.
fn git(dir: &Path, words: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        // No program that the repository names.
        .args(["-c", "core.fsmonitor=false"])
        .args(words)
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("app")).unwrap();
        std::fs::write(dir.path().join("app/Dockerfile"), "FROM scratch\n").unwrap();
        for words in [
            &["init", "-q", "-b", "main"][..],
            &["add", "."],
            &[
                "-c",
                "user.name=n",
                "-c",
                "user.email=e",
                "commit",
                "-q",
                "-m",
                "m",
            ],
            &[
                "remote",
                "add",
                "origin",
                "https://me:secret@git.example/app.git",
            ],
        ] {
            git(dir.path(), words).unwrap_or_else(|| panic!("{words:?}"));
        }
        dir
    }

    fn told(dir: &Path, vars: &[(&str, &str)], given: &[(&str, &str)]) -> BTreeMap<String, String> {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let mut opts = map(given);
        let dirs = [("context", dir.to_owned()), ("dockerfile", dir.to_owned())];
        let env = map(vars).into_iter().collect();
        options(&env, &dirs, &dir.join("Dockerfile"), &mut opts);
        opts
    }

    const ASKED: (&str, &str) = ("attest:provenance", "mode=min");

    #[test]
    fn provenance_is_told_revision_remote_and_folders_without_logins() {
        let repository = repository();
        let app = repository.path().join("app");
        let opts = told(&app, &[], &[ASKED]);
        assert_eq!(opts["vcs:source"], "https://git.example/app.git");
        assert_eq!(opts["vcs:revision"].len(), 40);
        assert_eq!(opts["vcs:localdir:context"], "app");
        assert!(!opts.keys().any(|key| key.starts_with("label:")));
        assert_eq!(told(&app, &[(INFO, "false")], &[ASKED]).len(), 1);
        assert!(told(&app, &[], &[]).is_empty(), "nobody wants to know");
        let outside = tempfile::tempdir().unwrap();
        assert_eq!(told(outside.path(), &[], &[ASKED]).len(), 1);
    }

    #[test]
    fn labels_are_asked_for_and_flags_beat_them() {
        let repository = repository();
        let app = repository.path().join("app");
        let given = ("label:org.opencontainers.image.source", "mine");
        std::fs::write(app.join("new"), "").unwrap();
        let opts = told(&app, &[(LABELS, "1"), (CHECK_DIRTY, "1")], &[given]);
        assert_eq!(opts["label:org.opencontainers.image.source"], "mine");
        assert_eq!(
            opts["label:com.docker.image.source.entrypoint"],
            "app/Dockerfile"
        );
        let revision = &opts["label:org.opencontainers.image.revision"];
        assert!(revision.ends_with("-dirty"), "{revision}");
        assert!(!opts.keys().any(|key| key.starts_with("vcs:")));
    }
}
