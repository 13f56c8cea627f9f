//! Images as sources: resolved when keyed, their layers fetched when first needed.

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, try_join_all};
use gateway_api::{Code, Error};
use gateway_images::digest::Digest;
use gateway_images::layer::{OpaqueXattr, UnpackError, UnpackOptions, unpack};
use gateway_images::media::{
    Descriptor, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, ParsedManifest, RawManifest,
};
use gateway_images::platform::Platform;
use gateway_images::reference::Reference;
use gateway_images::registry::{RegistryError, error_page};
use gateway_images::store::Follower;
use gateway_llb::pb;
use tokio::sync::oneshot;

use crate::job::JobInner;
use crate::key::{chain_id, digest_of, image_key, source_digest};
use crate::live::{LiveVertex, VertexKey};
use crate::shared::{Outcome, blocking, spawn_shared};
use crate::solve::internal;
use crate::store::{Layer, LayerRecord, LazyBlob, Snapshot};
use crate::view::in_user_namespace;

/// All about an image but the bytes of its layers.
#[derive(Debug, Clone)]
pub struct ImageMeta {
    /// What the reference named: an index or the manifest.
    pub root: Digest,
    pub config: Vec<u8>,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
    pub diff_ids: Vec<String>,
    /// Normalised, without a digest that was not asked for.
    pub reference: String,
    /// What the registry made us do otherwise than usual: mirrors passed over, guessed types.
    pub notices: Vec<String>,
    /// The OCI layout with its blobs, when no registry is asked for them.
    pub layout: Option<PathBuf>,
}

/// Where an image is looked for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResolveMode {
    /// The registry; what is stored when it cannot be reached.
    Default,
    Pull,
    /// What is stored, by name; else the registry.
    PreferLocal,
}

impl ResolveMode {
    pub fn parse(text: &str) -> Outcome<Self> {
        match text {
            "" | "default" => Ok(ResolveMode::Default),
            "pull" => Ok(ResolveMode::Pull),
            "local" => Ok(ResolveMode::PreferLocal),
            other => Err(Error::unknown(format!("invalid resolvemode: {other}"))),
        }
    }
}

pub fn platform_of(platform: &pb::Platform) -> Platform {
    Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
        variant: platform.variant.clone(),
    }
}

pub fn parse(reference: &str) -> Outcome<Reference> {
    Reference::parse(reference)
        .map_err(|error| Error::invalid(format!("failed to parse image {reference}: {error}")))
}

/// The reference in full, for texts; as it was given when it is none.
pub fn canonical(reference: &str) -> String {
    Reference::parse(reference).map_or_else(|_| reference.to_owned(), |parsed| parsed.to_string())
}

/// A registry's failure: the reference client's line as the message, the rest as help.
pub fn registry_error(error: &RegistryError) -> Error {
    let code = match error.is_not_found() {
        true => Code::NotFound,
        false => Code::Unknown,
    };
    let page = error_page(error);
    let text = match error {
        // The caller says which image.
        RegistryError::NoMatch { source, .. } => source.to_string(),
        _ => error.to_string(),
    };
    let mut failure = Error::new(code, text);
    if !error.is_local() {
        failure = failure.caused_by(gateway_api::Cause::Registry);
    }
    match page.split_once('\n') {
        Some((_, help)) if !help.is_empty() => failure.with_help(help),
        _ => failure,
    }
}

/// Resolves once per build and mode.
pub async fn resolve(
    job: &Arc<JobInner>,
    reference: &str,
    platform: &pb::Platform,
    mode: ResolveMode,
) -> Outcome<Arc<ImageMeta>> {
    let reference = parse(reference)?;
    let wanted = platform_of(platform);
    let key = (reference.to_string(), wanted.to_string(), mode);
    let work = {
        let mut images = job.images();
        match images.get(&key) {
            Some(work) => work.clone(),
            None => {
                let inner = job.clone();
                let work = spawn_shared(async move {
                    inner
                        .until_cancelled(find(&inner, &reference, &wanted, mode))
                        .await
                        .map(Arc::new)
                });
                images.insert(key, work.clone());
                work
            }
        }
    };
    work.await
}

