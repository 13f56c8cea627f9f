//! Layers that a registry may not hold: fetched from the addresses that their descriptor names, without any login.

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Response, Url};

use super::Inner;
use super::error::HostError;
use super::hosts::{HostClient, is_loopback};
use super::transport::named;
use crate::media::{Descriptor, is_nondistributable};
use crate::reference::Reference;

/// Addresses of one layer that are tried.
const MAX_URLS: usize = 8;
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// The addresses of a layer that may be asked. An image must not make this machine ask its own services, so loopback
/// and link-local addresses are left out unless the registry itself is one.
pub(super) fn addresses(reference: &Reference, descriptor: &Descriptor) -> Vec<Url> {
    if !is_nondistributable(&descriptor.media_type) {
        return Vec::new();
    }
    let local = is_loopback(reference.api_host());
    let urls = descriptor.urls.iter().take(MAX_URLS);
    urls.filter_map(|url| Url::parse(url).ok())
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .filter(|url| local || is_public(url))
        .collect()
}

fn is_public(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name != "localhost" && !name.ends_with(".localhost")
        }
        Some(url::Host::Ipv4(a)) => !(a.is_loopback() || a.is_link_local() || a.is_unspecified()),
        Some(url::Host::Ipv6(a)) => {
            let mapped = a.to_ipv4_mapped();
            let local = mapped.is_some_and(|a| a.is_loopback() || a.is_link_local());
            !(a.is_loopback() || a.is_unspecified() || a.is_unicast_link_local() || local)
        }
        None => false,
    }
}

impl Inner {
    /// Asks for the bytes from `from` on. Gives the host's client besides, for what is to be remembered of it.
    pub(super) async fn open_foreign(
        &self,
        reference: &Reference,
        url: &Url,
        from: u64,
    ) -> Result<(std::sync::Arc<HostClient>, Response), HostError> {
        let local = is_loopback(reference.api_host());
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let client = self.hosts.web_client(&self.config, &url)?;
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if from > 0
                && let Ok(value) = HeaderValue::from_str(&format!("bytes={from}-"))
            {
                headers.insert(RANGE, value);
            }
            let sent = client
                .http
                .request(Method::GET, url.clone())
                .headers(headers);
            let response = match sent.send().await {
                Ok(response) => response,
                Err(error) => {
                    return Err(HostError::Transport(named(&error, &url, &client).await));
                }
            };
            let status = response.status();
            if status.is_success() {
                return Ok((client, response));
            }
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Err(HostError::Status(super::error::StatusError {
                    status: status.as_u16(),
                    code: None,
                    message: None,
                    head_status: None,
                    redirected_to: None,
                }));
            }
            let next = response
                .headers()
                .get(LOCATION)
                .and_then(|v| v.to_str().ok())
                .and_then(|location| url.join(location).ok())
                .filter(|next| matches!(next.scheme(), "http" | "https"))
                .filter(|next| local || is_public(next))
                .filter(|next| url.scheme() == "http" || next.scheme() == "https");
            url = next.ok_or_else(|| {
                HostError::Redirect("redirected to where a layer may not come from".into())
            })?;
        }
        Err(HostError::Redirect(format!(
            "more than {MAX_REDIRECTS} redirects"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn check_49_addresses_of_this_machine_are_not_asked_for_foreign_layers() {
        let mut layer = Descriptor::new(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            Digest::of(b""),
            1,
        );
        layer.urls = [
            "https://good.example/x",
            "file:///etc/passwd",
            "http://127.0.0.1/x",
            "http://localhost:8080/x",
            "http://a.localhost/x",
            "http://[::1]/x",
            "http://[::ffff:127.0.0.1]/x",
            "http://169.254.169.254/latest",
        ]
        .map(str::to_owned)
        .to_vec();
        let public = Reference::parse("r.example/x").unwrap();
        let asked = addresses(&public, &layer);
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].host_str(), Some("good.example"));
        let local = Reference::parse("localhost:5000/x").unwrap();
        assert_eq!(addresses(&local, &layer).len(), 7);
        // Only layers that may not be distributed have such addresses.
        layer.media_type = crate::media::OCI_LAYER_GZIP.into();
        assert!(addresses(&public, &layer).is_empty());
    }
}
