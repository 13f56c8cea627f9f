//! What a git source says: which repository, what of it, with which login.

use gateway_api::Error;
use gateway_images::digest::Digest;
use gateway_images::registry::shown_url;
use gateway_llb::{GitRemote, pb};

use crate::key::digest_of;
use crate::shared::Outcome;

/// A source, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Git {
    /// As git takes it.
    pub remote: String,
    /// Branch, tag, full name or commit; empty for the default branch.
    pub reference: String,
    /// Without slashes at the ends.
    pub subdir: String,
    pub keep_git_dir: bool,
    pub auth_token: String,
    pub auth_header: String,
    pub known_hosts: String,
    pub ssh_agent: String,
    /// The commit, or the beginning of its name.
    pub checksum: String,
    pub skip_submodules: bool,
    /// `checkout`, `commit` or empty.
    pub mtime: String,
    pub fetch_by_commit: bool,
    /// Whose signature the commit or tag must have.
    pub signed_by: Option<SignedBy>,
    /// A bundle with the commits, in the place of the repository.
    pub bundle: Option<Bundle>,
    /// The commit becomes a bundle, not a directory of its files.
    pub checkout_bundle: bool,
}

/// What is asked of a signature. Whoever names any of this gets a verified source or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignedBy {
    /// Armored OpenPGP keys, or a line of an SSH key.
    pub keys: String,
    /// Keys must be good today, and not only when they signed.
    pub reject_expired: bool,
    /// A signature of the commit is not enough.
    pub require_tag: bool,
    /// Only the commit's own signature counts.
    pub ignore_tag: bool,
}

/// Where a bundle lies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// As written.
    pub locator: String,
    /// The name of the client's layout, if it is not that in the locator.
    pub oci_store: String,
    /// The vertex that shows its transfer.
    pub vertex: String,
}

/// Where blobs may lie.
const BLOB_SCHEMES: [&str; 2] = ["docker-image+blob", "oci-layout+blob"];

impl Bundle {
    /// The digest that the file must have.
    pub fn digest(&self) -> &str {
        self.locator
            .rsplit_once('@')
            .map_or("", |(_, digest)| digest)
    }

    /// The name of the client's layout.
    pub fn store(&self) -> &str {
        if !self.oci_store.is_empty() {
            return &self.oci_store;
        }
        let body = self.locator.split_once("://").map_or("", |(_, body)| body);
        body.split_once('@').map_or(body, |(name, _)| name)
    }

    /// The blob, as a source.
    pub fn blob(&self) -> pb::SourceOp {
        pb::SourceOp {
            identifier: self.locator.clone(),
            attrs: [("oci.store".to_owned(), self.store().to_owned())].into(),
        }
    }

    /// # Errors
    /// It names no blob by its SHA-256.
    fn check(&self) -> Outcome<()> {
        let raw = &self.locator;
        let wrong = |why: String| Err(Error::unknown(why));
        let Some((scheme, body)) = raw.split_once("://") else {
            return wrong(format!(
                "failed to parse git.bundle locator {raw:?}: missing scheme"
            ));
        };
        if !BLOB_SCHEMES.contains(&scheme) {
            return wrong(format!(
                "git.bundle locator scheme {scheme:?} is not supported; expected {:?} or {:?}",
                BLOB_SCHEMES[0], BLOB_SCHEMES[1]
            ));
        }
        let digest = body
            .split_once('@')
            .and_then(|(_, d)| d.parse::<Digest>().ok());
        match digest {
            Some(digest) if digest.to_string().starts_with("sha256:") => Ok(()),
            Some(_) => wrong(format!(
                "git.bundle locator {raw:?}: only digests by sha256 are supported"
            )),
            None => wrong(format!(
                "failed to parse git.bundle locator {raw:?}: invalid digest"
            )),
        }
    }
}

/// A full name of a commit: SHA-1 or SHA-256.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A repository on another machine: paths of this one are not a build's to read.
fn remote(text: &str) -> Outcome<GitRemote> {
    GitRemote::parse(text)
        .or_else(|_| GitRemote::parse(&format!("https://{text}")))
        .map_err(|error| Error::unknown(error.to_string()))
}

