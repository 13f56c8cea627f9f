//! Line-level nodes to typed instructions, with the checks that need nothing but the file.
//!
//! The order of the checks decides which message a line with several mistakes gets; it is the reference's.

use std::collections::HashMap;

use super::ast::*;
use super::device;
use super::duration::health_time;
use super::flags::{self, Flags, Form};
use super::heredoc;
use super::mount;
use super::node::{Args, Node};
use super::quote::go_quote;
use super::suggest;

const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

const ADD_FLAGS: [(&str, Form); 7] = [
    ("checksum", Form::Value),
    ("chmod", Form::Value),
    ("chown", Form::Value),
    ("exclude", Form::Values),
    ("keep-git-dir", Form::Bool),
    ("link", Form::Bool),
    ("unpack", Form::Bool),
];

const COPY_FLAGS: [(&str, Form); 6] = [
    ("chmod", Form::Value),
    ("chown", Form::Value),
    ("exclude", Form::Values),
    ("from", Form::Value),
    ("link", Form::Bool),
    ("parents", Form::Bool),
];

const RUN_FLAGS: [(&str, Form); 4] = [
    ("device", Form::Values),
    ("mount", Form::Values),
    ("network", Form::Value),
    ("security", Form::Value),
];

const HEALTH_FLAGS: [(&str, Form); 5] = [
    ("interval", Form::Value),
    ("retries", Form::Value),
    ("start-interval", Form::Value),
    ("start-period", Form::Value),
    ("timeout", Form::Value),
];

const FROM_FLAGS: [(&str, Form); 1] = [("platform", Form::Value)];

/// A node after its checks.
pub(super) enum Typed {
    From(Box<Stage>),
    Instruction(Box<Instruction>),
}

/// Check a node.
///
/// # Errors
/// The message without the line prefix.
pub(super) fn typed(node: Node) -> Result<Typed, String> {
    let keyword = node.keyword.to_ascii_lowercase();
    let comments = &node.comments;
    let args = &node.args;
    let given = &node.flags;
    let no_flags = || flags::parse(given, &[]);
    let kind = match keyword.as_str() {
        "from" => return from(node).map(|stage| Typed::From(Box::new(stage))),
        "env" => {
            no_flags()?;
            Kind::Env(pairs(args, "ENV")?)
        }
        "label" => {
            no_flags()?;
            Kind::Label(pairs(args, "LABEL")?)
        }
        "maintainer" => Kind::Maintainer(one(args, given, "MAINTAINER")?),
        "workdir" => Kind::Workdir(one(args, given, "WORKDIR")?),
        "user" => Kind::User(one(args, given, "USER")?),
        // its flags are not looked at (observed)
        "stopsignal" => Kind::Stopsignal(one(args, &[], "STOPSIGNAL")?),
        "add" => Kind::Add(add(&node)?),
        "copy" => Kind::Copy(copy(&node)?),
        "run" => Kind::Run(run(&node)?),
        "cmd" => {
            no_flags()?;
            Kind::Cmd(command_line(&node))
        }
        "entrypoint" => {
            no_flags()?;
            Kind::Entrypoint(command_line(&node))
        }
        "healthcheck" => Kind::Healthcheck(healthcheck(&node)?),
        "expose" => {
            let mut ports = at_least_one(args, "EXPOSE")?;
            no_flags()?;
            ports.sort();
            Kind::Expose(ports)
        }
        "volume" => {
            let volumes = at_least_one(args, "VOLUME")?;
            no_flags()?;
            let volumes: Vec<String> = volumes.iter().map(|v| v.trim().to_owned()).collect();
            if volumes.iter().any(String::is_empty) {
                return Err("VOLUME specified can not be an empty string".to_owned());
            }
            Kind::Volume(volumes)
        }
        "arg" => Kind::Arg(arg(&at_least_one(args, "ARG")?, comments)?),
        "shell" => {
            no_flags()?;
            match args {
                Args::Json(items) if !items.is_empty() => Kind::Shell(items.clone()),
                Args::List(_) => {
                    return Err("SHELL requires the arguments to be in JSON form".to_owned());
                }
                _ => return Err(needs_one("SHELL")),
            }
        }
        "onbuild" => Kind::Onbuild(onbuild(&node)?),
        _ => return Err(unknown(&node.keyword)),
    };
    Ok(Typed::Instruction(Box::new(Instruction {
        kind,
        keyword: node.keyword,
        original: node.original,
        location: node.location,
        comments: node.comments,
        flags: node.flags,
    })))
}

fn unknown(keyword: &str) -> String {
    let text = format!("unknown instruction: {keyword}");
    match suggest::nearest_any_case(keyword, INSTRUCTIONS) {
        Some(near) => format!("{text} (did you mean {near}?)"),
        None => text,
    }
}

