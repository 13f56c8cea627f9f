//! Stands between a frontend and its host: takes down what is asked, and answers as hosts of other years, broken ones
//! and hostile ones do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use gateway_api::caps::{Cap, CapSet};
use gateway_api::{
    BuildResult, Code, Container, ContainerRequest, Error, FileRange, Gateway, ImageConfig,
    Invocation, Ref, ResolveImageConfigRequest, ResolveSourceMetaRequest, SolveRequest, SourceMeta,
    Stat, Warning,
};
use gateway_bridge::{Observed, Observer};
use gateway_llb::pb;

/// How the host is not itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Twist {
    #[default]
    None,
    /// That of docker 18.09: few capabilities, and calls that came later are unknown.
    Of2018,
    /// With capabilities that nobody knows yet.
    Future,
    /// Without the call that came in 2024.
    NoSourceMeta,
    /// Errors of missing files have other words and another code.
    OtherWords,
    /// Nothing can be solved.
    Refuses,
    /// Image configs are no JSON.
    BrokenConfigs,
    /// Files hold noise.
    Noise,
    /// Every result is empty.
    Empty,
    /// Solving takes for ever.
    Hangs,
}

/// What a refused solve says.
pub const REFUSAL: &str = "this solve is refused for a test";

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
    /// The definitions that were solved, as bytes by op, in order.
    pub definitions: Vec<Vec<Vec<u8>>>,
    pub returned: Option<Result<BuildResult, Error>>,
}

/// One host for one run.
pub struct Probe {
    twist: Twist,
    seen: Mutex<Seen>,
}

impl Probe {
    pub fn new(twist: Twist) -> Arc<Probe> {
        Arc::new(Probe {
            twist,
            seen: Mutex::default(),
        })
    }

    pub fn seen(&self) -> Seen {
        self.lock().clone()
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
            Twist::NoSourceMeta => {
                let kept = invocation.frontend_caps.iter().map(|(id, _)| id);
                let kept: Vec<&str> = kept
                    .filter(|id| !id.starts_with("source.metaresolver"))
                    .collect();
                invocation.frontend_caps = CapSet::enabled(kept);
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

struct Run {
    gateway: Arc<Host>,
    probe: Arc<Probe>,
}

impl Observed for Run {
    fn gateway(&self) -> Arc<dyn Gateway> {
        self.gateway.clone()
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

    async fn solve(&self, request: SolveRequest) -> Result<BuildResult, Error> {
        if let Some(definition) = &request.definition {
            self.probe.lock().definitions.push(definition.def.clone());
        }
        match self.probe.twist {
            Twist::Refuses => Err(Error::new(Code::FailedPrecondition, REFUSAL)),
            Twist::Empty => Ok(BuildResult::default()),
            Twist::Hangs => std::future::pending().await,
            _ => self.inner.solve(request).await,
        }
    }

    async fn resolve_image_config(
        &self,
        request: ResolveImageConfigRequest,
    ) -> Result<ImageConfig, Error> {
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
        self.inner.warn(warning).await
    }

    async fn new_container(&self, request: ContainerRequest) -> Result<Box<dyn Container>, Error> {
        self.unknown("NewContainer", &[Twist::Of2018])?;
        self.inner.new_container(request).await
    }
}
