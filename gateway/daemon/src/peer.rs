//! Who is on the other end of a connection. What one peer's sessions offer is out of reach of another's.

use std::os::fd::{AsRawFd, BorrowedFd};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::grants::Granted;

/// A peer, as far as the connection proves it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An ordinary user of this machine, by user id.
    User(u32),
    /// The holder of a client certificate, by the certificate's SHA-256.
    Certificate(String),
    /// Whoever could open the connection: standard input, or TCP that was allowed without proof.
    Anyone,
}

impl Peer {
    /// The same text for the same peer, different from every other's.
    pub fn key(&self) -> String {
        match self {
            Peer::User(uid) => format!("user {uid}"),
            Peer::Certificate(digest) => format!("certificate {digest}"),
            Peer::Anyone => "anyone".to_owned(),
        }
    }
}

/// What a connection proves of a peer beside who it is.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// All groups of the process that connected.
    pub groups: Vec<u32>,
    /// Those that the certificate gives its holder, as [`crate::grants::CertificateName`] writes them.
    pub names: Vec<String>,
}

/// A peer on one of its connections.
#[derive(Clone)]
pub struct Client {
    pub peer: Peer,
    /// What its builds may be granted.
    pub granted: Granted,
}

/// More than a process can have.
const MOST_GROUPS: usize = 65_536;

/// The supplementary groups that a process had when it connected to a Unix socket of ours.
pub fn groups(socket: BorrowedFd<'_>) -> Vec<u32> {
    let mut groups = vec![0_u32; 64];
    loop {
        let room = groups.len() * size_of::<u32>();
        let mut size = libc::socklen_t::try_from(room).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the descriptor is open as long as it is borrowed; the kernel writes at most `size` bytes, which the
        // vector has as plain numbers, and says in `size` how many those are, or how many it would need.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        let count = usize::try_from(size).unwrap_or(0) / size_of::<u32>();
        if done == 0 {
            groups.truncate(count);
            return groups;
        }
        let too_few = std::io::Error::last_os_error().raw_os_error() == Some(libc::ERANGE);
        if !too_few || count <= groups.len() || count > MOST_GROUPS {
            // Unknown groups grant nothing.
            return Vec::new();
        }
        groups.resize(count, 0);
    }
}

/// Names of one certificate that are looked at; real ones have a few.
const MOST_NAMES: usize = 100;

/// The names that a certificate (DER) gives its holder: the common names of its subject, and the alternative names.
pub fn names(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let common = certificate.subject().iter_common_name();
    let common = common.filter_map(|name| Some(format!("CN={}", name.as_str().ok()?)));
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let alternative = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names);
    let alternative = alternative.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
        GeneralName::URI(name) => Some(format!("URI:{name}")),
        GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let address =
                four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from));
            address.ok().map(|address| format!("IP:{address}"))
        }
        _ => None,
    });
    common.chain(alternative).take(MOST_NAMES).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_groups_of_who_connects_are_those_of_its_process() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut own: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .into_iter()
            .map(rustix::process::Gid::as_raw)
            .collect();
        let mut told = groups(ours.as_fd());
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
        // What is no Unix socket has none.
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(groups(other.as_fd()).is_empty());
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert!(names(b"").is_empty());
        assert!(names(&[0x30; 64]).is_empty());
    }
}
