//! The sessions of clients: what each offers, found by its id. A session belongs to the peer that
//! opened it; nobody else finds it, whatever id they name.

mod auth;
mod channel;
mod client;
mod exporters;
mod frames;
pub mod fuzzing;
mod gone;
mod health;
mod locals;
mod mode;
mod policy;
mod receive;
mod send;
mod sink;
mod space;
mod ssh;
mod store;
mod sync;
mod trailers;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_api::{Code, Error};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::peer::Peer;
pub use auth::ClientLogins;
pub use channel::{Channel, Encoding};
pub use client::{ClientSession, NoSession};
pub use exporters::{finalize_export, find_exporters};
pub use locals::Locals;
pub use policy::SessionJudge;
pub use sink::ClientOutput;
pub use space::{MAX_UPLOAD, Space};
pub use store::ClientStore;
pub use sync::{SILENCE, silent};

/// How long a call waits for a session that is not there yet.
const EARLY: Duration = Duration::from_secs(5);

/// Ids of real clients have 25 characters.
const MAX_ID: usize = 128;

/// Methods of real clients are about twenty.
const MAX_METHODS: usize = 256;

/// Calls to one client at once. Clients take 100 at least, most 250; questions after its health go by
/// themselves, so that a client that is busy is not taken for a dead one.
const MAX_CALLS: usize = 90;

/// What a client says of its session.
#[derive(Debug, Clone, Default)]
pub struct SessionInfo {
    pub id: String,
    pub shared_key: String,
    /// Full paths of what can be called.
    pub methods: Vec<String>,
}

impl SessionInfo {
    /// From the headers of a call or of an HTTP request: their names are the same.
    ///
    /// # Errors
    /// Without an id, or with one that is none.
    pub fn of(headers: &http::HeaderMap) -> Result<SessionInfo, Error> {
        let text = |key: &str| {
            let value = headers.get(key).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let methods = headers
            .get_all("x-docker-expose-session-grpc-method")
            .iter();
        let methods = methods.filter_map(|value| value.to_str().ok());
        let info = SessionInfo {
            id: text("x-docker-expose-session-uuid"),
            shared_key: text("x-docker-expose-session-sharedkey"),
            methods: methods.take(MAX_METHODS).map(str::to_owned).collect(),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if info.id.is_empty() || info.id.len() > MAX_ID || !info.id.bytes().all(plain) {
            return Err(Error::invalid(
                "a session needs an id of letters and digits (x-docker-expose-session-uuid)",
            ));
        }
        Ok(info)
    }
}

/// A session that is open.
pub struct Handle {
    info: SessionInfo,
    methods: HashSet<String>,
    peer: Peer,
    channel: Channel,
    closed: CancellationToken,
}

impl Handle {
    pub fn shared_key(&self) -> &str {
        &self.info.shared_key
    }

    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Cancelled when the client is gone.
    pub fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Whether the client said that this can be called; names differ in case.
    pub fn has(&self, method: &str) -> bool {
        self.methods.contains(&method.to_ascii_lowercase())
    }

    /// The work, unless the client leaves meanwhile.
    pub async fn until_closed<T>(&self, work: impl Future<Output = T>) -> Result<T, tonic::Status> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.closed.cancelled() => Err(tonic::Status::unavailable(gone::GONE)),
        }
    }
}

/// All sessions that are open. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    open: Mutex<HashMap<(String, String), Arc<Handle>>>,
    changed: watch::Sender<()>,
    salt: [u8; 32],
    /// Of one peer at once.
    most: usize,
}

