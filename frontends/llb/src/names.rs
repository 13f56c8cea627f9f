//! The names that vertices have when their frontend gave them none.

use crate::graph::Graph;
use crate::pb;

/// Names of merges and diffs hold the names of their inputs. They are cut at this length: a graph
/// of a few ops can have a name of any length, and only its start is ever read.
const MAX_NAME: usize = 4096;

/// How deep names of merges and diffs nest.
const MAX_DEPTH: usize = 16;

/// The default name of the vertex `digest`: identifier, command line or list of file actions.
pub fn vertex_name(graph: &Graph, digest: &str) -> String {
    let mut name = Name {
        graph,
        text: String::new(),
    };
    name.vertex(digest, 0);
    let mut text = name.text;
    if text.len() > MAX_NAME {
        let end = (0..=MAX_NAME).rev().find(|i| text.is_char_boundary(*i));
        text.truncate(end.unwrap_or(0));
    }
    text
}

/// A name in the making. Nothing is added once it is long enough, so the work is bounded by the
/// length, not by the number of paths through the graph.
struct Name<'a> {
    graph: &'a Graph,
    text: String,
}

impl Name<'_> {
    fn add(&mut self, text: &str) {
        if self.text.len() <= MAX_NAME {
            self.text.push_str(text);
        }
    }

    fn vertex(&mut self, digest: &str, depth: usize) {
        if self.text.len() > MAX_NAME {
            return;
        }
        let graph = self.graph;
        let Some(vertex) = graph.get(digest) else {
            return self.add("unknown");
        };
        let op = vertex.op();
        match &op.op {
            Some(pb::op::Op::Source(source)) => self.add(&source.identifier),
            Some(pb::op::Op::Exec(exec)) => {
                let args = exec.meta.as_ref().map(|meta| meta.args.as_slice());
                self.joined(args.unwrap_or_default(), " ", |name, arg| name.add(arg));
            }
            Some(pb::op::Op::File(file)) => {
                self.joined(&file.actions, ", ", |name, action| name.action(action));
            }
            Some(pb::op::Op::Build(_)) => self.add("build"),
            Some(pb::op::Op::Merge(merge)) => {
                self.add("merge (");
                self.joined(&merge.inputs, ", ", |name, input| {
                    name.input(op, input.input, depth);
                });
                self.add(")");
            }
            Some(pb::op::Op::Diff(diff)) => {
                self.add("diff ");
                self.side(op, diff.lower.as_ref().map(|l| l.input), depth);
                self.add(" -> ");
                self.side(op, diff.upper.as_ref().map(|u| u.input), depth);
            }
            Some(pb::op::Op::Passthrough(op)) => {
                self.add("passthrough ");
                self.add(&op.id);
            }
            None => self.add("unknown"),
        }
    }

    fn joined<T>(&mut self, list: &[T], between: &str, one: impl Fn(&mut Self, &T)) {
        for (index, item) in list.iter().enumerate() {
            if self.text.len() > MAX_NAME {
                return;
            }
            if index > 0 {
                self.add(between);
            }
            one(self, item);
        }
    }

    fn side(&mut self, op: &pb::Op, input: Option<i64>, depth: usize) {
        match input {
            Some(-1) | None => self.add("scratch"),
            Some(index) => {
                self.add("(");
                self.input(op, index, depth);
                self.add(")");
            }
        }
    }

    fn input(&mut self, op: &pb::Op, index: i64, depth: usize) {
        let input = usize::try_from(index).ok().and_then(|i| op.inputs.get(i));
        match input {
            Some(_) if depth >= MAX_DEPTH => self.add("..."),
            Some(input) => self.vertex(&input.digest, depth + 1),
            None => self.add("unknown"),
        }
    }

    fn action(&mut self, action: &pb::FileAction) {
        use pb::file_action::Action;
        let text = match &action.action {
            Some(Action::Mkdir(a)) => format!("mkdir {}", a.path),
            Some(Action::Mkfile(a)) => format!("mkfile {}", a.path),
            Some(Action::Symlink(a)) => format!("symlink {} -> {}", a.newpath, a.oldpath),
            Some(Action::Rm(a)) => format!("rm {}", a.path),
            Some(Action::Copy(a)) => format!("copy {} {}", a.src, a.dest),
            None => return,
        };
        self.add(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Constraints, Copy, FileActions, ImageSource, MarshalOptions, Mkdir, Rm, State, Symlink,
    };

    fn name(state: &State) -> String {
        let definition = state.marshal(&MarshalOptions::default()).unwrap();
        let graph = Graph::load(&definition).unwrap();
        vertex_name(&graph, &graph.result().digest)
    }

    fn image(reference: &str) -> State {
        ImageSource::new(reference).state(Constraints::new())
    }

    #[test]
    fn names_say_what_is_done() {
        let (a, b) = (image("h/a:1"), image("h/b:1"));
        let none = Constraints::new;
        assert_eq!(name(&a), "docker-image://h/a:1");
        assert_eq!(name(&a.run(["sh", "-c", "x y"]).root()), "sh -c x y");
        let actions = FileActions::new()
            .mkdir("/d", Mkdir::default())
            .copy(&b, "/s", "/t", Copy::default())
            .symlink("/old", "/new", Symlink::default())
            .rm("/r", Rm::default());
        assert_eq!(
            name(&a.file(actions, none())),
            "mkdir /d, copy /s /t, symlink /new -> /old, rm /r"
        );
        assert_eq!(
            name(&State::merge(&[a.clone(), b.clone()], none())),
            "merge (docker-image://h/a:1, docker-image://h/b:1)"
        );
        assert_eq!(
            name(&State::diff(&State::scratch(), &b, none())),
            "diff scratch -> (docker-image://h/b:1)"
        );
    }

    #[test]
    fn the_name_of_many_paths_is_cut_short() {
        let mut state = image("h/a:1");
        for level in 0..40 {
            let other = state.run([level.to_string()]).root();
            let inputs = vec![state.clone(), other, state.clone(), state];
            state = State::merge(&inputs, Constraints::new());
        }
        assert!(name(&state).len() <= MAX_NAME);
    }
}
