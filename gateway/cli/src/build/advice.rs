//! What to do about a failed build: frontends and solver say what is wrong, in the words that everybody knows; whoever
//! typed the command has files, flags and a build file that they do not see, and from those comes the rest.
//!
//! A pure function of an error and of what lies in the context: it reads names there and the ignore file, nothing else.

use std::path::{Path, PathBuf};

use gateway_api::Error;
use gateway_frontend::conventions::ignore;

/// Names of a directory that are looked at for one that is like another.
const MAX_NAMES: usize = 10_000;
/// Larger ignore files are not looked into.
const MAX_IGNORE: u64 = 1 << 20;
/// How like two names must be, of 1 for the same.
const LIKE: f64 = 0.7;

/// Where a build's files are.
pub struct Place {
    /// A context that is a directory.
    pub context: Option<PathBuf>,
    /// Of `--file`.
    pub file: Option<PathBuf>,
    /// Where results are to go: files and folders.
    pub outputs: Vec<PathBuf>,
}

impl Place {
    /// The error with what to do about it, where that is known and not said already.
    pub fn advise(&self, error: Error) -> Error {
        if error.help().next().is_some() && !error.message.contains("not found") {
            return error;
        }
        match self.advice(&error) {
            Some(text) => error.with_help(format!("{text}\n")),
            None => error,
        }
    }

    fn advice(&self, error: &Error) -> Option<String> {
        let message = error.message.as_str();
        let line = line(error);
        let line = line.as_deref().unwrap_or_default();
        self.of_build_file(message)
            .or_else(|| of_stage(error, line))
            .or_else(|| self.of_missing_file(message, line))
            .or_else(|| of_argument(message, line))
            .or_else(|| of_process(message))
            .or_else(|| self.of_full_disk(message))
            .or_else(|| {
                let request = message.split_once("unsupported request ")?.1;
                Some(super::call::advice(request.trim()))
            })
            .or_else(|| of_words(message))
    }

    /// A disk is full: the store's, unless the error names the place of an output.
    fn of_full_disk(&self, message: &str) -> Option<String> {
        let is_full = [
            "No space left on device",
            "no space left on device",
            "Disk quota exceeded",
        ];
        if !is_full.iter().any(|words| message.contains(words)) {
            return None;
        }
        let named = self.outputs.iter().find(|output| {
            let whole = std::path::absolute(output).ok();
            let mut names = [Some((*output).clone()), whole].into_iter().flatten();
            names.any(|name| names_path(message, &name.display().to_string()))
        });
        let place = match named {
            Some(output) => output.display().to_string(),
            None if message.contains("cannot write stdout: ") => "where stdout goes".to_owned(),
            None => {
                return Some(
                    "gateway du shows what the store holds, gateway prune makes room; --root DIR puts it elsewhere."
                        .to_owned(),
                );
            }
        };
        Some(format!(
            "The result did not fit there: make room at {place}, or name another place with --output ...,dest=. \
             What was built is in the store, and is not built again."
        ))
    }

    /// There is no build file, or nothing in it.
    fn of_build_file(&self, message: &str) -> Option<String> {
        if message.contains("Dockerfile cannot be empty") {
            return Some("It begins with FROM: the image that the build starts from.".into());
        }
        if message.contains("no build stage in current context") {
            return Some("Before the first FROM there can be ARG alone.".into());
        }
        let (_, rest) = message.split_once("failed to read dockerfile: open ")?;
        let name = rest.strip_suffix(": no such file or directory")?;
        let dir = match &self.file {
            Some(file) => file.parent().unwrap_or(Path::new(".")),
            None => self.context.as_deref()?,
        };
        let mut others: Vec<String> = names(dir)
            .into_iter()
            .filter(|other| {
                let other = other.to_lowercase();
                other.contains("dockerfile") && !other.ends_with(".dockerignore")
            })
            .collect();
        others.sort();
        others.truncate(5);
        let dir = dir.display();
        Some(match others.as_slice() {
            [] => format!("There is no {name} in {dir}. Name the build file with --file PATH."),
            [first, ..] => format!(
                "There is no {name} in {dir}, but {}. Choose one: --file {dir}/{first}",
                others.join(", ")
            ),
        })
    }

