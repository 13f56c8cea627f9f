//! Everything that the names in a build stand for, saved as an OCI layout; and such a layout in place of all networks.
//!
//! Images are entries of the index under their names in full, with the platforms that the build used. Files of the web,
//! single blobs and git checkouts are artifacts beside them, with what a build must know of them as annotations. So the layout needs
//! no lock file, and other tools can read it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use gateway_api::Error;
use gateway_images::archive::{ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Layout, write_index};
use gateway_images::digest::Digest;
use gateway_images::media::{
    Descriptor, MAX_MANIFEST_BYTES, OCI_EMPTY, OCI_MANIFEST, ParsedManifest, RawManifest,
};
use gateway_images::platform::Platform;
use gateway_images::reference::Reference;
use gateway_images::store::BlobStore;
use gateway_llb::pb;

use super::{FilePin, GitPin, ImagePin, PinSet, Pins, shown_remote};
use crate::export::{ImageOptions, ready_layers};
use crate::job::{Job, JobInner};
use crate::live::LiveVertex;
use crate::ops::git::{Git, Resolved};
use crate::ops::image::{ImageMeta, registry_error};
use crate::ops::{self, http};
use crate::result::ResultRef;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Layer, LazyBlob, Snapshot};

/// What the artifacts are.
const FILE: &str = "application/vnd.gateway.source.http.v1";
const GIT: &str = "application/vnd.gateway.source.git.v1";
const SINGLE: &str = "application/vnd.gateway.source.blob.v1";
const FILE_CONTENT: &str = "application/octet-stream";

/// What a build must know of them.
const URL: &str = "gateway.source.url";
const REFERENCE: &str = "gateway.source.ref";
const CHECKSUM: &str = "gateway.source.checksum";
const COMMIT: &str = "gateway.source.commit";
const RESOLVED: &str = "gateway.source.resolved";
const FILENAME: &str = "gateway.source.filename";
const MODIFIED: &str = "gateway.source.modified";
const LAYER: &str = "gateway.source.layer";
const DIFF_ID: &str = "gateway.source.diff-id";
const SIZE: &str = "gateway.source.size";
const BLOB: &str = "gateway.source.blob";
const PLATFORMS: &str = "gateway.source.platforms";

/// Indexes inside indexes: real ones have one level.
const MAX_INDEXES: usize = 4;

/// What was saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VendorReport {
    pub images: usize,
    pub files: usize,
    pub repositories: usize,
    /// Bytes of all blobs in the layout.
    pub bytes: u64,
    /// Blobs of earlier times that nothing names any more.
    pub removed: usize,
}

/// A layout that is being written.
struct Destination {
    blobs: BlobStore,
    entries: Vec<Descriptor>,
    wanted: BTreeSet<Digest>,
}

impl Job {
    /// Saves what the names in these results, and in all that was solved on the way, stand for. Images with the
    /// platforms that were asked for, or with all.
    ///
    /// # Errors
    /// A source cannot be resolved or fetched, or the layout not be written.
    pub async fn vendor(
        &self,
        results: &[ResultRef],
        dir: &Path,
        all_platforms: bool,
    ) -> Result<VendorReport, Error> {
        let sources = self.resolved_sources(results).await?;
        let job = self.inner();
        std::fs::create_dir_all(dir).map_err(internal)?;
        let mut to = Destination {
            blobs: BlobStore::open(dir).map_err(internal)?,
            entries: Vec::new(),
            wanted: BTreeSet::new(),
        };
        let mut report = VendorReport {
            images: images(job, &mut to, all_platforms).await?,
            ..VendorReport::default()
        };
        let mut seen = BTreeSet::new();
        for vertex in &sources {
            let Some(pb::op::Op::Source(op)) = &vertex.op.op else {
                continue;
            };
            let saved = match op.identifier.split_once("://").map(|(scheme, _)| scheme) {
                Some("http" | "https") => file(job, &mut to, vertex, op, &mut seen).await?,
                Some("git") => repository(job, &mut to, vertex, op, &mut seen).await?,
                Some("docker-image+blob" | "oci-layout+blob") => {
                    single(job, &mut to, vertex, op, &mut seen).await?
                }
                // Saved above; and what is on this machine anyway.
                Some("docker-image" | "oci-layout" | "local") => continue,
                _ => {
                    return Err(unsaved(
                        &op.identifier,
                        "a source of this kind is not known",
                    ));
                }
            };
            match (saved, op.identifier.starts_with("git://")) {
                (false, _) => {}
                (true, true) => report.repositories += 1,
                (true, false) => report.files += 1,
            }
        }
        let failed = |error: &dyn std::fmt::Display| {
            Error::unknown(format!("cannot write {}: {error}", dir.display()))
        };
        write_index(dir, std::mem::take(&mut to.entries)).map_err(|e| failed(&e))?;
        for digest in to.blobs.list().map_err(|e| failed(&e))? {
            if to.wanted.contains(&digest) {
                let size = to.blobs.size(&digest).map_err(|e| failed(&e))?;
                report.bytes += size.unwrap_or_default();
            } else {
                to.blobs.remove(&digest).map_err(|e| failed(&e))?;
                report.removed += 1;
            }
        }
        // Of the blob store; no part of a layout.
        let _ = std::fs::remove_dir(dir.join("ingest"));
        Ok(report)
    }
}

