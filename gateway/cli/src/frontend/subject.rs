//! A frontend image to be looked at: from a registry, an OCI layout, or just made in the folder of its crate.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use gateway_images::archive::{Layout, NEVER};
use gateway_images::config::ImageConfig;
use gateway_images::layer::{Decoder, Kind, TarReader};
use gateway_images::media::{
    Descriptor, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest, ParsedManifest, RawManifest,
};
use gateway_images::platform::Platform;
use gateway_images::reference::Reference;
use gateway_images::registry::Registries;
use gateway_images::store::BlobStore;

use super::elf;
use crate::error::{CliError, UsageError};
use crate::registry::failed;

/// Labels that hosts read.
pub const LABEL_CAPS: &str = "moby.buildkit.frontend.caps";
pub const LABEL_NETWORK: &str = "moby.buildkit.frontend.network.none";
pub const LABEL_DETERMINISTIC: &str = "gateway.frontend.deterministic";
/// The version, on index and images.
pub const VERSION: &str = "org.opencontainers.image.version";
/// Where `gateway frontend build` leaves its layout, in the folder of the crate.
pub const LAYOUT_DIR: &str = "target/frontend-image";
const LAYOUT: &str = "oci:";
/// Largest program that is read to find out what it is.
const MAX_PROGRAM: u64 = 512 << 20;

const MANY: &str = "does not hold exactly one image: name one (oci:DIR:NAME)";

/// Where a frontend image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Registry(Reference),
    /// A directory, and a name in it.
    Layout(PathBuf, Option<String>),
}

impl Place {
    /// `oci:DIR[:NAME]`, a folder (of a crate that was built, or of a layout), or a reference.
    pub fn parse(text: &str) -> Result<Place, CliError> {
        if let Some(rest) = text.strip_prefix(LAYOUT) {
            let (dir, name) = match rest.split_once(':') {
                Some((dir, name)) => (dir, Some(name.to_owned())),
                None => (rest, None),
            };
            return Ok(Place::Layout(PathBuf::from(dir), name));
        }
        let dir = Path::new(text);
        if dir.join("index.json").is_file() {
            return Ok(Place::Layout(dir.to_owned(), None));
        }
        if dir.join("Cargo.toml").is_file() {
            let layout = dir.join(LAYOUT_DIR);
            return match layout.join("index.json").is_file() {
                true => Ok(Place::Layout(layout, None)),
                false => Err(CliError::Frontend(format!(
                    "{} has no frontend image yet: `gateway frontend build {text}` makes it",
                    dir.display()
                ))),
            };
        }
        let wrong = |e: gateway_images::reference::ReferenceError| {
            let problem =
                format!("neither a reference nor a folder with an OCI layout or a crate: {e}");
            UsageError::new("REF", text, problem)
        };
        Ok(Place::Registry(Reference::parse(text).map_err(wrong)?))
    }

    pub fn is_layout(&self) -> bool {
        matches!(self, Place::Layout(..))
    }

    pub fn shown(&self) -> String {
        match self {
            Place::Registry(reference) => reference.to_string(),
            Place::Layout(dir, None) => format!("{LAYOUT}{}", dir.display()),
            Place::Layout(dir, Some(name)) => format!("{LAYOUT}{}:{name}", dir.display()),
        }
    }
}

/// The image of one platform.
#[derive(Debug, Clone)]
pub struct PlatformImage {
    /// As the index says it, else as the config does.
    pub platform: Platform,
    pub descriptor: Descriptor,
    pub manifest: Manifest,
    pub config: ImageConfig,
}

/// A frontend image.
#[derive(Debug, Clone)]
pub struct Subject {
    pub shown: String,
    pub root: RawManifest,
    pub images: Vec<PlatformImage>,
}

fn broken(shown: &str, problem: &dyn std::fmt::Display) -> CliError {
    CliError::Frontend(format!("{shown}: {problem}"))
}

