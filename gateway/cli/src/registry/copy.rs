//! `gateway copy`: an image from any place to any other: registries, the image store, OCI layouts, archives.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use gateway_images::archive::{
    ArchiveLimits, Layout, Variant, read_archive, write_archive, write_layout,
};
use gateway_images::media::{Descriptor, MAX_MANIFEST_BYTES, ParsedManifest, RawManifest};
use gateway_images::platform::Platform;
use gateway_images::reference::Reference;
use gateway_images::registry::{PushOptions, Registries, RegistrySource};
use gateway_images::store::BlobStore;
use gateway_solver::{OutputTarget, Solver, write_to};
use tokio_util::sync::CancellationToken;

use super::{failed, platform, reference};
use crate::error::{CliError, UsageError};
use crate::store::{StoreArgs, blocking, with_store};
use crate::text::print;

/// Copy an image from one place to another.
#[derive(Debug, Args)]
#[command(after_help = "\
A place is one of:
  docker://REF, or REF        a registry
  store:NAME                  the image store
  oci:DIR[:TAG]               a folder in OCI's layout
  oci-archive:FILE[:TAG]      the same as a tar file
  docker-archive:FILE[:NAME]  what `docker save` writes

Examples:
  gateway copy alpine:3 registry.example/mirror/alpine:3
  gateway copy --platform linux/arm64 alpine:3 oci-archive:alpine.tar
  gateway copy oci:out:latest store:me/app")]
pub struct Copy {
    #[arg(value_name = "FROM")]
    from: String,

    #[arg(value_name = "TO")]
    to: String,

    /// Only the image of this platform; without it all that the name stands for
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,

    /// Fail rather than change the digest, where a registry refuses OCI media types
    #[arg(long)]
    preserve_digest: bool,

    #[command(flatten)]
    store: StoreArgs,
}

/// Where an image is or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Registry(Reference),
    Store(String),
    Layout(PathBuf, Option<String>),
    OciArchive(PathBuf, Option<String>),
    DockerArchive(PathBuf, Option<String>),
}

impl Place {
    fn parse(text: &str) -> Result<Place, CliError> {
        let file = |rest: &str| -> Result<(PathBuf, Option<String>), CliError> {
            let (path, name) = match rest.split_once(':') {
                Some((path, name)) if !name.is_empty() => (path, Some(name.to_owned())),
                Some((path, _)) => (path, None),
                None => (rest, None),
            };
            match path.is_empty() {
                true => Err(UsageError::new("copy", text, "names no file".into()).into()),
                false => Ok((PathBuf::from(path), name)),
            }
        };
        if let Some(rest) = text.strip_prefix("docker://") {
            return Ok(Place::Registry(reference(rest)?));
        }
        Ok(match text.split_once(':') {
            Some(("store", name)) => Place::Store(name.to_owned()),
            Some(("oci", rest)) => file(rest).map(|(path, name)| Place::Layout(path, name))?,
            Some(("oci-archive", rest)) => {
                file(rest).map(|(path, name)| Place::OciArchive(path, name))?
            }
            Some(("docker-archive", rest)) => {
                file(rest).map(|(path, name)| Place::DockerArchive(path, name))?
            }
            _ => Place::Registry(reference(text)?),
        })
    }
}

pub fn run(args: &Copy) -> Result<(), CliError> {
    let (from, to) = (Place::parse(&args.from)?, Place::parse(&args.to)?);
    let only = match &args.platform {
        Some(text) => Some(platform(Some(text))?),
        None => None,
    };
    let options = PushOptions {
        docker_if_oci_refused: !args.preserve_digest,
    };
    with_store(&args.store, async |solver, cancel| {
        let line = copy(&solver, from, to, only.as_ref(), options, &cancel).await?;
        for notice in solver.registries().take_notices() {
            eprintln!("{notice}");
        }
        print(&format!("{line}\n"));
        Ok(())
    })
}

