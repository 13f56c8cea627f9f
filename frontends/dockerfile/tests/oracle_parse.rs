//! The parser and the text rules on the files of the reference builds: same errors, same locations, same warnings.

use std::path::{Path, PathBuf};

use gateway_dockerfile::lint::{self, Config, Linter};
use gateway_dockerfile::parse::{self, LineRange, ParseError};

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/oracle/cases");
    let mut found = Vec::new();
    for theme in std::fs::read_dir(root).unwrap() {
        for file in std::fs::read_dir(theme.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "case") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 100, "only {} cases", found.len());
    found
}

/// The Dockerfile of a case.
fn dockerfile(case: &str) -> Option<Vec<u8>> {
    let mut sections = case.split_inclusive('\n').skip_while(|l| {
        let mut words = l.split_whitespace();
        words.next() != Some("---") || words.next() != Some("Dockerfile")
    });
    let head = sections.next()?;
    let has = |option| head.split_whitespace().any(|w| w == option);
    let mut text: String = sections.take_while(|l| !l.starts_with("--- ")).collect();
    if has("crlf") {
        text = text.replace('\n', "\r\n");
    }
    if has("nonl") {
        text.truncate(text.trim_end_matches('\n').len());
    }
    if has("bom") {
        text.insert(0, '\u{feff}');
    }
    Some(text.into_bytes())
}

fn expectation(case: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(case.with_extension("json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// An error as the reference client prints it: excerpt and message.
fn printed(file: &str, err: &ParseError) -> String {
    let mut out = String::new();
    if let Some(LineRange { start, end }) = err.location {
        let around = if start == end { 2 } else { 1 };
        out = format!("Dockerfile:{start}\n--------------------\n");
        let lines: Vec<&str> = file.split('\n').collect();
        let first = start.saturating_sub(around).max(1);
        for n in first..=(end + around).min(u32::try_from(lines.len()).unwrap()) {
            let mark = if (start..=end).contains(&n) {
                ">>>"
            } else {
                "   "
            };
            out += &format!("{n:4} | {mark} {}\n", lines[n as usize - 1]);
        }
        out += "--------------------\n";
    }
    out + &format!("error: failed to solve: {err}")
}

#[test]
fn every_case_parses_or_fails_as_the_reference_does() {
    // mistakes that only the conversion can see
    let later = [
        "/add/",
        "/copy/",
        "/net/",
        "/run/",
        "/stages/",
        "bad-expose",
        "bad-label",
        "bad-stopsignal",
        "lint/error",
        "copy-ignored-file",
    ];
    let mut errors = 0;
    for path in cases() {
        let name = path.to_string_lossy().into_owned();
        let Some(file) = dockerfile(&std::fs::read_to_string(&path).unwrap()) else {
            continue;
        };
        let text = String::from_utf8(file.clone()).unwrap();
        let expected = expectation(&path);
        match parse::parse(&file) {
            Ok(_) => {
                let fails_later = later.iter().any(|l| name.contains(l));
                assert!(expected["ok"] == true || fails_later, "{name} parses");
            }
            Err(err) => {
                errors += 1;
                let expected = expected["error"].as_str().unwrap_or_default();
                assert_eq!(printed(&text, &err), expected.trim_end(), "{name}");
            }
        }
    }
    assert!(errors >= 13, "only {errors} errors");
}

#[test]
fn the_text_rules_give_the_warnings_of_the_reference() {
    let of_the_text = [
        "StageNameCasing",
        "FromAsCasing",
        "NoEmptyContinuation",
        "ConsistentInstructionCasing",
        "DuplicateStageName",
        "ReservedStageName",
        "MaintainerDeprecated",
        "InvalidDefinitionDescription",
    ];
    let mut compared = 0;
    for path in cases() {
        let Some(file) = dockerfile(&std::fs::read_to_string(&path).unwrap()) else {
            continue;
        };
        let Ok(parsed) = parse::parse(&file) else {
            continue;
        };
        let mut linter = Linter::new(Config::for_build(&file, None).unwrap());
        lint::check_complete_file(&parsed, &mut linter);
        let mut ours: Vec<(String, String)> = linter
            .warnings()
            .iter()
            .map(|w| (w.short(), w.rule.url.to_owned()))
            .collect();
        ours.sort();
        let expected = expectation(&path);
        let mut theirs: Vec<(String, String)> = expected["warnings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|w| {
                let message = w["message"].as_str().unwrap();
                of_the_text
                    .iter()
                    .any(|r| message.starts_with(&format!("{r}:")))
            })
            .map(|w| {
                (
                    w["message"].as_str().unwrap().to_owned(),
                    w["url"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        theirs.sort();
        compared += theirs.len();
        assert_eq!(ours, theirs, "{}", path.display());
    }
    assert!(compared >= 10, "only {compared} warnings compared");
}
