//! How large a blob is of which only the digest is known.

use reqwest::Method;
use reqwest::header::CONTENT_LENGTH;

use super::error::{HostError, RegistryError};
use super::hosts::{Endpoint, Purpose};
use super::transport::{Answer, Request};
use super::{Inner, Registries};
use crate::digest::Digest;
use crate::media::Descriptor;
use crate::reference::Reference;

const NO_LENGTH: &str = "the registry does not say how large it is (no Content-Length)";

impl Registries {
    /// The descriptor of a blob in the reference's repository: its size as the first host says that has it, and no
    /// media type, which blobs do not have by themselves.
    ///
    /// # Errors
    /// With every host's reason when none has the blob.
    pub async fn measure(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Result<Descriptor, RegistryError> {
        self.0.online(reference)?;
        let (endpoints, mut attempts) = self.0.usable(reference, Purpose::Fetch);
        for endpoint in endpoints {
            let Ok(url) = endpoint.url(reference, &format!("blobs/{digest}")) else {
                continue;
            };
            let scope = format!("repository:{}:pull", endpoint.repository(reference));
            match self
                .0
                .length(&endpoint, Request::get(url.clone(), scope))
                .await
            {
                Ok(size) => {
                    self.0.tell(reference, &endpoint, &attempts);
                    return Ok(Descriptor::new("", digest.clone(), size));
                }
                Err(error) => {
                    self.0.note_failure(&endpoint, &error);
                    attempts.push(endpoint.attempt("Get", &url, error));
                }
            }
        }
        Err(RegistryError::AllHostsFailed {
            reference: reference.to_string(),
            attempts,
        })
    }
}

impl Inner {
    /// By HEAD; registries that refuse that for blobs, or tell no length or none but 0, by a GET whose body is not read.
    async fn length(
        &self,
        endpoint: &Endpoint,
        mut request: Request<'_>,
    ) -> Result<u64, HostError> {
        request.method = Method::HEAD;
        if let Ok(answer) = self.send(endpoint, &request).await
            && let Some(length) = length(&answer).filter(|length| *length > 0)
        {
            return Ok(length);
        }
        request.method = Method::GET;
        let answer = self.send(endpoint, &request).await?;
        length(&answer).ok_or_else(|| HostError::Body(NO_LENGTH.to_owned()))
    }
}

/// The body of a HEAD's answer has no length of its own: the header tells.
fn length(answer: &Answer) -> Option<u64> {
    let header = answer.response.headers().get(CONTENT_LENGTH)?;
    header.to_str().ok()?.trim().parse().ok()
}
