//! What a build asks of its client, asked over the client's session.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use gateway_session::{LocalDir, LocalRequest, MAX_SECRET_BYTES, Secret, Session, SessionError};
use tokio::sync::Mutex;

use super::channel::Encoding;
use super::gone::GONE;
use super::space::Space;
use super::ssh::Forward;
use super::store::ClientStore;
use super::sync::{SILENCE, SyncError, silent};
use super::{Handle, Locals, Sessions, sync};
use crate::peer::Peer;
use crate::proto::session::{
    BytesMessage, CheckAgentRequest, CheckAgentResponse, GetSecretRequest, GetSecretResponse,
};

const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const PULL: &str = "/moby.upload.v1.Upload/Pull";

/// What may be left to do on files that are all there.
const LEFT: std::time::Duration = std::time::Duration::from_secs(5);

/// The session of one build.
pub struct ClientSession {
    id: String,
    peer: Peer,
    encoding: Encoding,
    sessions: Sessions,
    locals: Locals,
    /// For sockets, uploads and layouts; goes with the build.
    scratch: Arc<tempfile::TempDir>,
    agents: Mutex<HashMap<String, Forward>>,
    /// Those that are here, by their ids.
    uploads: Mutex<HashMap<String, PathBuf>>,
}

fn failed(error: impl std::fmt::Display) -> SessionError {
    SessionError::Client(error.to_string())
}

/// What a client answered, without the words around it.
fn refused(status: &tonic::Status) -> SessionError {
    SessionError::Client(status.message().to_owned())
}

impl ClientSession {
    pub fn new(
        id: &str,
        peer: Peer,
        encoding: Encoding,
        sessions: Sessions,
        locals: Locals,
        scratch: Arc<tempfile::TempDir>,
        uploads: HashMap<String, PathBuf>,
    ) -> Self {
        ClientSession {
            id: id.to_owned(),
            peer,
            encoding,
            sessions,
            locals,
            scratch,
            agents: Mutex::default(),
            uploads: Mutex::new(uploads),
        }
    }

    async fn handle(&self) -> Result<Arc<Handle>, SessionError> {
        let found = self.sessions.find(&self.peer, &self.id).await;
        found.map_err(|error| SessionError::Client(error.message))
    }

    /// The session that a graph names, else the build's own.
    async fn named(&self, id: &str) -> Result<Arc<Handle>, SessionError> {
        if !id.is_empty()
            && id != self.id
            && let Ok(handle) = self.sessions.find(&self.peer, id).await
        {
            return Ok(handle);
        }
        self.handle().await
    }
}

#[async_trait]
impl Session for ClientSession {
    fn id(&self) -> &str {
        &self.id
    }

