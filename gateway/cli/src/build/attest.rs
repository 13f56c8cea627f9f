//! `--attest`, `--sbom`, `--provenance`: what is to be attested, as the frontend options that ask for it.

use std::collections::BTreeMap;

use crate::build::args::Build;
use crate::error::UsageError;
use gateway_bridge::WantedProvenance;
use gateway_frontend::csv;

/// Kinds of attestations that can be asked for.
const KINDS: [&str; 2] = ["sbom", "provenance"];

/// `attest:KIND` with its parameters. The short flags win over `--attest`.
pub fn options(args: &Build) -> Result<BTreeMap<String, String>, UsageError> {
    let mut options = BTreeMap::new();
    for text in &args.attest {
        let wrong = |problem: String| UsageError::new("--attest", text, problem);
        let pairs = csv::pairs(text).map_err(wrong)?;
        let kind = pairs.iter().find(|(key, _)| key == "type");
        let Some((_, Some(kind))) = kind else {
            return Err(wrong("no type: write type=sbom,...".into()));
        };
        if !KINDS.contains(&kind.as_str()) {
            let known = KINDS.join(" and ");
            return Err(wrong(format!(
                "unknown attestation {kind}: {known} are known"
            )));
        }
        let disabled = pairs
            .iter()
            .any(|(key, value)| key == "disabled" && value.as_deref() == Some("true"));
        set(&mut options, kind, (!disabled).then(|| text.clone()));
    }
    for (kind, flag) in [("sbom", &args.sbom), ("provenance", &args.provenance)] {
        match flag.as_deref() {
            None => {}
            Some("true") => set(&mut options, kind, Some(format!("type={kind}"))),
            Some("false") => set(&mut options, kind, None),
            Some(text) => {
                csv::pairs(text)
                    .map_err(|problem| UsageError::new(format!("--{kind}"), text, problem))?;
                set(&mut options, kind, Some(format!("type={kind},{text}")));
            }
        }
    }
    if let Err(error) = WantedProvenance::of(&options) {
        let given = args.provenance.clone().unwrap_or_default();
        let flag = if given.is_empty() {
            "--attest"
        } else {
            "--provenance"
        };
        return Err(UsageError::new(flag, given, error.message));
    }
    Ok(options)
}

fn set(options: &mut BTreeMap<String, String>, kind: &str, value: Option<String>) {
    let key = format!("attest:{kind}");
    match value {
        Some(value) => options.insert(key, value),
        None => options.remove(&key),
    };
}
