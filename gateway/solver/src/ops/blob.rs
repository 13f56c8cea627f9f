//! Single blobs of registries and OCI layouts as sources: a file whose content the identifier names.

use std::sync::Arc;
use std::time::Duration;

use gateway_api::Error;
use gateway_images::digest::Digest;
use gateway_images::media::Descriptor;
use gateway_images::reference::Reference;
use gateway_llb::pb;

use super::http::{go_int, name};
use super::image::{self, registry_error};
use super::oci_layout;
use super::single::SingleFile;
use crate::job::JobInner;
use crate::key::{BlobKey, blob_key, digest_of, source_digest};
use crate::live::{LiveVertex, VertexKey};
use crate::pins::{self, Pins};
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Layer, LazyBlob, Snapshot};

/// Where a blob is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Registry,
    /// The name of the client's layout.
    Layout(String),
}

/// A source, read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Blob {
    reference: Reference,
    digest: Digest,
    place: Place,
    filename: String,
    perm: i64,
    uid: i64,
    gid: i64,
    kind: String,
}

impl Blob {
    fn of(op: &pb::SourceOp) -> Outcome<Blob> {
        let (scheme, rest) = op.identifier.split_once("://").unwrap_or_default();
        let reference = image::parse(rest)?;
        let Some(digest) = reference.digest().cloned() else {
            return Err(Error::invalid(format!(
                "invalid reference digest: {rest} names no digest, and a blob has no other name"
            )));
        };
        let mut blob = Blob {
            reference,
            digest,
            place: Place::Registry,
            filename: String::new(),
            perm: 0,
            uid: 0,
            gid: 0,
            kind: String::new(),
        };
        let number = |name: &str, text: &str| {
            go_int(text).ok_or_else(|| {
                Error::invalid(format!("{name}: {text:?} is not a number: invalid syntax"))
            })
        };
        let mut store = "";
        for (name, value) in &op.attrs {
            match name.as_str() {
                "http.filename" => blob.filename = name::safe(value),
                "http.perm" => blob.perm = number(name, value)?,
                "http.uid" => blob.uid = number(name, value)?,
                "http.gid" => blob.gid = number(name, value)?,
                "image.recordtype" => match value.as_str() {
                    "" | "regular" => {}
                    "internal" | "frontend" => blob.kind = value.clone(),
                    other => return Err(Error::invalid(format!("invalid record type {other}"))),
                },
                "oci.store" => store = value,
                _ => {}
            }
        }
        if scheme == "oci-layout+blob" {
            if store.is_empty() {
                return Err(Error::invalid("oci-layout blob source requires store id"));
            }
            blob.place = Place::Layout(store.to_owned());
        }
        Ok(blob)
    }

    fn key(&self) -> String {
        blob_key(&BlobKey {
            digest: &self.digest.to_string(),
            filename: &self.filename,
            perm: self.perm,
            uid: self.uid,
            gid: self.gid,
        })
    }

    fn layer(&self) -> String {
        let digest = digest_of(self.key().as_bytes());
        format!("blob-{}", digest.trim_start_matches("sha256:"))
    }
}

/// The identifier says all that there is to know: nobody is asked.
pub fn keys(vertex: &LiveVertex, op: &pb::SourceOp) -> Outcome<VertexKey> {
    let blob = Blob::of(op)?;
    let _ = vertex.pin.set(blob.digest.to_string());
    Ok(VertexKey::Source(vec![source_digest(&blob.key())]))
}

pub async fn run(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::SourceOp,
) -> Outcome<Vec<Snapshot>> {
    let blob = Blob::of(op)?;
    let layer = blob.layer();
    let result = || Ok(vec![Snapshot::new(vec![Layer::stored(layer.clone())])]);
    if job.store().has_layer(&layer) {
        job.reports.cached(&vertex.digest);
        return result();
    }
    let running = job.reports.start(&vertex.digest);
    let work = async {
        let _lock = job.store().lock(&layer).await.map_err(internal)?;
        if job.store().has_layer(&layer) {
            return Ok(());
        }
        bring(job, &vertex.digest, &blob).await?;
        let (job, layer) = (job.clone(), layer.clone());
        blocking(move || commit(&job, &blob, &layer)).await
    };
    let outcome = job.until_cancelled(work).await;
    running.finish(&outcome);
    outcome?;
    result()
}

