//! The recorded cases, and a gateway that serves them from memory.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use gateway_api::caps::CapSet;
use gateway_api::result::Refs;
use gateway_api::{
    BuildResult, Container, ContainerRequest, Error, FileRange, Gateway, ImageConfig, ImageMeta,
    Invocation, Ref, ResolveImageConfigRequest, ResolveSourceMetaRequest, SolveRequest, SourceMeta,
    Stat, Warning, Worker,
};
use gateway_llb::{Graph, pb};
use serde_json::{Value, json};

/// One recorded build.
pub struct Case {
    /// `theme/name`.
    pub name: String,
    path: PathBuf,
    /// Frontend options.
    pub opts: BTreeMap<String, String>,
    /// Files of the context by path.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Case {
    /// A case that is not recorded.
    pub fn of(files: BTreeMap<String, Vec<u8>>, opts: BTreeMap<String, String>) -> Self {
        Self {
            name: "made up".to_owned(),
            path: PathBuf::new(),
            opts,
            files,
        }
    }

    /// What the reference made of it.
    pub fn expected(&self) -> Value {
        read_json(&self.path.with_extension("json")).unwrap()
    }

    /// The graph that the reference made of it, where one is recorded.
    pub fn recorded_llb(&self) -> Option<Value> {
        read_json(&self.path.with_extension("llb.json"))
    }
}

fn read_json(path: &Path) -> Option<Value> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(serde_json::from_str(&text).unwrap())
}

/// All cases, sorted by name.
pub fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/oracle/cases");
    let mut cases = Vec::new();
    for theme in std::fs::read_dir(root).unwrap() {
        for file in std::fs::read_dir(theme.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "case") {
                cases.push(read_case(path));
            }
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() > 100, "only {} cases", cases.len());
    cases
}

fn read_case(path: PathBuf) -> Case {
    let text = std::fs::read_to_string(&path).unwrap();
    let theme = path.parent().unwrap().file_name().unwrap();
    let stem = path.file_stem().unwrap();
    let mut case = Case {
        name: format!("{}/{}", theme.to_string_lossy(), stem.to_string_lossy()),
        opts: BTreeMap::new(),
        files: BTreeMap::new(),
        path: path.clone(),
    };
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next_if(|l| !l.starts_with("--- ")) {
        if let Some(opt) = line.strip_prefix("opt: ") {
            let (key, value) = opt.trim_end().split_once('=').unwrap();
            case.opts.insert(key.to_owned(), value.to_owned());
        }
    }
    while let Some(head) = lines.next() {
        let mut body = String::new();
        while let Some(line) = lines.next_if(|l| !l.starts_with("--- ")) {
            body.push_str(line);
        }
        let words: Vec<&str> = head.split_whitespace().skip(1).collect();
        let has = |word: &str| words.contains(&word);
        if has("dir") || words.iter().any(|w| w.starts_with("->")) {
            continue;
        }
        if has("crlf") {
            body = body.replace('\n', "\r\n");
        }
        if has("nonl") {
            body.truncate(body.trim_end_matches('\n').len());
        }
        if has("bom") {
            body.insert(0, '\u{feff}');
        }
        case.files.insert(words[0].to_owned(), body.into_bytes());
    }
    case
}

/// Serves one case and remembers what it was asked.
pub struct Memory {
    invocation: Invocation,
    files: BTreeMap<String, Vec<u8>>,
    solved: Mutex<Vec<SolveRequest>>,
    warnings: Mutex<Vec<Warning>>,
    calls: Mutex<Vec<String>>,
}

fn platform(architecture: &str) -> pb::Platform {
    pb::Platform {
        architecture: architecture.to_owned(),
        os: "linux".to_owned(),
        ..pb::Platform::default()
    }
}

