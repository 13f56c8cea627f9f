//! `gateway frontend inspect`: what a frontend image says of itself, and what it may do here.

use clap::Args;
use serde_json::{Value, json};

use super::subject::{LABEL_DETERMINISTIC, Place, PlatformImage, Subject};
use crate::error::CliError;
use crate::registry::settings::RegistryArgs;
use crate::registry::with_registries;
use crate::text::{print, size_text};

/// Show what a frontend image says of itself: platforms, digest, size, entry point, labels, capabilities, and what it
/// may do when a build runs it.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Reference, oci:DIR[:NAME], or the folder of a crate that was built
    #[arg(value_name = "REF|LAYOUT")]
    image: String,

    /// As JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    registries: RegistryArgs,
}

pub fn run(args: &Inspect) -> Result<(), CliError> {
    let place = Place::parse(&args.image)?;
    let subject = with_registries(&args.registries, |registries| async move {
        Subject::look_at(&registries, &place).await
    })?;
    print(&match args.json {
        true => format!("{:#}\n", json_of(&subject)),
        false => text_of(&subject),
    });
    Ok(())
}

/// What a host lets it do, by its label: the profile's name and words.
pub fn profile(image: &PlatformImage) -> (&'static str, &'static str) {
    match image.without_network() {
        true => (
            "strict",
            "no network, no privileges, a root file system that is thrown away, and what the build gives it",
        ),
        false => (
            "compat",
            "this machine's network (it has no label against it), no privileges, a root file system that is thrown away",
        ),
    }
}

fn text_of(subject: &Subject) -> String {
    let mut out = format!(
        "name        {}\ndigest      {}\n",
        subject.shown, subject.root.descriptor.digest
    );
    if let Some(version) = subject.version() {
        out += &format!("version     {version}\n");
    }
    for image in &subject.images {
        let entrypoint = match &image.config.config.entrypoint {
            Some(words) if !words.is_empty() => words.join(" "),
            _ => "none: /run is tried".to_owned(),
        };
        let (name, words) = profile(image);
        out += &format!(
            "\nplatform    {}\ndigest      {}\nsize        {} in {}\nentrypoint  {entrypoint}\nprofile     {name}: {words}\n",
            image.platform,
            image.descriptor.digest,
            size_text(image.size()),
            match image.manifest.layers.len() {
                1 => "1 layer".to_owned(),
                count => format!("{count} layers"),
            },
        );
        let caps = image.caps();
        out += &match caps.is_empty() {
            true => "caps        none: callers may require nothing of it, and give it no inputs\n"
                .to_owned(),
            false => caps
                .iter()
                .map(|cap| format!("caps        {cap}\n"))
                .collect(),
        };
        if matches!(image.label(LABEL_DETERMINISTIC), "1" | "true") {
            out += "answers     used again for the same input, when it has no network\n";
        }
        for (key, value) in &image.config.config.labels {
            out += &format!("label       {key}={value}\n");
        }
    }
    out
}

fn json_of(subject: &Subject) -> Value {
    let images: Vec<Value> = subject
        .images
        .iter()
        .map(|image| {
            json!({
                "platform": image.platform.to_string(),
                "digest": image.descriptor.digest,
                "size": image.size(),
                "layers": image.manifest.layers.len(),
                "entrypoint": image.config.config.entrypoint,
                "profile": profile(image).0,
                "caps": image.caps(),
                "labels": image.config.config.labels,
            })
        })
        .collect();
    json!({
        "name": subject.shown,
        "digest": subject.root.descriptor.digest,
        "version": subject.version(),
        "images": images,
    })
}