    async fn local(
        &self,
        request: &LocalRequest,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Option<LocalDir>, SessionError> {
        let handle = self.named(&request.session).await?;
        if !handle.has(sync::DIFF_COPY) {
            return Err(failed("no local sources enabled"));
        }
        let key = format!(
            "{}\n{}\n{}\n{}",
            self.peer.key(),
            request.name,
            request.shared_key_hint,
            handle.shared_key()
        );
        let filter = format!(
            "{:?} {:?} {:?}",
            request.include, request.exclude, request.follow
        );
        let locals = self.locals.clone();
        // Old slots go meanwhile, with all their files.
        let held = tokio::task::spawn_blocking(move || locals.take(&key, &filter));
        let held = Arc::new(held.await.map_err(failed)?.map_err(failed)?);
        let path = held.path();
        let synced = sync::sync(&handle, self.encoding, request, held.clone(), progress);
        // What is all there counts, also when the client is gone by then.
        let gone = async {
            handle.closed().cancelled().await;
            tokio::time::sleep(LEFT).await;
        };
        let synced = tokio::select! {
            synced = synced => synced,
            () = gone => return Err(failed(GONE)),
        };
        let done = match synced {
            Ok(done) => done,
            Err(SyncError::Client(status)) => {
                let why = status.message();
                // Its last word, before it left.
                if handle.closed().is_cancelled() && !why.starts_with(GONE) {
                    return Err(failed(format!("{GONE} ({why})")));
                }
                return Err(refused(&status));
            }
            Err(SyncError::Refused(problem)) => {
                // What came must not lie about: it may be what filled the disk.
                let emptied = tokio::task::spawn_blocking(move || held.empty());
                let _ = emptied.await;
                return Err(SessionError::Client(problem));
            }
        };
        held.filled(done.entries);
        Ok(Some(LocalDir {
            path,
            transferred: Some(done.bytes),
            // What is taken again whatever its stat says may differ without its stat.
            still: !request.fresh,
            hold: Some(held),
        }))
    }

    fn local_place(&self, _: &str) -> Option<String> {
        Some(self.peer.key())
    }

    async fn oci_store(&self, id: &str, digest: &str) -> Result<Option<LocalDir>, SessionError> {
        let store = ClientStore::new(self.handle().await?, format!("oci:{id}"));
        let dir = tempfile::tempdir_in(self.scratch.path()).map_err(failed)?;
        store
            .fetch_layout(digest, dir.path())
            .await
            .map_err(|error| SessionError::Client(error.message))?;
        Ok(Some(LocalDir {
            path: dir.path().to_owned(),
            transferred: None,
            still: false,
            hold: Some(Arc::new(dir)),
        }))
    }

    async fn upload(&self, id: &str) -> Result<Option<PathBuf>, SessionError> {
        use tokio::io::AsyncWriteExt;

        let mut uploads = self.uploads.lock().await;
        if let Some(path) = uploads.get(id) {
            return Ok(Some(path.clone()));
        }
        let handle = self.handle().await?;
        let mut metadata = tonic::metadata::MetadataMap::new();
        super::channel::insert(&mut metadata, "urlpath", &[format!("/{id}")]);
        super::channel::insert(&mut metadata, "urlhost", &["buildkit-session".to_owned()]);
        let path = self
            .scratch
            .path()
            .join(format!("upload-{}", uploads.len()));
        let pull = async {
            let nothing = tokio_stream::pending::<BytesMessage>();
            let mut pieces = handle
                .channel()
                .streams::<_, BytesMessage>(PULL, metadata, nothing)
                .await
                .map_err(|status| refused(&status))?;
            let mut file = tokio::fs::File::create(&path).await.map_err(failed)?;
            let disk = std::fs::File::open(self.scratch.path()).map_err(failed)?;
            let mut space = Space::of_archive();
            loop {
                let piece = tokio::time::timeout(SILENCE, pieces.message()).await;
                let piece = piece.map_err(|_| failed(silent()))?;
                let Some(piece) = piece.map_err(|status| refused(&status))? else {
                    break;
                };
                space.take(&disk, piece.data.len() as u64).map_err(failed)?;
                file.write_all(&piece.data).await.map_err(failed)?;
            }
            file.flush().await.map_err(failed)
        };
        handle
            .until_closed(pull)
            .await
            .map_err(|status| refused(&status))??;
        uploads.insert(id.to_owned(), path.clone());
        Ok(Some(path))
    }

    async fn secret(&self, id: &str) -> Result<Option<Secret>, SessionError> {
        let handle = self.handle().await?;
        if !handle.has(GET_SECRET) {
            return Ok(None);
        }
        let request = GetSecretRequest {
            id: id.to_owned(),
            ..GetSecretRequest::default()
        };
        let answer = handle
            .channel()
            .unary::<_, GetSecretResponse>(GET_SECRET, request);
        match handle
            .until_closed(answer)
            .await
            .and_then(std::convert::identity)
        {
            Ok(answer) if answer.data.len() as u64 > MAX_SECRET_BYTES => {
                let size = answer.data.len() as u64;
                drop(Secret::new(answer.data));
                Err(SessionError::SecretTooLarge {
                    id: id.to_owned(),
                    size,
                })
            }
            Ok(answer) => Ok(Some(Secret::new(answer.data))),
            Err(status)
                if matches!(
                    status.code(),
                    tonic::Code::NotFound | tonic::Code::Unimplemented
                ) =>
            {
                Ok(None)
            }
            Err(status) => Err(refused(&status)),
        }
    }

    async fn ssh_socket(&self, id: &str) -> Result<Option<PathBuf>, SessionError> {
        let mut agents = self.agents.lock().await;
        if let Some(forward) = agents.get(id) {
            return Ok(Some(forward.path().to_owned()));
        }
        let handle = self.handle().await?;
        if !handle.has(CHECK_AGENT) {
            return Ok(None);
        }
        let request = CheckAgentRequest { id: id.to_owned() };
        let answer = handle
            .channel()
            .unary::<_, CheckAgentResponse>(CHECK_AGENT, request);
        match handle
            .until_closed(answer)
            .await
            .and_then(std::convert::identity)
        {
            Ok(CheckAgentResponse {}) => {}
            // There is no such agent; why is the client's affair.
            Err(_) => return Ok(None),
        }
        let path = self.scratch.path().join(format!("agent-{}", agents.len()));
        let forward = Forward::listen(handle, id, path).map_err(failed)?;
        let path = forward.path().to_owned();
        agents.insert(id.to_owned(), forward);
        Ok(Some(path))
    }
}

/// A build without a client's session: nothing local, no secrets, no agents.
pub struct NoSession;

#[async_trait]
impl Session for NoSession {
    fn id(&self) -> &str {
        ""
    }

    async fn local(
        &self,
        _: &LocalRequest,
        _: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Option<LocalDir>, SessionError> {
        Err(failed("no active sessions"))
    }

    async fn secret(&self, _: &str) -> Result<Option<Secret>, SessionError> {
        Ok(None)
    }

    async fn ssh_socket(&self, _: &str) -> Result<Option<PathBuf>, SessionError> {
        Ok(None)
    }
}
