//! JSON exactly as Go's `encoding/json` writes the structs behind cache keys.
//!
//! A key is the hash of this text, so an escape more or less is a cache miss against every cache
//! that BuildKit made: fields in struct order, empty ones left out, HTML characters escaped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A JSON object being written; fields appear in the order of the calls.
pub struct Object {
    out: String,
}

impl Object {
    pub fn new() -> Self {
        Object { out: "{".into() }
    }

    /// A field that is present whatever its value.
    pub fn raw(&mut self, key: &str, json: &str) -> &mut Self {
        if self.out.len() > 1 {
            self.out.push(',');
        }
        string(&mut self.out, key);
        self.out.push(':');
        self.out.push_str(json);
        self
    }

    /// A field that is left out when there is no value.
    pub fn maybe(&mut self, key: &str, json: Option<String>) -> &mut Self {
        match json {
            Some(json) => self.raw(key, &json),
            None => self,
        }
    }

    /// Written even when empty.
    pub fn text_always(&mut self, key: &str, value: &str) -> &mut Self {
        let mut json = String::new();
        string(&mut json, value);
        self.raw(key, &json)
    }

    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        if value.is_empty() {
            return self;
        }
        self.text_always(key, value)
    }

    pub fn int(&mut self, key: &str, value: impl Into<i64>) -> &mut Self {
        match value.into() {
            0 => self,
            value => self.raw(key, &value.to_string()),
        }
    }

    pub fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        if value { self.raw(key, "true") } else { self }
    }

    pub fn bytes(&mut self, key: &str, value: &[u8]) -> &mut Self {
        if value.is_empty() {
            return self;
        }
        self.raw(key, &base64(value))
    }

    pub fn list<T>(&mut self, key: &str, items: &[T], each: impl Fn(&T) -> String) -> &mut Self {
        if items.is_empty() {
            return self;
        }
        self.raw(key, &array(items, each))
    }

    pub fn texts(&mut self, key: &str, items: &[String]) -> &mut Self {
        self.list(key, items, |item| {
            let mut json = String::new();
            string(&mut json, item);
            json
        })
    }

    pub fn done(&mut self) -> String {
        let mut out = std::mem::take(&mut self.out);
        out.push('}');
        out
    }
}

/// A list, also an empty one.
pub fn array<T>(items: &[T], each: impl Fn(&T) -> String) -> String {
    let items: Vec<String> = items.iter().map(each).collect();
    format!("[{}]", items.join(","))
}

/// A byte slice: its base64 as a string.
pub fn base64(bytes: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(bytes))
}

/// A nil slice is `null`, an empty one `[]`: this writes a list that is nil when empty.
pub fn texts_or_null(items: &[String]) -> String {
    if items.is_empty() {
        return "null".into();
    }
    array(items, |item| {
        let mut json = String::new();
        string(&mut json, item);
        json
    })
}

fn string(out: &mut String, text: &str) {
    use std::fmt::Write as _;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c if u32::from(c) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_as_go_does() {
        let json = Object::new()
            .text(
                "k",
                "a\"\\\u{8}\u{c}\n\r\t\u{1}<>&\u{2028}\u{2029}/'\u{7f}ü",
            )
            .done();
        assert_eq!(
            json,
            "{\"k\":\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u003c\\u003e\\u0026\\u2028\\u2029/'\u{7f}ü\"}"
        );
    }

    #[test]
    fn zero_values_are_left_out() {
        let json = Object::new()
            .text("a", "")
            .int("b", 0)
            .flag("c", false)
            .texts("d", &[])
            .bytes("e", b"")
            .int("f", -1)
            .done();
        assert_eq!(json, "{\"f\":-1}");
    }
}