    /// COPY and ADD of what is not in the context.
    fn of_missing_file(&self, message: &str, line: &str) -> Option<String> {
        let is_missing = message.contains("failed to calculate checksum of ref");
        if !is_missing || !message.ends_with(": not found") {
            return None;
        }
        let path = quoted(message)?.trim_start_matches('/').to_owned();
        if let Some(stage) = flag(line, "--from=") {
            return Some(format!("{stage} has no file of that name."));
        }
        if line.contains("../") {
            return Some(
                "The context is all that a build sees: nothing outside of it can be copied. Make a directory above \
                 it the context, or add one: --build-context NAME=DIR, and COPY --from=NAME."
                    .into(),
            );
        }
        let context = self.context.as_deref()?;
        if context.join(&path).symlink_metadata().is_ok() {
            let file = self.ignored(context, &path)?;
            return Some(format!(
                "The file is in the context, but {file} leaves it out; a line !{path} behind takes it in."
            ));
        }
        let wanted = Path::new(&path);
        let parent = wanted.parent().unwrap_or(Path::new(""));
        let dir = context.join(parent);
        if !dir.is_dir() {
            return Some(format!(
                "Paths are those of the context, {}: there is no directory {} in it.",
                context.display(),
                parent.display()
            ));
        }
        let name = wanted.file_name()?.to_string_lossy();
        let others = names(&dir);
        let near = near(&name, others.iter().map(String::as_str));
        Some(match near {
            Some(near) => format!(
                "There is no {path} in the context, {}; did you mean {}?",
                context.display(),
                parent.join(near).display()
            ),
            None => format!("There is no {path} in the context, {}.", context.display()),
        })
    }

    /// The ignore file that leaves this path out.
    fn ignored(&self, context: &Path, path: &str) -> Option<String> {
        let beside = self.file.as_deref().map_or_else(
            || context.join("Dockerfile.dockerignore"),
            |file| {
                let mut name = file.as_os_str().to_owned();
                name.push(".dockerignore");
                PathBuf::from(name)
            },
        );
        [beside, context.join(".dockerignore")]
            .iter()
            .find(|file| file.is_file())
            .filter(|file| std::fs::metadata(file).is_ok_and(|meta| meta.len() <= MAX_IGNORE))
            .and_then(|file| {
                let patterns = ignore::patterns(&std::fs::read(file).ok()?);
                let matcher = ignore::Matcher::new(&patterns).ok()?;
                matcher.matches(path).then(|| file.display().to_string())
            })
    }
}

/// The name of an image that nobody has is often that of a stage.
fn of_stage(error: &Error, line: &str) -> Option<String> {
    if !error.message.contains("failed to resolve source metadata") {
        return None;
    }
    let mut words = line.split_whitespace();
    let asked = match words.next()?.to_uppercase().as_str() {
        "FROM" => words.find(|word| !word.starts_with("--"))?.to_owned(),
        _ => flag(line, "--from=").or_else(|| {
            let mount = line
                .split_whitespace()
                .find(|word| word.contains("from="))?;
            let (_, rest) = mount.split_once("from=")?;
            Some(rest.split(',').next()?.to_owned())
        })?,
    };
    // What is written like that is meant to be an image.
    if asked.contains(['/', ':', '@', '$']) {
        return None;
    }
    let source = error.sources().next()?;
    let text = String::from_utf8_lossy(&source.info.data);
    let stages = stages(&text);
    let near = near(&asked, stages.iter().map(String::as_str));
    near.map(|near| {
        format!("No stage is called {asked}, so it is taken for an image; did you mean the stage {near}?")
    })
}

/// A variable that has no value.
fn of_argument(message: &str, line: &str) -> Option<String> {
    let broken = message.contains("invalid reference format")
        || message.contains("base name") && message.contains("should not be blank");
    if !broken || !line.trim_start().to_uppercase().starts_with("FROM") {
        return None;
    }
    let (_, rest) = line.split_once('$')?;
    let rest = rest.trim_start_matches('{');
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    let name = &rest[..end.unwrap_or(rest.len())];
    (!name.is_empty()).then(|| {
        format!(
            "If {name} has no value, give it one: --build-arg {name}=VALUE, or ARG {name}=VALUE before the first FROM."
        )
    })
}

/// Exit codes that say more than that a program failed.
fn of_process(message: &str) -> Option<String> {
    if message.contains("exec format error") {
        return Some(
            "The program is for another kind of processor. Such steps need an emulator that this machine's kernel \
             knows of: Debian's package qemu-user-static."
                .into(),
        );
    }
    let (_, code) = message.rsplit_once("did not complete successfully: exit code: ")?;
    let said = match code.trim() {
        "126" => {
            "126 says that the program is there and cannot be executed: is it a program, and executable?"
        }
        "127" => {
            "127 says that there is no such program: is it installed in this image, and in PATH?"
        }
        "137" => {
            "137 says that it was killed: memory that ran out does so (--memory), and so does whoever may."
        }
        "139" => "139 says that it crashed (SIGSEGV).",
        _ => return None,
    };
    Some(said.to_owned())
}

