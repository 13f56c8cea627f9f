//! Results, in every form that clients of the last years send and understand.

use gateway_api::result::InTotoSubject;
use gateway_api::{Attestation, BuildResult, Error, Ref, Refs};

use super::definition::without_empty;
use crate::frontend::{self, result::Result as Form};

/// What a client of Solve understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// The field `result` at all; without it only one plain id.
    pub result: bool,
    /// Refs as messages with definitions; without it plain ids.
    pub array_ref: bool,
}

/// The answer of Solve in the form that the client understands.
///
/// # Errors
/// A map result for a client that takes only one ref.
pub fn solve_response(
    result: BuildResult,
    accepts: Accepts,
) -> Result<frontend::SolveResponse, Error> {
    let single = match &result.refs {
        Refs::None => Some(String::new()),
        Refs::Single(reference) => Some(reference.id.clone()),
        Refs::Map(_) => None,
    };
    let id = if accepts.result {
        String::new()
    } else {
        single.ok_or_else(|| Error::unknown("solve did not return default result"))?
    };
    Ok(frontend::SolveResponse {
        r#ref: id,
        result: Some(to_wire(result, accepts.array_ref)),
    })
}

/// The result of a Solve, whichever form the host chose.
pub fn from_solve_response(response: frontend::SolveResponse) -> BuildResult {
    match response.result {
        Some(result) => from_wire(result),
        None => BuildResult {
            refs: Refs::Single(Ref::new(response.r#ref, None)),
            ..BuildResult::default()
        },
    }
}

/// `array_ref`: refs as messages, else plain ids. Nothing at all is an empty ref, as the Go
/// clients send it.
pub fn to_wire(result: BuildResult, array_ref: bool) -> frontend::Result {
    let form = match (result.refs, array_ref) {
        (Refs::None, true) => Form::Ref(frontend::Ref::default()),
        (Refs::None, false) => Form::RefDeprecated(String::new()),
        (Refs::Single(reference), true) => Form::Ref(ref_to_wire(reference)),
        (Refs::Single(reference), false) => Form::RefDeprecated(reference.id),
        (Refs::Map(map), true) => Form::Refs(frontend::RefMap {
            refs: map
                .into_iter()
                .map(|(key, reference)| frontend::RefEntry {
                    key,
                    value: Some(ref_to_wire(reference)),
                })
                .collect(),
        }),
        (Refs::Map(map), false) => Form::RefsDeprecated(frontend::RefMapDeprecated {
            refs: map
                .into_iter()
                .map(|(key, reference)| (key, reference.id))
                .collect(),
        }),
    };
    frontend::Result {
        metadata: result.metadata,
        attestations: result
            .attestations
            .into_iter()
            // No list means the same, and Go's programs read it.
            .filter(|(_, list)| !list.is_empty())
            .map(|(key, list)| {
                let attestation = list.into_iter().map(attestation_to_wire).collect();
                (key, frontend::Attestations { attestation })
            })
            .collect(),
        result: Some(form),
    }
}

/// Accepts all four forms and none. A map without entries is no ref.
pub fn from_wire(result: frontend::Result) -> BuildResult {
    let refs = match result.result {
        None => Refs::None,
        Some(Form::RefDeprecated(id)) => Refs::Single(Ref::new(id, None)),
        Some(Form::Ref(reference)) => Refs::Single(ref_from_wire(reference)),
        Some(Form::RefsDeprecated(map)) => refs_of(
            map.refs
                .into_iter()
                .map(|(key, id)| (key, Ref::new(id, None))),
        ),
        Some(Form::Refs(map)) => refs_of(
            map.refs
                .into_iter()
                .map(|entry| (entry.key, ref_from_wire(entry.value.unwrap_or_default()))),
        ),
    };
    BuildResult {
        refs,
        metadata: result.metadata,
        attestations: result
            .attestations
            .into_iter()
            .map(|(key, list)| {
                let list = list.attestation.into_iter().map(attestation_from_wire);
                (key, list.collect())
            })
            .collect(),
    }
}

fn refs_of(refs: impl Iterator<Item = (String, Ref)>) -> Refs {
    Refs::Map(refs.collect())
}

fn ref_to_wire(reference: Ref) -> frontend::Ref {
    frontend::Ref {
        id: reference.id,
        def: reference.def.map(without_empty),
    }
}

fn ref_from_wire(reference: frontend::Ref) -> Ref {
    Ref::new(reference.id, reference.def)
}

fn attestation_to_wire(attestation: Attestation) -> frontend::Attestation {
    frontend::Attestation {
        kind: attestation.kind,
        metadata: attestation.metadata,
        r#ref: attestation.reference.map(ref_to_wire),
        path: attestation.path,
        in_toto_predicate_type: attestation.in_toto_predicate_type,
        in_toto_subjects: attestation
            .in_toto_subjects
            .into_iter()
            .map(|subject| frontend::InTotoSubject {
                kind: subject.kind,
                digest: subject.digest,
                name: subject.name,
            })
            .collect(),
    }
}

fn attestation_from_wire(attestation: frontend::Attestation) -> Attestation {
    Attestation {
        kind: attestation.kind,
        metadata: attestation.metadata,
        reference: attestation.r#ref.map(ref_from_wire),
        path: attestation.path,
        in_toto_predicate_type: attestation.in_toto_predicate_type,
        in_toto_subjects: attestation
            .in_toto_subjects
            .into_iter()
            .map(|subject| InTotoSubject {
                kind: subject.kind,
                digest: subject.digest,
                name: subject.name,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use gateway_llb::pb;

    use super::*;

    fn single() -> BuildResult {
        let definition = pb::Definition {
            def: vec![vec![1]],
            ..pb::Definition::default()
        };
        BuildResult {
            refs: Refs::Single(Ref::new("id", Some(definition))),
            metadata: [("key".to_owned(), vec![0, 255])].into(),
            ..BuildResult::default()
        }
    }

    fn map() -> BuildResult {
        BuildResult {
            refs: Refs::Map([("linux/amd64".to_owned(), Ref::new("id", None))].into()),
            ..BuildResult::default()
        }
    }

    const fn accepts(result: bool, array_ref: bool) -> Accepts {
        Accepts { result, array_ref }
    }

    fn form(result: BuildResult, accepts: Accepts) -> (String, Option<Form>) {
        let response = solve_response(result, accepts).unwrap();
        (response.r#ref, response.result.and_then(|r| r.result))
    }

    /// A value that is left out is a null pointer to BuildKit's server, which it does not survive (observed).
    #[test]
    fn an_empty_ref_has_its_value_on_the_wire() {
        use prost::Message;
        let result = BuildResult {
            refs: Refs::Map([("a".to_owned(), Ref::new("", None))].into()),
            attestations: [("a".to_owned(), Vec::new())].into(),
            ..BuildResult::default()
        };
        let bytes = to_wire(result, true).encode_to_vec();
        let entry = [0x0a, 1, b'a', 0x12, 0];
        assert_eq!(bytes, [&[0x22, 7, 0x0a, 5][..], &entry].concat());
        let Refs::Map(back) = from_wire(frontend::Result::decode(&*bytes).unwrap()).refs else {
            panic!("no map");
        };
        assert!(back["a"].is_scratch());
    }

    #[test]
    fn p27_flags_choose_among_four_encodings_of_a_single_ref() {
        let old = Some(Form::RefDeprecated("id".to_owned()));
        assert_eq!(
            form(single(), accepts(false, false)),
            ("id".into(), old.clone())
        );
        assert_eq!(form(single(), accepts(true, false)), (String::new(), old));
        let (id, both) = form(single(), accepts(true, true));
        assert!(id.is_empty());
        assert!(matches!(&both, Some(Form::Ref(r)) if r.id == "id" && r.def.is_some()));
        assert_eq!(form(single(), accepts(false, true)), ("id".into(), both));
    }

    #[test]
    fn p27_a_map_needs_a_client_that_takes_results() {
        for array_ref in [false, true] {
            let error = solve_response(map(), accepts(false, array_ref)).unwrap_err();
            assert_eq!(error.message, "solve did not return default result");
        }
        assert!(matches!(
            form(map(), accepts(true, false)).1,
            Some(Form::RefsDeprecated(_))
        ));
        assert!(matches!(
            form(map(), accepts(true, true)).1,
            Some(Form::Refs(_))
        ));
    }

    #[test]
    fn p28_an_empty_result_is_an_empty_ref() {
        let (id, form_new) = form(BuildResult::default(), accepts(true, true));
        assert_eq!(
            (id.as_str(), form_new),
            ("", Some(Form::Ref(Default::default())))
        );
        let (id, form_old) = form(BuildResult::default(), accepts(false, false));
        assert_eq!(
            (id.as_str(), form_old),
            ("", Some(Form::RefDeprecated(String::new())))
        );
    }

    #[test]
    fn every_form_reads_back() {
        assert_eq!(from_wire(to_wire(single(), true)), single());
        assert_eq!(from_wire(to_wire(map(), true)), map());
        assert_eq!(from_wire(to_wire(map(), false)), map());
        assert_eq!(from_wire(frontend::Result::default()).refs, Refs::None);
        let old = frontend::SolveResponse {
            r#ref: "x".to_owned(),
            result: None,
        };
        assert_eq!(
            from_solve_response(old).refs,
            Refs::Single(Ref::new("x", None))
        );
    }
}
