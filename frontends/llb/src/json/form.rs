//! The two forms in which messages become JSON, and objects in them: zero values are left out.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// How names, numbers and enums are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As Go prints protobuf messages: names in camel case, 64-bit numbers as text, enums by name.
    Message,
    /// As Go prints the messages' structs, for attestations: names as the fields are tagged, every number a number.
    Struct,
}

/// Standard base64 with padding. Written out here, as nothing else in this crate needs it.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (i, byte)| {
            word | u32::from(*byte) << (16 - 8 * i)
        });
        for i in 0..4 {
            if i <= chunk.len() {
                let index = (word >> (18 - 6 * i)) & 63;
                out.push(char::from(ALPHABET[index as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// A JSON object without zero values.
pub(super) struct Object {
    form: Form,
    fields: Map<String, Value>,
}

impl Form {
    /// An empty object.
    pub(super) fn object(self) -> Object {
        Object {
            form: self,
            fields: Map::new(),
        }
    }

    /// The name of a field that has another in each form.
    pub(super) fn name(self, message: &'static str, tag: &'static str) -> &'static str {
        match self {
            Self::Message => message,
            Self::Struct => tag,
        }
    }

    /// A 64-bit number, zero or not.
    pub(super) fn int64(self, value: i64) -> Value {
        match self {
            Self::Message => json!(value.to_string()),
            Self::Struct => json!(value),
        }
    }
}

impl Object {
    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.fields.insert(key.to_owned(), value);
    }

    pub(super) fn maybe(&mut self, key: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.set(key, json!(value));
        }
    }

    pub(super) fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.set(key, json!(true));
        }
    }

    pub(super) fn number(&mut self, key: &str, value: i64) {
        if value != 0 {
            self.set(key, json!(value));
        }
    }

    pub(super) fn int64(&mut self, key: &str, value: i64) {
        if value != 0 {
            self.set(key, self.form.int64(value));
        }
    }

    pub(super) fn uint64(&mut self, key: &str, value: u64) {
        match self.form {
            Form::Message if value != 0 => self.set(key, json!(value.to_string())),
            Form::Message => {}
            Form::Struct => self.number(key, i64::try_from(value).unwrap_or(i64::MAX)),
        }
    }

    /// A number that has no name yet is written as it is.
    pub(super) fn one_of(&mut self, key: &str, number: i32, names: &[&str]) {
        let at = usize::try_from(number).ok();
        match at.and_then(|at| names.get(at)) {
            Some(name) if self.form == Form::Message && number != 0 => self.set(key, json!(name)),
            _ => self.number(key, number.into()),
        }
    }

    pub(super) fn map(&mut self, key: &str, value: &BTreeMap<String, String>) {
        if !value.is_empty() {
            let entries = value.iter().map(|(k, v)| (k.clone(), json!(v)));
            self.set(key, Value::Object(entries.collect()));
        }
    }

    /// A map of messages.
    pub(super) fn entries<T>(
        &mut self,
        key: &str,
        value: &BTreeMap<String, T>,
        item: impl Fn(&T) -> Value,
    ) {
        if !value.is_empty() {
            let entries = value.iter().map(|(key, value)| (key.clone(), item(value)));
            self.set(key, Value::Object(entries.collect()));
        }
    }

    pub(super) fn list<T>(&mut self, key: &str, value: &[T], item: impl Fn(&T) -> Value) {
        if !value.is_empty() {
            self.set(key, Value::Array(value.iter().map(item).collect()));
        }
    }

    /// Takes over all fields of another.
    pub(super) fn append(&mut self, other: Self) {
        self.fields.extend(other.fields);
    }

    pub(super) fn done(self) -> Value {
        Value::Object(self.fields)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_printed_as_base64() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(super::base64(bytes.as_bytes()), text);
        }
    }
}
