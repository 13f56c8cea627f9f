//! `gateway images`, `gateway rmi`, `gateway save`, `gateway push`: what the image store holds and where it
//! can go.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use gateway_api::Error;
use gateway_images::archive::Variant;
use gateway_solver::{OutputTarget, StoredImage};

use crate::error::{CliError, UsageError};
use crate::progress::bytes::format_bytes;
use crate::store::{StoreArgs, with_store};
use crate::table::{self, Column, Layout};
use crate::text::{print, time_text};

/// List the images in the store.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    store: StoreArgs,
}

/// Write an image of the store as an archive.
#[derive(Debug, Args)]
pub struct Save {
    /// Name of the image, as listed or in short
    #[arg(value_name = "NAME")]
    name: String,

    /// Archive to write, - for stdout
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,

    /// Form of the archive; docker is for `docker load`, one platform only
    #[arg(long, value_name = "FORM", default_value = "oci")]
    format: Form,

    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Oci,
    Docker,
}

/// Pull an image from its registry into the store.
#[derive(Debug, Args)]
pub struct Pull {
    /// The image
    #[arg(value_name = "REF")]
    reference: String,

    /// Platform [default: this machine's]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    platform: Option<String>,

    /// All that the name stands for: the index with the images of every platform
    #[arg(long)]
    all_platforms: bool,

    #[command(flatten)]
    store: StoreArgs,
}

/// Push an image of the store to a registry.
#[derive(Debug, Args)]
pub struct Push {
    /// Name of the image, as listed or in short
    #[arg(value_name = "NAME")]
    name: String,

    /// Where to push it [default: where its name says]
    #[arg(value_name = "REF")]
    target: Option<String>,

    #[command(flatten)]
    store: StoreArgs,
}

/// Remove names of images from the store; what no other image and no cache has goes with the next prune.
#[derive(Debug, Args)]
pub struct Remove {
    /// Names of images, as listed or in short
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,

    #[command(flatten)]
    store: StoreArgs,
}

pub fn remove(args: &Remove) -> Result<(), CliError> {
    with_store(&args.store, async |solver, _| {
        for name in &args.names {
            let name = solver.remove_image(name).map_err(failed)?;
            print(&format!("{name}\n"));
        }
        Ok(())
    })
}

pub fn list(args: &List) -> Result<(), CliError> {
    with_store(&args.store, async |solver, _| {
        let table = table(&solver.images().map_err(failed)?, table::terminal());
        print(&table);
        Ok(())
    })
}

pub fn save(args: &Save) -> Result<(), CliError> {
    let to_stdout = args.output == Path::new("-");
    if to_stdout && std::io::stdout().is_terminal() {
        let problem = "refusing to write an archive to the terminal: name a file";
        return Err(UsageError::new("--output", "-", problem.into()).into());
    }
    let dest = match to_stdout {
        true => OutputTarget::Stdout,
        false => OutputTarget::File(args.output.clone()),
    };
    let variant = match args.format {
        Form::Oci => Variant::Oci,
        Form::Docker => Variant::Docker,
    };
    with_store(&args.store, async |solver, cancel| {
        solver
            .save_image(&args.name, variant, dest, cancel)
            .await
            .map_err(failed)
    })
}

pub fn pull(args: &Pull) -> Result<(), CliError> {
    let platform = match args.all_platforms {
        true => None,
        false => Some(crate::registry::platform(args.platform.as_deref())?),
    };
    crate::registry::reference(&args.reference)?;
    with_store(&args.store, async |solver, _| {
        let (image, notices) = solver
            .pull_image(&args.reference, platform.as_ref(), &|_, _| {})
            .await
            .map_err(failed)?;
        for notice in notices {
            eprintln!("{notice}");
        }
        print(&format!("{}@{}\n", image.name, image.digest));
        Ok(())
    })
}

pub fn push(args: &Push) -> Result<(), CliError> {
    with_store(&args.store, async |solver, _| {
        let (pushed, notices) = solver
            .push_image(solver.registries(), &args.name, args.target.as_deref())
            .await
            .map_err(failed)?;
        for notice in notices {
            eprintln!("{notice}");
        }
        print(&format!("{pushed}\n"));
        Ok(())
    })
}

fn failed(error: Error) -> CliError {
    CliError::Image(Box::new(error))
}

fn table(images: &[StoredImage], terminal: Option<usize>) -> String {
    let names = images.iter().map(|image| image.name.len());
    let columns = [
        Column::of("NAME", names.max().unwrap_or(0).max("NAME".len())).down_to(16),
        Column::of("DIGEST", 71).down_to(15).or_none(),
        Column::of("      SIZE", 10),
        Column::of("CREATED (UTC)", 19).or_none(),
    ];
    let layout = Layout::fit(&columns, &[1, 0], terminal);
    let mut table = layout.head(&columns);
    for image in images {
        let size = match image.size {
            Some(bytes) => format_bytes(i64::try_from(bytes).unwrap_or(i64::MAX)),
            None => "incomplete".to_owned(),
        };
        table += &layout.line(&[
            image.name.clone(),
            image.digest.to_string(),
            format!("{size:>10}"),
            time_text(image.created),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_listed_as_a_table() {
        let image = |name: &str, size, created| StoredImage {
            name: name.into(),
            digest: format!("sha256:{}", "ab".repeat(32)),
            media_type: String::new(),
            size,
            created,
        };
        let images = [
            image("docker.io/me/app:1", Some(12_345_678), 1_700_000_000),
            image("registry.example/x:2", None, 0),
        ];
        insta::assert_snapshot!(table(&images, None), @r"
        NAME                  DIGEST                                                                         SIZE  CREATED (UTC)
        docker.io/me/app:1    sha256:abababababababababababababababababababababababababababababababab     12.35MB  2023-11-14 22:13:20
        registry.example/x:2  sha256:abababababababababababababababababababababababababababababababab  incomplete  1970-01-01 00:00:00
        ");
    }
}
