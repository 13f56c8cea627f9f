//! Exporters: what becomes of a build's results. Values in, files and response attributes out.

mod attestation;
mod cache;
mod dest;
mod files;
mod form;
mod image;
mod layers;
mod options;
mod push;
mod sink;
mod splice;
mod statements;
mod step_layers;
mod stored;
mod target;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};
use gateway_api::Error;
use gateway_api::result::metadata;
use gateway_images::archive::Variant;
use gateway_images::platform::Platform;

use crate::job::Job;
use crate::key::digest_of;
use crate::ops::image::platform_of;
use crate::report;
use crate::result::ResultRef;
use crate::store::{Snapshot, new_id};
use attestation::Attested;
pub use attestation::{AttestationContent, SolvedAttestation};
use cache::Collected;
pub use cache::{CacheDestination, CacheExport};
pub use dest::write_to;
pub(crate) use form::{ANY_FORM, pulled};
pub(crate) use layers::ready as ready_layers;
pub(crate) use options::ImageOptions;
use push::Push;
pub use sink::{Client, ClientSink, ClientStream, ClientTree};
pub use step_layers::{Predicate, StepLayers};
pub use stored::StoredImage;

/// The results of a build, by platform where there are several.
#[derive(Clone, Default)]
pub enum SolvedRefs {
    /// Metadata only.
    #[default]
    None,
    /// `None` inside: scratch.
    Single(Option<ResultRef>),
    /// By platform id, as listed in the metadata `refs.platforms`.
    Map(BTreeMap<String, Option<ResultRef>>),
}

/// What a frontend returned, ready for exporters.
#[derive(Clone, Default)]
pub struct SolvedResult {
    pub refs: SolvedRefs,
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// By platform id, also for a single result.
    pub attestations: BTreeMap<String, Vec<SolvedAttestation>>,
}

/// Where an exporter's bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputTarget {
    File(PathBuf),
    Dir(PathBuf),
    Stdout,
    /// The standard input of a program, started when there is something to write: its name and arguments.
    Program(Vec<String>),
    /// A stream to whoever asked for the build.
    Client(Client),
}

/// One output of a build. `attrs` are the exporter attributes of the reference; unknown ones are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exporter {
    /// Into the store's own image list.
    ImageStore {
        names: Vec<String>,
        attrs: BTreeMap<String, String>,
    },
    /// An OCI layout, as a tar stream or a directory.
    Oci {
        dest: OutputTarget,
        tar: bool,
        names: Vec<String>,
        attrs: BTreeMap<String, String>,
    },
    /// The archive that `docker load` reads.
    Docker {
        dest: OutputTarget,
        names: Vec<String>,
        attrs: BTreeMap<String, String>,
    },
    /// The files as one tar stream.
    Tar {
        dest: OutputTarget,
        attrs: BTreeMap<String, String>,
    },
    /// The files in a directory.
    Local {
        dest: PathBuf,
        attrs: BTreeMap<String, String>,
    },
    /// The files, for whoever asked for the build.
    Files {
        client: Client,
        attrs: BTreeMap<String, String>,
    },
}

/// What the client is told, e.g. `containerimage.digest`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportResponse {
    pub attrs: BTreeMap<String, String>,
}

/// What an exporter did, and what is left for when all have done their part.
struct Exported {
    attrs: BTreeMap<String, String>,
    push: Option<Push>,
}

impl Exported {
    fn here(attrs: BTreeMap<String, String>) -> Self {
        Exported { attrs, push: None }
    }
}