/// Brings a blob here for another source, which names it as a source would. `vertex` shows the
/// transfer.
pub async fn fetch(job: &Arc<JobInner>, vertex: &str, op: &pb::SourceOp) -> Outcome<Digest> {
    let blob = Blob::of(op)?;
    bring(job, vertex, &blob).await?;
    Ok(blob.digest)
}

async fn bring(job: &Arc<JobInner>, vertex: &str, blob: &Blob) -> Outcome<()> {
    if let Some(dir) = job.options.pins.as_deref().and_then(Pins::layout) {
        return pins::saved_blob(job, dir, blob.reference.to_string(), &blob.digest).await;
    }
    match &blob.place {
        Place::Registry => from_registry(job, vertex, blob).await,
        Place::Layout(store) => oci_layout::copy_blob(job, store, &blob.digest).await,
    }
}

async fn from_registry(job: &Arc<JobInner>, vertex: &str, blob: &Blob) -> Outcome<()> {
    if job.store().blobs().contains(&blob.digest) {
        return Ok(());
    }
    let descriptor: Descriptor = job
        .registries(&blob.reference)
        .measure(&blob.reference, &blob.digest)
        .await
        .map_err(|error| registry_error(&error))?;
    let wanted = LazyBlob {
        descriptor,
        diff_id: String::new(),
        base: Vec::new(),
        reference: blob.reference.to_string(),
        file: None,
        remote: None,
        vertex: vertex.to_owned(),
        kind: String::new(),
    };
    image::download(job, &wanted).await
}

fn commit(job: &Arc<JobInner>, blob: &Blob, layer: &str) -> Outcome<()> {
    let io = |error: std::io::Error| internal(format!("blob {}: {error}", blob.reference));
    let work = job.store().work_dir().map_err(io)?;
    let dir = work.sub("fs").map_err(io)?;
    let hex = blob.digest.hex();
    let name = match blob.filename.as_str() {
        "" => hex.as_str(),
        given => given,
    };
    let mut from = job.store().blobs().reader(&blob.digest).map_err(internal)?;
    let mut to = std::fs::File::create_new(dir.join(name)).map_err(io)?;
    std::io::copy(&mut from, &mut to).map_err(io)?;
    let file = SingleFile {
        name,
        perm: blob.perm,
        uid: blob.uid,
        gid: blob.gid,
        modified: Duration::ZERO,
        description: format!("blob {}", blob.reference),
        kind: &blob.kind,
    };
    file.commit(job, &dir, layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(identifier: &str, attrs: &[(&str, &str)]) -> pb::SourceOp {
        pb::SourceOp {
            identifier: identifier.into(),
            attrs: attrs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    fn named() -> String {
        format!(
            "docker-image+blob://example.com/r@sha256:{}",
            "1".repeat(64)
        )
    }

    #[test]
    fn the_key_has_the_digest_and_the_file_and_not_the_place() {
        let one = Blob::of(&op(&named(), &[("http.filename", "a/b")])).unwrap();
        assert_eq!(one.filename, "b");
        let other = named().replace("docker-image", "oci-layout");
        let attrs = [("http.filename", "b"), ("oci.store", "s")];
        let two = Blob::of(&op(&other, &attrs)).unwrap();
        assert_eq!(one.key(), two.key());
        let three = Blob::of(&op(&named(), &[("http.perm", "0644")])).unwrap();
        assert_eq!(three.perm, 0o644);
        assert_ne!(one.key(), three.key());
    }

    #[test]
    fn what_names_no_blob_is_refused() {
        let wrong = [
            (
                op("docker-image+blob://example.com/r:tag", &[]),
                "names no digest",
            ),
            (
                op(&named().replace("docker-image", "oci-layout"), &[]),
                "requires store id",
            ),
            (
                op(&named(), &[("image.recordtype", "x")]),
                "invalid record type x",
            ),
            (op(&named(), &[("http.uid", "me")]), "is not a number"),
        ];
        for (op, why) in wrong {
            let error = Blob::of(&op).unwrap_err();
            assert!(error.message.contains(why), "{error}");
        }
    }
}