impl Git {
    /// # Errors
    /// When the address is none, or something is asked for that is not done.
    pub fn of(op: &pb::SourceOp) -> Outcome<Git> {
        let text = op
            .identifier
            .strip_prefix("git://")
            .unwrap_or(&op.identifier);
        let address = remote(text)?;
        let (reference, subdir) = address
            .fragment
            .split_once(':')
            .unwrap_or((&address.fragment, ""));
        let mut git = Git {
            remote: address.url.clone(),
            reference: reference.to_owned(),
            subdir: subdir.trim_matches('/').to_owned(),
            ..Git::default()
        };
        for (name, value) in &op.attrs {
            let yes = value == "true";
            match name.as_str() {
                "git.fullurl" => git.remote = remote(value)?.url,
                "git.keepgitdir" => git.keep_git_dir = yes,
                "git.authtokensecret" => git.auth_token = value.clone(),
                "git.authheadersecret" => git.auth_header = value.clone(),
                "git.knownsshhosts" => git.known_hosts = value.clone(),
                "git.mountsshsock" => git.ssh_agent = value.clone(),
                "git.checksum" => git.checksum = value.clone(),
                "git.skipsubmodules" => git.skip_submodules = yes,
                "git.mtime" => git.mtime = value.clone(),
                "git.fetchbycommit" => git.fetch_by_commit = yes,
                "git.sig.pubkey" => git.signed_by().keys = value.clone(),
                "git.sig.rejectexpired" => git.signed_by().reject_expired = yes,
                "git.sig.requiresignedtag" => git.signed_by().require_tag = yes,
                "git.sig.ignoresignedtag" => git.signed_by().ignore_tag = yes,
                "git.bundle" if !value.is_empty() => {
                    git.bundle.get_or_insert_default().locator = value.clone();
                }
                "git.checkoutbundle" => git.checkout_bundle = yes,
                _ => {}
            }
        }
        if git.reference.starts_with('-') {
            return Err(Error::unknown(format!(
                "invalid git ref {:?}",
                git.reference
            )));
        }
        if !git.checksum.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::unknown(format!(
                "invalid checksum {} for Git URL, expected hex commit hash",
                git.checksum
            )));
        }
        if let Some(bundle) = &mut git.bundle {
            bundle.oci_store = op.attrs.get("oci.store").cloned().unwrap_or_default();
            bundle.check()?;
            if git.checksum.is_empty() {
                return Err(Error::unknown("git.bundle requires git.checksum to be set"));
            }
        }
        if git.checkout_bundle && git.keep_git_dir {
            return Err(Error::unknown(
                "git.checkoutbundle is incompatible with git.keepgitdir",
            ));
        }
        if git.checkout_bundle && !git.subdir.is_empty() {
            return Err(Error::unknown(
                "git.checkoutbundle is incompatible with git.subdir",
            ));
        }
        Ok(git)
    }

    /// With the vertex that shows transfers.
    pub fn shown_by(mut self, vertex: &str) -> Git {
        if let Some(bundle) = &mut self.bundle {
            vertex.clone_into(&mut bundle.vertex);
        }
        self
    }

    /// The bundle that it is taken from, as a source.
    pub fn bundle_blob(&self) -> Option<pb::SourceOp> {
        self.bundle.as_ref().map(Bundle::blob)
    }

    fn signed_by(&mut self) -> &mut SignedBy {
        self.signed_by.get_or_insert_default()
    }

    /// The address without a password.
    pub fn shown(&self) -> String {
        match self.remote.starts_with("http") {
            true => shown_url(&self.remote),
            false => self.remote.clone(),
        }
    }

    /// User and password of the address, if it has some.
    pub fn url_login(&self) -> Option<&str> {
        let rest = self.remote.strip_prefix("http")?.split_once("://")?.1;
        let authority = rest.split('/').next()?;
        authority.rsplit_once('@').map(|(login, _)| login)
    }

    /// The host with its port.
    pub fn host(&self) -> String {
        GitRemote::parse(&self.remote).map_or_else(|_| String::new(), |remote| remote.host)
    }

    /// The names that a repository's copy has in the store.
    pub fn remote_id(&self) -> String {
        digest_of(self.remote.as_bytes()).replace("sha256:", "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(identifier: &str, attrs: &[(&str, &str)]) -> pb::SourceOp {
        pb::SourceOp {
            identifier: identifier.into(),
            attrs: attrs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn an_identifier_has_ref_and_subdir_and_the_true_url_beside_it() {
        let git = Git::of(&op(
            "git://example.com/r.git#v1:docs/a",
            &[("git.fullurl", "git@example.com:r.git")],
        ))
        .unwrap();
        assert_eq!(git.remote, "git@example.com:r.git");
        assert_eq!(
            (git.reference.as_str(), git.subdir.as_str()),
            ("v1", "docs/a")
        );
        let git = Git::of(&op("git://example.com/r.git", &[])).unwrap();
        assert_eq!(git.remote, "https://example.com/r.git");
    }

    #[test]
    fn paths_of_this_machine_are_no_repositories() {
        for url in ["file:///srv/r.git", "/srv/r.git", "ext::sh -c true"] {
            let git = Git::of(&op("git://h/r", &[("git.fullurl", url)]));
            // Taken as a name of a host at most.
            assert!(
                git.is_ok_and(|git| git.remote.starts_with("https://")),
                "{url}"
            );
        }
    }

    #[test]
    fn options_and_odd_checksums_are_refused() {
        assert!(Git::of(&op("git://h/r#--upload-pack=x", &[])).is_err());
        assert!(Git::of(&op("git://h/r", &[("git.checksum", "xyz")])).is_err());
    }

    #[test]
    fn a_bundle_is_a_blob_by_digest_and_goes_with_a_checksum() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let at = |scheme: &str| format!("{scheme}://example.com/r@{digest}");
        let commit = "a".repeat(40);
        let good = at("docker-image+blob");
        let git = Git::of(&op(
            "git://h/r",
            &[("git.bundle", &good), ("git.checksum", &commit)],
        ))
        .unwrap();
        assert_eq!(git.bundle.unwrap().digest(), digest);
        for (attrs, error) in [
            (
                vec![("git.bundle", good.as_str())],
                "git.bundle requires git.checksum to be set",
            ),
            (
                vec![("git.bundle", "x"), ("git.checksum", &commit)],
                "missing scheme",
            ),
            (
                vec![("git.bundle", &at("https")), ("git.checksum", &commit)],
                "is not supported; expected",
            ),
            (
                vec![
                    ("git.bundle", "docker-image+blob://example.com/r:v1"),
                    ("git.checksum", &commit),
                ],
                "invalid digest",
            ),
            (
                vec![("git.checkoutbundle", "true"), ("git.keepgitdir", "true")],
                "incompatible with git.keepgitdir",
            ),
        ] {
            let found = Git::of(&op("git://h/r", &attrs)).unwrap_err();
            assert!(found.message.contains(error), "{}", found.message);
        }
        let found = Git::of(&op("git://h/r#main:sub", &[("git.checkoutbundle", "true")]));
        assert!(found.unwrap_err().message.contains("git.subdir"));
    }

    #[test]
    fn any_attribute_of_signatures_asks_for_one() {
        for name in [
            "git.sig.pubkey",
            "git.sig.rejectexpired",
            "git.sig.requiresignedtag",
            "git.sig.ignoresignedtag",
        ] {
            let git = Git::of(&op("git://h/r", &[(name, "")])).unwrap();
            assert!(git.signed_by.is_some(), "{name}");
        }
        assert_eq!(Git::of(&op("git://h/r", &[])).unwrap().signed_by, None);
    }

    #[test]
    fn a_login_in_the_address_is_found_and_not_shown() {
        let git = Git::of(&op(
            "git://h/r",
            &[("git.fullurl", "https://me:pw@h/r.git")],
        ))
        .unwrap();
        assert_eq!(git.url_login(), Some("me:pw"));
        assert_eq!(git.shown(), "https://h/r.git");
    }
}
