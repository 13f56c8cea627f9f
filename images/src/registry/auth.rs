//! From a challenge to an `Authorization` header: Basic, or a Bearer token from the registry's token service.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use base64::Engine as _;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::Inner;
use super::authority::{TokenAuthority, TokenRequest};
use super::challenge::Challenge;
use super::credentials::{Credential, Login};
use super::error::{AuthError, CredentialsError, HostError};
use super::hosts::{HostClient, redacted};
use super::quirks::Quirk;
use super::transport::{named, read_limited, service_message};

/// Largest token answer that is read; tokens are some kilobytes.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;
/// What the specification says when the answer does not.
const DEFAULT_LIFETIME: u64 = 60;
/// Nobody hands out tokens for longer; also keeps the arithmetic in range.
const LONGEST_LIFETIME: u64 = 24 * 3600;
/// Repeats when the token service is busy or broken for a moment.
const MAX_REPEATS: u32 = 2;
/// Token services want a client's name in the OAuth2 form.
const CLIENT_ID: &str = "buildkit-client";

/// The login to use, or why there is none.
struct Who {
    login: Option<Login>,
    problem: Option<String>,
}

/// The repository that a request is about: the one that is pushed to, where another is read beside it.
fn repository_of(scopes: &BTreeSet<String>) -> Option<&str> {
    let mut found = None;
    for scope in scopes {
        let Some((name, actions)) = scope
            .strip_prefix("repository:")
            .and_then(|scope| scope.rsplit_once(':'))
        else {
            continue;
        };
        if actions.contains("push") {
            return Some(name);
        }
        found = found.or(Some(name));
    }
    found
}

/// Tokens of one host after which the outdated ones are thrown away.
const MAX_TOKENS: usize = 256;

/// Who may use a token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum TokenOwner {
    Login(Option<Credential>),
    Authority(TokenAuthority),
}

/// With the scopes.
pub(crate) type TokenKey = (TokenOwner, String);

/// A token and when to ask for another.
#[derive(Clone)]
pub(crate) struct Token {
    header: HeaderValue,
    renew_at: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    /// A number, by some services as a string.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Inner {
    /// The header for a request with these scopes; none when the host never asked for any.
    pub(super) async fn authorization(
        &self,
        client: &HostClient,
        scopes: &BTreeSet<String>,
    ) -> Result<Option<HeaderValue>, HostError> {
        let challenge = client
            .challenge
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clone();
        let Some(challenge) = challenge else {
            return Ok(None);
        };
        if challenge.scheme != "basic"
            && let Some(header) = self.given_token(client, &challenge, scopes).await?
        {
            return Ok(Some(header));
        }
        let who = self.who(client, scopes).await;
        let login = &who.login;
        if let Some(Login {
            credential: Credential::RegistryToken(token),
            ..
        }) = login
        {
            return secret_header(format!("Bearer {token}")).map(Some);
        }
        if challenge.scheme == "basic" {
            return match login {
                Some(Login {
                    credential: Credential::Basic { username, password },
                    ..
                }) => secret_header(basic(username, password)).map(Some),
                _ => Err(refused(
                    &who,
                    Some(401),
                    &client.host,
                    Some("no basic auth credentials".into()),
                )),
            };
        }
        let owner = TokenOwner::Login(login.as_ref().map(|l| l.credential.clone()));
        let key = (owner, joined(scopes));
        // Held while asking, so that many blobs cost one token.
        let mut tokens = client.tokens.lock().await;
        if let Some(token) = tokens.get(&key)
            && token.renew_at > Instant::now()
        {
            return Ok(Some(token.header.clone()));
        }
        let token = self.fetch_token(client, &challenge, scopes, &who).await?;
        let header = token.header.clone();
        keep(&mut tokens, key, token);
        Ok(Some(header))
    }

