//! System calls that have no safe wrapper elsewhere. Every `unsafe` block of
//! the start-up path that is not a fork lives here.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    let errno = io::Error::last_os_error().raw_os_error();
    Err(Errno::from_raw_os_error(errno.unwrap_or(libc::EIO)))
}

/// What `clone3` made.
pub(crate) enum Cloned {
    Parent { pidfd: OwnedFd },
    Child,
}

/// Forks into new namespaces.
///
/// # Safety
/// The caller must be single-threaded: the child gets a copy of the heap and
/// its locks as they are at this moment.
pub(crate) unsafe fn clone3(namespaces: u64) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    let mut args = libc::clone_args {
        flags: namespaces | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: `args` is a valid clone_args that outlives the call; without
    // CLONE_VM this is a fork, which the caller's promise makes sound.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent { pidfd })
}

pub(crate) const ATTR_RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(crate) const ATTR_NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(crate) const ATTR_NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(crate) const ATTR_NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Adds attributes to a mount (`path` empty: the one `dirfd` refers to) and
/// optionally sets the propagation (`MS_PRIVATE`).
pub(crate) fn mount_setattr(
    dirfd: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attributes: u64,
    propagation: u64,
) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a C string and `attr` a mount_attr of the size
    // given; the kernel only reads them.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dirfd.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Pointers to C strings with the terminating null that `exec` wants. Borrows
/// the strings.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
    pointers.push(std::ptr::null());
    pointers
}

/// Becomes another program; returns only on failure.
pub(crate) fn execve(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: all pointers are to C strings that live until the call returns,
    // and both arrays end with null.
    let result = unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    check(result.into()).err().unwrap_or(Errno::IO)
}

/// Becomes the program behind a descriptor; returns only on failure.
pub(crate) fn execveat(program: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> Errno {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: as for `execve`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    check(result).err().unwrap_or(Errno::IO)
}

/// Marks every descriptor from `first` on to be closed by `exec`.
pub(crate) fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: changes flags of descriptors only, closes none.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// Makes `fd` the descriptor number `number`, not closed by `exec`.
pub(crate) fn place_fd(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: only called in the process that is about to exec, for the
    // numbers 0 to 2, which no Rust value of this process owns.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())?;
    Ok(())
}

/// Resets every signal's disposition and unblocks all: the Rust runtime
/// ignores SIGPIPE, which programs do not expect, and whoever started us may
/// have ignored others.
pub(crate) fn reset_signals() {
    /// The kernel's sigaction: handler (null is SIG_DFL), flags, restorer,
    /// mask.
    const DEFAULT: [u64; 4] = [0; 4];
    const MASK_SIZE: usize = 8;
    for signal in 1..=64 {
        // Raw, because the C library keeps two signals to itself.
        // SAFETY: installs no handler and only reads the structure; failures
        // (SIGKILL, SIGSTOP) do not matter.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<u64>(),
                MASK_SIZE,
            )
        };
    }
    // SAFETY: the set is initialised by sigemptyset before it is read.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Ends the process without running anything registered for its end: what is
/// registered belongs to the zygote this process was cloned from.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Gives the process a session keyring of its own; without it the payload
/// would share the launcher's keys.
pub(crate) fn join_new_session_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring. Kernels without
    // keyrings or filters that refuse the call leave nothing to protect.
    unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
}

/// Sets one resource limit.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` is valid for reads, the old value is not asked for.
    check(
        unsafe { libc::prlimit64(0, resource as _, &raw const limit, std::ptr::null_mut()) }.into(),
    )?;
    Ok(())
}

/// Sets the three capability sets of this thread.
pub(crate) fn set_capabilities(
    effective: u64,
    permitted: u64,
    inheritable: u64,
) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    /// `_LINUX_CAPABILITY_VERSION_3`: two words per set.
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let word = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: both structures have the layout of version 3 and are only read.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    Ok(())
}

/// The permitted capabilities of this thread.
pub(crate) fn permitted_capabilities() -> Result<u64, Errno> {
    Ok(rustix::thread::capabilities(None)?.permitted.bits())
}

/// `prctl` with integer arguments.
pub(crate) fn prctl(option: libc::c_int, argument: u64, argument2: u64) -> Result<(), Errno> {
    // SAFETY: only called with options whose arguments are integers.
    check(unsafe { libc::prctl(option, argument, argument2, 0, 0) }.into())?;
    Ok(())
}

/// Installs a system call filter for the rest of the process's life.
pub(crate) fn install_seccomp(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program and its length are valid for reads; the kernel
    // checks and copies it and does not write through the pointer.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })?;
    Ok(())
}

