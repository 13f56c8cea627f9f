//! Git references of contexts and of ADD: an address, what to check out, and how.

use gateway_llb::{Constraints, GitRemote, GitSource, State};

use super::options::parse_bool;

/// A git reference, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitRef {
    /// The repository.
    pub remote: String,
    /// Branch, tag or commit.
    pub reference: String,
    /// A folder in it.
    pub subdir: String,
    /// The commit that it must be.
    pub checksum: String,
    /// Keep `.git`, when said.
    pub keep_git_dir: Option<bool>,
    /// Fetch submodules, when said.
    pub submodules: Option<bool>,
    /// `checkout` or `commit`.
    pub mtime: String,
    /// Fetch only the commit.
    pub fetch_by_commit: bool,
    /// Could also be the name of a local folder (`github.com/a/b`).
    pub maybe_local: bool,
}

impl GitRef {
    /// Reads a reference. `None` when the text is no git reference at all.
    ///
    /// # Errors
    /// When it is one, with a mistake.
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        if text.is_empty() || text.starts_with("./") || text.starts_with("../") {
            return None;
        }
        let mut maybe_local = false;
        let remote = if text.starts_with("github.com/") {
            maybe_local = true;
            GitRemote::parse(&format!("https://{text}")).ok()?
        } else {
            let remote = GitRemote::parse(text).ok()?;
            let over_http = text.starts_with("http://") || text.starts_with("https://");
            // Over HTTP only what is called `*.git` is a repository.
            if over_http && !remote.path.ends_with(".git") {
                return None;
            }
            remote
        };
        let mut git = Self {
            remote: remote.url.clone(),
            maybe_local,
            ..Self::default()
        };
        let (reference, subdir) = remote
            .fragment
            .split_once(':')
            .unwrap_or((&remote.fragment, ""));
        git.reference = reference.to_owned();
        git.subdir = subdir.to_owned();
        if let Err(message) = git.read_query(&remote.query) {
            return Some(Err(message));
        }
        git.subdir = clean_subdir(&git.subdir);
        Some(Ok(git))
    }

    fn read_query(&mut self, query: &str) -> Result<(), String> {
        let mut seen: Vec<String> = Vec::new();
        let (mut tag, mut branch) = (String::new(), String::new());
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (decode(key), Some(decode(value))),
                None => (decode(part), None),
            };
            if seen.contains(&key) {
                return Err(format!("query {key:?} has multiple values"));
            }
            seen.push(key.clone());
            let needed = || {
                value
                    .clone()
                    .filter(|v| !v.is_empty())
                    .ok_or_else(|| format!("query {key:?} has no value"))
            };
            let flag = || match value.as_deref() {
                None | Some("") => Ok(true),
                Some(text) => {
                    parse_bool(text).ok_or_else(|| format!("invalid {key} value: {text:?}"))
                }
            };
            let once = |old: &str, new: String| {
                if !old.is_empty() && old != new {
                    return Err(format!("{key} conflicts: {old:?} vs {new:?}"));
                }
                Ok(new)
            };
            match key.as_str() {
                "ref" => self.reference = once(&self.reference, needed()?)?,
                "tag" => tag = needed()?,
                "branch" => branch = needed()?,
                "subdir" => self.subdir = once(&self.subdir, needed()?)?,
                "checksum" | "commit" => self.checksum = needed()?,
                "keep-git-dir" => self.keep_git_dir = Some(flag()?),
                "submodules" => self.submodules = Some(flag()?),
                "mtime" => {
                    self.mtime = needed()?;
                    if !matches!(self.mtime.as_str(), "checkout" | "commit") {
                        return Err(format!(
                            "invalid mtime value: {:?} (must be \"checkout\" or \"commit\")",
                            self.mtime
                        ));
                    }
                }
                "fetch-by-commit" => self.fetch_by_commit = flag()?,
                _ => return Err(format!("unexpected query {key:?}")),
            }
        }
        if !tag.is_empty() && !branch.is_empty() {
            return Err("branch conflicts with tag".to_owned());
        }
        for (kind, name) in [("tags", tag), ("heads", branch)] {
            if name.is_empty() {
                continue;
            }
            let full = format!(
                "refs/{kind}/{}",
                name.trim_start_matches(&format!("refs/{kind}/"))
            );
            if !self.reference.is_empty() && self.reference != full {
                return Err(format!("ref conflicts: {:?} vs {full:?}", self.reference));
            }
            self.reference = full;
        }
        Ok(())
    }

    /// The source of this reference.
    pub fn source(&self) -> GitSource {
        GitSource {
            remote: self.remote.clone(),
            reference: self.reference.clone(),
            subdir: self.subdir.clone(),
            keep_git_dir: self.keep_git_dir == Some(true),
            checksum: self.checksum.clone(),
            skip_submodules: self.submodules == Some(false),
            mtime: self.mtime.clone(),
            fetch_by_commit: self.fetch_by_commit,
            ..GitSource::default()
        }
    }
}

/// A context that is a git reference; `None` when `text` is none.
///
/// # Errors
/// When it is one, with a mistake.
pub fn git_context(
    text: &str,
    keep_git_dir: Option<bool>,
    commit_times: bool,
) -> Option<Result<State, String>> {
    let git = match GitRef::parse(text)? {
        Ok(git) => git,
        Err(message) => return Some(Err(message)),
    };
    let mut source = git.source();
    source.keep_git_dir |= keep_git_dir == Some(true);
    if commit_times && source.mtime.is_empty() {
        source.mtime = "commit".to_owned();
    }
    let name = format!("[internal] load git source {text}");
    Some(Ok(source.state(Constraints::new().name(name))))
}

fn clean_subdir(subdir: &str) -> String {
    gateway_llb::path::join(&["/", subdir])
        .trim_start_matches('/')
        .to_owned()
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'+' => out.push(b' '),
            b'%' => {
                let rest = bytes.clone();
                let hex: Vec<u8> = rest.take(2).collect();
                let value = std::str::from_utf8(&hex)
                    .ok()
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok());
                match value {
                    Some(value) if hex.len() == 2 => {
                        out.push(value);
                        bytes.next();
                        bytes.next();
                    }
                    _ => out.push(b),
                }
            }
            b => out.push(b),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragment_and_query_say_the_same() {
        let fragment = GitRef::parse("https://host/x.git#v1:docs")
            .unwrap()
            .unwrap();
        let query = GitRef::parse("https://host/x.git?ref=v1&subdir=docs")
            .unwrap()
            .unwrap();
        assert_eq!(fragment, query);
        assert_eq!(fragment.remote, "https://host/x.git");
    }

    #[test]
    fn web_files_and_folders_are_no_repositories() {
        assert!(GitRef::parse("https://host/x.tar").is_none());
        assert!(GitRef::parse("dir/file").is_none());
        assert!(
            GitRef::parse("github.com/a/b")
                .unwrap()
                .unwrap()
                .maybe_local
        );
    }

    #[test]
    fn mistakes_in_a_query_are_named() {
        for (query, words) in [
            ("foo=1", "unexpected query \"foo\""),
            ("ref=", "query \"ref\" has no value"),
            ("ref=a&ref=b", "query \"ref\" has multiple values"),
            ("tag=a&branch=b", "branch conflicts with tag"),
            ("submodules=z", "invalid submodules value: \"z\""),
        ] {
            let text = format!("https://host/x.git?{query}");
            assert_eq!(GitRef::parse(&text).unwrap().unwrap_err(), words);
        }
    }
}
