//! A host that is not itself: of another year, strict, or going away. Frontends are tested on such. And how a frontend
//! behaved on the wire, which nothing that it asks or returns tells.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use gateway_sandbox::SandboxSpec;
use tokio_util::sync::CancellationToken;

/// In which form results are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forms {
    /// As the frontend asks for them.
    #[default]
    Asked,
    /// Refs as messages, but without the definitions of what they stand for.
    WithoutDefinitions,
    /// Plain ids, as before 2020, whatever the frontend asks for.
    Ids,
    /// One id and nothing else, as in the first hosts.
    FirstId,
}

type Change = Arc<dyn Fn(&mut SandboxSpec) + Send + Sync>;

/// How the host differs.
#[derive(Clone, Default)]
pub struct Conduct {
    /// Changes what the process is given.
    pub process: Option<Change>,
    /// Ping is never answered.
    pub mute: bool,
    pub forms: Forms,
    /// When cancelled, the connection is closed, and the process is left to itself for the usual grace.
    pub leaves: CancellationToken,
    /// What was seen, for whoever keeps a copy.
    pub seen: Arc<Mutex<Manners>>,
}

impl fmt::Debug for Conduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conduct")
            .field("mute", &self.mute)
            .field("forms", &self.forms)
            .finish_non_exhaustive()
    }
}

/// The form of a returned result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnForm {
    /// An error, or a result without refs.
    None,
    Ids,
    Messages,
}

/// How a frontend behaved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manners {
    /// Its requests had an empty `:authority`.
    pub empty_authority: bool,
    /// Its stdout ended within a frame, after it had begun with HTTP/2.
    pub torn: bool,
    /// Solve requests that did not say that their sender takes results, or refs as messages.
    pub narrow_solves: usize,
    /// Streams on which it ran processes in containers.
    pub process_streams: usize,
    /// Processes whose open input it never ended, though it ended their stream: hosts wait for that end after the exit.
    pub open_inputs: usize,
    pub returned: Option<ReturnForm>,
}

impl Conduct {
    pub(crate) fn note(&self, note: impl FnOnce(&mut Manners)) {
        note(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn manners(&self) -> Manners {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
