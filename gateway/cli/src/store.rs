//! `gateway store`: what the store holds as blobs, whether it is whole, and removing what nobody needs.
//! Also how every command but `build` opens the store.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use gateway_solver::{Solver, SolverOptions, StepOptions, StoredBlob, VerifyReport};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::environment::Environment;
use crate::error::CliError;
use crate::interrupt::cancel_on_signal;
use crate::table::{self, Column, Layout};
use crate::text::{print, size_text};

/// Which store, and how its registries are reached.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// Image store and cache [default: /var/lib/gateway, or ~/.local/share/gateway for users]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,

    #[command(flatten)]
    pub registries: crate::registry::settings::RegistryArgs,
}

/// Look after the store: list its blobs, verify them, remove what nothing refers to.
#[derive(Debug, Args)]
pub struct StoreCommand {
    #[command(subcommand)]
    command: StoreVerb,
}

#[derive(Debug, Subcommand)]
enum StoreVerb {
    /// List the blobs, and the images and layers that need them
    List(StoreArgs),
    /// Read and hash every blob and compare all records with the disk; damaged blobs are set aside.
    /// Exit code 1 when something was damaged
    Verify(StoreArgs),
    /// Remove what nothing refers to; no build has to do anything again
    Prune(StoreArgs),
}

pub fn run(args: &StoreCommand) -> Result<(), CliError> {
    match &args.command {
        StoreVerb::List(args) => with_store(args, async |solver, _| {
            print(&blob_table(&solver.blobs()?, table::terminal()));
            Ok(())
        }),
        StoreVerb::Verify(args) => with_store(args, async |solver, _| {
            let report = blocking(move || solver.verify()).await?;
            print(&verify_text(&report));
            match report.damage.len() {
                0 => Ok(()),
                1 => Err(CliError::Damaged("one thing was".into())),
                count => Err(CliError::Damaged(format!("{count} things were"))),
            }
        }),
        StoreVerb::Prune(args) => with_store(args, async |solver, _| {
            let total = blocking(move || {
                let mut total = 0_u64;
                solver.prune_unreferenced(|record| {
                    total = total.saturating_add(record.size);
                    print(&format!("{}\n", record.id));
                })?;
                Ok::<_, gateway_solver::SolverError>(total)
            })
            .await?;
            print(&format!("Total: {}\n", size_text(total)));
            Ok(())
        }),
    }
}

/// Work on files, where a signal is noticed meanwhile.
pub async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, CliError>
where
    CliError: From<E>,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(CliError::from),
        Err(error) => Err(CliError::Runtime(std::io::Error::other(error))),
    }
}

/// Opens the store and does something with it, until done or interrupted.
pub fn with_store<T>(
    args: &StoreArgs,
    work: impl AsyncFnOnce(Solver, CancellationToken) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let env: Environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let layers = config::Layers::find(args.registries.config.as_deref(), &env)?;
    let settings = config::settings(&args.registries, &layers, &env)?;
    for warning in &settings.warnings {
        eprintln!("warning: {warning}");
    }
    let is_root = rustix::process::geteuid().is_root() && !crate::is_rootless();
    let root = config::store_root(args.root.as_deref(), &layers, &env, is_root)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let outcome = runtime.block_on(async {
        let cancel = CancellationToken::new();
        tokio::spawn(cancel_on_signal(cancel.clone()));
        let all = async {
            let solver = Solver::open(SolverOptions {
                root,
                registries: settings.registries,
                launcher: gateway_sandbox::LauncherOptions::default(),
                max_parallelism: 0,
                steps: StepOptions::default(),
                default_platform: gateway_llb::platform::host(),
            })
            .await?;
            work(solver, cancel.clone()).await
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(CliError::Interrupted),
            outcome = all => outcome,
        }
    });
    // A write that is under way notices the signal and takes its file with it.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

fn blob_table(blobs: &[StoredBlob], terminal: Option<usize>) -> String {
    let users = |blob: &StoredBlob| {
        let images = blob.images.iter().map(|name| format!("image {name}"));
        let users: Vec<String> = images
            .chain(blob.layers.iter().map(|id| format!("layer {id}")))
            .collect();
        match users.as_slice() {
            [] => "-".to_owned(),
            users => users.join(", "),
        }
    };
    let widest = blobs.iter().map(|blob| users(blob).len()).max();
    let columns = [
        Column::of("DIGEST", 71).down_to(15),
        Column::of("      SIZE", 10),
        Column::of("NEEDED BY", widest.unwrap_or(0).max("NEEDED BY".len())).down_to(11),
    ];
    let layout = Layout::fit(&columns, &[0, 2], terminal);
    let mut table = layout.head(&columns);
    for blob in blobs {
        let size = format!("{:>10}", size_text(blob.size));
        table += &layout.line(&[blob.digest.to_string(), size, users(blob)]);
    }
    table
}

/// `1 blob`, `2 blobs`.
fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

fn verify_text(report: &VerifyReport) -> String {
    let mut text = String::new();
    for damage in &report.damage {
        let end = match damage.set_aside {
            true => " (set aside)",
            false => "",
        };
        text += &format!("damaged: {}: {}{end}\n", damage.what, damage.problem);
    }
    text += &format!(
        "{} ({}), {}, {}\n",
        counted(report.blobs, "blob"),
        size_text(report.bytes),
        counted(report.layers, "layer"),
        counted(report.images, "image")
    );
    if report.leftovers > 0 {
        text += &format!(
            "{} of unfinished work, harmless: gateway store prune removes them\n",
            counted(report.leftovers, "leftover")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_solver::Damage;

    #[test]
    fn blobs_are_listed_with_what_needs_them() {
        let blob = |digit: &str, images: &[&str], layers: &[&str]| StoredBlob {
            digest: format!("sha256:{}", digit.repeat(64)),
            size: 12_345,
            images: images.iter().map(|n| (*n).to_owned()).collect(),
            layers: layers.iter().map(|n| (*n).to_owned()).collect(),
        };
        let table = blob_table(
            &[
                blob("a", &["docker.io/me/app:1"], &["l1"]),
                blob("b", &[], &[]),
            ],
            None,
        );
        insta::assert_snapshot!(table, @r"
        DIGEST                                                                         SIZE  NEEDED BY
        sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa     12.35kB  image docker.io/me/app:1, layer l1
        sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb     12.35kB  -
        ");
    }

    #[test]
    fn damage_is_told_first_and_leftovers_are_called_harmless() {
        let report = VerifyReport {
            blobs: 3,
            bytes: 2_000_000,
            layers: 2,
            images: 1,
            damage: vec![Damage {
                what: "blob sha256:aa".into(),
                problem: "its bytes are not those of its digest".into(),
                set_aside: true,
            }],
            leftovers: 1,
        };
        insta::assert_snapshot!(verify_text(&report), @r"
        damaged: blob sha256:aa: its bytes are not those of its digest (set aside)
        3 blobs (2.00MB), 2 layers, 1 image
        1 leftover of unfinished work, harmless: gateway store prune removes them
        ");
    }
}
