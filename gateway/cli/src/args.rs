//! The command line as data: one definition for parsing, help and completions.

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
