//! The images of the store, for those who have no build: listed, written to archives, pushed.

use std::collections::BTreeSet;

use gateway_api::{Code, Error};
use gateway_images::archive::{Variant, blobs_below, write_archive};
use gateway_images::digest::Digest;
use gateway_images::media::Descriptor;
use gateway_images::platform::Platform;
use gateway_images::reference::Reference;
use gateway_images::registry::Registries;
use gateway_images::store::BlobStore;
use tokio_util::sync::CancellationToken;

use super::dest::write_to;
use super::{OutputTarget, push};
use crate::Solver;
use crate::ops::image;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{ImageRecord, Store, gc};

/// A named image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// In full: `docker.io/library/app:latest`.
    pub name: String,
    /// Of the manifest or index.
    pub digest: String,
    pub media_type: String,
    /// Bytes of all blobs, those shared with other images too; `None` when some are gone.
    pub size: Option<u64>,
    /// When it got its name, seconds since the epoch.
    pub created: i64,
}

fn parse(name: &str) -> Outcome<Reference> {
    Reference::parse(name)
        .map_err(|error| Error::invalid(format!("failed to parse {name}: {error}")))
}

/// Keeps the blobs of an image, also when its name goes while they are being read.
fn hold_all(store: &Store, top: &Descriptor) {
    for digest in gc::reachable(store.blobs(), &top.digest) {
        store.blobs().contains(&digest);
    }
}

fn descriptor(record: &ImageRecord) -> Outcome<Descriptor> {
    let digest: Digest = record.digest.parse().map_err(internal)?;
    Ok(Descriptor::new(
        record.media_type.clone(),
        digest,
        record.size,
    ))
}

impl Solver {
    /// The images in the store, by name.
    ///
    /// # Errors
    /// When the store's metadata cannot be read.
    pub fn images(&self) -> Result<Vec<StoredImage>, Error> {
        let images = self.store().db().images().map_err(internal)?;
        let stored = |(name, record, created): (String, ImageRecord, i64)| {
            let below = descriptor(&record)
                .ok()
                .and_then(|top| blobs_below(self.store().blobs(), &top).ok());
            StoredImage {
                name,
                size: below.and_then(|blobs| self.size_of(&blobs)),
                digest: record.digest,
                media_type: record.media_type,
                created,
            }
        };
        Ok(images.into_iter().map(stored).collect())
    }

    fn size_of(&self, blobs: &[Descriptor]) -> Option<u64> {
        let mut seen = BTreeSet::new();
        let mut bytes = 0_u64;
        for blob in blobs.iter().filter(|blob| seen.insert(&blob.digest)) {
            let size = self.store().blobs().size(&blob.digest).ok().flatten()?;
            bytes = bytes.saturating_add(size);
        }
        Some(bytes)
    }

    fn named(&self, name: &str) -> Outcome<(Reference, Descriptor)> {
        let reference = parse(name)?;
        let record = self
            .store()
            .db()
            .image(&reference.to_string())
            .map_err(internal)?
            .ok_or_else(|| {
                Error::new(
                    Code::NotFound,
                    format!("there is no image {reference} in the store"),
                )
            })?;
        Ok((reference, descriptor(&record)?))
    }

    /// Writes an image of the store as an archive.
    ///
    /// # Errors
    /// When there is no such image or the target cannot be written; then nothing is left there.
    pub async fn save_image(
        &self,
        name: &str,
        variant: Variant,
        dest: OutputTarget,
        cancel: CancellationToken,
    ) -> Result<(), Error> {
        let store = self.store().for_user();
        let (reference, top) = self.named(name)?;
        hold_all(&store, &top);
        blocking(move || {
            let written = write_to(&dest, &cancel, |out| {
                write_archive(store.blobs(), &top, &[reference], variant, out).map_err(internal)
            });
            written.map(drop)
        })
        .await
    }

    /// Takes the name from an image of the store. Its blobs go with the next collection, unless another
    /// image or the cache has them. Gives the name in full.
    ///
    /// # Errors
    /// When there is no such image.
    pub fn remove_image(&self, name: &str) -> Result<String, Error> {
        let (reference, _) = self.named(name)?;
        let name = reference.to_string();
        self.store().db().drop_image(&name).map_err(internal)?;
        Ok(name)
    }

    /// Pushes an image of the store to where `target` says, else to where its name says, with the logins of `registries`.
    /// Gives what the registry holds now and what it had to say.
    ///
    /// # Errors
    /// When there is no such image or the registry does not take it.
    pub async fn push_image(
        &self,
        registries: &Registries,
        name: &str,
        target: Option<&str>,
    ) -> Result<(String, Vec<String>), Error> {
        let store = self.store().for_user();
        let (reference, top) = self.named(name)?;
        hold_all(&store, &top);
        let target = match target {
            Some(target) => parse(target)?,
            None => reference,
        };
        let pushed = push::stored(registries, store.blobs(), &top, &target).await?;
        Ok((pushed.reference.to_string(), pushed.notices))
    }

    /// Brings an image into the store under its name: that of one platform, or all that the name stands for.
    /// `progress` hears how many bytes of a blob have come.
    ///
    /// # Errors
    /// When no registry serves it, or it cannot be stored; then the name stays what it was.
    pub async fn pull_image(
        &self,
        name: &str,
        platform: Option<&Platform>,
        progress: &(dyn Fn(&Digest, u64) + Send + Sync),
    ) -> Result<(StoredImage, Vec<String>), Error> {
        let reference = parse(name)?;
        let registries = self.registries();
        let failed = |error| image::registry_error(&error);
        let resolved = registries.resolve(&reference).await.map_err(failed)?;
        // Held until the image has its name.
        let store = self.store().for_user();
        let top = registries
            .fetch_whole(
                &reference,
                &resolved.root,
                platform,
                store.blobs(),
                progress,
            )
            .await
            .map_err(failed)?;
        let mut notices = resolved.notices;
        notices.extend(registries.take_notices());
        Ok((self.name_image(&reference, &top)?, notices))
    }

    /// Gives a name to an image whose blobs are all in the store.
    ///
    /// # Errors
    /// When the store's metadata cannot be written.
    pub fn name_image(&self, name: &Reference, top: &Descriptor) -> Result<StoredImage, Error> {
        let record = ImageRecord {
            digest: top.digest.to_string(),
            media_type: top.media_type.clone(),
            size: top.size,
        };
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let db = self.store().db();
        db.set_image(&name.to_string(), &record, now)
            .map_err(internal)?;
        let below = blobs_below(self.store().blobs(), top).ok();
        Ok(StoredImage {
            name: name.to_string(),
            size: below.and_then(|blobs| self.size_of(&blobs)),
            digest: record.digest,
            media_type: record.media_type,
            created: now,
        })
    }

    /// An image of the store by name: what it is called in full, its manifest or index, and its blobs, which stay as
    /// long as that handle does.
    ///
    /// # Errors
    /// When there is none.
    pub fn find_image(&self, name: &str) -> Result<(Reference, Descriptor, BlobStore), Error> {
        let store = self.store().for_user();
        let (reference, top) = self.named(name)?;
        hold_all(&store, &top);
        Ok((reference, top, store.blobs().clone()))
    }

    /// The content of images, by digest. What is put in through this handle stays as long as it does, and then as
    /// long as an image has it.
    pub fn image_blobs(&self) -> BlobStore {
        self.store().for_user().blobs().clone()
    }
}
