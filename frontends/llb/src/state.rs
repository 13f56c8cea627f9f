//! States: file systems to be, with the settings of the next step.

use std::sync::{Arc, OnceLock};

use crate::exec::ExecSpec;
use crate::file::BoundActions;
use crate::foreign::Foreign;
use crate::source::SourceSpec;
use crate::{Constraints, Env, FileActions, Run, caps, path, pb};

/// A file system to be, and the environment, directory, user and network of the next command.
/// Immutable: every method gives a new state, and both may be used on.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(crate) output: Option<Output>,
    pub(crate) meta: Arc<Meta>,
}

#[derive(Clone, Debug)]
pub(crate) struct Meta {
    /// Shared: most steps change other settings, and some images have hundreds of variables.
    pub env: Arc<Env>,
    pub dir: Arc<str>,
    pub user: Arc<str>,
    pub hostname: String,
    pub cgroup_parent: String,
    pub network: pb::NetMode,
    pub security: pb::SecurityMode,
    pub extra_hosts: Vec<pb::HostIp>,
    pub ulimits: Vec<pb::Ulimit>,
    pub valid_exit_codes: Option<Vec<i32>>,
    pub platform: Option<pb::Platform>,
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            env: Arc::default(),
            dir: "/".into(),
            user: "".into(),
            hostname: String::new(),
            cgroup_parent: String::new(),
            network: pb::NetMode::Unset,
            security: pb::SecurityMode::Sandbox,
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            valid_exit_codes: None,
            platform: None,
        }
    }
}

/// One output of one vertex, or a place where it will be known later.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    Of(Arc<Vertex>, i64),
    Later(Slot),
}

#[derive(Debug)]
pub(crate) struct Vertex {
    pub op: VertexOp,
    pub constraints: Constraints,
}

#[derive(Debug)]
pub(crate) enum VertexOp {
    Source(SourceSpec),
    Exec(Box<ExecSpec>),
    File(BoundActions),
    Merge(Vec<Output>),
    Diff {
        lower: Option<Output>,
        upper: Option<Output>,
    },
    Foreign(Foreign),
}

/// A state that is filled in after others were built on it, such as a build context whose list of
/// needed paths is complete only at the end.
#[derive(Clone, Debug, Default)]
pub struct Slot(Arc<OnceLock<State>>);

impl Slot {
    /// An empty slot.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fills it. False when it was filled before; the first value stays.
    pub fn fill(&self, state: State) -> bool {
        self.0.set(state).is_ok()
    }

    /// A state that stands for what will be filled in.
    pub fn state(&self) -> State {
        State {
            output: Some(Output::Later(self.clone())),
            meta: Arc::default(),
        }
    }

    pub(crate) fn get(&self) -> Option<&State> {
        self.0.get()
    }
}

impl State {
    /// The empty file system.
    pub fn scratch() -> Self {
        Self::default()
    }

