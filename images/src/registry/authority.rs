//! Tokens from someone who keeps a login and does not give it away: a build's client, over its session.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::error::CredentialsError;

/// Whose tokens are the same. Made of what the holder has proven, never of what it only says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenAuthority(pub Vec<u8>);

/// What a registry wants a token for.
#[derive(Clone, Copy, Debug)]
pub struct TokenRequest<'a> {
    /// API host of the registry.
    pub host: &'a str,
    /// URL of the token service.
    pub realm: &'a str,
    /// May be empty.
    pub service: &'a str,
    pub scopes: &'a BTreeSet<String>,
}

/// A token as it was given. Its `Debug` form hides it.
#[derive(Clone)]
pub struct GivenToken {
    pub token: String,
    /// Zero: the holder did not say.
    pub lifetime: Duration,
}

impl fmt::Debug for GivenToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GivenToken(…, {:?})", self.lifetime)
    }
}

pub type AuthorityFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Option<TokenAuthority>, CredentialsError>> + Send + 'a>>;
pub type TokenFuture<'a> =
    Pin<Box<dyn Future<Output = Result<GivenToken, CredentialsError>> + Send + 'a>>;
