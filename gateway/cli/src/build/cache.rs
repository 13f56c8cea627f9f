//! `--cache-from`: caches of other builders.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gateway_solver::CacheImport;

use super::csv;
use crate::error::UsageError;

const LOCAL: &str = "type=local,src=DIR";
const REGISTRY: &str = "type=registry,ref=NAME";

/// One cache for each `--cache-from`.
pub fn imports(texts: &[String]) -> Result<Vec<CacheImport>, UsageError> {
    texts.iter().map(|text| import(text)).collect()
}

fn import(text: &str) -> Result<CacheImport, UsageError> {
    let wrong = |problem: String| UsageError::new("--cache-from", text, problem);
    let mut attrs: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in csv::pairs(text).map_err(wrong)? {
        let value = value.ok_or_else(|| wrong(format!("{key:?} needs a value: {key}=...")))?;
        attrs.insert(key.trim().to_lowercase(), value);
    }
    let needed = |value: Option<String>, form: &str| {
        value.ok_or_else(|| wrong(format!("incomplete: write {form}")))
    };
    let import = match attrs.remove("type").as_deref() {
        Some("local") => CacheImport::Local {
            src: PathBuf::from(needed(attrs.remove("src"), LOCAL)?),
            digest: attrs.remove("digest"),
            tag: attrs.remove("tag"),
        },
        Some("registry") => CacheImport::Registry {
            reference: needed(attrs.remove("ref"), REGISTRY)?,
        },
        Some(other) => {
            let problem = format!("unknown type {other:?}: local and registry are known");
            return Err(wrong(problem));
        }
        None => return Err(wrong(format!("no type: write {LOCAL} or {REGISTRY}"))),
    };
    match attrs.into_keys().next() {
        Some(key) => Err(wrong(format!("unknown key {key:?}"))),
        None => Ok(import),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_cache_is_a_directory_and_perhaps_a_tag() {
        let given = imports(&["type=local,src=/c,tag=t".to_owned()]).unwrap();
        let expected = CacheImport::Local {
            src: PathBuf::from("/c"),
            digest: None,
            tag: Some("t".to_owned()),
        };
        assert_eq!(given, [expected]);
    }

    #[test]
    fn other_caches_are_refused_by_name() {
        for text in [
            "src=/c",
            "type=gha",
            "type=local",
            "type=registry",
            "type=local,src=/c,mode=max",
            "type",
        ] {
            let error = imports(&[text.to_owned()]).unwrap_err().to_string();
            assert!(error.contains("--cache-from"), "{error}");
        }
    }
}
