//! `gateway lock --write`: the digests in the build file itself, in place of the names that they pin; every other byte
//! stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use gateway_dockerfile::parse::{Kind, detect_syntax, parse_lenient};
use gateway_images::reference::Reference;

use super::file::Lock;

/// A build file with digests in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewritten {
    pub text: String,
    /// How many names got one.
    pub written: usize,
    /// Names that stand nowhere in the file as they are: from arguments, named contexts, or a frontend's own.
    pub elsewhere: Vec<String>,
}

/// Something to change in some lines.
struct Edit {
    lines: Range<usize>,
    from: String,
    to: String,
    pin: String,
}

/// A Dockerfile is read for all its names; of a file in another language only the `# syntax` line is known.
pub fn rewrite(text: &str, lock: &Lock) -> Rewritten {
    let mut edits = Vec::new();
    let mut language = String::from("dockerfile");
    if let Some(syntax) = detect_syntax(text.as_bytes()).filter(|syntax| syntax.line > 0) {
        let line = usize::try_from(syntax.line).unwrap_or(usize::MAX);
        edits.extend(image(lock, &syntax.reference, line..line + 1));
        language = syntax.reference;
    }
    if language.contains("dockerfile") {
        dockerfile(text, lock, &mut edits);
    }
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let mut done = BTreeSet::new();
    let mut written = 0;
    for edit in edits {
        for number in edit.lines.clone() {
            let line = number.checked_sub(1).and_then(|index| lines.get_mut(index));
            let Some(line) = line else { continue };
            if let Some(place) = find_word(line, &edit.from) {
                line.replace_range(place..place + edit.from.len(), &edit.to);
                written += 1;
                done.insert(edit.pin.clone());
                break;
            }
            if find_word(line, &edit.to).is_some() {
                done.insert(edit.pin.clone());
                break;
            }
        }
    }
    let names = lock.lines().into_iter().map(|(name, _)| name);
    let pinned_already = |name: &String| {
        lock.pins
            .images
            .get(name)
            .is_some_and(|pin| name.contains('@') || text.contains(&pin.digest.to_string()))
    };
    Rewritten {
        text: lines.concat(),
        written,
        elsewhere: names
            .filter(|name| !done.contains(name) && !pinned_already(name))
            .collect(),
    }
}

/// A name with its digest behind it, if it is pinned and has none.
fn image(lock: &Lock, text: &str, lines: Range<usize>) -> Option<Edit> {
    let reference = Reference::parse(text).ok()?;
    if reference.digest().is_some() {
        return None;
    }
    let name = reference.to_string();
    let pin = lock.pins.images.get(&name)?;
    Some(Edit {
        lines,
        from: text.to_owned(),
        to: format!("{text}@{}", pin.digest),
        pin: name,
    })
}

fn dockerfile(text: &str, lock: &Lock, edits: &mut Vec<Edit>) {
    let parsed = parse_lenient(text.as_bytes()).dockerfile;
    let mut stages: BTreeSet<String> = BTreeSet::new();
    let range = |location: gateway_dockerfile::parse::LineRange| {
        let number = |line: u32| usize::try_from(line).unwrap_or(usize::MAX);
        number(location.start)..number(location.end).saturating_add(1)
    };
    for stage in &parsed.stages {
        if !stages.contains(&stage.base.to_lowercase()) {
            edits.extend(image(lock, &stage.base, range(stage.location)));
        }
        // A step may take from any stage before it, and not from its own.
        for instruction in &stage.instructions {
            let lines = range(instruction.location);
            let mut from = Vec::new();
            match &instruction.kind {
                Kind::Copy(copy) => from.extend(copy.from.clone()),
                Kind::Run(run) => {
                    from.extend(run.mounts.iter().filter_map(|mount| mounted(mount)));
                }
                Kind::Add(add) if add.checksum.is_none() => {
                    for source in &add.paths.sources {
                        edits.extend(remote(lock, source, &instruction.keyword, lines.clone()));
                    }
                }
                _ => {}
            }
            for name in from {
                if !stages.contains(&name.to_lowercase()) {
                    edits.extend(image(lock, &name, lines.clone()));
                }
            }
        }
        stages.extend(stage.name.as_ref().map(|name| name.to_lowercase()));
    }
}

/// The image that a mount takes from.
fn mounted(mount: &str) -> Option<String> {
    let pairs: BTreeMap<String, Option<String>> = gateway_frontend::csv::pairs(mount)
        .ok()?
        .into_iter()
        .collect();
    pairs.get("from").cloned().flatten()
}

