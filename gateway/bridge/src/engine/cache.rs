//! Caches that a frontend names in its own Solve requests: read like those that the client names.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use gateway_api::CacheImport as Wanted;
use gateway_solver::{CacheImport, Job, RemoteCache};
use tokio::sync::OnceCell;

/// The caches of one build. Each is read once, whoever names it.
#[derive(Debug)]
pub(crate) struct Caches {
    /// Of the client: the only directories that frontends may name.
    given: Vec<CacheImport>,
    read: Mutex<HashMap<String, Arc<OnceCell<()>>>>,
}

impl Caches {
    /// Of a build whose client gave these; they have been read.
    pub fn of_client(given: &[CacheImport]) -> Self {
        Caches {
            given: given.to_vec(),
            read: Mutex::default(),
        }
    }

    /// Reads those that were not. What cannot be read fails nothing: its vertex says why.
    pub async fn import(&self, job: &Job, wanted: &[Wanted]) {
        for wanted in wanted {
            let once = {
                let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
                read.entry(format!("{wanted:?}")).or_default().clone()
            };
            once.get_or_init(|| async {
                match self.find(wanted) {
                    Ok(import) if self.given.contains(&import) => {}
                    Ok(import) => job.import_cache(&import).await,
                    Err(problem) => job.cache_not_imported(&shown(wanted), &problem),
                }
            })
            .await;
        }
    }

    fn find(&self, wanted: &Wanted) -> Result<CacheImport, String> {
        let attr = |name: &str| wanted.attrs.get(name).filter(|value| !value.is_empty());
        match wanted.kind.as_str() {
            "registry" => match attr("ref") {
                // What a certificate is worth is the client's to say, never the frontend's.
                Some(reference) => Ok(CacheImport::Registry {
                    reference: reference.clone(),
                    insecure: self.given.contains(&CacheImport::Registry {
                        reference: reference.clone(),
                        insecure: true,
                    }),
                }),
                None => Err("a cache in a registry needs the attribute ref".to_owned()),
            },
            "local" => {
                let src = attr("src").map(PathBuf::from);
                let src = src.ok_or("a local cache needs the attribute src")?;
                // A client's directory is somewhere else here: it is known by what it holds.
                let is_held = |given: &&CacheImport| matches!(given, CacheImport::Local { digest: Some(known), .. } if attr("digest") == Some(known));
                if let Some(held) = self.given.iter().find(is_held) {
                    return Ok(held.clone());
                }
                let is_given = |given: &CacheImport| matches!(given, CacheImport::Local { src: known, .. } if *known == src);
                if !self.given.iter().any(is_given) {
                    return Err(format!(
                        "the build was not given {} as a cache (--cache-from type=local,src=...)",
                        src.display()
                    ));
                }
                Ok(CacheImport::Local {
                    src,
                    digest: attr("digest").cloned(),
                    tag: attr("tag").cloned(),
                })
            }
            // Nothing is asked with a login of the frontend's, nor where a frontend says.
            kind if RemoteCache::KINDS.contains(&kind) => {
                let wanted = RemoteCache::parse(kind, &wanted.attrs, &|_| None);
                let is_wanted = |given: &&CacheImport| match (given, &wanted) {
                    (CacheImport::Remote(given), Ok(wanted)) => given.is_same_place(wanted),
                    _ => false,
                };
                let given = self.given.iter().find(is_wanted);
                given.cloned().ok_or_else(|| {
                    format!("the build was not given this cache (--cache-from type={kind},...)")
                })
            }
            other => Err(format!("unknown cache importer: {other}")),
        }
    }
}

/// What a vertex calls a cache that cannot be read.
fn shown(wanted: &Wanted) -> String {
    let name = ["ref", "src"]
        .into_iter()
        .find_map(|name| wanted.attrs.get(name));
    match name {
        Some(name) => format!("{}:{name}", wanted.kind),
        None => wanted.kind.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(kind: &str, attrs: &[(&str, &str)]) -> Wanted {
        Wanted {
            kind: kind.to_owned(),
            attrs: attrs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn of_directories_only_those_of_the_client_are_read() {
        let caches = Caches::of_client(&[CacheImport::Local {
            src: PathBuf::from("/given"),
            digest: None,
            tag: None,
        }]);
        let digest = [("src", "/given"), ("digest", "sha256:aa")];
        assert!(caches.find(&wanted("local", &digest)).is_ok());
        let problem = caches
            .find(&wanted("local", &[("src", "/etc")]))
            .unwrap_err();
        assert!(problem.contains("not given /etc"), "{problem}");
    }

    #[test]
    fn p36_a_clients_directory_is_known_by_what_it_holds() {
        let held = CacheImport::Local {
            src: PathBuf::from("/brought/here"),
            digest: Some("sha256:aa".to_owned()),
            tag: None,
        };
        let caches = Caches::of_client(std::slice::from_ref(&held));
        let named = [("src", "../there"), ("digest", "sha256:aa")];
        assert_eq!(caches.find(&wanted("local", &named)), Ok(held));
        let other = [("src", "/brought"), ("digest", "sha256:bb")];
        assert!(caches.find(&wanted("local", &other)).is_err());
    }

    #[test]
    fn of_services_only_those_of_the_client_are_asked_with_its_login() {
        let place = [("bucket", "team"), ("region", "eu-1")];
        let login = [("access_key_id", "K"), ("secret_access_key", "s")];
        let attrs = wanted("s3", &[place, login].concat()).attrs;
        let given = RemoteCache::parse("s3", &attrs, &|_| None).unwrap();
        let given = CacheImport::Remote(given);
        let caches = Caches::of_client(std::slice::from_ref(&given));
        let other = [("access_key_id", "O"), ("secret_access_key", "o")];
        let named = wanted("s3", &[place, other].concat());
        assert_eq!(caches.find(&named), Ok(given));
        let elsewhere = [&place[..], &[("endpoint_url", "http://a.example")]].concat();
        let problem = caches.find(&wanted("s3", &elsewhere)).unwrap_err();
        assert!(problem.contains("was not given"), "{problem}");
        assert!(caches.find(&wanted("gha", &[])).is_err());
    }

    #[test]
    fn other_importers_are_refused_by_name() {
        let caches = Caches::of_client(&[]);
        let problem = caches.find(&wanted("tape", &[])).unwrap_err();
        assert_eq!(problem, "unknown cache importer: tape");
        assert!(caches.find(&wanted("registry", &[])).is_err());
        let found = caches.find(&wanted("registry", &[("ref", "a/b:c")]));
        assert!(
            matches!(found, Ok(CacheImport::Registry { reference, insecure: false }) if reference == "a/b:c")
        );
    }
}
