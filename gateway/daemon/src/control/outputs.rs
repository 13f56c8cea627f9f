//! Exporters and caches of a request, as the solver has them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use gateway_api::Error;
use gateway_solver::{
    CacheDestination, CacheExport, CacheImport, Client, Exporter, OutputTarget, RemoteCache,
};

use crate::peer::Peer;
use crate::proto::control::{CacheOptions, CacheOptionsEntry, Exporter as Wanted, SolveRequest};
use crate::session::{ClientOutput, ClientStore, Sessions};

/// Name of a cache in a directory without one.
const DEFAULT_TAG: &str = "latest";

/// What a build's outputs need.
pub struct Place<'a> {
    pub sessions: &'a Sessions,
    pub peer: &'a Peer,
    pub session: &'a str,
    /// A directory that goes with the build.
    pub scratch: &'a std::path::Path,
}

/// A layout that is made here and belongs in a store of the client.
pub struct Delivery {
    pub from: PathBuf,
    pub store: String,
    /// It is a cache: its manifest is told.
    pub cache: bool,
}

/// All outputs of a build.
#[derive(Default)]
pub struct Outputs {
    pub exporters: Vec<Exporter>,
    pub imports: Vec<CacheImport>,
    pub exports: Vec<CacheExport>,
    pub deliveries: Vec<Delivery>,
}

/// The exporters that a request names, old fields included.
pub fn wanted(request: &SolveRequest) -> Vec<Wanted> {
    let mut wanted = request.exporters.clone();
    if wanted.is_empty() && !request.exporter_deprecated.is_empty() {
        wanted.push(Wanted {
            r#type: request.exporter_deprecated.clone(),
            attrs: request.exporter_attrs_deprecated.clone(),
        });
    }
    // The time that the build was given is also that of its outputs.
    if let Some(epoch) = request.frontend_attrs.get("build-arg:SOURCE_DATE_EPOCH")
        && epoch.parse::<i64>().is_ok()
    {
        for exporter in &mut wanted {
            let attrs = &mut exporter.attrs;
            attrs
                .entry("source-date-epoch".to_owned())
                .or_insert_with(|| epoch.clone());
        }
    }
    wanted
}

impl Outputs {
    /// # Errors
    /// For what is not known.
    pub async fn of(request: &SolveRequest, place: &Place<'_>) -> Result<Outputs, Error> {
        let mut outputs = Outputs::default();
        for (index, wanted) in wanted(request).into_iter().enumerate() {
            let exporter = outputs.exporter(index, wanted, place)?;
            outputs.exporters.push(exporter);
        }
        outputs
            .caches(request.cache.clone().unwrap_or_default(), place)
            .await?;
        Ok(outputs)
    }

    pub fn exporter(
        &mut self,
        index: usize,
        wanted: Wanted,
        place: &Place<'_>,
    ) -> Result<Exporter, Error> {
        let mut attrs = wanted.attrs;
        let names = match attrs.remove("name") {
            Some(names) if !names.is_empty() => names.split(',').map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let client = || {
            Client(Arc::new(ClientOutput {
                sessions: place.sessions.clone(),
                peer: place.peer.clone(),
                session: place.session.to_owned(),
                exporter: index,
                runtime: tokio::runtime::Handle::current(),
            }))
        };
        let stream = || OutputTarget::Client(client());
        let as_files = attrs.get("tar").is_some_and(|tar| tar == "false");
        Ok(match wanted.r#type.as_str() {
            // Docker's own exporter: its store of images is ours here.
            "image" | "moby" => Exporter::ImageStore { names, attrs },
            "oci" | "docker" if as_files => {
                let from = place.scratch.join(format!("export-{index}"));
                self.deliveries.push(Delivery {
                    from: from.clone(),
                    store: "export".to_owned(),
                    cache: false,
                });
                Exporter::Oci {
                    dest: OutputTarget::Dir(from),
                    tar: false,
                    names,
                    attrs,
                }
            }
            "oci" => Exporter::Oci {
                dest: stream(),
                tar: true,
                names,
                attrs,
            },
            "docker" => Exporter::Docker {
                dest: stream(),
                names,
                attrs,
            },
            "tar" => Exporter::Tar {
                dest: stream(),
                attrs,
            },
            "local" => Exporter::Files {
                client: client(),
                attrs,
            },
            other => {
                return Err(Error::unknown(format!(
                    "exporter {other:?} could not be found"
                )));
            }
        })
    }

