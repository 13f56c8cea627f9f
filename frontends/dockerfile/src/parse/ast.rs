//! The tree a Dockerfile parses to: stages, instructions and their flags, typed but not expanded.
//!
//! Values that are expanded (`$X`) at conversion are kept as the raw words of the file, quotes and escapes included.

use std::sync::Arc;

/// Lines of the file, 1-based, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineRange {
    /// First line.
    pub start: u32,
    /// Last line, never below `start`.
    pub end: u32,
}

impl LineRange {
    /// The range from `start` to `end`; an `end` before `start` gives one line.
    pub fn new(start: u32, end: u32) -> Self {
        Self {
            start,
            end: end.max(start),
        }
    }

    /// One line.
    pub fn line(line: u32) -> Self {
        Self {
            start: line,
            end: line,
        }
    }

    /// The lines one by one, as locations travel on the wire (one range per line).
    pub fn lines(self) -> impl ExactSizeIterator<Item = u32> {
        let count = (self.end - self.start) as usize + 1;
        (0..count).map(move |n| self.start + n as u32)
    }
}

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dockerfile {
    /// The escape character: `\` or, by directive, a backtick.
    pub escape: Escape,
    /// The directives at the top of the file, in order.
    pub directives: Vec<Directive>,
    /// The ARG instructions before the first FROM.
    pub meta_args: Vec<Instruction>,
    /// The stages in file order; never empty when [`crate::parse::parse`] succeeded.
    pub stages: Vec<Stage>,
    /// Where an instruction is continued over an empty line (the last line of each such instruction).
    pub empty_continuations: Vec<LineRange>,
}

impl Dockerfile {
    /// The value of a directive, by its lower-case name.
    pub fn directive(&self, name: &str) -> Option<&Directive> {
        self.directives.iter().find(|d| d.name == name)
    }
}

/// The escape and continuation character of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escape(pub char);

impl Default for Escape {
    fn default() -> Self {
        Self('\\')
    }
}

/// `# name=value` at the top of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Lower-case: `syntax`, `escape` or `check`.
    pub name: String,
    /// The value, trimmed.
    pub value: String,
    /// Its line.
    pub location: LineRange,
}

/// FROM and the instructions up to the next FROM.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The base as written; a raw word.
    pub base: String,
    /// The name in lower case.
    pub name: Option<String>,
    /// The name as written.
    pub name_as_written: Option<String>,
    /// `--platform=`; a raw word. Empty is the same as absent.
    pub platform: Option<String>,
    /// FROM as written, for instance `from`.
    pub keyword: String,
    /// AS as written.
    pub as_keyword: Option<String>,
    /// The logical line, trimmed.
    pub code: String,
    /// The lines of the FROM instruction.
    pub location: LineRange,
    /// The comment lines above, without `#`, trimmed.
    pub comments: Vec<String>,
    /// What the comments say of the stage: the text after `NAME `; empty when nothing.
    pub doc_comment: String,
    /// What follows in file order; shared with what is made of it.
    pub instructions: Vec<Arc<Instruction>>,
}

/// One instruction of a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// What it is.
    pub kind: Kind,
    /// The keyword as written, for instance `Run`.
    pub keyword: String,
    /// The logical line: continuations joined, no heredoc bodies, leading white space removed.
    pub original: String,
    /// Its lines, heredoc bodies included.
    pub location: LineRange,
    /// The comment lines above, without `#`, trimmed.
    pub comments: Vec<String>,
    /// The flags as written with their quotes resolved: `--from=x`.
    pub flags: Vec<String>,
}

impl Instruction {
    /// The logical line, trimmed on both sides: `com.docker.dockerfile.v1.command` and the text of step names.
    pub fn code(&self) -> &str {
        self.original.trim()
    }
}

/// The instructions.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Kind {
    Add(Add),
    Arg(Vec<ArgPair>),
    Cmd(CommandLine),
    Copy(Copy),
    Entrypoint(CommandLine),
    Env(Vec<KeyValue>),
    /// Raw words, sorted as strings.
    Expose(Vec<String>),
    Healthcheck(Healthcheck),
    Label(Vec<KeyValue>),
    Maintainer(String),
    Onbuild(Onbuild),
    Run(Run),
    /// Not empty.
    Shell(Vec<String>),
    /// Raw word.
    Stopsignal(String),
    /// Raw word.
    User(String),
    /// Raw words, none empty.
    Volume(Vec<String>),
    /// Raw word.
    Workdir(String),
}

