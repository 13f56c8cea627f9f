//! System calls that need nothing to be prepared: most are the filter's to
//! refuse, before their arguments matter.

use crate::{Outcome, checked};

/// A call with up to five integer arguments.
type Call = (&'static str, libc::c_long, [libc::c_long; 5]);

const SIGCHLD: libc::c_long = libc::SIGCHLD as libc::c_long;

/// Calls whose arguments are integers or null pointers, which the kernel
/// checks before it follows them.
const CALLS: [Call; 42] = [
    ("umount2", libc::SYS_umount2, [0; 5]),
    ("fsopen", libc::SYS_fsopen, [0; 5]),
    ("fspick", libc::SYS_fspick, [0; 5]),
    ("fsconfig", libc::SYS_fsconfig, [-1, 0, 0, 0, 0]),
    ("fsmount", libc::SYS_fsmount, [-1, 0, 0, 0, 0]),
    ("open_tree", libc::SYS_open_tree, [-100, 0, 1, 0, 0]),
    ("move_mount", libc::SYS_move_mount, [-1, 0, -1, 0, 0]),
    ("mount_setattr", libc::SYS_mount_setattr, [-1, 0, 0, 0, 0]),
    ("pivot_root", libc::SYS_pivot_root, [0; 5]),
    ("swapon", libc::SYS_swapon, [0; 5]),
    ("reboot", libc::SYS_reboot, [0; 5]),
    ("acct", libc::SYS_acct, [0; 5]),
    ("settimeofday", libc::SYS_settimeofday, [0; 5]),
    ("clock_settime", libc::SYS_clock_settime, [0; 5]),
    ("sethostname", libc::SYS_sethostname, [0; 5]),
    ("syslog", libc::SYS_syslog, [3, 0, 0, 0, 0]),
    ("quotactl", libc::SYS_quotactl, [0; 5]),
    ("vhangup", libc::SYS_vhangup, [0; 5]),
    ("fanotify_init", libc::SYS_fanotify_init, [0; 5]),
    ("name_of_1000", 1000, [0; 5]),
    ("unshare_user", libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0]),
    ("unshare_mnt", libc::SYS_unshare, [0x2_0000, 0, 0, 0, 0]),
    ("unshare_net", libc::SYS_unshare, [0x4000_0000, 0, 0, 0, 0]),
    (
        "clone_user",
        libc::SYS_clone,
        [0x1000_0000 | SIGCHLD, 0, 0, 0, 0],
    ),
    (
        "clone_mnt",
        libc::SYS_clone,
        [0x2_0000 | SIGCHLD, 0, 0, 0, 0],
    ),
    (
        "clone_net",
        libc::SYS_clone,
        [0x4000_0000 | SIGCHLD, 0, 0, 0, 0],
    ),
    (
        "clone_pid",
        libc::SYS_clone,
        [0x2000_0000 | SIGCHLD, 0, 0, 0, 0],
    ),
    ("clone3", libc::SYS_clone3, [0; 5]),
    ("keyctl", libc::SYS_keyctl, [0, -3, 0, 0, 0]),
    ("add_key", libc::SYS_add_key, [0; 5]),
    ("request_key", libc::SYS_request_key, [0; 5]),
    ("bpf", libc::SYS_bpf, [0; 5]),
    (
        "perf_event_open",
        libc::SYS_perf_event_open,
        [0, 0, -1, -1, 0],
    ),
    ("userfaultfd", libc::SYS_userfaultfd, [0; 5]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
    ("io_uring_enter", libc::SYS_io_uring_enter, [-1, 0, 0, 0, 0]),
    ("kexec_load", libc::SYS_kexec_load, [0; 5]),
    ("init_module", libc::SYS_init_module, [0; 5]),
    ("finit_module", libc::SYS_finit_module, [-1, 0, 0, 0, 0]),
    ("delete_module", libc::SYS_delete_module, [0; 5]),
    (
        "open_by_handle_at",
        libc::SYS_open_by_handle_at,
        [-100, 0, 0, 0, 0],
    ),
    ("get_mempolicy", libc::SYS_get_mempolicy, [0; 5]),
];

pub(crate) fn attempt(name: &str, argument: &str) -> Option<Outcome> {
    let number = || argument.parse::<libc::c_long>().unwrap_or(0);
    if let Some((_, call, arguments)) = CALLS.iter().find(|(known, _, _)| *known == name) {
        return Some(raw(*call, *arguments).map(ok));
    }
    Some(match name {
        // A family that works proves that the call itself is there.
        "socket" => raw(
            libc::SYS_socket,
            [number(), libc::SOCK_DGRAM.into(), 0, 0, 0],
        )
        .map(ok),
        "raw_socket" => raw(libc::SYS_socket, [2, libc::SOCK_RAW.into(), 1, 0, 0]).map(ok),
        "seqpacket" => raw(
            libc::SYS_socket,
            [number(), libc::SOCK_SEQPACKET.into(), 0, 0, 0],
        )
        .map(ok),
        "personality" => raw(libc::SYS_personality, [number(), 0, 0, 0, 0]).map(ok),
        "session_keyring" => raw(libc::SYS_keyctl, [0, -3, 0, 0, 0]).map(|id| id.to_string()),
        "x32" => raw(0x4000_0000 | number(), [0; 5]).map(ok),
        "i386" => i386(number()),
        "mount_tmpfs" => mount(c"none", c"/tmp", Some(c"tmpfs"), 0),
        "bind" => mount(c"/proc", c"/tmp", None, libc::MS_BIND),
        "remount_rw" => mount(
            c"none",
            c"/proc/sys",
            None,
            libc::MS_REMOUNT | libc::MS_BIND,
        ),
        _ => return None,
    })
}

fn ok(_: libc::c_long) -> String {
    "ok".into()
}

/// In a child, so that a call that works changes nothing here, and none is
/// killed by a signal unseen.
fn raw(call: libc::c_long, [a, b, c, d, e]: [libc::c_long; 5]) -> Result<libc::c_long, i32> {
    in_child(|| {
        // SAFETY: arguments are integers or null; in the tables above no call
        // writes through them before it looked at them, and a child that comes
        // back twice (clone) ends at once.
        checked(unsafe { libc::syscall(call, a, b, c, d, e) })
    })
}

fn mount(
    source: &std::ffi::CStr,
    target: &std::ffi::CStr,
    kind: Option<&std::ffi::CStr>,
    flags: libc::c_ulong,
) -> Outcome {
    in_child(|| {
        let kind = kind.map_or(std::ptr::null(), std::ffi::CStr::as_ptr);
        // SAFETY: C strings that live until the call returns, and null.
        let result = unsafe {
            libc::mount(
                source.as_ptr(),
                target.as_ptr(),
                kind,
                flags,
                std::ptr::null(),
            )
        };
        checked(result.into())
    })
    .map(ok)
}

/// A call by the 32 bit entry of the kernel.
#[cfg(target_arch = "x86_64")]
fn i386(number: libc::c_long) -> Outcome {
    in_child(|| {
        let result: i64;
        // SAFETY: arguments are null, which the kernel checks; rbx is kept for
        // the compiler, which reserves it.
        unsafe {
            std::arch::asm!(
                "push rbx",
                "xor ebx, ebx",
                "int 0x80",
                "pop rbx",
                inlateout("rax") number => result,
                in("rcx") 0_u64,
                in("rdx") 0_u64,
                in("rsi") 0_u64,
                in("rdi") 0_u64,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        match result as i32 {
            error @ -4095..=-1 => Err(-error),
            value => Ok(value.into()),
        }
    })
    .map(ok)
}

#[cfg(not(target_arch = "x86_64"))]
fn i386(_: libc::c_long) -> Outcome {
    Err(libc::ENOSYS)
}

/// Runs it in a forked child; a child that a signal ended counts as `EFAULT`.
pub(crate) fn in_child(
    work: impl FnOnce() -> Result<libc::c_long, i32>,
) -> Result<libc::c_long, i32> {
    let (mut read, write) = std::io::pipe().map_err(|error| crate::io(&error))?;
    // SAFETY: this program has a single thread.
    let pid = checked(unsafe { libc::fork() }.into())?;
    if pid == 0 {
        use std::io::Write;
        let outcome = work();
        let (kind, value) = match outcome {
            Ok(value) => (0_u8, value),
            Err(errno) => (1, errno.into()),
        };
        let mut bytes = vec![kind];
        bytes.extend(value.to_ne_bytes());
        let mut write = write;
        let _ = write.write_all(&bytes);
        // SAFETY: _exit has no preconditions.
        unsafe { libc::_exit(0) }
    }
    drop(write);
    let mut bytes = [0; 9];
    let said = std::io::Read::read_exact(&mut read, &mut bytes);
    // SAFETY: a null status is allowed.
    unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), 0) };
    if said.is_err() {
        return Err(libc::EFAULT);
    }
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[1..]);
    let value = i64::from_ne_bytes(value);
    match bytes[0] {
        0 => Ok(value),
        _ => Err(value as i32),
    }
}
