//! What is wrong, or merely odd, with a definition: more than a server checks before it begins.

use prost::Message as _;

use crate::graph::{Graph, Vertex};
use crate::{digest_of, encode_op, pb, vertex_name};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A server refuses it, at once or when it gets there.
    Error,
    /// It works, and is probably not meant.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The vertex, by its digest; empty for the definition itself.
    pub digest: String,
    /// The vertex as progress shows it.
    pub name: String,
    /// What is wrong.
    pub message: String,
}

/// The most findings that are listed: a definition from outside may have one at every op.
pub const MAX_FINDINGS: usize = 1_000;

/// Schemes that sources of servers have.
const SCHEMES: [&str; 8] = [
    "docker-image",
    "docker-image+blob",
    "oci-layout",
    "oci-layout+blob",
    "git",
    "http",
    "https",
    "local",
];

/// Everything that there is to say about a definition, errors first.
pub fn check(definition: &pb::Definition) -> Vec<Finding> {
    let graph = match Graph::load(definition) {
        Ok(graph) => graph,
        Err(error) => {
            return vec![Finding {
                severity: Severity::Error,
                digest: String::new(),
                name: String::new(),
                message: error.to_string(),
            }];
        }
    };
    let mut list = List {
        graph: &graph,
        found: Vec::new(),
    };
    for vertex in graph.vertices() {
        list.vertex(vertex);
    }
    list.definition(definition);
    let mut found = list.found;
    found.sort_by_key(|finding| finding.severity);
    found
}

struct List<'a> {
    graph: &'a Graph,
    found: Vec<Finding>,
}