    async fn caches(&mut self, given: CacheOptions, place: &Place<'_>) -> Result<(), Error> {
        let mut exports = given.exports;
        if exports.is_empty() && !given.export_ref_deprecated.is_empty() {
            let mut attrs = given.export_attrs_deprecated;
            attrs.insert("ref".to_owned(), given.export_ref_deprecated);
            exports.push(entry("registry", attrs));
        }
        let mut imports = given.imports;
        if imports.is_empty() {
            let named = given.import_refs_deprecated.into_iter();
            imports.extend(named.map(|name| {
                let attrs = BTreeMap::from([("ref".to_owned(), name)]);
                entry("registry", attrs)
            }));
        }
        for (number, export) in exports.into_iter().enumerate() {
            let export = self.export(number, export, place)?;
            if self.exports.iter().any(|other| other.to == export.to) {
                return Err(Error::invalid("the same cache is written twice"));
            }
            self.exports.push(export);
        }
        for (number, import) in imports.into_iter().enumerate() {
            if let Some(import) = self::import(number, import, place).await? {
                self.imports.push(import);
            }
        }
        Ok(())
    }

    fn export(
        &mut self,
        number: usize,
        export: CacheOptionsEntry,
        place: &Place<'_>,
    ) -> Result<CacheExport, Error> {
        let mut attrs = export.attrs;
        let max = match attrs.remove("mode").as_deref() {
            None | Some("" | "min") => false,
            Some("max") => true,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "mode of a cache is min or max, not {other:?}"
                )));
            }
        };
        let ignore_error = attrs
            .remove("ignore-error")
            .is_some_and(|value| value == "true");
        let to = match export.r#type.as_str() {
            "inline" => {
                attrs.clear();
                CacheDestination::Inline
            }
            "registry" => CacheDestination::Registry {
                reference: needed(&mut attrs, "ref")?,
            },
            "local" => {
                let dest = needed(&mut attrs, "dest")?;
                let from = place.scratch.join(format!("cache-{number}"));
                self.deliveries.push(Delivery {
                    from: from.clone(),
                    store: format!("local:{dest}"),
                    cache: true,
                });
                // The client keeps the names of its caches itself.
                attrs.remove("tag");
                attrs.remove("reset");
                CacheDestination::Local {
                    dest: from,
                    tag: DEFAULT_TAG.to_owned(),
                    reset: false,
                }
            }
            kind if RemoteCache::KINDS.contains(&kind) => {
                let cache = service(kind, &attrs)?;
                attrs.clear();
                CacheDestination::Remote(cache)
            }
            other => return Err(Error::unknown(format!("unknown cache exporter: {other:?}"))),
        };
        Ok(CacheExport {
            to,
            max: max && export.r#type != "inline",
            ignore_error,
            attrs,
        })
    }
}

fn entry(kind: &str, attrs: BTreeMap<String, String>) -> CacheOptionsEntry {
    CacheOptionsEntry {
        r#type: kind.to_owned(),
        attrs,
    }
}

fn needed(attrs: &mut BTreeMap<String, String>, key: &str) -> Result<String, Error> {
    let value = attrs.remove(key).filter(|value| !value.is_empty());
    value.ok_or_else(|| Error::invalid(format!("a cache needs the attribute {key}")))
}

/// All that is said of a service comes from its client: the daemon's own environment is no login for others.
fn service(kind: &str, attrs: &BTreeMap<String, String>) -> Result<RemoteCache, Error> {
    let cache = RemoteCache::parse(kind, attrs, &|_| None);
    cache.map_err(|problem| Error::invalid(format!("a cache of type {kind}: {problem}")))
}