impl Subject {
    /// Looks at it; of a registry's image only manifests and configs are fetched.
    pub async fn look_at(registries: &Registries, place: &Place) -> Result<Subject, CliError> {
        let shown = place.shown();
        let wrong = |problem: &dyn std::fmt::Display| broken(&shown, problem);
        match place {
            Place::Registry(reference) => {
                let resolved = registries
                    .resolve(reference)
                    .await
                    .map_err(|e| failed(&e))?;
                for notice in &resolved.notices {
                    eprintln!("{notice}");
                }
                let mut images = Vec::new();
                for entry in entries(&resolved.root) {
                    let raw = match entry.digest == resolved.root.descriptor.digest {
                        true => resolved.root.clone(),
                        false => {
                            let raw = registries.manifest(reference, &entry).await;
                            raw.map_err(|e| failed(&e))?
                        }
                    };
                    let Some(manifest) = raw.image().cloned() else {
                        continue;
                    };
                    let bytes =
                        registries.small_blob(reference, &manifest.config, MAX_CONFIG_BYTES);
                    let bytes = bytes.await.map_err(|e| failed(&e))?;
                    images.push(image(entry, manifest, &bytes).map_err(|e| wrong(&e))?);
                }
                Ok(Subject {
                    shown,
                    root: resolved.root,
                    images,
                })
            }
            Place::Layout(..) => Subject::of_layout(place),
        }
    }

    /// Brings all of it into a store.
    pub async fn fetch(
        registries: &Registries,
        place: &Place,
        blobs: &BlobStore,
    ) -> Result<Subject, CliError> {
        let shown = place.shown();
        let wrong = |problem: &dyn std::fmt::Display| broken(&shown, problem);
        let top = match place {
            Place::Registry(reference) => {
                let resolved = registries
                    .resolve(reference)
                    .await
                    .map_err(|e| failed(&e))?;
                let fetched =
                    registries.fetch_whole(reference, &resolved.root, None, blobs, &|_, _| {});
                fetched.await.map_err(|e| failed(&e))?
            }
            Place::Layout(dir, name) => {
                let layout = Layout::open(dir).map_err(|e| wrong(&e))?;
                let found = layout.find(name.as_deref()).map_err(|e| wrong(&e))?;
                let top = found.ok_or_else(|| wrong(&MANY))?;
                layout.copy_all(blobs, &top, NEVER).map_err(|e| wrong(&e))?;
                top
            }
        };
        Subject::in_store(&shown, blobs, &top)
    }

    /// One in a layout.
    pub fn of_layout(place: &Place) -> Result<Subject, CliError> {
        let shown = place.shown();
        let wrong = |problem: &dyn std::fmt::Display| broken(&shown, problem);
        let Place::Layout(dir, name) = place else {
            return Err(wrong(&"is no layout"));
        };
        let store = tempfile::tempdir().map_err(CliError::Runtime)?;
        let blobs = BlobStore::open(store.path()).map_err(|e| wrong(&e))?;
        let layout = Layout::open(dir).map_err(|e| wrong(&e))?;
        let found = layout.find(name.as_deref()).map_err(|e| wrong(&e))?;
        let top = found.ok_or_else(|| wrong(&MANY))?;
        layout
            .copy_all(&blobs, &top, NEVER)
            .map_err(|e| wrong(&e))?;
        Subject::in_store(&shown, &blobs, &top)
    }

    fn in_store(shown: &str, blobs: &BlobStore, top: &Descriptor) -> Result<Subject, CliError> {
        let wrong = |problem: &dyn std::fmt::Display| broken(shown, problem);
        let read = |descriptor: &Descriptor| {
            let bytes = blobs
                .read(&descriptor.digest, MAX_MANIFEST_BYTES)
                .map_err(|e| wrong(&e))?;
            RawManifest::parse(bytes, Some(&descriptor.media_type)).map_err(|e| wrong(&e))
        };
        let root = read(top)?;
        let mut images = Vec::new();
        for entry in entries(&root) {
            let Some(manifest) = read(&entry)?.image().cloned() else {
                continue;
            };
            let bytes = blobs
                .read(&manifest.config.digest, MAX_CONFIG_BYTES)
                .map_err(|e| wrong(&e))?;
            images.push(image(entry, manifest, &bytes).map_err(|e| wrong(&e))?);
        }
        Ok(Subject {
            shown: shown.to_owned(),
            root,
            images,
        })
    }

    pub fn version(&self) -> Option<String> {
        let of_index = self
            .root
            .index()
            .and_then(|index| index.annotations.get(VERSION));
        let of_image = || self.images.first()?.config.config.labels.get(VERSION);
        of_index.or_else(of_image).cloned()
    }

    /// What would keep hosts from running it, of all its platforms, each with what to do.
    pub fn faults(&self, blobs: &BlobStore) -> Vec<String> {
        if self.images.is_empty() {
            return vec!["it holds no image at all".to_owned()];
        }
        self.images
            .iter()
            .filter_map(|image| {
                let fault = image.fault(blobs)?;
                Some(format!("{}: {fault}", image.platform))
            })
            .collect()
    }
}

