//! Layers as blobs: made when an exporter needs them, remembered in each form.

use std::sync::Arc;

use futures_util::future::try_join_all;
use gateway_api::Error;
use gateway_images::config::{LayerInfo, Timestamp};
use gateway_images::layer::estargz::Estargz;
use gateway_images::layer::{
    CompressOptions, Compression, DiffOptions, LayerBlob, diff, recompress, write_layer,
};
use gateway_images::media::{Descriptor, distributable, essence};

use super::form::{ANY_FORM, annotations_of, estargz_type, pulled};
use super::options::ImageOptions;
use super::splice::Changes;
use crate::fs::Root;
use crate::job::JobInner;
use crate::ops::image;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Layer, Snapshot, Store, VariantRecord, derived_from};
use crate::view::View;

/// A layer ready for an image.
pub struct ReadyLayer {
    pub descriptor: Descriptor,
    pub info: LayerInfo,
}

/// All layers of a snapshot, lowest first, made at once.
pub async fn ready(
    job: &Arc<JobInner>,
    snapshot: &Snapshot,
    options: &ImageOptions,
) -> Outcome<Vec<ReadyLayer>> {
    // A local source that was never copied has no layer yet.
    for files in snapshot.layers.iter().filter_map(|l| l.local.as_ref()) {
        crate::ops::local::copied(job, files).await?;
    }
    let works = (0..snapshot.layers.len()).map(|index| ready_layer(job, snapshot, index, options));
    try_join_all(works).await
}

async fn ready_layer(
    job: &Arc<JobInner>,
    snapshot: &Snapshot,
    index: usize,
    options: &ImageOptions,
) -> Outcome<ReadyLayer> {
    let layer = snapshot
        .layers
        .get(index)
        .cloned()
        .ok_or_else(|| Error::unknown("a layer is missing"))?;
    let variant = variant(job, snapshot, index, &layer, options).await?;
    described(job, &layer, variant)
}

/// The layers of a snapshot if their blobs all exist, lowest first. Makes and fetches nothing.
pub fn known(
    job: &Arc<JobInner>,
    snapshot: &Snapshot,
    options: &ImageOptions,
) -> Outcome<Option<Vec<ReadyLayer>>> {
    let mut ready = Vec::with_capacity(snapshot.layers.len());
    for layer in snapshot.layers.iter() {
        let Some(variant) = known_variant(job, layer, options)? else {
            return Ok(None);
        };
        ready.push(described(job, layer, variant)?);
    }
    Ok(Some(ready))
}

fn known_variant(
    job: &JobInner,
    layer: &Layer,
    options: &ImageOptions,
) -> Outcome<Option<VariantRecord>> {
    if let Some(lazy) = &layer.lazy {
        let pulled = pulled(lazy);
        let here = options.may_be_lazy() || job.store().blobs().contains(&lazy.descriptor.digest);
        if here && !must_recompress(&pulled, options) {
            return Ok(Some(pulled));
        }
    }
    let any = stored_variant(job, layer, ANY_FORM)?;
    if let Some(variant) = &any
        && !must_recompress(variant, options)
    {
        return Ok(any);
    }
    let pulled = layer.lazy.is_some() || any.is_some();
    stored_variant(job, layer, &form(options, pulled))
}

/// A form of a layer whose blob is here.
fn stored_variant(job: &JobInner, layer: &Layer, form: &str) -> Outcome<Option<VariantRecord>> {
    let store = job.store();
    let variant = store.db().variant(&layer.id, form).map_err(internal)?;
    Ok(variant.filter(|variant| {
        let digest = variant.digest.parse();
        digest.is_ok_and(|digest| store.blobs().contains(&digest))
    }))
}

fn described(job: &JobInner, layer: &Layer, variant: VariantRecord) -> Outcome<ReadyLayer> {
    let record = job.store().db().layer(&layer.id).map_err(internal)?;
    // A layer that its image leaves elsewhere comes along, under a name that says that it may.
    let mut descriptor = Descriptor::new(
        distributable(&essence(&variant.media_type)),
        variant.digest.parse().map_err(internal)?,
        variant.size,
    );
    descriptor.annotations = annotations_of(&variant.media_type);
    Ok(ReadyLayer {
        descriptor,
        info: LayerInfo {
            diff_id: variant.diff_id.parse().map_err(internal)?,
            created: record
                .as_ref()
                .and_then(|record| Timestamp::from_unix(record.created_at)),
            description: record.map(|record| record.description),
        },
    })
}

