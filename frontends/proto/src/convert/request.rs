//! Solve and Warn.

use gateway_api::{CacheImport, SolveRequest, Warning};

use crate::frontend;

/// The request without the parts that only concern the answer's form (`allow...`) and the end of
/// a build of 2018 (`Final`, `ExporterAttr`).
pub fn solve_from_wire(request: frontend::SolveRequest) -> SolveRequest {
    SolveRequest {
        // A definition without ops is how some clients say "none".
        definition: request
            .definition
            .filter(|definition| !definition.def.is_empty()),
        frontend: request.frontend,
        frontend_opts: request.frontend_opt,
        frontend_inputs: request.frontend_inputs,
        cache_imports: request
            .cache_imports
            .into_iter()
            .map(|import| CacheImport {
                kind: import.r#type,
                attrs: import.attrs,
            })
            .collect(),
        evaluate: request.evaluate,
        source_policies: request.source_policies,
    }
}

/// Both answer forms allowed: whoever calls this understands them all.
pub fn solve_to_wire(request: SolveRequest) -> frontend::SolveRequest {
    frontend::SolveRequest {
        definition: request.definition,
        frontend: request.frontend,
        frontend_opt: request.frontend_opts,
        allow_result_return: true,
        allow_result_array_ref: true,
        cache_imports: request
            .cache_imports
            .into_iter()
            .map(|import| frontend::CacheOptionsEntry {
                r#type: import.kind,
                attrs: import.attrs,
            })
            .collect(),
        frontend_inputs: request.frontend_inputs,
        evaluate: request.evaluate,
        source_policies: request.source_policies,
        ..frontend::SolveRequest::default()
    }
}

pub fn warning_from_wire(request: frontend::WarnRequest) -> Warning {
    Warning {
        digest: request.digest,
        level: request.level,
        short: request.short,
        detail: request.detail,
        url: request.url,
        info: request.info,
        ranges: request.ranges,
    }
}

pub fn warning_to_wire(warning: Warning) -> frontend::WarnRequest {
    frontend::WarnRequest {
        digest: warning.digest,
        level: warning.level,
        short: warning.short,
        detail: warning.detail,
        url: warning.url,
        info: warning.info,
        ranges: warning.ranges,
    }
}
