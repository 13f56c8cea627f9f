//! Addresses of listeners.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Gid;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
    Stdio,
    /// Sockets of the service manager.
    Inherited,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(place) => write!(f, "tcp://{place}"),
            Address::Stdio => f.write_str("stdio://"),
            Address::Inherited => f.write_str("fd://"),
        }
    }
}

impl Address {
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> Result<Address, String> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
            Some(("tcp", place)) if place.contains(':') => Ok(Address::Tcp(place.to_owned())),
            Some(("stdio", "")) => Ok(Address::Stdio),
            Some(("fd", _)) => Ok(Address::Inherited),
            _ => Err("write unix:///PATH, tcp://HOST:PORT, stdio:// or fd://".to_owned()),
        }
    }
}

/// A socket for the owner and a group. What a dead daemon left is replaced, a living one is not.
///
/// # Errors
/// In words.
pub fn listen_unix(path: &Path, group: Option<&str>) -> Result<tokio::net::UnixListener, String> {
    let group = group.map(group_id).transpose()?;
    let failed = |error: std::io::Error| error.to_string();
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err("a daemon listens there already".to_owned());
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    // Nobody else may connect before the mode is set: the socket appears by its name when it is.
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let _ = std::fs::remove_file(&new);
    let listener = tokio::net::UnixListener::bind(&new).map_err(failed)?;
    let finish = || {
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o660))?;
        if let Some(group) = group {
            rustix::fs::chown(&new, None, Some(Gid::from_raw(group)))?;
        }
        std::fs::rename(&new, path)
    };
    finish().map_err(failed)?;
    Ok(listener)
}

fn group_id(group: &str) -> Result<u32, String> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let text = std::fs::read_to_string("/etc/group").map_err(|error| error.to_string())?;
    let entry = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == group).then(|| fields.nth(1)?.parse().ok())?
    });
    entry.ok_or_else(|| format!("no group is called {group}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_buildkitd() {
        for text in [
            "unix:///run/x.sock",
            "tcp://0.0.0.0:1234",
            "stdio://",
            "fd://",
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "/run/x",
            "unix://x",
            "tcp://host",
            "npipe:////x",
            "ssh://host",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_living_daemons_socket_is_not_taken_and_a_dead_ones_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/socket");
        let first = listen_unix(&path, None).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(listen_unix(&path, None).unwrap_err().contains("already"));
        drop(first);
        assert!(listen_unix(&path, None).is_ok());
        assert!(listen_unix(&path, Some("no such group")).is_err());
    }
}