/// Replaces user and group ids and the supplementary groups (`None`: leaves
/// the groups, for user namespaces that may not set them).
pub(crate) fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<(), Errno> {
    // SAFETY: the groups are valid for reads of the length given; the other
    // calls take integers. Raw calls: this process has a single thread, and
    // glibc's wrappers would look for others.
    unsafe {
        if let Some(groups) = groups {
            check(libc::syscall(
                libc::SYS_setgroups,
                groups.len(),
                groups.as_ptr(),
            ))?;
        }
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Makes stdin the controlling terminal.
pub(crate) fn set_controlling_terminal() -> Result<(), Errno> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }.into())?;
    Ok(())
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is valid for reads and writes during the call.
    check(
        unsafe {
            libc::ioctl(
                socket.as_fd().as_raw_fd(),
                // C libraries differ in the type of requests.
                libc::SIOCSIFFLAGS as _,
                &raw mut request,
            )
        }
        .into(),
    )?;
    Ok(())
}

/// Forks.
///
/// # Safety
/// The caller must be single-threaded, as for [`clone3`].
pub(crate) unsafe fn fork() -> Result<libc::pid_t, Errno> {
    // SAFETY: the caller's promise.
    Ok(check(unsafe { libc::fork() }.into())? as libc::pid_t)
}

/// Moves this process (and its future children, as flags say) into new
/// namespaces.
pub(crate) fn unshare(namespaces: libc::c_int) -> Result<(), Errno> {
    // SAFETY: only namespaces are unshared, never the descriptor table or the
    // memory, so no Rust value is affected.
    check(unsafe { libc::unshare(namespaces) }.into())?;
    Ok(())
}

/// Joins namespaces of the process behind a pidfd, or the namespace behind a
/// descriptor of one.
pub(crate) fn setns(fd: BorrowedFd<'_>, namespaces: libc::c_int) -> Result<(), Errno> {
    // SAFETY: takes integers; changes namespaces only, as for `unshare`.
    check(unsafe { libc::setns(fd.as_raw_fd(), namespaces) }.into())?;
    Ok(())
}

/// Waits for any child and gives its raw wait status.
pub(crate) fn wait_child(pid: libc::pid_t) -> Result<i32, Errno> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is valid for writes.
        match check(unsafe { libc::waitpid(pid, &raw mut status, 0) }.into()) {
            Ok(_) => return Ok(status),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Descriptor 0, which lives as long as the process.
pub(crate) fn stdin() -> BorrowedFd<'static> {
    // SAFETY: only the zygote asks; its descriptor 0 is the control socket,
    // which it never closes.
    unsafe { BorrowedFd::borrow_raw(0) }
}

/// Sends a signal by number through a process's descriptor.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes integers and a null siginfo, which means a plain signal.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// How a process ended, and what it and the children it waited for used.
pub(crate) struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub used: libc::rusage,
}

/// Waits for the end of a child and takes it off the kernel's list.
pub(crate) fn wait_process(pidfd: BorrowedFd<'_>) -> Result<Ended, Errno> {
    // SAFETY: both structures are plain data, for which zeroes are a value; the kernel fills them.
    // The library's waitid has no room for the second.
    let (info, used) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let mut used: libc::rusage = std::mem::zeroed();
        check(libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            pidfd.as_raw_fd(),
            &raw mut info,
            libc::WEXITED,
            &raw mut used,
        ))?;
        (info, used)
    };
    // SAFETY: waitid filled the part of a child's end.
    let status = unsafe { info.si_status() };
    let exited = info.si_code == libc::CLD_EXITED;
    Ok(Ended {
        code: exited.then_some(status),
        signal: (!exited).then_some(status),
        used,
    })
}

/// Signals as something to read; they are blocked for the process as long as
/// it lives.
pub(crate) struct SignalFd(OwnedFd);

impl SignalFd {
    pub(crate) fn new(signals: &[i32]) -> Result<SignalFd, Errno> {
        // SAFETY: the set is initialised by sigemptyset before it is read; the
        // descriptor is new and owned by nobody else.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in signals {
                libc::sigaddset(&raw mut set, *signal);
            }
            check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            check(fd.into())?;
            Ok(SignalFd(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// The next pending signal and whether the kernel sent it.
    pub(crate) fn next(&self) -> Option<(i32, bool)> {
        let mut buffer = [0; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut buffer) {
            Ok(length) if length == buffer.len() => {}
            _ => return None,
        }
        // SAFETY: the kernel filled a whole structure, which is plain data.
        let info: libc::signalfd_siginfo =
            unsafe { std::ptr::read_unaligned(buffer.as_ptr().cast()) };
        Some((info.ssi_signo as i32, info.ssi_code > 0))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
