//! The lines of a build file that an error points at.

use gateway_api::{Error, SourceLocation};
use gateway_llb::pb;

/// Excerpts of all locations of an error, innermost first, each as the reference client prints it.
pub fn excerpts(error: &Error) -> String {
    let locations: Vec<&SourceLocation> = error.sources().collect();
    locations.into_iter().rev().filter_map(excerpt).collect()
}

/// `FILE:LINE`, a rule, the lines with `>>>` on the range and a little context, a rule.
pub fn excerpt(location: &SourceLocation) -> Option<String> {
    let text = String::from_utf8_lossy(&location.info.data);
    let lines: Vec<&str> = text.split('\n').collect();
    let (first, last) = line_span(&location.ranges)?;
    if first < 1 || first > lines.len() {
        return None;
    }
    let last = last.min(lines.len());
    let (from, to) = widen(first, last, lines.len());

    let mut out = format!("{}:{first}\n{RULE}\n", location.info.filename);
    for number in from..=to {
        let mark = if is_marked(&location.ranges, number) {
            ">>>"
        } else {
            "   "
        };
        out += &format!(" {number:3} | {mark} {}\n", lines[number - 1]);
    }
    out += RULE;
    out.push('\n');
    Some(out)
}

const RULE: &str = "--------------------";

/// Context around the span: four lines for a single one, two for a range, shared both ways.
fn widen(first: usize, last: usize, count: usize) -> (usize, usize) {
    let budget = if first == last { 4 } else { 2 };
    let (mut from, mut to, mut spent) = (first, last, 0);
    while spent < budget {
        if from > 1 {
            from -= 1;
            spent += 1;
        }
        if to != count {
            to += 1;
            spent += 1;
        }
        // Each round costs one by itself: observed of the reference client.
        spent += 1;
    }
    (from, to)
}

fn bounds(range: &pb::Range) -> Option<(usize, usize)> {
    let start = range.start.as_ref().map_or(0, |position| position.line);
    let end = range.end.as_ref().map_or(0, |position| position.line);
    let start = usize::try_from(start).ok()?;
    Some((start, usize::try_from(end).ok()?.max(start)))
}

fn line_span(ranges: &[pb::Range]) -> Option<(usize, usize)> {
    let spans: Vec<(usize, usize)> = ranges.iter().filter_map(bounds).collect();
    let first = spans.iter().map(|span| span.0).min()?;
    let last = spans.iter().map(|span| span.1).max()?;
    Some((first, last))
}

fn is_marked(ranges: &[pb::Range], line: usize) -> bool {
    ranges
        .iter()
        .filter_map(bounds)
        .any(|(first, last)| first <= line && line <= last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(data: &str, first: i32, last: i32) -> SourceLocation {
        let position = |line| Some(pb::Position { line, character: 0 });
        SourceLocation {
            info: pb::SourceInfo {
                filename: "Dockerfile".into(),
                data: data.as_bytes().to_vec(),
                ..pb::SourceInfo::default()
            },
            ranges: vec![pb::Range {
                start: position(first),
                end: position(last),
            }],
        }
    }

    #[test]
    fn a_single_line_gets_context_on_both_sides() {
        let text = "FROM base AS one\nRUN a\nFROM base\nCOPY x /p\nRUN exit 3\nRUN echo never\n";
        assert_eq!(
            excerpt(&location(text, 5, 5)).unwrap(),
            "Dockerfile:5\n--------------------\n   3 |     FROM base\n   4 |     COPY x /p\n   \
             5 | >>> RUN exit 3\n   6 |     RUN echo never\n   7 |     \n--------------------\n"
        );
    }

    #[test]
    fn a_location_outside_the_file_prints_nothing() {
        assert_eq!(excerpt(&location("FROM x\n", 9, 9)), None);
        assert_eq!(excerpt(&location("FROM x\n", 0, 0)), None);
        assert_eq!(excerpt(&location("FROM x\n", -3, 2)), None);
    }

    #[test]
    fn an_end_past_the_file_is_clipped() {
        let text = excerpt(&location("FROM x\nRUN y", 2, 99)).unwrap();
        assert!(text.contains("   2 | >>> RUN y\n"), "{text}");
    }
}
