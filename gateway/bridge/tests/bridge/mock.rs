//! A gateway that answers from memory and remembers what it was asked.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use gateway_api::caps::CapSet;
use gateway_api::*;
use gateway_llb::pb;

pub const FRONTEND_CAPS: [&str; 15] = [
    "solve.base",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "readdir",
    "statfile",
    "return",
    "returnmap",
    "importcaches",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "gateway.evaluate",
    "gateway.warnings",
    "source.metaresolver",
];

/// One of every field.
pub fn chain() -> AttestationChain {
    let blob = AttestationBlob {
        media_type: "application/vnd.in-toto+json".to_owned(),
        annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        data: vec![0, 255],
    };
    AttestationChain {
        root: "sha256:01".to_owned(),
        image_manifest: "sha256:02".to_owned(),
        attestation_manifest: "sha256:03".to_owned(),
        signature_manifests: vec!["sha256:04".to_owned()],
        blobs: BTreeMap::from([("sha256:05".to_owned(), blob)]),
    }
}

#[derive(Default)]
pub struct Mock {
    pub invocation: Invocation,
    pub inputs: BTreeMap<String, pb::Definition>,
    pub files: BTreeMap<String, Vec<u8>>,
    pub solved: Mutex<Vec<SolveRequest>>,
    pub warnings: Mutex<Vec<Warning>>,
    /// Error of every evaluation.
    pub failure: Option<Error>,
    counter: AtomicUsize,
}

impl Mock {
    pub fn new() -> Self {
        Mock {
            invocation: Invocation {
                frontend_caps: CapSet::enabled(FRONTEND_CAPS),
                llb_caps: CapSet::enabled(["source.image", "file.base"]),
                product: "test".to_owned(),
                workers: vec![Worker {
                    id: "w".to_owned(),
                    platforms: vec![pb::Platform {
                        os: "linux".to_owned(),
                        architecture: "amd64".to_owned(),
                        ..pb::Platform::default()
                    }],
                    ..Worker::default()
                }],
                ..Invocation::default()
            },
            ..Mock::default()
        }
    }
}

#[async_trait]
impl Gateway for Mock {
    fn invocation(&self) -> &Invocation {
        &self.invocation
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, Error> {
        Ok(self.inputs.clone())
    }

    async fn solve(&self, request: SolveRequest) -> Result<BuildResult, Error> {
        if request.frontend == "panic" {
            panic!("a handler that panics");
        }
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let mut reference = Ref::new(format!("ref{number}"), request.definition.clone());
        reference.def = request.definition.clone();
        self.solved.lock().unwrap().push(request);
        Ok(BuildResult {
            refs: Refs::Single(reference),
            ..BuildResult::default()
        })
    }

    async fn resolve_image_config(
        &self,
        request: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error> {
        Ok(ImageConfig {
            digest: "sha256:aa".to_owned(),
            config: b"{}".to_vec(),
            reference: format!("docker.io/library/{}", request.reference),
        })
    }

    async fn resolve_source_meta(
        &self,
        request: ResolveSourceMetaRequest,
    ) -> Result<SourceMeta, Error> {
        Ok(SourceMeta {
            source: request.source,
            image: Some(ImageMeta {
                digest: "sha256:aa".to_owned(),
                config: b"{}".to_vec(),
                attestation_chain: Some(chain()),
            }),
            ..SourceMeta::default()
        })
    }

    async fn read_file(
        &self,
        _: &Ref,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        let data = self
            .files
            .get(path)
            .ok_or_else(|| Error::unknown(format!("open {path}: no such file or directory")))?;
        let range = range.unwrap_or(FileRange {
            offset: 0,
            length: data.len() as i64,
        });
        let from = (range.offset as usize).min(data.len());
        let to = (from + range.length as usize).min(data.len());
        Ok(data[from..to].to_vec())
    }

    async fn read_dir(&self, _: &Ref, _: &str, include: Option<&str>) -> Result<Vec<Stat>, Error> {
        let names = self
            .files
            .keys()
            .filter(|name| include.is_none_or(|i| i == *name));
        Ok(names
            .map(|name| Stat {
                path: name.clone(),
                mode: 0o644,
                ..Stat::default()
            })
            .collect())
    }

    async fn stat_file(&self, _: &Ref, path: &str) -> Result<Stat, Error> {
        Ok(Stat {
            path: path.to_owned(),
            mode: Stat::MODE_DIR | 0o755,
            mod_time: 1,
            ..Stat::default()
        })
    }

    async fn evaluate(&self, _: &Ref) -> Result<(), Error> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    async fn warn(&self, warning: Warning) -> Result<(), Error> {
        self.warnings.lock().unwrap().push(warning);
        Ok(())
    }

    async fn new_container(&self, _: ContainerRequest) -> Result<Box<dyn Container>, Error> {
        Err(Error::new(Code::Unimplemented, "no containers"))
    }
}
