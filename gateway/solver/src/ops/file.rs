//! File ops: actions on directory trees, without running anything of the images.

mod derive;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::try_join_all;
use gateway_api::error::SolveDetail;
use gateway_api::{Detail, Error};
use gateway_llb::pb;

use self::derive::DirectoryCopy;
use super::exec::mounts::Tree;
use super::image;
use crate::content;
use crate::fs::Visible;
use crate::fs::actions::{ActionInputs, apply_seeing};
use crate::fs::root::Root;
use crate::job::JobInner;
use crate::live::LiveVertex;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::{Layer, LayerRecord, LocalFiles, Snapshot, Store, WorkDir, new_id};
use crate::view::View;

pub async fn run(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::FileOp,
    inputs: Vec<Snapshot>,
) -> Outcome<Vec<Snapshot>> {
    let plan = Arc::new(Plan::of(op, inputs.len()).map_err(Error::unknown)?);
    for (index, snapshot) in inputs.iter().enumerate() {
        if live(snapshot).is_none() || !only_copies_from(op, index) {
            image::ensure(job, snapshot).await?;
        }
    }
    let _permit = job.permit().await?;
    let running = job.reports.start(&vertex.digest);
    let outcome = match attempt(job, vertex, op, &inputs, &plan).await {
        Attempt::Done(outcome) => outcome,
        // Somebody is writing there: the private copy does not change any more.
        Attempt::SourceChanged => {
            match try_join_all(inputs.iter().map(|input| image::ensure(job, input))).await {
                Ok(_) => match attempt(job, vertex, op, &inputs, &plan).await {
                    Attempt::Done(outcome) => outcome,
                    Attempt::SourceChanged => Err(Error::unknown("a copied source changed")),
                },
                Err(error) => Err(error),
            }
        }
    };
    if outcome.is_err() {
        // Whoever looks at the file systems of the failed step finds the client's files there.
        for input in &inputs {
            let _ = image::ensure(job, input).await;
        }
    }
    running.finish(&outcome);
    outcome
}

/// The local source that this is, while nobody has needed a copy of it.
fn live(snapshot: &Snapshot) -> Option<Arc<LocalFiles>> {
    snapshot
        .only_local()
        .filter(|files| files.copy.get().is_none())
}

/// Whether an input of an op is read by its copies alone.
pub fn only_copies_from(op: &pb::FileOp, input: usize) -> bool {
    let this = i64::try_from(input).unwrap_or(-1);
    op.actions.iter().all(|action| {
        let (user, group) = owner_inputs(action);
        let copies = matches!(action.action, Some(pb::file_action::Action::Copy(_)));
        action.input != this
            && (action.secondary_input != this || copies)
            && user != Some(this)
            && group != Some(this)
    })
}

enum Attempt {
    Done(Outcome<Vec<Snapshot>>),
    /// A file of a local source is not what was hashed.
    SourceChanged,
}

async fn attempt(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::FileOp,
    inputs: &[Snapshot],
    plan: &Arc<Plan>,
) -> Attempt {
    let cancel = CancelOnDrop(Arc::new(AtomicBool::new(false)));
    let flag = cancel.0.clone();
    let (job, op, vertex) = (job.clone(), op.clone(), vertex.clone());
    let (inputs, plan) = (inputs.to_vec(), plan.clone());
    let done = blocking(move || {
        if inputs.iter().any(|i| i.is_local() && live(i).is_none()) {
            vertex.used_copy.store(true, Ordering::Relaxed);
        }
        let mut worker = Worker {
            job: &job,
            failed: None,
            may_derive: !vertex.metadata.ignore_cache,
            op: &op,
            inputs,
            states: BTreeMap::new(),
            plan: &plan,
            description: &vertex.name,
            cancel: &flag,
            source_changed: false,
        };
        let outcome = worker.run_or_derive();
        Ok(match worker.source_changed {
            true => Attempt::SourceChanged,
            false => Attempt::Done(outcome),
        })
    })
    .await;
    done.unwrap_or_else(|error| Attempt::Done(Err(error)))
}

