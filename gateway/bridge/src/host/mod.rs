//! Runs one frontend image: its process in a sandbox, the bridge on its stdin and stdout, and the
//! decision about how the call ended.

pub mod conduct;
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
    /// From the start of the process to its end, with everything it waits for. None: for ever.
    pub timeout: Option<Duration>,
    /// Memory of all its processes together, files it writes included, in bytes. Enforced by a
    /// control group; where none can be made, for the data of each process.
    pub memory_bytes: u64,
    /// Processes and threads. Enforced by a control group; where none can be made, for an ordinary
    /// user's.
    pub processes: u64,
    /// Images without the label against it get this machine's network.
    pub network: bool,
    /// Refs of one call; each is kept until the call ends.
    pub refs: usize,
    /// Definitions of one call's Solve requests, in bytes: the refs keep them.
    pub definition_bytes: usize,
    /// Without a sign of life from it while nothing that it asked for is under way. None: for ever.
    pub idle_timeout: Option<Duration>,
    /// The largest message, both ways, in bytes.
    pub message_bytes: usize,
    /// What its unfinished requests may hold, in bytes; and again as much for answers that it has
    /// not read.
    pub buffered_bytes: usize,
    /// Containers of one call at once; each holds mounts and descriptors.
    pub containers: usize,
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
            // It may wait for builds of hours, but nobody waits a day for what hangs.
            timeout: Some(Duration::from_secs(24 * 60 * 60)),
            // The Dockerfile frontend takes 50 MB; runtimes with a heap of their own take ten times
            // that.
            memory_bytes: 2 << 30,
            // Go takes tens of threads, others a hundred.
            processes: 1024,
            network: true,
            // The largest builds seen solve a few hundred times.
            refs: 10_000,
            // Definitions of a thousand steps take below 1 MB.
            definition_bytes: 256 << 20,
            // It may compute, or fetch something by itself, between two calls; but none of those
            // known does so for minutes.
            idle_timeout: Some(Duration::from_secs(60 * 60)),
            message_bytes: gateway_proto::limits::MAX_MESSAGE_BYTES,
            // Sixteen of the largest messages.
            buffered_bytes: 256 << 20,
            // Frontends seen run a few.
            containers: 256,
        }
    }
}
