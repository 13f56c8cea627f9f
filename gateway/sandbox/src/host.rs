//! What a zygote finds out about the machine once, and each sandbox needs.

use crate::cgroup;
use crate::seccomp::{self, Policy};

/// What the zygote knows about the machine and each sandbox's process needs.
#[derive(Clone)]
pub(crate) struct Host {
    /// Not all ids are mapped: device nodes cannot be made, overlays keep
    /// their marks in `user.` attributes.
    pub user_namespace: bool,
    /// Whether supplementary groups may be set.
    pub setgroups: bool,
    /// Whether group 5, the usual owner of terminals, exists here.
    pub tty_group: bool,
    /// The only control group hierarchy is version 2.
    pub pure_cgroup2: bool,
    /// The system call filters, compiled once.
    pub step_filter: Vec<libc::sock_filter>,
    pub frontend_filter: Vec<libc::sock_filter>,
    /// Distinguishes this zygote's control groups from others'.
    pub instance: String,
    /// The network that [`crate::Network::Isolated`] means, once it is there.
    pub isolated: Option<std::sync::Arc<std::os::fd::OwnedFd>>,
}

impl Host {
    pub(crate) fn inspect() -> Host {
        let maps = |file| {
            std::fs::read_to_string(file)
                .map(|text| parse_id_map(&text))
                .unwrap_or_default()
        };
        let whole = [(0, 0, u64::from(u32::MAX))];
        // Asked here, it need not be asked by each of its children.
        crate::overlay::takes_layers_one_by_one();
        let groups = maps("/proc/self/gid_map");
        let setgroups = std::fs::read_to_string("/proc/self/setgroups");
        Host {
            user_namespace: maps("/proc/self/uid_map") != whole,
            setgroups: setgroups.is_ok_and(|text| text.trim() == "allow"),
            tty_group: groups
                .iter()
                .any(|(inside, _, length)| (*inside..inside + length).contains(&5)),
            pure_cgroup2: cgroup::is_pure_version_2(),
            step_filter: seccomp::compile(Policy::Step),
            frontend_filter: seccomp::compile(Policy::Frontend),
            instance: instance(),
            isolated: None,
        }
    }
}

/// A name that no other zygote of this machine has: process numbers of
/// namespaces repeat, namespace numbers of living ones do not.
fn instance() -> String {
    std::fs::read_link("/proc/self/ns/mnt")
        .map(|link| {
            let text = link.to_string_lossy().into_owned();
            text.chars().filter(char::is_ascii_digit).collect()
        })
        .unwrap_or_else(|_| "sandbox".to_owned())
}

/// `(inside, outside, length)` of each line.
fn parse_id_map(text: &str) -> Vec<(u64, u64, u64)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().map(str::parse);
            match (fields.next()?, fields.next()?, fields.next()?) {
                (Ok(inside), Ok(outside), Ok(length)) => Some((inside, outside, length)),
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_maps_are_read_line_by_line() {
        let text = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(parse_id_map(text), [(0, 1000, 1), (1, 100_000, 65536)]);
    }
}