/// Tells the thread that works to stop when nobody waits for it any more.
pub(super) struct CancelOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The checked shape of an op: what is done in which order.
struct Plan {
    /// Actions, those first whose results others need.
    order: Vec<usize>,
    /// The action of each output.
    outputs: Vec<usize>,
    /// How often an action's result is used, outputs included.
    uses: Vec<usize>,
    inputs: usize,
}

impl Plan {
    fn of(op: &pb::FileOp, inputs: usize) -> Result<Plan, String> {
        let count = op.actions.len();
        let mut by_output = BTreeMap::new();
        let mut uses = vec![0; count];
        for (index, action) in op.actions.iter().enumerate() {
            for input in [action.input, action.secondary_input] {
                if input < -1 || input >= (inputs + count) as i64 {
                    return Err(format!(
                        "invalid input index {input}, {} provided",
                        inputs + count
                    ));
                }
                if let Some(used) = action_of(input, inputs) {
                    uses[used] += 1;
                }
            }
            if action.output != -1 {
                uses[index] += 1;
                if by_output.insert(action.output, index).is_some() {
                    return Err(format!("duplicate output {}", action.output));
                }
            }
        }
        if by_output.is_empty() {
            return Err("no outputs specified".into());
        }
        let mut outputs = Vec::new();
        for (wanted, (output, action)) in by_output.iter().enumerate() {
            if *output != wanted as i64 {
                return Err(format!("missing output index {wanted}"));
            }
            outputs.push(*action);
        }
        Ok(Plan {
            order: order(op, inputs)?,
            outputs,
            uses,
            inputs,
        })
    }
}

/// The action behind an index of the op's index space.
fn action_of(index: i64, inputs: usize) -> Option<usize> {
    usize::try_from(index)
        .ok()
        .and_then(|index| index.checked_sub(inputs))
}

fn order(op: &pb::FileOp, inputs: usize) -> Result<Vec<usize>, String> {
    let mut order = Vec::with_capacity(op.actions.len());
    let mut done = vec![false; op.actions.len()];
    while order.len() < op.actions.len() {
        let before = order.len();
        for (index, action) in op.actions.iter().enumerate() {
            let ready = [action.input, action.secondary_input]
                .into_iter()
                .filter_map(|input| action_of(input, inputs))
                .all(|needed| done.get(needed).copied().unwrap_or(false));
            if ready && !done[index] {
                done[index] = true;
                order.push(index);
            }
        }
        if order.len() == before {
            let stuck = done.iter().position(|done| !done).unwrap_or_default();
            return Err(format!("loop from index {}", inputs + stuck));
        }
    }
    Ok(order)
}

/// A file system that actions are changing.
struct Open {
    base: Snapshot,
    work: WorkDir,
    root: Root,
    _view: View,
}

enum State {
    Open(Open),
    Committed(Snapshot),
}

struct Worker<'a> {
    job: &'a Arc<JobInner>,
    /// What the action that failed was changing.
    failed: Option<Open>,
    /// Results of other builds may serve.
    may_derive: bool,
    op: &'a pb::FileOp,
    inputs: Vec<Snapshot>,
    states: BTreeMap<usize, State>,
    plan: &'a Plan,
    description: &'a str,
    cancel: &'a AtomicBool,
    source_changed: bool,
}

/// A file system for reading.
struct Source {
    root: Root,
    /// Of a local source in place: what of it is there.
    visible: Option<Arc<Visible>>,
    _view: Option<View>,
}

