//! Lazy results: a definition whose work is done on first use.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use gateway_api::{Code, Detail, Error, SourceLocation};
use gateway_llb::pb;

use crate::job::{Job, JobInner};
use crate::live::Refused;
use crate::policy::{self, SourcePolicies};
use crate::store::{Snapshot, WorkDir};

/// A lazy result. Cheap to clone; none of its work is done until first use.
#[derive(Clone)]
pub struct ResultRef {
    inner: Arc<RefInner>,
    /// The frontend that made it, for errors.
    origin: Option<Arc<Origin>>,
}

struct Origin {
    name: String,
    source: String,
}

pub(crate) struct RefInner {
    pub(crate) definition: pb::Definition,
    /// What its sources are judged by.
    pub(crate) policies: SourcePolicies,
    /// After first use.
    pub(crate) loaded: OnceLock<Result<Placed, Refused>>,
}

/// Where a result is in the live graph.
pub(crate) struct Placed {
    /// Terminal vertex and output.
    result: (String, i64),
    /// Where vertices come from in the build file, when policies gave them other digests.
    source: Option<pb::Source>,
}

impl std::fmt::Debug for ResultRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ResultRef({} ops)", self.inner.definition.def.len())
    }
}

impl ResultRef {
    pub(crate) fn new(inner: RefInner) -> Self {
        ResultRef {
            inner: Arc::new(inner),
            origin: None,
        }
    }

    /// The same result as what a frontend made of it: `name` and the image `source`. Its errors say
    /// so, unless it had passed another one's on.
    #[must_use]
    pub fn of_frontend(self, name: &str, source: &str) -> Self {
        let origin = self.origin.unwrap_or_else(|| {
            Arc::new(Origin {
                name: name.to_owned(),
                source: source.to_owned(),
            })
        });
        ResultRef {
            inner: self.inner,
            origin: Some(origin),
        }
    }

    /// Whether there is work that can be done; does none of it.
    ///
    /// # Errors
    /// The definition cannot be read, or asks for what this build may not do.
    pub fn check(&self, job: &Job) -> Result<(), Error> {
        self.loaded(job.inner()).map(drop)
    }

    /// Terminal vertex and output in the live graph.
    pub(crate) fn loaded(&self, job: &JobInner) -> Result<(String, i64), Error> {
        // A large graph takes seconds.
        if self.inner.loaded.get().is_none() && job.cancel().is_cancelled() {
            return Err(Error::canceled());
        }
        let loaded =
            self.inner.loaded.get_or_init(|| {
                let converted = policy::apply(&self.inner.definition, &self.inner.policies)
                    .map_err(|error| Refused {
                        error: error.context("failed to load LLB"),
                        broken: false,
                    })?;
                let definition = converted.as_ref().unwrap_or(&self.inner.definition);
                let loaded = job.graph.load(definition, &job.options.entitlements)?;
                job.reports.announce(loaded.announced);
                job.roots().insert(loaded.result.0.clone());
                Ok(Placed {
                    result: loaded.result,
                    source: converted.and_then(|definition| definition.source),
                })
            });
        match loaded {
            Ok(placed) => Ok(placed.result.clone()),
            // No graph at all: the frontend's fault alone.
            Err(refused) if refused.broken => Err(self.blame(refused.error.clone())),
            // What the build may not do: said by itself, and where it is asked for.
            Err(refused) => Err(self.of_origin(self.place(refused.error.clone()))),
        }
    }

    /// The definition it came from, so that it can be an input of new LLB.
    pub fn definition(&self) -> &pb::Definition {
        &self.inner.definition
    }

    /// The error of its work: with the place in the build file that its vertex came from, or with
    /// the name of the frontend that asked for it.
    pub(crate) fn locate(&self, error: Error) -> Error {
        if error.code == Code::Canceled {
            return error;
        }
        let error = self.place(error);
        let has_place = error.sources().next().is_some();
        match has_place {
            true => self.of_origin(error),
            false => self.blame(error),
        }
    }

    /// The error with the frontend's name in its words.
    fn blame(&self, error: Error) -> Error {
        match &self.origin {
            Some(origin) => {
                let prefix = format!("frontend {}", origin.source);
                self.of_origin(error.context(prefix))
            }
            None => error,
        }
    }

    fn of_origin(&self, mut error: Error) -> Error {
        if let Some(origin) = &self.origin {
            let detail = Detail::Frontend {
                name: origin.name.clone(),
                source: origin.source.clone(),
            };
            error.details.insert(0, detail);
        }
        error
    }

    fn place(&self, mut error: Error) -> Error {
        if error.sources().next().is_some() {
            return error;
        }
        let converted = match self.inner.loaded.get() {
            Some(Ok(placed)) => placed.source.as_ref(),
            _ => None,
        };
        let Some(source) = converted.or(self.inner.definition.source.as_ref()) else {
            return error;
        };
        let places = error
            .vertex()
            .and_then(|digest| source.locations.get(digest))
            .map(|locations| locations.locations.as_slice())
            .unwrap_or_default();
        let located: Vec<Detail> = places
            .iter()
            .filter_map(|place| {
                let index = usize::try_from(place.source_index).ok()?;
                Some(Detail::Source(SourceLocation {
                    info: source.infos.get(index)?.clone(),
                    ranges: place.ranges.clone(),
                }))
            })
            .collect();
        error.details.splice(0..0, located);
        error
    }
}

/// The root file system of a result: directories to stack with an overlay.
#[derive(Clone, Debug)]
pub struct RootFs {
    /// Topmost first; never empty (scratch is one empty directory). Read-only: others use them too.
    pub lowers: Vec<PathBuf>,
    /// Keeps what lives only as long as its users.
    pub(crate) _snapshot: Snapshot,
}

/// A pair of directories for an overlay, on the store's file system; deleted when dropped.
#[derive(Debug)]
pub struct ScratchDir {
    pub upper: PathBuf,
    pub work: PathBuf,
    pub(crate) _dir: WorkDir,
}
