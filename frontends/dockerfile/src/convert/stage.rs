//! The stages of a build while they are converted, and what they need of each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use gateway_llb::{State, pb};

use super::args::{ArgInfo, Declared};
use super::draft::Draft;
use super::image::Image;
use crate::lint::StageChecks;
use crate::parse::{Instruction, LineRange};
use gateway_frontend::conventions::NamedContext;
use gateway_frontend::conventions::named::Paths;

/// The name of the empty image.
pub const SCRATCH: &str = "scratch";

/// A stage, or an image that an instruction names.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The name in lower case.
    pub name: Option<String>,
    /// What the comments say of it.
    pub description: String,
    /// The base, expanded; later the full reference.
    pub base_name: String,
    /// The FROM line.
    pub code: String,
    /// Its lines; none for an image of an instruction without a place.
    pub location: Option<LineRange>,
    /// The comments above FROM.
    pub comments: Vec<String>,
    /// The platform: asked for, or found.
    pub platform: Option<pb::Platform>,
    /// What stands in its place.
    pub named: Option<NamedContext>,
    /// The stage that it is built on.
    pub base: Option<usize>,
    /// The stages and images that its instructions use, with the lines that do.
    pub deps: Vec<(usize, LineRange)>,
    /// Its instructions.
    pub commands: Vec<Command>,
    /// The paths that are used of it.
    pub paths: Paths,

    /// Files and settings so far.
    pub state: State,
    /// The image so far.
    pub image: Draft,
    /// The image's variables are the newest of the state, in the same order.
    pub env_in_order: bool,
    /// The image that it began as.
    pub base_image: Option<Image>,
    /// What can be set from outside, for outlines.
    pub parameters: Parameters,
    /// The ARGs so far, with their values.
    pub args: Declared,

    /// Not a stage of the file.
    pub is_image: bool,
    /// Its state can be used.
    pub dispatched: bool,
    /// Its base image was asked for.
    pub resolved: bool,
    /// The triggers of its base stage were taken.
    pub took_triggers: bool,
    /// Steps run even when their result is known.
    pub no_cache: bool,
    /// A CMD of this stage was met.
    pub has_cmd: bool,
    /// What the lint rules have seen of it.
    pub checks: StageChecks,

    /// The name in progress.
    pub shown_name: String,
    /// Progress shows platforms.
    pub show_platform: bool,
    /// Number of the current step.
    pub step: usize,
    /// How many steps there are.
    pub steps: usize,
    /// The current step comes from a trigger of the base.
    pub in_trigger: bool,
}

/// What a build of a stage can be given.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    /// The ARGs before the first FROM, used or not.
    pub global: Arc<BTreeMap<String, ArgInfo>>,
    /// The ARGs of the stage itself.
    pub args: BTreeMap<String, ArgInfo>,
    /// The names that FROM uses; those of the stages below count for this one, too.
    pub in_from: BTreeSet<String>,
    /// The names that its instructions use.
    pub used: BTreeSet<String>,
    /// Secrets: where they are first used, and whether they must be given.
    pub secrets: BTreeMap<String, (LineRange, bool)>,
    /// Ssh agents likewise.
    pub ssh: BTreeMap<String, (LineRange, bool)>,
}

/// An instruction with the stages that it reads.
#[derive(Clone, Debug)]
pub struct Command {
    /// The instruction.
    pub instruction: Arc<Instruction>,
    /// COPY: the stage of `--from`. RUN: one for each mount.
    pub sources: Vec<usize>,
    /// It is a trigger of the base.
    pub is_trigger: bool,
}

impl Stage {
    /// The last lines that use another stage: those are shown in errors (observed).
    fn last_use(&self, of: usize) -> Option<LineRange> {
        let mut uses = self.deps.iter().rev();
        uses.find(|(dep, _)| *dep == of).map(|(_, lines)| *lines)
    }

    /// The system that it is for.
    pub fn os(&self) -> &str {
        self.platform.as_ref().map_or("linux", |p| p.os.as_str())
    }

    /// A stage of a base.
    pub fn new(base_name: String) -> Self {
        Self {
            name: None,
            description: String::new(),
            base_name,
            code: String::new(),
            location: None,
            comments: Vec::new(),
            platform: None,
            named: None,
            base: None,
            deps: Vec::new(),
            commands: Vec::new(),
            paths: Paths::default(),
            state: State::scratch(),
            image: Draft::default(),
            env_in_order: false,
            base_image: None,
            args: Declared::default(),
            parameters: Parameters::default(),
            is_image: false,
            dispatched: false,
            resolved: false,
            took_triggers: false,
            no_cache: false,
            has_cmd: false,
            checks: StageChecks::default(),
            shown_name: String::new(),
            show_platform: false,
            step: 0,
            steps: 0,
            in_trigger: false,
        }
    }

    /// An image that an instruction names.
    pub fn image(base_name: String, location: Option<LineRange>) -> Self {
        Self {
            location,
            is_image: true,
            ..Self::new(base_name)
        }
    }

