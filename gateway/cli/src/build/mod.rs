//! `gateway build`.

mod advice;
pub mod args;
mod attest;
mod cache;
mod call;
mod contexts;
mod fetched;
#[cfg(test)]
mod flags;
mod keys;
pub use keys::like;
mod metadata;
mod output;
mod policy;
mod proxies;
mod request;
mod resources;
pub mod secrets;
mod services;
mod stdin;
mod vcs;
mod watch;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use gateway_bridge::{BuildRequest, BuildResponse, Collect, Engine, EngineOptions};
use gateway_solver::pins::Pins;
use gateway_solver::{Solver, SolverOptions};
use tokio_util::sync::CancellationToken;

use crate::build::args::Build;
use crate::config;
use crate::environment::Environment;
use crate::error::CliError;
use crate::interrupt::cancel_on_signal;
use crate::progress::mode::Mode;
use crate::progress::{Display, Options as DisplayOptions};
use crate::worker;

/// Keys of the exporter's answer that go to files and stdout.
const IMAGE_DIGEST: &str = "containerimage.digest";
const CONFIG_DIGEST: &str = "containerimage.config.digest";
/// What a frontend has to say to whoever built, in the end.
const INLINE_MESSAGE: &str = "frontend.result.inlinemessage";

/// Why a build is looked at, where it is not for its result.
#[derive(Default)]
pub struct Purpose {
    /// What its names stand for; without it what the flags say.
    pub pins: Option<Arc<Pins>>,
    /// Only its sources are looked at.
    pub collect: Option<Collect>,
}

/// What a build gave.
pub struct Outcome {
    pub response: BuildResponse,
}

/// The context is an address: the build file is no file here.
pub fn is_remote(context: &Path) -> bool {
    contexts::remote(context).is_some()
}

/// Whether a build without any flags could begin with this configuration.
///
/// # Errors
/// What such a build would refuse.
pub fn check_configuration(layers: &config::Layers, env: &Environment) -> Result<(), CliError> {
    use clap::Parser as _;
    let line = crate::args::Cli::try_parse_from(["gateway", "build", "."]);
    let Ok(crate::args::Command::Build(args)) = line.map(|line| line.command) else {
        return Ok(());
    };
    let args = config::filled(&args, layers, env)?;
    let mut notes = Vec::new();
    cache::imports(&args.cache_from, env, &mut notes)?;
    cache::exports(&args.cache_to, env, &mut notes)?;
    attest::options(&args, &mut notes)?;
    Ok(())
}

pub fn run(args: &Build) -> Result<(), CliError> {
    run_for(args, Purpose::default()).map(drop)
}

pub fn run_for(args: &Build, purpose: Purpose) -> Result<Outcome, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let result = runtime.block_on(build(args, purpose));
    // A blocking read of a stuck file system must not keep an ended build alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

