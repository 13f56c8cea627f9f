//! Exporters that a client names when a build's result is known, and is told of when all is exported.

use std::collections::BTreeMap;

use gateway_api::Error;
use tonic::Code;

use super::{Handle, client_error};
use crate::proto::session::{
    ExporterRequest, FinalizeExportRequest, FinalizeExportResponse, FindExportersRequest,
    FindExportersResponse,
};

const FIND: &str = "/moby.exporter.v1.Exporter/FindExporters";
const FINALIZE: &str = "/moby.exporter.v1.Exporter/FinalizeExport";

/// A client without any says so by its code.
fn unless_none<T: Default>(answer: Result<T, tonic::Status>) -> Result<T, Error> {
    match answer {
        Err(status) if matches!(status.code(), Code::Unavailable | Code::Unimplemented) => {
            Ok(T::default())
        }
        answer => answer.map_err(|status| client_error(&status)),
    }
}

/// Those that the client wants for a result.
///
/// # Errors
/// Of the client.
pub async fn find_exporters(
    handle: &Handle,
    metadata: &BTreeMap<String, Vec<u8>>,
    refs: Vec<String>,
) -> Result<Vec<ExporterRequest>, Error> {
    if !handle.has(FIND) {
        return Ok(Vec::new());
    }
    let request = FindExportersRequest {
        metadata: metadata.clone(),
        refs,
    };
    let channel = handle.channel();
    let answer = handle
        .until_closed(channel.unary::<_, FindExportersResponse>(FIND, request))
        .await
        .and_then(std::convert::identity);
    Ok(unless_none(answer)?.exporters)
}

/// Tells the client what all exporters answered.
///
/// # Errors
/// Of the client: the build fails with it.
pub async fn finalize_export(
    handle: &Handle,
    response: &BTreeMap<String, String>,
) -> Result<(), Error> {
    if !handle.has(FINALIZE) {
        return Ok(());
    }
    let request = FinalizeExportRequest {
        exporter_response: response.clone(),
    };
    let channel = handle.channel();
    let answer = handle
        .until_closed(channel.unary::<_, FinalizeExportResponse>(FINALIZE, request))
        .await
        .and_then(std::convert::identity);
    unless_none(answer).map(drop)
}
