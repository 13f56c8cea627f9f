//! The BuildKit Control API over the engine: clients connect, open a session with what they offer,
//! and drive builds. Also the HTTP front that `docker build` speaks first.
//!
//! What may not enter: how builds are solved (asks the engine); command lines, configuration files,
//! the environment (the command line reads those and hands values in).

mod connection;
mod content;
mod control;
mod docker;
#[doc(hidden)]
pub mod fuzzing;
mod grants;
mod handshakes;
mod inherited;
mod peer;
mod proto;
mod serve;
mod session;
mod state;
mod stopped;
mod tls;
mod trace;

pub use grants::{
    CertificateName, Entitlement, Fingerprint, Grants, NoCertificateName, NoFingerprint, Rule,
    UnknownEntitlement,
};
pub use inherited::inherited;
pub use serve::{Listener, Served};
pub use state::{Daemon, DaemonOptions, HistoryLimits, PeerLimits, Policies, Worker};
pub use tls::{TlsError, TlsFiles, acceptor};
pub use trace::{Collector, CollectorProtocol, CollectorTls};