impl Worker<'_> {
    /// The op's results; a large copy of a client's directory from an earlier one, if it can be.
    fn run_or_derive(&mut self) -> Outcome<Vec<Snapshot>> {
        let Some(copy) = DirectoryCopy::of(self.op, &self.inputs) else {
            return self.run();
        };
        let store = self.job.store();
        let visible = content::visible(self.job, &copy.source, &copy.files)?;
        let derived = match self.may_derive {
            true => copy.derive(store, &visible, self.cancel),
            false => Ok(None),
        };
        match derived {
            Err(error) => {
                self.source_changed = error.is_changed();
                return Err(Error::unknown(error.to_string()));
            }
            Ok(Some(derived)) => {
                let (work, id) = (&derived.work, derived.id);
                return Ok(vec![commit_as(
                    store,
                    &copy.base,
                    work,
                    self.description,
                    id,
                )?]);
            }
            Ok(None) => {}
        }
        let began = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
        let outputs = self.run()?;
        if let [output] = outputs.as_slice()
            && let Some(layer) = output.layers.last()
        {
            copy.record(store, &visible, &layer.id, began);
        }
        Ok(outputs)
    }

    fn run(&mut self) -> Outcome<Vec<Snapshot>> {
        for index in &self.plan.order {
            if let Err(error) = self.act(*index) {
                return Err(error.with(Detail::Solve(self.keep(*index))));
            }
        }
        let outputs = self.plan.outputs.clone();
        outputs
            .into_iter()
            .map(|action| self.committed(action))
            .collect()
    }

    fn act(&mut self, index: usize) -> Outcome<()> {
        let Some(action) = self.op.actions.get(index) else {
            return Ok(());
        };
        let source = match action.secondary_input {
            -1 => None,
            input => Some(self.read(input)?),
        };
        let target = self.open(action.input)?;
        let (user, group) = owner_inputs(action);
        let users = self.lookup(user, action.input)?;
        let groups = self.lookup(group, action.input)?;
        let inputs = ActionInputs {
            target: &target.root,
            source: source.as_ref().map(|source| &source.root),
            users: users.root(&target.root),
            groups: groups.root(&target.root),
            cancel: Some(self.cancel),
        };
        let visible = source.as_ref().and_then(|source| source.visible.as_deref());
        match apply_seeing(action, &inputs, visible) {
            Ok(_) => drop(self.states.insert(index, State::Open(target))),
            Err(error) => {
                self.source_changed |= visible.is_some() && error.is_changed();
                self.failed = Some(target);
                return Err(Error::unknown(error.to_string()));
            }
        }
        Ok(())
    }

    /// Keeps the inputs, and the file system of a failed action as it left it, for whoever wants
    /// to look at them while the build lasts: one id for each input, and one for each action,
    /// empty for the others.
    fn keep(&mut self, index: usize) -> SolveDetail {
        let inputs = self.inputs.iter().cloned();
        let input_ids = inputs.map(|input| self.job.keep(Tree::from(input)));
        let input_ids = input_ids.collect();
        let mut mount_ids = vec![String::new(); self.op.actions.len()];
        if let (Some(open), Some(id)) = (self.failed.take(), mount_ids.get_mut(index)) {
            *id = self.job.keep(Tree {
                base: open.base,
                changes: vec![Arc::new(open.work)],
            });
        }
        SolveDetail {
            file_index: i64::try_from(index).ok(),
            input_ids,
            mount_ids,
            ..SolveDetail::default()
        }
    }

    /// Where names of owners are looked up.
    fn lookup(&mut self, index: Option<i64>, target: i64) -> Outcome<Lookup> {
        match index {
            None => Ok(Lookup::Nowhere),
            // Names of owners on scratch: there is nothing to look them up in.
            Some(index) if index < 0 => Err(Error::unknown(format!("invalid user index: {index}"))),
            Some(index) if index == target => Ok(Lookup::Target),
            Some(index) => Ok(Lookup::Other(self.read(index)?)),
        }
    }

    /// An input for reading.
    fn read(&mut self, index: i64) -> Outcome<Source> {
        let snapshot = self.snapshot(index)?;
        if let Some(files) = live(&snapshot) {
            return Ok(Source {
                root: Root::open(&files.dir).map_err(internal)?,
                visible: Some(content::visible(self.job, &snapshot, &files)?),
                _view: None,
            });
        }
        let view = View::read_only(&self.job.store().lowers(&snapshot)).map_err(internal)?;
        Ok(Source {
            root: Root::open(view.path()).map_err(internal)?,
            visible: None,
            _view: Some(view),
        })
    }

    fn snapshot(&mut self, index: i64) -> Outcome<Snapshot> {
        if index == -1 {
            return Ok(Snapshot::scratch());
        }
        match action_of(index, self.plan.inputs) {
            Some(action) => self.committed(action),
            None => usize::try_from(index)
                .ok()
                .and_then(|index| self.inputs.get(index).cloned())
                .ok_or_else(|| Error::unknown(format!("invalid input index {index}"))),
        }
    }

    /// An input for changing: the same open one along a chain.
    fn open(&mut self, index: i64) -> Outcome<Open> {
        if let Some(action) = action_of(index, self.plan.inputs)
            && self.plan.uses.get(action) == Some(&1)
        {
            return match self.states.remove(&action) {
                Some(State::Open(open)) => Ok(open),
                Some(State::Committed(snapshot)) => self.open_on(snapshot),
                None => Err(Error::unknown(format!("invalid input index {index}"))),
            };
        }
        let base = self.snapshot(index)?;
        self.open_on(base)
    }

    fn open_on(&self, base: Snapshot) -> Outcome<Open> {
        let work = self.job.store().work_dir().map_err(internal)?;
        let upper = work.sub("fs").map_err(internal)?;
        let scratch = work.sub("work").map_err(internal)?;
        let lowers = match base.layers.is_empty() {
            true => Vec::new(),
            false => self.job.store().lowers(&base),
        };
        let view = View::writable(&lowers, &upper, &scratch).map_err(internal)?;
        let root = Root::open(view.path()).map_err(internal)?;
        Ok(Open {
            base,
            work,
            root,
            _view: view,
        })
    }

    fn committed(&mut self, action: usize) -> Outcome<Snapshot> {
        let snapshot = match self.states.remove(&action) {
            Some(State::Committed(snapshot)) => snapshot,
            Some(State::Open(open)) => {
                let Open {
                    base,
                    work,
                    root,
                    _view: view,
                } = open;
                drop((root, view));
                commit(self.job.store(), &base, &work, self.description)?
            }
            None => return Err(Error::unknown("invalid use of a file action's result")),
        };
        self.states
            .insert(action, State::Committed(snapshot.clone()));
        Ok(snapshot)
    }
}