/// A cache of the client's directory is brought here first; one that is not there is none.
async fn import(
    number: usize,
    import: CacheOptionsEntry,
    place: &Place<'_>,
) -> Result<Option<CacheImport>, Error> {
    let mut attrs = import.attrs;
    match import.r#type.as_str() {
        "registry" => Ok(Some(CacheImport::Registry {
            reference: needed(&mut attrs, "ref")?,
            insecure: attrs
                .get("registry.insecure")
                .is_some_and(|value| value == "true"),
        })),
        "local" => {
            let (src, digest) = (needed(&mut attrs, "src")?, needed(&mut attrs, "digest")?);
            let to = place.scratch.join(format!("import-{number}"));
            let handle = place.sessions.find(place.peer, place.session).await?;
            let store = ClientStore::new(handle, format!("local:{src}"));
            store
                .fetch_layout(&digest, &to)
                .await
                .map_err(|error| error.context(format!("cache of the client's directory {src}")))?;
            Ok(Some(CacheImport::Local {
                src: to,
                digest: Some(digest),
                tag: None,
            }))
        }
        kind if RemoteCache::KINDS.contains(&kind) => {
            Ok(Some(CacheImport::Remote(service(kind, &attrs)?)))
        }
        other => Err(Error::unknown(format!("unknown cache importer: {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn outputs(request: &SolveRequest) -> Result<Outputs, Error> {
        let place = Place {
            sessions: &Sessions::new(1),
            peer: &Peer::Anyone,
            session: "",
            scratch: std::path::Path::new("/nowhere"),
        };
        Outputs::of(request, &place).await
    }

    fn exporter(kind: &str) -> Wanted {
        Wanted {
            r#type: kind.to_owned(),
            attrs: BTreeMap::from([("name".to_owned(), "a,b".to_owned())]),
        }
    }

    #[tokio::test]
    async fn p33_p46_exporters_of_both_fields_are_understood_and_moby_is_image() {
        let request = SolveRequest {
            exporters: vec![exporter("image")],
            exporter_deprecated: "image".to_owned(),
            ..SolveRequest::default()
        };
        assert_eq!(outputs(&request).await.unwrap().exporters.len(), 1);
        let request = SolveRequest {
            exporter_deprecated: "moby".to_owned(),
            exporter_attrs_deprecated: exporter("").attrs,
            ..SolveRequest::default()
        };
        let outputs = outputs(&request).await.unwrap();
        assert!(
            matches!(&outputs.exporters[..], [Exporter::ImageStore { names, .. }] if names == &["a", "b"])
        );
    }

    #[tokio::test]
    async fn p38_the_time_of_the_build_is_that_of_every_output_without_its_own() {
        let mut own = exporter("oci");
        own.attrs
            .insert("source-date-epoch".to_owned(), "7".to_owned());
        let request = SolveRequest {
            exporters: vec![exporter("image"), own],
            frontend_attrs: BTreeMap::from([(
                "build-arg:SOURCE_DATE_EPOCH".to_owned(),
                "5".to_owned(),
            )]),
            ..SolveRequest::default()
        };
        let times: Vec<String> = wanted(&request)
            .into_iter()
            .map(|wanted| wanted.attrs["source-date-epoch"].clone())
            .collect();
        assert_eq!(times, ["5", "7"]);
    }

    #[tokio::test]
    async fn what_is_not_known_is_refused_by_name() {
        let request = SolveRequest {
            exporters: vec![exporter("tape")],
            ..SolveRequest::default()
        };
        let error = outputs(&request).await.err().unwrap();
        assert_eq!(error.message, "exporter \"tape\" could not be found");
        let cache = |imports: Vec<CacheOptionsEntry>, exports| SolveRequest {
            cache: Some(CacheOptions {
                imports,
                exports,
                ..CacheOptions::default()
            }),
            ..SolveRequest::default()
        };
        let request = cache(vec![entry("tape", BTreeMap::new())], Vec::new());
        let error = outputs(&request).await.err().unwrap();
        assert_eq!(error.message, "unknown cache importer: tape");
        let request = cache(Vec::new(), vec![entry("tape", BTreeMap::new())]);
        let error = outputs(&request).await.err().unwrap();
        assert_eq!(error.message, "unknown cache exporter: \"tape\"");
    }
}
