//! Capabilities: what one side tells the other it can do. A cap that is announced and missing fails
//! late and badly, so a set lists only what the engine really does.

use std::collections::BTreeMap;

/// Announced capabilities by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapSet {
    caps: BTreeMap<String, Cap>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cap {
    pub enabled: bool,
    pub deprecated: bool,
    pub disabled_reason: String,
    pub disabled_reason_message: String,
    pub disabled_alternative: String,
}

impl CapSet {
    /// All of `ids`, enabled.
    pub fn enabled<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        let caps = ids
            .into_iter()
            .map(|id| {
                let cap = Cap {
                    enabled: true,
                    ..Cap::default()
                };
                (id.to_owned(), cap)
            })
            .collect();
        CapSet { caps }
    }

    pub fn insert(&mut self, id: impl Into<String>, cap: Cap) {
        self.caps.insert(id.into(), cap);
    }

    pub fn supports(&self, id: &str) -> bool {
        self.caps.get(id).is_some_and(|cap| cap.enabled)
    }

    pub fn is_empty(&self) -> bool {
        self.caps.is_empty()
    }

    /// Sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Cap)> {
        self.caps.iter().map(|(id, cap)| (id.as_str(), cap))
    }
}

/// Gateway caps that a client must assume when a host sends no list (the state of 2018).
pub const FROZEN_FRONTEND_CAPS: [&str; 4] = [
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "readfile",
];
