//! `--cache-from` and `--cache-to`: caches of other builders, and for them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gateway_solver::{CacheDestination, CacheExport, CacheImport, RemoteCache};

use super::{keys, services};
use crate::environment::Environment;
use crate::error::UsageError;
use gateway_frontend::csv;

const FROM: &str = "--cache-from";
const TO: &str = "--cache-to";
/// The name of a cache in a directory when none is given.
const DEFAULT_TAG: &str = "latest";
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
        if !text.contains('=') {
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
        Ok(cache)
    }

    fn is_service(&self) -> bool {
        RemoteCache::KINDS.contains(&self.kind.as_str())
    }

    /// A service; `None`, and a note, for one that only some machines reach, and this is none of them.
    fn service(
        &mut self,
        env: &Environment,
        notes: &mut Vec<String>,
    ) -> Result<Option<RemoteCache>, UsageError> {
        if let Some(missing) = services::fill(&self.kind, &mut self.attrs, env) {
            notes.push(format!(
                "{} {:?} has no effect: {missing}",
                self.flag,
                services::shown(self.text)
            ));
            return Ok(None);
        }
        let variable = |name: &str| env.get(name).cloned();
        let cache = RemoteCache::parse(&self.kind, &self.attrs, &variable);
        cache.map(Some).map_err(|problem| self.wrong(problem))
    }

    fn wrong(&self, problem: String) -> UsageError {
        UsageError::new(self.flag, services::shown(self.text), problem)
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
        match self.attrs.remove(key) {
            None => Ok(false),
            Some(value) => keys::boolean(key, &value).map_err(|problem| self.wrong(problem)),
        }
    }

    /// Leaves what is known, and tells of the rest.
    fn only(&mut self, known: &[&str], notes: &mut Vec<String>) {
        let unknown = |key: &&String| !known.contains(&key.as_str());
        let given = self.attrs.keys().filter(unknown);
        notes.extend(keys::notes(
            self.flag,
            &services::shown(self.text),
            given,
            known,
        ));
        self.attrs.retain(|key, _| known.contains(&key.as_str()));
    }
}

/// The single caches that flags name: a flag with names alone can have several, with commas.
fn single(texts: &[String]) -> impl Iterator<Item = &str> {
    texts.iter().flat_map(|text| {
        let names = !text.contains('=');
        let commas = move |c| names && c == ',';
        text.split(commas).filter(|text| !text.is_empty())
    })
}

/// One cache for each `--cache-from`; `notes` gets what has no effect.
pub fn imports(
    texts: &[String],
    env: &Environment,
    notes: &mut Vec<String>,
) -> Result<Vec<CacheImport>, UsageError> {
    let imports = single(texts).filter_map(|text| import(text, env, notes).transpose());
    imports.collect()
}

fn import(
    text: &str,
    env: &Environment,
    notes: &mut Vec<String>,
) -> Result<Option<CacheImport>, UsageError> {
    let mut cache = Cache::read(FROM, text)?;
    if !cache.is_service() && !["local", "registry"].contains(&cache.kind.as_str()) {
        return Err(cache.unknown_kind("local, registry, s3, gha and azblob"));
    }
    cache.only(&keys::of_cache_import(&cache.kind), notes);
    if cache.is_service() {
        return Ok(cache.service(env, notes)?.map(CacheImport::Remote));
    }
    Ok(Some(match cache.kind.as_str() {
        "local" => CacheImport::Local {
            src: PathBuf::from(cache.needed("src")?),
            digest: cache.take("digest"),
            tag: cache.take("tag"),
        },
        _ => CacheImport::Registry {
            reference: cache.needed("ref")?,
            insecure: cache.flag("registry.insecure")?,
        },
    }))
}

/// One cache for each `--cache-to`; `notes` gets what has no effect.
pub fn exports(
    texts: &[String],
    env: &Environment,
    notes: &mut Vec<String>,
) -> Result<Vec<CacheExport>, UsageError> {
    let mut exports: Vec<CacheExport> = Vec::new();
    for text in single(texts) {
        let Some(export) = export(text, env, notes)? else {
            continue;
        };
        if exports.contains(&export) {
            continue;
        }
        if exports.iter().any(|other| other.to == export.to) {
            let problem = "the same cache is written twice".to_owned();
            return Err(UsageError::new(TO, services::shown(text), problem));
        }
        exports.push(export);
    }
    Ok(exports)
}