async fn build(args: &Build, purpose: Purpose) -> Result<Outcome, CliError> {
    let env: Environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let layers = config::Layers::find(args.registries.config.as_deref(), &env)?;
    let mut args = args.clone();
    let mut told = keys::without_empty(&mut args);
    let args = &config::filled(&args, &layers, &env)?;
    let mode = match args.quiet {
        true => Mode::Quiet,
        false => args.progress.resolve(&env)?,
    };
    args.docker.check()?;
    for path in args.iidfile.iter().chain(&args.metadata_file) {
        can_be_written(path)?;
    }
    let call = call::call(args)?;
    let (mut display, notes) = DisplayOptions::new(mode, args.debug, &layers, &env)?;
    // The answer holds the warnings then.
    display.summary = call.is_none();
    let mut exporters = match call {
        // An answer is text, nothing to export.
        Some(_) => Vec::new(),
        None if purpose.collect.is_some() => Vec::new(),
        None if args.print_llb.is_some() => Vec::new(),
        None => output::exporters(args, &env, &mut told)?,
    };
    let cache_imports = cache::imports(&args.cache_from, &env, &mut told)?;
    let source_policies = policy::read(&args.source_policies, &env)?;
    let rego = crate::rego::read(args, &env)?;
    let cache_exports = match &call {
        Some(_) => Vec::new(),
        None => cache::exports(&args.cache_to, &env, &mut told)?,
    };
    let pins = match purpose.pins {
        Some(pins) => Some(pins),
        None => crate::lock::pins(args)?,
    };
    let mut registries = args.registries.clone();
    // All that could ask somebody: registries, the web, and the steps.
    registries.offline |= args.vendored.is_some();
    let settings = config::settings(&registries, &layers, &env)?;
    let file = fetched::build_file(args, &settings.registries).await?;
    let id = session_id();
    let mut inputs = request::inputs(args, &env, id.clone(), file)?;
    let notes = notes.iter().chain(&told).chain(&inputs.notes);
    for warning in notes.chain(&settings.warnings) {
        eprintln!("warning: {warning}");
    }
    if args.vendored.is_some() {
        inputs
            .opts
            .entry("force-network-mode".into())
            .or_insert_with(|| "none".into());
    }
    if let Some(call) = &call {
        call.options(&mut inputs.opts);
    }
    output::set_epoch(&mut exporters, &inputs.opts);
    let mut steps = settings.steps;
    if let Some(mode) = args
        .network
        .as_deref()
        .filter(|mode| worker::is_of_machine(mode))
    {
        worker::use_network(mode, &inputs.entitlements, &mut steps)?;
    }
    let root = config::store_root(
        args.root.as_deref(),
        &layers,
        &env,
        rustix::process::geteuid().is_root() && !crate::is_rootless(),
    )?;

    let solver = Solver::open(SolverOptions {
        root,
        registries: settings.registries,
        launcher: gateway_sandbox::LauncherOptions::default(),
        max_parallelism: settings.max_parallelism,
        steps,
        default_platform: gateway_llb::platform::host(),
    })
    .await?;
    let collection = settings.collection;
    let store = solver.clone();
    let graphs = args.print_llb.as_ref().map(|path| (path, Arc::default()));
    let frontend = match &graphs {
        Some((_, graphs)) => watch::Graphs::take_from(graphs, dockerfile_frontend()),
        None => dockerfile_frontend(),
    };
    let records = args
        .record
        .as_deref()
        .map(watch::Records::new)
        .transpose()?;
    let mut engine = Engine::new(EngineOptions {
        solver,
        builtins: BTreeMap::from([("dockerfile.v0".to_owned(), frontend)]),
        policy: settings.policy,
        limits: settings.limits,
    });

    if let Some(records) = records {
        engine = engine.observed_by(records);
    }

    let outputs = output::places(&exporters, &cache_exports);
    let shows_id = mode == Mode::Quiet && !exporters.iter().any(output::goes_to_stdout);
    let display = Display::start(display);
    let cancel = CancellationToken::new();
    tokio::spawn(cancel_on_signal(cancel.clone()));
    let result = engine
        .build(BuildRequest {
            frontend: "dockerfile.v0".to_owned(),
            opts: inputs.opts,
            inputs: BTreeMap::new(),
            session: Arc::new(inputs.session),
            progress: display.progress(),
            entitlements: inputs.entitlements,
            source_policies,
            pins,
            collect: purpose.collect,
            registries: None,
            source_judge: crate::rego::judge(rego, &display.progress()),
            late_exporters: None,
            record_provenance: args.metadata_file.is_some() && metadata::wants_provenance(&env),
            exporters,
            cache_imports,
            cache_exports,
            verify_replay: args.verify_replay,
            cancel: cancel.clone(),
        })
        .await;
    drop((engine, inputs.held));
    // Tasks that are still ending need the runtime to send their last events.
    let warnings = tokio::task::spawn_blocking(move || display.finish()).await;
    let outcome = match result {
        Ok(response) => {
            let told = match call {
                None => match &graphs {
                    Some((path, graphs)) => graphs.write(path),
                    None => {
                        let warnings = warnings.unwrap_or_default();
                        report(
                            args,
                            &response,
                            &metadata::Told {
                                id,
                                warnings,
                                env: &env,
                            },
                            shows_id,
                        )
                    }
                },
                Some(call) => match call.print(&response.metadata) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(CliError::CheckFailed),
                    Err(error) => Err(error),
                },
            };
            told.map(|()| Outcome { response })
        }
        Err(_) if cancel.is_cancelled() => return Err(CliError::Interrupted),
        Err(error) => {
            let place = advice::Place {
                context: args.context.is_dir().then(|| args.context.clone()),
                file: args.file.clone(),
                outputs,
            };
            let error = CliError::Build(Box::new(place.advise(error)));
            Err(match args.debug {
                true => CliError::Explained(Box::new(error)),
                false => error,
            })
        }
    };
    // After the result is out: nobody waits for it, and a build that added nothing does not even look.
    if let Some(policies) = collection.policies()
        && let Err(error) = store.collect_if_due(policies)
    {
        eprintln!("warning: the store was not brought below its limits: {error}");
    }
    outcome
}

pub fn dockerfile_frontend() -> gateway_api::FrontendFn {
    Arc::new(|gateway| Box::pin(gateway_dockerfile::build(gateway)))
}

/// 25 characters of base 36, the form that sessions have elsewhere.
pub fn session_id() -> String {
    let mut bytes = [0_u8; 25];
    // Without random bytes the id is weaker, never wrong: it only has to differ between builds.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        bytes[..4].copy_from_slice(&std::process::id().to_le_bytes());
    }
    bytes
        .iter()
        .map(|byte| char::from_digit(u32::from(byte % 36), 36).unwrap_or('0'))
        .collect()
}

fn report(
    args: &Build,
    response: &BuildResponse,
    told: &metadata::Told<'_>,
    shows_id: bool,
) -> Result<(), CliError> {
    let digest = |key: &str| response.exporter.get(key);
    // An image is known by its configuration, several platforms by their index.
    let id = digest(CONFIG_DIGEST).or_else(|| digest(IMAGE_DIGEST));
    if let Some(path) = &args.iidfile {
        write(path, id.map_or("", String::as_str).as_bytes())?;
    }
    if let Some(path) = &args.metadata_file {
        let mut json = serde_json::to_vec_pretty(&metadata::of(response, told)).unwrap_or_default();
        json.push(b'\n');
        write(path, &json)?;
    }
    if let (true, Some(id)) = (shows_id, id) {
        crate::text::print(&format!("{id}\n"));
    }
    if let Some(message) = response.exporter.get(INLINE_MESSAGE) {
        crate::text::print(&format!("\n{message}\n"));
    }
    Ok(())
}

/// Said before the build, not after all its work.
fn can_be_written(path: &Path) -> Result<(), CliError> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let found = std::fs::read_dir(folder.unwrap_or(Path::new(".")));
    // A folder that can be written to need not be one that can be read.
    match found {
        Err(source) if source.kind() != std::io::ErrorKind::PermissionDenied => {
            Err(CliError::Write {
                path: path.to_owned(),
                source,
            })
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    std::fs::write(path, bytes).map_err(|source| CliError::Write {
        path: path.to_owned(),
        source,
    })
}
