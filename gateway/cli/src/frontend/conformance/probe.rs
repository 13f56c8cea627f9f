//! Stands between a frontend and its host: takes down what is asked, and answers as hosts of other years, broken ones
//! and hostile ones do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use gateway_api::caps::{Cap, CapSet};
use gateway_api::{
    BuildResult, Code, Container, ContainerRequest, Detail, Error, FileRange, Gateway, ImageConfig,
    Invocation, Process, ProcessRequest, Ref, ResolveImageConfigRequest, ResolveSourceMetaRequest,
    SolveRequest, SourceMeta, Stat, Warning,
};
use gateway_bridge::{Conduct, Manners, Observed, Observer};
use gateway_llb::pb;
use tokio_util::sync::CancellationToken;

/// How the host is not itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Twist {
    #[default]
    None,
    /// That of docker 18.09: few capabilities, and calls that came later are unknown.
    Of2018,
    /// It lists no capabilities at all.
    Listless,
    /// With capabilities that nobody knows yet.
    Future,
    /// With so many that its answer is larger than the default limit of gRPC libraries.
    ManyCaps,
    /// It can fetch sources, and nothing else.
    SourcesOnly,
    /// Results are plain ids, as before 2020.
    NoRefArray,
    /// Without the call that came in 2024.
    NoSourceMeta,
    /// Errors of missing files have other words and another code.
    OtherWords,
    /// Nothing can be solved.
    Refuses,
    /// The same, with details longer than the default limit of HTTP/2 libraries.
    RefusesAtLength,
    /// No other frontend can be called, and no cache be imported.
    Alone,
    /// Names at [`NOWHERE`] cannot be resolved or solved.
    Unreachable,
    /// Containers cannot be released.
    Sticky,
    /// Image configs are no JSON.
    BrokenConfigs,
    /// Files hold noise.
    Noise,
    /// Every result is empty.
    Empty,
    /// Solving takes for ever.
    Hangs,
    /// It closes the connection when something is to be solved.
    Leaves,
}

/// What a refused solve says.
pub const REFUSAL: &str = "this solve is refused for a test";

/// A host of names that exist nowhere.
pub const NOWHERE: &str = "nowhere.test";

/// Above 4 MiB, which gRPC libraries take by default, below the 16 MiB that hosts may send.
const MANY_CAPS: usize = 60_000;
const LONG_CAP: usize = 90;
/// Above the 16 KiB of headers that HTTP/2 libraries take by default; builds fail with more.
const LONG_DETAIL: usize = 256 << 10;
/// The type of that detail.
pub const LONG_DETAIL_TYPE: &str = "gateway.test/long";

/// Capabilities of hosts of 2018.
const CAPS_OF_2018: [&str; 9] = [
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "return",
    "returnmap",
    "readdir",
    "statfile",
];
const LLB_OF_2018: [&str; 20] = [
    "source.image",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.git",
    "source.git.keepgitdir",
    "source.git.fullurl",
    "source.http",
    "source.http.checksum",
    "source.http.perm",
    "source.http.uidgid",
    "exec.meta.base",
    "exec.mount.bind",
    "exec.mount.cache",
    "constraints",
    "platform",
];

/// What a frontend asked and returned.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Sources that it wanted to know more of.
    pub resolved: Vec<String>,
    /// Frontends that it called.
    pub nested: Vec<SolveRequest>,
    pub warnings: Vec<Warning>,
    pub containers: usize,
    /// How it behaved on the wire.
    pub manners: Manners,
    /// The definitions that were solved, as bytes by op, in order.
    pub definitions: Vec<Vec<Vec<u8>>>,
    pub returned: Option<Result<BuildResult, Error>>,
}

/// One host for one run.
pub struct Probe {
    twist: Twist,
    conduct: Arc<Conduct>,
    /// A solve hangs.
    pub hanging: CancellationToken,
    seen: Mutex<Seen>,
}

impl Probe {
    pub fn new(twist: Twist, conduct: Conduct) -> Arc<Probe> {
        Arc::new(Probe {
            twist,
            conduct: Arc::new(conduct),
            hanging: CancellationToken::new(),
            seen: Mutex::default(),
        })
    }

