//! Policies on a definition: its sources are judged, and when one is converted, its op and all ops
//! that build on it get other digests. What is not changed keeps its bytes: fields that are not
//! known here survive.

use std::collections::{BTreeMap, BTreeSet};

use gateway_api::{Detail, Error, SourceLocation};
use gateway_llb::{digest_of, pb};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use super::SourcePolicies;

/// Fields of an op, by number.
const INPUTS: u32 = 1;
const SOURCE: u32 = 3;
/// The digest in an input.
const INPUT_DIGEST: u32 = 1;

/// Judges all sources of a definition; gives what to load instead when one was converted.
///
/// # Errors
/// A source is denied; with the places in the build file that it came from. A definition that
/// cannot be read is passed on: loading it says what is wrong.
pub fn apply(
    definition: &pb::Definition,
    policies: &SourcePolicies,
) -> Result<Option<pb::Definition>, Error> {
    if policies.is_empty() {
        return Ok(None);
    }
    let mut converted: BTreeMap<usize, pb::SourceOp> = BTreeMap::new();
    for (index, bytes) in definition.def.iter().enumerate() {
        let Ok(op) = pb::Op::decode(bytes.as_slice()) else {
            return Ok(None);
        };
        let Some(pb::op::Op::Source(source)) = op.op else {
            continue;
        };
        let judged = policies.evaluate(&source).map_err(|error| {
            located(definition, &digest_of(bytes), error)
                .context("error evaluating the source policy")
        })?;
        if let Some(source) = judged {
            converted.insert(index, source);
        }
    }
    if converted.is_empty() {
        return Ok(None);
    }
    rewrite(definition, &converted).map(Some)
}

/// The error with the places in the build file that a source comes from; when it has none of its
/// own, those of the first op that uses it.
fn located(definition: &pb::Definition, digest: &str, mut error: Error) -> Error {
    let Some(source) = &definition.source else {
        return error;
    };
    // An op may be listed without any place.
    let places_of = |digest: &str| {
        let places = source.locations.get(digest);
        places.filter(|places| !places.locations.is_empty())
    };
    let mut names = BTreeSet::from([digest.to_owned()]);
    let mut places = places_of(digest);
    for index in inputs_first(definition) {
        let (None, Some(bytes)) = (places, definition.def.get(index)) else {
            break;
        };
        let op = pb::Op::decode(bytes.as_slice()).unwrap_or_default();
        if op.inputs.iter().any(|input| names.contains(&input.digest)) {
            let user = digest_of(bytes);
            places = places_of(&user);
            names.insert(user);
        }
    }
    for place in places.iter().flat_map(|places| &places.locations) {
        let info = usize::try_from(place.source_index)
            .ok()
            .and_then(|index| source.infos.get(index));
        if let Some(info) = info {
            error.details.push(Detail::Source(SourceLocation {
                info: info.clone(),
                ranges: place.ranges.clone(),
            }));
        }
    }
    error
}

/// The definition with other sources. Its ops may come in any order.
fn rewrite(
    definition: &pb::Definition,
    converted: &BTreeMap<usize, pb::SourceOp>,
) -> Result<pb::Definition, Error> {
    let broken = || Error::unknown("failed to parse llb proto op");
    let mut def = definition.def.clone();
    for (index, source) in converted {
        if let Some(bytes) = def.get_mut(*index) {
            *bytes = with_source(bytes, source).ok_or_else(broken)?;
        }
    }
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    for index in inputs_first(definition) {
        let (Some(old), Some(new)) = (definition.def.get(index), def.get_mut(index)) else {
            continue;
        };
        *new = with_inputs(new, &renamed).ok_or_else(broken)?;
        if new != old {
            renamed.insert(digest_of(old), digest_of(new));
        }
    }
    let name = |digest: &String| renamed.get(digest).unwrap_or(digest).clone();
    Ok(pb::Definition {
        def,
        metadata: definition
            .metadata
            .iter()
            .map(|(digest, metadata)| (name(digest), metadata.clone()))
            .collect(),
        source: definition.source.as_ref().map(|source| pb::Source {
            locations: source
                .locations
                .iter()
                .map(|(digest, places)| (name(digest), places.clone()))
                .collect(),
            ..source.clone()
        }),
    })
}

