//! `gateway frontend publish`: an image for several platforms into registries, under the tags by which users follow it.

use std::path::{Path, PathBuf};

use clap::Args;
use gateway_images::reference::Reference;
use gateway_images::registry::{PushOptions, Registries};
use gateway_images::store::BlobStore;

use super::make::{Make, make};
use super::subject::{Place, Subject};
use crate::build::args::Build;
use crate::error::{CliError, UsageError};
use crate::registry::settings::RegistryArgs;
use crate::registry::{failed, with_registries};
use crate::text::print;

/// What users of today run on.
const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];
const LATEST: &str = "latest";

/// Publish a frontend image: all platforms under one name, with the tags that users follow.
///
/// A reference with a version (you/frontend:1.2.3), or without a tag (then the version of the crate), gets the tags
/// 1.2.3, 1.2, 1 and latest; one with another tag (you/frontend:nightly) only that. Logins are those of `gateway login`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gateway frontend publish you/frontend                 the crate here, for amd64 and arm64, to Docker Hub
  gateway frontend publish --dry-run you/frontend       only say what would be done
  gateway frontend publish --from oci:out registry.example/you/frontend:2.0.1
  gateway frontend publish --check example you/frontend build the example with what was published")]
pub struct Publish {
    /// Where to: one or more names in registries
    #[arg(value_name = "REF", required = true)]
    references: Vec<String>,

    /// Folder of a crate, which is built; or a layout: oci:DIR[:NAME]
    #[arg(long, value_name = "DIR|LAYOUT", default_value = ".")]
    from: String,

    /// Platforms to build the crate for [default: linux/amd64,linux/arm64]
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    platforms: Vec<String>,

    /// Only the tag itself, none of those that follow it
    #[arg(long)]
    no_channels: bool,

    /// Say what would be pushed, and push nothing
    #[arg(long)]
    dry_run: bool,

    /// Build this folder with the image that was published, by its digest, from an empty store
    #[arg(long, value_name = "DIR")]
    check: Option<PathBuf>,

    #[command(flatten)]
    registries: RegistryArgs,

    /// For cargo, e.g. -- --offline
    #[arg(last = true, value_name = "CARGO_FLAGS")]
    cargo: Vec<String>,
}