fn export(
    text: &str,
    env: &Environment,
    notes: &mut Vec<String>,
) -> Result<Option<CacheExport>, UsageError> {
    let mut cache = Cache::read(TO, text)?;
    if !cache.is_service() && !["registry", "local", "inline"].contains(&cache.kind.as_str()) {
        return Err(cache.unknown_kind("registry, local, inline, s3, gha and azblob"));
    }
    cache.only(&keys::of_cache_export(&cache.kind), notes);
    let max = match cache.attrs.remove("mode").as_deref() {
        None | Some("min") => false,
        Some("max") => true,
        Some(other) => {
            return Err(cache.wrong(format!("mode is min or max, not {other:?}")));
        }
    };
    let ignore_error = cache.flag("ignore-error")?;
    let to = match cache.kind.as_str() {
        _ if cache.is_service() => match cache.service(env, notes)? {
            Some(service) => {
                cache.attrs.clear();
                CacheDestination::Remote(service)
            }
            None => return Ok(None),
        },
        "registry" => CacheDestination::Registry {
            reference: cache.needed("ref")?,
        },
        "local" => CacheDestination::Local {
            dest: PathBuf::from(cache.needed("dest")?),
            tag: cache.take("tag").unwrap_or_else(|| DEFAULT_TAG.to_owned()),
            reset: cache.flag("reset")?,
        },
        _ if max => {
            return Err(cache.wrong(
                "an image holds the layers of its own steps only: mode=max needs type=registry or type=local"
                    .into(),
            ));
        }
        _ => CacheDestination::Inline,
    };
    Ok(Some(CacheExport {
        to,
        max,
        ignore_error,
        attrs: cache.attrs,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(text: &str) -> Result<CacheImport, UsageError> {
        let none = Environment::new();
        Ok(imports(&[text.to_owned()], &none, &mut Vec::new())?.remove(0))
    }

    fn exported(texts: &[String]) -> Result<Vec<CacheExport>, UsageError> {
        exports(texts, &Environment::new(), &mut Vec::new())
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
            "src=/c",
            "type=inline",
            "type=s3",
            "type=azblob",
            "type=local",
            "type=registry",
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
        let exports = exported(&texts.map(str::to_owned)).unwrap();
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
            ("type=s3,bucket=b", "needs region=..."),
            ("type=azblob", "needs account_url=..."),
            ("type=local", "needs dest=..."),
            ("type=registry", "needs ref=..."),
            ("type=registry,ref=r,mode=all", "mode is min or max"),
            ("type=inline,mode=max", "needs type=registry or type=local"),
            (
                "type=tape,dest=a",
                "registry, local, inline, s3, gha and azblob are known",
            ),
        ] {
            let error = exported(&[text.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        let twice = ["r:c", "type=registry,ref=r:c,mode=max"].map(str::to_owned);
        assert!(exported(&twice).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn what_the_reference_passes_over_is_passed_over_and_told() {
        let mut notes = Vec::new();
        let texts = [
            "type=local,src=/c,mode=max",
            "type=registry,ref=r,Registry.Insecure=T,tga=t",
            "a:1,b:2",
            "",
        ];
        let read = imports(&texts.map(str::to_owned), &Environment::new(), &mut notes).unwrap();
        assert_eq!(read.len(), 4);
        assert!(matches!(
            &read[1],
            CacheImport::Registry { insecure: true, .. }
        ));
        assert!(matches!(&read[3], CacheImport::Registry { reference, .. } if reference == "b:2"));
        let texts = [
            "type=inline,compression=zstd",
            "type=registry,ref=r,tag=t",
            "type=local,dest=d,mdoe=max",
            "type=local,dest=d",
        ];
        let written = exports(&texts.map(str::to_owned), &Environment::new(), &mut notes).unwrap();
        // The last one is the one before it again.
        assert_eq!(written.len(), 3);
        assert!(written[0].attrs.is_empty() && !written[2].max);
        insta::assert_snapshot!(notes.join("\n"), @r#"
        --cache-from "type=local,src=/c,mode=max": "mode" has no effect
        --cache-from "type=registry,ref=r,Registry.Insecure=T,tga=t": "tga" has no effect
        --cache-to "type=inline,compression=zstd": "compression" has no effect
        --cache-to "type=registry,ref=r,tag=t": "tag" has no effect
        --cache-to "type=local,dest=d,mdoe=max": "mdoe" has no effect; mode is like it
        "#);
    }
}
