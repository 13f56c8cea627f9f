//! Caches in a container of Azure's storage.
//!
//! Blobs `<prefix>/<blobs_prefix>/<digest>` and `<prefix>/<manifests_prefix>/<name>`. The login is the account's key, or
//! a signature in the account's URL (SAS).

use bytes::Bytes;
use gateway_images::digest::Digest;
use gateway_images::media::Descriptor;
use gateway_images::registry::{SourceReader, WebResponse};
use url::Url;

use super::MAX_CONFIG_BYTES;
use super::attrs::{Attrs, Hidden};
use super::azure::{self, AccountKey, call, with_query};
use super::net::{Net, RemoteError, body, shown};
use super::sign::encoded;

pub const KEYS: [&str; 8] = [
    "account_name",
    "account_url",
    "blobs_prefix",
    "container",
    "manifests_prefix",
    "name",
    "prefix",
    "secret_access_key",
];

/// A container, and the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzBlob {
    /// The URL of the container, without a slash at its end.
    base: String,
    container: String,
    /// The signature in the account's URL.
    signature: Option<Hidden>,
    key: Option<AccountKey>,
    prefix: String,
    manifests_prefix: String,
    blobs_prefix: String,
    names: Vec<String>,
}

impl AzBlob {
    pub fn parse(attrs: &Attrs) -> Result<AzBlob, String> {
        const URL: &str = "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL";
        let given = attrs.or_variable("account_url", URL);
        let given = given.ok_or_else(|| {
            format!("needs account_url=..., or the variable {URL} of the environment")
        })?;
        let wrong = |problem: &str| format!("account_url={}: {problem}", shown(&given));
        let mut url = Url::parse(&given).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("it must begin with https:// or http://"));
        }
        let signature = url.query().filter(|query| !query.is_empty());
        let signature = signature.map(Hidden::new);
        if signature.is_some() && !url.query_pairs().any(|(name, _)| name == "sig") {
            return Err(wrong("a query that is no signature (SAS)"));
        }
        url.set_query(None);
        let account = attrs.or_variable("account_name", "BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME");
        let account = account.unwrap_or_else(|| {
            let host = url.host_str().unwrap_or_default();
            host.split('.').next().unwrap_or_default().to_owned()
        });
        let key = match attrs.get("secret_access_key") {
            None => None,
            Some(key) => Some(
                AccountKey::new(&account, key)
                    .ok_or("secret_access_key is no key of an account: it is no base64")?,
            ),
        };
        let container = attrs
            .or_variable("container", "BUILDKIT_AZURE_STORAGE_CONTAINER")
            .unwrap_or_else(|| "buildkit-cache".to_owned());
        let prefix = match attrs.given("prefix") {
            Some(prefix) => prefix.to_owned(),
            None => attrs
                .variable("BUILDKIT_AZURE_STORAGE_PREFIX")
                .unwrap_or_default(),
        };
        let base = url.as_str().trim_end_matches('/');
        Ok(AzBlob {
            base: format!("{base}/{}", encoded(&container, false)),
            container,
            signature,
            key,
            prefix,
            manifests_prefix: attrs
                .given("manifests_prefix")
                .unwrap_or("manifests")
                .to_owned(),
            blobs_prefix: attrs.given("blobs_prefix").unwrap_or("blobs").to_owned(),
            names: attrs.names(),
        })
    }

    pub fn identity(&self) -> String {
        format!(
            "azblob\0{}\0{}\0{}\0{}\0{}",
            self.base,
            self.prefix,
            self.manifests_prefix,
            self.blobs_prefix,
            self.names.join(";")
        )
    }

    /// The parts of a path joined, as Go's `filepath.Join` does.
    fn url(&self, kind: &str, name: &str) -> String {
        let joined = format!("{}/{kind}/{name}", self.prefix);
        let mut parts: Vec<&str> = Vec::new();
        for part in joined.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        let root = if self.prefix.starts_with('/') {
            "/"
        } else {
            ""
        };
        let path = encoded(&format!("{root}{}", parts.join("/")), true);
        self.signed(&format!("{}/{path}", self.base))
    }

    fn signed(&self, url: &str) -> String {
        match &self.signature {
            Some(signature) => format!("{url}?{}", signature.expose()),
            None => url.to_owned(),
        }
    }

    fn hinted(&self, error: RemoteError) -> RemoteError {
        let RemoteError::Refused(mut refusal) = error else {
            return error;
        };
        refusal.hint = match (refusal.status, refusal.code.as_str()) {
            (401 | 403, _) if self.key.is_some() => {
                "is secret_access_key=... the key of this account?".to_owned()
            }
            (401 | 403, _) => "may the signature in account_url=... do this?".to_owned(),
            _ => String::new(),
        };
        RemoteError::Refused(refusal)
    }

    /// Makes the container when it is not there.
    pub async fn open(&self, net: &Net) -> Result<(), RemoteError> {
        if self.key.is_none() && self.signature.is_none() {
            return Err(RemoteError::Answer(format!(
                "no login for the container {}: give secret_access_key=..., or a signature (SAS) in account_url=...; \
                 logins of Azure's directory are not known here",
                self.container
            )));
        }
        let url = with_query(&self.signed(&self.base), "restype=container");
        let key = self.key.as_ref();
        let asked = net.send(|| call(key, "GET", &url, &[], Bytes::new())).await;
        let made = match asked {
            Ok(_) => return Ok(()),
            Err(error) if error.has_code("ContainerNotFound") => {
                net.send(|| call(key, "PUT", &url, &[], Bytes::new())).await
            }
            // A signature for blobs may not ask about their container.
            Err(error) if self.signature.is_some() && error.has_status(403) => return Ok(()),
            Err(error) => Err(error),
        };
        match made {
            Err(error) if !error.has_code("ContainerAlreadyExists") => Err(self.hinted(error)),
            _ => Ok(()),
        }
    }

    async fn get(&self, net: &Net, url: &str, from: u64) -> Result<WebResponse, RemoteError> {
        let got = azure::get(net, self.key.as_ref(), url, from).await;
        got.map_err(|error| self.hinted(error))
    }

    /// Those of all names.
    pub async fn configs(&self, net: &Net) -> Result<Vec<Bytes>, RemoteError> {
        let mut configs = Vec::new();
        for name in &self.names {
            let url = self.url(&self.manifests_prefix, name);
            match self.get(net, &url, 0).await {
                Ok(response) => configs.push(body(response, MAX_CONFIG_BYTES).await?),
                Err(error) if error.has_status(404) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(configs)
    }

    pub async fn has(&self, net: &Net, blob: &Digest) -> Result<bool, RemoteError> {
        let url = self.url(&self.blobs_prefix, &blob.to_string());
        let make = || call(self.key.as_ref(), "HEAD", &url, &[], Bytes::new());
        match net.send(make).await {
            Ok(_) => Ok(true),
            Err(error) if error.has_status(404) => Ok(false),
            Err(error) => Err(self.hinted(error)),
        }
    }

    pub async fn get_blob(
        &self,
        net: &Net,
        blob: &Digest,
        from: u64,
    ) -> Result<WebResponse, RemoteError> {
        let url = self.url(&self.blobs_prefix, &blob.to_string());
        self.get(net, &url, from).await
    }

    pub async fn put_blob(
        &self,
        net: &Net,
        blob: &Descriptor,
        source: SourceReader,
    ) -> Result<(), RemoteError> {
        let url = self.url(&self.blobs_prefix, &blob.digest.to_string());
        let key = self.key.as_ref();
        match azure::put(net, key, &url, blob.size, source, true).await {
            // Another build wrote the same bytes.
            Err(error) if error.has_code("BlobAlreadyExists") => Ok(()),
            done => done.map_err(|error| self.hinted(error)),
        }
    }

    pub async fn put_config(&self, net: &Net, config: &Bytes) -> Result<(), RemoteError> {
        for name in &self.names {
            let url = self.url(&self.manifests_prefix, name);
            let source: SourceReader = Box::new(std::io::Cursor::new(config.clone()));
            let size = config.len() as u64;
            azure::put(net, self.key.as_ref(), &url, size, source, false)
                .await
                .map_err(|error| self.hinted(error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn parsed(pairs: &[(&str, &str)]) -> Result<AzBlob, String> {
        let attrs = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        let attrs: BTreeMap<String, String> = attrs.collect();
        AzBlob::parse(&Attrs::new(&attrs, &|_| None))
    }

    #[test]
    fn a_blob_is_named_as_the_reference_names_it() {
        let cache = parsed(&[("account_url", "https://acc.blob.example/")]).unwrap();
        assert_eq!(
            cache.url(&cache.manifests_prefix, "buildkit"),
            "https://acc.blob.example/buildkit-cache/manifests/buildkit"
        );
        let url = ("account_url", "https://acc.blob.example?sv=1&sig=s");
        let pairs = [
            url,
            ("prefix", "a/../team/"),
            ("container", "c"),
            ("name", "x;y"),
        ];
        let cache = parsed(&pairs).unwrap();
        assert_eq!(cache.names, ["x", "y"]);
        assert_eq!(
            cache.url("blobs", "sha256:00"),
            "https://acc.blob.example/c/team/blobs/sha256%3A00?sv=1&sig=s"
        );
        assert!(!format!("{cache:?}{}", cache.identity()).contains("sig=s"));
    }

    #[test]
    fn what_is_no_account_is_refused() {
        for (pairs, problem) in [
            (&[][..], "needs account_url"),
            (&[("account_url", "acc")], "account_url="),
            (&[("account_url", "https://a.example?x=1")], "no signature"),
            (
                &[
                    ("account_url", "https://a.example"),
                    ("secret_access_key", "!"),
                ],
                "no base64",
            ),
        ] {
            let said = parsed(pairs).unwrap_err();
            assert!(said.contains(problem), "{said}");
        }
    }
}
