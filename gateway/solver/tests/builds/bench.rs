//! A store, a context and a session to build with.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use gateway_api::progress::{Progress, Status, Vertex};
use gateway_api::{Error, FileRange};
use gateway_images::registry::{Registries, RegistriesConfig};
use gateway_llb::{
    Constraints, Copy, FileActions, LocalSource, MarshalOptions, State, pb, platform,
};
use gateway_sandbox::LauncherOptions;
use gateway_session::{LocalSession, Secret, SecretSource};
use gateway_solver::policy::SourcePolicies;
use gateway_solver::{Job, JobOptions, ResultRef, Solver, SolverOptions, StepOptions};
use tokio_util::sync::CancellationToken;

pub struct Bench {
    pub dir: tempfile::TempDir,
    pub seen: Arc<Mutex<Vec<Status>>>,
    /// What builds may do beyond the usual.
    pub entitlements: BTreeSet<String>,
}

impl Bench {
    #[allow(clippy::new_without_default, reason = "makes directories")]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        std::fs::create_dir_all(rootfs.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "echo", "touch", "sleep", "mkdir", "ls", "rm", "test", "env",
        ] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        for name in ["tmp", "dev", "proc", "sys", "etc"] {
            std::fs::create_dir(rootfs.join(name)).unwrap();
        }
        std::fs::create_dir(dir.path().join("context")).unwrap();
        Bench {
            dir,
            entitlements: BTreeSet::new(),
            seen: Arc::default(),
        }
    }

    pub fn write(&self, path: &str, content: &str) {
        let path = self.dir.path().join("context").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// A new solver on the store, as another process would have.
    pub async fn solver(&self) -> Solver {
        self.solver_of(0).await
    }

    /// One that runs so many steps at once.
    pub async fn solver_of(&self, max_parallelism: usize) -> Solver {
        Solver::open(SolverOptions {
            root: self.store(),
            registries: Registries::new(RegistriesConfig {
                offline: true,
                ..RegistriesConfig::default()
            }),
            launcher: LauncherOptions {
                program: env!("CARGO_BIN_EXE_solver-zygote").into(),
            },
            max_parallelism,
            steps: StepOptions {
                cdi_dirs: vec![self.dir.path().join("cdi")],
                ..StepOptions::default()
            },
            default_platform: platform::host(),
        })
        .await
        .unwrap()
    }

    pub fn session(&self) -> LocalSession {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        LocalSession::new(format!("s{}", NEXT.fetch_add(1, Ordering::Relaxed)))
            .with_dir("context", self.dir.path().join("context"))
            .with_dir("rootfs", self.dir.path().join("rootfs"))
            .with_secret(
                "token",
                SecretSource::Value(Secret::new(b"hunter2".to_vec())),
            )
    }

    pub async fn job(&self) -> Job {
        self.job_with(&self.solver().await, CancellationToken::new())
    }

    pub fn job_with(&self, solver: &Solver, cancel: CancellationToken) -> Job {
        self.job_of_session(solver, self.session(), cancel)
    }

    pub fn job_of(&self, solver: &Solver, session: LocalSession) -> Job {
        self.job_of_session(solver, session, CancellationToken::new())
    }

    fn job_of_session(
        &self,
        solver: &Solver,
        session: LocalSession,
        cancel: CancellationToken,
    ) -> Job {
        let seen = self.seen.clone();
        solver.job(JobOptions {
            session: Arc::new(session),
            progress: Progress::new(move |status| seen.lock().unwrap().push(status)),
            entitlements: self.entitlements.clone(),
            policies: SourcePolicies::default(),
            pins: None,
            registries: None,
            measure: false,
            cancel,
        })
    }

    /// Evaluates in a new job on a new solver.
    pub async fn build(&self, state: &State) -> Result<(Job, ResultRef), Error> {
        let job = self.job().await;
        let result = job.load(definition(state), &SourcePolicies::default());
        job.evaluate(&result).await?;
        Ok((job, result))
    }

    /// A file of the result of a new build.
    pub async fn file(&self, state: &State, path: &str) -> String {
        let (job, result) = self.build(state).await.unwrap();
        let bytes = job
            .read_file(&result, path, None::<FileRange>)
            .await
            .unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Names of the vertices that did work since the last call.
    pub fn ran(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        let mut last: Vec<Vertex> = Vec::new();
        for vertex in seen.into_iter().flat_map(|status| status.vertexes) {
            match last.iter_mut().find(|v| v.digest == vertex.digest) {
                Some(known) => *known = vertex,
                None => last.push(vertex),
            }
        }
        last.into_iter()
            .filter(|v| v.completed.is_some() && !v.cached && !v.name.starts_with("local://"))
            .map(|v| v.name)
            .collect()
    }

    pub fn logs(&self) -> String {
        let seen = self.seen.lock().unwrap();
        let data: Vec<u8> = seen
            .iter()
            .flat_map(|status| &status.logs)
            .flat_map(|log| log.data.clone())
            .collect();
        String::from_utf8_lossy(&data).into_owned()
    }
}

pub fn definition(state: &State) -> pb::Definition {
    state
        .marshal(&MarshalOptions::new(platform::host()))
        .unwrap()
}

/// The files of a directory of the session.
pub fn local(name: &str) -> State {
    LocalSource::new(name).state(Constraints::new())
}

/// A file system with a shell.
pub fn base() -> State {
    let all = Copy {
        dir_contents_only: true,
        create_dest_path: true,
        ..Copy::default()
    };
    State::scratch()
        .file(
            FileActions::new().copy(&local("rootfs"), "/", "/", all),
            Constraints::new().name("base"),
        )
        .dir("/")
}

pub fn sh(state: &State, script: &str) -> State {
    state.run(["/bin/sh", "-c", script]).root()
}

pub fn copy_in(state: &State, src: &str, dest: &str) -> State {
    let options = Copy {
        create_dest_path: true,
        dir_contents_only: true,
        follow_symlinks: true,
        ..Copy::default()
    };
    state.file(
        FileActions::new().copy(&local("context"), src, dest, options),
        Constraints::new().name(format!("copy {src}")),
    )
}

/// All regular files below a directory, for looking for what must not be there.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                stack.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found
}