/// Known sentences, by a part of them.
fn of_words(message: &str) -> Option<String> {
    if let Some((_, rest)) = message.rsplit_once("secret ")
        && let Some(id) = rest.strip_suffix(": not found")
    {
        return Some(format!(
            "The step needs it: --secret id={id},src=FILE, or id={id},env=VARIABLE."
        ));
    }
    let known = [
        (
            "forwarded from the client",
            "The step needs keys: --ssh default for those of your agent (SSH_AUTH_SOCK), --ssh default=KEYFILE for others; \
             with an id of its own, --ssh ID=...",
        ),
        (
            "unterminated heredoc",
            "Its text ends with a line that is the word behind << and nothing else.",
        ),
        ("ENV must have two arguments", "Write ENV NAME=VALUE."),
        (
            "unable to find user",
            "Make it in a step before (adduser, useradd), or write its number.",
        ),
        (
            "unable to find group",
            "Make it in a step before (addgroup, groupadd), or write its number.",
        ),
        (
            "tag is needed when pushing",
            "Name the image: --tag REGISTRY/NAME.",
        ),
    ];
    let said = known.iter().find(|(part, _)| message.contains(part));
    said.map(|(_, advice)| (*advice).to_owned())
}

/// Whether a message names this path, or one below it; not one that only begins like it.
fn names_path(message: &str, path: &str) -> bool {
    let mut rest = message;
    while let Some(at) = rest.find(path) {
        rest = &rest[at + path.len()..];
        if path.ends_with('/') || rest.starts_with(['/', ':', ' ', '"', '\'', ',']) {
            return true;
        }
    }
    false
}

/// The first line of the build file that an error is about.
fn line(error: &Error) -> Option<String> {
    let source = error.sources().next()?;
    let number = source.ranges.first()?.start.as_ref()?.line;
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    let text = String::from_utf8_lossy(&source.info.data);
    text.lines().nth(index).map(str::to_owned)
}

/// What is between the last two quotation marks.
fn quoted(message: &str) -> Option<&str> {
    let (rest, _) = message.rsplit_once('"')?;
    rest.rsplit_once('"').map(|(_, inside)| inside)
}

fn flag(line: &str, name: &str) -> Option<String> {
    let word = line
        .split_whitespace()
        .find(|word| word.starts_with(name))?;
    Some(word[name.len()..].to_owned())
}

fn stages(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_from = words.first()?.eq_ignore_ascii_case("from");
        match words.as_slice() {
            [.., before, name] if is_from && before.eq_ignore_ascii_case("as") => {
                Some((*name).to_owned())
            }
            _ => None,
        }
    });
    lines.collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.take(MAX_NAMES).collect()
}

