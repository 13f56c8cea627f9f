//! Cache keys of the ops that combine results without running anything.

use gateway_llb::pb;

use super::go_json::{Object, array};
use super::{OpKey, digest_of};

fn input(index: i64) -> String {
    Object::new().int("input", index).done()
}

pub fn merge_key(merge: &pb::MergeOp, inputs: usize) -> OpKey {
    let body = Object::new()
        .list("inputs", &merge.inputs, |i| input(i.input))
        .done();
    let json = Object::new()
        .text_always("Type", "buildkit.merge.v0")
        .raw("Merge", &body)
        .done();
    OpKey::plain(digest_of(json.as_bytes()), inputs)
}

pub fn diff_key(diff: &pb::DiffOp, inputs: usize) -> OpKey {
    let body = Object::new()
        .maybe("lower", diff.lower.as_ref().map(|i| input(i.input)))
        .maybe("upper", diff.upper.as_ref().map(|i| input(i.input)))
        .done();
    let json = Object::new()
        .text_always("Type", "buildkit.diff.v0")
        .raw("Diff", &body)
        .done();
    OpKey::plain(digest_of(json.as_bytes()), inputs)
}

pub fn build_key(build: &pb::BuildOp, inputs: usize) -> OpKey {
    // Maps are written with sorted keys. The op's own definition is left out: the builder for LLB
    // takes that of its input.
    let list: Vec<(&String, &pb::BuildInput)> = build.inputs.iter().collect();
    let mut ins = Object::new();
    for (name, i) in list {
        ins.raw(name, &input(i.input));
    }
    let mut attrs = Object::new();
    for (name, value) in &build.attrs {
        attrs.text_always(name, value);
    }
    let mut body = Object::new();
    body.int("builder", build.builder);
    if !build.inputs.is_empty() {
        body.raw("inputs", &ins.done());
    }
    if !build.attrs.is_empty() {
        body.raw("attrs", &attrs.done());
    }
    let json = Object::new()
        .text_always("Type", "buildkit.build.v0")
        .raw("Exec", &body.done())
        .done();
    OpKey::plain(digest_of(json.as_bytes()), inputs)
}

pub fn passthrough_key(op: &pb::PassthroughOp, inputs: usize) -> OpKey {
    let mut body = Object::new();
    body.text("id", &op.id);
    if !op.outputs.is_empty() {
        body.raw("outputs", &array(&op.outputs, |output| output.to_string()));
    }
    let json = Object::new()
        .text_always("Type", "buildkit.passthrough.v0")
        .raw("Passthrough", &body.done())
        .done();
    OpKey::plain(digest_of(json.as_bytes()), inputs)
}