/// As the build's pins say, if it has some.
async fn find(
    job: &Arc<JobInner>,
    reference: &Reference,
    platform: &Platform,
    mode: ResolveMode,
) -> Outcome<ImageMeta> {
    let Some(pins) = &job.options.pins else {
        return look_up(job, reference, platform, mode).await;
    };
    let meta = match pins.image(reference)? {
        None => look_up(job, reference, platform, mode).await?,
        Some(digest) => {
            let pinned = reference.with_digest(digest.clone());
            let found = match pins.layout() {
                Some(dir) => in_layout(job, dir, reference, digest.clone(), platform).await,
                None => look_up(job, &pinned, platform, mode).await,
            };
            let mut meta = found.map_err(|error| {
                pins.drifted(error, &reference.to_string(), &digest.to_string())
            })?;
            // It goes by the name that was asked for, as without pins.
            meta.reference = reference.to_string();
            meta
        }
    };
    pins.took_image(reference, &meta.root, &platform.to_string());
    Ok(meta)
}

async fn in_layout(
    job: &Arc<JobInner>,
    dir: &std::path::Path,
    reference: &Reference,
    digest: Digest,
    platform: &Platform,
) -> Outcome<ImageMeta> {
    let (job, dir, reference, platform) = (
        job.clone(),
        dir.to_owned(),
        reference.clone(),
        platform.clone(),
    );
    blocking(move || super::oci_layout::find_at(&job, &dir, &reference, digest, &platform)).await
}

async fn look_up(
    job: &Arc<JobInner>,
    reference: &Reference,
    platform: &Platform,
    mode: ResolveMode,
) -> Outcome<ImageMeta> {
    // A digest says all: what is stored under it cannot be stale.
    if let Some(digest) = reference.digest()
        && let Some(meta) = stored(job, reference, digest, platform)?
    {
        return Ok(meta);
    }
    let named = || -> Outcome<Option<ImageMeta>> {
        if reference.digest().is_some() {
            return Ok(None);
        }
        let record = job
            .store()
            .db()
            .image(&reference.to_string())
            .map_err(internal)?;
        match record.map(|record| record.digest.parse::<Digest>()) {
            Some(Ok(digest)) => stored(job, reference, &digest, platform),
            _ => Ok(None),
        }
    };
    if mode == ResolveMode::PreferLocal
        && let Some(meta) = named()?
    {
        return Ok(meta);
    }
    match fetch(job, reference, platform).await {
        Ok(meta) => Ok(meta),
        Err(error) => match mode {
            ResolveMode::Default => named()?.ok_or(error),
            _ => Err(error),
        },
    }
}

async fn fetch(
    job: &Arc<JobInner>,
    reference: &Reference,
    platform: &Platform,
) -> Outcome<ImageMeta> {
    let registries = job.logged_in();
    let failed = |error: RegistryError| registry_error(&error);
    let blobs = job.store().blobs();
    // What the tag named last time is asked with a HEAD, which registries do not count as a pull.
    let known = last_named(job, reference)?;
    if let Some(digest) = &known {
        if registries.is_offline() {
            return match stored(job, reference, digest, platform)? {
                Some(mut meta) => {
                    meta.notices = vec![format!(
                        "{reference}: offline, what the tag named when it was last asked for is used"
                    )];
                    Ok(meta)
                }
                None => Err(failed(RegistryError::Offline {
                    reference: reference.to_string(),
                })),
            };
        }
        if blobs.contains(digest)
            && let Some(mut meta) = stored(job, reference, digest, platform)?
            && registries
                .resolve_changed(reference, digest)
                .await
                .map_err(failed)?
                .is_none()
        {
            meta.notices = registries.take_notices();
            return Ok(meta);
        }
    }
    let resolved = registries.resolve(reference).await.map_err(failed)?;
    if reference.digest().is_none() && known.as_ref() != Some(&resolved.root.descriptor.digest) {
        let digest = resolved.root.descriptor.digest.to_string();
        job.store()
            .db()
            .set_state(&tag_state(reference), &digest)
            .map_err(internal)?;
    }
    blobs.put(&resolved.root.bytes).map_err(internal)?;
    // A tag that still names what is held needs nothing more from the network.
    if let Some(mut meta) = stored(job, reference, &resolved.root.descriptor.digest, platform)? {
        meta.notices = resolved.notices;
        return Ok(meta);
    }
    let found = registries
        .image_of(resolved, platform)
        .await
        .map_err(failed)?;
    for bytes in [&found.manifest.bytes, &found.config_bytes] {
        blobs.put(bytes).map_err(internal)?;
    }
    let mut meta = meta(
        reference,
        found.root.descriptor.digest.clone(),
        found.config_bytes.to_vec(),
        found.layers,
    )?;
    meta.notices = found.notices;
    Ok(meta)
}

