//! An OCI layout as a directory: `oci-layout`, `index.json`, `blobs/sha256/`. May be shared with other tools.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{
    ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, ArchiveError, INDEX_FILE, LAYOUT, LAYOUT_FILE,
    MAX_INDEX_DEPTH, named,
};
use crate::config::to_json;
use crate::digest::Digest;
use crate::media::{
    Descriptor, Index, MAX_MANIFEST_BYTES, OCI_INDEX, ParsedManifest, RawManifest, is_index,
    is_manifest, is_nondistributable,
};
use crate::reference::Reference;
use crate::store::BlobStore;

/// Where a manifest's name is not known, its tag in the index.
const DEFAULT_TAG: &str = "latest";

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError + use<> {
    let path = path.to_owned();
    move |source| ArchiveError::Io {
        action,
        path,
        source,
    }
}

/// Every blob that `top` leads to, itself included, once each and sorted by digest.
/// Layers that may not be distributed are left out when the store does not have them.
pub fn blobs_below(store: &BlobStore, top: &Descriptor) -> Result<Vec<Descriptor>, ArchiveError> {
    walk(top, |descriptor| {
        Ok(match descriptor.embedded() {
            Some(bytes) => bytes.to_vec(),
            None => store.read(&descriptor.digest, MAX_MANIFEST_BYTES)?,
        })
    })
    .map(|found| {
        let wanted = |blob: &Descriptor| {
            !is_nondistributable(&blob.media_type) || store.contains(&blob.digest)
        };
        found.into_values().filter(wanted).collect()
    })
}

fn walk(
    top: &Descriptor,
    read: impl Fn(&Descriptor) -> Result<Vec<u8>, ArchiveError>,
) -> Result<BTreeMap<Digest, Descriptor>, ArchiveError> {
    let mut found: BTreeMap<Digest, Descriptor> = BTreeMap::new();
    let mut todo = vec![(top.clone(), 0)];
    while let Some((descriptor, depth)) = todo.pop() {
        if found.contains_key(&descriptor.digest) {
            continue;
        }
        if depth > MAX_INDEX_DEPTH {
            return Err(ArchiveError::TooDeep);
        }
        if is_index(&descriptor.media_type) || is_manifest(&descriptor.media_type) {
            let manifest = RawManifest::parse(read(&descriptor)?, Some(&descriptor.media_type))?;
            match manifest.parsed {
                ParsedManifest::Index(index) => {
                    todo.extend(index.manifests.into_iter().map(|m| (m, depth + 1)));
                }
                ParsedManifest::Image(image) => {
                    for blob in image.layers.into_iter().chain([image.config]) {
                        found.entry(blob.digest.clone()).or_insert(blob);
                    }
                }
            }
        } else if depth == 0 {
            return Err(ArchiveError::NoManifest(descriptor.digest));
        }
        found.insert(descriptor.digest.clone(), descriptor);
    }
    Ok(found)
}

/// Writes an image into the layout at `dir`, which is made if missing.
///
/// Blobs that are there stay; `index.json` is replaced by a rename at the end, with the entries of other names kept.
pub fn write_layout(
    store: &BlobStore,
    top: &Descriptor,
    names: &[Reference],
    dir: &Path,
    stop: Stop<'_>,
) -> Result<(), ArchiveError> {
    if names.is_empty() {
        return write_layout_as(store, top, DEFAULT_TAG, dir, stop);
    }
    write_entries(store, top, named(top, names), dir, stop)
}

/// The same under a tag alone: for what is no image and has no name elsewhere.
pub fn write_layout_as(
    store: &BlobStore,
    top: &Descriptor,
    tag: &str,
    dir: &Path,
    stop: Stop<'_>,
) -> Result<(), ArchiveError> {
    let mut entry = top.clone();
    let annotations = &mut entry.annotations;
    annotations.insert(ANNOTATION_REF_NAME.into(), tag.into());
    write_entries(store, top, vec![entry], dir, stop)
}