/// A version as tags have it, without a part before a release.
fn version(text: &str) -> Option<[u64; 3]> {
    let mut parts = text
        .split('.')
        .map(|part| match part.starts_with('0') && part.len() > 1 {
            true => None,
            false => part.parse().ok(),
        });
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

/// The tags of a reference: its own, and for a version those that follow it, the narrowest first.
fn tags(own: &str, channels: bool) -> Vec<String> {
    let mut tags = vec![own.to_owned()];
    if let (Some([major, minor, _]), true) = (version(own), channels) {
        tags.extend([
            format!("{major}.{minor}"),
            major.to_string(),
            LATEST.to_owned(),
        ]);
    }
    tags
}

pub fn run(args: &Publish) -> Result<(), CliError> {
    let references = args
        .references
        .iter()
        .map(|text| {
            let wrong = |problem: String| CliError::from(UsageError::new("REF", text, problem));
            let reference = Reference::parse(text).map_err(|e| wrong(e.to_string()))?;
            match reference.digest() {
                Some(_) => Err(wrong(
                    "a digest is what publishing gives: name a tag or none".into(),
                )),
                None => Ok((text, reference)),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    // Before anything is pushed.
    if let Some(sample) = args.check.as_deref().filter(|sample| !sample.is_dir()) {
        let problem = "is no folder".to_owned();
        return Err(UsageError::new("--check", sample.to_string_lossy(), problem).into());
    }
    let place = place(args)?;
    let dir = tempfile::tempdir().map_err(CliError::Runtime)?;
    let blobs = BlobStore::open(dir.path()).map_err(|e| CliError::Frontend(e.to_string()))?;
    let pinned = with_registries(&args.registries, |registries| async move {
        let subject = Subject::fetch(&registries, &place, &blobs).await?;
        let faults = subject.faults(&blobs);
        if !faults.is_empty() {
            return Err(CliError::Frontend(format!(
                "{} is not published, hosts could not run it:\n  {}",
                subject.shown,
                faults.join("\n  ")
            )));
        }
        let mut pinned = Vec::new();
        for (text, reference) in &references {
            pinned.push(push(args, &registries, &blobs, &subject, text, reference).await?);
        }
        Ok(pinned)
    })?;
    for line in &pinned {
        print(&format!("# syntax = {line}\n"));
    }
    match (&args.check, args.dry_run) {
        (Some(sample), false) => pinned
            .iter()
            .try_for_each(|pinned| check(args, sample, pinned)),
        _ => Ok(()),
    }
}

/// Where the image is; a crate is built first.
fn place(args: &Publish) -> Result<Place, CliError> {
    let dir = Path::new(&args.from);
    if !dir.join("Cargo.toml").is_file() {
        if !args.platforms.is_empty() {
            let problem = format!(
                "is what a crate is built for, and {} is none: an image is published for all platforms that it has",
                args.from
            );
            return Err(UsageError::new("--platform", args.platforms.join(","), problem).into());
        }
        return Place::parse(&args.from);
    }
    let order = Make {
        dir: dir.to_owned(),
        platforms: args.platforms.clone(),
        binaries: Vec::new(),
        labels: Vec::new(),
        output: None,
        cargo: args.cargo.clone(),
    };
    let (_, layout) = make(&order, &PLATFORMS)?;
    Ok(Place::Layout(layout, None))
}

/// Pushes under all tags; gives the name to paste.
async fn push(
    args: &Publish,
    registries: &Registries,
    blobs: &BlobStore,
    subject: &Subject,
    text: &str,
    reference: &Reference,
) -> Result<String, CliError> {
    // A tag that was written; `latest` is put where there is none.
    let written = text
        .rsplit('/')
        .next()
        .is_some_and(|last| last.contains(':'));
    let own = match (written, reference.tag(), subject.version()) {
        (false, _, Some(version)) => version,
        (_, Some(tag), _) => tag.to_owned(),
        (_, None, _) => LATEST.to_owned(),
    };
    let root = &subject.root.descriptor;
    let platforms: Vec<String> = subject
        .images
        .iter()
        .map(|image| image.platform.to_string())
        .collect();
    let mut first = None;
    for tag in tags(&own, !args.no_channels) {
        let target = reference
            .with_tag(&tag)
            .map_err(|e| UsageError::new("REF", text, e.to_string()))?;
        let newer = match tag == own {
            true => Ok(None),
            false => newer(registries, &target, &own).await,
        };
        let newer = match newer {
            // A dry run may come before the login and before the repository.
            Err(error) if args.dry_run => {
                eprintln!("note: what {target} is at now is not known: {error}");
                None
            }
            newer => newer?,
        };
        if let Some(newer) = newer {
            print(&format!(
                "{target} stays: it is at {newer}, which is newer\n"
            ));
            continue;
        }
        if args.dry_run {
            print(&format!(
                "would push {target}@{}  ({})\n",
                root.digest,
                platforms.join(", ")
            ));
        } else {
            let options = PushOptions {
                docker_if_oci_refused: false,
            };
            let pushed = registries
                .push_with(&target, root, blobs, options)
                .await
                .map_err(|e| failed(&e))?;
            for notice in &pushed.notices {
                eprintln!("{notice}");
            }
            print(&format!(
                "pushed {target}@{}  ({})\n",
                root.digest,
                platforms.join(", ")
            ));
        }
        first.get_or_insert(target);
    }
    // Users read the widest tag that is a version, and the digest decides.
    let shown = match version(&own).filter(|_| !args.no_channels) {
        Some([major, ..]) => reference.with_tag(&major.to_string()).ok(),
        None => first,
    };
    let shown = shown.unwrap_or_else(|| reference.clone());
    Ok(format!("{}@{}", shown.familiar(), root.digest))
}

/// The version that a tag is at, if that is a newer one than `own`.
async fn newer(
    registries: &Registries,
    target: &Reference,
    own: &str,
) -> Result<Option<String>, CliError> {
    let resolved = match registries.resolve(target).await {
        Ok(resolved) => resolved,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let annotations = resolved.root.index().map(|index| &index.annotations);
    let there = annotations
        .and_then(|all| all.get(super::subject::VERSION))
        .cloned();
    Ok(there.filter(|there| {
        version(there).is_some_and(|there| version(own).is_some_and(|own| there > own))
    }))
}

/// Builds a sample with what was published, as a user's first build would.
fn check(args: &Publish, sample: &Path, pinned: &str) -> Result<(), CliError> {
    let store = tempfile::tempdir().map_err(CliError::Runtime)?;
    let Ok(mut build) = Build::of_words([Path::new("--"), sample]) else {
        let problem = "is no folder".to_owned();
        return Err(UsageError::new("--check", sample.to_string_lossy(), problem).into());
    };
    build.root = Some(store.path().to_owned());
    build.registries = args.registries.clone();
    build.build_args = vec![format!("BUILDKIT_SYNTAX={pinned}")];
    build.outputs = vec!["type=cacheonly".to_owned()];
    crate::build::run(&build)?;
    print(&format!(
        "checked: {} builds with {pinned}\n",
        sample.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_followed_by_its_channels_and_other_tags_by_none() {
        assert_eq!(tags("1.2.3", true), ["1.2.3", "1.2", "1", "latest"]);
        assert_eq!(tags("0.1.0", true), ["0.1.0", "0.1", "0", "latest"]);
        for other in [
            "1.2.3-rc.1",
            "1.2",
            "nightly",
            "latest",
            "v1.2.3",
            "01.2.3",
            "1.2.3.4",
        ] {
            assert_eq!(tags(other, true), [other]);
        }
        assert_eq!(tags("1.2.3", false), ["1.2.3"]);
        assert!(version("1.10.0") > version("1.9.9"));
    }
}
