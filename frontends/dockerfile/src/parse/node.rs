//! An instruction at line level: its keyword, flags and arguments, not yet checked.

use super::Failed;
use super::ast::{Escape, Heredoc, LineRange};
use super::split::{self, Pair};

/// How the arguments were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Args {
    /// Nothing, or arguments of an unknown instruction.
    #[default]
    None,
    /// Words, or one text.
    List(Vec<String>),
    /// A JSON array.
    Json(Vec<String>),
    /// ENV and LABEL.
    Pairs(Vec<Pair>),
    /// HEALTHCHECK: the type and what follows.
    Health(String, Box<Args>),
    /// ONBUILD: the trigger.
    Trigger(Box<Node>),
}

/// One logical line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Node {
    pub keyword: String,
    pub flags: Vec<String>,
    pub args: Args,
    pub original: String,
    pub heredocs: Vec<Heredoc>,
    pub location: LineRange,
    pub comments: Vec<String>,
}

impl Node {
    /// Split a logical line.
    pub fn read(line: String, escape: Escape) -> Result<Self, String> {
        let (keyword, flags, args) = read_parts(&line, escape, true)?;
        Ok(Self {
            keyword,
            flags,
            args,
            original: line,
            ..Self::default()
        })
    }

    /// Whether `<<` words are heredocs here: RUN, COPY and ADD, alone or as a trigger, not in JSON form.
    pub fn takes_heredocs(&self) -> bool {
        match &self.args {
            Args::Trigger(node) => is_heredoc_keyword(&node.keyword) && !node.is_json(),
            _ => is_heredoc_keyword(&self.keyword) && !self.is_json(),
        }
    }

    /// What is left of the instruction when it cannot be used, if checks look at such ones.
    pub fn remains(&self) -> Option<Failed> {
        let looked_at = ["from", "maintainer"];
        let looked_at = looked_at
            .iter()
            .any(|k| self.keyword.eq_ignore_ascii_case(k));
        looked_at.then(|| Failed {
            keyword: self.keyword.clone(),
            words: match &self.args {
                Args::List(words) => words.clone(),
                _ => Vec::new(),
            },
            comments: self.comments.clone(),
            location: self.location,
        })
    }

    fn is_json(&self) -> bool {
        matches!(self.args, Args::Json(_))
    }
}

fn is_heredoc_keyword(keyword: &str) -> bool {
    ["run", "copy", "add"]
        .iter()
        .any(|k| keyword.eq_ignore_ascii_case(k))
}

fn read_parts(
    line: &str,
    escape: Escape,
    triggers: bool,
) -> Result<(String, Vec<String>, Args), String> {
    let (keyword, rest) = split::keyword(line);
    let (flags, rest) = split::flags(rest, escape.0);
    let args = match keyword.to_ascii_lowercase().as_str() {
        "run" | "cmd" | "entrypoint" | "shell" => json_or_text(rest)?,
        "add" | "copy" | "volume" => match split::json(rest)? {
            Some(items) => Args::Json(items),
            None => Args::List(split::list(rest)),
        },
        "from" | "expose" => Args::List(split::list(rest)),
        "maintainer" | "stopsignal" | "user" | "workdir" => text(rest),
        "env" => Args::Pairs(split::pairs(rest, escape.0, "ENV")?),
        "label" => Args::Pairs(split::pairs(rest, escape.0, "LABEL")?),
        "arg" => Args::List(split::words(rest, escape.0)),
        "healthcheck" if !rest.is_empty() => {
            let (kind, rest) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
            Args::Health(kind.to_owned(), Box::new(json_or_text(rest.trim_start())?))
        }
        // a trigger in a trigger is refused later; it is not read, so that depth has no cost
        "onbuild" if triggers && !rest.is_empty() => {
            let (keyword, flags, args) = read_parts(rest, escape, false)?;
            Args::Trigger(Box::new(Node {
                keyword,
                flags,
                args,
                ..Node::default()
            }))
        }
        _ => Args::None,
    };
    Ok((keyword.to_owned(), flags, args))
}

fn text(rest: &str) -> Args {
    if rest.is_empty() {
        Args::None
    } else {
        Args::List(vec![rest.to_owned()])
    }
}

fn json_or_text(rest: &str) -> Result<Args, String> {
    Ok(match split::json(rest)? {
        Some(items) => Args::Json(items),
        None => text(rest),
    })
}
