//! Runs one process in a root file system: namespaces, mounts, limits,
//! seccomp, stdio, signals; as root and as an ordinary user.
//!
//! What may not enter: what is run and why. Build steps, images, cache keys,
//! secrets' names and progress belong to the callers; here a process is a
//! [`SandboxSpec`] value and three file descriptors.
//!
//! A program that uses this crate calls [`maybe_run_zygote`] first thing in
//! `main`, because sandboxes are started by a small single-threaded copy of
//! the program (the *zygote*): cloning a process with a large heap costs tens
//! of milliseconds, cloning the zygote costs next to nothing. Order of a
//! start, one module each:
//!
//! 1. [`launcher`]: the caller's side; sends the specification and the stdio
//!    descriptors over a socket ([`wire`]).
//! 2. [`zygote`]: receives it, makes the process in its namespaces
//!    ([`spawn`]), watches it, reports how it ended.
//! 3. [`stages`]: what the new process does until it becomes the payload.
//! 4. [`stubs`]: after the end, mount points made for the step are removed.

mod cgroup;
mod error;
mod etc_files;
mod host;
mod isolated;
mod launcher;
mod new_fs;
pub mod overlay;
pub mod rootless;
mod seccomp;
mod spawn;
mod spec;
mod stages;
mod stubs;
mod sys;
pub mod usage;
mod walk;
mod wire;
mod zygote;

pub use error::{Error, Result, SetupError, Stage};
pub use launcher::{ExitStatus, Launcher, LauncherOptions, Running, Stdio};
pub use spec::{
    Mount, MountKind, Network, ProcessSpec, Profile, ResolvConf, Resources, Root, SandboxSpec,
    SecretBytes, Security, StubRemoval, Ulimit,
};
pub use zygote::maybe_run_zygote;
