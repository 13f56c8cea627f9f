//! `--attest`, `--sbom`, `--provenance`: what is to be attested, as the frontend options that ask for it.

use std::collections::BTreeMap;

use super::keys;
use crate::build::args::Build;
use crate::error::UsageError;
use gateway_bridge::WantedProvenance;
use gateway_frontend::csv;
use gateway_images::reference::Reference;

/// Kinds of attestations that can be asked for.
const KINDS: [&str; 2] = ["sbom", "provenance"];
/// The parameter of `sbom` that is not its scanner's.
const GENERATOR: &str = "generator";

/// `attest:KIND` with its parameters. The short flags win over `--attest`; `notes` gets what has no effect.
pub fn options(
    args: &Build,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<String, String>, UsageError> {
    let mut options = BTreeMap::new();
    for text in &args.attest {
        let wrong = |problem: String| UsageError::new("--attest", text, problem);
        let pairs = csv::pairs(text).map_err(wrong)?;
        let is = |key: &str, name: &str| key.trim().eq_ignore_ascii_case(name);
        let kind = pairs.iter().find(|(key, _)| is(key, "type"));
        let Some((_, Some(kind))) = kind else {
            return Err(wrong("no type: write type=sbom,...".into()));
        };
        if !KINDS.contains(&kind.as_str()) {
            let known = KINDS.join(" and ");
            return Err(wrong(format!(
                "unknown attestation {kind}: {known} are known"
            )));
        }
        let mut disabled = false;
        for (key, value) in pairs.iter().filter(|(key, _)| is(key, "disabled")) {
            disabled = keys::boolean(key, value.as_deref().unwrap_or_default()).map_err(wrong)?;
        }
        parameters(kind, &pairs, "--attest", text, notes)?;
        set(&mut options, kind, (!disabled).then(|| text.clone()));
    }
    for (kind, flag) in [("sbom", &args.sbom), ("provenance", &args.provenance)] {
        let Some(text) = flag.as_deref() else {
            continue;
        };
        let name = format!("--{kind}");
        match gateway_api::parse_bool(text) {
            Some(true) => set(&mut options, kind, Some(format!("type={kind}"))),
            Some(false) => set(&mut options, kind, None),
            None => {
                let pairs = csv::pairs(text)
                    .map_err(|problem| UsageError::new(name.clone(), text, problem))?;
                parameters(kind, &pairs, &name, text, notes)?;
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

/// What is told of parameters before the build that they are for.
fn parameters(
    kind: &str,
    pairs: &[(String, Option<String>)],
    flag: &str,
    text: &str,
    notes: &mut Vec<String>,
) -> Result<(), UsageError> {
    let wrong = |problem: String| UsageError::new(flag, text, problem);
    let given = pairs.iter().map(|(key, _)| key);
    if kind == "provenance" {
        let known: Vec<&str> = ["type", "disabled"]
            .into_iter()
            .chain(WantedProvenance::PARAMETERS)
            .collect();
        notes.extend(keys::notes(flag, text, given, &known));
        return Ok(());
    }
    let generator = pairs.iter().find(|(key, _)| key == GENERATOR);
    if let Some((_, image)) = generator {
        let image = image.as_deref().unwrap_or_default();
        if image.is_empty() {
            let problem =
                "generator= names no image: generator=IMAGE, or leave it out for the usual one";
            return Err(wrong(problem.into()));
        }
        let parsed = Reference::parse(image);
        parsed.map_err(|error| wrong(format!("{error}: generator= names an image")))?;
        return Ok(());
    }
    // All other keys are the scanner's own, unless one is nearly this.
    let near = given.filter(|key| keys::like(key, &[GENERATOR]).is_some());
    notes.extend(near.map(|key| {
        format!("{flag} {text:?}: {key:?} is handed to the scanner; {GENERATOR} is like it")
    }));
    Ok(())
}

fn set(options: &mut BTreeMap<String, String>, kind: &str, value: Option<String>) {
    let key = format!("attest:{kind}");
    match value {
        Some(value) => options.insert(key, value),
        None => options.remove(&key),
    };
}