/// Under which a tag's last digest is kept.
fn tag_state(reference: &Reference) -> String {
    format!("tag {reference}")
}

/// What a tag named when a registry was last asked.
fn last_named(job: &Arc<JobInner>, reference: &Reference) -> Outcome<Option<Digest>> {
    if reference.digest().is_some() {
        return Ok(None);
    }
    let state = job.store().db().state(&tag_state(reference));
    Ok(state
        .map_err(internal)?
        .and_then(|digest| digest.parse().ok()))
}

/// The image from manifests and config in the blob store; `None` when one is not there.
fn stored(
    job: &Arc<JobInner>,
    reference: &Reference,
    digest: &Digest,
    platform: &Platform,
) -> Outcome<Option<ImageMeta>> {
    let blobs = job.store().blobs();
    let mut current = digest.clone();
    // Indexes inside indexes: real ones have one level.
    for _ in 0..4 {
        if !blobs.contains(&current) {
            return Ok(None);
        }
        let bytes = blobs.read(&current, MAX_MANIFEST_BYTES).map_err(internal)?;
        let raw = RawManifest::parse(bytes, None).map_err(internal)?;
        match raw.parsed {
            ParsedManifest::Index(index) => {
                let chosen = platform
                    .choose(&index.manifests)
                    .map_err(|error| Error::new(Code::NotFound, error.to_string()))?;
                current = chosen.digest.clone();
            }
            ParsedManifest::Image(manifest) => {
                if !blobs.contains(&manifest.config.digest) {
                    return Ok(None);
                }
                let config = blobs
                    .read(&manifest.config.digest, MAX_CONFIG_BYTES)
                    .map_err(internal)?;
                return meta(reference, digest.clone(), config, manifest.layers).map(Some);
            }
        }
    }
    Ok(None)
}

/// An image of its manifest's parts.
pub fn meta(
    reference: &Reference,
    root: Digest,
    config: Vec<u8>,
    layers: Vec<Descriptor>,
) -> Outcome<ImageMeta> {
    #[derive(serde::Deserialize, Default)]
    struct Config {
        #[serde(default)]
        rootfs: RootFs,
    }
    #[derive(serde::Deserialize, Default)]
    struct RootFs {
        #[serde(default)]
        diff_ids: Vec<String>,
    }
    let parsed: Config = serde_json::from_slice(&config)
        .map_err(|error| Error::unknown(format!("image config of {reference}: {error}")))?;
    Ok(ImageMeta {
        root,
        config,
        layers,
        diff_ids: parsed.rootfs.diff_ids,
        reference: reference.to_string(),
        notices: Vec::new(),
        layout: None,
    })
}

/// How many layers are taken: a positive number, or all.
pub fn layer_limit(text: &str) -> Outcome<Option<i64>> {
    match text {
        "" => Ok(None),
        text => match text.parse::<i64>() {
            Ok(limit) if limit > 0 => Ok(Some(limit)),
            _ => Err(Error::unknown(format!("invalid layer limit {text}"))),
        },
    }
}

