//! `POST /images/NAME/push`: an image of the store to the registry of its name, as `docker push` asks, and `docker
//! buildx build --push` before version 0.22 after every build.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use gateway_images::reference::Reference;
use gateway_images::registry::{Credential, FixedCredentials};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::build::failure;
use super::query::Query;
use super::{Answer, messages, problem};
use crate::state::Daemon;

/// Clients write the login with and without padding.
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Messages that wait for the client.
const WAITING: usize = 4;

/// What clients put into `X-Registry-Auth`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// Pushes with the client's login, never with one of the daemon's own: whoever may build may ask for this.
pub fn push(daemon: Daemon, name: &str, request: &Request<Incoming>) -> Answer {
    let query = Query::of(request.uri());
    let asked = target(name, query.get("tag"));
    let header = request.headers().get("x-registry-auth");
    let login = login(header.map(http::HeaderValue::as_bytes));
    let (reference, login) = match (asked, login) {
        (Ok(reference), Ok(login)) => (reference, login),
        (Err(message), _) | (_, Err(message)) => {
            return problem(StatusCode::BAD_REQUEST, &message);
        }
    };
    let logins = login.map(|login| (reference.api_host().to_owned(), login));
    let (send, sent) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let solver = &daemon.0.options.solver;
        let registries = solver
            .registries()
            .with_credentials(Arc::new(FixedCredentials(BTreeMap::from_iter(logins))));
        let name = reference.to_string();
        let pushed = tokio::select! {
            pushed = solver.push_image(&registries, &name, None) => pushed,
            () = send.closed() => return,
        };
        let said = match pushed {
            Ok((pushed, notices)) => {
                let mut said: Vec<_> = notices
                    .iter()
                    .map(|notice| serde_json::json!({"status": notice}))
                    .collect();
                said.push(serde_json::json!({"status": format!("pushed {pushed}")}));
                said
            }
            Err(error) => vec![failure(&error.message)],
        };
        for message in said {
            if send.send(message).await.is_err() {
                return;
            }
        }
    });
    messages(sent)
}

fn target(name: &str, tag: &str) -> Result<Reference, String> {
    if tag.is_empty() {
        return Err("which tag is to be pushed must be said: all at once is not done here".into());
    }
    let separator = if tag.starts_with("sha256:") { '@' } else { ':' };
    Reference::parse(&format!("{name}{separator}{tag}"))
        .map_err(|error| format!("{name}{separator}{tag}: {error}"))
}

/// `None` when the client has no login for the registry. Nothing of the header is ever repeated.
fn login(header: Option<&[u8]>) -> Result<Option<Credential>, String> {
    let Some(header) = header.filter(|header| !header.is_empty()) else {
        return Ok(None);
    };
    let unreadable = || "the header X-Registry-Auth cannot be read".to_owned();
    let json = URL_SAFE.decode(header).map_err(|_| unreadable())?;
    let auth: Option<Auth> = serde_json::from_slice(&json).map_err(|_| unreadable())?;
    let auth = auth.unwrap_or_default();
    Ok(if !auth.identitytoken.is_empty() {
        Some(Credential::IdentityToken(auth.identitytoken))
    } else if !auth.registrytoken.is_empty() {
        Some(Credential::RegistryToken(auth.registrytoken))
    } else if !auth.username.is_empty() {
        Some(Credential::Basic {
            username: auth.username,
            password: auth.password,
        })
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p57_a_push_names_an_image_and_a_tag() {
        let reference = target("h.example:5000/a", "1").unwrap();
        assert_eq!(reference.to_string(), "h.example:5000/a:1");
        for (name, tag) in [("app", ""), ("app", "a b"), ("..", "1"), ("%41", "1")] {
            assert!(target(name, tag).is_err(), "{name} {tag}");
        }
    }

    #[test]
    fn p57_logins_are_read_in_all_forms_and_never_repeated() {
        let of = |json: &str| login(Some(URL_SAFE.encode(json).as_bytes()));
        let basic = Credential::Basic {
            username: "u".into(),
            password: "p".into(),
        };
        let json = r#"{"username":"u","password":"p","serveraddress":"h"}"#;
        assert_eq!(of(json), Ok(Some(basic)));
        let token = Credential::IdentityToken("t".into());
        assert_eq!(of(r#"{"identitytoken":"t"}"#), Ok(Some(token)));
        for none in ["{}", "null", r#"{"username":""}"#] {
            assert_eq!(of(none), Ok(None), "{none}");
        }
        assert_eq!(login(None), Ok(None));
        for bad in ["{", r#"{"password":5}"#] {
            assert!(!of(bad).unwrap_err().contains(bad));
        }
        assert!(login(Some(b"*secret*")).is_err());
    }
}
