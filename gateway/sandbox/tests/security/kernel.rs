//! Points 41 to 56 and 78: the kernel's interfaces.

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Command;

use gateway_sandbox::{MountKind, Security};

use crate::places::{Bench, Place, attempts, attempts_in, mount};

#[test]
fn s41_writes_to_proc_and_sys_are_refused() {
    attempts(&[
        ("write:/proc/sysrq-trigger", "EROFS|EACCES|ENOENT"),
        ("write:/proc/sys/kernel/core_pattern", "EROFS|EACCES"),
        ("write:/proc/sys/kernel/hostname", "EROFS|EACCES"),
        ("write:/proc/sys/vm/drop_caches", "EROFS|EACCES"),
        ("write:/proc/sys/net/ipv4/ip_forward", "EROFS|EACCES"),
        ("make:/proc/sys/kernel/new", "EROFS|EACCES|ENOENT"),
        ("write:/proc/irq/default_smp_affinity", "EROFS|EACCES|EIO"),
        ("make:/sys/new", "EROFS|EPERM|EACCES"),
        ("write:/sys/kernel/mm/ksm/run", "EROFS|EACCES|ENOENT"),
        ("write:/proc/1/oom_score_adj", "ok|EACCES"),
        ("read:/dev/kmsg", "ENOENT"),
        ("read:/proc/kmsg", "EPERM|EACCES|ENOENT"),
    ]);
}

#[test]
fn s42_masked_paths_show_nothing() {
    attempts(&[
        ("read:/proc/kcore", "0|ENOENT"),
        ("read:/proc/keys", "0|ENOENT"),
        ("read:/proc/latency_stats", "0|ENOENT"),
        ("read:/proc/timer_list", "0|ENOENT"),
        ("read:/proc/timer_stats", "0|ENOENT"),
        ("read:/proc/sched_debug", "0|ENOENT"),
        ("list:/proc/acpi", "0|ENOENT"),
        ("list:/proc/asound", "0|ENOENT"),
        ("list:/proc/scsi", "0|ENOENT"),
        ("list:/sys/firmware", "0|ENOENT"),
        ("list:/sys/devices/virtual/powercap", "0|ENOENT"),
    ]);
}

/// A block device of this machine, `MAJOR.MINOR`.
fn disk() -> String {
    let partitions = fs::read_to_string("/proc/partitions").unwrap_or_default();
    let line = partitions.lines().nth(2).unwrap_or("254 0");
    let mut fields = line.split_whitespace();
    match (fields.next(), fields.next()) {
        (Some(major), Some(minor)) => format!("{major}.{minor}"),
        _ => "254.0".into(),
    }
}

#[test]
fn s43_a_device_node_cannot_be_opened_wherever_it_is_made() {
    let disk = disk();
    let places = [
        "/node",
        "/tmp/node",
        "/dev/node",
        "/bind/node",
        "/tmpfs/node",
    ];
    // Ordinary users cannot even make one.
    let answer = "made EACCES|EPERM";
    let names: Vec<String> = places
        .iter()
        .flat_map(|path| {
            [
                format!("block:{path}=") + &disk,
                format!("char:{path}=1.3"),
                format!("char:{path}=1.1"),
            ]
        })
        .collect();
    let expected: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), answer)).collect();
    attempts_in(&expected, |bench, spec| {
        fs::create_dir(bench.path("bind")).expect("mkdir");
        let bind = MountKind::Bind {
            source: bench.path("bind"),
            selector: String::new(),
            readonly: false,
        };
        spec.mounts = vec![
            mount("/bind", bind),
            mount("/tmpfs", MountKind::Tmpfs { size_bytes: 0 }),
        ];
    });
}

#[test]
fn a_device_that_was_given_can_be_opened_and_no_other() {
    attempts_in(
        &[
            ("read:/dev/given", "8|4096"),
            ("char:/tmp/own=1.5", "made EACCES|EPERM"),
        ],
        |_, spec| {
            let source = "/dev/zero".into();
            spec.mounts = vec![mount("/dev/given", MountKind::Device { source })];
        },
    );
    let bench = Bench::new(Place::Root);
    let mut spec = bench.shell("true");
    let source = "/etc/passwd".into();
    spec.mounts = vec![mount("/dev/given", MountKind::Device { source })];
    assert!(bench.refusal(&spec).contains("is no device"));
}

#[test]
fn s44_mounts_cannot_be_made_taken_away_or_made_writable() {
    attempts(&[
        ("mount_tmpfs", "EPERM"),
        ("bind", "EPERM"),
        ("remount_rw", "EPERM"),
        ("umount2", "EPERM"),
    ]);
}

#[test]
fn s45_the_new_mount_calls_are_refused() {
    attempts(&[
        ("fsopen", "EPERM"),
        ("fspick", "EPERM"),
        ("fsconfig", "EPERM"),
        ("fsmount", "EPERM"),
        ("open_tree", "EPERM"),
        ("move_mount", "EPERM"),
        ("mount_setattr", "EPERM"),
    ]);
}

#[test]
fn s46_no_other_root_can_be_reached() {
    attempts(&[
        ("pivot_root", "EPERM"),
        ("chroot", "inside"),
        ("same:/..", "root"),
        ("same:/../../../..", "root"),
    ]);
}

#[test]
fn s47_no_namespace_can_be_made() {
    attempts(&[
        ("unshare_user", "EPERM"),
        ("unshare_mnt", "EPERM"),
        ("unshare_net", "EPERM"),
        ("clone_user", "EPERM"),
        ("clone_mnt", "EPERM"),
        ("clone_net", "EPERM"),
        ("clone_pid", "EPERM"),
        ("clone3", "ENOSYS"),
    ]);
}