fn needs_one(instruction: &str) -> String {
    format!("{instruction} requires at least one argument")
}

/// The arguments of a list in either form.
fn items(args: &Args) -> &[String] {
    match args {
        Args::List(items) | Args::Json(items) => items,
        _ => &[],
    }
}

fn at_least_one(args: &Args, instruction: &str) -> Result<Vec<String>, String> {
    match items(args) {
        [] => Err(needs_one(instruction)),
        items => Ok(items.to_vec()),
    }
}

fn one(args: &Args, given: &[String], instruction: &str) -> Result<String, String> {
    let [text] = items(args) else {
        return Err(format!("{instruction} requires exactly one argument"));
    };
    flags::parse(given, &[])?;
    Ok(text.clone())
}

fn pairs(args: &Args, instruction: &str) -> Result<Vec<KeyValue>, String> {
    let Args::Pairs(pairs) = args else {
        return Err(needs_one(instruction));
    };
    if pairs.is_empty() {
        return Err(needs_one(instruction));
    }
    if pairs.iter().any(|(key, ..)| key.is_empty()) {
        return Err(format!("{instruction} names can not be blank"));
    }
    let pair = |(key, value, legacy): &(String, String, bool)| KeyValue {
        key: key.clone(),
        value: value.clone(),
        legacy: *legacy,
    };
    Ok(pairs.iter().map(pair).collect())
}

