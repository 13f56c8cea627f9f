//! Which system calls a confined payload may make: the default set of
//! container engines, with the capabilities of a step.

use std::collections::{BTreeMap, HashSet};

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Allow,
    /// Not for a confined payload (EPERM).
    Deny,
    /// As if the kernel did not have it (ENOSYS): callers then fall back.
    Missing,
    /// Allowed if the first argument has none of these bits.
    NoBits(u32),
    /// Allowed unless the first argument is one of these.
    NoneOf(&'static [u32]),
    /// Allowed if the first argument is one of these.
    OneOf(&'static [u32]),
}

/// For whom the filter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Step,
    /// A program that only computes and talks over its descriptors.
    Frontend,
}

/// What a frontend has no use for on top: looking into other processes,
/// devices, other roots, other owners' files.
const NOT_FOR_FRONTENDS: [&str; 11] = [
    "chroot",
    "kcmp",
    "mknod",
    "mknodat",
    "modify_ldt",
    "pidfd_getfd",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "socketcall",
];

/// The flags of `clone` that make new namespaces.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;
const AF_UNIX: u32 = 1;
const AF_ALG: u32 = 38;
const AF_VSOCK: u32 = 40;
/// Plain Linux, 32 bit Linux, both with UNAME26, and the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// One architecture's system calls: `(number, name)` by number.
pub(super) struct Table {
    /// `AUDIT_ARCH_*`
    pub arch: u32,
    pub calls: Vec<(u32, &'static str)>,
    /// Numbers with this bit belong to an ABI that is not supported.
    pub foreign_bit: Option<u32>,
}

/// The tables that apply on this machine, the most used first.
pub(super) fn tables() -> Vec<Table> {
    let mut tables = Vec::new();
    if cfg!(target_arch = "x86_64") {
        tables.push(Table {
            arch: 0xc000_003e,
            calls: parse(include_str!("data/x86_64.txt")),
            foreign_bit: Some(0x4000_0000),
        });
        // 32 bit programs are legal in 64 bit images.
        tables.push(Table {
            arch: 0x4000_0003,
            calls: parse(include_str!("data/i386.txt")),
            foreign_bit: None,
        });
    } else if cfg!(target_arch = "aarch64") {
        tables.push(Table {
            arch: 0xc000_00b7,
            calls: parse(include_str!("data/aarch64.txt")),
            foreign_bit: None,
        });
    }
    tables
}

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

fn parse(text: &'static str) -> Vec<(u32, &'static str)> {
    lines(text)
        .filter_map(|line| {
            let (number, name) = line.split_once(' ')?;
            Some((number.parse().ok()?, name))
        })
        .collect()
}

/// The names allowed with any arguments.
pub(super) fn allowed() -> HashSet<&'static str> {
    lines(include_str!("data/allowed.txt")).collect()
}

/// The rule for a call by name.
pub(super) fn rule(policy: Policy, name: &str, allowed: &HashSet<&str>) -> Rule {
    if policy == Policy::Frontend {
        match name {
            "socket" => return Rule::OneOf(&[AF_UNIX]),
            name if NOT_FOR_FRONTENDS.contains(&name) => return Rule::Deny,
            _ => {}
        }
    }
    match name {
        "clone" => Rule::NoBits(NAMESPACE_FLAGS),
        // Its flags are in memory, where a filter cannot look.
        "clone3" => Rule::Missing,
        "socket" => Rule::NoneOf(&[AF_ALG, AF_VSOCK]),
        "personality" => Rule::OneOf(&PERSONALITIES),
        name if allowed.contains(name) => Rule::Allow,
        _ => Rule::Deny,
    }
}

/// The rule of every call that this machine's tables know, by name.
pub(crate) fn by_name(policy: Policy) -> BTreeMap<&'static str, Rule> {
    let allowed = allowed();
    tables()
        .into_iter()
        .flat_map(|table| table.calls)
        .map(|(_, name)| (name, rule(policy, name, &allowed)))
        .collect()
}
