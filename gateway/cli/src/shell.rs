//! What is made of the command line's definition: completions for shells, pages for man.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::Shell;

use crate::error::CliError;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gateway completion bash > /etc/bash_completion.d/gateway
  gateway completion zsh > ~/.zfunc/_gateway
  gateway completion fish > ~/.config/fish/completions/gateway.fish")]
pub struct Completion {
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Write manual pages into a directory.
#[derive(Debug, Args)]
pub struct Man {
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// The script for the whole command line.
pub fn completion(args: &Completion, line: &mut clap::Command) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, line, "gateway", &mut script);
    crate::text::print_bytes(&script);
}

/// # Errors
/// When the directory or a page cannot be written.
pub fn man(args: &Man, line: clap::Command) -> Result<(), CliError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::Write { path, source }
    };
    std::fs::create_dir_all(&args.dir).map_err(failed(&args.dir))?;
    let mut command = line.disable_help_subcommand(true);
    command.build();
    pages(&command, "gateway", &mut |name, page| {
        let path = args.dir.join(format!("{name}.1"));
        std::fs::write(&path, page).map_err(failed(&path))
    })
}

/// The page of a command and of all below it, each named by the whole way to it.
fn pages(
    command: &clap::Command,
    name: &str,
    write: &mut impl FnMut(&str, &[u8]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let page = page(command, name).map_err(CliError::Runtime)?;
    write(name, &page)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        pages(sub, &format!("{name}-{}", sub.get_name()), write)?;
    }
    Ok(())
}

/// One page, with its examples as they were typed: the generator would fill them like prose.
fn page(command: &clap::Command, name: &str) -> std::io::Result<Vec<u8>> {
    let date = std::env::var("SOURCE_DATE_EPOCH").ok();
    let date = date
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds.parse().ok()?).ok())
        .map(|time| time.date().to_string());
    let man = clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .date(date.unwrap_or_default())
        .source(concat!("gateway ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command
        .get_arguments()
        .any(|argument| !argument.is_hide_set())
    {
        man.render_options_section(&mut page)?;
    }
    if command.get_subcommands().any(|sub| !sub.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    let after = command.get_after_help().map(ToString::to_string);
    if let Some(text) = after.as_deref() {
        let (heading, text) = match text.strip_prefix("Examples:") {
            Some(examples) => ("EXAMPLES", examples),
            None => ("NOTES", text),
        };
        let text = text
            .trim_matches('\n')
            .replace('\\', "\\e")
            .replace('-', "\\-");
        writeln!(page, ".SH {heading}\n.nf")?;
        for line in text.lines() {
            // A line that begins with a dot or a quote would be a request.
            let guard = if line.starts_with(['.', '\'']) {
                "\\&"
            } else {
                ""
            };
            writeln!(page, "{guard}{line}")?;
        }
        writeln!(page, ".fi")?;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "gateway", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("no-cache-filter"), "{shell}");
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let args = Man {
            dir: dir.path().to_owned(),
        };
        man(&args, Cli::command()).unwrap();
        let page = std::fs::read_to_string(dir.path().join("gateway-build.1")).unwrap();
        assert!(page.contains("no\\-cache\\-filter"), "{page}");
        assert!(
            page.contains(".SH EXAMPLES\n.nf\n  gateway build .  "),
            "{page}"
        );
        assert!(dir.path().join("gateway.1").exists());
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