    pub(crate) fn of(vertex: Vertex) -> Self {
        let platform = match &vertex.op {
            VertexOp::Source(source) if source.platform_specific() => {
                let platform = vertex.constraints.platform.as_ref();
                platform.map(crate::platform::normalize)
            }
            _ => None,
        };
        Self {
            output: Some(Output::Of(Arc::new(vertex), 0)),
            meta: Arc::new(Meta {
                platform,
                ..Meta::default()
            }),
        }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Meta)) -> Self {
        let mut meta = (*self.meta).clone();
        change(&mut meta);
        Self {
            output: self.output.clone(),
            meta: Arc::new(meta),
        }
    }

    /// True when nothing was put into it yet.
    pub fn is_scratch(&self) -> bool {
        self.output.is_none()
    }

    /// The file system of `other` with the settings of this state.
    pub fn with_output_of(&self, other: &State) -> Self {
        let platform = match &other.output {
            Some(Output::Of(vertex, _)) => {
                let platform = vertex.constraints.platform.as_ref();
                platform.map(crate::platform::normalize)
            }
            _ => None,
        };
        let mut state = Self {
            output: other.output.clone(),
            meta: Arc::clone(&self.meta),
        };
        if platform.is_some() {
            state = state.change(|meta| meta.platform = platform);
        }
        state
    }

    /// Sets an environment variable.
    pub fn env(&self, key: &str, value: &str) -> Self {
        self.change(|meta| Arc::make_mut(&mut meta.env).set(key, value))
    }

    /// Sets an environment variable of this state itself. States made from it before keep theirs; where there are
    /// none, nothing is copied, so that thousands of variables can be set one by one.
    pub fn set_env(&mut self, key: &str, value: &str) {
        let meta = Arc::make_mut(&mut self.meta);
        Arc::make_mut(&mut meta.env).set(key, value);
    }

    /// Sets several variables, in order.
    pub fn envs<'a>(&self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.change(|meta| Arc::make_mut(&mut meta.env).set_all(pairs))
    }

    /// The environment of the next command.
    pub fn get_env(&self) -> &Env {
        &self.meta.env
    }

    /// Changes the working directory; relative to the current one.
    pub fn dir(&self, dir: &str) -> Self {
        let dir: Arc<str> = if dir.starts_with('/') {
            dir.into()
        } else {
            path::join(&["/", &self.meta.dir, dir]).into()
        };
        self.change(|meta| meta.dir = dir)
    }

    /// The working directory; the root when none was set.
    pub fn get_dir(&self) -> &str {
        &self.meta.dir
    }

    /// The user of the next command.
    pub fn user(&self, user: &str) -> Self {
        self.change(|meta| meta.user = user.into())
    }

    /// The host name inside the next command.
    pub fn hostname(&self, hostname: &str) -> Self {
        self.change(|meta| meta.hostname = hostname.to_owned())
    }

    /// The network of the next commands.
    pub fn network(&self, network: pb::NetMode) -> Self {
        self.change(|meta| meta.network = network)
    }

    /// The platform of what follows, normalised.
    pub fn platform(&self, platform: pb::Platform) -> Self {
        self.change(|meta| meta.platform = Some(crate::platform::normalize(&platform)))
    }

    /// The platform, when one was set or came with the image.
    pub fn get_platform(&self) -> Option<&pb::Platform> {
        self.meta.platform.as_ref()
    }

    /// Runs a command on this file system.
    pub fn run<A: Into<String>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        Run::new(self.clone(), args.into_iter().map(Into::into).collect())
    }

    /// Changes files in one op.
    pub fn file(&self, actions: FileActions, constraints: Constraints) -> State {
        let vertex = Vertex {
            op: VertexOp::File(actions.bind(self)),
            constraints: constraints.cap(caps::FILE_BASE),
        };
        self.with_output_of(&State {
            output: Some(Output::Of(Arc::new(vertex), 0)),
            meta: Arc::default(),
        })
    }

    /// The layers of all states, later ones over earlier ones. Scratch states vanish; what
    /// remains alone is returned as it is. Keeps the settings of the first.
    pub fn merge(states: &[State], constraints: Constraints) -> State {
        let mut full = states.iter().filter(|s| !s.is_scratch());
        let Some(first) = full.next() else {
            return State::scratch();
        };
        let rest: Vec<&State> = full.collect();
        if rest.is_empty() {
            return first.clone();
        }
        let inputs = std::iter::once(first)
            .chain(rest)
            .filter_map(|s| s.output.clone())
            .collect();
        let vertex = Vertex {
            op: VertexOp::Merge(inputs),
            constraints: constraints.cap(caps::MERGE_OP),
        };
        first.with_output_of(&State {
            output: Some(Output::Of(Arc::new(vertex), 0)),
            meta: Arc::default(),
        })
    }

    /// What `upper` has over `lower`.
    pub fn diff(lower: &State, upper: &State, constraints: Constraints) -> State {
        if upper.is_scratch() && lower.is_scratch() {
            return State::scratch();
        }
        State::of(Vertex {
            op: VertexOp::Diff {
                lower: lower.output.clone(),
                upper: upper.output.clone(),
            },
            constraints: constraints.cap(caps::DIFF_OP),
        })
    }
}

/// The vertex and output index behind an output, following filled slots. `None` for scratch;
/// `Err` for a slot that was never filled or that stands for itself.
pub(crate) fn resolve(output: &Output) -> Result<Option<(&Arc<Vertex>, i64)>, ()> {
    // A slot filled with a state that stands for another slot is legal; a ring is not.
    const MAX_HOPS: usize = 64;
    let mut output = output;
    for _ in 0..MAX_HOPS {
        match output {
            Output::Of(vertex, index) => return Ok(Some((vertex, *index))),
            Output::Later(slot) => match &slot.get().ok_or(())?.output {
                Some(next) => output = next,
                None => return Ok(None),
            },
        }
    }
    Err(())
}

/// A chain of thousands of steps must not be dropped by thousands of nested calls.
impl Drop for Vertex {
    fn drop(&mut self) {
        let mut waiting = Vec::new();
        take_inputs(&mut self.op, &mut waiting);
        while let Some(output) = waiting.pop() {
            if let Output::Of(vertex, _) = output
                && let Some(mut vertex) = Arc::into_inner(vertex)
            {
                take_inputs(&mut vertex.op, &mut waiting);
            }
        }
    }
}

fn take_inputs(op: &mut VertexOp, out: &mut Vec<Output>) {
    match op {
        VertexOp::Source(_) | VertexOp::Foreign(_) => {}
        VertexOp::Exec(exec) => exec.take_inputs(out),
        VertexOp::File(actions) => actions.take_inputs(out),
        VertexOp::Merge(inputs) => out.append(inputs),
        VertexOp::Diff { lower, upper } => {
            out.extend(lower.take());
            out.extend(upper.take());
        }
    }
}