impl Destination {
    fn put(&mut self, bytes: &[u8]) -> Outcome<Digest> {
        let digest = Digest::of(bytes);
        self.mend(&digest)?;
        self.blobs.put(bytes).map_err(internal)?;
        self.wanted.insert(digest.clone());
        Ok(digest)
    }

    /// Removes a blob that is not what its name says: it is written again.
    fn mend(&self, digest: &Digest) -> Outcome<bool> {
        match self.blobs.check(digest).map_err(internal)? {
            Some(false) => {
                self.blobs.remove(digest).map_err(internal)?;
                Ok(false)
            }
            Some(true) => Ok(true),
            None => Ok(false),
        }
    }

    /// Takes a blob over from a file.
    fn copy(&mut self, path: &Path, digest: &Digest, size: u64) -> Outcome<()> {
        self.wanted.insert(digest.clone());
        if self.mend(digest)? {
            return Ok(());
        }
        let mut source = std::fs::File::open(path).map_err(internal)?;
        let mut writer = self.blobs.writer().map_err(internal)?;
        std::io::copy(&mut source, &mut writer).map_err(internal)?;
        writer.commit_as(digest, size).map_err(internal).map(drop)
    }

    /// An entry for what is no image.
    fn artifact(
        &mut self,
        kind: &str,
        layer: &Descriptor,
        annotations: BTreeMap<String, String>,
    ) -> Outcome<()> {
        let empty = b"{}";
        let config = self.put(empty)?;
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": {"mediaType": OCI_EMPTY, "digest": config, "size": empty.len()},
            "layers": [layer],
            "annotations": annotations,
        });
        let bytes = serde_json::to_vec(&manifest).map_err(internal)?;
        self.put(&bytes)?;
        self.entries.push(Descriptor {
            artifact_type: Some(kind.to_owned()),
            annotations,
            ..Descriptor::of(OCI_MANIFEST, &bytes)
        });
        Ok(())
    }
}

