//! A payload with a terminal.

mod common;

use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;

use common::{RUNTIMES, Rig};
use gateway_sandbox::{ProcessSpec, Stdio};

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

fn stdio_of(slave: OwnedFd) -> Stdio {
    Stdio {
        stdin: Some(slave.try_clone().expect("clone")),
        stdout: Some(slave.try_clone().expect("clone")),
        stderr: Some(slave),
    }
}

/// The launcher itself, and every runtime.
fn executors() -> Vec<Option<PathBuf>> {
    let runtimes = RUNTIMES.iter().map(|path| Some(PathBuf::from(path)));
    [None].into_iter().chain(runtimes).collect()
}

fn resize(terminal: &OwnedFd, rows: u16, columns: u16) {
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).expect("resize");
}

/// Reads until something was said; gives all up to there.
fn read_until(terminal: &OwnedFd, wanted: &str) -> String {
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        match rustix::io::read(terminal, &mut chunk) {
            Ok(length) if length > 0 => seen.extend_from_slice(&chunk[..length]),
            ended => panic!("{ended:?} after {:?}", String::from_utf8_lossy(&seen)),
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// To its end: when nobody has the other side any more.
fn read_to_end(terminal: &OwnedFd) -> String {
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = rustix::io::read(terminal, &mut chunk) {
        seen.extend_from_slice(&chunk[..length]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn say(terminal: &OwnedFd, text: &str) {
    let written = rustix::io::write(terminal, text.as_bytes()).expect("write");
    assert_eq!(written, text.len());
}

#[tokio::test]
async fn stdin_is_the_controlling_terminal() {
    for runtime in executors() {
        let rig = Rig::new().await;
        let (master, slave) = terminal();
        let mut spec = rig.shell("test -t 0 && test -t 1 && echo terminal > /dev/tty");
        spec.terminal = true;
        spec.runtime = runtime.clone();
        let stdio = stdio_of(slave);
        let mut running = rig.launcher.spawn(spec, stdio).await.expect("start");
        let status = running.wait().await.expect("wait");
        assert!(status.success(), "{runtime:?}: {}", read_to_end(&master));
        assert_eq!(read_to_end(&master), "terminal\r\n", "{runtime:?}");
    }
}

#[tokio::test]
async fn a_terminal_has_its_size_its_keys_and_all_output() {
    for runtime in executors() {
        let rig = Rig::new().await;
        let (master, slave) = terminal();
        resize(&master, 11, 22);
        let mut spec = rig.shell(
            "trap 'stty size' WINCH; trap 'echo interrupted' INT; stty size; while ! read line; do :; done; echo got $line; \
             while ! read other; do :; done; \
             i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 7",
        );
        spec.terminal = true;
        spec.runtime = runtime.clone();
        let stdio = stdio_of(slave);
        let mut running = rig.launcher.spawn(spec, stdio).await.expect("start");
        let talk = tokio::task::spawn_blocking(move || {
            let mut seen = read_until(&master, "11 22\r\n");
            resize(&master, 33, 44);
            seen += &read_until(&master, "33 44\r\n");
            say(&master, "hello\n");
            seen += &read_until(&master, "got hello\r\n");
            say(&master, "\x03");
            seen += &read_until(&master, "interrupted\r\n");
            say(&master, "\n");
            seen + &read_to_end(&master)
        });
        let status = running.wait().await.expect("wait");
        let seen = talk.await.expect("the other side");
        assert_eq!(status.exit_code(), 7, "{runtime:?}: {seen}");
        let lines = (0..20000).map(|i| format!("line {i}\r\n"));
        assert!(seen.ends_with(&lines.collect::<String>()), "{runtime:?}");
    }
}

#[tokio::test]
async fn a_further_process_has_a_terminal_of_its_own() {
    for runtime in executors() {
        let rig = Rig::new().await;
        let mut spec = rig.shell("sleep 1000; true");
        spec.runtime = runtime.clone();
        let mut first = rig.start(spec).await;
        let (master, slave) = terminal();
        let process = ProcessSpec {
            args: [
                "/bin/sh",
                "-c",
                "tty; read line; echo got $line > /dev/tty; exit 7",
            ]
            .map(str::to_owned)
            .to_vec(),
            terminal: true,
            ..ProcessSpec::default()
        };
        let mut further = first.exec(process, stdio_of(slave)).await.expect("exec");
        let talk = tokio::task::spawn_blocking(move || {
            let seen = read_until(&master, "\r\n");
            say(&master, "hello\n");
            seen + &read_to_end(&master)
        });
        let status = further.wait().await.expect("wait");
        let seen = talk.await.expect("the other side");
        assert_eq!(status.exit_code(), 7, "{runtime:?}: {seen}");
        assert!(seen.ends_with("got hello\r\n"), "{runtime:?}: {seen}");
        first.kill();
        assert_eq!(first.wait().await.expect("wait").exit_code(), 137);
    }
}

#[tokio::test]
async fn a_terminal_that_its_caller_closes_hangs_up() {
    for runtime in executors() {
        let rig = Rig::new().await;
        let (master, slave) = terminal();
        let mut spec =
            rig.shell("trap 'exit 5' HUP; echo ready; while :; do sleep 1000 & wait; done");
        spec.terminal = true;
        spec.runtime = runtime.clone();
        let stdio = stdio_of(slave);
        let mut running = rig.launcher.spawn(spec, stdio).await.expect("start");
        let master = tokio::task::spawn_blocking(move || {
            read_until(&master, "ready");
            master
        });
        drop(master.await.expect("the other side"));
        let status = running.wait().await.expect("wait");
        assert_eq!(status.exit_code(), 5, "{runtime:?}");
    }
}
