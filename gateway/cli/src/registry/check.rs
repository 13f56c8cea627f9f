//! `gateway registry check`: the doctor.

use std::time::Duration;

use clap::Args;
use gateway_images::registry::{
    CheckOptions, CheckStep, Registries, Verdict, error_json, error_page,
};
use serde_json::{Value, json};

use super::settings::RegistryArgs;
use super::{platform, reference, with_registries};
use crate::error::CliError;
use crate::text::print;

/// Go every step of the way to an image, and tell what works, what is odd and what fails.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gateway registry check docker/dockerfile:1             can this frontend image be had?
  gateway registry check --push registry.example/me/app  may I push there?
  gateway registry check --json REF                      the same for programs

Exits with 0 when the image can be had (and pushed, with --push), else with 1.")]
pub struct Check {
    /// The image
    #[arg(value_name = "REF")]
    reference: String,

    /// Also ask whether a push would be allowed; nothing is stored
    #[arg(long)]
    push: bool,

    /// Platform whose layers are looked at [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    registries: RegistryArgs,
}

pub fn run(args: &Check) -> Result<(), CliError> {
    let reference = reference(&args.reference)?;
    let options = CheckOptions {
        push: args.push,
        platform: platform(args.platform.as_deref())?,
    };
    let json = args.json;
    let found = with_registries(&args.registries, |registries: Registries| async move {
        let mut host = String::new();
        let mut tell = |step: &CheckStep| {
            if !json {
                print(&step_lines(step, &mut host));
            }
        };
        Ok(registries.check(&reference, &options, &mut tell).await)
    })?;
    let error = found.error();
    if json {
        let steps: Vec<Value> = found.steps.iter().map(step_json).collect();
        let quirks = found.quirks.iter().map(|(host, quirk)| {
            let (seen, done) = quirk.describe();
            json!({ "host": host, "seen": seen, "done": done })
        });
        let document = json!({
            "reference": found.reference,
            "good": found.is_good(),
            "served_by": found.served_by,
            "may_push": found.may_push,
            "steps": steps,
            "quirks": quirks.collect::<Vec<_>>(),
            "error": error.as_ref().map(error_json),
        });
        print(&format!("{document:#}\n"));
    } else {
        let mut text = String::new();
        for (host, quirk) in &found.quirks {
            let (seen, done) = quirk.describe();
            text += &format!("odd: {host} {seen}: {done}\n");
        }
        text += &match (&found.served_by, found.may_push) {
            (Some(host), Some(true)) => {
                format!("good: {host} serves the image, and a push is allowed\n")
            }
            (Some(host), Some(false)) => {
                format!("failed: {host} serves the image, a push is not allowed\n")
            }
            (Some(host), None) => format!("good: {host} serves the image\n"),
            (None, _) => "failed: no host serves the image\n".to_owned(),
        };
        print(&text);
        if let (Some(error), false) = (&error, found.is_good()) {
            eprint!("\n{}", error_page(error));
        }
    }
    match found.is_good() {
        true => Ok(()),
        false => Err(CliError::Told),
    }
}

/// A line, under a line with the host when that is another than before.
fn step_lines(step: &CheckStep, host: &mut String) -> String {
    let mut lines = String::new();
    if step.host != *host {
        host.clone_from(&step.host);
        lines = format!("{host}\n");
    }
    let indent = if host.is_empty() { "" } else { "  " };
    let verdict = step.verdict.as_str();
    lines += &format!(
        "{indent}{verdict:<7} {:<6} {:>9}  {}\n",
        step.name,
        milliseconds(step.took),
        step.text
    );
    lines
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn step_json(step: &CheckStep) -> Value {
    json!({
        "host": step.host,
        "step": step.name,
        "verdict": match step.verdict {
            Verdict::Good => "ok",
            Verdict::Odd => "odd",
            Verdict::Failed => "failed",
        },
        "milliseconds": step.took.as_secs_f64() * 1000.0,
        "text": step.text,
        "kind": step.kind,
    })
}