impl Sessions {
    /// With so many of one peer at once.
    pub fn new(most: usize) -> Sessions {
        Sessions(Arc::new(Inner {
            open: Mutex::default(),
            changed: watch::Sender::new(()),
            salt: auth::random(),
            most,
        }))
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<(String, String), Arc<Handle>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What keys of clients for tokens are derived with: others after every start.
    pub fn salt(&self) -> &[u8; 32] {
        &self.0.salt
    }

    /// Whether one is open.
    pub fn is_open(&self, peer: &Peer, id: &str) -> bool {
        self.locked().contains_key(&(peer.key(), id.to_owned()))
    }

    /// Speaks with a client over `io` until either leaves or `ended` does.
    ///
    /// # Errors
    /// When there is such a session already, or the client does not speak HTTP/2.
    pub async fn serve<T>(
        &self,
        info: SessionInfo,
        peer: Peer,
        io: T,
        ended: CancellationToken,
    ) -> Result<(), Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let key = (peer.key(), info.id.clone());
        if self.is_open(&peer, &info.id) {
            return Err(exists(&info.id));
        }
        let (channel, connection) = channel::connect(io).await.map_err(|error| {
            Error::new(Code::Unavailable, format!("session {}: {error}", info.id))
        })?;
        let closed = CancellationToken::new();
        let handle = Arc::new(Handle {
            methods: info
                .methods
                .iter()
                .map(|m| m.to_ascii_lowercase())
                .collect(),
            info,
            peer,
            channel,
            closed: closed.clone(),
        });
        let registration = self.register(key, &handle)?;
        let health = health::watch(handle.clone());
        tokio::select! {
            // How it ends is the client's affair.
            _ = connection => {}
            () = health => {}
            () = ended.cancelled() => {}
        }
        drop(registration);
        closed.cancel();
        Ok(())
    }

    fn register(&self, key: (String, String), handle: &Arc<Handle>) -> Result<Registration, Error> {
        let mut open = self.locked();
        if open.contains_key(&key) {
            return Err(exists(&handle.info.id));
        }
        if open
            .values()
            .filter(|other| other.peer == handle.peer)
            .count()
            >= self.0.most
        {
            return Err(Error::new(
                Code::ResourceExhausted,
                format!("more than {} sessions of one client at once", self.0.most),
            ));
        }
        open.insert(key.clone(), handle.clone());
        drop(open);
        self.0.changed.send_replace(());
        Ok(Registration {
            sessions: self.clone(),
            key,
        })
    }

    /// A session of this peer; one that is not there yet is waited for. An id may have a prefix
    /// before a colon, which means nothing.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn find(&self, peer: &Peer, id: &str) -> Result<Arc<Handle>, Error> {
        let real = id.split_once(':').map_or(id, |(_, real)| real);
        if real.is_empty() {
            return Err(Error::unknown("no active sessions"));
        }
        let key = (peer.key(), real.to_owned());
        let mut changed = self.0.changed.subscribe();
        let found = async {
            loop {
                if let Some(handle) = self.locked().get(&key) {
                    return handle.clone();
                }
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(EARLY, found).await.map_err(|_| {
            Error::unknown(format!(
                "no active session for {real}: context deadline exceeded"
            ))
        })
    }
}

fn exists(id: &str) -> Error {
    Error::new(Code::AlreadyExists, format!("session {id} already exists"))
}

/// A session that can be found; no more when dropped.
struct Registration {
    sessions: Sessions,
    key: (String, String),
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(handle) = self.sessions.locked().remove(&self.key) {
            handle.closed.cancel();
        }
    }
}

/// A client's status as an error of ours.
pub fn client_error(status: &tonic::Status) -> Error {
    gateway_proto::error::from_status(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(id: &str) -> http::HeaderMap {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-docker-expose-session-uuid", id.parse().unwrap());
        headers
    }

    #[test]
    fn a_session_without_a_sound_id_is_refused() {
        assert!(SessionInfo::of(&http::HeaderMap::new()).is_err());
        for id in ["../x", "a b", &"x".repeat(MAX_ID + 1)] {
            assert!(SessionInfo::of(&headers(id)).is_err(), "{id}");
        }
        assert_eq!(SessionInfo::of(&headers("abc")).unwrap().id, "abc");
    }

    #[tokio::test(start_paused = true)]
    async fn p06_a_session_that_is_not_there_yet_is_waited_for() {
        let sessions = Sessions::new(1);
        let asked = tokio::time::Instant::now();
        let error = sessions.find(&Peer::Anyone, "x:abc").await.err().unwrap();
        assert_eq!(
            error.message,
            "no active session for abc: context deadline exceeded"
        );
        assert_eq!(asked.elapsed().as_secs(), 5);
        let error = sessions.find(&Peer::Anyone, "").await.err().unwrap();
        assert_eq!(error.message, "no active sessions");
    }
}
