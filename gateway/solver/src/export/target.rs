//! Where images go: the store's own list, archives, layouts.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway_api::Error;
use gateway_images::archive::{
    ANNOTATION_CREATED, ArchiveError, Variant, write_archive, write_layout,
};
use gateway_images::media::Descriptor;
use gateway_images::reference::Reference;
use gateway_images::store::BlobStore;
use tokio_util::sync::CancellationToken;

use super::dest::{Written, write_described};
use super::image::{Made, make};
use super::options::ImageOptions;
use super::push::Push;
use super::{Exported, OutputTarget, Solved};
use crate::job::JobInner;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::ImageRecord;

/// The form of an image on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Tar(Variant),
    Layout,
}

pub async fn image_store(
    job: &Arc<JobInner>,
    vertex: &str,
    solved: &Solved,
    options: &ImageOptions,
) -> Outcome<Exported> {
    let made = make(job, vertex, solved, options).await?;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let kept = match options.store {
        true => kept_names(&made, options)?,
        false => Vec::new(),
    };
    for name in kept {
        let status = job.reports.status(vertex, format!("naming to {name}"), "");
        let record = ImageRecord {
            digest: made.top.digest.to_string(),
            media_type: made.top.media_type.clone(),
            size: made.top.size,
        };
        job.store()
            .db()
            .set_image(&name.to_string(), &record, now)
            .map_err(internal)?;
        status.done();
        if options.unpack {
            let status = job
                .reports
                .status(vertex, format!("unpacking to {name}"), "");
            for image in &solved.images {
                crate::ops::image::ensure(job, &image.snapshot).await?;
            }
            status.done();
        }
    }
    let push = match options.push {
        true => Some(Push::new(solved, &made, options)?),
        false => None,
    };
    let attrs = response(&made, &options.given_names)?;
    Ok(Exported { attrs, push })
}

/// The given names and those that go by the digest.
fn kept_names(made: &Made, options: &ImageOptions) -> Outcome<Vec<Reference>> {
    let digest = &made.top.digest;
    let mut names = options.names.clone();
    if options.canonical_name {
        let canonical = options
            .names
            .iter()
            .map(|name| name.with_digest(digest.clone()));
        names.extend(canonical);
    }
    if let Some(prefix) = &options.dangling_prefix
        && (options.names.is_empty() || !options.dangling_empty_only)
    {
        let text = format!("{prefix}@{digest}");
        let name = Reference::parse(&text)
            .map_err(|error| Error::invalid(format!("failed to parse {text}: {error}")))?;
        names.push(name);
    }
    Ok(names)
}

pub async fn archive(
    job: &Arc<JobInner>,
    vertex: &str,
    solved: &Solved,
    options: &ImageOptions,
    form: Form,
    dest: &OutputTarget,
) -> Outcome<BTreeMap<String, String>> {
    if form == Form::Tar(Variant::Docker) && solved.map {
        return Err(Error::unknown(
            "docker exporter does not currently support exporting manifest lists",
        ));
    }
    let mut made = make(job, vertex, solved, options).await?;
    if let Some(created) = &made.created {
        let created = created.clone();
        made.top
            .annotations
            .insert(ANNOTATION_CREATED.into(), created);
    }
    let status = job.reports.status(vertex, "sending tarball", "");
    let (store, top, names) = (job.store().clone(), made.top.clone(), options.names.clone());
    let (dest, cancel) = (dest.clone(), job.cancel().clone());
    let given: Vec<String> = options.names.iter().map(ToString::to_string).collect();
    let response = response(&made, &given)?;
    let described = response.clone();
    let written = blocking(move || match form {
        Form::Layout => layout(store.blobs(), &top, &names, &dest, &cancel),
        Form::Tar(variant) => write_described(&dest, &described, &cancel, |out| {
            write_archive(store.blobs(), &top, &names, variant, out).map_err(internal)
        }),
    })
    .await?;
    status.done();
    if !written.said.is_empty() {
        job.reports.log(vertex, 1, written.said);
    }
    Ok(response)
}

/// A layout directory: a new one appears when it is complete, one that is there gets its new index last.
fn layout(
    blobs: &BlobStore,
    top: &Descriptor,
    names: &[Reference],
    dest: &OutputTarget,
    cancel: &CancellationToken,
) -> Outcome<Written> {
    let (OutputTarget::Dir(dir) | OutputTarget::File(dir)) = dest else {
        return Err(Error::invalid(
            "a layout directory cannot be written to a stream",
        ));
    };
    let failed =
        |error: io::Error| Error::unknown(format!("cannot write {}: {error}", dir.display()));
    let stop = || cancel.is_cancelled();
    if dir.exists() {
        write_layout(blobs, top, names, dir, &stop).map_err(internal)?;
        return Ok(Written::default());
    }
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(failed)?;
    let unfinished = tempfile::Builder::new()
        .prefix(".gateway-")
        .permissions(PermissionsExt::from_mode(0o777))
        .tempdir_in(parent)
        .map_err(failed)?;
    let made = write_layout(blobs, top, names, unfinished.path(), &stop);
    // Errors speak of the name that was given, and not of the one that nobody sees.
    made.map_err(|error| match &error {
        ArchiveError::Io { source, .. } => {
            failed(io::Error::new(source.kind(), source.to_string()))
        }
        _ => internal(error),
    })?;
    std::fs::rename(unfinished.path(), dir).map_err(failed)?;
    // It has another name now and nothing is to be removed.
    let _ = unfinished.keep();
    Ok(Written::default())
}

/// What the client is told; `names` as the exporter gives them.
fn response(made: &Made, names: &[String]) -> Outcome<BTreeMap<String, String>> {
    let mut attrs = BTreeMap::new();
    attrs.insert(
        "containerimage.digest".to_owned(),
        made.top.digest.to_string(),
    );
    if let Some(config) = &made.config {
        attrs.insert(
            "containerimage.config.digest".to_owned(),
            config.digest.to_string(),
        );
    }
    let descriptor = serde_json::to_vec(&made.top).map_err(internal)?;
    attrs.insert(
        "containerimage.descriptor".to_owned(),
        STANDARD.encode(descriptor),
    );
    if !names.is_empty() {
        attrs.insert("image.name".to_owned(), names.join(","));
    }
    Ok(attrs)
}
