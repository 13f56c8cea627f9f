//! Runs one sandbox described by a JSON file, as root or as an ordinary user,
//! and ends as its payload does. A tool for looking at the sandbox alone; the
//! tests of this crate also start it as their launcher process.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use gateway_sandbox::rootless::{self, Ids, RootlessOptions};
use gateway_sandbox::{Launcher, LauncherOptions, SandboxSpec, Stdio};

fn main() -> ExitCode {
    gateway_sandbox::maybe_run_zygote();
    let mut args: Vec<_> = std::env::args_os().skip(1).collect();
    let mut options = RootlessOptions::default();
    if args.first().is_some_and(|arg| arg == "--single-id") {
        options.ids = Ids::Single;
        args.remove(0);
    }
    match rootless::enter_user_namespace(&options) {
        Ok(None) => {}
        Ok(Some(code)) => return code,
        Err(error) => return fail(&error),
    }
    let [file] = args.as_slice() else {
        eprintln!("usage: sandbox-run [--single-id] SPECIFICATION.json");
        return ExitCode::from(2);
    };
    match run(Path::new(file)) {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => fail(&*error),
    }
}

fn fail(error: &dyn Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(125)
}

#[tokio::main(flavor = "current_thread")]
async fn run(file: &Path) -> Result<i32, Box<dyn Error>> {
    let spec: SandboxSpec = serde_json::from_slice(&std::fs::read(file)?)?;
    let launcher = Launcher::start(LauncherOptions::default()).await?;
    let stdio = Stdio {
        stdin: Some(duplicate(io::stdin())?),
        stdout: Some(duplicate(io::stdout())?),
        stderr: Some(duplicate(io::stderr())?),
    };
    // Ends everything in the sandbox, as a cancelled build does; heard before
    // the payload can run.
    let mut cancel = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined1())?;
    let mut running = launcher.spawn(spec, stdio).await?;
    if running.proc_is_hosts() {
        eprintln!("warning: /proc is partly hidden here, so the sandbox sees other processes");
    }
    let status = loop {
        tokio::select! {
            status = running.wait() => break status?,
            _ = cancel.recv() => running.kill(),
        }
    };
    if status.oom_killed {
        eprintln!("error: out of memory");
    }
    Ok(status.exit_code())
}

fn duplicate(stream: impl AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}
