//! Images of an OCI layout on the client's side: read where it lies, blobs copied when needed.

use std::sync::Arc;

use gateway_api::{Code, Error};
use gateway_images::archive::Layout;
use gateway_images::digest::Digest;
use gateway_images::media::{
    Descriptor, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, ParsedManifest, RawManifest,
};
use gateway_images::platform::Platform;
use gateway_images::reference::Reference;
use gateway_llb::pb;

use super::image::{self, ImageMeta};
use crate::job::JobInner;
use crate::key::{chain_id, image_key, source_digest};
use crate::live::{LiveVertex, VertexKey};
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Hold, Snapshot};

/// Indexes inside indexes: real ones have one level.
const MAX_INDEXES: usize = 4;

/// The name and digest of a reference; a tag says nothing without the client.
fn parse(reference: &str) -> Outcome<(Reference, Digest)> {
    let parsed = Reference::parse(reference)
        .map_err(|error| Error::invalid(format!("failed to parse {reference}: {error}")))?;
    match parsed.digest().cloned() {
        Some(digest) => Ok((parsed, digest)),
        None => Err(Error::unknown(format!(
            "reference {reference:?} must have digest"
        ))),
    }
}

/// A layout of the client, for as long as the second part is held.
async fn layout(job: &JobInner, store: &str, digest: &Digest) -> Outcome<(Layout, Hold)> {
    let digest = digest.to_string();
    let found = job.options.session.oci_store(store, &digest).await;
    let dir = found
        .map_err(|error| Error::unknown(error.to_string()))?
        .ok_or_else(|| {
            Error::new(
                Code::NotFound,
                format!("the client has no OCI layout {store:?}"),
            )
        })?;
    let layout = Layout::open(&dir.path)
        .map_err(|error| Error::unknown(format!("OCI layout {}: {error}", dir.path.display())))?;
    Ok((layout, Hold(dir.hold)))
}

/// Manifests and config of the image, brought into the blob store.
pub async fn resolve(
    job: &Arc<JobInner>,
    reference: &str,
    store: &str,
    platform: &pb::Platform,
) -> Outcome<Arc<ImageMeta>> {
    let (reference, digest) = parse(reference)?;
    let (layout, hold) = layout(job, store, &digest).await?;
    let wanted = image::platform_of(platform);
    let job = job.clone();
    let found =
        blocking(move || find(&job, &layout, &reference, digest, &wanted).map(Arc::new)).await;
    drop(hold);
    found
}

/// The image with this digest in the layout at `dir`, its layers to be read from there.
pub fn find_at(
    job: &JobInner,
    dir: &std::path::Path,
    reference: &Reference,
    root: Digest,
    platform: &Platform,
) -> Outcome<ImageMeta> {
    let layout = Layout::open(dir)
        .map_err(|error| Error::unknown(format!("OCI layout {}: {error}", dir.display())))?;
    let mut meta = find(job, &layout, reference, root, platform)?;
    meta.layout = Some(dir.to_owned());
    Ok(meta)
}

/// Brings one blob of a layout into the blob store.
pub async fn copy_blob(job: &Arc<JobInner>, store: &str, digest: &Digest) -> Outcome<()> {
    let (layout, hold) = layout(job, store, digest).await?;
    let (job, digest) = (job.clone(), digest.clone());
    blocking(move || {
        let _hold = hold;
        let failed = |error| Error::unknown(format!("OCI layout blob {digest}: {error}"));
        let size = layout.size(&digest).map_err(failed)?;
        let blob = Descriptor::new("", digest.clone(), size);
        layout.copy(job.store().blobs(), &blob).map_err(failed)
    })
    .await
}

