//! The audit of `docker buildx build`: every flag that it has, what becomes of it here, and that the table of the
//! documentation says the same.

use std::collections::BTreeMap;

use std::ffi::OsString;

use super::request::{Inputs, inputs};
use crate::build::args::Build;
use crate::environment::Environment;

/// What a flag does here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Same,
    /// Taken and without effect, as there.
    Nothing,
    Refused,
}

struct Flag {
    names: &'static str,
    kind: Kind,
    /// In use; `DIR` stands for a directory with a file `Dockerfile` in it.
    words: &'static [&'static str],
    /// Holds of the flag's effect.
    holds: fn(&Build, &Inputs) -> bool,
}

fn opt(inputs: &Inputs, key: &str) -> String {
    inputs.opts.get(key).cloned().unwrap_or_default()
}

const fn same(
    names: &'static str,
    words: &'static [&'static str],
    holds: fn(&Build, &Inputs) -> bool,
) -> Flag {
    Flag {
        names,
        kind: Kind::Same,
        words,
        holds,
    }
}

const fn nothing(names: &'static str, words: &'static [&'static str]) -> Flag {
    Flag {
        names,
        kind: Kind::Nothing,
        words,
        holds: |_, inputs| inputs.opts.is_empty(),
    }
}

const fn refused(names: &'static str, words: &'static [&'static str]) -> Flag {
    Flag {
        names,
        kind: Kind::Refused,
        words,
        holds: |_, _| false,
    }
}

const FLAGS: &[Flag] = &[
    same("--add-host", &["--add-host", "a:1.2.3.4,b:::1"], |_, i| {
        opt(i, "add-hosts") == "a=1.2.3.4,b=::1"
    }),
    same("--allow", &["--allow", "network.host"], |_, i| {
        i.entitlements.contains("network.host")
    }),
    same("--annotation", &["--annotation", "index:k=v"], |b, _| {
        b.annotations == ["index:k=v"]
    }),
    same("--attest", &["--attest", "type=sbom"], |_, i| {
        opt(i, "attest:sbom") == "type=sbom"
    }),
    same("--build-arg", &["--build-arg", "A=b=c"], |_, i| {
        opt(i, "build-arg:A") == "b=c"
    }),
    same(
        "--build-context",
        &["--build-context", "x=docker-image://y"],
        |_, i| opt(i, "context:x") == "docker-image://y",
    ),
    nothing("--builder", &["--builder", "mine"]),
    same("--cache-from", &["--cache-from", "a"], |b, _| {
        super::cache::imports(&b.cache_from, &Environment::new(), &mut Vec::new())
            .is_ok_and(|imports| imports.len() == 1)
    }),
    same(
        "--cache-to",
        &["--cache-to", "type=local,dest=d,mode=max"],
        |b, _| {
            super::cache::exports(&b.cache_to, &Environment::new(), &mut Vec::new())
                .is_ok_and(|exports| exports.len() == 1)
        },
    ),
    same("--call", &["--call", "outline"], asks),
    same("--cgroup-parent", &["--cgroup-parent", "/g"], |_, i| {
        opt(i, "cgroup-parent") == "/g"
    }),
    same("--check", &["--check"], asks),
    refused("--compress", &["--compress"]),
    same("--cpu-period", &["--cpu-period", "5"], |_, i| {
        opt(i, "cpuperiod") == "5"
    }),
    same("--cpu-quota", &["--cpu-quota", "5"], |_, i| {
        opt(i, "cpuquota") == "5"
    }),
    same("-c, --cpu-shares", &["-c", "5"], |_, i| {
        opt(i, "cpushares") == "5"
    }),
    same("--cpuset-cpus", &["--cpuset-cpus", "0-1"], |_, i| {
        opt(i, "cpusetcpus") == "0-1"
    }),
    same("--cpuset-mems", &["--cpuset-mems", "0"], |_, i| {
        opt(i, "cpusetmems") == "0"
    }),
    same("-D, --debug", &["-D"], |b, _| b.debug),
    same("-f, --file", &["-f", "DIR/other"], |_, i| {
        opt(i, "filename") == "other"
    }),
    nothing("--force-rm", &["--force-rm=false"]),
    same("--iidfile", &["--iidfile", "f"], |b, _| b.iidfile.is_some()),
    refused("--isolation", &["--isolation", "hyperv"]),
    same("--label", &["--label", "a=b"], |_, i| {
        opt(i, "label:a") == "b"
    }),
    same("--load", &["--load=true"], |b, _| b.load),
    same("-m, --memory", &["-m", "2g"], |_, i| {
        opt(i, "memory") == "2147483648"
    }),
    same("--memory-swap", &["--memory-swap", "-1"], |_, i| {
        opt(i, "memswap") == "-1"
    }),
    same("--metadata-file", &["--metadata-file", "f"], |b, _| {
        b.metadata_file.is_some()
    }),
    same("--network", &["--network", "none"], |_, i| {
        opt(i, "force-network-mode") == "none"
    }),
    same("--no-cache", &["--no-cache"], |_, i| {
        i.opts.get("no-cache").is_some_and(String::is_empty)
    }),
    same(
        "--no-cache-filter",
        &["--no-cache-filter", "a,b"],
        |_, i| opt(i, "no-cache") == "a,b",
    ),
    same("-o, --output", &["-o", "type=tar,dest=f"], one_exporter),
    same("--platform", &["--platform", "linux/arm64"], |_, i| {
        opt(i, "platform") == "linux/arm64"
    }),
    same(
        "--policy",
        &["--policy", "filename=cwd://src/rego/testdata/all.rego"],
        |b, _| crate::rego::read(b, &Environment::new()).is_ok_and(|policies| policies.len() == 1),
    ),
    same("--print", &["--print", "outline"], asks),
    same("--progress", &["--progress", "none"], |b, _| {
        b.progress == crate::progress::mode::Mode::None
    }),
    same("--provenance", &["--provenance", "mode=min"], |_, i| {
        opt(i, "attest:provenance") == "type=provenance,mode=min"
    }),
    same("--pull", &["--pull=true"], |_, i| {
        opt(i, "image-resolve-mode") == "pull"
    }),
    same("--push", &["--push", "-t", "a"], one_exporter),
    same("-q, --quiet", &["-q"], |b, _| b.quiet),
    same("--resource", &["--resource", "memory=1k"], |_, i| {
        opt(i, "memory") == "1024"
    }),
    nothing("--rm", &["--rm"]),
    same("--sbom", &["--sbom", "true"], |_, i| {
        i.opts.contains_key("attest:sbom")
    }),
    same("--secret", &["--secret", "id=a,env=HOME"], |b, _| {
        b.secrets.len() == 1
    }),
    refused("--security-opt", &["--security-opt", "label=disable"]),
    same("--shm-size", &["--shm-size", "1m"], |_, i| {
        opt(i, "shm-size") == "1048576"
    }),
    refused("--squash", &["--squash"]),
    same("--ssh", &["--ssh", "default=DIR/key"], |b, _| {
        b.ssh.len() == 1
    }),
    same("-t, --tag", &["-t", "a", "--tag", "b"], |b, _| {
        b.tags == ["a", "b"]
    }),
    same("--target", &["--target", "t"], |_, i| {
        opt(i, "target") == "t"
    }),
    same("--ulimit", &["--ulimit", "nofile=1:2"], |_, i| {
        opt(i, "ulimit") == "nofile=1:2"
    }),
];

fn asks(build: &Build, _: &Inputs) -> bool {
    super::call::call(build).is_ok_and(|call| call.is_some())
}

fn one_exporter(build: &Build, _: &Inputs) -> bool {
    let env = Environment::new();
    super::output::exporters(build, &env, &mut Vec::new())
        .is_ok_and(|exporters| exporters.len() == 1)
}

fn parsed(given: &[String]) -> Build {
    let line = ["gateway", "build"].map(str::to_owned).into_iter();
    let words = line.chain(given.iter().cloned()).map(Into::into).collect();
    let words: Vec<OsString> = crate::docker_words::normal(words);
    Build::of_words(words.into_iter().skip(2)).unwrap()
}

#[test]
fn every_flag_of_docker_build_means_the_same_or_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["Dockerfile", "other"] {
        std::fs::write(dir.path().join(file), "FROM scratch\n").unwrap();
    }
    let key = dir.path().join("key");
    let status = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .status();
    assert!(status.unwrap().success(), "ssh-keygen makes a key");
    let at = dir.path().to_str().unwrap();
    for flag in FLAGS {
        let given = flag.words.iter().map(|word| word.replace("DIR", at));
        let words: Vec<String> = given.chain([at.to_owned()]).collect();
        let build = parsed(&words);
        let refusal = build.docker.check();
        if flag.kind == Kind::Refused {
            let text = refusal.unwrap_err().to_string();
            assert!(text.contains(flag.names), "{text}");
            continue;
        }
        refusal.unwrap();
        let made = inputs(&build, &Environment::new(), "s".into(), None)
            .unwrap_or_else(|error| panic!("{}: {error}", flag.names));
        assert!((flag.holds)(&build, &made), "{}", flag.names);
    }
}

/// Rows of the table under this heading: first cell without marks, second cell.
fn table(text: &str, heading: &str) -> BTreeMap<String, String> {
    let section = text.split(heading).nth(1).unwrap_or_default();
    section
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| {
            let mut cells = line.split(" | ");
            let name = cells.next()?.trim_start_matches('|').replace('`', "");
            let rest = cells.collect::<Vec<_>>().join(" | ");
            Some((
                name.trim().to_owned(),
                rest.trim_end_matches('|').trim().to_owned(),
            ))
        })
        .collect()
}

