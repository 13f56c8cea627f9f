//! The command line: flags, configuration files, progress on a terminal, error pages.
//!
//! What may not enter: protocol details.

// Its macros are for all that follow.
#[macro_use]
mod text;

mod args;
mod build;
mod collection;
mod config;
mod daemon;
mod docker_plugin;
mod docker_words;
mod environment;
mod error;
mod excerpt;
mod frontend;
mod images;
mod interrupt;
mod llb;
mod lock;
mod mistakes;
mod progress;
mod prompt;
mod registry;
mod rego;
mod shell;
mod store;
mod table;
mod usage;
mod worker;

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory as _;

// That of musl has one lock for all threads and gives memory back at every turn: layers are
// unpacked by several threads at once.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before any thread exists: this same binary is also the launcher of build steps, and for an
    // ordinary user everything below runs in a user namespace of its own.
    gateway_sandbox::maybe_run_zygote();
    let cli = match docker_plugin::start(std::env::args_os()) {
        docker_plugin::Start::Words(words) => args::Cli::of_line(docker_words::normal(words)),
        docker_plugin::Start::Answer(text) => {
            text::print(&text);
            return ended(ExitCode::SUCCESS);
        }
    };
    match gateway_sandbox::rootless::enter_user_namespace(&Default::default()) {
        Ok(Some(code)) => return code,
        Ok(None) => {}
        Err(error) => return fail(&format!("error: {error}\n"), ExitCode::from(error::FAILED)),
    }
    match run(&cli) {
        Ok(()) => ended(ExitCode::SUCCESS),
        Err(error) => fail(&error.page(), error.exit_code()),
    }
}

/// An answer that did not arrive is a failure.
fn ended(code: ExitCode) -> ExitCode {
    match text::lost() {
        None => code,
        Some(error) => {
            let text = format!("error: cannot write to stdout: {error}\n");
            fail(&text, ExitCode::from(error::FAILED))
        }
    }
}

fn run(cli: &args::Cli) -> Result<(), error::CliError> {
    match &cli.command {
        args::Command::Build(args) => build::run(args),
        args::Command::Daemon(args) => daemon::run(args),
        args::Command::DialStdio(args) => daemon::dial_stdio(args),
        args::Command::Images(args) => images::list(args),
        args::Command::Save(args) => images::save(args),
        args::Command::Rmi(args) => images::remove(args),
        args::Command::Du(args) => usage::du(args),
        args::Command::Prune(args) => usage::prune(args),
        args::Command::Store(args) => store::run(args),
        args::Command::Frontend(args) => frontend::run(args),
        args::Command::Lock(args) => lock::lock(args),
        args::Command::Vendor(args) => lock::vendor(args),
        args::Command::Llb(args) => llb::run(args),
        args::Command::Config(args) => config::show::run(args),
        args::Command::Completion(args) => {
            shell::completion(args, &mut args::Cli::command());
            Ok(())
        }
        args::Command::Man(args) => shell::man(args, args::Cli::command()),
        args::Command::Pull(args) => images::pull(args),
        args::Command::Push(args) => images::push(args),
        args::Command::Copy(args) => registry::copy::run(args),
        args::Command::Inspect(args) => registry::inspect::run(args),
        args::Command::Login(args) => registry::login::login(args),
        args::Command::Logout(args) => registry::login::logout(args),
        args::Command::Registry(args) => match &args.command {
            registry::RegistryCommand::Check(args) => registry::check::run(args),
        },
    }
}

/// This process stands in a user namespace: root here is an ordinary user outside.
fn is_rootless() -> bool {
    use gateway_sandbox::rootless::{Mapping, mapping};
    mapping().is_ok_and(|mapping| mapping != Mapping::Full)
}

fn fail(text: &str, code: ExitCode) -> ExitCode {
    // A closed stderr changes nothing about the outcome.
    let _ = std::io::stderr().write_all(text.as_bytes());
    code
}
