//! Results as plain files: a tar stream or a directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use gateway_api::Error;
use gateway_images::layer::{DiffOptions, diff};

use super::target::write_to;
use super::{OutputTarget, Solved};
use crate::fs::{CopyOptions, Root, copy};
use crate::job::JobInner;
use crate::ops::image;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::view::View;

pub async fn tar(
    job: &Arc<JobInner>,
    vertex: &str,
    solved: &Solved,
    attrs: &BTreeMap<String, String>,
    dest: &OutputTarget,
) -> Outcome<BTreeMap<String, String>> {
    let [image] = solved.images.as_slice() else {
        return Err(Error::unknown(
            "a tar stream of several platforms is not supported yet",
        ));
    };
    image::ensure(job, &image.snapshot).await?;
    let status = job.reports.status(vertex, "sending tarball", "");
    let (store, snapshot, dest) = (job.store().clone(), image.snapshot.clone(), dest.clone());
    let options = DiffOptions {
        latest_mtime: attrs
            .get("source-date-epoch")
            .and_then(|text| text.parse().ok()),
    };
    blocking(move || {
        let view = View::read_only(&store.lowers(&snapshot)).map_err(internal)?;
        write_to(&dest, |out| {
            diff(view.path(), &[], &options, out)
                .map(drop)
                .map_err(internal)
        })
    })
    .await?;
    status.done();
    Ok(BTreeMap::new())
}

pub async fn local(
    job: &Arc<JobInner>,
    vertex: &str,
    solved: &Solved,
    attrs: &BTreeMap<String, String>,
    dest: &Path,
) -> Outcome<BTreeMap<String, String>> {
    let split = match attrs.get("platform-split").map(String::as_str) {
        None => solved.map,
        Some(text) => text != "false",
    };
    for image in &solved.images {
        image::ensure(job, &image.snapshot).await?;
        let (name, dest) = match split {
            true => (
                format!("copying files {}", image.id),
                dest.join(image.id.replace('/', "_")),
            ),
            false => ("copying files".to_owned(), dest.to_owned()),
        };
        let status = job.reports.status(vertex, name, "");
        let (store, snapshot) = (job.store().clone(), image.snapshot.clone());
        let bytes = blocking(move || {
            std::fs::create_dir_all(&dest).map_err(internal)?;
            let view = View::read_only(&store.lowers(&snapshot)).map_err(internal)?;
            let from = Root::open(view.path()).map_err(internal)?;
            let to = Root::open(&dest).map_err(internal)?;
            let options = CopyOptions {
                contents: true,
                ..CopyOptions::default()
            };
            copy(&from, b"/", &to, b"/", &options)
                .map(|stats| stats.bytes)
                .map_err(|error| Error::unknown(error.to_string()))
        })
        .await?;
        status.done_with(bytes);
    }
    Ok(BTreeMap::new())
}