    pub fn seen(&self) -> Seen {
        Seen {
            manners: self.conduct.manners(),
            ..self.lock().clone()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The observer of an engine.
pub struct Watching(pub Arc<Probe>);

impl Observer for Watching {
    fn begins(&self, _: &str, gateway: Arc<dyn Gateway>) -> Box<dyn Observed> {
        let mut invocation = gateway.invocation().clone();
        match self.0.twist {
            Twist::Of2018 => {
                invocation.frontend_caps = CapSet::enabled(CAPS_OF_2018);
                invocation.llb_caps = CapSet::enabled(LLB_OF_2018);
            }
            Twist::Future => {
                let cap = Cap {
                    enabled: true,
                    ..Cap::default()
                };
                for caps in [&mut invocation.frontend_caps, &mut invocation.llb_caps] {
                    caps.insert("zz.of.another.time", cap.clone());
                }
            }
            Twist::NoSourceMeta => keep(&mut invocation.frontend_caps, |id| {
                !id.starts_with("source.metaresolver")
            }),
            Twist::NoRefArray => keep(&mut invocation.frontend_caps, |id| id != "proto.refarray"),
            Twist::SourcesOnly => keep(&mut invocation.llb_caps, |id| {
                ["source.", "meta.", "constraints", "platform"]
                    .iter()
                    .any(|known| id.starts_with(known))
            }),
            Twist::Listless => {
                invocation.frontend_caps = CapSet::default();
                invocation.llb_caps = CapSet::default();
            }
            Twist::ManyCaps => {
                for number in 0..MANY_CAPS {
                    let id = format!("zz.{number:0>LONG_CAP$}");
                    let cap = Cap {
                        enabled: true,
                        ..Cap::default()
                    };
                    invocation.llb_caps.insert(&id, cap);
                }
            }
            _ => {}
        }
        Box::new(Run {
            gateway: Arc::new(Host {
                inner: gateway,
                invocation,
                probe: self.0.clone(),
            }),
            probe: self.0.clone(),
        })
    }
}

fn keep(caps: &mut CapSet, kept: impl Fn(&str) -> bool) {
    let ids: Vec<&str> = caps
        .iter()
        .map(|(id, _)| id)
        .filter(|id| kept(id))
        .collect();
    *caps = CapSet::enabled(ids);
}

struct Run {
    gateway: Arc<Host>,
    probe: Arc<Probe>,
}

impl Observed for Run {
    fn gateway(&self) -> Arc<dyn Gateway> {
        self.gateway.clone()
    }

    fn conduct(&self) -> Option<Arc<Conduct>> {
        Some(self.probe.conduct.clone())
    }

    fn ended(self: Box<Self>, returned: &Result<BuildResult, Error>) {
        // Of frontends that call others the outermost ends last.
        self.probe.lock().returned = Some(returned.clone());
    }
}

struct Host {
    inner: Arc<dyn Gateway>,
    invocation: Invocation,
    probe: Arc<Probe>,
}

impl Host {
    fn unknown(&self, call: &str, twists: &[Twist]) -> Result<(), Error> {
        match twists.contains(&self.probe.twist) {
            true => Err(Error::new(
                Code::Unimplemented,
                format!("unknown method {call} for service moby.buildkit.v1.frontend.LLBBridge"),
            )),
            false => Ok(()),
        }
    }

    /// Whether something is at a host that is nowhere.
    fn reaches(&self, text: &str) -> Result<(), Error> {
        match self.probe.twist == Twist::Unreachable && text.contains(NOWHERE) {
            true => Err(Error::new(Code::NotFound, format!("{text}: not found"))),
            false => Ok(()),
        }
    }

    fn missing(&self, error: Error) -> Error {
        match self.probe.twist {
            Twist::OtherWords => Error::new(Code::NotFound, "keine solche Datei"),
            _ => error,
        }
    }
}

#[async_trait]
impl Gateway for Host {
    fn invocation(&self) -> &Invocation {
        &self.invocation
    }

    async fn inputs(&self) -> Result<BTreeMap<String, pb::Definition>, Error> {
        self.unknown("Inputs", &[Twist::Of2018])?;
        self.inner.inputs().await
    }

    async fn solve(&self, mut request: SolveRequest) -> Result<BuildResult, Error> {
        if let Some(definition) = &request.definition {
            self.probe.lock().definitions.push(definition.def.clone());
        }
        if !request.frontend.is_empty() {
            self.probe.lock().nested.push(request.clone());
        }
        let refusal = Error::new(Code::FailedPrecondition, REFUSAL);
        match self.probe.twist {
            Twist::Refuses => Err(refusal),
            Twist::RefusesAtLength => Err(refusal.with(Detail::Other {
                type_url: LONG_DETAIL_TYPE.to_owned(),
                value: vec![b'x'; LONG_DETAIL],
            })),
            Twist::Alone if !request.frontend.is_empty() => Err(refusal),
            Twist::Alone => {
                request.cache_imports.clear();
                self.inner.solve(request).await
            }
            Twist::Empty => Ok(BuildResult::default()),
            Twist::Hangs => {
                self.probe.hanging.cancel();
                std::future::pending().await
            }
            Twist::Leaves => {
                self.probe.conduct.leaves.cancel();
                std::future::pending().await
            }
            _ => self.inner.solve(request).await,
        }
    }

    async fn resolve_image_config(
        &self,
        request: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error> {
        let asked = format!("docker-image://{}", request.reference);
        self.probe.lock().resolved.push(asked);
        self.reaches(&request.reference)?;
        let mut config = self.inner.resolve_image_config(request).await?;
        if self.probe.twist == Twist::BrokenConfigs {
            config.config = br#"{"rootfs": 7, "#.to_vec();
        }
        Ok(config)
    }

    async fn resolve_source_meta(
        &self,
        request: ResolveSourceMetaRequest,
    ) -> Result<SourceMeta, Error> {
        self.unknown("ResolveSourceMeta", &[Twist::Of2018, Twist::NoSourceMeta])?;
        let asked = request.source.identifier.clone();
        self.probe.lock().resolved.push(asked.clone());
        self.reaches(&asked)?;
        let mut meta = self.inner.resolve_source_meta(request).await?;
        if let (Twist::BrokenConfigs, Some(image)) = (self.probe.twist, &mut meta.image) {
            image.config = br#"{"rootfs": 7, "#.to_vec();
        }
        Ok(meta)
    }

    async fn read_file(
        &self,
        reference: &Ref,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        let read = self.inner.read_file(reference, path, range).await;
        let bytes = read.map_err(|error| self.missing(error))?;
        Ok(match self.probe.twist {
            Twist::Noise => (0..4096_u32)
                .map(|n| n.wrapping_mul(167).to_le_bytes()[0])
                .collect(),
            _ => bytes,
        })
    }

    async fn read_dir(
        &self,
        reference: &Ref,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        let read = self.inner.read_dir(reference, path, include).await;
        read.map_err(|error| self.missing(error))
    }

    async fn stat_file(&self, reference: &Ref, path: &str) -> Result<Stat, Error> {
        let stat = self.inner.stat_file(reference, path).await;
        stat.map_err(|error| self.missing(error))
    }

    async fn evaluate(&self, reference: &Ref) -> Result<(), Error> {
        self.unknown("Evaluate", &[Twist::Of2018])?;
        self.inner.evaluate(reference).await
    }

    async fn warn(&self, warning: Warning) -> Result<(), Error> {
        self.unknown("Warn", &[Twist::Of2018])?;
        self.probe.lock().warnings.push(warning.clone());
        self.inner.warn(warning).await
    }

    async fn new_container(&self, request: ContainerRequest) -> Result<Box<dyn Container>, Error> {
        self.unknown("NewContainer", &[Twist::Of2018])?;
        self.probe.lock().containers += 1;
        let container = self.inner.new_container(request).await?;
        Ok(match self.probe.twist {
            Twist::Sticky => Box::new(Sticky(container)),
            _ => container,
        })
    }
}

/// A container that cannot be released without an error.
struct Sticky(Box<dyn Container>);

#[async_trait]
impl Container for Sticky {
    async fn start(&self, request: ProcessRequest) -> Result<Box<dyn Process>, Error> {
        self.0.start(request).await
    }

    async fn read_file(
        &self,
        mount: usize,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Vec<u8>, Error> {
        self.0.read_file(mount, path, range).await
    }

    async fn read_dir(
        &self,
        mount: usize,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, Error> {
        self.0.read_dir(mount, path, include).await
    }

    async fn stat_file(&self, mount: usize, path: &str) -> Result<Stat, Error> {
        self.0.stat_file(mount, path).await
    }

    async fn release(&self) -> Result<(), Error> {
        self.0.release().await?;
        Err(Error::unknown(
            "the container cannot be released, for a test",
        ))
    }
}