async fn copy(
    solver: &Solver,
    from: Place,
    to: Place,
    only: Option<&Platform>,
    options: PushOptions,
    cancel: &CancellationToken,
) -> Result<String, CliError> {
    let registries = solver.registries();
    // From registry to registry nothing is written here.
    if let (Place::Registry(from), Place::Registry(to)) = (&from, &to) {
        let resolved = registries.resolve(from).await.map_err(|e| failed(&e))?;
        for notice in &resolved.notices {
            eprintln!("{notice}");
        }
        let mut root = resolved.root;
        if let (Some(platform), ParsedManifest::Index(_)) = (only, &root.parsed) {
            let resolved = gateway_images::registry::Resolved {
                reference: from.clone(),
                root,
                host: resolved.host,
                notices: Vec::new(),
            };
            let image = registries.image_of(resolved, platform).await;
            root = image.map_err(|e| failed(&e))?.manifest;
        }
        let source = RegistrySource::new(registries.clone(), from.clone(), &root);
        let pushed = registries
            .push_with(to, &root.descriptor, &source, options)
            .await;
        let pushed = pushed.map_err(|e| failed(&e))?;
        for notice in &pushed.notices {
            eprintln!("{notice}");
        }
        return Ok(pushed.reference.to_string());
    }
    // The store takes part only where it is named; other copies go through a folder of their own.
    let through = tempfile::tempdir().map_err(|source| CliError::Write {
        path: std::env::temp_dir(),
        source,
    })?;
    let own = matches!(to, Place::Store(_));
    let mut blobs = match own {
        true => solver.image_blobs(),
        false => BlobStore::open(through.path()).map_err(|e| problem(&e))?,
    };
    let (top, name) = match from {
        Place::Store(name) => {
            let found = solver.find_image(&name);
            let (name, top, held) = found.map_err(|e| CliError::Image(Box::new(e)))?;
            blobs = held;
            (choose(&blobs, top, only)?, Some(name))
        }
        from => bring(registries, &blobs, from, only, cancel).await?,
    };
    match to {
        Place::Registry(to) => {
            let pushed = registries.push_with(&to, &top, &blobs, options).await;
            let pushed = pushed.map_err(|e| failed(&e))?;
            for notice in &pushed.notices {
                eprintln!("{notice}");
            }
            Ok(pushed.reference.to_string())
        }
        Place::Store(name) => {
            let name = reference(&name)?;
            solver
                .name_image(&name, &top)
                .map_err(|e| CliError::Image(Box::new(e)))?;
            Ok(name.with_digest(top.digest).to_string())
        }
        Place::Layout(dir, tag) => {
            let names = names(tag.as_deref(), name.as_ref())?;
            std::fs::create_dir_all(&dir).map_err(|source| CliError::Write {
                path: dir.clone(),
                source,
            })?;
            let cancel = cancel.clone();
            blocking(move || {
                let written = write_layout(&blobs, &top, &names, &dir, &|| cancel.is_cancelled());
                written.map_err(|e| problem(&e))?;
                Ok::<_, CliError>(format!("oci:{}@{}", dir.display(), top.digest))
            })
            .await
        }
        Place::OciArchive(file, tag) => {
            let names = names(tag.as_deref(), name.as_ref())?;
            archive(blobs, top, names, Variant::Oci, file, cancel).await
        }
        Place::DockerArchive(file, tag) => {
            let names = names(tag.as_deref(), name.as_ref())?;
            archive(blobs, top, names, Variant::Docker, file, cancel).await
        }
    }
}

/// Brings an image into `blobs`. Gives its name besides, when it has one.
async fn bring(
    registries: &Registries,
    blobs: &BlobStore,
    from: Place,
    only: Option<&Platform>,
    cancel: &CancellationToken,
) -> Result<(Descriptor, Option<Reference>), CliError> {
    let (held, stopped) = (blobs.clone(), cancel.clone());
    let top = match from {
        Place::Registry(from) => {
            let resolved = registries.resolve(&from).await.map_err(|e| failed(&e))?;
            for notice in &resolved.notices {
                eprintln!("{notice}");
            }
            let top = registries
                .fetch_whole(&from, &resolved.root, only, blobs, &|_, _| {})
                .await
                .map_err(|e| failed(&e))?;
            return Ok((top, Some(from)));
        }
        Place::Store(name) => return Err(no_such(Path::new(&name), None)),
        Place::Layout(dir, tag) => {
            let brought = move || {
                let layout = Layout::open(&dir).map_err(|e| problem_of(&dir, &e))?;
                let top = layout.find(tag.as_deref());
                let top = top.map_err(|e| problem_of(&dir, &e))?;
                let top = top.ok_or_else(|| no_such(&dir, tag.as_deref()))?;
                let copied = layout.copy_all(&held, &top, &|| stopped.is_cancelled());
                copied.map_err(|e| problem_of(&dir, &e))?;
                Ok::<_, CliError>(top)
            };
            blocking(brought).await?
        }
        Place::OciArchive(file, tag) | Place::DockerArchive(file, tag) => {
            let brought = move || of_archive(&held, &file, tag.as_deref(), &stopped);
            blocking(brought).await?
        }
    };
    Ok((choose(blobs, top, only)?, None))
}

