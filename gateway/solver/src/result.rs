//! Lazy results: a definition whose work is done on first use.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use gateway_api::{Detail, Error, SourceLocation};
use gateway_llb::pb;

use crate::job::{Job, JobInner};
use crate::policy::{self, SourcePolicies};
use crate::store::{Snapshot, WorkDir};

/// A lazy result. Cheap to clone; none of its work is done until first use.
#[derive(Clone)]
pub struct ResultRef(pub(crate) Arc<RefInner>);

pub(crate) struct RefInner {
    pub(crate) definition: pb::Definition,
    /// What its sources are judged by.
    pub(crate) policies: SourcePolicies,
    /// After first use.
    pub(crate) loaded: OnceLock<Result<Placed, Error>>,
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
        write!(f, "ResultRef({} ops)", self.0.definition.def.len())
    }
}

impl ResultRef {
    /// Whether there is work that can be done; does none of it.
    ///
    /// # Errors
    /// The definition cannot be read, or asks for what this build may not do.
    pub fn check(&self, job: &Job) -> Result<(), Error> {
        self.loaded(job.inner()).map(drop)
    }

    /// Terminal vertex and output in the live graph.
    pub(crate) fn loaded(&self, job: &JobInner) -> Result<(String, i64), Error> {
        let loaded = self.0.loaded.get_or_init(|| {
            let converted = policy::apply(&self.0.definition, &self.0.policies)
                .map_err(|error| error.context("failed to load LLB"))?;
            let definition = converted.as_ref().unwrap_or(&self.0.definition);
            let loaded = job.graph.load(definition, &job.options.entitlements)?;
            job.reports.announce(loaded.announced);
            Ok(Placed {
                result: loaded.result,
                source: converted.and_then(|definition| definition.source),
            })
        });
        match loaded {
            Ok(placed) => Ok(placed.result.clone()),
            Err(error) => Err(error.clone()),
        }
    }

    /// The definition it came from, so that it can be an input of new LLB.
    pub fn definition(&self) -> &pb::Definition {
        &self.0.definition
    }

    /// The error with the place in the build file that its vertex came from.
    pub(crate) fn locate(&self, mut error: Error) -> Error {
        if error.sources().next().is_some() {
            return error;
        }
        let converted = match self.0.loaded.get() {
            Some(Ok(placed)) => placed.source.as_ref(),
            _ => None,
        };
        let Some(source) = converted.or(self.0.definition.source.as_ref()) else {
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
