//! `--cache-from` and `--cache-to`: caches of other builders, and for them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gateway_solver::{CacheDestination, CacheExport, CacheImport};

use crate::error::UsageError;
use gateway_frontend::csv;

const FROM: &str = "--cache-from";
const TO: &str = "--cache-to";
/// The name of a cache in a directory when none is given.
const DEFAULT_TAG: &str = "latest";
/// Caches that are services of others, and what reaches as far.
const SERVICES: [&str; 3] = ["gha", "s3", "azblob"];
/// Attributes that say how layers are written.
const LAYER_KEYS: [&str; 5] = [
    "compression",
    "compression-level",
    "force-compression",
    "image-manifest",
    "oci-mediatypes",
];

/// One flag's value, read.
struct Cache<'a> {
    flag: &'static str,
    text: &'a str,
    kind: String,
    attrs: BTreeMap<String, String>,
}

impl<'a> Cache<'a> {
    fn read(flag: &'static str, text: &'a str) -> Result<Self, UsageError> {
        let mut cache = Cache {
            flag,
            text,
            kind: "registry".to_owned(),
            attrs: BTreeMap::new(),
        };
        // A name alone is that of a cache in a registry.
        if !text.contains('=') && !text.is_empty() {
            cache.attrs.insert("ref".to_owned(), text.to_owned());
            return Ok(cache);
        }
        for (key, value) in csv::pairs(text).map_err(|problem| cache.wrong(problem))? {
            let value =
                value.ok_or_else(|| cache.wrong(format!("{key:?} needs a value: {key}=...")))?;
            cache.attrs.insert(key.trim().to_lowercase(), value);
        }
        match cache.attrs.remove("type") {
            Some(kind) => cache.kind = kind,
            None => return Err(cache.wrong("no type: write type=registry,ref=NAME, ...".into())),
        }
        match SERVICES.contains(&cache.kind.as_str()) {
            true => Err(cache.wrong(format!(
                "caches of type {} are not supported yet: use type=registry,ref=NAME",
                cache.kind
            ))),
            false => Ok(cache),
        }
    }

    fn wrong(&self, problem: String) -> UsageError {
        UsageError::new(self.flag, self.text, problem)
    }

    fn unknown_kind(&self, known: &str) -> UsageError {
        self.wrong(format!("unknown type {:?}: {known} are known", self.kind))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.attrs.remove(key).filter(|value| !value.is_empty())
    }

    fn needed(&mut self, key: &str) -> Result<String, UsageError> {
        let value = self.take(key);
        value.ok_or_else(|| self.wrong(format!("needs {key}=...")))
    }

    fn flag(&mut self, key: &str) -> Result<bool, UsageError> {
        match self.attrs.remove(key).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(self.wrong(format!("{key} is true or false, not {other:?}"))),
        }
    }

    /// What is left must be among these.
    fn only(&self, known: &[&str]) -> Result<(), UsageError> {
        match self.attrs.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(self.wrong(format!("unknown key {key:?}"))),
            None => Ok(()),
        }
    }
}

/// One cache for each `--cache-from`.
pub fn imports(texts: &[String]) -> Result<Vec<CacheImport>, UsageError> {
    texts.iter().map(|text| import(text)).collect()
}

fn import(text: &str) -> Result<CacheImport, UsageError> {
    let mut cache = Cache::read(FROM, text)?;
    let import = match cache.kind.as_str() {
        "local" => CacheImport::Local {
            src: PathBuf::from(cache.needed("src")?),
            digest: cache.take("digest"),
            tag: cache.take("tag"),
        },
        "registry" => CacheImport::Registry {
            reference: cache.needed("ref")?,
            insecure: cache.flag("registry.insecure")?,
        },
        _ => return Err(cache.unknown_kind("local and registry")),
    };
    cache.only(&[])?;
    Ok(import)
}

/// One cache for each `--cache-to`.
pub fn exports(texts: &[String]) -> Result<Vec<CacheExport>, UsageError> {
    let mut exports: Vec<CacheExport> = Vec::new();
    for text in texts {
        let export = export(text)?;
        if exports.iter().any(|other| other.to == export.to) {
            let problem = "the same cache is written twice".to_owned();
            return Err(UsageError::new(TO, text, problem));
        }
        exports.push(export);
    }
    Ok(exports)
}

