//! Where images go: the store's own list, archives, layouts.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway_api::Error;
use gateway_images::archive::{ANNOTATION_CREATED, Variant, write_archive, write_layout};
use gateway_images::reference::Reference;

use super::image::{Made, make};
use super::options::ImageOptions;
use super::{OutputTarget, Solved};
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
) -> Outcome<BTreeMap<String, String>> {
    let made = make(job, vertex, solved, options).await?;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    if options.push && options.names.is_empty() {
        return Err(Error::unknown("tag is needed when pushing to registry"));
    }
    let kept: &[_] = if options.store { &options.names } else { &[] };
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
    }
    if options.push {
        for name in &options.names {
            push(job, vertex, name, &made, options.push_by_digest).await?;
        }
    }
    response(&made, options)
}

async fn push(
    job: &Arc<JobInner>,
    vertex: &str,
    name: &Reference,
    made: &Made,
    by_digest: bool,
) -> Outcome<()> {
    let digest = &made.top.digest;
    let target = match by_digest {
        true => Reference::parse(&format!("{}@{digest}", name.name())).map_err(internal)?,
        false => name.clone(),
    };
    let layers = job.reports.status(vertex, "pushing layers", "");
    let manifest = format!("pushing manifest for {name}@{digest}");
    let pushed = job
        .solver()
        .registries()
        .push(&target, &made.top, job.store().blobs())
        .await
        .map_err(|error| Error::unknown(format!("failed to push {name}: {error}")))?;
    layers.done();
    job.reports.status(vertex, manifest, "").done();
    for notice in pushed.notices {
        job.reports
            .log(vertex, 2, format!("{notice}\n").into_bytes());
    }
    Ok(())
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
    let dest = dest.clone();
    blocking(move || match (form, &dest) {
        (Form::Layout, OutputTarget::Dir(dir) | OutputTarget::File(dir)) => {
            write_layout(store.blobs(), &top, &names, dir).map_err(internal)
        }
        (Form::Layout, OutputTarget::Stdout) => Err(Error::invalid(
            "a layout directory cannot be written to the standard output",
        )),
        (Form::Tar(variant), dest) => write_to(dest, |out| {
            write_archive(store.blobs(), &top, &names, variant, out).map_err(internal)
        }),
    })
    .await?;
    status.done();
    response(&made, options)
}

/// Writes a stream to its target; a file appears by one rename when it is complete.
pub fn write_to(
    dest: &OutputTarget,
    write: impl FnOnce(&mut dyn Write) -> Outcome<()>,
) -> Outcome<()> {
    match dest {
        OutputTarget::Stdout => write(&mut std::io::stdout().lock()),
        OutputTarget::Dir(dir) => Err(Error::invalid(format!(
            "{} is a directory, a file is needed",
            dir.display()
        ))),
        OutputTarget::File(path) => {
            let failed = |error: &dyn std::fmt::Display| {
                Error::unknown(format!("cannot write {}: {error}", path.display()))
            };
            let is_special = std::fs::metadata(path).is_ok_and(|m| !m.is_file());
            if is_special {
                // A pipe or device is written to as it is.
                let mut file = std::fs::File::options()
                    .write(true)
                    .open(path)
                    .map_err(|error| failed(&error))?;
                return write(&mut file);
            }
            let parent = match path.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            let file = tempfile::Builder::new()
                .prefix(".gateway-")
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
                .tempfile_in(parent)
                .map_err(|error| failed(&error))?;
            let mut out = std::io::BufWriter::with_capacity(1 << 20, file);
            write(&mut out)?;
            let file = out.into_inner().map_err(|error| failed(&error))?;
            file.persist(path).map_err(|error| failed(&error.error))?;
            Ok(())
        }
    }
}

fn response(made: &Made, options: &ImageOptions) -> Outcome<BTreeMap<String, String>> {
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
    if !options.names.is_empty() {
        let names: Vec<String> = options.names.iter().map(ToString::to_string).collect();
        attrs.insert("image.name".to_owned(), names.join(","));
    }
    Ok(attrs)
}