/// Does the work of all results and hands them to the exporters, which run at once. Registries come last:
/// what was pushed cannot be taken back when another output fails.
pub(crate) async fn export(
    job: &Job,
    result: SolvedResult,
    exporters: &[Exporter],
    caches: &[CacheExport],
) -> Result<ExportResponse, Error> {
    let mut solved = Solved::of(job, &result).await?;
    let inline = caches.iter().any(|c| c.to == CacheDestination::Inline);
    if inline && !exporters.is_empty() {
        solved.collect(job).await?;
    }
    let outcomes =
        try_join_all(exporters.iter().map(|exporter| run(job, &solved, exporter))).await?;
    let mut response = ExportResponse::default();
    for (key, value) in &result.metadata {
        if key.starts_with("frontend.")
            && let Ok(text) = String::from_utf8(value.clone())
        {
            response.attrs.insert(key.clone(), text);
        }
    }
    let pushes = outcomes.iter().filter_map(|(vertex, exported)| {
        let push = exported.push.as_ref()?;
        Some(async move {
            let inner = job.inner();
            let running = inner.reports.start(vertex);
            let outcome = inner.until_cancelled(push.run(inner, vertex)).await;
            running.finish(&outcome);
            outcome
        })
    });
    let tops = solved.tops();
    let caches = caches.iter().enumerate();
    let caches = caches.map(|(number, cache)| Box::pin(cache::export(job, number, cache, &tops)));
    // One that fails does not leave others half-done.
    let (pushed, cached) = tokio::join!(join_all(pushes), join_all(caches));
    pushed.into_iter().collect::<Result<(), Error>>()?;
    for (_, exported) in outcomes {
        response.attrs.extend(exported.attrs);
    }
    for attrs in cached {
        response.attrs.extend(attrs?);
    }
    Ok(response)
}

/// One exporter under a vertex of its own.
async fn run(job: &Job, solved: &Solved, exporter: &Exporter) -> Result<(String, Exported), Error> {
    let inner = job.inner();
    let name = match exporter {
        Exporter::ImageStore { .. } => "exporting to image",
        Exporter::Oci { .. } => "exporting to oci image format",
        Exporter::Docker { .. } => "exporting to docker image format",
        Exporter::Tar { .. } => "exporting to client tarball",
        Exporter::Local { .. } | Exporter::Files { .. } => "exporting to client directory",
    };
    let vertex = digest_of(format!("{name} {}", new_id()).as_bytes());
    inner
        .reports
        .announce(vec![report::vertex(&vertex, name, Vec::new(), None)]);
    let running = inner.reports.start(&vertex);
    let work = async {
        match exporter {
            Exporter::ImageStore { names, attrs } => {
                let mut options = ImageOptions::parse(attrs, names, &solved.metadata, true)?;
                // The store and registries take indexes.
                options.attest_inline |= !attrs.contains_key("attestation-inline");
                target::image_store(inner, &vertex, solved, &options).await
            }
            Exporter::Oci {
                dest,
                tar,
                names,
                attrs,
            } => {
                let options = ImageOptions::parse(attrs, names, &solved.metadata, true)?;
                let form = match tar {
                    true => target::Form::Tar(Variant::Oci),
                    false => target::Form::Layout,
                };
                target::archive(inner, &vertex, solved, &options, form, dest)
                    .await
                    .map(Exported::here)
            }
            Exporter::Docker { dest, names, attrs } => {
                let options = ImageOptions::parse(attrs, names, &solved.metadata, false)?;
                let form = target::Form::Tar(Variant::Docker);
                target::archive(inner, &vertex, solved, &options, form, dest)
                    .await
                    .map(Exported::here)
            }
            Exporter::Tar { dest, attrs } => files::tar(inner, &vertex, solved, attrs, dest)
                .await
                .map(Exported::here),
            Exporter::Local { dest, attrs } => files::local(inner, &vertex, solved, attrs, dest)
                .await
                .map(Exported::here),
            Exporter::Files { client, attrs } => {
                files::client(inner, &vertex, solved, attrs, client)
                    .await
                    .map(Exported::here)
            }
        }
    };
    let outcome = inner.until_cancelled(work).await;
    running.finish(&outcome);
    outcome.map(|exported| (vertex, exported))
}

/// The results with their work done.
pub(crate) struct Solved {
    /// Several platforms: the image is an index.
    pub map: bool,
    pub images: Vec<SolvedImage>,
    pub metadata: BTreeMap<String, Vec<u8>>,
}

pub(crate) struct SolvedImage {
    /// Empty for the only one.
    pub id: String,
    pub platform: Platform,
    pub snapshot: Snapshot,
    pub attested: Arc<[Attested]>,
    /// Where it comes from in the live graph; `None` for scratch.
    top: Option<cache::Node>,
    /// What of its steps goes into the image itself.
    inline: Option<Collected>,
}

#[derive(serde::Deserialize, Default)]
struct Platforms {
    #[serde(rename = "Platforms", default)]
    platforms: Vec<PlatformEntry>,
}

#[derive(serde::Deserialize)]
struct PlatformEntry {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Platform")]
    platform: Platform,
}

/// A result of one platform: its id, empty for a lone one.
pub(crate) type Wanted<'a> = (String, Platform, Option<&'a ResultRef>);

