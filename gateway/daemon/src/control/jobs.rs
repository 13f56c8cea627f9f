//! The builds that run.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gateway_api::{Code, Error};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::log::StatusLog;
use crate::peer::Peer;
use crate::stopped;

/// How long a question about a build waits for it.
const EARLY: Duration = Duration::from_secs(6);

/// A build that runs.
pub struct Running {
    peer: Peer,
    pub log: StatusLog,
    pub cancel: CancellationToken,
}

/// All builds that run, by their refs. Cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    running: Mutex<HashMap<String, Arc<Running>>>,
    count: watch::Sender<usize>,
    /// Of one peer at once.
    most: usize,
    /// No more builds; changed under the lock of those that run.
    stopped: AtomicBool,
}

/// A build's entry; gone when dropped.
pub struct Entry {
    jobs: Jobs,
    name: String,
    pub running: Arc<Running>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.log.end();
        let mut running = self.jobs.locked();
        running.remove(&self.name);
        self.jobs.0.count.send_replace(running.len());
    }
}

impl Jobs {
    /// With so many builds of one peer at once.
    pub fn new(most: usize) -> Jobs {
        Jobs(Arc::new(Inner {
            running: Mutex::default(),
            count: watch::Sender::new(0),
            most,
            stopped: AtomicBool::new(false),
        }))
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Arc<Running>>> {
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// When a build of this name runs, or too many of this peer, or the daemon is being stopped.
    pub fn start(&self, peer: &Peer, name: &str, log: StatusLog) -> Result<Entry, Error> {
        let mut running = self.locked();
        if self.is_stopped() {
            return Err(stopped::refused());
        }
        if running.contains_key(name) {
            return Err(Error::new(
                Code::AlreadyExists,
                format!("job ID {name} exists"),
            ));
        }
        let same = running.values().filter(|other| other.peer == *peer);
        let most = self.0.most;
        if same.count() >= most {
            return Err(Error::new(
                Code::ResourceExhausted,
                format!("{most} builds of one client run already"),
            ));
        }
        let entry = Arc::new(Running {
            peer: peer.clone(),
            log,
            cancel: CancellationToken::new(),
        });
        running.insert(name.to_owned(), entry.clone());
        self.0.count.send_replace(running.len());
        Ok(Entry {
            jobs: self.clone(),
            name: name.to_owned(),
            running: entry,
        })
    }

    pub fn get(&self, name: &str) -> Option<Arc<Running>> {
        self.locked().get(name).cloned()
    }

    /// Cancels a build of this peer; those of others are none of its business.
    pub fn cancel(&self, peer: &Peer, name: &str) {
        if let Some(running) = self.get(name).filter(|running| running.peer == *peer) {
            running.cancel.cancel();
        }
    }

    /// One that may come yet.
    pub async fn find(&self, name: &str) -> Option<Arc<Running>> {
        let mut count = self.0.count.subscribe();
        let found = async {
            loop {
                if let Some(running) = self.get(name) {
                    return running;
                }
                if count.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(EARLY, found).await.ok()
    }

    pub fn count(&self) -> watch::Receiver<usize> {
        self.0.count.subscribe()
    }

    /// Cancels all, and lets no more begin.
    pub fn stop(&self) {
        let running = self.locked();
        self.0.stopped.store(true, Ordering::SeqCst);
        for running in running.values() {
            running.cancel.cancel();
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }
}
