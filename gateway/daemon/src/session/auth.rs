//! Logins at registries, asked of the client.

use gateway_images::registry::{Credential, Credentials, Login, LoginFuture};

use super::Sessions;
use crate::peer::Peer;
use crate::proto::session::{CredentialsRequest, CredentialsResponse};

const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
/// As the reference waits; a client may start a program for an answer.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// The logins of one build's client.
pub struct ClientLogins {
    sessions: Sessions,
    peer: Peer,
    id: String,
}

impl ClientLogins {
    pub fn new(sessions: Sessions, peer: Peer, id: &str) -> Self {
        ClientLogins {
            sessions,
            peer,
            id: id.to_owned(),
        }
    }

    async fn ask(&self, host: &str) -> Option<Login> {
        let handle = self.sessions.find(&self.peer, &self.id).await.ok()?;
        if !handle.has(CREDENTIALS) {
            return None;
        }
        let request = CredentialsRequest {
            host: host.to_owned(),
        };
        let answer = handle
            .channel()
            .unary::<_, CredentialsResponse>(CREDENTIALS, request);
        let answer = tokio::time::timeout(LIMIT, handle.until_closed(answer));
        let answer = answer.await.ok()?.ok()?.ok()?;
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
}

impl Credentials for ClientLogins {
    fn login<'a>(&'a self, host: &'a str) -> LoginFuture<'a> {
        Box::pin(async move { Ok(self.ask(host).await) })
    }
}