fn write_entries(
    store: &BlobStore,
    top: &Descriptor,
    entries: Vec<Descriptor>,
    dir: &Path,
    stop: Stop<'_>,
) -> Result<(), ArchiveError> {
    let blobs = dir.join("blobs").join("sha256");
    fs::create_dir_all(&blobs).map_err(io_error("create", &blobs))?;
    for blob in blobs_below(store, top)? {
        let path = blobs.join(blob.digest.hex());
        if fs::metadata(&path).is_ok_and(|m| m.len() == blob.size) {
            continue;
        }
        match blob.embedded() {
            Some(bytes) => replace(&path, &mut &bytes[..], stop)?,
            None => replace(&path, &mut store.reader(&blob.digest)?, stop)?,
        }
    }
    let mut index = match Layout::open(dir) {
        Ok(layout) => layout.index()?,
        Err(ArchiveError::NotAnArchive) => empty_index(),
        Err(e) => return Err(e),
    };
    index.media_type.get_or_insert_with(|| OCI_INDEX.to_owned());
    let name = |d: &Descriptor| {
        let annotation = |key| d.annotations.get(key).cloned();
        (
            annotation(ANNOTATION_REF_NAME),
            annotation(ANNOTATION_IMAGE_NAME),
        )
    };
    for entry in entries {
        index.manifests.retain(|other| name(other) != name(&entry));
        index.manifests.push(entry);
    }
    put_index(dir, &index)
}

fn empty_index() -> Index {
    Index {
        schema_version: 2,
        media_type: None,
        artifact_type: None,
        manifests: Vec::new(),
        subject: None,
        annotations: BTreeMap::new(),
    }
}

/// Makes `entries` the whole index of the layout at `dir`, whose blobs are there.
pub fn write_index(dir: &Path, entries: Vec<Descriptor>) -> Result<(), ArchiveError> {
    put_index(
        dir,
        &Index {
            media_type: Some(OCI_INDEX.to_owned()),
            manifests: entries,
            ..empty_index()
        },
    )
}

fn put_index(dir: &Path, index: &Index) -> Result<(), ArchiveError> {
    let bytes = to_json(index).map_err(|source| ArchiveError::Json {
        file: INDEX_FILE,
        source,
    })?;
    replace(&dir.join(LAYOUT_FILE), &mut &LAYOUT[..], NEVER)?;
    replace(&dir.join(INDEX_FILE), &mut &bytes[..], NEVER)
}

/// Asked now and then during long work: whether it is to end.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// Of short work.
pub const NEVER: Stop<'static> = &|| false;

/// What is copied before that is asked again: a fraction of a second's work.
const PIECE: u64 = 16 << 20;

/// As `io::copy`, until it is stopped.
fn copy_until(source: &mut impl Read, into: &mut impl Write, stop: Stop<'_>) -> io::Result<()> {
    loop {
        if stop() {
            return Err(io::Error::other("cancelled"));
        }
        if io::copy(&mut source.by_ref().take(PIECE), into)? < PIECE {
            return Ok(());
        }
    }
}

/// Writes a file beside its place and renames it there.
fn replace(path: &Path, source: &mut impl Read, stop: Stop<'_>) -> Result<(), ArchiveError> {
    use std::os::unix::fs::PermissionsExt;
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(io_error("create a file in", dir))?;
    copy_until(source, file.as_file_mut(), stop).map_err(io_error("write", path))?;
    file.as_file_mut()
        .flush()
        .map_err(io_error("write", path))?;
    file.persist(path)
        .map_err(|e| io_error("rename into place", path)(e.error))?;
    Ok(())
}

