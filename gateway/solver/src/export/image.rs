//! Results as an image in the blob store: layers, configs, manifests, the index over them.

use std::sync::Arc;

use futures_util::future::try_join_all;
use gateway_api::Error;
use gateway_api::result::metadata;
use gateway_images::archive::{
    Family, Image, attestation_manifest, make_index, statement_descriptor,
};
use gateway_images::config::{FinishOptions, Timestamp, finish};
use gateway_images::media::Descriptor;
use gateway_images::purl;

use super::attestation::{self, Attested, Subject};
use super::cache::inline_records;
use super::options::{AnnotationPlace, ImageOptions};
use super::{Solved, SolvedImage, layers};
use crate::job::JobInner;
use crate::shared::Outcome;
use crate::solve::internal;

/// An image in the blob store.
pub struct Made {
    /// Of the manifest or index, with its platform where it has one.
    pub top: Descriptor,
    /// Of the only config.
    pub config: Option<Descriptor>,
    /// Time of the config, RFC 3339.
    pub created: Option<String>,
}

pub async fn make(
    job: &Arc<JobInner>,
    vertex: &str,
    solved: &Solved,
    options: &ImageOptions,
) -> Outcome<Made> {
    // Statements hang in an index, beside what they are about.
    let inline = |a: &Attested| options.attest_inline || !a.inline_only;
    let indexed = solved.map
        || solved
            .images
            .iter()
            .any(|image| image.attested.iter().any(inline));
    if indexed
        && options.family == Family::Docker
        && solved.images.iter().any(|image| !image.attested.is_empty())
    {
        return Err(Error::unknown(
            "cannot export attestations with \"oci-mediatypes=false\"",
        ));
    }
    for platform in options
        .annotations
        .iter()
        .filter_map(|a| a.platform.as_deref())
    {
        let alone = !solved.map || solved.images.len() == 1;
        if !alone && !solved.images.iter().any(|image| image.id == platform) {
            return Err(Error::unknown(format!(
                "invalid annotation: no platform {platform} found in source"
            )));
        }
    }
    if !indexed {
        let on_index = |a: &super::options::Annotation| {
            matches!(
                a.place,
                AnnotationPlace::Index | AnnotationPlace::IndexDescriptor
            )
        };
        if options.annotations.iter().any(on_index) {
            return Err(Error::unknown(
                "index annotations not supported for single platform export",
            ));
        }
    }
    let status = job.reports.status(vertex, "exporting layers", "");
    let ready = try_join_all(
        solved
            .images
            .iter()
            .map(|image| layers::ready(job, &image.snapshot, options)),
    )
    .await?;
    status.done();
    if solved.images.iter().any(|image| image.inline.is_some()) {
        let name = "preparing layers for inline cache";
        job.reports.status(vertex, name, "").done();
    }
    let mut manifests = Vec::new();
    let mut statements = Vec::new();
    let mut last: Option<(Descriptor, Option<String>)> = None;
    for (image, ready) in solved.images.iter().zip(ready) {
        // Without an index, a lone image has no platform that annotations could name.
        let id = match image.id.is_empty() && indexed {
            true => image.platform.normalized().to_string(),
            false => image.id.clone(),
        };
        let (made, created) = manifest(solved, image, &id, &ready, options)?;
        for what in [
            format!("exporting manifest {}", made.descriptor().digest),
            format!(
                "exporting config {}",
                made.config_descriptor()
                    .map(|d| d.digest.to_string())
                    .unwrap_or_default()
            ),
        ] {
            job.reports.status(vertex, what, "").done();
        }
        made.save(job.store().blobs()).map_err(internal)?;
        let mut descriptor = made.descriptor().clone();
        descriptor.platform = Some(image.platform.normalized());
        descriptor
            .annotations
            .extend(options.annotations(AnnotationPlace::ManifestDescriptor, &id));
        if let Some(config) = made.config_descriptor() {
            last = Some((config.clone(), created));
        }
        if indexed && !image.attested.is_empty() {
            statements.push(attest(job, vertex, image, &descriptor, options).await?);
        }
        manifests.push(descriptor);
    }
    manifests.extend(statements);
    if !indexed {
        let (config, created) =
            last.ok_or_else(|| Error::unknown("there is no result to export as an image"))?;
        let top = manifests
            .pop()
            .ok_or_else(|| Error::unknown("there is no result to export as an image"))?;
        return Ok(Made {
            top,
            config: Some(config),
            created,
        });
    }
    let index = make_index(
        manifests,
        options.family,
        options.annotations(AnnotationPlace::Index, ""),
    )
    .map_err(internal)?;
    job.store().blobs().put(&index.bytes).map_err(internal)?;
    let status = format!("exporting manifest list {}", index.descriptor.digest);
    job.reports.status(vertex, status, "").done();
    let mut top = index.descriptor;
    top.annotations
        .extend(options.annotations(AnnotationPlace::IndexDescriptor, ""));
    Ok(Made {
        top,
        config: None,
        created: last.and_then(|(_, created)| created),
    })
}

/// What is attested of one image, as an entry of its index.
async fn attest(
    job: &Arc<JobInner>,
    vertex: &str,
    image: &SolvedImage,
    descriptor: &Descriptor,
    options: &ImageOptions,
) -> Outcome<Descriptor> {
    let digest = &descriptor.digest;
    let results = options.names.iter().map(|name| Subject {
        name: purl::image(name, &image.platform),
        digest: [("sha256".to_owned(), digest.hex().to_owned())].into(),
    });
    let results: Vec<Subject> = results.collect();
    let blobs = job.store().blobs();
    let mut layers = Vec::new();
    for attested in attestation::told(job, &image.attested, options)
        .await?
        .iter()
    {
        let bytes = attested.statement(&results)?.to_bytes()?;
        blobs.put(&bytes).map_err(internal)?;
        layers.push(statement_descriptor(&bytes, &attested.predicate_type));
    }
    let (made, entry) =
        attestation_manifest(layers, descriptor, options.oci_artifact).map_err(internal)?;
    made.save(blobs).map_err(internal)?;
    let status = format!("exporting attestation manifest {}", entry.digest);
    job.reports.status(vertex, status, "").done();
    Ok(entry)
}

/// Config and manifest of one platform.
fn manifest(
    solved: &Solved,
    image: &SolvedImage,
    id: &str,
    ready: &[layers::ReadyLayer],
    options: &ImageOptions,
) -> Outcome<(Image, Option<String>)> {
    let cache = match &image.inline {
        Some(collected) => inline_records(collected, &image.snapshot)?,
        None => None,
    };
    let infos: Vec<_> = ready.iter().map(|layer| layer.info.clone()).collect();
    let config = finish(
        solved.metadata(metadata::IMAGE_CONFIG, &image.id),
        &infos,
        &image.platform,
        &FinishOptions {
            epoch: options.epoch.and_then(Timestamp::from_unix),
            base: solved.metadata(metadata::BASE_IMAGE_CONFIG, &image.id),
            inline_cache: cache.as_deref(),
        },
    )
    .map_err(|error| Error::unknown(error.to_string()))?;
    let value: serde_json::Value = serde_json::from_slice(&config).map_err(internal)?;
    let created = value
        .get("created")
        .and_then(|created| created.as_str())
        .map(str::to_owned);
    let descriptors: Vec<Descriptor> = ready.iter().map(|l| l.descriptor.clone()).collect();
    let made = Image::assemble(
        config,
        &descriptors,
        options.family,
        options.annotations(AnnotationPlace::Manifest, id),
    )
    .map_err(internal)?;
    Ok((made, created))
}
