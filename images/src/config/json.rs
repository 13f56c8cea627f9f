//! JSON in the spelling of Go's encoder, whose output is what other tools digest.

use serde::Serialize;

/// No spaces, and `<`, `>`, `&` and the two line separators escaped.
pub fn to_json(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_string(value).map(|text| escape(&text))
}

/// The same with line breaks and an indent of two, as BuildKit writes manifests and indexes.
pub fn to_json_indented(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_string_pretty(value).map(|text| escape(&text))
}

/// These characters stand only inside strings, so they can be replaced in the finished text.
fn escape(text: &str) -> Vec<u8> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_operators_are_escaped_as_go_does() {
        assert_eq!(
            to_json(&["a && b > \u{2028}é"]).unwrap(),
            "[\"a \\u0026\\u0026 b \\u003e \\u2028é\"]".as_bytes()
        );
    }
}
