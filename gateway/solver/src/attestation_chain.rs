//! What vouches for an image, for frontends and policies that judge by it: the attestation manifest
//! of its platform and the signature that refers to that. Nothing is verified here: those who ask do.

use gateway_api::{AttestationBlob, AttestationChain, Error};
use gateway_images::digest::Digest;
use gateway_images::media::{
    Descriptor, Index, MAX_MANIFEST_BYTES, OCI_INDEX, ParsedManifest, RawManifest,
};
use gateway_images::platform::Platform;
use gateway_images::reference::Reference;

use crate::job::JobInner;
use crate::ops::image::registry_error;
use crate::shared::Outcome;
use crate::solve::internal;

const SIGSTORE_BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const COSIGN_SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// All blobs of one answer: it must fit into a message, and these documents are small.
const MAX_CHAIN_BYTES: u64 = 12 << 20;

struct Search<'a> {
    job: &'a JobInner,
    reference: &'a Reference,
    chain: AttestationChain,
    bytes: u64,
}

/// `None` for an image without an index in OCI's form, as no other can say. `predicates` are the
/// types of attestations whose content is wanted too.
pub async fn find(
    job: &JobInner,
    reference: &Reference,
    root: &Digest,
    platform: &Platform,
    predicates: &[String],
) -> Outcome<Option<AttestationChain>> {
    let bytes = job
        .store()
        .blobs()
        .read(root, MAX_MANIFEST_BYTES)
        .map_err(internal)?;
    let raw = RawManifest::parse(bytes, None).map_err(internal)?;
    let ParsedManifest::Index(index) = &raw.parsed else {
        return Ok(None);
    };
    if raw.descriptor.media_type != OCI_INDEX {
        return Ok(None);
    }
    let mut search = Search {
        job,
        reference,
        chain: AttestationChain {
            root: root.to_string(),
            ..AttestationChain::default()
        },
        bytes: 0,
    };
    search.add(&raw.descriptor, raw.bytes.to_vec())?;
    search.follow(index, platform, predicates).await?;
    Ok(Some(search.chain))
}

impl Search<'_> {
    async fn follow(
        &mut self,
        index: &Index,
        platform: &Platform,
        predicates: &[String],
    ) -> Outcome<()> {
        let image = platform
            .choose(&index.manifests)
            .map_err(|error| Error::new(gateway_api::Code::NotFound, error.to_string()))?;
        self.chain.image_manifest = image.digest.to_string();
        let about_image = |entry: &&Descriptor| {
            entry.is_attestation()
                && entry.annotations.get(REFERENCE_DIGEST) == Some(&self.chain.image_manifest)
        };
        let Some(attestation) = index.manifests.iter().find(about_image) else {
            return Ok(());
        };
        self.chain.attestation_manifest = attestation.digest.to_string();
        let attestations = self.manifest(attestation).await?;
        // Registries do not agree on how two types are asked for at once.
        let registries = self.job.registries(self.reference);
        let mut signatures = registries
            .referrers(self.reference, &attestation.digest, None)
            .await
            .map_err(|error| registry_error(&error))?;
        let kind = |entry: &Descriptor| entry.artifact_type.clone().unwrap_or_default();
        signatures.retain(|entry| [SIGSTORE_BUNDLE, COSIGN_SIGNATURE].contains(&&*kind(entry)));
        signatures.sort_by_key(|entry| kind(entry) != SIGSTORE_BUNDLE);
        if let Some(signature) = signatures.first() {
            self.chain.signature_manifests = vec![signature.digest.to_string()];
            for layer in self.manifest(signature).await? {
                self.blob(&layer).await?;
            }
        }
        for layer in attestations {
            let kind = layer.annotations.get(PREDICATE_TYPE);
            if kind.is_some_and(|kind| predicates.contains(kind)) {
                self.blob(&layer).await?;
            }
        }
        Ok(())
    }

    /// Adds a manifest; gives its layers.
    async fn manifest(&mut self, descriptor: &Descriptor) -> Outcome<Vec<Descriptor>> {
        let blobs = self.job.store().blobs();
        let raw = match blobs.contains(&descriptor.digest) {
            true => {
                let bytes = blobs.read(&descriptor.digest, MAX_MANIFEST_BYTES);
                RawManifest::parse(bytes.map_err(internal)?, Some(&descriptor.media_type))
                    .map_err(internal)?
            }
            false => {
                let raw = self
                    .job
                    .registries(self.reference)
                    .manifest(self.reference, descriptor)
                    .await
                    .map_err(|error| registry_error(&error))?;
                blobs.put(&raw.bytes).map_err(internal)?;
                raw
            }
        };
        self.add(descriptor, raw.bytes.to_vec())?;
        Ok(raw
            .image()
            .map_or_else(Vec::new, |image| image.layers.clone()))
    }

    async fn blob(&mut self, descriptor: &Descriptor) -> Outcome<()> {
        if self
            .chain
            .blobs
            .contains_key(&descriptor.digest.to_string())
        {
            return Ok(());
        }
        self.fits(descriptor.size)?;
        let blobs = self.job.store().blobs();
        let bytes = match blobs.contains(&descriptor.digest) {
            true => blobs
                .read(&descriptor.digest, MAX_CHAIN_BYTES)
                .map_err(internal)?,
            false => {
                let bytes = self
                    .job
                    .registries(self.reference)
                    .small_blob(self.reference, descriptor, MAX_CHAIN_BYTES)
                    .await
                    .map_err(|error| registry_error(&error))?;
                blobs.put(&bytes).map_err(internal)?;
                bytes.to_vec()
            }
        };
        self.add(descriptor, bytes)
    }

    fn fits(&self, more: u64) -> Outcome<()> {
        match self.bytes.saturating_add(more) > MAX_CHAIN_BYTES {
            true => Err(Error::new(
                gateway_api::Code::ResourceExhausted,
                format!(
                    "the attestations of {} are more than {MAX_CHAIN_BYTES} bytes",
                    self.reference
                ),
            )),
            false => Ok(()),
        }
    }

    fn add(&mut self, descriptor: &Descriptor, data: Vec<u8>) -> Outcome<()> {
        self.fits(data.len() as u64)?;
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        let blob = AttestationBlob {
            media_type: descriptor.media_type.clone(),
            annotations: descriptor.annotations.clone(),
            data,
        };
        self.chain.blobs.insert(descriptor.digest.to_string(), blob);
        Ok(())
    }
}
