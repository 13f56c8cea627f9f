//! What surrounds an op: where it may run, how it is shown, where it came from.

use std::sync::Arc;

use crate::{SourceMap, pb};

/// The description key that replaces a vertex's default name in progress.
pub const CUSTOM_NAME: &str = "llb.customname";

/// Constraints and metadata of one op. Only the platform (of source and exec ops) and the worker
/// filters enter its digest.
#[derive(Clone, Debug, Default)]
pub struct Constraints {
    pub(crate) platform: Option<pb::Platform>,
    pub(crate) filters: Vec<String>,
    pub(crate) metadata: pb::OpMetadata,
    pub(crate) locations: Vec<(Arc<SourceMap>, Vec<pb::Range>)>,
}

impl Constraints {
    /// No constraints.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name shown in progress.
    pub fn name(self, name: impl Into<String>) -> Self {
        self.describe(CUSTOM_NAME, name)
    }

    /// A description entry of the vertex.
    pub fn describe(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.description.insert(key.into(), value.into());
        self
    }

    /// The platform that the op runs on or is selected for.
    pub fn platform(mut self, platform: pb::Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// A worker filter.
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.filters.push(filter.into());
        self
    }

    /// Runs the op even where its result is known.
    pub fn ignore_cache(mut self) -> Self {
        self.metadata.ignore_cache = true;
        self
    }

    /// Forces or suppresses the op's record in an exported cache.
    pub fn export_cache(mut self, export: bool) -> Self {
        self.metadata.export_cache = Some(pb::ExportCache { value: export });
        self
    }

    /// Shows the op as a part of a group; a weak member is shown alone when the group has no
    /// other.
    pub fn progress_group(
        mut self,
        id: impl Into<String>,
        name: impl Into<String>,
        weak: bool,
    ) -> Self {
        self.metadata.progress_group = Some(pb::ProgressGroup {
            id: id.into(),
            name: name.into(),
            weak,
        });
        self
    }

    /// Memory and CPU limits of an exec op.
    pub fn linux_resources(mut self, resources: pb::LinuxResources) -> Self {
        self.metadata.linux_resources = Some(resources);
        self
    }

    /// The place in a build file that the op came from.
    pub fn at(mut self, map: &Arc<SourceMap>, ranges: Vec<pb::Range>) -> Self {
        self.locations.push((Arc::clone(map), ranges));
        self
    }

    /// Asks for an LLB capability of the builder.
    pub fn cap(mut self, cap: &str) -> Self {
        self.metadata.caps.insert(cap.to_owned(), true);
        self
    }
}
