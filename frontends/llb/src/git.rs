//! Addresses of git repositories.

/// A repository's address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitRemote {
    /// The address without its fragment, as given to git.
    pub url: String,
    /// Host with port, without user.
    pub host: String,
    /// Path on the host.
    pub path: String,
    /// What stood after `#`.
    pub fragment: String,
    /// What stood after `?`, undecoded.
    pub query: String,
    /// Reached by ssh.
    pub ssh: bool,
    /// Reached without encryption: `http://` or `git://`.
    pub plain: bool,
}

/// The text is no address of a git repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown git protocol")]
pub struct GitRemoteError;

impl GitRemote {
    /// Reads `https://`, `http://`, `ssh://`, `git://` and `user@host:path` addresses.
    ///
    /// # Errors
    /// When the text has none of these forms.
    pub fn parse(text: &str) -> Result<Self, GitRemoteError> {
        for scheme in ["https", "http", "ssh", "git"] {
            let Some(rest) = text
                .strip_prefix(scheme)
                .and_then(|rest| rest.strip_prefix("://"))
            else {
                continue;
            };
            let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
            let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
            let (authority, path) = match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            };
            let host = authority.rsplit('@').next().unwrap_or(authority);
            return Ok(Self {
                url: format!("{scheme}://{rest}"),
                host: host.to_owned(),
                path: path.to_owned(),
                fragment: fragment.to_owned(),
                query: query.to_owned(),
                ssh: scheme == "ssh",
                plain: scheme == "http" || scheme == "git",
            });
        }
        Self::parse_scp(text).ok_or(GitRemoteError)
    }

    /// `user@host:path`, as scp and ssh write it.
    fn parse_scp(text: &str) -> Option<Self> {
        let (user, rest) = text.split_once('@')?;
        let (host, path) = rest.split_once(':')?;
        let word = |s: &str| {
            !s.is_empty()
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !word(user) || !word(host) || path.is_empty() {
            return None;
        }
        let (path, fragment) = path.split_once('#').unwrap_or((path, ""));
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        Some(Self {
            url: format!("{user}@{host}:{path}"),
            host: host.to_owned(),
            path: path.to_owned(),
            fragment: fragment.to_owned(),
            query: query.to_owned(),
            ssh: true,
            plain: false,
        })
    }

    /// Host and path: equal for one repository however it is reached.
    pub(crate) fn id(&self) -> String {
        format!("{}{}", self.host, crate::path::join(&["/", &self.path]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_repository_has_one_id_over_https_and_ssh() {
        let https = GitRemote::parse("https://github.com/moby/buildkit.git#v1:docs").unwrap();
        let ssh = GitRemote::parse("git@github.com:moby/buildkit.git").unwrap();
        assert_eq!(https.id(), "github.com/moby/buildkit.git");
        assert_eq!(https.id(), ssh.id());
        assert_eq!(https.fragment, "v1:docs");
        assert!(ssh.ssh && !https.ssh);
    }

    #[test]
    fn text_without_a_known_form_is_refused() {
        assert!(GitRemote::parse("github.com/moby/buildkit").is_err());
        assert!(GitRemote::parse("./dir").is_err());
    }
}
