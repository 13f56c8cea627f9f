//! Takes away what the payload must not have: limits, keys, capabilities,
//! system calls, the user. Nothing privileged is possible afterwards.

use super::user::User;
use crate::error::{At, SetupError, Stage};
use crate::host::Host;
use crate::spec::{Profile, SandboxSpec, Security, Ulimit};
use crate::sys;

const STAGE: Stage = Stage::Privileges;

/// Capabilities of a confined payload run by root: CHOWN, DAC_OVERRIDE,
/// FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW,
/// SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP. As observed in a BuildKit step.
pub(super) const STEP_CAPABILITIES: u64 = 0xa804_25fb;

/// Applies resource limits.
pub(super) fn limit(ulimits: &[Ulimit]) -> Result<(), SetupError> {
    for ulimit in ulimits {
        let name = ulimit.name.to_ascii_lowercase();
        let resource = match name.as_str() {
            "as" => libc::RLIMIT_AS,
            "core" => libc::RLIMIT_CORE,
            "cpu" => libc::RLIMIT_CPU,
            "data" => libc::RLIMIT_DATA,
            "fsize" => libc::RLIMIT_FSIZE,
            "locks" => libc::RLIMIT_LOCKS,
            "memlock" => libc::RLIMIT_MEMLOCK,
            "msgqueue" => libc::RLIMIT_MSGQUEUE,
            "nice" => libc::RLIMIT_NICE,
            "nofile" => libc::RLIMIT_NOFILE,
            "nproc" => libc::RLIMIT_NPROC,
            "rss" => libc::RLIMIT_RSS,
            "rtprio" => libc::RLIMIT_RTPRIO,
            "rttime" => libc::RLIMIT_RTTIME,
            "sigpending" => libc::RLIMIT_SIGPENDING,
            "stack" => libc::RLIMIT_STACK,
            _ => {
                let detail = format!("there is no limit called {name}");
                return Err(SetupError::new(Stage::Limits, 0, detail));
            }
        };
        // -1 becomes RLIM_INFINITY.
        sys::set_rlimit(resource as u32, ulimit.soft as u64, ulimit.hard as u64)
            .at(Stage::Limits, || {
                format!("setting {name} to {}:{}", ulimit.soft, ulimit.hard)
            })?;
    }
    Ok(())
}

/// Drops privileges. The order matters: without `no_new_privs` a filter can
/// only be installed with CAP_SYS_ADMIN, so it comes before capabilities go.
pub(super) fn drop(spec: &SandboxSpec, host: &Host, user: &User) -> Result<(), SetupError> {
    sys::join_new_session_keyring();
    if spec.wants_no_new_privs() {
        rustix::thread::set_no_new_privs(true).at(STAGE, || "no_new_privs".into())?;
    }
    let had = sys::permitted_capabilities().at(STAGE, || "reading capabilities".into())?;
    let insecure = spec.security == Security::Insecure;
    let keep = match spec.profile {
        _ if insecure => had,
        Profile::Step => STEP_CAPABILITIES & had,
        Profile::FrontendStrict | Profile::FrontendCompat => 0,
    };
    for capability in 0..64 {
        if keep & (1 << capability) == 0
            && sys::prctl(libc::PR_CAPBSET_DROP, capability, 0).is_err()
        {
            // Past the kernel's last capability.
            break;
        }
    }
    if !insecure {
        let filter = match spec.profile {
            Profile::Step | Profile::FrontendCompat => &host.step_filter,
            Profile::FrontendStrict => &host.frontend_filter,
        };
        sys::install_seccomp(filter).at(STAGE, || "installing the system call filter".into())?;
    }
    let become_user = || {
        let groups = host.setgroups.then_some(user.groups.as_slice());
        sys::become_user(user.uid, user.gid, groups).at(STAGE, || {
            let unmapped = if host.user_namespace {
                " (in a user namespace only mapped ids exist; see /etc/subuid and /etc/subgid)"
            } else {
                ""
            };
            format!("becoming user {}:{}{unmapped}", user.uid, user.gid)
        })
    };
    if insecure {
        sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).at(STAGE, || "keeping capabilities".into())?;
        become_user()?;
        sys::set_capabilities(keep, keep, keep).at(STAGE, || "setting capabilities".into())?;
        for capability in (0..64).filter(|c| keep & (1 << c) != 0) {
            sys::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE as u64,
                capability,
            )
            .at(STAGE, || format!("keeping capability {capability}"))?;
        }
        return Ok(());
    }
    become_user()?;
    // Another user's capabilities went with the ids.
    let now = if user.uid == 0 { keep } else { 0 };
    sys::set_capabilities(now, now, 0).at(STAGE, || "setting capabilities".into())
}