impl List<'_> {
    fn add(&mut self, severity: Severity, vertex: Option<&Vertex>, message: String) {
        if self.found.len() >= MAX_FINDINGS {
            return;
        }
        let digest = vertex.map_or("", Vertex::digest).to_owned();
        self.found.push(Finding {
            severity,
            name: match vertex {
                Some(vertex) => vertex_name(self.graph, vertex.digest()),
                None => String::new(),
            },
            digest,
            message,
        });
    }

    fn error(&mut self, vertex: &Vertex, message: impl Into<String>) {
        self.add(Severity::Error, Some(vertex), message.into());
    }

    fn warning(&mut self, vertex: &Vertex, message: impl Into<String>) {
        self.add(Severity::Warning, Some(vertex), message.into());
    }

    fn definition(&mut self, definition: &pb::Definition) {
        // The last op only names the result.
        let needed = self.graph.len() + 1;
        let unused = definition.def.len().saturating_sub(needed);
        if unused > 0 {
            let text = format!("{unused} ops are not needed by the result");
            self.add(Severity::Warning, None, text);
        }
        let digests: std::collections::HashSet<String> =
            definition.def.iter().map(|raw| digest_of(raw)).collect();
        for digest in definition.metadata.keys() {
            if !digests.contains(digest) {
                let text = format!("there is metadata for {digest}, which is no op");
                self.add(Severity::Warning, None, text);
            }
        }
    }

    fn vertex(&mut self, vertex: &Vertex) {
        let known = pb::Op::decode(vertex.raw()).map(|op| encode_op(&op));
        if known.is_ok_and(|canonical| canonical != vertex.raw()) {
            self.warning(
                vertex,
                "its bytes are not in canonical form: a server gives it another digest",
            );
        }
        match &vertex.op().op {
            Some(pb::op::Op::Source(source)) => self.source(vertex, source),
            Some(pb::op::Op::Exec(exec)) => self.exec(vertex, exec),
            Some(pb::op::Op::File(file)) => self.file(vertex, file),
            Some(_) => {}
            None => self.error(vertex, "it has no operation"),
        }
    }

    fn source(&mut self, vertex: &Vertex, source: &pb::SourceOp) {
        let Some((scheme, rest)) = source.identifier.split_once("://") else {
            let text = format!("{:?} is no address of a source", source.identifier);
            return self.error(vertex, text);
        };
        if !SCHEMES.contains(&scheme) {
            return self.error(
                vertex,
                format!("there are no sources of the kind {scheme:?}"),
            );
        }
        let pinned = rest.contains('@') || source.attrs.contains_key("image.checksum");
        if scheme == "docker-image" && !pinned {
            self.warning(vertex, "the image is not pinned by its digest");
        }
        if scheme == "oci-layout" && !rest.contains('@') {
            self.error(vertex, "images of OCI layouts need a digest");
        }
        let checked = source.attrs.contains_key("http.checksum");
        if scheme == "http" && !checked {
            self.warning(vertex, "it comes over http without a checksum");
        }
    }

    fn exec(&mut self, vertex: &Vertex, exec: &pb::ExecOp) {
        let inputs = vertex.op().inputs.len() as i64;
        let mut outputs = 0;
        for (number, mount) in exec.mounts.iter().enumerate() {
            let dest = &mount.dest;
            if mount.input >= inputs || mount.input < -1 {
                let text = format!("the mount at {dest} has input {}, of {inputs}", mount.input);
                self.error(vertex, text);
            }
            if mount.output != -1 {
                if mount.output != outputs {
                    let text = format!(
                        "the mount at {dest} has output {}, which is number {outputs} in order",
                        mount.output
                    );
                    self.error(vertex, text);
                }
                outputs += 1;
            }
            let before = exec.mounts.get(..number).unwrap_or_default();
            if before.iter().any(|other| other.dest == *dest) {
                self.warning(vertex, format!("two mounts are at {dest}"));
            }
            if dest == "/" && mount.mount_type != pb::MountType::Bind as i32 {
                self.error(vertex, "the root is no bind mount");
            }
        }
        let meta = exec.meta.clone().unwrap_or_default();
        if meta.cwd.is_empty() {
            self.error(vertex, "it has no working directory");
        }
        let mut keys: Vec<&str> = meta
            .env
            .iter()
            .filter_map(|e| e.split('=').next())
            .collect();
        keys.sort_unstable();
        for pair in keys.windows(2) {
            if let [a, b] = pair
                && a == b
            {
                self.warning(vertex, format!("the variable {a} is set twice"));
            }
        }
    }

    fn file(&mut self, vertex: &Vertex, file: &pb::FileOp) {
        let inputs = vertex.op().inputs.len() as i64;
        let mut outputs = Vec::new();
        for (number, action) in file.actions.iter().enumerate() {
            let known = inputs + number as i64;
            for input in [action.input, action.secondary_input] {
                if input >= known || input < -1 {
                    let text = format!("action {number} has input {input}, of {known}");
                    self.error(vertex, text);
                }
            }
            if action.output != -1 {
                outputs.push(action.output);
            }
        }
        outputs.sort_unstable();
        if outputs.is_empty() {
            self.error(vertex, "no outputs specified");
        } else if !outputs.iter().copied().eq(0..outputs.len() as i64) {
            self.error(vertex, "its outputs are not numbered from 0 without gaps");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Constraints, FileActions, ImageSource, MarshalOptions, Mkfile, State};

    fn messages(definition: &pb::Definition) -> Vec<String> {
        check(definition).into_iter().map(|f| f.message).collect()
    }

    /// A definition of one op, changed.
    fn with(op: impl FnOnce(&mut pb::Op), state: &State) -> pb::Definition {
        let mut definition = state.marshal(&MarshalOptions::default()).unwrap();
        let last = definition.def.len() - 2;
        let mut changed = pb::Op::decode(definition.def[last].as_slice()).unwrap();
        op(&mut changed);
        let raw = encode_op(&changed);
        let terminal = pb::Op {
            inputs: vec![pb::Input {
                digest: digest_of(&raw),
                index: 0,
            }],
            ..pb::Op::default()
        };
        definition.def[last] = raw;
        definition.def[last + 1] = encode_op(&terminal);
        definition.metadata.clear();
        definition
    }

    fn image() -> State {
        let pinned = format!("docker.io/library/busybox@{}", digest_of(b""));
        ImageSource::new(pinned).state(Constraints::new())
    }

    #[test]
    fn a_good_graph_has_no_findings() {
        let file = FileActions::new().mkfile("/f", Mkfile::default());
        let state = image().dir("/").run(["true"]).root();
        let state = state.file(file, Constraints::new());
        let definition = state.marshal(&MarshalOptions::default()).unwrap();
        assert_eq!(messages(&definition), [""; 0]);
    }

    #[test]
    fn what_a_server_would_find_late_is_found_at_once() {
        let step = image().dir("/").run(["true"]).root();
        let exec = |change: fn(&mut pb::ExecOp)| {
            with(
                |op| match &mut op.op {
                    Some(pb::op::Op::Exec(exec)) => change(exec),
                    other => panic!("{other:?}"),
                },
                &step,
            )
        };
        for (definition, want) in [
            (
                exec(|e| e.mounts[0].input = 3),
                "the mount at / has input 3, of 1",
            ),
            (
                exec(|e| e.mounts[0].output = 1),
                "the mount at / has output 1, which is number 0 in order",
            ),
            (
                exec(|e| e.meta.as_mut().unwrap().cwd.clear()),
                "it has no working directory",
            ),
            (
                exec(|e| e.meta.as_mut().unwrap().env = vec!["A=1".into(), "A=2".into()]),
                "the variable A is set twice",
            ),
            (
                exec(|e| e.mounts.push(e.mounts[0].clone())),
                "two mounts are at /",
            ),
        ] {
            assert!(
                messages(&definition).iter().any(|m| m == want),
                "{want}: {:?}",
                messages(&definition)
            );
        }
    }

    #[test]
    fn sources_that_no_server_has_or_that_may_change_are_found() {
        let of = |identifier: &'static str| {
            with(
                |op| {
                    op.op = Some(pb::op::Op::Source(pb::SourceOp {
                        identifier: identifier.to_owned(),
                        ..pb::SourceOp::default()
                    }));
                },
                &image(),
            )
        };
        assert_eq!(
            messages(&of("ftp://x")),
            ["there are no sources of the kind \"ftp\""]
        );
        assert_eq!(messages(&of("x")), ["\"x\" is no address of a source"]);
        assert_eq!(
            messages(&of("docker-image://a:1")),
            ["the image is not pinned by its digest"]
        );
        assert_eq!(
            messages(&of("http://a")),
            ["it comes over http without a checksum"]
        );
    }

    #[test]
    fn what_is_no_graph_is_one_error() {
        let found = check(&pb::Definition::default());
        assert_eq!(found[0].severity, Severity::Error);
        assert_eq!(found[0].message, "invalid empty definition");
    }

    #[test]
    fn ops_and_metadata_that_nothing_needs_are_told() {
        let mut definition = image().marshal(&MarshalOptions::default()).unwrap();
        let other = State::scratch().file(
            FileActions::new().mkfile("/f", Mkfile::default()),
            Constraints::new(),
        );
        let other = other.marshal(&MarshalOptions::default()).unwrap();
        definition.def.insert(0, other.def[0].clone());
        definition
            .metadata
            .insert("sha256:00".into(), pb::OpMetadata::default());
        assert_eq!(
            messages(&definition),
            [
                "1 ops are not needed by the result",
                "there is metadata for sha256:00, which is no op"
            ]
        );
    }
}
