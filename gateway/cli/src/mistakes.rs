//! Lines that are no command: what the parser says of them, told as every other error is. The flag and what was given
//! for it, what is wrong, what would be right, and where to read more.

use std::ffi::OsString;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::{FAILED, USAGE};

/// Prints what was asked for, or what is wrong, and ends the process.
pub fn end(error: &clap::Error, words: &[OsString]) -> ! {
    if told(error, words).is_none() {
        // Help, in colours where there is a terminal, and the version.
        match error.print() {
            Err(lost) if lost.kind() != std::io::ErrorKind::BrokenPipe => {
                eprintln!("error: cannot write to stdout: {lost}");
                std::process::exit(i32::from(FAILED));
            }
            _ => std::process::exit(error.exit_code()),
        }
    }
    eprint!("{}", page(error, words));
    std::process::exit(i32::from(USAGE));
}

/// What is wrong with a line.
pub fn page(error: &clap::Error, words: &[OsString]) -> String {
    let Some(told) = told(error, words) else {
        return error.render().to_string();
    };
    let command = command(words);
    format!("error: {told}\n`{command} --help` tells what there is, with examples.\n")
}

fn told(error: &clap::Error, words: &[OsString]) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(list)) => list.first().cloned(),
        _ => None,
    };
    let list = |kind| match error.get(kind) {
        Some(ContextValue::Strings(list)) => list.clone(),
        Some(ContextValue::String(text)) => vec![text.clone()],
        _ => Vec::new(),
    };
    // `--flag <VALUE>` is how it is written, the flag is its name.
    let whole = text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = name(&whole);
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let given = match value.as_str() {
        "" => flag.to_owned(),
        value => format!("{flag} {value:?}"),
    };
    let choices = list(ContextKind::ValidValue).join(", ");
    Some(match error.kind() {
        ErrorKind::InvalidValue => match (value.is_empty(), choices.is_empty()) {
            (true, false) => format!("{flag}: a value is missing: one of {choices}"),
            (true, true) => format!("{flag}: a value is missing: write {}", form(&whole)),
            (false, false) => {
                let near = text(ContextKind::SuggestedValue);
                let near = near.map_or_else(String::new, |near| format!("; {near} is like it"));
                format!("{given}: not one of {choices}{near}")
            }
            (false, true) => format!("{given}: cannot be used"),
        },
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map(ToString::to_string);
            match (why.as_deref(), value.is_empty()) {
                // The parser's word for what has two values.
                (Some("value was not a boolean"), true) => {
                    format!("{flag}: a value is missing: one of true, false")
                }
                (Some("value was not a boolean"), false) => {
                    format!("{given}: not one of true, false")
                }
                (Some(why), _) => format!("{given}: {why}"),
                (None, _) => format!("{given}: cannot be used"),
            }
        }
        ErrorKind::TooManyValues => {
            format!("{given}: is a switch: {flag} for yes, {flag}=false for no")
        }
        ErrorKind::NoEquals => {
            format!(
                "{flag}: its value stands behind an equals sign: write {}",
                form(&whole)
            )
        }
        ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            format!("{flag}: a value is missing: write {}", form(&whole))
        }
        ErrorKind::UnknownArgument if flag == "-" || flag.starts_with("-=") => {
            // `-q=x`, read as one short flag after the other.
            let word = words
                .iter()
                .filter_map(|word| word.to_str())
                .find_map(|word| {
                    let (short, _) = word.split_once('=').filter(|(short, _)| short.len() == 2)?;
                    short.starts_with('-').then_some((word, short))
                });
            let (word, short) = word.unwrap_or((flag, flag));
            format!(
                "{word}: cannot be used: a short flag has its value behind it, {short}VALUE, or none"
            )
        }
        ErrorKind::UnknownArgument => {
            let near = text(ContextKind::SuggestedArg);
            let near = near.map(|near| format!(", {} is like it", name(&near)));
            match flag.starts_with('-') {
                true => format!("{flag}: there is no such flag{}", near.unwrap_or_default()),
                false => format!("{flag:?}: is one argument too many"),
            }
        }
        ErrorKind::InvalidSubcommand => {
            let command = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let near = list(ContextKind::SuggestedSubcommand);
            // Names of one letter are like anything.
            let near: Vec<&str> = near
                .iter()
                .map(String::as_str)
                .filter(|name| name.len() > 1)
                .collect();
            let near = match near.as_slice() {
                [] => String::new(),
                near => format!(", {} is like it", near.join(" or ")),
            };
            format!("{command:?}: there is no such command{near}")
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = list(ContextKind::InvalidArg);
            let names: Vec<&str> = missing
                .iter()
                .map(|word| word.trim_matches(['<', '>', '.']))
                .collect();
            match names.as_slice() {
                ["CONTEXT"] => {
                    "CONTEXT is missing: the directory to build, . for this one".to_owned()
                }
                names => format!("{} is missing", names.join(" and ")),
            }
        }
        ErrorKind::ArgumentConflict => {
            let others = list(ContextKind::PriorArg);
            let others: Vec<&str> = others.iter().map(|other| name(other)).collect();
            match others.contains(&flag) {
                true => format!("{flag}: is given more than once"),
                false => format!("{flag}: does not go with {}", others.join(", ")),
            }
        }
        ErrorKind::InvalidUtf8 => "an argument is no text in UTF-8".to_owned(),
        _ => return None,
    })
}

