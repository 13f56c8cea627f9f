//! Solve and Warn.

use gateway_api::{CacheImport, SolveRequest, Warning};

use super::definition::{from_entries, to_entries, without_empty};
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
        frontend_inputs: from_entries(request.frontend_inputs),
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
        definition: request.definition.map(without_empty),
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
        frontend_inputs: to_entries(request.frontend_inputs),
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

#[cfg(test)]
mod tests {
    use gateway_llb::pb;

    use super::*;

    /// BuildKit's server ends when a step fails of whose place there is a key and no value (observed).
    #[test]
    fn a_definition_leaves_without_empty_entries() {
        let definition = pb::Definition {
            def: vec![Vec::new()],
            metadata: [("a".to_owned(), pb::OpMetadata::default())].into(),
            source: Some(pb::Source {
                locations: [("a".to_owned(), pb::Locations::default())].into(),
                ..pb::Source::default()
            }),
        };
        let call = solve_to_wire(SolveRequest {
            definition: Some(definition.clone()),
            frontend_inputs: [("context".to_owned(), definition)].into(),
            ..SolveRequest::default()
        });
        let input = call.frontend_inputs.into_iter().next();
        for sent in [call.definition, input.and_then(|entry| entry.value)] {
            let sent = sent.expect("a definition");
            assert!(sent.metadata.is_empty());
            assert!(sent.source.expect("a source").locations.is_empty());
        }
    }
}