    /// Marks a path as used.
    pub fn use_path(&self, path: &str) {
        let mut paths = self.paths.lock().unwrap_or_else(|e| e.into_inner());
        paths.insert(path.to_owned());
    }

    /// Takes over what a base stage has by now.
    pub fn inherit(&mut self, base: &Stage) {
        self.state = base.state.clone();
        self.platform.clone_from(&base.platform);
        self.image = base.image.clone();
        self.image.on_build = rpds::VectorSync::default();
        self.env_in_order = base.env_in_order;
        self.base_image.clone_from(&base.base_image);
        self.paths = Arc::clone(&base.paths);
        self.checks = StageChecks::on(&base.checks);
        self.args = base.args.clone();
    }
}

/// All stages and images, in order of their appearance.
#[derive(Debug, Default)]
pub struct Stages {
    list: Vec<Stage>,
    by_name: std::collections::HashMap<String, usize>,
}

impl Stages {
    /// Adds a stage; its base is the last stage before it with that name.
    pub fn add(&mut self, mut stage: Stage) -> usize {
        stage.base = match stage.named {
            Some(_) => None,
            None => self.by_name.get(&stage.base_name).copied(),
        };
        let index = self.list.len();
        if let Some(name) = &stage.name {
            self.by_name.insert(name.to_lowercase(), index);
        }
        self.list.push(stage);
        index
    }

    /// Copies what a stage has from the stage that it is built on.
    pub fn inherit(&mut self, index: usize) {
        // A base always comes before what is built on it.
        let Some((before, rest)) = self.list.split_at_mut_checked(index) else {
            return;
        };
        if let Some(stage) = rest.first_mut()
            && let Some(base) = stage.base.and_then(|base| before.get(base))
        {
            stage.inherit(base);
        }
    }

    /// All of them, by value.
    pub fn into_vec(self) -> Vec<Stage> {
        self.list
    }

    /// The stage that would be the base of one built on `name`.
    pub fn has_base(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// A stage by its name in any case.
    pub fn by_name(&self, name: &str) -> Option<usize> {
        self.by_name.get(&name.to_lowercase()).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True before the first.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The names shown in progress, for suggestions.
    pub fn shown_names(&self) -> impl Iterator<Item = &str> {
        let names = self.list.iter().map(|s| s.shown_name.as_str());
        names.filter(|name| !name.is_empty())
    }

    /// A stage by its number.
    pub fn get(&self, index: usize) -> Option<&Stage> {
        self.list.get(index)
    }

    /// All that `target` needs, itself included.
    pub fn reachable(&self, target: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        self.reach(vec![target], &mut found);
        found
    }

    /// Adds what stages need, themselves included, to what is known to be needed, and tells what is new.
    pub fn reach(&self, mut waiting: Vec<usize>, found: &mut BTreeSet<usize>) -> BTreeSet<usize> {
        let mut new = BTreeSet::new();
        while let Some(index) = waiting.pop() {
            if !found.insert(index) {
                continue;
            }
            new.insert(index);
            if let Some(stage) = self.list.get(index) {
                waiting.extend(stage.base);
                waiting.extend(stage.deps.iter().map(|(dep, _)| *dep));
            }
        }
        new
    }

    /// A ring of stages that use each other: the first of them and the lines that close it.
    pub fn ring(&self) -> Option<(usize, Vec<LineRange>)> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            OnPath,
            Done,
        }
        let mut marks = vec![Mark::New; self.list.len()];
        for start in 0..self.list.len() {
            if marks.get(start) != Some(&Mark::New) {
                continue;
            }
            // Stage, and its next dependency to look at.
            let mut path: Vec<(usize, usize)> = vec![(start, 0)];
            while let Some((stage, next)) = path.last_mut() {
                let stage = *stage;
                let dep = self
                    .list
                    .get(stage)
                    .and_then(|s| s.deps.get(*next))
                    .map(|(dep, _)| *dep);
                *next += 1;
                if let Some(mark) = marks.get_mut(stage) {
                    *mark = Mark::OnPath;
                }
                let Some(dep) = dep else {
                    if let Some(mark) = marks.get_mut(stage) {
                        *mark = Mark::Done;
                    }
                    path.pop();
                    continue;
                };
                match marks.get(dep) {
                    Some(Mark::OnPath) => {
                        let users = path.iter().map(|(stage, _)| *stage);
                        let used = users.clone().skip(1).chain([dep]);
                        let lines = users.zip(used).filter_map(|(user, used)| {
                            self.list.get(user).and_then(|user| user.last_use(used))
                        });
                        return Some((start, lines.collect()));
                    }
                    Some(Mark::New) => path.push((dep, 0)),
                    _ => {}
                }
            }
        }
        None
    }
}

impl std::ops::Deref for Stages {
    type Target = [Stage];

    fn deref(&self) -> &[Stage] {
        &self.list
    }
}

impl std::ops::DerefMut for Stages {
    fn deref_mut(&mut self) -> &mut [Stage] {
        &mut self.list
    }
}

/// Paths shared by nobody yet.
pub fn no_paths() -> Paths {
    Arc::new(Mutex::new(BTreeSet::new()))
}
