//! Definitions as every client can read them.

use std::collections::BTreeMap;

use gateway_llb::pb;

use crate::frontend::DefinitionEntry;

/// Definitions by name, as every client can read them.
pub fn to_entries(definitions: BTreeMap<String, pb::Definition>) -> Vec<DefinitionEntry> {
    definitions
        .into_iter()
        .map(|(key, definition)| DefinitionEntry {
            key,
            value: Some(without_empty(definition)),
        })
        .collect()
}

/// Definitions by name; of two with one name the last counts, as in every map.
pub fn from_entries(entries: Vec<DefinitionEntry>) -> BTreeMap<String, pb::Definition> {
    entries
        .into_iter()
        .map(|entry| (entry.key, entry.value.unwrap_or_default()))
        .collect()
}

/// Leaves out of the maps of a definition what is empty. On the wire such an entry has a key and no
/// value, of which some clients make a null pointer and end; an entry that is not there means the same.
pub fn without_empty(mut definition: pb::Definition) -> pb::Definition {
    definition
        .metadata
        .retain(|_, metadata| *metadata != pb::OpMetadata::default());
    if let Some(source) = &mut definition.source {
        source
            .locations
            .retain(|_, places| !places.locations.is_empty());
        for info in &mut source.infos {
            // A build file's own definition has no build file behind it: one level is all there is.
            if let Some(inner) = &mut info.definition {
                inner
                    .metadata
                    .retain(|_, metadata| *metadata != pb::OpMetadata::default());
                if let Some(source) = &mut inner.source {
                    source
                        .locations
                        .retain(|_, places| !places.locations.is_empty());
                }
            }
        }
    }
    definition
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_empty(info: Option<pb::Definition>) -> pb::Definition {
        let places = |count: usize| pb::Locations {
            locations: vec![pb::Location::default(); count],
        };
        let described = pb::OpMetadata {
            ignore_cache: true,
            ..pb::OpMetadata::default()
        };
        pb::Definition {
            metadata: [
                ("a".to_owned(), described),
                ("b".to_owned(), pb::OpMetadata::default()),
            ]
            .into(),
            source: Some(pb::Source {
                locations: [("a".to_owned(), places(1)), ("b".to_owned(), places(0))].into(),
                infos: vec![pb::SourceInfo {
                    definition: info,
                    ..pb::SourceInfo::default()
                }],
            }),
            ..pb::Definition::default()
        }
    }

    #[test]
    fn an_empty_definition_has_its_value_on_the_wire() {
        use prost::Message;
        let inputs = BTreeMap::from([("a".to_owned(), pb::Definition::default())]);
        let answer = crate::frontend::InputsResponse {
            definitions: to_entries(inputs.clone()),
        };
        let entry = [0x0a, 1, b'a', 0x12, 0];
        assert_eq!(answer.encode_to_vec(), [&[0x0a, 5][..], &entry].concat());
        assert_eq!(from_entries(answer.definitions), inputs);
    }

    #[test]
    fn entries_without_a_value_are_left_out_also_of_the_build_files_own_definition() {
        let cleaned = without_empty(with_empty(Some(with_empty(None))));
        let keys = |definition: &pb::Definition| {
            let source = definition.source.clone().unwrap();
            let metadata: Vec<String> = definition.metadata.keys().cloned().collect();
            (metadata, source.locations.into_keys().collect::<Vec<_>>())
        };
        let only = (vec!["a".to_owned()], vec!["a".to_owned()]);
        assert_eq!(keys(&cleaned), only);
        let inner = cleaned.source.unwrap().infos.remove(0).definition.unwrap();
        assert_eq!(keys(&inner), only);
    }
}