fn of_archive(
    blobs: &BlobStore,
    file: &Path,
    tag: Option<&str>,
    cancel: &CancellationToken,
) -> Result<Descriptor, CliError> {
    let opened = File::open(file).map_err(|source| CliError::ConfigFile {
        path: file.to_owned(),
        source,
    })?;
    let reader = std::io::BufReader::new(Until(opened, cancel));
    let loaded = read_archive(blobs, reader, &ArchiveLimits::default());
    let mut loaded = loaded.map_err(|e| problem_of(file, &e))?;
    if let Some(tag) = tag {
        let full = Reference::parse(tag)
            .map(|r| r.to_string())
            .unwrap_or_default();
        loaded.retain(|image| {
            image
                .names
                .iter()
                .any(|n| n == tag || *n == full || has_tag(n, tag))
        });
    }
    match (loaded.pop(), loaded.is_empty()) {
        (Some(image), true) => Ok(image.descriptor),
        _ => Err(no_such(file, tag)),
    }
}

/// A file that ends with an error once nobody wants it any more.
struct Until<'a>(File, &'a CancellationToken);

impl std::io::Read for Until<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self.1.is_cancelled() {
            true => Err(std::io::Error::other("cancelled")),
            false => self.0.read(into),
        }
    }
}

/// An archive's entry may be named in full where its tag alone is asked for.
fn has_tag(name: &str, tag: &str) -> bool {
    name.rsplit_once(':').is_some_and(|(_, own)| own == tag)
}

/// The one image of an index, when one is wanted.
fn choose(
    blobs: &BlobStore,
    top: Descriptor,
    only: Option<&Platform>,
) -> Result<Descriptor, CliError> {
    let mut top = top;
    // Indexes in indexes: real ones have one level.
    for _ in 0..4 {
        let Some(platform) = only else {
            break;
        };
        let bytes = blobs
            .read(&top.digest, MAX_MANIFEST_BYTES)
            .map_err(|e| problem(&e))?;
        let raw = RawManifest::parse(bytes, Some(&top.media_type)).map_err(|e| problem(&e))?;
        let ParsedManifest::Index(index) = raw.parsed else {
            break;
        };
        top = platform
            .choose(&index.manifests)
            .map_err(|e| problem(&e))?
            .clone();
    }
    Ok(top)
}

fn names(tag: Option<&str>, known: Option<&Reference>) -> Result<Vec<Reference>, CliError> {
    match (tag, known) {
        (Some(tag), Some(known)) if !tag.contains(['/', ':']) => {
            let named = known.with_tag(tag);
            Ok(vec![named.map_err(|e| {
                UsageError::new("copy", tag, e.to_string())
            })?])
        }
        (Some(tag), None) if !tag.contains(['/', ':']) => {
            // A layout knows tags only; this name is cut off again.
            Ok(vec![reference(&format!("image:{tag}"))?])
        }
        (Some(name), _) => Ok(vec![reference(name)?]),
        (None, Some(known)) => Ok(vec![known.clone()]),
        (None, None) => Ok(Vec::new()),
    }
}

/// Appears when it is complete.
async fn archive(
    blobs: BlobStore,
    top: Descriptor,
    names: Vec<Reference>,
    variant: Variant,
    file: PathBuf,
    cancel: &CancellationToken,
) -> Result<String, CliError> {
    let cancel = cancel.clone();
    blocking(move || {
        let shown = format!("{}@{}", file.display(), top.digest);
        let dest = OutputTarget::File(file);
        let written = write_to(&dest, &cancel, |out| {
            let written = write_archive(&blobs, &top, &names, variant, out);
            written.map_err(|error| gateway_api::Error::unknown(error.to_string()))
        });
        written.map_err(|e| CliError::Image(Box::new(e)))?;
        Ok::<_, CliError>(shown)
    })
    .await
}

fn no_such(path: &Path, name: Option<&str>) -> CliError {
    let problem = match name {
        Some(name) => format!("holds no image named {name:?}"),
        None => "does not hold exactly one image: name one".to_owned(),
    };
    CliError::Layout {
        path: path.to_owned(),
        problem,
    }
}

fn problem(error: &dyn std::error::Error) -> CliError {
    CliError::Copy(error.to_string())
}

/// The same of a folder or file that the user named.
fn problem_of(path: &Path, error: &dyn std::error::Error) -> CliError {
    CliError::Copy(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_6_places_are_told_apart_by_their_prefix() {
        let registry = |text: &str| Place::Registry(Reference::parse(text).unwrap());
        for (text, place) in [
            ("alpine:3", registry("alpine:3")),
            ("docker://h.example:5000/x", registry("h.example:5000/x")),
            ("store:me/app:1", Place::Store("me/app:1".into())),
            (
                "oci:out:latest",
                Place::Layout("out".into(), Some("latest".into())),
            ),
            ("oci-archive:a.tar", Place::OciArchive("a.tar".into(), None)),
            (
                "docker-archive:a.tar:me/app:1",
                Place::DockerArchive("a.tar".into(), Some("me/app:1".into())),
            ),
        ] {
            assert_eq!(Place::parse(text).unwrap(), place, "{text}");
        }
        assert!(Place::parse("oci::x").is_err());
        assert!(Place::parse("Upper").is_err());
    }
}
