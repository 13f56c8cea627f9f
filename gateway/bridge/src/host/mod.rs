//! Runs one frontend image: its process in a sandbox, the bridge on its stdin and stdout, and the
//! decision about how the call ended.

pub mod environment;
pub mod life;
pub mod process;
pub mod stderr;

use std::time::Duration;

/// Limits of a frontend call.
#[derive(Debug, Clone)]
pub struct FrontendLimits {
    /// From the start of the process to its first bytes.
    pub start_timeout: Duration,
    /// From its Return, or the end of its stdout, to its exit. A frontend that stays longer is
    /// killed; its result stands.
    pub exit_grace: Duration,
    /// What it may write to its root file system, in bytes; thrown away with it.
    pub scratch_bytes: u64,
    /// Frontends that call frontends.
    pub depth: usize,
}

impl Default for FrontendLimits {
    fn default() -> Self {
        FrontendLimits {
            // A frontend speaks within milliseconds; a loaded machine may take seconds.
            start_timeout: Duration::from_secs(60),
            exit_grace: Duration::from_secs(10),
            scratch_bytes: 1 << 30,
            // The Dockerfile frontend forwards once, named contexts of others a few times more.
            depth: 10,
        }
    }
}