/// The attributes of the source, read.
async fn resolve_op(
    job: &Arc<JobInner>,
    vertex: &LiveVertex,
    op: &pb::SourceOp,
    reference: &str,
) -> Outcome<(Arc<ImageMeta>, Option<i64>)> {
    let mode = ResolveMode::parse(attr(op, "image.resolvemode"))?;
    let limit = layer_limit(attr(op, "image.layerlimit"))?;
    let kind = attr(op, "image.recordtype");
    if !matches!(kind, "" | "regular" | "internal" | "frontend") {
        return Err(Error::unknown(format!("invalid record type {kind}")));
    }
    let platform = job.platform(&vertex.op);
    let meta = resolve(job, reference, &platform, mode).await?;
    let checksum = attr(op, "image.checksum");
    if !checksum.is_empty() && checksum != meta.root.to_string() {
        return Err(Error::unknown(format!(
            "image digest {} for {} does not match expected checksum {checksum}",
            meta.root, meta.reference
        )));
    }
    Ok((meta, limit))
}

fn attr<'a>(op: &'a pb::SourceOp, name: &str) -> &'a str {
    op.attrs.get(name).map_or("", String::as_str)
}

/// Both keys of an image: what the reference resolved to, and its layers.
pub async fn keys(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
    reference: &str,
) -> Outcome<VertexKey> {
    let running = job.reports.start(&vertex.digest);
    let status = job
        .reports
        .status(&vertex.digest, format!("resolve {reference}"), "");
    let resolved = resolve_op(job, vertex, op, reference).await;
    status.done();
    running.finish(&resolved);
    let (meta, limit) = resolved?;
    let platform = job.platform(&vertex.op);
    let first = image_key(&meta.root.to_string(), &platform, limit);
    let mut keys = vec![source_digest(&first)];
    let kept = limited(&meta, limit)?;
    if let Some(chain) = chain_id(meta.diff_ids.get(..kept).unwrap_or(&meta.diff_ids)) {
        keys.push(source_digest(&chain));
    }
    Ok(VertexKey::Source(keys))
}

/// How many layers that are.
pub fn limited(meta: &ImageMeta, limit: Option<i64>) -> Outcome<usize> {
    let count = meta.layers.len();
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
        return Ok(count);
    };
    if limit > count {
        return Err(Error::unknown(format!(
            "layer limit {limit} is greater than the {count} layers of {}",
            meta.reference
        )));
    }
    Ok(limit)
}

/// The layers as they are: those not here are fetched by whoever needs them.
pub async fn run(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
    reference: &str,
) -> Outcome<Vec<Snapshot>> {
    let (meta, limit) = resolve_op(job, vertex, op, reference).await?;
    let kept = limited(&meta, limit)?;
    let kind = attr(op, "image.recordtype");
    let snapshot = snapshot(job, &meta, kept, &vertex.digest, kind)?;
    let here = snapshot
        .layers
        .iter()
        .all(|layer| job.store().has_layer(&layer.id));
    if here {
        job.reports.cached(&vertex.digest);
    }
    Ok(vec![snapshot])
}

/// The layers of an image that this build resolved, without a word to the progress.
pub async fn layers_of(
    job: &Arc<JobInner>,
    vertex: &LiveVertex,
    op: &pb::SourceOp,
    reference: &str,
) -> Outcome<Snapshot> {
    let (meta, limit) = resolve_op(job, vertex, op, reference).await?;
    let kept = limited(&meta, limit)?;
    let kind = attr(op, "image.recordtype");
    snapshot(job, &meta, kept, &vertex.digest, kind)
}

