//! The words of `build` as docker's own parser reads them, where ours would read them otherwise: switches
//! with a value (`--push=true`), and parameters of attestations behind a blank (`--provenance false`).
//!
//! Done to words, before they are parsed, so that help and completions show plain switches.

use std::ffi::OsString;

use gateway_api::parse_bool;

/// Names of the command.
const BUILD: [&str; 2] = ["build", "b"];
/// Switches of `docker build`, which there take a value behind `=`.
const SWITCHES: [&str; 9] = [
    "--check",
    "--compress",
    "--debug",
    "--load",
    "--no-cache",
    "--push",
    "--quiet",
    "--squash",
    "-q",
];
/// Flags whose value is optional here.
const ATTESTATIONS: [&str; 2] = ["--provenance", "--sbom"];

/// Gives the words back, as ours are written.
pub fn normal(words: Vec<OsString>) -> Vec<OsString> {
    let command = words.get(1).and_then(|word| word.to_str());
    if !command.is_some_and(|command| BUILD.contains(&command)) {
        return words;
    }
    let mut normal: Vec<OsString> = Vec::with_capacity(words.len());
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let Some(text) = word.to_str() else {
            normal.push(word);
            continue;
        };
        if text == "--" {
            normal.push(word);
            break;
        }
        if ATTESTATIONS.contains(&text) {
            let joined = words
                .next_if(|next| next.to_str().is_some_and(is_parameters))
                .and_then(|next| Some(format!("{text}={}", next.to_str()?)));
            normal.push(joined.map_or_else(|| word.clone(), OsString::from));
            continue;
        }
        match text.split_once('=') {
            Some((name, value)) if SWITCHES.contains(&name) => match parse_bool(value) {
                Some(true) => normal.push(name.into()),
                // The last one counts.
                Some(false) => normal.retain(|word| word != name),
                None => normal.push(word),
            },
            _ => normal.push(word),
        }
    }
    normal.extend(words);
    normal
}

/// What can stand behind an attestation's flag and is no context.
fn is_parameters(text: &str) -> bool {
    parse_bool(text).is_some()
        || (text.contains('=') && !text.starts_with('-') && !text.contains("://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(line: &str) -> String {
        let words = line.split(' ').map(OsString::from).collect();
        let words = normal(words).into_iter();
        let words: Vec<String> = words.map(|word| word.into_string().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn switches_take_values_and_the_last_one_counts() {
        for (given, read) in [
            ("g build --load=true .", "g build --load ."),
            ("g b --push --push=false .", "g b ."),
            (
                "g build --no-cache=0 --no-cache=T .",
                "g build --no-cache .",
            ),
            ("g build --push=maybe .", "g build --push=maybe ."),
            ("g build -q=1 -- --load=true", "g build -q -- --load=true"),
            ("g du --load=true", "g du --load=true"),
        ] {
            assert_eq!(after(given), read);
        }
    }

    #[test]
    fn parameters_behind_a_blank_are_told_from_the_context() {
        for (given, read) in [
            (
                "g build --provenance false .",
                "g build --provenance=false .",
            ),
            (
                "g build --sbom generator=x .",
                "g build --sbom=generator=x .",
            ),
            ("g build --sbom .", "g build --sbom ."),
            (
                "g build --provenance https://h/r?a=b",
                "g build --provenance https://h/r?a=b",
            ),
            (
                "g build --sbom --build-arg a=b .",
                "g build --sbom --build-arg a=b .",
            ),
        ] {
            assert_eq!(after(given), read);
        }
    }
}
