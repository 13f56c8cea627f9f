//! Maps travel as Go writes them: sorted, and each entry with its key and its value. The bytes were written by BuildKit's
//! own package.

use std::collections::BTreeMap;

use gateway_llb::{digest_of, encode_op, pb};
use prost::Message as _;

fn texts<const N: usize>(entries: [(&str, &str); N]) -> BTreeMap<String, String> {
    entries
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn source() -> pb::Op {
    pb::Op {
        op: Some(pb::op::Op::Source(pb::SourceOp {
            identifier: "local://c".into(),
            attrs: texts([("a", "1"), ("b", ""), ("c", "2"), ("", "x")]),
        })),
        constraints: Some(pb::WorkerConstraints::default()),
        ..pb::Op::default()
    }
}

fn build() -> pb::Op {
    let inputs = [("zero", 0), ("one", 1), ("", 2)];
    let metadata = pb::OpMetadata {
        description: texts([("k", ""), ("", "")]),
        caps: [("y".to_owned(), true), ("n".to_owned(), false)].into(),
        ..pb::OpMetadata::default()
    };
    pb::Op {
        inputs: vec![pb::Input {
            digest: "sha256:00".into(),
            index: 0,
        }],
        op: Some(pb::op::Op::Build(pb::BuildOp {
            builder: -1,
            inputs: inputs
                .map(|(name, input)| (name.to_owned(), pb::BuildInput { input }))
                .into(),
            def: Some(pb::Definition {
                def: vec![vec![1]],
                metadata: [
                    ("d".to_owned(), pb::OpMetadata::default()),
                    ("e".to_owned(), metadata),
                ]
                .into(),
                source: Some(pb::Source {
                    locations: [
                        ("d".to_owned(), pb::Locations::default()),
                        (String::new(), pb::Locations::default()),
                    ]
                    .into(),
                    infos: Vec::new(),
                }),
            }),
            attrs: texts([("x", ""), ("llb-definition", "f")]),
        })),
        ..pb::Op::default()
    }
}

const SOURCE: &str =
    "5a001a290a096c6f63616c3a2f2f6312050a0012017812060a016112013112050a0162120012060a0163120132";
const BUILD: &str = "0a0b0a097368613235363a30302a810108ffffffffffffffffff0112060a001202080212090a036f6e651202080112080a047a65726f12001a3b0a010112050a0164120012200a0165121b12040a00120012050a016b12002a050a016e10002a050a017910011a0d0a040a0012000a050a0164120022130a0e6c6c622d646566696e6974696f6e12016622050a01781200";
const DEFINITION: &str = "12050a016412001a070a050a01641200";

#[test]
fn ops_with_default_values_in_their_maps_have_the_bytes_of_the_reference() {
    for (op, bytes) in [(source(), SOURCE), (build(), BUILD)] {
        assert_eq!(hex::encode(encode_op(&op)), bytes);
        let read = pb::Op::decode(hex::decode(bytes).unwrap().as_slice()).unwrap();
        assert_eq!(read, op);
    }
    assert_eq!(
        digest_of(&encode_op(&source())),
        digest_of(&hex::decode(SOURCE).unwrap())
    );
}

#[test]
fn definitions_with_places_and_metadata_that_say_nothing_have_them() {
    let definition = pb::Definition {
        metadata: [("d".to_owned(), pb::OpMetadata::default())].into(),
        source: Some(pb::Source {
            locations: [("d".to_owned(), pb::Locations::default())].into(),
            infos: Vec::new(),
        }),
        ..pb::Definition::default()
    };
    let bytes = definition.encode_to_vec();
    assert_eq!(hex::encode(&bytes), DEFINITION);
    assert_eq!(definition.encoded_len(), bytes.len());
}

/// As other writers have it: what is left out is the default.
#[test]
fn entries_without_a_key_or_a_value_are_read_as_those_with_defaults() {
    let read = pb::SourceOp::decode(&b"\x12\x00\x12\x03\x0a\x01k"[..]).unwrap();
    assert_eq!(read.attrs, texts([("", ""), ("k", "")]));
}
