//! Logins at registries, asked of the client: tokens that it fetches itself, so that its passwords stay
//! with it, and passwords where a registry or a client knows nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{Signature, VerifyingKey};
use gateway_images::registry::error::CredentialsError;
use gateway_images::registry::{
    AuthorityFuture, Credential, Credentials, GivenToken, Login, LoginFuture, TokenAuthority,
    TokenFuture, TokenRequest,
};
use tokio::sync::Mutex;

use super::gone::GONE;
use super::{Handle, Sessions};
use crate::peer::Peer;
use crate::proto::session::*;

const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const FETCH_TOKEN: &str = "/moby.filesync.v1.Auth/FetchToken";
const GET_AUTHORITY: &str = "/moby.filesync.v1.Auth/GetTokenAuthority";
const VERIFY_AUTHORITY: &str = "/moby.filesync.v1.Auth/VerifyTokenAuthority";

/// As the reference waits; a client may start a program for an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// What token services know builders as.
const CLIENT_ID: &str = "buildkit-client";

/// Of an Ed25519 public key.
const KEY_BYTES: usize = 32;
/// Of a signature, which stands before what it signs.
const SIGNATURE_BYTES: usize = 64;

/// The logins of one build's client. What it said of a host holds for the whole build.
pub struct ClientLogins {
    sessions: Sessions,
    peer: Peer,
    id: String,
    logins: Mutex<HashMap<String, Option<Login>>>,
    authorities: Mutex<HashMap<String, Option<TokenAuthority>>>,
}

impl ClientLogins {
    pub fn new(sessions: Sessions, peer: Peer, id: &str) -> Self {
        ClientLogins {
            sessions,
            peer,
            id: id.to_owned(),
            logins: Mutex::default(),
            authorities: Mutex::default(),
        }
    }

    async fn handle(&self) -> Option<Arc<Handle>> {
        self.sessions.find(&self.peer, &self.id).await.ok()
    }

    async fn ask<Q, A>(
        &self,
        handle: &Handle,
        path: &'static str,
        request: Q,
    ) -> Result<A, tonic::Status>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let answer = handle.until_closed(handle.channel().unary::<Q, A>(path, request));
        match tokio::time::timeout(LIMIT, answer).await {
            Ok(answer) => answer.and_then(std::convert::identity),
            Err(_) => Err(tonic::Status::deadline_exceeded(format!(
                "the client did not answer within {} seconds",
                LIMIT.as_secs()
            ))),
        }
    }

    async fn credentials(&self, host: &str) -> Option<Login> {
        let handle = self.handle().await?;
        if !handle.has(CREDENTIALS) {
            return None;
        }
        let request = CredentialsRequest {
            host: host.to_owned(),
        };
        let answer = self.ask::<_, CredentialsResponse>(&handle, CREDENTIALS, request);
        let answer = answer.await.ok()?;
        let credential = match (answer.username, answer.secret) {
            (_, secret) if secret.is_empty() => return None,
            (username, secret) if username.is_empty() => Credential::IdentityToken(secret),
            (username, password) => Credential::Basic { username, password },
        };
        Some(Login {
            credential,
            source: "the client's session".to_owned(),
        })
    }

    /// The key that the client's tokens are kept under. One that it cannot prove to have is good for this
    /// build's tokens only.
    async fn find_authority(&self, host: &str) -> Result<Option<TokenAuthority>, CredentialsError> {
        let Some(handle) = self.handle().await else {
            return Ok(None);
        };
        if !handle.has(GET_AUTHORITY) || !handle.has(FETCH_TOKEN) {
            return Ok(None);
        }
        let salt = self.sessions.salt().to_vec();
        let request = GetTokenAuthorityRequest {
            host: host.to_owned(),
            salt: salt.clone(),
        };
        let answer = self.ask::<_, GetTokenAuthorityResponse>(&handle, GET_AUTHORITY, request);
        let key = match answer.await {
            Ok(answer) => answer.public_key,
            Err(status) if is_refusal(&status) => return Ok(None),
            Err(status) => return Err(failed("GetTokenAuthority", &status)),
        };
        let Ok(public) = <[u8; KEY_BYTES]>::try_from(key.as_slice()) else {
            return Err(CredentialsError::Client(format!(
                "the client's key for tokens has {} bytes, not {KEY_BYTES}",
                key.len()
            )));
        };
        if handle.has(VERIFY_AUTHORITY) {
            let payload = random();
            let request = VerifyTokenAuthorityRequest {
                host: host.to_owned(),
                payload: payload.to_vec(),
                salt,
            };
            let answer =
                self.ask::<_, VerifyTokenAuthorityResponse>(&handle, VERIFY_AUTHORITY, request);
            if let Ok(answer) = answer.await
                && is_signed(&answer.signed, &payload, &public)
            {
                return Ok(Some(TokenAuthority([b"key ", &public[..]].concat())));
            }
        }
        let own = format!("session {} {}", self.peer.key(), self.id);
        Ok(Some(TokenAuthority(own.into_bytes())))
    }
}

