//! The words of a policy: by them it is known before it runs what must be found out about a source, and what cannot be.
//!
//! A word counts wherever it stands, as a name or as a whole string, unless it stands behind another kind of source: asking for too much costs time, asking for too
//! little would let a policy decide about what it was not told.

use std::collections::BTreeSet;

/// What policies of `docker buildx` can use and what is not known here, with the reason.
const UNKNOWN: [(&str, &str); 10] = [
    ("signatures", SIGSTORE),
    ("docker_github_builder", SIGSTORE),
    ("docker_github_builder_tag", SIGSTORE),
    ("docker_github_builder_signature", SIGSTORE),
    ("docker_github_builder_bundle", SIGSTORE),
    ("artifact_attestation", SIGSTORE),
    ("github_attestation", SIGSTORE),
    ("github_release_attestation", SIGSTORE),
    ("materials", "materials of a provenance are not looked into"),
    ("http.send", "policies ask nobody"),
];
const SIGSTORE: &str = "signatures of sigstore are not verified";

/// Functions and forms through which a policy can see fields that it does not name.
const SEES_ALL: [&str; 6] = [
    "walk",
    "json.marshal",
    "object.keys",
    "object.get",
    "object.filter",
    "object.subset",
];

#[derive(Debug, Default, Clone, PartialEq)]
pub struct Words {
    /// Names, each for itself and the whole way (`input.image.tag`), and whole strings.
    words: BTreeSet<String>,
    /// Fields can be seen that are not named.
    all: bool,
}

impl Words {
    pub fn of(text: &str) -> Words {
        let mut found = Words::default();
        let mut rest = text;
        // The name right before, and that before it.
        let (mut before, mut earlier) = (String::new(), String::new());
        // A part of the input is handed around as a whole; something is looked up by a name that is computed.
        let (mut whole, mut computed) = (false, false);
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '#' => rest.find('\n').unwrap_or(rest.len()),
                '"' => quoted(rest),
                '`' => rest[1..].find('`').map_or(rest.len(), |end| end + 2),
                c if is_name(c) => {
                    let end = rest.find(|c: char| !is_name(c) && c != '.');
                    end.unwrap_or(rest.len())
                }
                c => c.len_utf8(),
            };
            let (piece, after) = rest.split_at(length);
            match first {
                '#' => {}
                '"' | '`' => {
                    let inner = piece.get(1..piece.len().saturating_sub(1));
                    found.words.insert(inner.unwrap_or_default().to_owned());
                    before.clear();
                }
                c if is_name(c) => {
                    let name = piece.trim_end_matches('.');
                    found.words.insert(name.to_owned());
                    found.add_parts(name);
                    let is_whole = is_whole(name) && !after.starts_with('[');
                    whole |= is_whole;
                    found.all |= is_whole && earlier == "in";
                    before = name.to_owned();
                    earlier.clone_from(&before);
                }
                '[' if !before.is_empty() => {
                    // A string or a number in there is a name; anything else can be any name.
                    let inside = after.trim_start();
                    let is_computed = !inside.starts_with(['"', '`', '0', '1', '2', '3', '_', ']']);
                    computed |= is_computed;
                    found.all |= is_computed && is_whole(&before);
                    before.clear();
                }
                _ => before.clear(),
            }
            rest = after;
        }
        found.all |= whole && computed;
        found.all |= SEES_ALL.iter().any(|word| found.words.contains(*word));
        found
    }

    /// The parts of a name, those of a known kind of source as parts of that kind.
    fn add_parts(&mut self, name: &str) {
        let of_kind = name
            .strip_prefix("input.")
            .and_then(|rest| rest.split_once('.'));
        match of_kind {
            Some((kind, rest)) => self
                .words
                .extend(rest.split('.').map(|part| format!("{kind}.{part}"))),
            None => self.words.extend(name.split('.').map(str::to_owned)),
        }
    }

    pub fn add(&mut self, other: Words) {
        self.words.extend(other.words);
        self.all |= other.all;
    }

    /// The first word that is not known here, with the reason.
    pub fn unknown(&self) -> Option<(&'static str, &'static str)> {
        let used = |(word, _): &&(&str, &str)| {
            let part = format!(".{word}");
            self.words.contains(*word) || self.words.iter().any(|used| used.ends_with(&part))
        };
        UNKNOWN.iter().find(used).copied()
    }

    /// Any of these fields of a kind of source can be seen.
    pub fn name_any(&self, kind: &str, fields: &[&str]) -> bool {
        let named = |field: &&str| {
            self.words.contains(*field) || self.words.contains(&format!("{kind}.{field}"))
        };
        self.all || fields.iter().any(named)
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The input, or a part of it that has fields to be found out.
fn is_whole(name: &str) -> bool {
    let parts = [
        "input",
        "input.image",
        "input.git",
        "input.http",
        "input.image.provenance",
    ];
    parts.contains(&name)
}

/// Length of the string that the text begins with, its marks included.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return at + 1,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_names_and_whole_strings_and_no_comments() {
        let words = Words::of(
            "package docker\n# no labels here\nallow if input.image[\"user\"] == `root`\nx := \"say \\\"volumes\\\"\"\n",
        );
        for (field, named) in [
            ("image", true),
            ("user", true),
            ("root", true),
            ("labels", false),
            ("volumes", false),
        ] {
            assert_eq!(words.name_any("image", &[field]), named, "{field}");
        }
    }

    #[test]
    fn what_can_see_any_field_sees_all() {
        for text in [
            "x := input.image[key]",
            "some k, v in input.image; json.marshal(v)",
            "walk(input, [p, v])",
            "x := input[kind]",
            "some field in input.image",
            "of(input.image)\nof(x) := x[name]",
        ] {
            assert!(Words::of(text).name_any("image", &["labels"]), "{text}");
        }
        assert!(
            !Words::of("x := names[0]; y := input[\"image\"].tag").name_any("image", &["labels"])
        );
    }

    #[test]
    fn fields_of_another_kind_are_not_meant() {
        let words = Words::of("input.image.tag == x; of(input.git); of(g) if g.commit");
        assert!(words.name_any("image", &["tag"]));
        assert!(!words.name_any("git", &["tag"]));
        assert!(words.name_any("git", &["commit"]));
    }

    #[test]
    fn what_is_not_known_is_named() {
        let words = Words::of("some sig in input.image.signatures");
        assert_eq!(words.unknown().map(|(word, _)| word), Some("signatures"));
        assert_eq!(Words::of("msg := \"no signatures\"").unknown(), None);
    }
}