/// The name of a form: everything that makes its bytes differ. Times in pulled layers stay.
fn form(options: &ImageOptions, pulled: bool) -> String {
    let kind = match options.compression.compression {
        Compression::None => "tar",
        Compression::Gzip if options.compression.estargz => "estargz",
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
    };
    let mut form = kind.to_owned();
    if let Some(level) = options.compression.level {
        form.push_str(&format!("-{level}"));
    }
    if let (true, Some(epoch)) = (options.rewrite_timestamp && !pulled, options.epoch) {
        form.push_str(&format!("-epoch{epoch}"));
    }
    form
}

async fn variant(
    job: &Arc<JobInner>,
    snapshot: &Snapshot,
    index: usize,
    layer: &Layer,
    options: &ImageOptions,
) -> Outcome<VariantRecord> {
    if let Some(lazy) = &layer.lazy {
        let pulled = pulled(lazy);
        if !must_recompress(&pulled, options) {
            if !options.may_be_lazy() {
                image::download(job, lazy).await?;
            }
            return Ok(pulled);
        }
    }
    let store = job.store();
    let known = |form: &str| stored_variant(job, layer, form);
    let pulled = match &layer.lazy {
        Some(_) => true,
        None => {
            let pulled = known(ANY_FORM)?;
            if let Some(variant) = &pulled
                && !must_recompress(variant, options)
            {
                return Ok(variant.clone());
            }
            pulled.is_some()
        }
    };
    let form = form(options, pulled);
    if let Some(variant) = known(&form)? {
        return Ok(variant);
    }
    let _lock = store
        .lock(&crate::key::digest_of(
            format!("{}\0{form}", layer.id).as_bytes(),
        ))
        .await
        .map_err(internal)?;
    if let Some(variant) = known(&form)? {
        return Ok(variant);
    }
    if pulled {
        return recompressed(job, layer, options, form).await;
    }
    make(job, snapshot, index, layer, options, form).await
}

/// Pulled layers stay as they are unless another compression is forced on them.
fn must_recompress(pulled: &VariantRecord, options: &ImageOptions) -> bool {
    let media_type = essence(&pulled.media_type);
    if options.force && options.compression.estargz {
        return annotations_of(&pulled.media_type).is_empty();
    }
    let kind = if media_type.ends_with("gzip") {
        Compression::Gzip
    } else if media_type.ends_with("zstd") {
        Compression::Zstd
    } else {
        Compression::None
    };
    options.force && kind != options.compression.compression
}

/// A pulled layer in another compression: the same tar, so the same diffID.
async fn recompressed(
    job: &Arc<JobInner>,
    layer: &Layer,
    options: &ImageOptions,
    form: String,
) -> Outcome<VariantRecord> {
    if let Some(lazy) = &layer.lazy {
        image::download(job, lazy).await?;
    }
    let known = job.store().db().variant(&layer.id, ANY_FORM);
    let (digest, diff_id) = match (&layer.lazy, known.map_err(internal)?) {
        (Some(lazy), _) => (lazy.descriptor.digest.to_string(), lazy.diff_id.clone()),
        (None, Some(pulled)) => (pulled.digest, pulled.diff_id),
        (None, None) => return Err(Error::unknown(format!("layer {} is gone", layer.id))),
    };
    let digest = digest.parse().map_err(internal)?;
    // Never closed.
    let _permit = job.solver().packing().acquire().await;
    let (store, id, compression) = (job.store().clone(), layer.id.clone(), options.compression);
    blocking(move || {
        let blob = recompress(store.blobs(), &digest, &compression)
            .map_err(|error| Error::unknown(format!("failed to recompress {digest}: {error}")))?;
        let tar = blob.toc.as_ref().map_or(&blob.diff_id, |toc| &toc.tar);
        // Of an eStargz layer that is packed anew only the part in front of the table of contents was read.
        let was_estargz = || {
            let pulled = store.blobs().reader(&digest).ok();
            compression.estargz
                && pulled.is_some_and(|blob| matches!(Estargz::open(blob), Ok(Some(_))))
        };
        if tar.to_string() != diff_id && !was_estargz() {
            return Err(Error::unknown(format!(
                "layer {digest} holds {tar}, its image says {diff_id}"
            )));
        }
        let variant = variant_record(blob);
        store
            .db()
            .add_variant(&id, &form, &variant)
            .map_err(internal)?;
        Ok(variant)
    })
    .await
}

