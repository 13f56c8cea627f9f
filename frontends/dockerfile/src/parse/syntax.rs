//! Which frontend a build file asks for: `# syntax = REF` and its other spellings.
//!
//! Self-contained: whoever forwards a build needs it, whatever the file's language is.

/// The frontend a file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syntax {
    /// The image reference: the value up to its first blank.
    pub reference: String,
    /// The whole value.
    pub cmdline: String,
    /// The line that says so, 1-based; 0 (or 1 after a `#!` line) when the file is a JSON object.
    pub line: u32,
}

/// A line of this many bytes or more ends the scan.
const MAX_LINE: usize = 64 * 1024;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Find the frontend a build file asks for.
pub fn detect_syntax(bytes: &[u8]) -> Option<Syntax> {
    let mut text = bytes.strip_prefix(BOM).unwrap_or(bytes);
    let mut line = 0;
    if text.starts_with(b"#!") {
        text = match text.iter().position(|b| *b == b'\n') {
            Some(end) => text.get(end + 1..).unwrap_or_default(),
            None => &[],
        };
        line = 1;
    }
    scan(text, "#", line).or_else(|| scan(text, "//", line)).or_else(|| json(text, line))
}

fn scan(text: &[u8], marker: &str, mut number: u32) -> Option<Syntax> {
    let mut seen: Vec<String> = Vec::new();
    for raw in text.split(|b| *b == b'\n') {
        number += 1;
        if raw.len() >= MAX_LINE {
            return None;
        }
        let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
        let (name, value) = directive(raw, marker)?;
        if seen.contains(&name) {
            return None;
        }
        if name == "syntax" {
            let reference = value.split(' ').next().unwrap_or_default().to_owned();
            return Some(Syntax { reference, cmdline: value, line: number });
        }
        seen.push(name);
    }
    None
}

/// The lower-case name and the value of a directive line; `None` for any other line, unknown directives included.
///
/// `marker` is what starts a comment: `#`, `//`, or nothing when it was already removed.
pub fn directive(line: &[u8], marker: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix(marker.as_bytes())?;
    let text = String::from_utf8_lossy(rest);
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let value = rest.trim_start_matches(is_blank).strip_prefix('=')?.trim_matches(is_blank);
    if value.is_empty() || value.contains('\n') {
        return None;
    }
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), "syntax" | "escape" | "check").then(|| (name, value.to_owned()))
}

/// White space of ASCII; a wider blank around `=` is no directive.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0c' | '\r')
}

fn json(text: &[u8], line: u32) -> Option<Syntax> {
    let first = text.iter().find(|b| !b.is_ascii_whitespace())?;
    if *first != b'{' {
        return None;
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).ok()?;
    let value = object.get("syntax")?.as_str()?.to_owned();
    Some(Syntax { reference: value.clone(), cmdline: value, line })
}