fn arg(words: &[String], comments: &[String]) -> Result<Vec<ArgPair>, String> {
    let about = descriptions(comments);
    let pair = |word: &String| {
        let (key, value) = match word.split_once('=') {
            Some(("", _)) => return Err("ARG names can not be blank".to_owned()),
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        Ok(ArgPair {
            key: key.to_owned(),
            value,
            doc_comment: about.get(key).map_or_else(String::new, |t| (*t).to_owned()),
        })
    };
    words.iter().map(pair).collect()
}

/// What the comments above say of names: by the first word of a line, its rest; the first line of a word counts.
fn descriptions(comments: &[String]) -> HashMap<&str, &str> {
    let lines = comments.iter().rev();
    lines.filter_map(|line| line.split_once(' ')).collect()
}

fn from(node: Node) -> Result<Stage, String> {
    let (base, as_keyword, written) = match items(&node.args) {
        [base] => (base, None, None),
        [base, word, name] if word.to_lowercase() == "as" => (base, Some(word), Some(name)),
        _ => return Err("FROM requires either one or three arguments".to_owned()),
    };
    let name = written.map(|n| n.to_lowercase());
    if let (Some(name), Some(written)) = (&name, written)
        && !is_stage_name(name)
    {
        let quoted = go_quote(written);
        return Err(format!(
            "invalid name for build stage: {quoted}, name can't start with a number or contain symbols"
        ));
    }
    let flags = flags::parse(&node.flags, &FROM_FLAGS)?;
    let about = name
        .as_deref()
        .and_then(|name| descriptions(&node.comments).get(name).copied());
    let doc_comment = about.unwrap_or_default().to_owned();
    Ok(Stage {
        base: base.clone(),
        name_as_written: written.cloned(),
        as_keyword: as_keyword.cloned(),
        platform: flags.text("platform"),
        code: node.original.trim().to_owned(),
        location: node.location,
        doc_comment,
        name,
        keyword: node.keyword,
        comments: node.comments,
        instructions: Vec::new(),
    })
}

fn is_stage_name(name: &str) -> bool {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(rest)
}

fn sources_and_dest(node: &Node, instruction: &str) -> Result<SourcesAndDest, String> {
    let Some((dest, sources)) = items(&node.args).split_last() else {
        return Err(no_destination(instruction));
    };
    let read = |word: &str| heredoc::parse_word(word).ok().flatten();
    // the last body of a name counts
    let bodies: HashMap<&str, &str> = node
        .heredocs
        .iter()
        .map(|d| (d.name.as_str(), d.content.as_str()))
        .collect();
    if read(dest).is_some() {
        return Err(format!(
            "{instruction} cannot accept a heredoc as a destination"
        ));
    }
    let mut paths = SourcesAndDest {
        dest: dest.clone(),
        ..SourcesAndDest::default()
    };
    for source in sources {
        let Some(mut doc) = read(source) else {
            paths.sources.push(source.clone());
            continue;
        };
        if let Some(body) = bodies.get(doc.name.as_str()) {
            doc.content = (*body).to_owned();
        }
        doc.content = doc.chomped();
        paths.inline.push(doc);
    }
    Ok(paths)
}

fn no_destination(instruction: &str) -> String {
    format!(
        "{instruction} requires at least two arguments, but only one was provided. Destination could not be determined"
    )
}

fn add(node: &Node) -> Result<Add, String> {
    if items(&node.args).len() < 2 {
        return Err(no_destination("ADD"));
    }
    let flags = flags::parse(&node.flags, &ADD_FLAGS)?;
    Ok(Add {
        paths: sources_and_dest(node, "ADD")?,
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.is_on("link"),
        exclude: flags.list("exclude"),
        keep_git_dir: flags.maybe("keep-git-dir"),
        checksum: flags.text("checksum"),
        unpack: flags.maybe("unpack"),
    })
}

fn copy(node: &Node) -> Result<Copy, String> {
    if items(&node.args).len() < 2 {
        return Err(no_destination("COPY"));
    }
    let flags = flags::parse(&node.flags, &COPY_FLAGS)?;
    Ok(Copy {
        paths: sources_and_dest(node, "COPY")?,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.is_on("link"),
        parents: flags.is_on("parents"),
        exclude: flags.list("exclude"),
    })
}

fn command_line(node: &Node) -> CommandLine {
    CommandLine {
        args: items(&node.args).to_vec(),
        shell_form: !matches!(node.args, Args::Json(_)),
        heredocs: node.heredocs.clone(),
    }
}

fn run(node: &Node) -> Result<Run, String> {
    let flags = flags::parse(&node.flags, &RUN_FLAGS)?;
    let devices: Result<Vec<Device>, String> = flags
        .list("device")
        .iter()
        .map(|d| device::parse(d))
        .collect();
    let devices = devices?;
    let mounts = flags.list("mount");
    for mount in &mounts {
        mount::check_unexpanded(mount)?;
    }
    let network = match flags.given("network") {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => return Err(format!("invalid network mode {}", go_quote(other))),
    };
    let security = match flags.given("security") {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => return Err(format!("security {} is not valid", go_quote(other))),
    };
    Ok(Run {
        command: command_line(node),
        mounts,
        devices,
        network,
        security,
    })
}

fn healthcheck(node: &Node) -> Result<Healthcheck, String> {
    let Args::Health(kind, args) = &node.args else {
        return Err(needs_one("HEALTHCHECK"));
    };
    let kind = kind.to_uppercase();
    let args = args.as_ref();
    if kind == "NONE" {
        if !items(args).is_empty() {
            return Err("HEALTHCHECK NONE takes no arguments".to_owned());
        }
        return Ok(Healthcheck {
            test: vec![kind],
            ..Healthcheck::default()
        });
    }
    let flags = flags::parse(&node.flags, &HEALTH_FLAGS)?;
    if kind != "CMD" {
        let quoted = go_quote(&kind);
        return Err(format!("Unknown type {quoted} in HEALTHCHECK (try CMD)"));
    }
    if items(args).is_empty() {
        return Err("Missing command after HEALTHCHECK CMD".to_owned());
    }
    let first = if matches!(args, Args::Json(_)) {
        "CMD"
    } else {
        "CMD-SHELL"
    };
    let time = |name| health_time(name, flags.given(name).unwrap_or_default());
    Ok(Healthcheck {
        test: std::iter::once(first.to_owned())
            .chain(items(args).iter().cloned())
            .collect(),
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries: retries(&flags)?,
    })
}

fn retries(flags: &Flags) -> Result<i32, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let Some(text) = flags.text("retries") else {
        return Ok(0);
    };
    match text.parse::<i32>() {
        Ok(n) if n < 0 => Err(format!("--retries cannot be negative ({n})")),
        Ok(n) => Ok(n),
        Err(e) => {
            let why = match e.kind() {
                PosOverflow | NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Err(format!(
                "strconv.ParseInt: parsing {}: {why}",
                go_quote(&text)
            ))
        }
    }
}

fn onbuild(node: &Node) -> Result<Onbuild, String> {
    let Args::Trigger(trigger) = &node.args else {
        return Err(needs_one("ONBUILD"));
    };
    flags::parse(&node.flags, &[])?;
    let name = trigger.keyword.trim().to_uppercase();
    match name.as_str() {
        "ONBUILD" => {
            return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned());
        }
        "MAINTAINER" | "FROM" => {
            return Err(format!("{name} isn't allowed as an ONBUILD trigger"));
        }
        _ => {}
    }
    let text = node.original.trim_ascii_start();
    let text = text.get(node.keyword.len()..).unwrap_or_default();
    let mut expression = text.trim_ascii_start().to_owned();
    for doc in &node.heredocs {
        expression.push('\n');
        expression.push_str(&doc.content);
        expression.push_str(&doc.name);
    }
    Ok(Onbuild {
        expression,
        trigger: name,
    })
}