fn variant_record(blob: LayerBlob) -> VariantRecord {
    let mut media_type = blob.descriptor.media_type;
    if let Some(toc) = &blob.toc {
        media_type = estargz_type(&media_type, &toc.digest, blob.size);
    }
    VariantRecord {
        digest: blob.descriptor.digest.to_string(),
        size: blob.descriptor.size,
        media_type,
        diff_id: blob.diff_id.to_string(),
    }
}

async fn make(
    job: &Arc<JobInner>,
    snapshot: &Snapshot,
    index: usize,
    layer: &Layer,
    options: &ImageOptions,
    form: String,
) -> Outcome<VariantRecord> {
    // What it was made on tells what it changed; without a record, what is below it here.
    let record = job.store().db().layer(&layer.id).map_err(internal)?;
    let below = match record {
        Some(record) => record
            .base
            .into_iter()
            .map(|id| job.lazy_layer(&id).unwrap_or_else(|| Layer::stored(id)))
            .collect(),
        None => snapshot.layers.iter().take(index).cloned().collect(),
    };
    let below = Snapshot::new(below);
    image::ensure(job, &below).await?;
    image::ensure(job, &Snapshot::new(vec![layer.clone()])).await?;
    let _permit = job.solver().packing().acquire().await;
    let (store, layer, compression) = (job.store().clone(), layer.clone(), options.compression);
    let diff_options = DiffOptions {
        latest_mtime: options.epoch.filter(|_| options.rewrite_timestamp),
    };
    blocking(move || {
        if let Some(variant) = spliced(&store, &layer, &below, &compression, &diff_options, &form)?
        {
            return Ok(variant);
        }
        // Several directories are one layer when it was derived from another.
        let own = View::read_only(&store.own_dirs(&layer)).map_err(internal)?;
        let parents = match below.layers.is_empty() {
            true => Vec::new(),
            false => store.lowers(&below),
        };
        let (blob, _) = write_layer(store.blobs(), &compression, |out| {
            diff(own.path(), &parents, &diff_options, out)
        })
        .map_err(|error| Error::unknown(format!("failed to make layer {}: {error}", layer.id)))?;
        let variant = variant_record(blob);
        if layer.local.is_none() {
            store
                .db()
                .add_variant(&layer.id, &form, &variant)
                .map_err(internal)?;
        }
        Ok(variant)
    })
    .await
}

/// From how many bytes on a file is read from the disk's cache sooner than it is unpacked: what is unpacked in the
/// 10 µs that opening it and its attributes take, at 1.4 GB/s of zstd and 0.4 GB/s of gzip.
fn large(media_type: &str) -> u64 {
    match essence(media_type) {
        name if name.ends_with("zstd") => 16 << 10,
        name if name.ends_with("gzip") => 4 << 10,
        _ => u64::MAX,
    }
}

/// A layer that is another one with changes, from the blob that was made of that one in this form.
fn spliced(
    store: &Store,
    layer: &Layer,
    below: &Snapshot,
    compression: &CompressOptions,
    options: &DiffOptions,
    form: &str,
) -> Outcome<Option<VariantRecord>> {
    // The table of contents is made of all files anew.
    let whole = derived_from(&layer.id).filter(|_| !compression.estargz);
    let Some(whole) = whole else {
        return Ok(None);
    };
    let Some(known) = store.db().variant(whole, form).map_err(internal)? else {
        return Ok(None);
    };
    let spliced = (|| {
        let view = match below.layers.is_empty() {
            true => None,
            false => Some(View::read_only(&store.lowers(below)).ok()?),
        };
        let base = match &view {
            Some(view) => Some(Root::open(view.path()).ok()?),
            None => None,
        };
        let dir = store.layer_dir(&layer.id);
        let changes = Changes::read(&dir, base.as_ref(), options).ok()??;
        let blob = store.blobs().reader(&known.digest.parse().ok()?).ok()?;
        let splice = |out: &mut _| changes.splice(blob, large(&known.media_type), out);
        // What is not as expected is made from the files.
        write_layer(store.blobs(), compression, splice).ok()
    })();
    let Some((blob, ())) = spliced else {
        return Ok(None);
    };
    let variant = variant_record(blob);
    store
        .db()
        .add_variant(&layer.id, form, &variant)
        .map_err(internal)?;
    Ok(Some(variant))
}
