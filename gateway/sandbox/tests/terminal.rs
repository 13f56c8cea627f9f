//! A payload with a terminal.

mod common;

use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};

use common::Rig;
use gateway_sandbox::Stdio;

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

#[tokio::test]
async fn stdin_is_the_controlling_terminal() {
    let rig = Rig::new().await;
    let (master, slave) = terminal();
    let mut spec = rig.shell("test -t 0 && test -t 1 && echo terminal > /dev/tty");
    spec.terminal = true;
    let stdio = Stdio {
        stdin: Some(slave.try_clone().expect("clone")),
        stdout: Some(slave.try_clone().expect("clone")),
        stderr: Some(slave),
    };
    let mut running = rig.launcher.spawn(spec, stdio).await.expect("start");
    assert!(running.wait().await.expect("wait").success());
    let mut seen = [0; 64];
    let length = std::fs::File::from(master).read(&mut seen).expect("read");
    assert_eq!(&seen[..length], b"terminal\r\n");
}