fn export(text: &str) -> Result<CacheExport, UsageError> {
    let mut cache = Cache::read(TO, text)?;
    let max = match cache.attrs.remove("mode").as_deref() {
        None | Some("min") => false,
        Some("max") => true,
        Some(other) => {
            return Err(cache.wrong(format!("mode is min or max, not {other:?}")));
        }
    };
    let ignore_error = cache.flag("ignore-error")?;
    let mut known = LAYER_KEYS.to_vec();
    let to = match cache.kind.as_str() {
        "registry" => {
            known.push("registry.insecure");
            CacheDestination::Registry {
                reference: cache.needed("ref")?,
            }
        }
        "local" => CacheDestination::Local {
            dest: PathBuf::from(cache.needed("dest")?),
            tag: cache.take("tag").unwrap_or_else(|| DEFAULT_TAG.to_owned()),
            reset: cache.flag("reset")?,
        },
        "inline" if max => {
            return Err(cache.wrong(
                "an image holds the layers of its own steps only: mode=max needs type=registry or type=local"
                    .into(),
            ));
        }
        "inline" => {
            known.clear();
            CacheDestination::Inline
        }
        _ => return Err(cache.unknown_kind("registry, local and inline")),
    };
    cache.only(&known)?;
    Ok(CacheExport {
        to,
        max,
        ignore_error,
        attrs: cache.attrs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(text: &str) -> Result<CacheImport, UsageError> {
        Ok(imports(&[text.to_owned()])?.remove(0))
    }

    #[test]
    fn a_cache_is_read_from_a_directory_or_a_registry() {
        let local = CacheImport::Local {
            src: PathBuf::from("/c"),
            digest: None,
            tag: Some("t".to_owned()),
        };
        assert_eq!(imported("type=local,src=/c,tag=t").unwrap(), local);
        let registry = |insecure| CacheImport::Registry {
            reference: "user/app:cache".to_owned(),
            insecure,
        };
        let name = "user/app:cache";
        assert_eq!(imported(name).unwrap(), registry(false));
        let text = format!("type=registry,ref={name},registry.insecure=true");
        assert_eq!(imported(&text).unwrap(), registry(true));
    }

    #[test]
    fn other_caches_are_refused_by_name() {
        for text in [
            "",
            "src=/c",
            "type=gha",
            "type=inline",
            "type=local",
            "type=registry",
            "type=local,src=/c,mode=max",
            "type=registry,ref=r,registry.insecure=maybe",
            "type=registry,ref",
        ] {
            let error = imported(text).unwrap_err().to_string();
            assert!(error.contains("--cache-from"), "{error}");
        }
    }

    #[test]
    fn a_cache_is_written_with_its_attributes() {
        let texts = [
            "type=registry,ref=r:c,mode=max,compression=zstd,ignore-error=true",
            "type=local,dest=/c,tag=t,reset=true,image-manifest=false",
            "type=inline",
        ];
        let exports = exports(&texts.map(str::to_owned)).unwrap();
        let registry = CacheExport {
            to: CacheDestination::Registry {
                reference: "r:c".to_owned(),
            },
            max: true,
            ignore_error: true,
            attrs: BTreeMap::from([("compression".to_owned(), "zstd".to_owned())]),
        };
        let local = CacheDestination::Local {
            dest: PathBuf::from("/c"),
            tag: "t".to_owned(),
            reset: true,
        };
        assert_eq!(exports[0], registry);
        assert_eq!(exports[1].to, local);
        assert_eq!(exports[1].attrs["image-manifest"], "false");
        assert_eq!(exports[2].to, CacheDestination::Inline);
    }

    #[test]
    fn what_cannot_be_written_is_refused_by_name() {
        for (text, problem) in [
            ("type=gha,mode=max", "type gha are not supported yet"),
            ("type=s3,bucket=b", "type s3 are not supported yet"),
            ("type=azblob", "type azblob are not supported yet"),
            ("type=local", "needs dest=..."),
            ("type=registry", "needs ref=..."),
            ("type=registry,ref=r,mode=all", "mode is min or max"),
            ("type=inline,mode=max", "needs type=registry or type=local"),
            (
                "type=inline,compression=zstd",
                "unknown key \"compression\"",
            ),
            ("type=registry,ref=r,tag=t", "unknown key \"tag\""),
            ("type=tape,dest=a", "registry, local and inline are known"),
        ] {
            let error = exports(&[text.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        let twice = ["r:c", "type=registry,ref=r:c"].map(str::to_owned);
        assert!(exports(&twice).unwrap_err().to_string().contains("twice"));
    }
}
