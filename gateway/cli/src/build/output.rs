//! `--output`: where results go.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use gateway_solver::{Exporter, OutputTarget};

use super::csv;
use crate::error::UsageError;

/// One exporter for each `--output`; without any, the image store.
pub fn exporters(outputs: &[String], tags: &[String]) -> Result<Vec<Exporter>, UsageError> {
    if outputs.is_empty() {
        return Ok(vec![Exporter::ImageStore {
            names: tags.to_vec(),
            attrs: BTreeMap::new(),
        }]);
    }
    outputs
        .iter()
        .map(|output| exporter(output, tags))
        .collect()
}

fn exporter(text: &str, tags: &[String]) -> Result<Exporter, UsageError> {
    let wrong = |problem: String| UsageError::new("--output", text, problem);
    let mut attrs: BTreeMap<String, String> = BTreeMap::new();
    if text == "-" {
        attrs.insert("type".into(), "tar".into());
        attrs.insert("dest".into(), "-".into());
    } else if !text.contains('=') {
        attrs.insert("type".into(), "local".into());
        attrs.insert("dest".into(), text.into());
    } else {
        for (key, value) in csv::pairs(text).map_err(wrong)? {
            let value = value.ok_or_else(|| wrong(format!("{key:?} needs a value: {key}=...")))?;
            attrs.insert(key.trim().to_lowercase(), value);
        }
    }
    let kind = attrs
        .remove("type")
        .ok_or_else(|| wrong("no type: write type=oci, type=docker, type=image, ...".into()))?;
    let names = match attrs.remove("name") {
        Some(names) => names.split(',').map(str::to_owned).collect(),
        None => tags.to_vec(),
    };
    let dest = attrs.remove("dest").or_else(|| attrs.remove("output"));
    let target = || match dest.as_deref() {
        Some("-") | None if std::io::stdout().is_terminal() => Err(wrong(
            "refusing to write an archive to the terminal: add dest=FILE or redirect stdout".into(),
        )),
        Some("-") | None => Ok(OutputTarget::Stdout),
        Some(path) => Ok(OutputTarget::File(PathBuf::from(path))),
    };
    let directory = || {
        dest.as_deref()
            .filter(|dest| *dest != "-")
            .map(PathBuf::from)
            .ok_or_else(|| wrong("needs a directory: dest=DIR".into()))
    };
    match kind.as_str() {
        "image" | "moby" => Ok(Exporter::ImageStore { names, attrs }),
        "oci" if attrs.get("tar").is_some_and(|tar| tar == "false") => Ok(Exporter::Oci {
            dest: OutputTarget::Dir(directory()?),
            tar: false,
            names,
            attrs,
        }),
        "oci" => Ok(Exporter::Oci {
            dest: target()?,
            tar: true,
            names,
            attrs,
        }),
        "docker" => Ok(Exporter::Docker {
            dest: target()?,
            names,
            attrs,
        }),
        "tar" => Ok(Exporter::Tar {
            dest: target()?,
            attrs,
        }),
        "local" => Ok(Exporter::Local {
            dest: directory()?,
            attrs,
        }),
        other => Err(wrong(format!(
            "unknown type {other:?}: image, oci, docker, tar and local are known"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_output_means_the_image_store() {
        let tags = vec!["me/app".to_owned()];
        match exporters(&[], &tags).unwrap().as_slice() {
            [Exporter::ImageStore { names, .. }] => assert_eq!(*names, tags),
            _ => panic!("one image store exporter"),
        }
    }

    #[test]
    fn an_archive_is_named_by_its_own_name_or_the_tags() {
        let outputs = vec!["type=oci,dest=a.tar,name=other,compression=zstd".to_owned()];
        match exporters(&outputs, &["me/app".to_owned()])
            .unwrap()
            .as_slice()
        {
            [
                Exporter::Oci {
                    dest: OutputTarget::File(path),
                    names,
                    attrs,
                    ..
                },
            ] => {
                assert_eq!(path, &PathBuf::from("a.tar"));
                assert_eq!(*names, ["other"]);
                assert_eq!(attrs["compression"], "zstd");
            }
            _ => panic!("one archive"),
        }
    }

    #[test]
    fn a_bare_path_is_a_directory() {
        match exporters(&["out".to_owned()], &[]).unwrap().as_slice() {
            [Exporter::Local { dest, .. }] => assert_eq!(dest, &PathBuf::from("out")),
            _ => panic!("one directory"),
        }
    }

    #[test]
    fn an_unknown_type_is_refused_by_name() {
        let error = exporters(&["type=floppy,dest=a".to_owned()], &[]).unwrap_err();
        assert!(error.to_string().contains("floppy"), "{error}");
    }
}