/// The first `kept` layers of an image as a snapshot; `kind` is what usage lists call them.
pub fn snapshot(
    job: &Arc<JobInner>,
    meta: &ImageMeta,
    kept: usize,
    vertex: &str,
    kind: &str,
) -> Outcome<Snapshot> {
    if meta.layers.len() != meta.diff_ids.len() {
        return Err(Error::unknown(format!(
            "image {} has {} layers, its config names {}",
            meta.reference,
            meta.layers.len(),
            meta.diff_ids.len()
        )));
    }
    let mut chain: Option<String> = None;
    let mut base: Vec<String> = Vec::new();
    let mut layers = Vec::new();
    for (descriptor, diff_id) in meta.layers.iter().zip(&meta.diff_ids).take(kept) {
        let id = match &chain {
            None => diff_id.clone(),
            Some(below) => digest_of(format!("{below} {diff_id}").as_bytes()),
        };
        let layer = Layer {
            id: id.clone(),
            lazy: Some(Arc::new(LazyBlob {
                descriptor: descriptor.clone(),
                diff_id: diff_id.clone(),
                reference: meta.reference.clone(),
                file: meta.layout.as_ref().map(|dir| {
                    let hex = descriptor.digest.hex();
                    dir.join("blobs/sha256").join(hex)
                }),
                remote: None,
                base: base.clone(),
                vertex: vertex.to_owned(),
                kind: kind.to_owned(),
            })),
            local: None,
        };
        job.remember_lazy(&layer);
        layers.push(layer);
        base.push(id.clone());
        chain = Some(id);
    }
    Ok(Snapshot::new(layers))
}

/// Fetches and unpacks what is not here of a snapshot, all layers at once.
pub async fn ensure(job: &Arc<JobInner>, snapshot: &Snapshot) -> Outcome<()> {
    for files in snapshot.layers.iter().filter_map(|l| l.local.as_ref()) {
        super::local::copied(job, files).await?;
    }
    let missing: Vec<Layer> = snapshot
        .layers
        .iter()
        .filter(|layer| layer.local.is_none() && !job.store().has_layer(&layer.id))
        .cloned()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let works: Vec<_> = missing
        .iter()
        .map(|layer| {
            let mut pulls = job.pulls();
            if let Some(work) = pulls.get(&layer.id) {
                return work.clone();
            }
            let (inner, layer) = (job.clone(), layer.clone());
            let id = layer.id.clone();
            let work =
                spawn_shared(
                    async move { inner.until_cancelled(ensure_layer(&inner, &layer)).await },
                );
            pulls.insert(id, work.clone());
            work
        })
        .collect();
    let vertex = missing
        .iter()
        .find_map(|layer| layer.lazy.as_ref().map(|lazy| lazy.vertex.clone()));
    let running = vertex.as_ref().map(|vertex| job.reports.start(vertex));
    let outcome = try_join_all(works).await;
    if let Some(running) = running {
        running.finish(&outcome);
    }
    outcome.map(drop)
}

/// The same behind a type of its own: layers wait for layers.
fn ensure_below(job: Arc<JobInner>, below: Snapshot) -> BoxFuture<'static, Outcome<()>> {
    Box::pin(async move { ensure(&job, &below).await })
}

async fn ensure_layer(job: &Arc<JobInner>, layer: &Layer) -> Outcome<()> {
    let lazy = layer.lazy.clone().ok_or_else(|| {
        Error::new(
            Code::NotFound,
            format!("layer {} is gone from the store", layer.id),
        )
    })?;
    let lock = job.store().lock(&layer.id).await.map_err(internal)?;
    if job.store().has_layer(&layer.id) {
        return Ok(());
    }
    let parents: Vec<Layer> = lazy
        .base
        .iter()
        .filter_map(|id| job.lazy_layer(id))
        .collect();
    // Unpacked while they come; the layer appears only when the transfer has found them to be right.
    let (follow, followed) = oneshot::channel();
    let on_the_way = async {
        let follower = followed.await.ok()?;
        Some(extract(job, layer, &lazy, None, Source::Transfer(follower)).await)
    };
    let (downloaded, on_the_way) =
        tokio::join!(download_followed(job, &lazy, Some(follow)), on_the_way);
    downloaded?;
    let alone = match on_the_way {
        Some(outcome @ (Ok(()) | Err(Extract::NeedsParents))) => outcome,
        // It was here; or wrong bytes of one host went through before another sent the right ones.
        Some(Err(Extract::Failed(_))) | None => {
            extract(job, layer, &lazy, None, Source::Blob).await
        }
    };
    match alone {
        Ok(()) => {}
        Err(Extract::NeedsParents) => {
            // Only now the layers below are waited for; without them nothing is copied from there.
            let below = Snapshot::new(parents);
            ensure_below(job.clone(), below.clone()).await?;
            extract(job, layer, &lazy, Some(below), Source::Blob)
                .await
                .map_err(Extract::into_error)?;
        }
        Err(error) => return Err(error.into_error()),
    }
    drop(lock);
    Ok(())
}