/// A layout directory to read from. Nothing in it is believed before its digest was checked.
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Fails with `NotAnArchive` where no `index.json` is.
    pub fn open(dir: &Path) -> Result<Self, ArchiveError> {
        if !dir.join(INDEX_FILE).is_file() {
            return Err(ArchiveError::NotAnArchive);
        }
        Ok(Layout {
            dir: dir.to_owned(),
        })
    }

    pub fn index(&self) -> Result<Index, ArchiveError> {
        let path = self.dir.join(INDEX_FILE);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes))
            .map_err(io_error("read", &path))?;
        let manifest = RawManifest::parse(bytes, Some(OCI_INDEX))?;
        match manifest.parsed {
            ParsedManifest::Index(index) => Ok(index),
            ParsedManifest::Image(_) => Err(ArchiveError::NotAnArchive),
        }
    }

    /// The entry with this name (full, then tag); without one, the only entry there is.
    pub fn find(&self, name: Option<&str>) -> Result<Option<Descriptor>, ArchiveError> {
        let entries = self.index()?.manifests;
        let Some(name) = name else {
            let mut entries = entries.into_iter();
            let first = entries.next();
            return Ok(first.filter(|_| entries.next().is_none()));
        };
        let by = |key: &str| {
            let matches = |d: &&Descriptor| d.annotations.get(key).is_some_and(|n| n == name);
            entries.iter().find(matches).cloned()
        };
        Ok(by(ANNOTATION_IMAGE_NAME).or_else(|| by(ANNOTATION_REF_NAME)))
    }

    /// The size of a blob, for those who know its digest only.
    pub fn size(&self, digest: &Digest) -> Result<u64, ArchiveError> {
        let path = self.dir.join("blobs/sha256").join(digest.hex());
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(metadata.len()),
            Ok(_) => Err(ArchiveError::Missing(digest.to_string())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(ArchiveError::Missing(digest.to_string()))
            }
            Err(e) => Err(io_error("look at", &path)(e)),
        }
    }

    /// Copies one blob into a store, checked.
    pub fn copy(&self, store: &BlobStore, blob: &Descriptor) -> Result<(), ArchiveError> {
        self.copy_one(store, blob, NEVER)
    }

    fn copy_one(
        &self,
        store: &BlobStore,
        blob: &Descriptor,
        stop: Stop<'_>,
    ) -> Result<(), ArchiveError> {
        if store.size(&blob.digest)? == Some(blob.size) {
            return Ok(());
        }
        let path = self.dir.join("blobs/sha256").join(blob.digest.hex());
        let mut writer = store.writer()?;
        if let Some(bytes) = blob.embedded() {
            writer.write_all(&bytes).map_err(io_error("store", &path))?;
        } else {
            let opened = |e: io::Error| match e.kind() {
                io::ErrorKind::NotFound => ArchiveError::Missing(blob.digest.to_string()),
                _ => io_error("open", &path)(e),
            };
            // A pipe in its place would be waited for.
            if !fs::metadata(&path).map_err(opened)?.is_file() {
                return Err(ArchiveError::Entry {
                    name: path.display().to_string(),
                    problem: "not a file",
                });
            }
            let file = File::open(&path).map_err(opened)?;
            // A blob that is longer than it should be is not read on.
            copy_until(
                &mut file.take(blob.size.saturating_add(1)),
                &mut writer,
                stop,
            )
            .map_err(io_error("read", &path))?;
        }
        writer.commit_as(&blob.digest, blob.size)?;
        Ok(())
    }

    /// Removes the blobs that no entry of the index leads to; gives their number.
    pub fn remove_unnamed(&self) -> Result<usize, ArchiveError> {
        let dir = self.dir.join("blobs/sha256");
        let mut named = std::collections::BTreeSet::new();
        for entry in self.index()?.manifests {
            let below = walk(&entry, |descriptor| self.document(descriptor))?;
            named.extend(below.into_keys().map(|digest| digest.hex().to_owned()));
        }
        let mut removed = 0;
        for file in fs::read_dir(&dir).map_err(io_error("read", &dir))? {
            let file = file.map_err(io_error("read", &dir))?;
            if !named.contains(&*file.file_name().to_string_lossy()) {
                fs::remove_file(file.path()).map_err(io_error("remove", &file.path()))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// A manifest or index of the layout, checked against its digest.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ArchiveError> {
        let path = self.dir.join("blobs/sha256").join(descriptor.digest.hex());
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes))
            .map_err(io_error("read", &path))?;
        match Digest::of(&bytes) == descriptor.digest {
            true => Ok(bytes),
            false => Err(ArchiveError::Missing(descriptor.digest.to_string())),
        }
    }

    /// Copies `top` and all it leads to into a store. Layers that may not be distributed may be missing.
    pub fn copy_all(
        &self,
        store: &BlobStore,
        top: &Descriptor,
        stop: Stop<'_>,
    ) -> Result<(), ArchiveError> {
        let blobs = walk(top, |descriptor| {
            if descriptor.size > MAX_MANIFEST_BYTES {
                return Err(ArchiveError::NoManifest(descriptor.digest.clone()));
            }
            self.copy_one(store, descriptor, stop)?;
            Ok(store.read(&descriptor.digest, MAX_MANIFEST_BYTES)?)
        })?;
        for blob in blobs.values() {
            match self.copy_one(store, blob, stop) {
                Err(ArchiveError::Missing(_)) if is_nondistributable(&blob.media_type) => {}
                other => other?,
            }
        }
        Ok(())
    }
}