    /// A token of whoever keeps the login to itself; none when nobody does.
    async fn given_token(
        &self,
        client: &HostClient,
        challenge: &Challenge,
        scopes: &BTreeSet<String>,
    ) -> Result<Option<HeaderValue>, HostError> {
        let credentials = &self.config.credentials;
        let failed = |problem: CredentialsError| {
            HostError::Auth(AuthError {
                action: "pull",
                credentials: "kept by the client".to_owned(),
                status: None,
                by: client.host.clone(),
                message: Some(problem.to_string()),
                transport: None,
            })
        };
        let authority = credentials.authority(&client.host).await;
        let Some(authority) = authority.map_err(failed)? else {
            return Ok(None);
        };
        let base = Url::parse(&client.base()).ok();
        let realm = challenge
            .get("realm")
            .and_then(|realm| base?.join(realm).ok());
        // What is not asked of the client is asked, and refused, here.
        let Some(realm) = realm.filter(|realm| {
            realm.scheme() == "https" || (realm.scheme() == "http" && client.is_plain())
        }) else {
            return Ok(None);
        };
        let key = (TokenOwner::Authority(authority), joined(scopes));
        let turn = turn(client, &key);
        let _held = turn.lock().await;
        if let Some(token) = client.tokens.lock().await.get(&key)
            && token.renew_at > Instant::now()
        {
            return Ok(Some(token.header.clone()));
        }
        let request = TokenRequest {
            host: &client.host,
            realm: realm.as_str(),
            service: challenge.get("service").unwrap_or_default(),
            scopes,
        };
        let given = credentials.token(request).await.map_err(failed)?;
        let lifetime = match given.lifetime.as_secs() {
            0 => DEFAULT_LIFETIME,
            seconds => seconds.min(LONGEST_LIFETIME),
        };
        let token = Token {
            header: secret_header(format!("Bearer {}", given.token))?,
            renew_at: renewed_after(lifetime),
        };
        let header = token.header.clone();
        keep(&mut *client.tokens.lock().await, key, token);
        Ok(Some(header))
    }

    /// A token that was refused is not used again. One that came meanwhile is kept.
    pub(super) async fn forget_token(&self, client: &HostClient, refused: &HeaderValue) {
        client
            .tokens
            .lock()
            .await
            .retain(|_, token| token.header != *refused);
    }

    /// A helper that fails is told when access is refused; public images do not need it.
    async fn who(&self, client: &HostClient, scopes: &BTreeSet<String>) -> Who {
        let credentials = &self.config.credentials;
        let repository = repository_of(scopes);
        match credentials.login_for(&client.host, repository).await {
            Ok(login) => Who {
                login,
                problem: None,
            },
            Err(error) => Who {
                login: None,
                problem: Some(error.to_string()),
            },
        }
    }

    /// A login that may be sent as Basic is there.
    pub(super) async fn has_password(
        &self,
        client: &HostClient,
        scopes: &BTreeSet<String>,
    ) -> bool {
        let login = self.who(client, scopes).await.login;
        login.is_some_and(|login| matches!(login.credential, Credential::Basic { .. }))
    }

    /// Who the caller is, for an error text.
    pub(super) async fn credentials_shown(
        &self,
        client: &HostClient,
        scopes: &BTreeSet<String>,
    ) -> String {
        shown(&self.who(client, scopes).await)
    }

