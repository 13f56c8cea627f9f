//! Graphs as pictures: Graphviz and Mermaid, for people who look at what a frontend made.

use std::collections::HashMap;

use crate::graph::{Graph, Vertex};
use crate::{pb, vertex_name};

/// A label is cut here: a picture with whole shell scripts in it is no picture.
const MAX_LABEL: usize = 100;

/// The graph in Graphviz's language: `dot -Tsvg`.
pub fn dot(graph: &Graph) -> String {
    let mut out = String::from("digraph llb {\n  node [shape=box, style=filled];\n");
    let nodes = Nodes::new(graph);
    for (number, vertex) in graph.vertices().enumerate() {
        let label = quote(&label(graph, vertex));
        let color = color(vertex);
        out += &format!("  n{number} [label={label}, fillcolor=\"{color}\"];\n");
    }
    for edge in nodes.edges(graph) {
        let label = match edge.label.as_str() {
            "" => String::new(),
            text => format!(" [label={}]", quote(text)),
        };
        out += &format!("  n{} -> n{}{label};\n", edge.from, edge.to);
    }
    if let Some(result) = nodes.of(&graph.result().digest) {
        out += "  result [shape=ellipse, fillcolor=\"white\"];\n";
        out += &format!("  n{result} -> result;\n");
    }
    out + "}\n"
}

/// The graph in Mermaid's language, which many viewers of Markdown draw.
pub fn mermaid(graph: &Graph) -> String {
    let mut out = String::from("flowchart TD\n");
    let nodes = Nodes::new(graph);
    for (number, vertex) in graph.vertices().enumerate() {
        let label = entities(&label(graph, vertex));
        out += &format!("  n{number}[\"{label}\"]\n");
    }
    for edge in nodes.edges(graph) {
        let arrow = match edge.label.as_str() {
            "" => "-->".to_owned(),
            text => format!("-->|\"{}\"|", entities(text)),
        };
        out += &format!("  n{} {arrow} n{}\n", edge.from, edge.to);
    }
    if let Some(result) = nodes.of(&graph.result().digest) {
        out += "  result([result])\n";
        out += &format!("  n{result} --> result\n");
    }
    out
}

/// Numbers of vertices, in their order.
struct Nodes<'a>(HashMap<&'a str, usize>);

struct Edge {
    from: usize,
    to: usize,
    label: String,
}

impl<'a> Nodes<'a> {
    fn new(graph: &'a Graph) -> Self {
        let numbered = graph.vertices().enumerate();
        Nodes(numbered.map(|(n, v)| (v.digest(), n)).collect())
    }

    fn of(&self, digest: &str) -> Option<usize> {
        self.0.get(digest).copied()
    }

    fn edges(&self, graph: &Graph) -> Vec<Edge> {
        let mut edges = Vec::new();
        for (to, vertex) in graph.vertices().enumerate() {
            for (number, input) in vertex.op().inputs.iter().enumerate() {
                let Some(from) = self.of(&input.digest) else {
                    continue;
                };
                let mut label = mounted_at(vertex, number);
                if input.index != 0 {
                    label = format!("{label} (output {})", input.index);
                }
                let label = label.trim().to_owned();
                edges.push(Edge { from, to, label });
            }
        }
        edges
    }
}

/// Where a command sees an input, except its root.
fn mounted_at(vertex: &Vertex, input: usize) -> String {
    let Some(pb::op::Op::Exec(exec)) = &vertex.op().op else {
        return String::new();
    };
    let places = exec.mounts.iter().filter(|m| m.input == input as i64);
    let places: Vec<&str> = places
        .map(|m| m.dest.as_str())
        .filter(|dest| *dest != "/")
        .collect();
    places.join(", ")
}

fn label(graph: &Graph, vertex: &Vertex) -> String {
    let name = match vertex.custom_name() {
        Some(name) => name.to_owned(),
        None => vertex_name(graph, vertex.digest()),
    };
    if name.chars().count() <= MAX_LABEL {
        return name;
    }
    let cut: String = name.chars().take(MAX_LABEL).collect();
    format!("{cut}...")
}

fn color(vertex: &Vertex) -> &'static str {
    match &vertex.op().op {
        Some(pb::op::Op::Source(_)) => "#d6e8fa",
        Some(pb::op::Op::Exec(_)) => "#fbe3c4",
        Some(pb::op::Op::File(_)) => "#ddf0d5",
        Some(pb::op::Op::Merge(_) | pb::op::Op::Diff(_)) => "#e8dcf4",
        _ => "#eeeeee",
    }
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Text inside Mermaid's quotes has no escapes, only entities.
fn entities(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' | '#' | '&' | '<' | '>' | '`' | '|' => {
                out.push_str(&format!("#{};", u32::from(c)));
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Constraints, ImageSource, MarshalOptions, Mount};

    fn graph() -> Graph {
        let image = ImageSource::new("docker.io/library/busybox:latest")
            .state(Constraints::new().name("[1/2] FROM \"busy\\box\""));
        let other = ImageSource::new("docker.io/library/alpine:latest").state(Constraints::new());
        let step = image
            .dir("/")
            .run(["sh", "-c", "echo <&> \"x\"\nls"])
            .mount(Mount::bind("/other", &other).readonly());
        let definition = step.root().marshal(&MarshalOptions::default()).unwrap();
        Graph::load(&definition).unwrap()
    }

    #[test]
    fn a_graphviz_picture_has_every_vertex_edge_and_mount() {
        let text = dot(&graph());
        assert!(text.starts_with("digraph llb {\n"), "{text}");
        for part in [
            r##"label="[1/2] FROM \"busy\\box\"", fillcolor="#d6e8fa""##,
            r##"label="sh -c echo <&> \"x\"\nls", fillcolor="#fbe3c4""##,
            r#" -> n2 [label="/other"];"#,
            "n2 -> result;",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(text.matches(" -> ").count(), 3);
    }

    #[test]
    fn a_mermaid_picture_holds_no_character_that_ends_a_label() {
        let text = mermaid(&graph());
        assert!(text.starts_with("flowchart TD\n"), "{text}");
        assert!(
            text.contains("n2[\"sh -c echo #60;#38;#62; #34;x#34; ls\"]"),
            "{text}"
        );
        assert!(text.contains("-->|\"/other\"| n2"), "{text}");
        assert!(text.contains("n2 --> result"), "{text}");
    }
}
