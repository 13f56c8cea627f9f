//! Keys of flags that take several values (`--output type=image,name=x`): which there are, and what is like one that is
//! not. Where BuildKit passes over a key that it does not know, so does a build here, and a warning says so: a line
//! that works there works here.

use gateway_solver::RemoteCache;

use super::args::Build;

/// How a layer is written.
const LAYERS: [&str; 3] = ["compression", "compression-level", "force-compression"];
const IMAGE: [&str; 10] = [
    "attestation-inline",
    "buildinfo",
    "buildinfo-attrs",
    "name",
    "oci-artifact",
    "oci-mediatypes",
    "prefer-image-digest",
    "prefer-nondist-layers",
    "rewrite-timestamp",
    "source-date-epoch",
];
/// Misspelled by the reference, and so by everybody.
const STORE: [&str; 8] = [
    "danging-name-empty-only",
    "dangling-name-prefix",
    "name-canonical",
    "push",
    "push-by-digest",
    "registry.insecure",
    "store",
    "unpack",
];
const FILES: [&str; 5] = [
    "attestation-prefix",
    "dest",
    "mode",
    "platform-split",
    "source-date-epoch",
];
/// Beginnings of keys that are free behind them: annotations, and metadata that is handed through.
const FREE: [&str; 3] = ["annotation", "containerimage.", "refs."];

/// Keys of an output of this type, beside `type` itself.
pub fn of_output(kind: &str) -> Vec<&'static str> {
    let image = || IMAGE.into_iter().chain(LAYERS);
    match kind {
        "image" | "moby" | "registry" => image().chain(STORE).collect(),
        "oci" => image().chain(["dest", "tar"]).collect(),
        "docker" => image().chain(["context", "dest", "tar"]).collect(),
        "local" => FILES.into(),
        "tar" => FILES.into_iter().filter(|key| *key != "mode").collect(),
        _ => Vec::new(),
    }
}

/// Keys of a cache to write, of this type.
pub fn of_cache_export(kind: &str) -> Vec<&'static str> {
    let form = ["image-manifest", "oci-mediatypes"].into_iter();
    let all = form.chain(LAYERS).chain(["ignore-error", "mode"]);
    match kind {
        "registry" => all.chain(["ref", "registry.insecure"]).collect(),
        "local" => all.chain(["dest", "reset", "tag"]).collect(),
        "s3" | "gha" | "azblob" => {
            let own = RemoteCache::keys(kind).iter().copied();
            own.chain(["ignore-error", "mode"]).collect()
        }
        _ => vec!["ignore-error", "mode"],
    }
}

/// Keys of a cache to read, of this type.
pub fn of_cache_import(kind: &str) -> Vec<&'static str> {
    match kind {
        "local" => vec!["digest", "src", "tag"],
        "s3" | "gha" | "azblob" => RemoteCache::keys(kind).into(),
        _ => vec!["ref", "registry.insecure"],
    }
}

/// Whether any output has this key.
pub fn is_of_some_output(key: &str) -> bool {
    let kinds = ["image", "docker", "local"];
    key == "type" || kinds.iter().any(|kind| of_output(kind).contains(&key))
}

/// The key that was meant: one that differs by a letter or two.
pub fn like<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|one| {
        let distance = strsim::damerau_levenshtein(&key.to_lowercase(), one);
        (distance, *one)
    });
    let (distance, one) = near.min()?;
    // Of a short key little is left when two letters differ.
    (distance <= (one.len() / 4).clamp(1, 2)).then_some(one)
}

/// `; KEY is like it`, or nothing.
pub fn hint(key: &str, known: &[&str]) -> String {
    like(key, known).map_or_else(String::new, |near| format!("; {near} is like it"))
}

/// What is said of keys that have no effect; nothing of those that are known.
pub fn notes<'k>(
    flag: &str,
    text: &str,
    given: impl IntoIterator<Item = &'k String>,
    known: &[&str],
) -> Vec<String> {
    let unknown = given.into_iter().filter(|key| {
        !known.contains(&key.as_str()) && !FREE.iter().any(|begin| key.starts_with(begin))
    });
    unknown
        .map(|key| {
            let hint = hint(key, known);
            format!("{flag} {text:?}: {key:?} has no effect{hint}")
        })
        .collect()
}

/// Flags that a script gives with nothing behind them when a variable of it is empty. They say nothing, as under
/// docker; which ones they were is given back.
pub fn without_empty(args: &mut Build) -> Vec<String> {
    let lists = [
        ("--allow", &mut args.allow),
        ("--annotation", &mut args.annotations),
        ("--cache-from", &mut args.cache_from),
        ("--cache-to", &mut args.cache_to),
        ("--output", &mut args.outputs),
        ("--secret", &mut args.secrets),
        ("--ssh", &mut args.ssh),
    ];
    let mut notes = Vec::new();
    let mut empty = |flag: &str| notes.push(format!("{flag}: is empty and has no effect"));
    for (flag, list) in lists {
        if list.iter().any(String::is_empty) {
            list.retain(|text| !text.is_empty());
            empty(flag);
        }
    }
    let single = [
        ("--call", &mut args.call),
        ("--network", &mut args.network),
        ("--provenance", &mut args.provenance),
        ("--sbom", &mut args.sbom),
        ("--target", &mut args.target),
    ];
    for (flag, value) in single {
        if value.as_deref() == Some("") {
            *value = None;
            empty(flag);
        }
    }
    notes
}

/// A value that is true or false, as Go reads them.
pub fn boolean(key: &str, value: &str) -> Result<bool, String> {
    gateway_api::parse_bool(value).ok_or_else(|| format!("{key} is true or false, not {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_not_known_is_named_with_the_one_that_was_meant() {
        let said = |kind: &str, key: &str| {
            let known = of_output(kind);
            notes("--output", "X", &[key.to_owned()], &known).join("")
        };
        for (kind, key, meant) in [
            ("image", "nmae", "name"),
            ("image", "compresion", "compression"),
            ("oci", "oci-mediatype", "oci-mediatypes"),
            ("image", "annotation.a", ""),
            ("image", "push", ""),
            ("local", "plattform-split", "platform-split"),
        ] {
            let text = said(kind, key);
            let expected = match meant {
                "" => String::new(),
                meant => format!("--output \"X\": {key:?} has no effect; {meant} is like it"),
            };
            assert_eq!(text, expected);
        }
        // Nothing is like it, or it belongs to another type.
        assert_eq!(
            said("tar", "mode"),
            "--output \"X\": \"mode\" has no effect"
        );
        assert_eq!(said("oci", "x"), "--output \"X\": \"x\" has no effect");
    }

    #[test]
    fn flags_with_nothing_behind_them_say_nothing() {
        let words = [
            "--output=",
            "--cache-from=",
            "--cache-from=a",
            "--secret=",
            "--network=",
            ".",
        ];
        let mut args = Build::of_words(words).unwrap();
        let notes = without_empty(&mut args);
        assert_eq!(notes.len(), 4, "{notes:?}");
        assert!(args.outputs.is_empty() && args.secrets.is_empty() && args.network.is_none());
        assert_eq!(args.cache_from, ["a"]);
    }
}
