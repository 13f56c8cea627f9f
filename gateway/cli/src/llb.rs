//! `gateway llb`: definitions of build graphs, read and shown.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use gateway_llb::lint::{self, Severity};
use gateway_llb::{Graph, draw, json, pb};
use prost::Message as _;

use crate::error::{CliError, UsageError};

/// No server takes a definition of more than its messages (16 MiB); embedded files of several
/// make a file larger.
const MAX_BYTES: u64 = 256 << 20;

/// Show or check the definition of a build graph (LLB).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gateway build --print-llb . | gateway llb dump          the graph of a build file
  gateway build --print-llb=app.llb . && gateway llb lint app.llb
  gateway llb graph app.llb | dot -Tsvg -o app.svg        draw it")]
pub struct Llb {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the definition as JSON: ops and metadata by digest, and where they come from
    Dump(Input),
    /// Draw the graph
    Graph {
        #[command(flatten)]
        input: Input,
        /// Language of the picture
        #[arg(long, value_name = "FORMAT", default_value = "dot")]
        format: Format,
    },
    /// Say what is wrong with it; exit code 1 when a server would refuse it
    Lint(Input),
}

#[derive(Debug, Args)]
struct Input {
    /// File with a definition as protobuf bytes, as buildctl takes it; - for stdin
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Graphviz
    Dot,
    Mermaid,
}

pub fn run(args: &Llb) -> Result<(), CliError> {
    match &args.command {
        Command::Dump(input) => {
            let definition = input.definition()?;
            let json = json::definition(&definition).map_err(|e| input.refuse(&e.to_string()))?;
            print(&format!("{json:#}\n"))
        }
        Command::Graph { input, format } => {
            let graph = Graph::load(&input.definition()?);
            let graph = graph.map_err(|e| input.refuse(&e.to_string()))?;
            print(&match format {
                Format::Dot => draw::dot(&graph),
                Format::Mermaid => draw::mermaid(&graph),
            })
        }
        Command::Lint(input) => {
            let findings = lint::check(&input.definition()?);
            for finding in &findings {
                print(&line(finding))?;
            }
            match findings.iter().any(|f| f.severity == Severity::Error) {
                true => Err(CliError::CheckFailed),
                false => Ok(()),
            }
        }
    }
}

fn line(finding: &lint::Finding) -> String {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let message = &finding.message;
    if finding.digest.is_empty() {
        return format!("{severity}: {message}\n");
    }
    // Names come from outside: one line, no control characters.
    let name: String = finding.name.chars().filter(|c| !c.is_control()).collect();
    let digest: String = finding.digest.chars().take("sha256:".len() + 12).collect();
    format!("{severity}: {name} ({digest}): {message}\n")
}

fn print(text: &str) -> Result<(), CliError> {
    write_out(Path::new("-"), text.as_bytes())
}

/// Writes to a file, `-` for stdout.
pub fn write_out(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    if path == Path::new("-") {
        crate::text::print_bytes(bytes);
        return Ok(());
    }
    std::fs::write(path, bytes).map_err(|source| CliError::Write {
        path: path.to_owned(),
        source,
    })
}

impl Input {
    fn definition(&self) -> Result<pb::Definition, CliError> {
        let unreadable = |source| CliError::ReadFile {
            path: self.file.clone(),
            source,
        };
        let mut bytes = Vec::new();
        if self.file == Path::new("-") {
            let mut stdin = std::io::stdin().lock().take(MAX_BYTES + 1);
            stdin.read_to_end(&mut bytes).map_err(unreadable)?;
        } else {
            let file = std::fs::File::open(&self.file).map_err(unreadable)?;
            file.take(MAX_BYTES + 1)
                .read_to_end(&mut bytes)
                .map_err(unreadable)?;
        }
        if bytes.len() as u64 > MAX_BYTES {
            return Err(self.refuse(&format!("larger than {} MiB", MAX_BYTES >> 20)));
        }
        let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
        if first == Some(&b'{') {
            return Err(self.refuse("this is JSON; a definition is protobuf bytes"));
        }
        pb::Definition::decode(bytes.as_slice())
            .map_err(|e| self.refuse(&format!("this is no definition: {e}")))
    }

    fn refuse(&self, problem: &str) -> CliError {
        let file = self.file.to_string_lossy();
        UsageError::new("llb", file, problem.to_owned()).into()
    }
}