impl Memory {
    pub fn new(case: &Case) -> Self {
        let llb = gateway_llb::caps::ALL
            .iter()
            .filter(|cap| !gateway_llb::caps::UNANNOUNCED.contains(cap))
            .copied();
        Self {
            invocation: Invocation {
                opts: case.opts.clone(),
                session_id: "session".to_owned(),
                workers: vec![Worker {
                    platforms: vec![platform("amd64")],
                    ..Worker::default()
                }],
                frontend_caps: CapSet::enabled([
                    "solve.base",
                    "frontend.inputs",
                    "source.metaresolver",
                    "gateway.warnings",
                ]),
                llb_caps: CapSet::enabled(llb),
                ..Invocation::default()
            },
            files: case.files.clone(),
            solved: Mutex::default(),
            warnings: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    /// The definitions that were solved, in order.
    pub fn definitions(&self) -> Vec<pb::Definition> {
        let solved = self.solved.lock().unwrap();
        solved.iter().filter_map(|s| s.definition.clone()).collect()
    }

    /// Requests to run other frontends.
    pub fn forwards(&self) -> Vec<SolveRequest> {
        let solved = self.solved.lock().unwrap();
        solved
            .iter()
            .filter(|s| !s.frontend.is_empty())
            .cloned()
            .collect()
    }

    /// The warnings, as users see them.
    pub fn warnings(&self) -> Vec<String> {
        let warnings = self.warnings.lock().unwrap();
        warnings
            .iter()
            .map(|w| String::from_utf8_lossy(&w.short).into_owned())
            .collect()
    }

    /// The calls in order, as `method argument`.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn called(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    fn folder(&self, reference: &Ref) -> Option<String> {
        let solved = self.solved.lock().unwrap();
        let index: usize = reference.id.parse().ok()?;
        let graph = Graph::load(solved.get(index)?.definition.as_ref()?).ok()?;
        let source = graph.get(&graph.result().digest)?.op().op.clone()?;
        let pb::op::Op::Source(source) = source else {
            return None;
        };
        let local = source.identifier.strip_prefix("local://")?.to_owned();
        Some(match local.as_str() {
            "context" | "dockerfile" => String::new(),
            other => format!("ctx2/{other}/"),
        })
    }
}

#[async_trait]
impl Gateway for Memory {
    fn invocation(&self) -> &Invocation {
        &self.invocation
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, Error> {
        self.called("inputs".to_owned());
        Ok(BTreeMap::new())
    }

    async fn solve(&self, request: SolveRequest) -> Result<BuildResult, Error> {
        let what = match &request.definition {
            _ if !request.frontend.is_empty() => request.frontend.clone(),
            None => "nothing".to_owned(),
            Some(definition) => Graph::load(definition)
                .ok()
                .and_then(|g| g.get(&g.result().digest)?.custom_name().map(str::to_owned))
                .unwrap_or_default(),
        };
        self.called(format!("solve {what}"));
        let mut solved = self.solved.lock().unwrap();
        solved.push(request);
        let id = (solved.len() - 1).to_string();
        Ok(BuildResult {
            refs: Refs::Single(Ref::new(id, None)),
            ..BuildResult::default()
        })
    }

    async fn resolve_image_config(
        &self,
        _: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error> {
        Err(Error::unknown("not served"))
    }

    async fn resolve_source_meta(
        &self,
        request: ResolveSourceMetaRequest,
    ) -> Result<SourceMeta, Error> {
        self.called(format!("meta {}", request.log_name));
        let identifier = &request.source.identifier;
        let reference = identifier
            .strip_prefix("docker-image://")
            .unwrap_or_default();
        let wanted = request.platform.clone().unwrap_or_default();
        if !["amd64", "arm64"].contains(&wanted.architecture.as_str()) {
            return Err(Error::unknown(
                "no match for platform in manifest: not found",
            ));
        }
        let Some((digest, config)) = base_image(reference, &wanted.architecture) else {
            return Err(Error::unknown(format!("{reference}: not found")));
        };
        Ok(SourceMeta {
            image: Some(ImageMeta {
                digest: digest.to_owned(),
                config: config.to_string().into_bytes(),
                ..ImageMeta::default()
            }),
            source: request.source,
            ..SourceMeta::default()
        })
    }

    async fn read_file(
        &self,
        reference: &Ref,
        path: &str,
        _: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        self.called(format!("read {path}"));
        let folder = self.folder(reference).unwrap_or_default();
        let found = self.files.get(&format!("{folder}{path}"));
        found
            .cloned()
            .ok_or_else(|| Error::unknown(format!("open {path}: no such file or directory")))
    }

    async fn read_dir(&self, _: &Ref, _: &str, _: Option<&str>) -> Result<Vec<Stat>, Error> {
        Err(Error::unknown("not served"))
    }

    async fn stat_file(&self, _: &Ref, _: &str) -> Result<Stat, Error> {
        Err(Error::unknown("not served"))
    }

    async fn evaluate(&self, _: &Ref) -> Result<(), Error> {
        Ok(())
    }

    async fn warn(&self, warning: Warning) -> Result<(), Error> {
        self.warnings.lock().unwrap().push(warning);
        Ok(())
    }

    async fn new_container(&self, _: ContainerRequest) -> Result<Box<dyn Container>, Error> {
        Err(Error::unknown("not served"))
    }
}

/// Digest and config of the base images that the cases were recorded with.
fn base_image(reference: &str, architecture: &str) -> Option<(&'static str, Value)> {
    const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let plain = json!({"Env": [PATH], "Cmd": ["sh"]});
    let name = reference
        .strip_prefix("docker.io/")?
        .strip_suffix(":latest")?;
    let (digest, layers, config) = match name {
        "library/busybox" => (
            "sha256:5cd64af2f032a43d6b63e25b01db8ced5680d37fec27066ce9d8d6d71e88e66a",
            1,
            plain,
        ),
        "library/alpine" => (
            "sha256:0000000000000000000000000000000000000000000000000000000000000001",
            1,
            json!({"Env": [PATH], "Cmd": ["/bin/sh"]}),
        ),
        "test/config" => (
            "sha256:bcf6629e1270ba62e44929f24531780fd52deebdf5cc7b13e469200b037b3d91",
            1,
            json!({
                "User": "app",
                "Env": [PATH, "BASE=from-base", "LANG=C.UTF-8"],
                "WorkingDir": "/home/app",
                "Entrypoint": ["/bin/busybox"],
                "Cmd": ["sh", "-c", "echo base"],
                "Labels": {"base.label": "one", "both": "base"},
                "Volumes": {"/data": {}},
                "ExposedPorts": {"8080/tcp": {}},
                "StopSignal": "SIGINT",
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_i64},
                "Shell": ["/bin/sh", "-ec"],
            }),
        ),
        "test/onbuild" => (
            "sha256:4a17b96e466eaaea229fbde9213a61d967a45deecdd4d2cf69e96eba6ec85177",
            1,
            json!({"Env": [PATH], "Cmd": ["sh"], "OnBuild": [
                "COPY onbuild.txt /from-onbuild.txt",
                "RUN echo onbuild > /ran-onbuild.txt",
                "ENV ONBUILT=yes",
            ]}),
        ),
        "test/layers" => (
            "sha256:79d6d4531ec8d23639de73d573c403b861e08196463a9daf44d528550d2b25ed",
            4,
            plain,
        ),
        "test/multi" => (
            "sha256:5fa061549977b6c3ce34a9c4cdd41491ba6328f6554b62683580be500642fba5",
            if architecture == "amd64" { 2 } else { 1 },
            plain,
        ),
        _ => return None,
    };
    let architecture = if name == "test/multi" {
        architecture
    } else {
        "amd64"
    };
    let created = "2020-01-01T00:00:00Z";
    let history: Vec<Value> = (0..layers)
        .map(|i| json!({"created": created, "created_by": format!("base_images.py layer {i}")}))
        .collect();
    let layer = format!("sha256:{}", "a".repeat(64));
    let document = json!({
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": vec![layer; layers]},
        "history": history,
    });
    Some((digest, document))
}
