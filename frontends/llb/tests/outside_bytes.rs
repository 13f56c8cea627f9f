//! Bytes and texts from outside: no panic, and what is accepted holds together.

use gateway_llb::{GitRemote, Graph, encode_op, path, pb, platform, vertex_name};
use proptest::prelude::*;

fn op() -> impl Strategy<Value = pb::Op> {
    let exec = any::<(bool, bool, i64)>().prop_map(|(meta, root, input)| {
        pb::op::Op::Exec(pb::ExecOp {
            meta: meta.then(|| pb::Meta {
                args: vec!["x".to_owned()],
                ..pb::Meta::default()
            }),
            mounts: vec![pb::Mount {
                input,
                dest: if root { "/" } else { "/x" }.to_owned(),
                ..pb::Mount::default()
            }],
            ..pb::ExecOp::default()
        })
    });
    let merge = prop::collection::vec(-2..4_i64, 0..4).prop_map(|inputs| {
        pb::op::Op::Merge(pb::MergeOp {
            inputs: inputs
                .into_iter()
                .map(|input| pb::MergeInput { input })
                .collect(),
        })
    });
    let diff = (-2..4_i64, prop::option::of(-2..4_i64)).prop_map(|(lower, upper)| {
        pb::op::Op::Diff(pb::DiffOp {
            lower: Some(pb::LowerDiffInput { input: lower }),
            upper: upper.map(|input| pb::UpperDiffInput { input }),
        })
    });
    let file = Just(pb::op::Op::File(pb::FileOp {
        actions: vec![pb::FileAction::default()],
    }));
    let kind = prop::option::of(prop_oneof![exec, merge, diff, file]);
    kind.prop_map(|op| pb::Op {
        op,
        ..pb::Op::default()
    })
}

proptest! {
    #[test]
    fn any_bytes_are_loaded_or_refused(
        def in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6)
    ) {
        let _ = Graph::load(&pb::Definition { def, ..pb::Definition::default() });
    }

    #[test]
    fn what_loads_has_its_inputs_before_it(
        ops in prop::collection::vec((op(), prop::collection::vec((any::<prop::sample::Index>(), -1..3_i64), 0..3)), 1..8)
    ) {
        let mut definition = pb::Definition::default();
        let mut digests: Vec<String> = Vec::new();
        for (mut op, inputs) in ops {
            if !digests.is_empty() {
                op.inputs = inputs
                    .iter()
                    .map(|(at, index)| pb::Input { digest: at.get(&digests).clone(), index: *index })
                    .collect();
            }
            let bytes = encode_op(&op);
            digests.push(gateway_llb::digest_of(&bytes));
            definition.def.push(bytes);
        }
        if let Ok(graph) = Graph::load(&definition) {
            let mut seen = std::collections::HashSet::new();
            for vertex in graph.vertices() {
                prop_assert!(vertex.op().inputs.iter().all(|input| seen.contains(&input.digest)));
                seen.insert(vertex.digest().to_owned());
                vertex_name(&graph, vertex.digest());
                gateway_llb::json::op(vertex.op());
            }
            prop_assert!(seen.contains(&graph.result().digest));
            prop_assert!(Graph::load(&graph.to_definition()).is_ok());
        }
    }

    #[test]
    fn a_clean_path_stays_as_it_is(text in "[a./]{0,20}") {
        let clean = path::clean(&text);
        prop_assert_eq!(path::clean(&clean), clean.clone());
        prop_assert!(!clean.contains("//"));
    }

    #[test]
    fn platforms_and_repositories_are_read_or_refused(text in "\\PC{0,30}") {
        if let Ok(parsed) = platform::parse(&text) {
            let once = platform::normalize(&parsed);
            prop_assert_eq!(platform::normalize(&once), once.clone());
        }
        let _ = GitRemote::parse(&text);
    }
}
