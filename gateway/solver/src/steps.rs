//! How processes of builds are run where the op does not say: a matter of the machine and its
//! administrator, never of a cache key.

use std::path::PathBuf;

use gateway_llb::pb;
use gateway_sandbox::{Network, SandboxSpec};

/// Configuration, as a value.
#[derive(Debug, Clone)]
pub struct StepOptions {
    /// An OCI runtime that makes the containers of steps; `None`: the sandbox's own launcher does.
    pub runtime: Option<PathBuf>,
    /// What the network mode "unset" means.
    pub network: Network,
    /// Processes and threads of one step, where control groups can be made; `None`: any number.
    pub max_processes: Option<u64>,
    /// Where the machine's devices are described.
    pub cdi_dirs: Vec<PathBuf>,
}

impl Default for StepOptions {
    fn default() -> Self {
        StepOptions {
            runtime: None,
            // As the reference does without a network of its own.
            network: Network::Host,
            max_processes: Some(usual_processes()),
            cdi_dirs: ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"]
                .map(PathBuf::from)
                .to_vec(),
        }
    }
}

/// No build is known to need more; a fork bomb stops here, whatever the machine could hold.
const MOST_PROCESSES: u64 = 32_768;
/// Less than this, parallel compilers on small machines may need.
const LEAST_PROCESSES: u64 = 1024;

/// A quarter of what the kernel has for everybody.
fn usual_processes() -> u64 {
    let read = |path: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let of_all = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"]
        .into_iter()
        .filter_map(read)
        .min();
    of_all
        .unwrap_or(MOST_PROCESSES)
        .div_euclid(4)
        .clamp(LEAST_PROCESSES, MOST_PROCESSES)
}

impl StepOptions {
    /// The network of a mode.
    pub fn network(&self, mode: pb::NetMode) -> Network {
        match mode {
            pb::NetMode::None => Network::None,
            pb::NetMode::Host => Network::Host,
            pb::NetMode::Unset => self.network.clone(),
        }
    }

    /// Writes what does not depend on the op.
    pub fn apply(&self, spec: &mut SandboxSpec) {
        spec.runtime.clone_from(&self.runtime);
        spec.default_pids = self.max_processes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_limit_is_neither_tiny_nor_all_there_is() {
        let usual = usual_processes();
        assert!((LEAST_PROCESSES..=MOST_PROCESSES).contains(&usual));
    }

    #[test]
    fn only_the_unset_mode_is_a_matter_of_configuration() {
        let options = StepOptions {
            network: Network::Isolated,
            ..StepOptions::default()
        };
        assert_eq!(options.network(pb::NetMode::Unset), Network::Isolated);
        assert_eq!(options.network(pb::NetMode::Host), Network::Host);
        assert_eq!(options.network(pb::NetMode::None), Network::None);
    }
}
