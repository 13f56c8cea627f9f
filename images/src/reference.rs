//! Image references: `[domain/]path[:tag][@digest]`, with the familiar short names of Docker Hub.
//!
//! Written by hand because the published parsers accept what BuildKit refuses (a bare 64-hex name, upper-case
//! repositories on Docker Hub) and refuse what it accepts (IPv6 hosts). The error texts are the ones people search for.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The namespace that a name without a domain belongs to.
pub const HUB: &str = "docker.io";
/// Where the namespace `docker.io` is served.
const HUB_API: &str = "registry-1.docker.io";
/// Longest repository path, without the domain, that other clients take.
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;
/// Nothing legal is longer: a DNS name, a path, a tag and a digest.
const MAX_REFERENCE: usize = 1024;

/// A normalised reference. Without tag and digest the tag is `latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: remove the scheme, a reference has none")]
    Scheme,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    UpperCase(String),
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    BareDigest(String),
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    #[error("invalid tag format")]
    Tag,
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Parses the familiar form: `alpine` is `docker.io/library/alpine:latest`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.starts_with("https://") || text.starts_with("http://") {
            return Err(ReferenceError::Scheme);
        }
        if text.is_empty() || text.len() > MAX_REFERENCE {
            return Err(ReferenceError::Format);
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::BareDigest(text.into()));
        }
        let (domain, rest) = split_domain(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        // The domain is already off, so the first colon starts the tag.
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let path = if domain == HUB && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::UpperCase(path));
        }
        if !is_domain(&domain) || !is_path(&path) {
            return Err(ReferenceError::Format);
        }
        if path.len() > MAX_PATH {
            return Err(ReferenceError::TooLong);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Format);
        }
        if digest.is_some_and(|digest| !has_digest_form(digest)) {
            return Err(ReferenceError::Format);
        }
        let digest = digest.map(str::parse).transpose()?;
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        let reference = Reference {
            domain,
            path,
            tag,
            digest,
        };
        // With its defaults it must not be longer either: it is shown so, and read again.
        if reference.to_string().len() > MAX_REFERENCE {
            return Err(ReferenceError::Format);
        }
        Ok(reference)
    }

    /// The namespace, `host[:port]`; `docker.io` for Docker Hub.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository without the domain.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// When there is one, it and not the tag says what is fetched.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// What follows `/manifests/` in the request for this image: the digest, else the tag.
    pub fn object(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }

    /// Where the registry API of the domain is: `host[:port]`.
    pub fn api_host(&self) -> &str {
        api_host(&self.domain)
    }

    /// The short form that users write: `alpine:latest`.
    pub fn familiar(&self) -> String {
        let canonical = self.to_string();
        let Some(rest) = canonical.strip_prefix("docker.io/") else {
            return canonical;
        };
        let short = match rest.strip_prefix("library/") {
            Some(short) => short,
            None => rest,
        };
        // A short form that would mean something else (a 64-hex name, a path that looks like a host) is not used.
        for form in [short, rest] {
            if Reference::parse(form).as_ref() == Ok(self) {
                return form.to_owned();
            }
        }
        canonical
    }

    /// The same repository with this digest; the tag is kept for display.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Reference {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same repository by tag alone.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Tag);
        }
        Ok(Reference {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

/// The canonical form, with the domain.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Where the registry API of a domain is served.
pub fn api_host(domain: &str) -> &str {
    if domain == HUB { HUB_API } else { domain }
}

fn split_domain(text: &str) -> (String, &str) {
    let Some((left, rest)) = text.split_once('/') else {
        return (HUB.into(), text);
    };
    let is_domain = left == "localhost"
        || left.contains(['.', ':'])
        || left.chars().any(|c| c.is_ascii_uppercase());
    // `name:tag/x` and `name@digest/x` are not hosts; the grammar check refuses them afterwards.
    match (is_domain, left) {
        (false, _) => (HUB.into(), text),
        (true, "index.docker.io") => (HUB.into(), rest),
        (true, left) => (left.to_owned(), rest),
    }
}

fn is_domain(domain: &str) -> bool {
    if let Some(inner) = domain.strip_prefix('[') {
        let Some((address, port)) = inner.split_once(']') else {
            return false;
        };
        let address_fine =
            !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        return address_fine && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = match domain.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (domain, None),
    };
    let component = |c: &str| {
        let b = c.as_bytes();
        b.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && b.first().is_some_and(u8::is_ascii_alphanumeric)
            && b.last().is_some_and(u8::is_ascii_alphanumeric)
    };
    host.split('.').all(component) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

/// Runs of lower-case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = component.as_bytes();
    loop {
        let run = rest.iter().take_while(|b| alnum(b)).count();
        if run == 0 {
            return false;
        }
        rest = rest.get(run..).unwrap_or_default();
        if rest.is_empty() {
            return true;
        }
        let separators = rest.iter().take_while(|b| !alnum(b)).count();
        let (separator, after) = rest.split_at(separators);
        let legal =
            matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-');
        if !legal {
            return false;
        }
        rest = after;
    }
}

fn is_tag(tag: &str) -> bool {
    let b = tag.as_bytes();
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    b.len() <= MAX_TAG
        && b.first().is_some_and(word)
        && b.iter().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn has_digest_form(digest: &str) -> bool {
    let Some((algorithm, encoded)) = digest.split_once(':') else {
        return false;
    };
    let part = |p: &str| {
        p.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && p.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(part)
        && encoded.len() >= 32
        && encoded.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_reference_that_its_defaults_make_too_long_is_refused() {
        let domain = |len: usize| format!("{}.io/a", "d".repeat(len - ".io/a".len()));
        let fits = Reference::parse(&domain(MAX_REFERENCE - ":latest".len())).unwrap();
        assert_eq!(Reference::parse(&fits.to_string()).unwrap(), fits);
        let longer = Reference::parse(&domain(MAX_REFERENCE));
        assert_eq!(longer, Err(ReferenceError::Format));
    }

    #[test]
    fn familiar_names_get_their_canonical_form_and_api_host() {
        let pinned = format!("[::1]:5000/x@{D}");
        let both = format!("alpine:3@{D}");
        let both_canonical = format!("docker.io/library/alpine:3@{D}");
        for (text, canonical, api) in [
            (
                "alpine",
                "docker.io/library/alpine:latest",
                "registry-1.docker.io",
            ),
            (
                "docker/dockerfile:1.0-experimental",
                "docker.io/docker/dockerfile:1.0-experimental",
                "registry-1.docker.io",
            ),
            (
                "index.docker.io/foo",
                "docker.io/library/foo:latest",
                "registry-1.docker.io",
            ),
            ("localhost/x", "localhost/x:latest", "localhost"),
            (
                "foo/bar",
                "docker.io/foo/bar:latest",
                "registry-1.docker.io",
            ),
            ("Foo/bar", "Foo/bar:latest", "Foo"),
            ("host:5000/x", "host:5000/x:latest", "host:5000"),
            ("x:5000", "docker.io/library/x:5000", "registry-1.docker.io"),
            (&pinned, &pinned, "[::1]:5000"),
            (&both, &both_canonical, "registry-1.docker.io"),
        ] {
            let reference = Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), canonical, "{text}");
            assert_eq!(reference.api_host(), api, "{text}");
        }
    }

    #[test]
    fn refused_references_have_the_known_words() {
        let hex = "a".repeat(64);
        let long = format!("h.io/{}", "a".repeat(256));
        for (text, words) in [
            (
                "Alpine",
                "invalid reference format: repository name (library/Alpine) must be lowercase",
            ),
            ("", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("my_reg:5000/x", "invalid reference format"),
            ("x:", "invalid reference format"),
            ("x@sha256:abc", "invalid reference format"),
            ("x%20", "invalid reference format"),
            (
                "x@sha512:e3b0c44298fc1c149afbf4c8996fb924",
                "unsupported digest algorithm",
            ),
            (
                "x@sha256:e3b0c44298fc1c149afbf4c8996fb924",
                "invalid checksum digest length",
            ),
            (
                "https://x.io/y",
                "invalid reference format: remove the scheme, a reference has none",
            ),
            (
                &long,
                "repository name must not be more than 255 characters",
            ),
        ] {
            assert_eq!(
                Reference::parse(text).unwrap_err().to_string(),
                words,
                "{text}"
            );
        }
        let words =
            format!("invalid repository name ({hex}), cannot specify 64-byte hexadecimal strings");
        assert_eq!(Reference::parse(&hex).unwrap_err().to_string(), words);
        assert!(Reference::parse(&format!("x:{}", "t".repeat(128))).is_ok());
        assert!(Reference::parse(&format!("x:{}", "t".repeat(129))).is_err());
    }

    #[test]
    fn the_digest_wins_for_fetching() {
        let reference = Reference::parse(&format!("alpine:3@{D}")).unwrap();
        assert_eq!(reference.object(), D);
        assert_eq!(reference.tag(), Some("3"));
        assert_eq!(reference.familiar(), format!("alpine:3@{D}"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_parses_or_is_refused(text in "\\PC{0,80}") {
            let _ = Reference::parse(&text);
        }

        #[test]
        fn the_canonical_and_familiar_forms_parse_to_the_reference(
            text in "([A-Za-z0-9.:-]{1,12}/)?[a-z0-9._/-]{1,20}(:[A-Za-z0-9._-]{1,8})?"
        ) {
            if let Ok(reference) = Reference::parse(&text) {
                proptest::prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference.clone()));
                proptest::prop_assert_eq!(Reference::parse(&reference.familiar()), Ok(reference));
            }
        }
    }
}