/// The images of a manifest or index; attestations are none.
fn entries(root: &RawManifest) -> Vec<Descriptor> {
    match &root.parsed {
        ParsedManifest::Image(_) => vec![root.descriptor.clone()],
        ParsedManifest::Index(index) => {
            let images = index
                .manifests
                .iter()
                .filter(|entry| !entry.is_attestation());
            images.cloned().collect()
        }
    }
}

fn image(
    descriptor: Descriptor,
    manifest: Manifest,
    config: &[u8],
) -> Result<PlatformImage, gateway_images::config::ConfigError> {
    let config = ImageConfig::parse(config)?;
    let platform = descriptor
        .platform
        .clone()
        .unwrap_or_else(|| config.platform());
    Ok(PlatformImage {
        platform: platform.normalized(),
        descriptor,
        manifest,
        config,
    })
}

impl PlatformImage {
    /// Bytes of its layers, compressed.
    pub fn size(&self) -> u64 {
        self.manifest.layers.iter().map(|layer| layer.size).sum()
    }

    pub fn label(&self, key: &str) -> &str {
        self.config
            .config
            .labels
            .get(key)
            .map_or("", String::as_str)
    }

    pub fn caps(&self) -> Vec<&str> {
        let names = self.label(LABEL_CAPS).split(',');
        names
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect()
    }

    pub fn without_network(&self) -> bool {
        gateway_api::parse_bool(self.label(LABEL_NETWORK)) == Some(true)
    }

    /// Why hosts could not run it, if they could not.
    fn fault(&self, blobs: &BlobStore) -> Option<String> {
        let own = self.config.platform().normalized();
        if (&own.os, &own.architecture) != (&self.platform.os, &self.platform.architecture) {
            return Some(format!(
                "wrong platform: the image's own config says {own}. Build it again for this platform"
            ));
        }
        let entrypoint = self.config.config.entrypoint.as_deref().unwrap_or_default();
        let Some(program) = entrypoint.first() else {
            return Some(
                "it has no ENTRYPOINT, and hosts use neither CMD nor a shell. Write ENTRYPOINT [\"/frontend\"]".to_owned(),
            );
        };
        let bytes = match self.file(blobs, program) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                return Some(format!(
                    "its ENTRYPOINT {program} is not in the image. Copy the program there"
                ));
            }
            Err(problem) => return Some(problem),
        };
        // A script, or a link: its interpreter is the image's business.
        let program_is = elf::read(&bytes)?;
        if program_is.architecture != self.platform.architecture {
            return Some(format!(
                "wrong platform: {program} is a program for {}. Compile it for {}",
                program_is.architecture, self.platform.architecture
            ));
        }
        let interpreter = program_is.interpreter?;
        match self.file(blobs, &interpreter) {
            Ok(None) => Some(format!(
                "{program} is linked dynamically and needs {interpreter}, which is not in the image. \
                 Link it statically (for Rust: the target x86_64-unknown-linux-musl and its like)"
            )),
            _ => None,
        }
    }

    /// The content of a file in the topmost layer that has it; empty for what is no regular file.
    fn file(&self, blobs: &BlobStore, path: &str) -> Result<Option<Vec<u8>>, String> {
        let wanted = path.trim_start_matches('/');
        for layer in self.manifest.layers.iter().rev() {
            let read = || -> Result<Option<Vec<u8>>, Box<dyn std::error::Error>> {
                let mut archive = TarReader::new(Decoder::new(blobs.reader(&layer.digest)?)?);
                while let Some(entry) = archive.next_entry()? {
                    let name = String::from_utf8_lossy(&entry.name);
                    let name = name.trim_start_matches("./").trim_start_matches('/');
                    let mut content = Vec::new();
                    match (name == wanted, entry.kind) {
                        (true, Kind::File) => {
                            (&mut archive).take(MAX_PROGRAM).read_to_end(&mut content)?;
                            return Ok(Some(content));
                        }
                        (true, _) => return Ok(Some(content)),
                        // Below a link: not followed here, so nothing can be said against it.
                        (false, Kind::Symlink) if wanted.starts_with(&format!("{name}/")) => {
                            return Ok(Some(content));
                        }
                        _ => {}
                    }
                }
                Ok(None)
            };
            match read() {
                Ok(Some(content)) => return Ok(Some(content)),
                Ok(None) => {}
                Err(error) => {
                    return Err(format!(
                        "its layer {} cannot be read: {error}",
                        layer.digest
                    ));
                }
            }
        }
        Ok(None)
    }
}