/// The one that is most like it, if any is.
fn near<'a>(name: &str, others: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    others
        .filter(|other| *other != name)
        .map(|other| {
            let like = strsim::normalized_damerau_levenshtein(&lower, &other.to_lowercase());
            (like, other)
        })
        .filter(|(like, _)| *like >= LIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use gateway_api::{Detail, SourceLocation};
    use gateway_llb::pb;

    use super::*;

    /// What is added to an error about this line of a build file.
    fn advice(place: &Place, message: &str, file: &str, number: i32) -> String {
        let position = Some(pb::Position {
            line: number,
            character: 0,
        });
        let error = Error::unknown(message).with(Detail::Source(SourceLocation {
            info: pb::SourceInfo {
                filename: "Dockerfile".into(),
                data: file.as_bytes().to_vec(),
                ..pb::SourceInfo::default()
            },
            ranges: vec![pb::Range {
                start: position,
                end: position,
            }],
        }));
        let advised = place.advise(error);
        advised
            .help()
            .collect::<Vec<_>>()
            .join("")
            .trim_end()
            .to_owned()
    }

    fn place() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("package.json", ""),
            ("app.dockerfile", ""),
            (".dockerignore", "*.log\n"),
            ("build.log", ""),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        std::fs::create_dir(dir.path().join("src")).unwrap();
        std::fs::write(dir.path().join("src/main.rs"), "").unwrap();
        let place = Place {
            context: Some(dir.path().to_owned()),
            file: None,
            outputs: Vec::new(),
        };
        (dir, place)
    }

    #[test]
    fn files_that_are_not_there_are_looked_for() {
        let (dir, place) = place();
        let missing = |copy: &str, path: &str| {
            let message = format!("failed to calculate checksum of ref a1: {path:?}: not found");
            let text = advice(&place, &message, &format!("FROM x\n{copy}\n"), 2);
            text.replace(dir.path().to_str().unwrap(), "CONTEXT")
        };
        assert_eq!(
            missing("COPY pakage.json /", "/pakage.json"),
            "There is no pakage.json in the context, CONTEXT; did you mean package.json?"
        );
        assert_eq!(
            missing("COPY src/Main.rs /", "/src/Main.rs"),
            "There is no src/Main.rs in the context, CONTEXT; did you mean src/main.rs?"
        );
        assert_eq!(
            missing("COPY other /", "/other"),
            "There is no other in the context, CONTEXT."
        );
        assert_eq!(
            missing("COPY build.log /", "/build.log"),
            "The file is in the context, but CONTEXT/.dockerignore leaves it out; a line !build.log behind takes it in."
        );
        assert_eq!(
            missing("COPY lib/a /", "/lib/a"),
            "Paths are those of the context, CONTEXT: there is no directory lib in it."
        );
        assert_eq!(
            missing("COPY --from=base /a /", "/a"),
            "base has no file of that name."
        );
        assert!(missing("COPY ../a /", "/a").contains("nothing outside of it"));
    }

    #[test]
    fn build_files_that_are_not_there_have_others_beside_them() {
        let (dir, place) = place();
        let message = "failed to read dockerfile: open Dockerfile: no such file or directory";
        let at = dir.path().display();
        assert_eq!(
            advice(&place, message, "", 1),
            format!(
                "There is no Dockerfile in {at}, but app.dockerfile. Choose one: --file {at}/app.dockerfile"
            )
        );
        let empty = tempfile::tempdir().unwrap();
        let place = Place {
            context: Some(empty.path().to_owned()),
            file: None,
            outputs: Vec::new(),
        };
        assert!(advice(&place, message, "", 1).contains("Name the build file with --file"));
    }

    #[test]
    fn stages_and_arguments_are_named() {
        let (_dir, place) = place();
        let file = "FROM alpine AS builder\nFROM x\nCOPY --from=buidler /a /\n";
        let message = "buidler: failed to resolve source metadata for docker.io/library/buidler:latest: not found";
        assert_eq!(
            advice(&place, message, file, 3),
            "No stage is called buidler, so it is taken for an image; did you mean the stage builder?"
        );
        let other = "FROM alpine AS builder\nFROM nothing\n";
        assert_eq!(advice(&place, message, other, 2), "");
        let message = "failed to parse stage name \"alpine:\": invalid reference format";
        let text = advice(&place, message, "ARG V\nFROM alpine:${V}\n", 2);
        assert!(text.contains("--build-arg V=VALUE"), "{text}");
    }

    #[test]
    fn known_sentences_say_what_to_do() {
        let (_dir, place) = place();
        for (message, part) in [
            ("secret npm: not found", "--secret id=npm,src=FILE"),
            ("no SSH key \"\" forwarded from the client", "--ssh default"),
            (
                "process \"x\" did not complete successfully: exit code: 127",
                "no such program",
            ),
            (
                "process \"x\" did not complete successfully: exit code: 137",
                "killed",
            ),
            (
                "process \"x\" did not complete successfully: exec format error",
                "qemu-user-static",
            ),
            ("the Dockerfile cannot be empty", "begins with FROM"),
            (
                "write /a: No space left on device (os error 28)",
                "gateway prune",
            ),
        ] {
            let text = advice(&place, message, "FROM x\nRUN y\n", 2);
            assert!(text.contains(part), "{message}: {text}");
        }
        // A disk of an output is not that of the store.
        let place = Place {
            outputs: vec!["out/app.tar".into(), "/srv/files".into()],
            ..place
        };
        for (message, part) in [
            (
                "cannot write out/app.tar: No space left on device (os error 28)",
                "make room at out/app.tar",
            ),
            (
                "write /srv/files/a/b: No space left on device (os error 28)",
                "make room at /srv/files,",
            ),
            (
                "cannot write stdout: No space left on device (os error 28)",
                "make room at where stdout goes",
            ),
            (
                "write /srv/files-of-others/a: No space left on device",
                "gateway prune",
            ),
        ] {
            let text = advice(&place, message, "FROM x\n", 1);
            assert!(text.contains(part), "{message}: {text}");
        }
        let ordinary = "process \"x\" did not complete successfully: exit code: 1";
        assert_eq!(advice(&place, ordinary, "FROM x\nRUN y\n", 2), "");
    }
}
