//! `gateway frontend`: frontends of one's own, from an empty folder to a published image.

mod conformance;
mod elf;
mod inspect;
mod make;
mod new;
mod publish;
mod subject;

use clap::{Args, Subcommand};

use crate::error::CliError;

/// Write, build, test, publish and look at frontend images.
#[derive(Debug, Args)]
pub struct Frontend {
    #[command(subcommand)]
    command: FrontendCommand,
}

#[derive(Debug, Subcommand)]
enum FrontendCommand {
    New(new::New),
    Build(make::Make),
    Test(conformance::Test),
    Publish(publish::Publish),
    Inspect(inspect::Inspect),
}

pub fn run(args: &Frontend) -> Result<(), CliError> {
    match &args.command {
        FrontendCommand::New(args) => new::run(args),
        FrontendCommand::Build(args) => make::run(args),
        FrontendCommand::Test(args) => conformance::run(args),
        FrontendCommand::Publish(args) => publish::run(args),
        FrontendCommand::Inspect(args) => inspect::run(args),
    }
}
