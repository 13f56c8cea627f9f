//! Commands about registries: `registry check`, `login`, `logout`, `inspect`, `copy`.

pub mod check;
pub mod copy;
pub mod inspect;
pub mod login;
pub mod settings;

use std::future::Future;

use clap::{Args, Subcommand};
use gateway_images::platform::Platform;
use gateway_images::reference::Reference;
use gateway_images::registry::{Registries, RegistryError, error_page};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::environment::Environment;
use crate::error::{CliError, UsageError};
use crate::interrupt::cancel_on_signal;
use settings::RegistryArgs;

/// Look at a registry.
#[derive(Debug, Args)]
pub struct Registry {
    #[command(subcommand)]
    pub command: RegistryCommand,
}

#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    Check(check::Check),
}

pub fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Does something with registries alone, until done or interrupted.
pub fn with_registries<T, F>(
    args: &RegistryArgs,
    work: impl FnOnce(Registries) -> F,
) -> Result<T, CliError>
where
    F: Future<Output = Result<T, CliError>>,
{
    let env = environment();
    let layers = config::Layers::find(args.config.as_deref(), &env)?;
    let settings = config::settings(args, &layers, &env)?;
    for warning in &settings.warnings {
        eprintln!("warning: {warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let outcome = runtime.block_on(async {
        let cancel = CancellationToken::new();
        tokio::spawn(cancel_on_signal(cancel.clone()));
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(CliError::Interrupted),
            outcome = work(settings.registries) => outcome,
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

pub fn reference(text: &str) -> Result<Reference, CliError> {
    Reference::parse(text).map_err(|e| UsageError::new("REF", text, e.to_string()).into())
}

/// The platform of a flag, or the host's.
pub fn platform(text: Option<&str>) -> Result<Platform, CliError> {
    let Some(text) = text else {
        let host = gateway_llb::platform::host();
        return Ok(Platform::new(&host.os, &host.architecture, &host.variant));
    };
    text.parse()
        .map_err(|e| UsageError::new("--platform", text, format!("{e}")).into())
}

pub fn failed(error: &RegistryError) -> CliError {
    CliError::Registry(error_page(error))
}
