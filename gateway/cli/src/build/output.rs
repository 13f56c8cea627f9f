//! `--output`: where results go.

mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gateway_images::reference::Reference;
use gateway_solver::{CacheDestination, CacheExport, Exporter, OutputTarget};

use crate::build::args::Build;
use crate::environment::Environment;
use crate::error::UsageError;

/// Types of `--annotation`; what has none is for manifests.
const ANNOTATION_TYPES: [&str; 4] = [
    "manifest",
    "index",
    "manifest-descriptor",
    "index-descriptor",
];
/// Consent to outputs with `mode=delete` that are not below the current directory: a word of `--allow` that the
/// engine never hears of.
pub const LOCAL_DELETE: &str = "buildx.local.delete";

/// One exporter for each `--output`, `--push` and `--load`; without any, the image store.
/// `notes` gets what has no effect.
pub fn exporters(
    args: &Build,
    env: &Environment,
    notes: &mut Vec<String>,
) -> Result<Vec<Exporter>, UsageError> {
    for tag in &args.tags {
        if let Err(error) = Reference::parse(tag) {
            let problem = format!("{error}: names are like registry.example/team/app:1.2");
            return Err(UsageError::new("--tag", tag, problem));
        }
    }
    let mut exporters = Vec::new();
    for output in &args.outputs {
        let given = value::exporter(output, &args.tags, env, notes)?;
        if let Some(Exporter::Local { dest, attrs }) = &given
            && attrs.get("mode").is_some_and(|mode| mode == "delete")
            && !args.allow.iter().any(|word| word == LOCAL_DELETE)
            && !is_below_current_dir(dest)
        {
            let problem = format!(
                "mode=delete deletes whatever else is there, and {} is not below the current directory: \
                 say --allow {LOCAL_DELETE} if that is meant",
                dest.display()
            );
            return Err(UsageError::new("--output", output, problem));
        }
        exporters.extend(given);
    }
    if args.push {
        let mut pushes = false;
        for exporter in &mut exporters {
            if let Exporter::ImageStore { attrs, .. } = exporter {
                attrs.insert("push".into(), "true".into());
                pushes = true;
            }
        }
        if !pushes {
            exporters.extend(value::exporter("type=registry", &args.tags, env, notes)?);
        }
    }
    let loads = |exporter: &Exporter| {
        matches!(
            exporter,
            Exporter::Docker {
                dest: OutputTarget::Program(_),
                ..
            }
        )
    };
    if args.load && !exporters.iter().any(loads) {
        exporters.push(Exporter::Docker {
            dest: OutputTarget::Program(value::loader("--load", env)?),
            names: args.tags.clone(),
            attrs: BTreeMap::new(),
        });
    }
    if exporters.is_empty() && args.outputs.is_empty() {
        exporters.extend(value::exporter("type=image", &args.tags, env, notes)?);
    }
    let streams = exporters.iter().filter(|exporter| goes_to_stdout(exporter));
    if streams.count() > 1 {
        let problem = "two outputs cannot both go to stdout: give one a file, dest=FILE".to_owned();
        return Err(UsageError::new("--output", "", problem));
    }
    if args.iidfile.is_some()
        && !exporters.is_empty()
        && exporters
            .iter_mut()
            .all(|exporter| image_attrs(exporter).is_none())
    {
        let problem = "files have no image id: leave it out, or add an output that is an image";
        return Err(UsageError::new("--iidfile", "", problem.into()));
    }
    if args.push && exporters.iter().any(pushes_nothing) {
        let problem = "the image has no name to push it to: --tag REGISTRY/NAME".to_owned();
        return Err(UsageError::new("--push", "", problem));
    }
    for (key, value) in annotations(&args.annotations)? {
        for attrs in exporters.iter_mut().filter_map(image_attrs) {
            attrs.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    Ok(exporters)
}

/// Pushed, and by no name.
fn pushes_nothing(exporter: &Exporter) -> bool {
    matches!(exporter, Exporter::ImageStore { names, attrs } if names.is_empty()
        && attrs.get("push").is_some_and(|push| push == "true"))
}

/// The time that the frontend was given is also the exporters', unless they have one of their own.
pub fn set_epoch(exporters: &mut [Exporter], opts: &BTreeMap<String, String>) {
    let Some(epoch) = opts
        .get("build-arg:SOURCE_DATE_EPOCH")
        // The frontend knows more forms than a number and says itself what it made of them.
        .filter(|text| text.parse::<i64>().is_ok())
    else {
        return;
    };
    for exporter in exporters {
        let attrs = match exporter {
            Exporter::ImageStore { attrs, .. }
            | Exporter::Oci { attrs, .. }
            | Exporter::Docker { attrs, .. }
            | Exporter::Tar { attrs, .. }
            | Exporter::Local { attrs, .. }
            | Exporter::Files { attrs, .. } => attrs,
        };
        attrs
            .entry("source-date-epoch".into())
            .or_insert_with(|| epoch.clone());
    }
}

fn image_attrs(exporter: &mut Exporter) -> Option<&mut BTreeMap<String, String>> {
    match exporter {
        Exporter::ImageStore { attrs, .. }
        | Exporter::Oci { attrs, .. }
        | Exporter::Docker { attrs, .. } => Some(attrs),
        Exporter::Tar { .. } | Exporter::Local { .. } | Exporter::Files { .. } => None,
    }
}

/// `[TYPE[PLATFORM]:]KEY=VALUE` as attributes of image exporters: `annotation-TYPE[PLATFORM].KEY`.
fn annotations(texts: &[String]) -> Result<Vec<(String, String)>, UsageError> {
    let mut found = Vec::new();
    for text in texts {
        let wrong = |problem: &str| UsageError::new("--annotation", text, problem.to_owned());
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| wrong("write KEY=VALUE or TYPE:KEY=VALUE"))?;
        let (places, key) = name.split_once(':').unwrap_or(("manifest", name));
        if key.is_empty() {
            return Err(wrong("no key"));
        }
        for place in places.split(',') {
            let kind = place.split('[').next().unwrap_or_default();
            if !ANNOTATION_TYPES.contains(&kind) || place.contains('[') != place.ends_with(']') {
                return Err(wrong(&format!(
                    "unknown type {place:?}: {} are known, with [PLATFORM] behind if for one only",
                    ANNOTATION_TYPES.join(", ")
                )));
            }
            found.push((format!("annotation-{place}.{key}"), value.to_owned()));
        }
    }
    Ok(found)
}

/// Whether stdout has a result, and nothing else may be written there.
pub fn goes_to_stdout(exporter: &Exporter) -> bool {
    matches!(
        exporter,
        Exporter::Oci {
            dest: OutputTarget::Stdout,
            ..
        } | Exporter::Docker {
            dest: OutputTarget::Stdout,
            ..
        } | Exporter::Tar {
            dest: OutputTarget::Stdout,
            ..
        }
    )
}

/// Below, not the same; links are followed as far as there is something.
fn is_below_current_dir(dir: &Path) -> bool {
    let Ok(current) = std::env::current_dir().and_then(std::fs::canonicalize) else {
        return false;
    };
    let dir = current.join(dir);
    let existing = dir.ancestors().find_map(|ancestor| {
        let rest = dir.strip_prefix(ancestor).ok()?;
        Some((std::fs::canonicalize(ancestor).ok()?, rest))
    });
    let Some((existing, rest)) = existing else {
        return false;
    };
    // What does not exist yet can still lead upwards.
    let leads_up = rest
        .components()
        .any(|part| matches!(part, std::path::Component::ParentDir));
    let whole = existing.join(rest);
    !leads_up && whole.starts_with(&current) && whole != current
}

/// Files and folders that results go to.
pub fn places(exporters: &[Exporter], caches: &[CacheExport]) -> Vec<PathBuf> {
    let of_target = |dest: &OutputTarget| match dest {
        OutputTarget::File(path) | OutputTarget::Dir(path) => Some(path.clone()),
        OutputTarget::Stdout | OutputTarget::Program(_) | OutputTarget::Client(_) => None,
    };
    let exported = exporters.iter().filter_map(|exporter| match exporter {
        Exporter::Oci { dest, .. } | Exporter::Docker { dest, .. } | Exporter::Tar { dest, .. } => {
            of_target(dest)
        }
        Exporter::Local { dest, .. } => Some(dest.clone()),
        Exporter::ImageStore { .. } | Exporter::Files { .. } => None,
    });
    let cached = caches.iter().filter_map(|cache| match &cache.to {
        CacheDestination::Local { dest, .. } => Some(dest.clone()),
        _ => None,
    });
    exported.chain(cached).collect()
}

#[cfg(test)]
mod tests {

    use super::*;

    fn parsed(flags: &[&str]) -> Result<Vec<Exporter>, UsageError> {
        let build = Build::of_words(flags.iter().chain(&["."])).unwrap();
        exporters(&build, &Environment::new(), &mut Vec::new())
    }

    fn noted(flags: &[&str]) -> String {
        let build = Build::of_words(flags.iter().chain(&["."])).unwrap();
        let mut notes = Vec::new();
        exporters(&build, &Environment::new(), &mut notes).unwrap();
        notes.join("\n")
    }

    fn attrs(exporter: &mut Exporter) -> BTreeMap<String, String> {
        image_attrs(exporter).unwrap().clone()
    }

    #[test]
    fn no_output_means_the_image_store() {
        match parsed(&["-t", "me/app"]).unwrap().as_slice() {
            [Exporter::ImageStore { names, attrs }] => {
                assert_eq!(*names, ["me/app"]);
                assert!(attrs.is_empty());
            }
            _ => panic!("one image store exporter"),
        }
        assert!(parsed(&["-o", "type=cacheonly"]).unwrap().is_empty());
    }

    #[test]
    fn push_adds_a_registry_or_pushes_the_image_that_is_made_anyway() {
        let mut alone = parsed(&["--push", "-t", "a", "-o", "out"]).unwrap();
        assert_eq!(alone.len(), 2);
        assert_eq!(attrs(&mut alone[1])["store"], "false");
        let mut image = parsed(&["--push", "-t", "a", "-o", "type=image"]).unwrap();
        assert_eq!(image.len(), 1);
        assert_eq!(attrs(&mut image[0])["push"], "true");
    }

    #[test]
    fn names_are_looked_at_before_anything_is_built() {
        for (flags, part) in [
            (&["-t", "Foo:bar"][..], "must be lowercase"),
            (&["--push"], "--tag REGISTRY/NAME"),
        ] {
            let error = parsed(flags).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn annotations_are_attributes_of_every_image() {
        let flags = [
            "--annotation",
            "manifest,index[linux/amd64]:k=v=1",
            "--annotation",
            "l=w",
        ];
        let mut exporters =
            parsed(&[&flags[..], &["-o", "out", "-o", "type=image"]].concat()).unwrap();
        let expected = [
            ("annotation-index[linux/amd64].k", "v=1"),
            ("annotation-manifest.k", "v=1"),
            ("annotation-manifest.l", "w"),
        ];
        let expected: BTreeMap<_, _> = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(attrs(&mut exporters[1]), expected);
        for wrong in ["k", "=v", "layer:k=v", "manifest[linux:k=v"] {
            let error = parsed(&["--annotation", wrong]).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }

    #[test]
    fn loading_needs_a_program_that_loads() {
        let error = parsed(&["--load"]).unwrap_err();
        assert!(
            error.to_string().contains("type=docker,dest=FILE"),
            "{error}"
        );
    }

    #[test]
    fn a_number_of_seconds_is_the_time_of_every_output() {
        let mut exporters =
            parsed(&["-o", "type=image", "-o", "type=image,source-date-epoch=5"]).unwrap();
        let opts = |value: &str| {
            BTreeMap::from([("build-arg:SOURCE_DATE_EPOCH".to_owned(), value.to_owned())])
        };
        set_epoch(&mut exporters, &opts("context"));
        assert!(attrs(&mut exporters[0]).is_empty());
        set_epoch(&mut exporters, &opts("7"));
        assert_eq!(attrs(&mut exporters[0])["source-date-epoch"], "7");
        assert_eq!(attrs(&mut exporters[1])["source-date-epoch"], "5");
    }

    #[test]
    fn an_archive_is_named_by_the_tags_or_its_own_name() {
        let output = "type=oci,dest=a.tar,name=other,compression=zstd";
        assert_eq!(
            noted(&["-t", "me/app", "-o", output]),
            "--output \"type=oci,dest=a.tar,name=other,compression=zstd\": name has no effect beside --tag"
        );
        let named = parsed(&["-t", "me/app", "-o", output]).unwrap();
        assert!(matches!(&named[..], [Exporter::Oci { names, .. }] if names == &["me/app"]));
        let flags = ["-o", output];
        match parsed(&flags).unwrap().as_slice() {
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
        match parsed(&["-o", "out"]).unwrap().as_slice() {
            [Exporter::Local { dest, .. }] => assert_eq!(dest, &PathBuf::from("out")),
            _ => panic!("one directory"),
        }
    }

    #[test]
    fn the_current_directory_is_not_cleaned_up() {
        for dest in [".", "/", "..", "a/../..", "/tmp"] {
            let output = format!("type=local,mode=delete,dest={dest}");
            let error = parsed(&["-o", &output]).unwrap_err().to_string();
            assert!(error.contains("--allow buildx.local.delete"), "{error}");
            assert!(parsed(&["-o", &output, "--allow", "buildx.local.delete"]).is_ok());
        }
        for dest in ["no-such-dir", "src", "no/such/dir"] {
            let output = format!("type=local,mode=delete,dest={dest}");
            assert!(parsed(&["-o", &output]).is_ok(), "{dest}");
        }
    }

    #[test]
    fn a_folder_may_have_a_name_like_a_value_but_not_like_a_key() {
        match parsed(&["-o", "out/v=1"]).unwrap().as_slice() {
            [Exporter::Local { dest, .. }] => assert_eq!(dest, &PathBuf::from("out/v=1")),
            _ => panic!("one directory"),
        }
        let error = parsed(&["-o", "dest=out"]).unwrap_err().to_string();
        assert!(error.contains("no type"), "{error}");
    }

    #[test]
    fn places_that_cannot_take_a_result_are_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let (dir, file) = (dir.path().display(), file.display());
        for (output, part) in [
            (format!("type=oci,dest={dir}"), "is a directory"),
            (format!("type=local,dest={file}"), "is no directory"),
            (format!("{file}"), "is no directory"),
            ("type=local,dest=-".to_owned(), "dest=DIR"),
        ] {
            let error = parsed(&["-o", &output]).unwrap_err().to_string();
            assert!(error.contains(part), "{output}: {error}");
        }
        let twice = ["-o", "type=oci,dest=-", "-o", "type=tar,dest=-"];
        let error = parsed(&twice).unwrap_err().to_string();
        assert!(error.contains("both go to stdout"), "{error}");
    }

    #[test]
    fn an_image_id_needs_an_image() {
        let error = parsed(&["--iidfile", "f", "-o", "out"]).unwrap_err();
        assert!(error.to_string().starts_with("--iidfile: "), "{error}");
        assert!(parsed(&["--iidfile", "f", "-o", "out", "-o", "type=image"]).is_ok());
        assert!(parsed(&["--iidfile", "f", "-o", "type=cacheonly"]).is_ok());
    }

    #[test]
    fn docker_without_a_place_is_loaded_as_by_load() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("docker");
        std::fs::write(&program, "").unwrap();
        std::fs::set_permissions(
            &program,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let env = Environment::from([("PATH".to_owned(), dir.path().display().to_string())]);
        for flags in [
            &["--output=type=docker", "."][..],
            &["--load", "."],
            &["--load", "--output=type=docker", "."],
        ] {
            let build = Build::of_words(flags).unwrap();
            match exporters(&build, &env, &mut Vec::new()).unwrap().as_slice() {
                [
                    Exporter::Docker {
                        dest: OutputTarget::Program(line),
                        ..
                    },
                ] => {
                    assert_eq!(line, &[program.display().to_string(), "load".to_owned()]);
                }
                _ => panic!("{flags:?}: one image that is loaded"),
            }
        }
        match parsed(&["-o", "type=docker,tar=false,dest=layout"])
            .unwrap()
            .as_slice()
        {
            [
                Exporter::Oci {
                    tar: false, attrs, ..
                },
            ] => assert!(!attrs.contains_key("dest")),
            _ => panic!("a layout"),
        }
    }

    #[test]
    fn an_unknown_type_is_refused_by_name() {
        let error = parsed(&["-o", "type=floppy,dest=a"]).unwrap_err();
        assert!(error.to_string().contains("floppy"), "{error}");
    }
}
