//! Image references as build files write them, made whole: `busybox` is
//! `docker.io/library/busybox:latest`.

/// Where images without a domain are.
const DEFAULT_DOMAIN: &str = "docker.io";

/// A reference with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not of the form.
    #[error("invalid reference format")]
    Format,
    /// Capital letters in the repository.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// 64 hex digits could also be an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Id(String),
    /// A digest of the wrong length for its algorithm.
    #[error("invalid checksum digest length")]
    DigestLength,
    /// Too long.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
}

impl ImageRef {
    /// Reads a reference in its short or full form.
    ///
    /// # Errors
    /// When it has neither form.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Id(text.to_owned()));
        }
        let (domain, rest) = split_domain(text);
        let (name, digest) = match rest.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (rest.as_str(), None),
        };
        let (path, tag) = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (name, None),
        };
        let remote = rest.split(':').next().unwrap_or_default();
        if remote.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(remote.to_owned()));
        }
        let good = (domain == DEFAULT_DOMAIN || is_domain(&domain))
            && path.split('/').all(is_component)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(looks_like_digest);
        if !good {
            return Err(ReferenceError::Format);
        }
        if !digest.is_none_or(is_digest) {
            return Err(ReferenceError::DigestLength);
        }
        if path.len() > 255 {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self {
            domain,
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// With the tag `latest` when it has neither tag nor digest.
    #[must_use]
    pub fn tagged(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// With a digest, in place of any it had.
    #[must_use]
    pub fn with_digest(mut self, digest: &str) -> Self {
        self.digest = Some(digest.to_owned());
        self
    }

    /// Domain and path.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The digest, if one is given.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The short form: without the default domain and folder.
    pub fn familiar(&self) -> String {
        let path = if self.domain == DEFAULT_DOMAIN {
            match self.path.strip_prefix("library/") {
                Some(short) if !short.contains('/') => short.to_owned(),
                _ => self.path.clone(),
            }
        } else {
            self.name()
        };
        format!("{path}{}", self.suffix())
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}"));
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}"));
        format!("{}{}", tag.unwrap_or_default(), digest.unwrap_or_default())
    }
}

impl std::fmt::Display for ImageRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.name(), self.suffix())
    }
}

fn split_domain(text: &str) -> (String, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    let domain = if domain == "index.docker.io" {
        DEFAULT_DOMAIN
    } else {
        domain
    };
    let rest = if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        format!("library/{rest}")
    } else {
        rest.to_owned()
    };
    (domain.to_owned(), rest)
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let host_ok = if let Some(v6) = host.strip_prefix('[') {
        v6.strip_suffix(']')
            .is_some_and(|v6| v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'))
    } else {
        host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    host_ok && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case words joined by `.`, `_`, `__` or dashes.
fn is_component(text: &str) -> bool {
    // What joins the words here, and how many of it.
    let (mut joint, mut count) = (0, 0);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => {
                let most = match joint {
                    b'.' => 1,
                    b'_' => 2,
                    _ => usize::MAX,
                };
                if count > most {
                    return false;
                }
                count = 0;
            }
            b'.' | b'_' | b'-' if index > 0 && (count == 0 || joint == byte) => {
                joint = byte;
                count += 1;
            }
            _ => return false,
        }
    }
    !text.is_empty() && count == 0
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// The form that any digest has: of 32 digits at least.
fn looks_like_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        let mut parts = algorithm.split(['+', '.', '-', '_']);
        parts.all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.bytes().all(|b| b.is_ascii_alphanumeric())
        }) && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        let len = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return false,
        };
        hex.len() == len && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_words_with_one_kind_of_joint_between_each_two() {
        for good in [
            "a",
            "0",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "a.b_c__d--e",
            "9-9",
        ] {
            assert!(is_component(good), "{good}");
        }
        for bad in [
            "", ".", "-", "a.", "-a", "a..b", "a___b", "a.-b", "a-_b", "a_.b", "A", "aB", "ä",
            "a b", "a:b",
        ] {
            assert!(!is_component(bad), "{bad}");
        }
    }

    #[test]
    fn short_forms_are_made_whole() {
        for (text, want) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost:5000/x:1", "localhost:5000/x:1"),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
            ("index.docker.io/x", "docker.io/library/x:latest"),
        ] {
            assert_eq!(ImageRef::parse(text).unwrap().tagged().to_string(), want);
        }
        let full = ImageRef::parse("docker.io/library/alpine:3").unwrap();
        assert_eq!(full.familiar(), "alpine:3");
    }

    #[test]
    fn what_is_no_reference_is_refused_by_its_reason() {
        assert_eq!(
            ImageRef::parse("Foo:Bar:baz").unwrap_err().to_string(),
            "invalid reference format: repository name (library/Foo) must be lowercase"
        );
        for bad in ["", "a//b", "a:", "a@sha256:00", "a b", "-a", "a..b"] {
            assert_eq!(ImageRef::parse(bad), Err(ReferenceError::Format), "{bad}");
        }
    }
}