/// `--flag <VALUE>`, `<VALUE>`: without what stands for a value.
fn name(whole: &str) -> &str {
    match whole.find([' ', '=']) {
        Some(at) if whole.starts_with('-') => whole[..at].trim_end_matches('['),
        _ => whole
            .trim_end_matches("...")
            .trim_matches(['<', '>', '[', ']']),
    }
}

/// How a flag with its value is written.
fn form(whole: &str) -> String {
    whole
        .replace(['<', '>', '[', ']'], "")
        .trim_end_matches('.')
        .to_owned()
}

/// The command that the line was to be, as far as it is one.
fn command(words: &[OsString]) -> String {
    let mut command = crate::args::Cli::command();
    let mut name = "gateway".to_owned();
    for word in words.iter().skip(1).map_while(|word| word.to_str()) {
        let Some(sub) = command.find_subcommand(word) else {
            break;
        };
        let sub = sub.clone();
        name = format!("{name} {}", sub.get_name());
        command = sub;
    }
    name
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn said(line: &str) -> String {
        // Words are separated by blanks; '' is an empty one.
        let words = line.split(' ').map(|word| match word {
            "''" => OsString::new(),
            word => OsString::from(word),
        });
        let words = crate::docker_words::normal(words.collect());
        match Cli::try_parse_from(words.clone()) {
            Ok(_) => format!("$ {line}\n(understood)\n\n"),
            Err(error) => format!("$ {line}\n{}\n", page(&error, &words)),
        }
    }

    #[test]
    fn wrong_lines_are_told_what_is_wrong_and_what_to_do() {
        let lines = [
            "gateway frob",
            "gateway buidl .",
            "gateway build",
            "gateway build a b",
            "gateway build --check=maybe .",
            "gateway build --push=yes .",
            "gateway build --no-cache=7 .",
            "gateway build -q=x .",
            "gateway build --rm=perhaps .",
            "gateway build --pull=maybe .",
            "gateway build --pull= .",
            "gateway build --progress=fancy .",
            "gateway build --progress= .",
            "gateway build --progress",
            "gateway build --tags x .",
            "gateway build --cach-from x .",
            "gateway build --quite .",
            "gateway build --output",
            "gateway build --file",
            "gateway build --print-llb graph.json .",
            "gateway pull",
            "gateway pull a b",
            "gateway pull --platform linux/arm64 --all-platforms alpine",
            "gateway save --format zip me/app",
            "gateway push",
            "gateway copy alpine",
            "gateway inspect --raw --referrers alpine",
            "gateway du --format yaml",
            "gateway prune --format ''",
            "gateway prune --keep-duration",
            "gateway login a b",
            "gateway registry",
            "gateway registry chek x",
            "gateway store verfy",
            "gateway store verify --now",
            "gateway completion tcsh",
            "gateway completion",
            "gateway frontend build --frob",
            "gateway config --format yaml",
            "gateway llb",
            "gateway daemon --addr",
            "gateway rmi",
        ];
        let said: String = lines.iter().map(|line| said(line)).collect();
        insta::assert_snapshot!(said);
    }
}