#[test]
fn s48_no_namespace_can_be_entered() {
    attempts(&[
        ("setns:/proc/self/ns/mnt", "EPERM"),
        ("setns:/proc/self/ns/net", "EPERM"),
        ("setns:/proc/self/ns/user", "EPERM"),
        ("setns:/proc/self/ns/pid", "EPERM"),
    ]);
}

#[test]
fn s49_keys_are_out_of_reach_and_the_session_keyring_is_its_own() {
    attempts(&[
        ("keyctl", "EPERM"),
        ("add_key", "EPERM"),
        ("request_key", "EPERM"),
    ]);
    // Only an unconfined payload can tell which keyring it has.
    for place in Place::ALL {
        let bench = Bench::new(place);
        let mut spec = bench.probe(&["session_keyring"]);
        spec.security = Security::Insecure;
        let inside = bench.output(&spec);
        let outside = Command::new(env!("CARGO_BIN_EXE_sandbox-probe"))
            .args(["try", "session_keyring"])
            .output()
            .expect("probe");
        let outside = String::from_utf8_lossy(&outside.stdout).into_owned();
        assert!(
            inside.starts_with("session_keyring ") && !inside.contains(" E"),
            "{inside}"
        );
        assert_ne!(inside, outside, "{place:?}");
    }
}

#[test]
fn s50_calls_that_reach_into_the_kernel_are_refused() {
    attempts(&[
        ("bpf", "EPERM"),
        ("perf_event_open", "EPERM"),
        ("userfaultfd", "EPERM"),
        ("io_uring_setup", "EPERM"),
        ("io_uring_enter", "EPERM"),
        ("kexec_load", "EPERM"),
        ("init_module", "EPERM"),
        ("finit_module", "EPERM"),
        ("delete_module", "EPERM"),
        ("reboot", "EPERM"),
        ("swapon", "EPERM"),
        ("acct", "EPERM"),
        ("settimeofday", "EPERM"),
        ("clock_settime", "EPERM"),
        ("sethostname", "EPERM"),
        ("syslog", "EPERM"),
        ("quotactl", "EPERM"),
        ("vhangup", "EPERM"),
        ("fanotify_init", "EPERM"),
        ("get_mempolicy", "EPERM"),
    ]);
}

#[test]
fn s51_only_processes_inside_can_be_traced() {
    let outside = std::process::id();
    let outside = format!("trace:{outside}");
    attempts(&[
        ("trace_child", "ok"),
        (outside.as_str(), "ESRCH"),
        ("list:/proc/2", "ENOENT"),
    ]);
}

#[test]
fn s52_sockets_of_the_kernels_crypto_and_of_virtual_machines_are_refused() {
    attempts(&[
        ("seqpacket:38", "EPERM"),
        ("seqpacket:40", "EPERM"),
        ("socket:1", "ok"),
        ("socket:2", "ok"),
    ]);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn s53_other_entries_of_the_kernel_do_not_bypass_the_filter() {
    attempts(&[
        // getpid, mount, umount, unshare, setns, bpf, keyctl, clone3.
        ("i386:20", "ok|EFAULT"),
        ("i386:21", "EPERM|EFAULT"),
        ("i386:52", "EPERM|EFAULT"),
        ("i386:310", "EPERM|EFAULT"),
        ("i386:346", "EPERM|EFAULT"),
        ("i386:357", "EPERM|EFAULT"),
        ("i386:288", "EPERM|EFAULT"),
        ("i386:435", "ENOSYS|EFAULT"),
        ("x32:39", "EPERM|ENOSYS"),
        ("x32:165", "EPERM|ENOSYS"),
        ("x32:272", "EPERM|ENOSYS"),
    ]);
}

#[test]
fn s54_only_harmless_personalities_can_be_taken() {
    attempts(&[
        ("personality:0", "ok"),
        ("personality:8", "ok"),
        ("personality:131072", "ok"),
        ("personality:4294967295", "ok"),
        // ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, MMAP_PAGE_ZERO.
        ("personality:262144", "EPERM"),
        ("personality:4194304", "EPERM"),
        ("personality:1048576", "EPERM"),
    ]);
}

fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both numbers are valid for writes; nothing else is asked for.
    let result = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: two new descriptors that nobody else owns.
    unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) }
}

#[test]
fn s55_nothing_can_be_typed_into_a_terminal_that_is_not_its_own() {
    // The caller stands on a terminal, and so may its descriptors; the payload has none.
    for place in Place::ALL {
        let bench = Bench::new(place);
        let (_master, slave) = terminal();
        let spec = bench.probe(&["tty:/dev/tty", "tty:/proc/self/fd/0"]);
        let mut command = bench.command(&spec);
        command.stdin(slave.try_clone().expect("clone"));
        let output = command.output().expect("run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let [own, stdin] = lines.as_slice() else {
            panic!("{place:?}: {output:?}");
        };
        assert!(
            own.ends_with("ENXIO") || own.ends_with("ENOTTY") || own.ends_with("EIO"),
            "{own}"
        );
        // Found by its number among the sandbox's own terminals, or refused
        // since it is not the controlling one.
        assert!(!stdin.ends_with("typed"), "{place:?}: {stdin}");
    }
}

#[test]
fn s56_files_cannot_be_opened_by_handle() {
    attempts(&[("open_by_handle_at", "EPERM")]);
}

#[test]
fn s78_a_call_newer_than_the_filter_does_not_exist() {
    attempts(&[("name_of_1000", "ENOSYS")]);
}