/// The ops' numbers, those of inputs before those who use them. Inputs are named by hashes of
/// what they are, so there is no circle.
fn inputs_first(definition: &pb::Definition) -> Vec<usize> {
    let numbers: BTreeMap<String, usize> = definition
        .def
        .iter()
        .enumerate()
        .map(|(index, bytes)| (digest_of(bytes), index))
        .collect();
    let inputs: Vec<Vec<usize>> = definition
        .def
        .iter()
        .map(|bytes| {
            let op = pb::Op::decode(bytes.as_slice()).unwrap_or_default();
            let inputs = op.inputs.iter();
            inputs
                .filter_map(|input| numbers.get(&input.digest).copied())
                .collect()
        })
        .collect();
    let mut order = Vec::with_capacity(inputs.len());
    let mut done = vec![false; inputs.len()];
    for root in 0..inputs.len() {
        // No recursion: a definition may be as deep as it is long.
        let mut stack = vec![(root, false)];
        while let Some((index, ready)) = stack.pop() {
            match done.get_mut(index) {
                Some(done) if ready && !*done => {
                    *done = true;
                    order.push(index);
                }
                Some(done) if !ready && !*done => {
                    stack.push((index, true));
                    let needed = inputs.get(index).into_iter().flatten();
                    stack.extend(needed.map(|input| (*input, false)));
                }
                _ => {}
            }
        }
    }
    order
}

/// Goes through the fields of a message: `each` gets the field's number and its content, when it
/// has a length, and may give another content. None when the bytes are no message.
fn edit_fields(
    message: &[u8],
    mut each: impl FnMut(u32, &[u8]) -> Option<Option<Vec<u8>>>,
) -> Option<Vec<u8>> {
    let mut rest = message;
    let mut out = Vec::with_capacity(message.len());
    while !rest.is_empty() {
        let field = rest;
        let (number, kind) = decode_key(&mut rest).ok()?;
        match kind {
            WireType::Varint => drop(decode_varint(&mut rest).ok()?),
            WireType::ThirtyTwoBit => rest = rest.get(4..)?,
            WireType::SixtyFourBit => rest = rest.get(8..)?,
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                let content = rest.get(..length)?;
                rest = rest.get(length..)?;
                if let Some(content) = each(number, content)? {
                    encode_key(number, kind, &mut out);
                    encode_varint(content.len() as u64, &mut out);
                    out.extend_from_slice(&content);
                    continue;
                }
            }
            // Of a form that nobody writes any more.
            WireType::StartGroup | WireType::EndGroup => return None,
        }
        out.extend_from_slice(field.get(..field.len() - rest.len())?);
    }
    Some(out)
}

fn with_source(op: &[u8], source: &pb::SourceOp) -> Option<Vec<u8>> {
    edit_fields(op, |number, _| {
        Some((number == SOURCE).then(|| source.encode_to_vec()))
    })
}

fn with_inputs(op: &[u8], renamed: &BTreeMap<String, String>) -> Option<Vec<u8>> {
    if renamed.is_empty() {
        return Some(op.to_vec());
    }
    edit_fields(op, |number, input| {
        if number != INPUTS {
            return Some(None);
        }
        let edited = edit_fields(input, |number, digest| {
            let new = std::str::from_utf8(digest)
                .ok()
                .filter(|_| number == INPUT_DIGEST)
                .and_then(|digest| renamed.get(digest));
            Some(new.map(|new| new.clone().into_bytes()))
        });
        Some(Some(edited?))
    })
}
