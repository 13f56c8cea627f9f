//! One `--output`: a folder, `-`, or a type with its attributes.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use gateway_api::parse_bool;
use gateway_solver::{Exporter, OutputTarget};

use super::super::keys;
use crate::environment::Environment;
use crate::error::UsageError;
use gateway_frontend::csv;

const FLAG: &str = "--output";
/// Programs that take an image from `--load`, in this order, and how they are told to.
const LOADERS: [(&str, &[&str]); 4] = [
    ("docker", &["load"]),
    ("podman", &["load"]),
    ("nerdctl", &["load"]),
    ("ctr", &["images", "import", "-"]),
];

/// Types, as errors tell them.
const TYPES: [&str; 7] = [
    "image",
    "registry",
    "oci",
    "docker",
    "tar",
    "local",
    "cacheonly",
];

/// The program that loads images here, with its arguments.
pub fn loader(flag: &str, env: &Environment) -> Result<Vec<String>, UsageError> {
    let path = env.get("PATH").map_or("", String::as_str);
    for (name, arguments) in LOADERS {
        for dir in std::env::split_paths(path) {
            let file = dir.join(name);
            if rustix::fs::access(&file, rustix::fs::Access::EXEC_OK).is_ok() {
                let words = arguments.iter().map(|word| (*word).to_owned());
                return Ok(std::iter::once(file.to_string_lossy().into_owned())
                    .chain(words)
                    .collect());
            }
        }
    }
    let names: Vec<&str> = LOADERS.iter().map(|(name, _)| *name).collect();
    let problem =
        "none of them is in PATH: write an archive with --output type=docker,dest=FILE instead";
    Err(UsageError::new(flag, names.join(", "), problem.into()))
}

/// `None` for `type=cacheonly`: the build runs for its cache. `notes` gets what has no effect.
pub fn exporter(
    text: &str,
    tags: &[String],
    env: &Environment,
    notes: &mut Vec<String>,
) -> Result<Option<Exporter>, UsageError> {
    let wrong = |problem: String| UsageError::new(FLAG, text, problem);
    let mut attrs = attributes(text)?;
    let kind = attrs
        .remove("type")
        .ok_or_else(|| wrong("no type: write type=oci, type=docker, type=image, ...".into()))?;
    if attrs.contains_key("output") && !attrs.contains_key("dest") {
        let dest = attrs.remove("output").unwrap_or_default();
        attrs.insert("dest".to_owned(), dest);
    }
    let known = keys::of_output(&kind);
    // Exporters pass over what they do not know; the place of a result is not to be lost like that.
    let meant = |key: &&String| strsim::damerau_levenshtein(key, "dest") == 1;
    if known.contains(&"dest")
        && !attrs.contains_key("dest")
        && let Some(key) = attrs.keys().find(meant)
    {
        return Err(wrong(format!("unknown key {key:?}: dest is like it")));
    }
    if TYPES.contains(&kind.as_str()) {
        notes.extend(keys::notes(FLAG, text, attrs.keys(), &known));
    }
    let own = attrs.remove("name");
    if own.is_some() && !tags.is_empty() && known.contains(&"name") {
        notes.push(format!("{FLAG} {text:?}: name has no effect beside --tag"));
    }
    let names = match own {
        Some(names) if tags.is_empty() => names.split(',').map(str::to_owned).collect(),
        _ => tags.to_vec(),
    };
    let dest = attrs.remove("dest");
    if dest.as_deref() == Some("") {
        return Err(wrong("dest= names no place: dest=FILE, or dest=DIR".into()));
    }
    let target = || match dest.as_deref() {
        Some("-") | None if std::io::stdout().is_terminal() => Err(wrong(
            "refusing to write an archive to the terminal: add dest=FILE or redirect stdout".into(),
        )),
        Some("-") | None => Ok(OutputTarget::Stdout),
        Some(path) if PathBuf::from(path).is_dir() => Err(wrong(format!(
            "{path} is a directory: name a file, dest={path}/FILE"
        ))),
        Some(path) => Ok(OutputTarget::File(PathBuf::from(path))),
    };
    let directory = || {
        let dest = dest.as_deref().filter(|dest| *dest != "-");
        let dest = dest.ok_or_else(|| wrong("needs a directory: dest=DIR".into()))?;
        match std::fs::metadata(dest) {
            Ok(metadata) if !metadata.is_dir() => {
                Err(wrong(format!("{dest} is no directory: name another one")))
            }
            _ => Ok(PathBuf::from(dest)),
        }
    };
    let tar = attrs.get("tar").and_then(|tar| parse_bool(tar)) != Some(false);
    let exporter = match kind.as_str() {
        "cacheonly" => return Ok(None),
        "image" | "moby" => Exporter::ImageStore { names, attrs },
        "registry" => {
            attrs.insert("push".into(), "true".into());
            attrs
                .entry("store".into())
                .or_insert_with(|| "false".into());
            Exporter::ImageStore { names, attrs }
        }
        "oci" | "docker" if !tar => Exporter::Oci {
            dest: OutputTarget::Dir(directory()?),
            tar: false,
            names,
            attrs,
        },
        "oci" => Exporter::Oci {
            dest: target()?,
            tar: true,
            names,
            attrs,
        },
        "docker" => Exporter::Docker {
            // Without a place it is what --load does.
            dest: match dest {
                None => OutputTarget::Program(loader(FLAG, env)?),
                Some(_) => target()?,
            },
            names,
            attrs,
        },
        "tar" => Exporter::Tar {
            dest: target()?,
            attrs,
        },
        "local" => Exporter::Local {
            dest: directory()?,
            attrs,
        },
        other => {
            let types = TYPES.join(", ");
            let hint = keys::hint(other, &TYPES);
            return Err(wrong(format!(
                "unknown type {other:?}: {types} are known{hint}"
            )));
        }
    };
    Ok(Some(exporter))
}

/// Keys in lower case. A word without a key is a folder, even with an equals sign in it.
fn attributes(text: &str) -> Result<BTreeMap<String, String>, UsageError> {
    let wrong = |problem: String| UsageError::new(FLAG, text, problem);
    let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    if text == "-" {
        return Ok([("type", "tar"), ("dest", "-")].map(pair).into());
    }
    let key = text
        .split_once('=')
        .map(|(key, _)| key.trim().to_lowercase());
    let is_folder = match key {
        None => !text.contains(','),
        Some(key) => !text.contains(',') && !keys::is_of_some_output(&key),
    };
    if is_folder {
        return Ok([("type", "local"), ("dest", text)].map(pair).into());
    }
    let mut attrs = BTreeMap::new();
    for (key, value) in csv::pairs(text).map_err(wrong)? {
        let value = value.ok_or_else(|| wrong(format!("{key:?} needs a value: {key}=...")))?;
        attrs.insert(key.trim().to_lowercase(), value);
    }
    Ok(attrs)
}