    async fn fetch_token(
        &self,
        client: &HostClient,
        challenge: &Challenge,
        scopes: &BTreeSet<String>,
        who: &Who,
    ) -> Result<Token, HostError> {
        let login = &who.login;
        let Some(realm) = challenge.get("realm") else {
            let words = "the registry demands a token but does not say where to get it";
            return Err(refused(who, Some(401), &client.host, Some(words.into())));
        };
        // A relative realm is meant from the registry's root.
        let realm = Url::parse(&client.base())
            .and_then(|base| base.join(realm))
            .map_err(|_| {
                refused(
                    who,
                    None,
                    &client.host,
                    Some(format!("the token service's URL {realm:?} can't be read")),
                )
            })?;
        if !matches!(realm.scheme(), "http" | "https") {
            return Err(refused(
                who,
                None,
                &client.host,
                Some("the token service is not on http or https".into()),
            ));
        }
        // A login is not sent in the clear to a service of a registry that itself uses TLS.
        if realm.scheme() == "http" && !client.is_plain() && login.is_some() {
            let words = format!(
                "the token service {} is plain HTTP; the login was not sent",
                redacted(&realm)
            );
            return Err(refused(who, None, &client.host, Some(words)));
        }
        let service = self.hosts.client_for_url(&self.config, &realm, client)?;
        let post_first = matches!(
            login,
            Some(Login {
                credential: Credential::IdentityToken(_),
                ..
            })
        );
        let order: &[bool] = match (login, post_first) {
            (None, _) => &[false],
            (_, true) => &[true, false],
            (_, false) => &[false, true],
        };
        let mut last = None;
        let mut other_verb = None;
        let mut repeats = 0;
        let mut verbs = order.iter();
        let mut next = verbs.next();
        while let Some(post) = next {
            let request = match post {
                true => post_request(&service, &realm, challenge, scopes, login),
                false => get_request(&service, &realm, challenge, scopes, login),
            };
            let verb = if *post { "Post" } else { "Get" };
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) => {
                    let transport = named(&error, &realm, &service).await;
                    // A service that closes the connection is asked again; one with the wrong certificate is not.
                    if transport.kind.is_passing() && repeats < MAX_REPEATS {
                        self.pause(repeats).await;
                        repeats += 1;
                        continue;
                    }
                    let request = format!("{verb} {}", redacted(&realm));
                    let mut error = auth_error(who, None, &client.host, None);
                    error.transport = Some(Box::new((request, transport)));
                    return Err(HostError::Auth(error));
                }
            };
            let status = response.status().as_u16();
            let by = format!("token service {}", service.host);
            let body = read_limited(response, MAX_TOKEN_ANSWER)
                .await
                .map_err(|e| refused(who, Some(status), &by, Some(e.to_string())))?;
            if status == 200 {
                if let Some((verb, status)) = other_verb {
                    self.quirk(client, Quirk::TokenVerb(verb, status));
                }
                return token_of(&body).ok_or_else(|| {
                    let words = "authorization server did not include a token in the response";
                    refused(who, Some(status), &by, Some(words.into()))
                });
            }
            last = Some(refused(who, Some(status), &by, service_message(&body)));
            next = match status {
                400 | 401 | 403 | 404 | 405 | 501 => {
                    other_verb = Some((if *post { "POST" } else { "GET" }, status));
                    verbs.next()
                }
                429 | 500 | 502..=504 if repeats < MAX_REPEATS => {
                    self.pause(repeats).await;
                    repeats += 1;
                    Some(post)
                }
                _ => None,
            };
        }
        Err(last.unwrap_or_else(|| refused(who, None, &client.host, None)))
    }
}

fn get_request(
    service: &HostClient,
    realm: &Url,
    challenge: &Challenge,
    scopes: &BTreeSet<String>,
    login: &Option<Login>,
) -> reqwest::RequestBuilder {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(name) = challenge.get("service") {
            query.append_pair("service", name);
        }
        for scope in scopes {
            query.append_pair("scope", scope);
        }
    }
    let request = service.http.get(url);
    match login {
        Some(Login {
            credential: Credential::Basic { username, password },
            ..
        }) => request.basic_auth(username, Some(password)),
        Some(Login {
            credential: Credential::IdentityToken(token),
            ..
        }) => request.basic_auth("<token>", Some(token)),
        _ => request,
    }
}