/// Where the bytes of a layer are.
enum Source {
    Blob,
    /// On their way here.
    Transfer(Follower),
}

enum Extract {
    NeedsParents,
    Failed(Error),
}

impl Extract {
    fn into_error(self) -> Error {
        match self {
            Extract::NeedsParents => Error::unknown("layer refers to layers that are not below it"),
            Extract::Failed(error) => error,
        }
    }
}

async fn extract(
    job: &Arc<JobInner>,
    layer: &Layer,
    lazy: &Arc<LazyBlob>,
    below: Option<Snapshot>,
    source: Source,
) -> Result<(), Extract> {
    // Never closed.
    let _permit = job.solver().unpacking().acquire().await;
    let status = job.reports.status(
        &lazy.vertex,
        format!("extracting {}", lazy.descriptor.digest),
        "extracting",
    );
    let (job, layer, lazy) = (job.clone(), layer.clone(), lazy.clone());
    let outcome = blocking(move || {
        let store = job.store();
        let work = store.work_dir().map_err(internal)?;
        let dest = work.path().join("fs");
        let blob: Box<dyn Read + Send> = match source {
            Source::Transfer(follower) => Box::new(follower),
            Source::Blob => {
                let digest = &lazy.descriptor.digest;
                Box::new(store.blobs().reader(digest).map_err(internal)?)
            }
        };
        let parents = match (&below, lazy.base.is_empty()) {
            (_, true) => Some(Vec::new()),
            (Some(below), false) => Some(store.lowers(below)),
            (None, false) => None,
        };
        let options = UnpackOptions {
            opaque: match in_user_namespace() {
                true => OpaqueXattr::User,
                false => OpaqueXattr::Trusted,
            },
            parents: parents.as_deref(),
            diff_id: Some(lazy.diff_id.parse().map_err(internal)?),
            ..UnpackOptions::default()
        };
        let report = match unpack(blob, &dest, &options) {
            Ok(report) => report,
            Err(UnpackError::NeedsParents { .. }) => return Ok(false),
            Err(error) => {
                return Err(Error::unknown(format!(
                    "failed to extract layer {}: {error}",
                    lazy.descriptor.digest
                )));
            }
        };
        store
            .add_layer(&LayerRecord {
                id: layer.id.clone(),
                base: lazy.base.clone(),
                description: format!("pulled from {}", lazy.reference),
                created_at: time::OffsetDateTime::now_utc().unix_timestamp(),
                opaque_root: report.opaque_root,
                kind: lazy.kind.clone(),
            })
            .map_err(internal)?;
        store
            .db()
            .add_variant(
                &layer.id,
                crate::export::ANY_FORM,
                &crate::export::pulled(&lazy),
            )
            .map_err(internal)?;
        if report.opaque_root {
            store.mark_opaque_root(&layer.id).map_err(internal)?;
        }
        store.commit_layer(&dest, &layer.id).map_err(internal)?;
        Ok(true)
    })
    .await;
    match outcome {
        Ok(true) => {
            status.done();
            Ok(())
        }
        Ok(false) => Err(Extract::NeedsParents),
        Err(error) => Err(Extract::Failed(error)),
    }
}

