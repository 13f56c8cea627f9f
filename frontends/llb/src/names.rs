//! The names that vertices have when their frontend gave them none.

use crate::graph::Graph;
use crate::pb;

/// Names of merges and diffs hold the names of their inputs; what is longer than this is cut, as
/// it could double with every level.
const MAX_NAME: usize = 4096;

/// The default name of the vertex `digest`: identifier, command line or list of file actions.
pub fn vertex_name(graph: &Graph, digest: &str) -> String {
    let mut name = name_of(graph, digest, 0);
    if name.len() > MAX_NAME {
        let end = (0..=MAX_NAME).rev().find(|i| name.is_char_boundary(*i));
        name.truncate(end.unwrap_or(0));
    }
    name
}

/// How deep names of merges and diffs nest.
const MAX_DEPTH: usize = 16;

fn name_of(graph: &Graph, digest: &str, depth: usize) -> String {
    let Some(vertex) = graph.get(digest) else {
        return "unknown".to_owned();
    };
    let op = vertex.op();
    let input_name = |index: i64| -> String {
        if depth >= MAX_DEPTH {
            return "...".to_owned();
        }
        usize::try_from(index)
            .ok()
            .and_then(|i| op.inputs.get(i))
            .map_or_else(
                || "unknown".to_owned(),
                |input| name_of(graph, &input.digest, depth + 1),
            )
    };
    match &op.op {
        Some(pb::op::Op::Source(source)) => source.identifier.clone(),
        Some(pb::op::Op::Exec(exec)) => exec
            .meta
            .as_ref()
            .map(|meta| meta.args.join(" "))
            .unwrap_or_default(),
        Some(pb::op::Op::File(file)) => {
            let names: Vec<String> = file.actions.iter().filter_map(action_name).collect();
            names.join(", ")
        }
        Some(pb::op::Op::Build(_)) => "build".to_owned(),
        Some(pb::op::Op::Merge(merge)) => {
            let names: Vec<String> = merge.inputs.iter().map(|i| input_name(i.input)).collect();
            let names = names.join(", ");
            if names.len() > MAX_NAME {
                return "merge (...)".to_owned();
            }
            format!("merge ({names})")
        }
        Some(pb::op::Op::Diff(diff)) => {
            let side = |input: Option<i64>| match input {
                Some(-1) | None => "scratch".to_owned(),
                Some(index) => format!("({})", input_name(index)),
            };
            format!(
                "diff {} -> {}",
                side(diff.lower.as_ref().map(|l| l.input)),
                side(diff.upper.as_ref().map(|u| u.input)),
            )
        }
        Some(pb::op::Op::Passthrough(op)) => format!("passthrough {}", op.id),
        None => "unknown".to_owned(),
    }
}

fn action_name(action: &pb::FileAction) -> Option<String> {
    use pb::file_action::Action;
    Some(match action.action.as_ref()? {
        Action::Mkdir(a) => format!("mkdir {}", a.path),
        Action::Mkfile(a) => format!("mkfile {}", a.path),
        Action::Symlink(a) => format!("symlink {} -> {}", a.newpath, a.oldpath),
        Action::Rm(a) => format!("rm {}", a.path),
        Action::Copy(a) => format!("copy {} {}", a.src, a.dest),
    })
}