/// An address of the web gets a checksum, one of a repository the commit.
fn remote(lock: &Lock, source: &str, keyword: &str, lines: Range<usize>) -> Option<Edit> {
    if let Some(pin) = lock.pins.files.get(source) {
        return Some(Edit {
            lines,
            from: keyword.to_owned(),
            to: format!("{keyword} --checksum={}", pin.checksum),
            pin: source.to_owned(),
        });
    }
    let (url, name) = source.split_once('#')?;
    let (name, subdir) = name
        .split_once(':')
        .map_or((name, None), |(n, s)| (n, Some(s)));
    let pin = lock.pins.git.get(&(url.to_owned(), name.to_owned()))?;
    let commit = pin.commit.as_ref().unwrap_or(&pin.checksum);
    if name == commit {
        return None;
    }
    let subdir = subdir.map_or_else(String::new, |subdir| format!(":{subdir}"));
    Some(Edit {
        lines,
        from: source.to_owned(),
        to: format!("{url}#{commit}{subdir}"),
        pin: format!("{url}#{name}"),
    })
}

/// Where `word` stands alone: not as a part of a longer name.
fn find_word(line: &str, word: &str) -> Option<usize> {
    let part =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@');
    line.match_indices(word).map(|(at, _)| at).find(|at| {
        let before = line.get(..*at).and_then(|text| text.chars().next_back());
        let after = line
            .get(at + word.len()..)
            .and_then(|text| text.chars().next());
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        let image = |name: &str, byte: &str| {
            format!(
                "[[image]]\nname = \"{name}\"\ndigest = \"sha256:{}\"\n",
                byte.repeat(32)
            )
        };
        let text = format!(
            "version = 1\n{}{}{}{}[[file]]\nurl = \"https://example.com/f\"\nchecksum = \"sha256:{}\"\n\
             [[git]]\nurl = \"https://example.com/r.git\"\nref = \"main\"\nresolved = \"refs/heads/main\"\nobject = \"{}\"\n",
            image("docker.io/docker/dockerfile:1", "aa"),
            image("docker.io/library/alpine:3", "bb"),
            image("registry.example/tools:2", "cc"),
            image("docker.io/library/debian:12", "dd"),
            "ee".repeat(32),
            "01".repeat(20),
        );
        Lock::parse(&text).unwrap()
    }

    #[test]
    fn digests_stand_behind_the_names_that_they_pin() {
        let text = "# syntax = docker/dockerfile:1\nARG BASE=debian:12\n\n# alpine:3 is small\nFROM --platform=$BUILDPLATFORM alpine:3 AS base\n\
                    RUN --mount=type=bind,from=registry.example/tools:2,target=/t \\\n    echo alpine:3\nFROM $BASE\n\
                    COPY --from=base /a /b\ncopy --from=alpine:3 /c /d\nADD https://example.com/f /f\n\
                    ADD https://example.com/r.git#main:sub /g\n";
        let rewritten = rewrite(text, &lock());
        insta::assert_snapshot!(rewritten.text);
        assert_eq!(rewritten.elsewhere, ["docker.io/library/debian:12"]);
        assert_eq!(rewritten.written, 6);
    }

    #[test]
    fn a_second_time_changes_nothing() {
        let text = "# syntax=docker/dockerfile:1\nFROM alpine:3\nADD https://example.com/f /f\n";
        let once = rewrite(text, &lock()).text;
        let twice = rewrite(&once, &lock());
        assert_eq!(twice.text, once);
        assert_eq!(twice.written, 0);
    }

    #[test]
    fn a_stage_that_is_called_like_an_image_is_no_image() {
        let text = "FROM scratch AS alpine\nFROM alpine\nCOPY --from=alpine /a /a\n";
        let mut lock = lock();
        let pin = lock.pins.images["docker.io/library/alpine:3"].clone();
        lock.pins
            .images
            .insert("docker.io/library/alpine:latest".into(), pin);
        assert_eq!(rewrite(text, &lock).text, text);
    }

    #[test]
    fn of_another_language_only_the_syntax_line_is_known() {
        let text = "#!/usr/bin/env x\n# syntax=registry.example/tools:2\nFROM alpine:3\n";
        let rewritten = rewrite(text, &lock());
        let expected = text.replace("tools:2", &format!("tools:2@sha256:{}", "cc".repeat(32)));
        assert_eq!(rewritten.text, expected);
    }
}
