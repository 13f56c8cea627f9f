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
    let (text, line) = skip_head(bytes);
    let found = find(text, "#", "syntax", line).or_else(|| find(text, "//", "syntax", line));
    match found {
        Some((value, line)) => Some(Syntax {
            reference: first_word(&value).to_owned(),
            cmdline: value,
            line,
        }),
        None => json(text, line),
    }
}

/// The value of a `#` directive up to its first blank, and its line (1-based); found by the same rules as `syntax`.
pub fn find_directive(bytes: &[u8], name: &str) -> Option<(String, u32)> {
    let (text, line) = skip_head(bytes);
    let (value, line) = find(text, "#", name, line)?;
    Some((first_word(&value).to_owned(), line))
}

fn first_word(value: &str) -> &str {
    value.split(' ').next().unwrap_or_default()
}

/// The text after a byte order mark and a `#!` line, and how many lines were skipped.
fn skip_head(bytes: &[u8]) -> (&[u8], u32) {
    let text = bytes.strip_prefix(BOM).unwrap_or(bytes);
    if !text.starts_with(b"#!") {
        return (text, 0);
    }
    match text.iter().position(|b| *b == b'\n') {
        Some(end) => (text.get(end + 1..).unwrap_or_default(), 1),
        None => (&[], 1),
    }
}

fn find(text: &[u8], marker: &str, wanted: &str, mut number: u32) -> Option<(String, u32)> {
    let mut seen: Vec<String> = Vec::new();
    for raw in text.split(|b| *b == b'\n') {
        number += 1;
        if raw.len() >= MAX_LINE {
            return None;
        }
        let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
        let (name, value) = directive(raw, marker)?;
        if name == wanted {
            return Some((value, number));
        }
        if seen.contains(&name) {
            return None;
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
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let value = rest
        .trim_start_matches(is_blank)
        .strip_prefix('=')?
        .trim_matches(is_blank);
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
    let text = String::from_utf8_lossy(text);
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).ok()?;
    let value = object.get("syntax")?.as_str()?.to_owned();
    Some(Syntax {
        reference: value.clone(),
        cmdline: value,
        line,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: impl AsRef<[u8]>) -> Option<(String, String, u32)> {
        detect_syntax(text.as_ref()).map(|s| (s.reference, s.cmdline, s.line))
    }

    fn hit(reference: &str, cmdline: &str, line: u32) -> Option<(String, String, u32)> {
        Some((reference.to_owned(), cmdline.to_owned(), line))
    }

    #[test]
    fn p02_usual_spellings_are_found_on_the_first_line() {
        for text in [
            "# syntax=a\nFROM x",
            "#syntax=a",
            "#  SYNTAX  =  a  \n",
            "# syntax=a\r\nFROM x\r\n",
            "\u{feff}# syntax=a",
            "#\u{a0}syntax=a",
            "// syntax=a",
            "# syntax=a\n# syntax=b",
        ] {
            assert_eq!(found(text), hit("a", "a", 1), "{text:?}");
        }
        assert_eq!(
            found("# syntax=docker/dockerfile:1"),
            hit("docker/dockerfile:1", "docker/dockerfile:1", 1)
        );
    }

    #[test]
    fn p02_other_directives_may_precede() {
        assert_eq!(found("# escape=`\n# syntax=a"), hit("a", "a", 2));
        assert_eq!(found("# check=skip=all\n# syntax=a"), hit("a", "a", 2));
        assert_eq!(found("// escape=x\n// syntax=b"), hit("b", "b", 2));
        assert_eq!(found("# escape=`\n# escape=`\n# syntax=a"), None);
    }

    #[test]
    fn p02_the_reference_ends_at_the_first_space() {
        assert_eq!(found("# syntax=a b c=d"), hit("a", "a b c=d", 1));
        assert_eq!(found("# syntax=a # comment"), hit("a", "a # comment", 1));
        assert_eq!(found("# syntax=a\tb"), hit("a\tb", "a\tb", 1));
        assert_eq!(found("# syntax = \"a\""), hit("\"a\"", "\"a\"", 1));
        assert_eq!(found("# syntax==a"), hit("=a", "=a", 1));
    }

    #[test]
    fn p02_everything_else_ends_the_scan() {
        for text in [
            "",
            " # syntax=a",
            "\t# syntax=a",
            "\n# syntax=a",
            "# comment\n# syntax=a",
            "# foo=bar\n# syntax=a",
            "FROM x\n# syntax=a",
            "# syntax=",
            "# syntax",
            "#syntax:a",
            "##syntax=a",
            "# syn-tax=a",
            "-- syntax=a",
            "; syntax=a",
            "/* syntax=a */",
            "# syntax\u{a0}=\u{a0}a",
            "# x\n// syntax=b",
            "#!/bin/sh\n\n# syntax=a",
        ] {
            assert_eq!(found(text), None, "{text:?}");
        }
        let utf16: Vec<u8> = "# syntax=a"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(found(utf16), None);
        assert_eq!(
            found(format!("# check={}\n# syntax=a", "x".repeat(65536))),
            None
        );
    }

    #[test]
    fn p02_a_shebang_line_is_skipped_and_counted() {
        assert_eq!(found("#!/bin/sh\n# syntax=a"), hit("a", "a", 2));
        assert_eq!(found("#!/bin/sh\n{\"syntax\":\"a\"}"), hit("a", "a", 1));
        assert_eq!(found("#!/bin/sh"), None);
    }

    #[test]
    fn p02_double_slashes_come_before_a_later_hash() {
        assert_eq!(found("// syntax=b\n# syntax=c"), hit("b", "b", 1));
    }

    #[test]
    fn p02_a_json_object_may_hold_it() {
        assert_eq!(found(r#"{"syntax":"a"}"#), hit("a", "a", 0));
        assert_eq!(
            found(" \n{\n  \"x\": 1,\n  \"syntax\": \"a b\"\n}\n"),
            hit("a b", "a b", 0)
        );
        assert_eq!(found(r#"{"syntax":""}"#), hit("", "", 0));
        assert_eq!(found(r#"{"Syntax":"a"}"#), None);
        assert_eq!(found(r#"{"syntax":1}"#), None);
        assert_eq!(found(r#"[{"syntax":"a"}]"#), None);
        assert_eq!(found(r#"{"syntax":"a"} x"#), None);
    }

    #[test]
    fn other_directives_are_found_by_name() {
        assert_eq!(
            find_directive(b"# syntax=a\n# check=skip=all x\nFROM y", "check"),
            Some(("skip=all".to_owned(), 2))
        );
        assert_eq!(find_directive(b"// check=skip=all", "check"), None);
    }
}