/// Brings a layer's blob into the blob store.
pub async fn download(job: &Arc<JobInner>, lazy: &LazyBlob) -> Outcome<()> {
    download_followed(job, lazy, None).await
}

/// The same, with a reader of the bytes on their way for `follow`; dropped when there is none.
async fn download_followed(
    job: &Arc<JobInner>,
    lazy: &LazyBlob,
    follow: Option<oneshot::Sender<Follower>>,
) -> Outcome<()> {
    let blobs = job.store().blobs();
    let descriptor = &lazy.descriptor;
    if blobs.contains(&descriptor.digest) {
        return Ok(());
    }
    let mut status = job.reports.status_of(
        &lazy.vertex,
        descriptor.digest.to_string(),
        "",
        descriptor.size,
    );
    if let Some(file) = lazy.file.clone() {
        let copied = copy_in(job, file, descriptor).await;
        copied.map_err(|error| match &job.options.pins {
            Some(pins) => pins.drifted(error, &lazy.reference, &descriptor.digest.to_string()),
            None => error,
        })?;
        status.update(descriptor.size, descriptor.size);
        status.done();
        return Ok(());
    }
    let shown = Mutex::new((status, Instant::now()));
    let progress = |bytes| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.1.elapsed() >= PROGRESS_INTERVAL {
            shown.0.update(bytes, descriptor.size);
            shown.1 = Instant::now();
        }
    };
    if let Some(remote) = &lazy.remote {
        let fetched = remote.fetch(descriptor, blobs, &progress).await;
        fetched.map_err(|error| {
            let error = Error::unknown(error.to_string());
            error.context(format!("failed to copy: {}", descriptor.digest))
        })?;
        let (mut status, _) = shown.into_inner().unwrap_or_else(PoisonError::into_inner);
        status.update(descriptor.size, descriptor.size);
        status.done();
        return Ok(());
    }
    let reference = parse(&lazy.reference)?;
    let wanted = follow.is_some();
    let follow = Mutex::new(follow);
    let followed = |follower| {
        let mut follow = follow.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(follow) = follow.take() {
            // Who does not wait for it any more reads the blob.
            let _ = follow.send(follower);
        }
    };
    let followed: &(dyn Fn(Follower) + Send + Sync) = &followed;
    job.registries(&reference)
        .fetch_followed(
            &reference,
            descriptor,
            blobs,
            &progress,
            wanted.then_some(followed),
        )
        .await
        .map_err(|error| {
            registry_error(&error).context(format!("failed to copy: {}", descriptor.digest))
        })?;
    let (mut status, _) = shown.into_inner().unwrap_or_else(PoisonError::into_inner);
    for notice in job.logged_in().take_notices() {
        let line = format!("{notice}\n").into_bytes();
        job.reports.log(&lazy.vertex, STDERR, line);
    }
    status.update(descriptor.size, descriptor.size);
    status.done();
    Ok(())
}

/// Copies a blob from a file; other bytes than the descriptor's are refused.
async fn copy_in(job: &Arc<JobInner>, file: PathBuf, descriptor: &Descriptor) -> Outcome<()> {
    let (job, descriptor) = (job.clone(), descriptor.clone());
    blocking(move || {
        let failed =
            |error: String| Error::unknown(format!("failed to copy {}: {error}", file.display()));
        let source = std::fs::File::open(&file).map_err(|error| failed(error.to_string()))?;
        // One byte more than expected is enough to refuse it.
        let mut source = source.take(descriptor.size.saturating_add(1));
        let mut writer = job.store().blobs().writer().map_err(internal)?;
        std::io::copy(&mut source, &mut writer).map_err(|error| failed(error.to_string()))?;
        writer
            .commit_as(&descriptor.digest, descriptor.size)
            .map_err(|error| failed(error.to_string()))
            .map(drop)
    })
    .await
}

/// The stream that notices are shown on.
const STDERR: i64 = 2;

/// As observed with BuildKit.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(150);