enum Lookup {
    Nowhere,
    Target,
    Other(Source),
}

impl Lookup {
    fn root<'a>(&'a self, target: &'a Root) -> Option<&'a Root> {
        match self {
            Lookup::Nowhere => None,
            Lookup::Target => Some(target),
            Lookup::Other(source) => Some(&source.root),
        }
    }
}

/// The inputs that the action's owner names, for user and group.
fn owner_inputs(action: &pb::FileAction) -> (Option<i64>, Option<i64>) {
    use pb::file_action::Action;
    let owner = match &action.action {
        Some(Action::Copy(action)) => action.owner.as_ref(),
        Some(Action::Mkfile(action)) => action.owner.as_ref(),
        Some(Action::Mkdir(action)) => action.owner.as_ref(),
        Some(Action::Symlink(action)) => action.owner.as_ref(),
        Some(Action::Rm(_)) | None => None,
    };
    let input = |opt: Option<&pb::UserOpt>| match opt.and_then(|opt| opt.user.as_ref()) {
        Some(pb::user_opt::User::ByName(named)) => Some(named.input),
        _ => None,
    };
    (
        input(owner.and_then(|owner| owner.user.as_ref())),
        input(owner.and_then(|owner| owner.group.as_ref())),
    )
}

/// Makes what is in `work/fs` a layer above `base`.
pub fn commit(
    store: &Store,
    base: &Snapshot,
    work: &WorkDir,
    description: &str,
) -> Outcome<Snapshot> {
    commit_as(store, base, work, description, new_id())
}

fn commit_as(
    store: &Store,
    base: &Snapshot,
    work: &WorkDir,
    description: &str,
    id: String,
) -> Outcome<Snapshot> {
    store
        .add_layer(&LayerRecord {
            id: id.clone(),
            base: base.ids(),
            description: description.to_owned(),
            created_at: time::OffsetDateTime::now_utc().unix_timestamp(),
            opaque_root: false,
            kind: String::new(),
        })
        .map_err(internal)?;
    store
        .commit_layer(&work.path().join("fs"), &id)
        .map_err(internal)?;
    Ok(base.with(Layer::stored(id)))
}