const DOCUMENT: &str = include_str!("../../../../docs/cli.md");

#[test]
fn the_documentation_tells_of_every_flag_what_it_does_here() {
    let told = table(DOCUMENT, "## Flags of `docker build`");
    let word = |kind| match kind {
        Kind::Same => "same",
        Kind::Nothing => "no effect",
        Kind::Refused => "refused",
    };
    for flag in FLAGS {
        let text = told.get(flag.names);
        assert!(
            text.is_some_and(|text| text.starts_with(word(flag.kind))),
            "{}: {text:?}",
            flag.names
        );
    }
    assert_eq!(told.len(), FLAGS.len(), "{:?}", told.keys());
}

#[test]
fn the_documentation_tells_of_every_key_what_beats_it() {
    let told = table(DOCUMENT, "### Keys");
    for key in &crate::config::keys::KEYS {
        let text = told
            .get(key.name)
            .unwrap_or_else(|| panic!("{} is not told of", key.name));
        for variable in key.variables {
            assert!(text.contains(variable), "{}: {text}", key.name);
        }
        assert!(text.contains(key.flag), "{}: {text}", key.name);
        assert!(text.contains(key.default), "{}: {text}", key.name);
    }
    assert_eq!(told.len(), crate::config::keys::KEYS.len());
}

#[test]
fn the_documentation_tells_the_exit_codes() {
    let told = table(DOCUMENT, "## Exit codes");
    for (code, word) in [
        (crate::error::FAILED, "build failed"),
        (crate::error::USAGE, "command line"),
        (crate::error::REGISTRY, "registry"),
        (crate::error::REFUSED, "refused"),
        (crate::error::INTERRUPTED, "interrupted"),
    ] {
        let text = told.get(&code.to_string()).cloned().unwrap_or_default();
        assert!(text.contains(word), "{code}: {text}");
    }
}