/// All images that the build looked at.
async fn images(job: &Arc<JobInner>, to: &mut Destination, all: bool) -> Outcome<usize> {
    let Some(pins) = &job.options.pins else {
        return Err(Error::unknown("a build without pins cannot be saved"));
    };
    let looked_at: Vec<(Reference, Platform, Arc<ImageMeta>)> = {
        let images = job.images();
        let known = images
            .iter()
            .filter_map(|((reference, platform, _), work)| {
                let meta = work.peek()?.as_ref().ok()?.clone();
                Some((
                    Reference::parse(reference).ok()?,
                    platform.parse().ok()?,
                    meta,
                ))
            });
        known.collect()
    };
    let taken = pins.taken().images;
    for (name, pin) in &taken {
        let reference = Reference::parse(name).map_err(internal)?;
        let of_pin = looked_at
            .iter()
            .filter(|(asked, _, meta)| meta.root == pin.digest && asked.name() == reference.name());
        for (asked, platform, meta) in of_pin {
            save_image(job, to, asked, platform, meta).await?;
        }
        let bytes = job.store().blobs().read(&pin.digest, MAX_MANIFEST_BYTES);
        let root = RawManifest::parse(bytes.map_err(internal)?, None).map_err(internal)?;
        if all {
            let registries = job.registries(&reference);
            let fetched = registries
                .fetch_whole(&reference, &root, None, &to.blobs, &|_, _| {})
                .await;
            fetched.map_err(|error| registry_error(&error))?;
            let below = gateway_images::archive::blobs_below(&to.blobs, &root.descriptor);
            to.wanted
                .extend(below.map_err(internal)?.into_iter().map(|blob| blob.digest));
        }
        let platforms: Vec<&str> = pin.platforms.iter().map(String::as_str).collect();
        let mut entry = root.descriptor.clone();
        for (key, value) in [
            (ANNOTATION_REF_NAME, name.clone()),
            (ANNOTATION_IMAGE_NAME, name.clone()),
            (PLATFORMS, platforms.join(",")),
        ] {
            entry.annotations.insert(key.to_owned(), value);
        }
        to.entries.push(entry);
    }
    Ok(taken.len())
}

/// One platform of an image: what leads to it, and its layers.
async fn save_image(
    job: &Arc<JobInner>,
    to: &mut Destination,
    reference: &Reference,
    platform: &Platform,
    meta: &ImageMeta,
) -> Outcome<()> {
    let blobs = job.store().blobs();
    let mut current = meta.root.clone();
    for _ in 0..MAX_INDEXES {
        let bytes = blobs.read(&current, MAX_MANIFEST_BYTES).map_err(internal)?;
        to.put(&bytes)?;
        match RawManifest::parse(bytes, None).map_err(internal)?.parsed {
            ParsedManifest::Index(index) => {
                let chosen = platform.choose(&index.manifests);
                current = chosen
                    .map_err(|e| Error::unknown(e.to_string()))?
                    .digest
                    .clone();
            }
            ParsedManifest::Image(_) => break,
        }
    }
    to.put(&meta.config)?;
    let registries = job.registries(reference);
    for layer in &meta.layers {
        to.wanted.insert(layer.digest.clone());
        if to.mend(&layer.digest)? {
            continue;
        }
        if blobs.check(&layer.digest).map_err(internal)? == Some(true) {
            to.copy(&blobs.path(&layer.digest), &layer.digest, layer.size)?;
            continue;
        }
        let fetched = registries.fetch(reference, layer, &to.blobs, &|_| {}).await;
        fetched.map_err(|error| {
            registry_error(&error).context(format!("failed to copy: {}", layer.digest))
        })?;
    }
    Ok(())
}

/// A file of the web. False when it is there already.
async fn file(
    job: &Arc<JobInner>,
    to: &mut Destination,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
    seen: &mut BTreeSet<String>,
) -> Outcome<bool> {
    let Some(content) = http::content(job, vertex, op).await? else {
        return Ok(false);
    };
    let name = gateway_images::registry::shown_url(&op.identifier);
    if !seen.insert(name.clone()) {
        return Ok(false);
    }
    let digest: Digest = content.pin.checksum.parse().map_err(|_| {
        Error::unknown(format!(
            "{name}: {} is no sha256 digest",
            content.pin.checksum
        ))
    })?;
    let size = std::fs::metadata(&content.path).map_err(internal)?.len();
    to.copy(&content.path, &digest, size)?;
    let mut annotations = BTreeMap::from([
        (URL.to_owned(), name),
        (CHECKSUM.to_owned(), content.pin.checksum),
    ]);
    annotations.extend(content.pin.filename.map(|name| (FILENAME.to_owned(), name)));
    let modified = content.pin.last_modified;
    annotations.extend(modified.map(|date| (MODIFIED.to_owned(), date)));
    to.artifact(
        FILE,
        &Descriptor::new(FILE_CONTENT, digest, size),
        annotations,
    )?;
    Ok(true)
}

