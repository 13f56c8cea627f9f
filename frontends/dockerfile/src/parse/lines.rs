//! Bytes to logical lines: directives, comments, continuations and heredoc bodies.

use super::ast::{Directive, Escape, Heredoc, LineRange};
use super::error::ParseError;
use super::heredoc;
use super::node::Node;
use super::syntax;

/// The longest line in bytes, without its line end (observed).
const MAX_LINE: usize = 65535;

/// What the line level makes of a file.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub escape: Escape,
    pub directives: Vec<Directive>,
    pub nodes: Vec<Node>,
    pub empty_continuations: Vec<LineRange>,
    pub error: Option<ParseError>,
}

/// Read a whole file. What precedes an error is kept.
pub(super) fn read(bytes: &[u8]) -> Lines {
    let mut out = Lines::default();
    let mut reader = Reader {
        bytes: bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes),
        number: 0,
        too_long: false,
    };
    if let Err(err) = read_all(&mut reader, &mut out) {
        out.error = Some(err);
    } else if reader.too_long {
        let text = format!("dockerfile line greater than max allowed size of {MAX_LINE}");
        out.error = Some(reader.error_here(text));
    } else if out.nodes.is_empty() {
        out.error = Some(reader.error_here(super::NO_INSTRUCTIONS));
    }
    out
}

/// Physical lines, with their line ends.
struct Reader<'a> {
    bytes: &'a [u8],
    /// Lines read so far.
    number: u32,
    too_long: bool,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.bytes.is_empty() || self.too_long {
            return None;
        }
        let end = self.bytes.iter().position(|b| *b == b'\n');
        let (line, rest) = self.bytes.split_at(end.map_or(self.bytes.len(), |n| n + 1));
        if end.unwrap_or(line.len()) > MAX_LINE {
            self.too_long = true;
            return None;
        }
        self.bytes = rest;
        self.number = self.number.saturating_add(1);
        Some(line)
    }

    /// An error in the line read last.
    fn error_here(&self, message: impl Into<String>) -> ParseError {
        ParseError::at(message, LineRange::line(self.number.max(1)))
    }
}

fn read_all(reader: &mut Reader<'_>, out: &mut Lines) -> Result<(), ParseError> {
    let mut comments: Vec<String> = Vec::new();
    let mut in_directives = true;
    while let Some(raw) = reader.next() {
        let text = trim_left(trim_line_end(raw));
        if text.first() == Some(&b'#') {
            if in_directives {
                in_directives = directive(text, reader.number, out)?;
                if in_directives {
                    continue;
                }
            }
            // a comment that is indented keeps its mark (observed)
            let comment = String::from_utf8_lossy(raw.get(1..).unwrap_or_default());
            match comment.trim() {
                "" => comments.clear(),
                comment => comments.push(comment.to_owned()),
            }
            continue;
        }
        in_directives = false;
        if text.is_empty() {
            continue;
        }
        let start = reader.number;
        let mut line = Vec::new();
        let mut continued = push_line(&mut line, text, out.escape);
        let mut empty_line = false;
        while continued {
            let Some(raw) = reader.next() else { break };
            let inner = trim_left(trim_line_end(raw));
            match inner.first() {
                None => empty_line = true,
                Some(b'#') => {}
                Some(_) => continued = push_line(&mut line, trim_line_end(raw), out.escape),
            }
        }
        if empty_line {
            out.empty_continuations.push(LineRange::line(reader.number));
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut node = Node::read(line, out.escape)
            .map_err(|e| ParseError::at(e, LineRange::new(start, reader.number)))?;
        if node.takes_heredocs() && node.original.contains("<<") {
            let found = heredoc::in_line(&node.original)
                .map_err(|e| ParseError::at(e.to_string(), LineRange::new(start, reader.number)))?;
            for doc in found {
                let doc = body(reader, doc).ok_or_else(|| {
                    ParseError::at("unterminated heredoc", LineRange::new(start, reader.number))
                })?;
                node.heredocs.push(doc);
            }
        }
        node.location = LineRange::new(start, reader.number);
        node.comments = std::mem::take(&mut comments);
        out.nodes.push(node);
    }
    Ok(())
}

/// Read a comment line as a directive; `false` when it is none, which ends the directives.
fn directive(text: &[u8], number: u32, out: &mut Lines) -> Result<bool, ParseError> {
    let Some((name, value)) = syntax::directive(text, "#") else {
        return Ok(false);
    };
    // the line before: where the reference points
    let above = LineRange::line(number.saturating_sub(1).max(1));
    if out.directives.iter().any(|d| d.name == name) {
        let text = format!("only one {name} parser directive can be used");
        return Err(ParseError::at(text, above));
    }
    if name == "escape" {
        out.escape = match value.as_str() {
            "\\" => Escape('\\'),
            "`" => Escape('`'),
            other => {
                let text = format!("invalid escape token '{other}' does not match ` or \\");
                return Err(ParseError::at(text, LineRange::line(number)));
            }
        };
    }
    out.directives.push(Directive {
        name,
        value,
        location: LineRange::line(number),
    });
    Ok(true)
}

/// Append a line without its continuation mark; whether there was one.
fn push_line(line: &mut Vec<u8>, text: &[u8], escape: Escape) -> bool {
    let trimmed = text.trim_ascii_end();
    // only blanks and tabs may follow the mark
    let tail = text.get(trimmed.len()..).unwrap_or_default();
    if let [head @ .., mark] = trimmed
        && u32::from(*mark) == u32::from(escape.0)
        && head.last() != Some(mark)
        && tail.iter().all(|b| matches!(b, b' ' | b'\t'))
    {
        line.extend_from_slice(head);
        return true;
    }
    line.extend_from_slice(text);
    false
}

/// Read the body of a heredoc up to its end line; `None` when the file ends before.
fn body(reader: &mut Reader<'_>, mut doc: Heredoc) -> Option<Heredoc> {
    let mut content = Vec::new();
    while let Some(raw) = reader.next() {
        let mut end = trim_line_end(raw);
        if doc.chomp {
            let tabs = end.iter().take_while(|b| **b == b'\t').count();
            end = end.get(tabs..).unwrap_or_default();
        }
        if end == doc.name.as_bytes() {
            doc.content = String::from_utf8_lossy(&content).into_owned();
            return Some(doc);
        }
        content.extend_from_slice(raw);
    }
    None
}

fn trim_line_end(mut line: &[u8]) -> &[u8] {
    while let [rest @ .., b'\r' | b'\n'] = line {
        line = rest;
    }
    line
}

/// Without leading white space of any script.
fn trim_left(line: &[u8]) -> &[u8] {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        match rest.first() {
            Some(0x0b) => rest = rest.get(1..).unwrap_or_default(),
            Some(b) if *b >= 0x80 => {}
            _ => return rest,
        }
        if rest.first().is_some_and(|b| *b >= 0x80) {
            // at most the first character decides; it is no longer than four bytes
            let head = String::from_utf8_lossy(rest.get(..4).unwrap_or(rest));
            match head.chars().next() {
                Some(c) if c.is_whitespace() => rest = rest.get(c.len_utf8()..).unwrap_or_default(),
                _ => return rest,
            }
        }
    }
}
