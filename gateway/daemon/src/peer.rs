//! Who is on the other end of a connection. What one peer's sessions offer is out of reach of another's.

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