/// The client does not do that, in words of its own.
fn is_refusal(status: &tonic::Status) -> bool {
    matches!(
        status.code(),
        tonic::Code::Unavailable | tonic::Code::Unimplemented
    )
}

fn failed(what: &str, status: &tonic::Status) -> CredentialsError {
    CredentialsError::Client(format!("the client's {what}: {}", status.message()))
}

/// Whether this is the signature of `payload` by `key`, and the payload.
pub(super) fn is_signed(signed: &[u8], payload: &[u8], key: &[u8; KEY_BYTES]) -> bool {
    let Some((signature, said)) = signed.split_at_checked(SIGNATURE_BYTES) else {
        return false;
    };
    let (Ok(key), Ok(signature)) = (
        VerifyingKey::from_bytes(key),
        Signature::from_slice(signature),
    ) else {
        return false;
    };
    said == payload && key.verify_strict(payload, &signature).is_ok()
}

/// Bytes that nobody can know before.
pub fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut at = 0;
    while let Some(rest @ [_, ..]) = bytes.get_mut(at..) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => at += count,
            Err(rustix::io::Errno::INTR) => {}
            // Kernels without it are older than all that steps run on.
            Err(_) => break,
        }
    }
    bytes
}

impl Credentials for ClientLogins {
    fn login<'a>(&'a self, host: &'a str) -> LoginFuture<'a> {
        Box::pin(async move {
            let mut logins = self.logins.lock().await;
            if let Some(login) = logins.get(host) {
                return Ok(login.clone());
            }
            let login = self.credentials(host).await;
            logins.insert(host.to_owned(), login.clone());
            Ok(login)
        })
    }

    fn authority<'a>(&'a self, host: &'a str) -> AuthorityFuture<'a> {
        Box::pin(async move {
            let mut authorities = self.authorities.lock().await;
            if let Some(authority) = authorities.get(host) {
                return Ok(authority.clone());
            }
            let authority = self.find_authority(host).await?;
            authorities.insert(host.to_owned(), authority.clone());
            Ok(authority)
        })
    }

    fn token<'a>(&'a self, request: TokenRequest<'a>) -> TokenFuture<'a> {
        Box::pin(async move {
            let gone = || CredentialsError::Client(GONE.to_owned());
            let handle = self.handle().await.ok_or_else(gone)?;
            let request = FetchTokenRequest {
                client_id: CLIENT_ID.to_owned(),
                host: request.host.to_owned(),
                realm: request.realm.to_owned(),
                service: request.service.to_owned(),
                scopes: request.scopes.iter().cloned().collect(),
            };
            let answer = self.ask::<_, FetchTokenResponse>(&handle, FETCH_TOKEN, request);
            let answer = answer
                .await
                .map_err(|status| failed("FetchToken", &status))?;
            if answer.token.is_empty() {
                return Err(CredentialsError::Client(
                    "the client fetched an empty token".to_owned(),
                ));
            }
            Ok(GivenToken {
                token: answer.token,
                lifetime: Duration::from_secs(u64::try_from(answer.expires_in).unwrap_or(0)),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    #[test]
    fn p28_only_the_holder_of_a_key_can_prove_to_have_it() {
        let (ours, other) = (
            SigningKey::from_bytes(&[1; 32]),
            SigningKey::from_bytes(&[2; 32]),
        );
        let payload = random();
        let signed =
            |key: &SigningKey, bytes: &[u8]| [&key.sign(bytes).to_bytes()[..], bytes].concat();
        let key = ours.verifying_key().to_bytes();
        assert!(is_signed(&signed(&ours, &payload), &payload, &key));
        assert!(!is_signed(&signed(&other, &payload), &payload, &key));
        assert!(!is_signed(&signed(&ours, b"another"), &payload, &key));
        assert!(!is_signed(&payload, &payload, &key));
        assert!(!is_signed(&[], &payload, &key));
        assert_ne!(random(), payload);
    }
}
