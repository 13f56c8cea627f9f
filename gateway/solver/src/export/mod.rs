//! Exporters: what becomes of a build's results. Values in, files and response attributes out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::result::ResultRef;

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
}

/// Where an exporter's bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputTarget {
    File(PathBuf),
    Dir(PathBuf),
    Stdout,
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
}

/// What the client is told, e.g. `containerimage.digest`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportResponse {
    pub attrs: BTreeMap<String, String>,
}

/// The form of a layer's blob as it was pulled.
pub(crate) const ANY_FORM: &str = "any";

/// Does the work of all results and hands them to the exporters.
pub(crate) async fn export(
    _job: &crate::job::Job,
    _result: SolvedResult,
    _exporters: &[Exporter],
) -> Result<ExportResponse, gateway_api::Error> {
    Err(gateway_api::Error::unknown("not supported yet"))
}