/// A single blob of a registry or a layout. False when it is there already.
async fn single(
    job: &Arc<JobInner>,
    to: &mut Destination,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
    seen: &mut BTreeSet<String>,
) -> Outcome<bool> {
    let digest = ops::blob::fetch(job, &vertex.digest, op).await?;
    if !seen.insert(digest.to_string()) {
        return Ok(false);
    }
    let path = job.store().blobs().path(&digest);
    let size = std::fs::metadata(&path).map_err(internal)?.len();
    to.copy(&path, &digest, size)?;
    let annotations = BTreeMap::from([
        (URL.to_owned(), op.identifier.clone()),
        (CHECKSUM.to_owned(), digest.to_string()),
    ]);
    let content = Descriptor::new(FILE_CONTENT, digest, size);
    to.artifact(SINGLE, &content, annotations)?;
    Ok(true)
}

fn unsaved(name: &str, why: &str) -> Error {
    Error::unknown(format!("{name} cannot be saved: {why}"))
}

/// A single blob that was saved, brought into the store.
pub(crate) async fn saved_blob(
    job: &Arc<JobInner>,
    dir: &Path,
    name: String,
    digest: &Digest,
) -> Outcome<()> {
    let (job, dir, digest) = (job.clone(), dir.to_owned(), digest.clone());
    blocking(move || {
        let blobs = job.store().blobs();
        if blobs.contains(&digest) {
            return Ok(());
        }
        let copied = Layout::open(&dir).and_then(|layout| {
            let size = layout.size(&digest)?;
            layout.copy(blobs, &Descriptor::new("", digest.clone(), size))
        });
        copied.map_err(|error| {
            let dir = dir.display();
            Error::unknown(format!("{name} is not in {dir} as {digest}: {error}")).with_help(
                format!(
                    "The blob was not saved, or is damaged, and no network may be used.\n\
                 `gateway vendor {dir}` with the flags of this build saves it.\n"
                ),
            )
        })
    })
    .await
}