/// The results with their platforms, and the key of what is attested of a lone one.
pub(crate) fn wanted<'a>(
    job: &Job,
    result: &'a SolvedResult,
) -> Result<(Vec<Wanted<'a>>, String), Error> {
    let listed: Platforms = match result.metadata.get(metadata::PLATFORMS) {
        Some(json) => serde_json::from_slice(json).map_err(|error| {
            Error::unknown(format!(
                "failed to parse platforms passed to exporter: {error}"
            ))
        })?,
        None => Platforms::default(),
    };
    // Of a lone result: what is attested of it has the key of its platform.
    let mut lone = String::new();
    let wanted = match &result.refs {
        SolvedRefs::None => Vec::new(),
        SolvedRefs::Single(reference) => {
            let platform = listed.platforms.first().map(|entry| entry.platform.clone());
            let platform = platform
                .or_else(|| config_platform(&result.metadata))
                .unwrap_or_else(|| platform_of(job.solver().default_platform()));
            lone = match listed.platforms.first() {
                Some(entry) => entry.id.clone(),
                None => platform.normalized().to_string(),
            };
            vec![(String::new(), platform, reference.as_ref())]
        }
        SolvedRefs::Map(refs) => {
            if listed.platforms.is_empty() {
                return Err(Error::unknown(
                    "unable to export multiple refs, missing platforms mapping",
                ));
            }
            let mut wanted = Vec::new();
            for entry in listed.platforms {
                let Some(reference) = refs.get(&entry.id) else {
                    return Err(Error::unknown(format!(
                        "failed to find ref for ID {}",
                        entry.id
                    )));
                };
                wanted.push((entry.id, entry.platform, reference.as_ref()));
            }
            wanted
        }
    };
    Ok((wanted, lone))
}

impl Solved {
    async fn of(job: &Job, result: &SolvedResult) -> Result<Solved, Error> {
        let (wanted, lone) = wanted(job, result)?;
        let snapshots = try_join_all(wanted.iter().map(|(_, _, reference)| async move {
            match reference {
                Some(reference) => {
                    let snapshot = job.snapshot(reference).await?;
                    Ok((snapshot, Some(reference.loaded(job.inner())?)))
                }
                None => Ok::<_, Error>((Snapshot::scratch(), None)),
            }
        }))
        .await?;
        let attested = try_join_all(wanted.iter().map(|(id, _, _)| {
            let key = if id.is_empty() { &lone } else { id };
            let list = result.attestations.get(key).map_or(&[][..], Vec::as_slice);
            attestation::read(job, list)
        }))
        .await?;
        Ok(Solved {
            map: matches!(result.refs, SolvedRefs::Map(_)),
            images: wanted
                .into_iter()
                .zip(snapshots)
                .zip(attested)
                .map(
                    |(((id, platform, _), (snapshot, top)), attested)| SolvedImage {
                        id,
                        platform,
                        snapshot,
                        top,
                        inline: None,
                        attested: attested.into(),
                    },
                )
                .collect(),
            metadata: result.metadata.clone(),
        })
    }

    fn tops(&self) -> Vec<cache::Node> {
        let tops = self.images.iter();
        tops.filter_map(|image| image.top.clone()).collect()
    }

    /// Gathers what is known of the steps of each image.
    async fn collect(&mut self, job: &Job) -> Result<(), Error> {
        for image in &mut self.images {
            if let Some(top) = &image.top {
                let top = std::slice::from_ref(top);
                image.inline = Some(cache::collect(job.inner(), top).await?);
            }
        }
        Ok(())
    }

    /// Metadata of one image: by its platform, else for all.
    pub fn metadata(&self, key: &str, id: &str) -> Option<&[u8]> {
        self.metadata
            .get(&format!("{key}/{id}"))
            .or_else(|| self.metadata.get(key))
            .map(Vec::as_slice)
    }
}

/// The platform that the frontend's config names.
fn config_platform(metadata: &BTreeMap<String, Vec<u8>>) -> Option<Platform> {
    let config = metadata.get(metadata::IMAGE_CONFIG)?;
    let value: serde_json::Value = serde_json::from_slice(config).ok()?;
    let text = |key: &str| value.get(key).and_then(|v| v.as_str()).unwrap_or_default();
    match (text("os"), text("architecture")) {
        ("", _) | (_, "") => None,
        (os, architecture) => Some(Platform::new(os, architecture, text("variant"))),
    }
}