impl Kind {
    /// The keyword in upper case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// `KEY[=value]` of ARG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgPair {
    /// As written: keys of ARG are not expanded.
    pub key: String,
    /// Raw word; `None` without `=`.
    pub value: Option<String>,
    /// What the comments above say of it; empty when nothing.
    pub doc_comment: String,
}

/// `key=value` of ENV and LABEL, both raw words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Raw word, not empty.
    pub key: String,
    /// Raw word (in the legacy form: the rest of the line).
    pub value: String,
    /// Written `ENV key value`, without `=`.
    pub legacy: bool,
}

/// The command of RUN, CMD and ENTRYPOINT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// JSON form: the arguments. Shell form: no or one text.
    pub args: Vec<String>,
    /// Whether a shell runs it (not JSON form).
    pub shell_form: bool,
    /// Heredocs of RUN, in order, with their bodies as in the file (not chomped).
    pub heredocs: Vec<Heredoc>,
}

/// A here-document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heredoc {
    /// The name, quotes removed.
    pub name: String,
    /// The file descriptor before `<<`; 0 when none.
    pub fd: u32,
    /// No part of the name was quoted: variables in the body are expanded (COPY and ADD).
    pub expand: bool,
    /// `<<-`: leading tabs of the lines are dropped where it is used.
    pub chomp: bool,
    /// The body as in the file, line ends included, without the end line.
    pub content: String,
}

impl Heredoc {
    /// The body with the leading tabs of each line dropped when `<<-` asks for it.
    pub fn chomped(&self) -> String {
        if self.chomp {
            chomp(&self.content)
        } else {
            self.content.clone()
        }
    }
}

/// Drop the leading tabs of each line.
pub(super) fn chomp(content: &str) -> String {
    content
        .split_inclusive('\n')
        .map(|line| line.trim_start_matches('\t'))
        .collect()
}

/// RUN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub command: CommandLine,
    /// The values of `--mount=`, unexpanded; see [`crate::parse::mount::Mount::parse`].
    pub mounts: Vec<String>,
    /// `--device=` (parsed; the mainline frontend refuses them).
    pub devices: Vec<Device>,
    /// `--network=`.
    pub network: Network,
    /// `--security=`.
    pub security: Security,
}

/// `RUN --network=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Network {
    #[default]
    Default,
    None,
    Host,
}

/// `RUN --security=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Security {
    #[default]
    Sandbox,
    Insecure,
}

/// `RUN --device=`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// A CDI name.
    pub name: String,
    /// The build fails without it.
    pub required: bool,
}

/// Sources and destination of COPY and ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcesAndDest {
    /// Paths (ADD: also URLs), raw words, in order.
    pub sources: Vec<String>,
    /// Sources that are heredocs, in order; bodies already chomped.
    pub inline: Vec<Heredoc>,
    /// Raw word.
    pub dest: String,
}

/// COPY.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// Sources and destination.
    pub paths: SourcesAndDest,
    /// `--from=`, never expanded.
    pub from: Option<String>,
    /// `--chown=`, raw word.
    pub chown: Option<String>,
    /// `--chmod=`, raw word.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude=`, never expanded.
    pub exclude: Vec<String>,
}

/// ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Add {
    /// Sources and destination.
    pub paths: SourcesAndDest,
    /// `--chown=`, raw word.
    pub chown: Option<String>,
    /// `--chmod=`, raw word.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--exclude=`, never expanded.
    pub exclude: Vec<String>,
    /// `--keep-git-dir[=bool]`, `None` when not given.
    pub keep_git_dir: Option<bool>,
    /// `--checksum=`, raw word.
    pub checksum: Option<String>,
    /// `--unpack[=bool]`, `None` when not given.
    pub unpack: Option<bool>,
}

/// HEALTHCHECK. Times in nanoseconds, 0 = not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", args..]` or `["CMD-SHELL", text]`.
    pub test: Vec<String>,
    /// `--interval=`.
    pub interval: i64,
    /// `--timeout=`.
    pub timeout: i64,
    /// `--start-period=`.
    pub start_period: i64,
    /// `--start-interval=`.
    pub start_interval: i64,
    /// `--retries=`.
    pub retries: i32,
}

/// ONBUILD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Onbuild {
    /// The text of the trigger as the image config stores it: after the word ONBUILD, heredoc bodies included.
    pub expression: String,
    /// Its keyword in upper case.
    pub trigger: String,
}