/// A checkout, as the layer that it becomes. False when it is there already.
async fn repository(
    job: &Arc<JobInner>,
    to: &mut Destination,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
    seen: &mut BTreeSet<String>,
) -> Outcome<bool> {
    let (git, resolved, layer) = ops::git::layer(job, op).await?;
    if !seen.insert(layer.clone()) {
        return Ok(false);
    }
    match git.bundle_blob() {
        Some(bundle) => {
            single(job, to, vertex, &bundle, seen).await?;
        }
        None if git.signed_by.is_some() => {
            let name = format!("{}#{}", git.shown(), git.reference);
            let why = "its signature is checked in the repository, and only the checkout is saved. Name a bundle of it (git.bundle), or check the signature before";
            return Err(unsaved(&name, why));
        }
        None => {}
    }
    let snapshots = ops::run(job, vertex, Vec::new()).await?;
    let snapshot = snapshots
        .into_iter()
        .next()
        .unwrap_or_else(Snapshot::scratch);
    let options = ImageOptions::parse(&BTreeMap::new(), &[], &BTreeMap::new(), true)?;
    let mut ready = ready_layers(job, &snapshot, &options).await?;
    let (Some(made), true) = (ready.pop(), ready.is_empty()) else {
        return Err(Error::unknown("a checkout is not one layer"));
    };
    let blob = made.descriptor;
    to.copy(
        &job.store().blobs().path(&blob.digest),
        &blob.digest,
        blob.size,
    )?;
    let mut annotations = BTreeMap::from(
        [
            (URL, shown_remote(&git.remote)),
            (REFERENCE, git.reference.clone()),
            (RESOLVED, resolved.reference.clone()),
            (CHECKSUM, resolved.checksum.clone()),
            (LAYER, layer),
            (DIFF_ID, made.info.diff_id.to_string()),
            (BLOB, blob.digest.to_string()),
            (SIZE, blob.size.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    annotations.extend(resolved.commit.clone().map(|id| (COMMIT.to_owned(), id)));
    let layer = Descriptor::new(blob.media_type, blob.digest, blob.size);
    to.artifact(GIT, &layer, annotations)?;
    Ok(true)
}

/// What a layout that was saved has.
///
/// # Errors
/// It is none, or its index has entries that are none of ours.
pub fn read_vendored(dir: &Path) -> Result<PinSet, Error> {
    let failed = |problem: &dyn std::fmt::Display| {
        Error::unknown(format!("{}: {problem}", dir.display())).with_help(format!(
            "`gateway vendor {}` with the flags of the build saves what it needs there.\n",
            dir.display()
        ))
    };
    let layout = Layout::open(dir).map_err(|e| failed(&e))?;
    let mut pins = PinSet::default();
    for entry in layout.index().map_err(|e| failed(&e))?.manifests {
        let said = |key: &str| entry.annotations.get(key).cloned();
        match entry.artifact_type.as_deref() {
            Some(FILE) => {
                let (Some(url), Some(checksum)) = (said(URL), said(CHECKSUM)) else {
                    return Err(failed(&"a file in its index has no address"));
                };
                let pin = FilePin {
                    checksum,
                    filename: said(FILENAME),
                    last_modified: said(MODIFIED),
                };
                pins.files.insert(url, pin);
            }
            Some(GIT) => {
                let (Some(url), Some(checksum)) = (said(URL), said(CHECKSUM)) else {
                    return Err(failed(&"a repository in its index has no address"));
                };
                let pin = GitPin {
                    reference: said(RESOLVED).unwrap_or_default(),
                    checksum,
                    commit: said(COMMIT),
                };
                let key = (url, said(REFERENCE).unwrap_or_default());
                pins.git.insert(key, pin);
            }
            // Its name says what it is.
            Some(SINGLE) => {}
            _ => {
                let Some(name) = said(ANNOTATION_IMAGE_NAME).or_else(|| said(ANNOTATION_REF_NAME))
                else {
                    continue;
                };
                let name = Reference::parse(&name).map_err(|e| failed(&e))?;
                let platforms = said(PLATFORMS).unwrap_or_default();
                let pin = ImagePin {
                    digest: entry.digest,
                    platforms: platforms.split(',').map(str::to_owned).collect(),
                };
                pins.images.insert(name.to_string(), pin);
            }
        }
    }
    Ok(pins)
}

/// A checkout that was saved, as a layer to be unpacked when it is needed.
pub(crate) async fn saved_checkout(
    job: &Arc<JobInner>,
    pins: &Pins,
    vertex: &str,
    (git, resolved): (&Git, &Resolved),
    layer: &str,
) -> Outcome<Layer> {
    let dir = pins.layout().unwrap_or(Path::new("")).to_owned();
    let wanted = layer.to_owned();
    let entry = blocking(move || {
        let index = Layout::open(&dir).and_then(|layout| layout.index());
        let entries = index.map_err(|e| Error::unknown(e.to_string()))?.manifests;
        let is_it = |entry: &Descriptor| entry.annotations.get(LAYER) == Some(&wanted);
        Ok((entries.into_iter().find(is_it), dir))
    });
    let (entry, dir) = entry.await?;
    let shown = git.shown();
    let missing = |what: &str| {
        let error = Error::unknown(format!("{shown}#{}: {what}", git.reference));
        pins.drifted(error, &shown, &resolved.checksum)
    };
    let entry = entry.ok_or_else(|| missing("no checkout like this one was saved"))?;
    let said = |key: &str| entry.annotations.get(key).map_or("", String::as_str);
    let (Ok(blob), Ok(size)) = (said(BLOB).parse::<Digest>(), said(SIZE).parse()) else {
        return Err(missing("its entry in the index is damaged"));
    };
    let layer = Layer {
        id: layer.to_owned(),
        lazy: Some(Arc::new(LazyBlob {
            file: Some(dir.join("blobs/sha256").join(blob.hex())),
            descriptor: Descriptor::new("", blob, size),
            diff_id: said(DIFF_ID).to_owned(),
            base: Vec::new(),
            reference: shown,
            remote: None,
            vertex: vertex.to_owned(),
            kind: String::new(),
        })),
        local: None,
    };
    job.remember_lazy(&layer);
    Ok(layer)
}