fn find(
    job: &JobInner,
    layout: &Layout,
    reference: &Reference,
    root: Digest,
    platform: &Platform,
) -> Outcome<ImageMeta> {
    let blobs = job.store().blobs();
    let failed = |error: &dyn std::fmt::Display| {
        Error::unknown(format!("OCI layout image {reference}: {error}"))
    };
    let mut current = root.clone();
    for _ in 0..MAX_INDEXES {
        if !blobs.contains(&current) {
            let size = layout.size(&current).map_err(|e| failed(&e))?;
            if size > MAX_MANIFEST_BYTES {
                return Err(failed(&format!("manifest {current} is too large")));
            }
            layout
                .copy(blobs, &Descriptor::new("", current.clone(), size))
                .map_err(|e| failed(&e))?;
        }
        let bytes = blobs.read(&current, MAX_MANIFEST_BYTES).map_err(internal)?;
        let manifest = RawManifest::parse(bytes, None).map_err(|e| failed(&e))?;
        match manifest.parsed {
            ParsedManifest::Index(index) => {
                let chosen = platform
                    .choose(&index.manifests)
                    .map_err(|error| Error::new(Code::NotFound, error.to_string()))?;
                current = chosen.digest.clone();
            }
            ParsedManifest::Image(manifest) => {
                if manifest.config.size > MAX_CONFIG_BYTES {
                    return Err(failed(&"its config is too large"));
                }
                layout
                    .copy(blobs, &manifest.config)
                    .map_err(|e| failed(&e))?;
                let config = blobs
                    .read(&manifest.config.digest, MAX_CONFIG_BYTES)
                    .map_err(internal)?;
                return image::meta(reference, root, config, manifest.layers);
            }
        }
    }
    Err(failed(&"indexes are nested too deeply"))
}

fn attr<'a>(op: &'a pb::SourceOp, name: &str) -> &'a str {
    op.attrs.get(name).map_or("", String::as_str)
}

struct Source {
    meta: Arc<ImageMeta>,
    layout: Layout,
    _hold: Hold,
    limit: Option<i64>,
    kept: usize,
}

async fn source(
    job: &Arc<JobInner>,
    vertex: &LiveVertex,
    op: &pb::SourceOp,
    reference: &str,
) -> Outcome<Source> {
    let limit = image::layer_limit(attr(op, "oci.layerlimit"))?;
    let store = attr(op, "oci.store");
    let platform = job.platform(&vertex.op);
    let meta = resolve(job, reference, store, &platform).await?;
    let (layout, hold) = layout(job, store, &meta.root).await?;
    Ok(Source {
        kept: image::limited(&meta, limit)?,
        layout,
        _hold: hold,
        meta,
        limit,
    })
}

pub async fn keys(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
    reference: &str,
) -> Outcome<VertexKey> {
    let running = job.reports.start(&vertex.digest);
    let source = source(job, vertex, op, reference).await;
    running.finish(&source);
    let Source {
        meta, limit, kept, ..
    } = source?;
    let platform = job.platform(&vertex.op);
    let first = image_key(&meta.root.to_string(), &platform, limit);
    let mut keys = vec![source_digest(&first)];
    if let Some(chain) = chain_id(meta.diff_ids.get(..kept).unwrap_or(&meta.diff_ids)) {
        keys.push(source_digest(&chain));
    }
    Ok(VertexKey::Source(keys))
}

/// The blobs are copied now: the directory is the client's, and may be gone when a step needs them.
pub async fn run(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
    reference: &str,
) -> Outcome<Vec<Snapshot>> {
    let source = source(job, vertex, op, reference).await?;
    let snapshot = image::snapshot(job, &source.meta, source.kept, &vertex.digest, "")?;
    let store = job.store();
    if snapshot
        .layers
        .iter()
        .all(|layer| store.has_layer(&layer.id))
    {
        job.reports.cached(&vertex.digest);
        return Ok(vec![snapshot]);
    }
    let running = job.reports.start(&vertex.digest);
    let inner = job.clone();
    let copied = blocking(move || {
        for blob in source.meta.layers.iter().take(source.kept) {
            source
                .layout
                .copy(inner.store().blobs(), blob)
                .map_err(|error| {
                    Error::unknown(format!(
                        "OCI layout image {}: {error}",
                        source.meta.reference
                    ))
                })?;
        }
        Ok(())
    })
    .await;
    running.finish(&copied);
    copied?;
    Ok(vec![snapshot])
}
