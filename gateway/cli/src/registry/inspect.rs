//! `gateway inspect`: what a reference names, without pulling it.

use clap::Args;
use gateway_images::media::{Descriptor, ParsedManifest};
use gateway_images::registry::{Registries, Resolved};

use super::settings::RegistryArgs;
use super::{failed, platform, reference, with_registries};
use crate::error::CliError;
use crate::progress::bytes::format_bytes;

/// Show what a reference names in its registry.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The image
    #[arg(value_name = "REF")]
    reference: String,

    /// Print the manifest or index as it was served, byte for byte
    #[arg(long, conflicts_with_all = ["image_config", "referrers"])]
    raw: bool,

    /// Print the image's configuration as it was served
    #[arg(long = "image-config", conflicts_with = "referrers")]
    image_config: bool,

    /// List what refers to it: signatures, attestations
    #[arg(long)]
    referrers: bool,

    /// Platform of which the configuration is shown [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,

    #[command(flatten)]
    registries: RegistryArgs,
}

pub fn run(args: &Inspect) -> Result<(), CliError> {
    let reference = reference(&args.reference)?;
    let platform = platform(args.platform.as_deref())?;
    let bytes = with_registries(&args.registries, |registries: Registries| async move {
        let wrong = |error| failed(&error);
        let resolved = registries.resolve(&reference).await.map_err(wrong)?;
        for notice in &resolved.notices {
            eprintln!("{notice}");
        }
        if args.raw {
            return Ok(resolved.root.bytes.to_vec());
        }
        if args.image_config {
            let image = registries
                .image_of(resolved, &platform)
                .await
                .map_err(wrong)?;
            return Ok(image.config_bytes.to_vec());
        }
        if args.referrers {
            let subject = resolved.root.descriptor.digest.clone();
            let found = registries.referrers(&reference, &subject, None).await;
            return Ok(referrers(&found.map_err(wrong)?).into_bytes());
        }
        Ok(summary(&resolved).into_bytes())
    })?;
    crate::text::print_bytes(&bytes);
    Ok(())
}

fn size(bytes: u64) -> String {
    format_bytes(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn summary(resolved: &Resolved) -> String {
    let root = &resolved.root;
    let mut text = format!(
        "name      {}\ndigest    {}\ntype      {}\nserved by {}\n",
        resolved.reference, root.descriptor.digest, root.descriptor.media_type, resolved.host
    );
    match &root.parsed {
        ParsedManifest::Index(index) => {
            for entry in &index.manifests {
                let what = match (entry.is_attestation(), &entry.platform) {
                    (true, _) => "attestation".to_owned(),
                    (false, Some(platform)) => platform.to_string(),
                    (false, None) => "any platform".to_owned(),
                };
                text += &format!("holds     {}  {what}\n", entry.digest);
            }
        }
        ParsedManifest::Image(image) => {
            text += &format!(
                "config    {}  {}\n",
                image.config.digest,
                size(image.config.size)
            );
            for layer in &image.layers {
                text += &format!("layer     {}  {}\n", layer.digest, size(layer.size));
            }
        }
    }
    text
}

fn referrers(found: &[Descriptor]) -> String {
    let line = |entry: &Descriptor| {
        let kind = entry.artifact_type.as_deref().unwrap_or(&entry.media_type);
        format!("{}  {kind}\n", entry.digest)
    };
    found.iter().map(line).collect()
}
