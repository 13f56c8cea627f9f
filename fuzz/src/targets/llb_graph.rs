//! LLB definitions: as they come, and with the inputs of each op led to earlier ops, for bytes never
//! hit a digest. A graph that loads is in order, complete, and the same when it is written again.

use std::collections::HashSet;

use gateway_llb::{Graph, digest_of, encode_op, json, pb, vertex_name};
use prost::Message;

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let Ok(definition) = pb::Definition::decode(bytes) else {
        return;
    };
    check(&definition);
    if let Some(connected) = connected(&definition) {
        check(&connected);
    }
}

fn check(definition: &pb::Definition) {
    let Ok(graph) = Graph::load(definition) else {
        return;
    };
    let mut seen = HashSet::new();
    for vertex in graph.vertices() {
        assert_eq!(digest_of(vertex.raw()), vertex.digest());
        for input in &vertex.op().inputs {
            assert!(seen.contains(&input.digest), "an input after its user");
        }
        seen.insert(vertex.digest().to_owned());
        vertex_name(&graph, vertex.digest());
        json::op(vertex.op());
        json::metadata(vertex.metadata());
        graph.locations(vertex.digest());
    }
    assert_eq!(seen.len(), graph.len());
    assert!(seen.contains(&graph.result().digest));
    graph.source().map(json::source);

    let again = Graph::load(&graph.to_definition()).expect("what was written loads");
    assert_eq!(again.result(), graph.result());
    let digests = |graph: &Graph| -> HashSet<String> {
        let vertices = graph.vertices();
        vertices.map(|v| v.digest().to_owned()).collect()
    };
    assert_eq!(digests(&again), digests(&graph));
}

/// The definition with digests of inputs that exist: their length chooses among the ops before.
fn connected(definition: &pb::Definition) -> Option<pb::Definition> {
    let mut digests: Vec<String> = Vec::new();
    let mut out = pb::Definition {
        source: definition.source.clone(),
        ..pb::Definition::default()
    };
    for raw in &definition.def {
        let mut op = pb::Op::decode(raw.as_slice()).ok()?;
        match digests.len() {
            0 => op.inputs.clear(),
            count => {
                for input in &mut op.inputs {
                    input.digest = digests.get(input.digest.len() % count)?.clone();
                }
            }
        }
        let raw = encode_op(&op);
        digests.push(digest_of(&raw));
        out.def.push(raw);
    }
    let terminal = pb::Op {
        inputs: vec![pb::Input {
            digest: digests.last()?.clone(),
            index: 0,
        }],
        ..pb::Op::default()
    };
    out.def.push(encode_op(&terminal));
    Some(out)
}
