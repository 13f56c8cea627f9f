//! Whether the store is what it says: every blob read and hashed, every row compared with the disk.
//!
//! Runs beside builds. A damaged blob is set aside, so that the next build fetches or makes it again.

use std::path::Path;

use gateway_images::digest::Digest;
use gateway_images::fail_point::fail_point;
use gateway_images::store::Collector;

use super::{Store, layer_lease, layer_name, new_id};
use crate::error::SolverError;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// A blob's digest, a layer's id, an image's name, or `metadata`.
    pub what: String,
    pub problem: String,
    /// It was put where no build finds it.
    pub set_aside: bool,
}

/// What was looked at and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub blobs: usize,
    /// Of blobs, all of which were read.
    pub bytes: u64,
    pub layers: usize,
    pub images: usize,
    pub damage: Vec<Damage>,
    /// What killed processes may leave and the next collection removes: no damage.
    pub leftovers: usize,
}

/// Checks everything.
///
/// # Errors
/// When the metadata cannot be read at all.
pub fn verify(store: &Store) -> Result<VerifyReport, SolverError> {
    // As a user: nothing goes while it is being read.
    let store = store.for_user();
    let mut report = VerifyReport::default();
    metadata(&store, &mut report)?;
    blobs(&store, &mut report);
    layers(&store, &mut report)?;
    images(&store, &mut report)?;
    Ok(report)
}

fn metadata(store: &Store, report: &mut VerifyReport) -> Result<(), SolverError> {
    for problem in store.db().integrity()? {
        report.damage.push(Damage {
            what: "metadata".to_owned(),
            problem,
            set_aside: false,
        });
    }
    Ok(())
}

fn blobs(store: &Store, report: &mut VerifyReport) {
    for digest in store.blobs().list().unwrap_or_default() {
        let problem = match store.blobs().check(&digest) {
            // Removed meanwhile.
            Ok(None) => continue,
            Ok(Some(true)) => None,
            Ok(Some(false)) => Some("its bytes are not those of its digest".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        report.blobs += 1;
        let size = store.blobs().size(&digest).ok().flatten();
        report.bytes = report.bytes.saturating_add(size.unwrap_or_default());
        if let Some(problem) = problem {
            let moved = set_aside(store, &digest).is_ok();
            if moved {
                forget_pulled(store, &digest);
            }
            report.damage.push(Damage {
                what: format!("blob {digest}"),
                problem,
                set_aside: moved,
            });
        }
    }
}

/// A layer that was pulled as this blob goes too: without the blob an image of it would get another
/// digest than the registry's. The next build pulls it again.
fn forget_pulled(store: &Store, digest: &Digest) {
    let Ok(layers) = store.db().layers_pulled_as(&digest.to_string()) else {
        return;
    };
    let Ok(collector) = Collector::open(store.root()) else {
        return;
    };
    for id in layers {
        // Who uses it at this moment needs its files, not its blob.
        if let Ok(Some(_claim)) = collector.claim(&layer_lease(&id)) {
            let _ = set_layer_aside(store, &store.layer_dir(&id));
        }
    }
}

/// By one rename. Whoever has it open keeps what he has.
fn set_aside(store: &Store, digest: &Digest) -> std::io::Result<()> {
    let dir = store.root().join("quarantine");
    std::fs::create_dir_all(&dir)?;
    let to = dir.join(format!("{}-{}", digest.hex(), new_id()));
    fail_point("quarantine-before");
    std::fs::rename(store.blobs().path(digest), to)
}

fn layers(store: &Store, report: &mut VerifyReport) -> Result<(), SolverError> {
    let dir = store.root().join("layers");
    let rows = store.db().all_layers()?;
    for (id, row) in &rows {
        let path = dir.join(layer_name(id));
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                report.damage.push(Damage {
                    what: format!("layer {id}"),
                    problem: "it is no directory".to_owned(),
                    set_aside: false,
                });
                continue;
            }
            // Being made at this moment, or left by a process that was killed before it was done.
            Err(_) => {
                report.leftovers += 1;
                continue;
            }
        }
        report.layers += 1;
        let marked = path.with_extension("opaque").exists();
        if row.record.opaque_root && !marked {
            report.damage.push(Damage {
                what: format!("layer {id}"),
                problem: "the mark is missing that it hides what is below".to_owned(),
                set_aside: set_layer_aside(store, &path).is_ok(),
            });
        }
    }
    let entries = std::fs::read_dir(&dir).map_err(|source| SolverError::Io {
        root: dir.clone(),
        source,
    })?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = super::layer_id(name.strip_suffix(".opaque").unwrap_or(&name));
        if !rows.contains_key(&id) {
            report.leftovers += 1;
        }
    }
    Ok(())
}

fn set_layer_aside(store: &Store, path: &Path) -> std::io::Result<()> {
    let dir = store.root().join("quarantine");
    std::fs::create_dir_all(&dir)?;
    std::fs::rename(path, dir.join(new_id()))
}

/// A named image must have its manifest and, for each platform that is here, all below it.
fn images(store: &Store, report: &mut VerifyReport) -> Result<(), SolverError> {
    use gateway_images::media::{MAX_MANIFEST_BYTES, ParsedManifest, RawManifest};
    for (name, image, _) in store.db().images()? {
        report.images += 1;
        let mut missing: Vec<String> = Vec::new();
        let mut waiting: Vec<(Digest, bool)> = match image.digest.parse() {
            Ok(digest) => vec![(digest, true)],
            Err(_) => {
                missing.push(image.digest.clone());
                Vec::new()
            }
        };
        while let Some((digest, needed)) = waiting.pop() {
            let blobs = store.blobs();
            if !blobs.contains(&digest) {
                // Of other platforms nothing was pulled.
                if needed {
                    missing.push(digest.to_string());
                }
                continue;
            }
            let parsed = blobs
                .read(&digest, MAX_MANIFEST_BYTES)
                .ok()
                .and_then(|bytes| RawManifest::parse(bytes, None).ok());
            match parsed.map(|manifest| manifest.parsed) {
                Some(ParsedManifest::Index(index)) => {
                    waiting.extend(index.manifests.into_iter().map(|m| (m.digest, false)));
                }
                Some(ParsedManifest::Image(manifest)) => {
                    let layers = manifest.layers.into_iter().map(|layer| layer.digest);
                    let all = std::iter::once(manifest.config.digest).chain(layers);
                    missing.extend(
                        all.filter(|digest| !blobs.contains(digest))
                            .map(|digest| digest.to_string()),
                    );
                }
                None => missing.push(digest.to_string()),
            }
        }
        if let Some(first) = missing.first() {
            report.damage.push(Damage {
                what: format!("image {name}"),
                problem: format!(
                    "{} of its blobs are missing, {first} for one: build or pull it again",
                    missing.len()
                ),
                set_aside: false,
            });
        }
    }
    Ok(())
}