fn post_request(
    service: &HostClient,
    realm: &Url,
    challenge: &Challenge,
    scopes: &BTreeSet<String>,
    login: &Option<Login>,
) -> reqwest::RequestBuilder {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("client_id", CLIENT_ID);
    if let Some(name) = challenge.get("service") {
        form.append_pair("service", name);
    }
    if !scopes.is_empty() {
        form.append_pair("scope", &joined(scopes));
    }
    match login.as_ref().map(|l| &l.credential) {
        Some(Credential::Basic { username, password }) => {
            form.append_pair("grant_type", "password");
            form.append_pair("username", username);
            form.append_pair("password", password);
        }
        Some(Credential::IdentityToken(token)) => {
            form.append_pair("grant_type", "refresh_token");
            form.append_pair("refresh_token", token);
        }
        _ => {}
    }
    service
        .http
        .post(realm.clone())
        .header(
            reqwest::header::CONTENT_TYPE,
            "application/x-www-form-urlencoded; charset=utf-8",
        )
        .body(form.finish())
}

pub(super) fn token_of(body: &[u8]) -> Option<Token> {
    let answer: TokenAnswer = serde_json::from_slice(body).ok()?;
    let token = [answer.access_token, answer.token]
        .into_iter()
        .flatten()
        .find(|t| !t.is_empty())?;
    let lifetime = match &answer.expires_in {
        serde_json::Value::Number(number) => number.as_u64(),
        serde_json::Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let lifetime = lifetime
        .filter(|s| *s > 0)
        .unwrap_or(DEFAULT_LIFETIME)
        .min(LONGEST_LIFETIME);
    Some(Token {
        header: secret_header(format!("Bearer {token}")).ok()?,
        renew_at: renewed_after(lifetime),
    })
}

/// A quarter is kept back for the way and for clocks that differ.
fn renewed_after(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds) * 3 / 4
}

fn keep(tokens: &mut HashMap<TokenKey, Token>, key: TokenKey, token: Token) {
    if tokens.len() >= MAX_TOKENS {
        let now = Instant::now();
        tokens.retain(|_, token| token.renew_at > now);
    }
    tokens.insert(key, token);
}

/// Whoever wants the same token of the same authority waits for one fetch; nobody else does.
fn turn(client: &HostClient, key: &TokenKey) -> Arc<tokio::sync::Mutex<()>> {
    let mut turns = client.turns.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(turn) = turns.get(key).and_then(Weak::upgrade) {
        return turn;
    }
    turns.retain(|_, turn| turn.strong_count() > 0);
    let turn = Arc::default();
    turns.insert(key.clone(), Arc::downgrade(&turn));
    turn
}

fn joined(scopes: &BTreeSet<String>) -> String {
    scopes
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

fn basic(username: &str, password: &str) -> String {
    let pair = format!("{username}:{password}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(pair)
    )
}

fn secret_header(text: String) -> Result<HeaderValue, HostError> {
    let mut header = HeaderValue::from_str(&text).map_err(|_| {
        HostError::Config("the login holds characters that a header can't carry".into())
    })?;
    header.set_sensitive(true);
    Ok(header)
}

fn shown(who: &Who) -> String {
    match &who.login {
        None => who.problem.clone().unwrap_or_else(|| "none".into()),
        Some(login) => match &login.credential {
            Credential::Basic { username, .. } => {
                format!("user {username:?} from {}", login.source)
            }
            Credential::IdentityToken(_) => format!("identity token from {}", login.source),
            Credential::RegistryToken(_) => format!("registry token from {}", login.source),
        },
    }
}

fn auth_error(who: &Who, status: Option<u16>, by: &str, message: Option<String>) -> AuthError {
    AuthError {
        action: "pull",
        credentials: shown(who),
        status,
        by: by.to_owned(),
        message,
        transport: None,
    }
}

fn refused(who: &Who, status: Option<u16>, by: &str, message: Option<String>) -> HostError {
    HostError::Auth(auth_error(who, status, by, message))
}
