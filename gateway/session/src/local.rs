//! The session of an embedded build: everything is on this machine and read where it lies.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::ssh::{Agent, Running};
use crate::{LocalDir, LocalRequest, MAX_SECRET_BYTES, Secret, Session, SessionError};

/// Where a secret's value comes from. Printing one never shows a value.
#[derive(Debug)]
pub enum SecretSource {
    File(PathBuf),
    /// Already read by the caller (an environment variable, a value given in a test).
    Value(Secret),
}

/// Plain data: directories, secrets and agents by name.
pub struct LocalSession {
    id: String,
    dirs: BTreeMap<String, PathBuf>,
    oci_stores: BTreeMap<String, PathBuf>,
    secrets: BTreeMap<String, SecretSource>,
    agents: Vec<Running>,
    uploads: BTreeMap<String, PathBuf>,
}

impl LocalSession {
    pub fn new(id: impl Into<String>) -> Self {
        LocalSession {
            id: id.into(),
            dirs: BTreeMap::new(),
            oci_stores: BTreeMap::new(),
            secrets: BTreeMap::new(),
            agents: Vec::new(),
            uploads: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn with_dir(mut self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.dirs.insert(name.into(), path.into());
        self
    }

    /// Offers the OCI layout in the directory `path` under this id.
    #[must_use]
    pub fn with_oci_store(mut self, id: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.oci_stores.insert(id.into(), path.into());
        self
    }

    #[must_use]
    pub fn with_secret(mut self, id: impl Into<String>, source: SecretSource) -> Self {
        self.secrets.insert(id.into(), source);
        self
    }

    #[must_use]
    pub fn with_agent(mut self, agent: Agent) -> Self {
        self.agents.push(Running::new(agent));
        self
    }

    /// Offers a file as what the address `http://buildkit-session/ID` leads to.
    #[must_use]
    pub fn with_upload(mut self, id: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        self.uploads.insert(id.into(), file.into());
        self
    }

    /// The directory that was given for a name.
    pub fn local_dir(&self, name: &str) -> Option<PathBuf> {
        self.dirs.get(name).cloned()
    }
}

fn in_place(path: PathBuf) -> LocalDir {
    LocalDir {
        path,
        transferred: None,
        still: false,
        hold: None,
    }
}

#[async_trait]
impl Session for LocalSession {
    fn id(&self) -> &str {
        &self.id
    }

    async fn local(
        &self,
        request: &LocalRequest,
        _progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Option<LocalDir>, SessionError> {
        Ok(self.local_dir(&request.name).map(in_place))
    }

    fn local_place(&self, name: &str) -> Option<String> {
        self.local_dir(name).map(|dir| format!("{dir:?}"))
    }

    async fn oci_store(&self, id: &str, _digest: &str) -> Result<Option<LocalDir>, SessionError> {
        Ok(self.oci_stores.get(id).cloned().map(in_place))
    }

    async fn upload(&self, id: &str) -> Result<Option<PathBuf>, SessionError> {
        Ok(self.uploads.get(id).cloned())
    }

    async fn secret(&self, id: &str) -> Result<Option<Secret>, SessionError> {
        match self.secrets.get(id) {
            None => Ok(None),
            Some(SecretSource::Value(secret)) => Ok(Some(Secret::new(secret.expose().to_vec()))),
            Some(SecretSource::File(path)) => read_secret(id, path).await.map(Some),
        }
    }

    async fn ssh_socket(&self, id: &str) -> Result<Option<PathBuf>, SessionError> {
        let Some(agent) = self.agents.iter().find(|agent| agent.id() == id) else {
            return Ok(None);
        };
        let socket = agent.socket().await.map_err(|source| SessionError::Agent {
            id: id.to_owned(),
            source,
        })?;
        Ok(Some(socket.to_owned()))
    }
}

async fn read_secret(id: &str, path: &PathBuf) -> Result<Secret, SessionError> {
    use tokio::io::AsyncReadExt;

    let unreadable = |source| SessionError::SecretUnreadable {
        id: id.to_owned(),
        path: path.clone(),
        source,
    };
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut bytes = Vec::new();
    // One byte past the limit tells "too large" without trusting the file's reported size.
    file.take(MAX_SECRET_BYTES + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(unreadable)?;
    let size = bytes.len() as u64;
    let secret = Secret::new(bytes);
    if size > MAX_SECRET_BYTES {
        return Err(SessionError::SecretTooLarge {
            id: id.to_owned(),
            size,
        });
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_secret_is_read_when_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "first").unwrap();
        let session = LocalSession::new("s").with_secret("token", SecretSource::File(path.clone()));
        std::fs::write(&path, "second").unwrap();
        let secret = session.secret("token").await.unwrap().unwrap();
        assert_eq!(secret.expose(), b"second");
    }

    #[tokio::test]
    async fn an_unknown_secret_is_none_and_a_huge_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge");
        std::fs::write(&path, vec![b'x'; MAX_SECRET_BYTES as usize + 1]).unwrap();
        let session = LocalSession::new("s").with_secret("huge", SecretSource::File(path));
        assert!(session.secret("other").await.unwrap().is_none());
        assert!(matches!(
            session.secret("huge").await,
            Err(SessionError::SecretTooLarge { .. })
        ));
    }
}
