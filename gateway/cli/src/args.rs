//! The command line as data: one definition for parsing, help and completions.

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use crate::build::args::Build;

/// Builds images from build files whose `# syntax` line names a frontend image.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Build(Box<Build>),
    Daemon(Box<crate::daemon::DaemonArgs>),
    #[command(hide = true)]
    DialStdio(crate::daemon::DialStdio),
    Images(crate::images::List),
    Save(crate::images::Save),
    Pull(crate::images::Pull),
    Push(crate::images::Push),
    Rmi(crate::images::Remove),
    Du(crate::usage::Du),
    Prune(crate::usage::Prune),
    Store(crate::store::StoreCommand),
    Frontend(Box<crate::frontend::Frontend>),
    Lock(Box<crate::lock::Lock>),
    Vendor(Box<crate::lock::Vendor>),
    Llb(crate::llb::Llb),
    Config(crate::config::show::Show),
    Completion(crate::shell::Completion),
    #[command(hide = true)]
    Man(crate::shell::Man),
    Copy(crate::registry::copy::Copy),
    Inspect(crate::registry::inspect::Inspect),
    Login(crate::registry::login::Login),
    Logout(crate::registry::login::Logout),
    Registry(crate::registry::Registry),
}

impl Cli {
    /// What a line says; ends the process with a usage error or help if it does not come to that.
    pub fn of_line(words: Vec<OsString>) -> Cli {
        match Cli::build_alone(&words) {
            Some(line) => line,
            None => Cli::try_parse_from(&words)
                .unwrap_or_else(|error| crate::mistakes::end(&error, &words)),
        }
    }

    /// A line that builds, read without describing all other commands first: that can be seen in the
    /// time of a build that finds everything. Whatever is wrong with the line is told by the whole.
    fn build_alone(words: &[OsString]) -> Option<Cli> {
        let (_, command) = words.split_first()?;
        let (name, rest) = command.split_first()?;
        if name != "build" {
            return None;
        }
        let build = Build::of_words(rest).ok()?;
        let command = Command::Build(Box::new(build));
        Some(Cli { command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_line_that_builds_means_the_same_read_alone() {
        for line in [
            "gateway build .",
            "gateway build -q -t me/app --build-arg A=1 --secret id=a,src=b --output type=oci,dest=x --no-cache .",
            "gateway build --platform linux/amd64,linux/arm64 -- -odd",
        ] {
            let alone = Cli::build_alone(&words(line)).expect("a build");
            let whole = Cli::try_parse_from(words(line)).expect("a line");
            assert_eq!(format!("{alone:?}"), format!("{whole:?}"), "{line}");
        }
    }

    #[test]
    fn whatever_is_no_build_is_left_to_the_whole() {
        for line in [
            "gateway",
            "gateway du",
            "gateway --version",
            "gateway build --help",
            "gateway build -h",
            "gateway build --no-such-flag .",
        ] {
            assert!(Cli::build_alone(&words(line)).is_none(), "{line}");
        }
    }
}
