//! The warnings of a build, once more at its end, where they are seen.

use gateway_api::SourceLocation;
use gateway_api::progress::VertexWarning;
use gateway_llb::pb;

use super::colors::{Colors, Paint};
use super::trace::Trace;
use super::tty::clean;

/// ` N warnings found ...` and a line for each; with `debug` also why, where to read more, and the
/// lines of the build file.
pub fn warnings(trace: &Trace, colors: &Colors, debug: bool) -> String {
    let warnings: Vec<&VertexWarning> = trace
        .vertices
        .iter()
        .flat_map(|state| &state.warnings)
        .collect();
    if warnings.is_empty() {
        return String::new();
    }
    let plural = if warnings.len() == 1 { "" } else { "s" };
    let how = if debug {
        ""
    } else {
        " (use --debug to expand)"
    };
    let (before, after) = colors.around(Paint::Warning);
    let mut out = format!(
        "\n{before} {} warning{plural} found{how}:{after}\n",
        warnings.len()
    );
    for warning in warnings {
        out += &format!(" - {}\n", text(&warning.short));
        if debug {
            for detail in &warning.detail {
                out += &format!("{}\n", text(detail));
            }
            if !warning.url.is_empty() {
                out += &format!("More info: {}\n", clean(&warning.url));
            }
            if let Some(location) = location(warning) {
                out += &crate::excerpt::excerpt(&location).unwrap_or_default();
            }
            out.push('\n');
        }
    }
    out
}

fn text(bytes: &[u8]) -> String {
    clean(&String::from_utf8_lossy(bytes))
}

fn location(warning: &VertexWarning) -> Option<SourceLocation> {
    let info = warning.source_info.as_ref()?;
    let position = |p: gateway_api::progress::Position| {
        Some(pb::Position {
            line: p.line,
            character: p.character,
        })
    };
    Some(SourceLocation {
        info: pb::SourceInfo {
            filename: info.filename.clone(),
            data: info.data.clone(),
            language: info.language.clone(),
            ..pb::SourceInfo::default()
        },
        ranges: warning
            .ranges
            .iter()
            .map(|range| pb::Range {
                start: position(range.start),
                end: position(range.end),
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use gateway_api::progress::{Position, Range, SourceInfo, Status, Vertex};
    use time::OffsetDateTime;

    use super::*;

    fn trace() -> Trace {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut trace = Trace::default();
        trace.update(
            Status {
                vertexes: vec![Vertex {
                    digest: "sha256:a".into(),
                    name: "x".into(),
                    started: Some(now),
                    ..Vertex::default()
                }],
                warnings: vec![VertexWarning {
                    vertex: "sha256:a".into(),
                    level: 1,
                    short: b"JSONArgsRecommended: use JSON \x1b[2J (line 2)".to_vec(),
                    detail: vec![b"Signals do not reach a shell's child.".to_vec()],
                    url: "https://docs.example/rule".into(),
                    source_info: Some(SourceInfo {
                        filename: "Dockerfile".into(),
                        data: b"FROM x\nCMD a\n".to_vec(),
                        ..SourceInfo::default()
                    }),
                    ranges: vec![Range {
                        start: Position {
                            line: 2,
                            character: 0,
                        },
                        end: Position {
                            line: 2,
                            character: 5,
                        },
                    }],
                }],
                ..Status::default()
            },
            now,
        );
        trace
    }

    #[test]
    fn a_summary_is_short_and_steers_no_terminal() {
        assert_eq!(
            warnings(&trace(), &Colors::none(), false),
            "\n 1 warning found (use --debug to expand):\n - JSONArgsRecommended: use JSON  [2J (line 2)\n"
        );
        assert_eq!(warnings(&Trace::default(), &Colors::none(), false), "");
    }

    #[test]
    fn debug_tells_why_and_where() {
        insta::assert_snapshot!(warnings(&trace(), &Colors::none(), true), @r"

         1 warning found:
         - JSONArgsRecommended: use JSON  [2J (line 2)
        Signals do not reach a shell's child.
        More info: https://docs.example/rule
        Dockerfile:2
        --------------------
           1 |     FROM x
           2 | >>> CMD a
           3 |     
        --------------------
        ");
    }
}
