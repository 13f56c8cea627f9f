//! Looking at what frontends do: their conversations as files (`--record`), and the graph that the
//! first one returns instead of a build (`--print-llb`).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gateway_api::{BuildResult, Error, FrontendFn, Gateway, Refs};
use gateway_bridge::{Observed, Observer};
use gateway_frontend::record::Recorder;
use gateway_llb::pb;
use prost::Message as _;

use crate::error::CliError;
use crate::llb::write_out;

/// Writes `DIR/1-NAME.json` and so on, one file for each frontend in the order in which they begin.
pub struct Records {
    dir: PathBuf,
    begun: AtomicUsize,
}

impl Records {
    pub fn new(dir: &Path) -> Result<Arc<Records>, CliError> {
        std::fs::create_dir_all(dir).map_err(|source| CliError::Write {
            path: dir.to_owned(),
            source,
        })?;
        Ok(Arc::new(Records {
            dir: dir.to_owned(),
            begun: AtomicUsize::new(0),
        }))
    }
}

impl Observer for Records {
    fn begins(&self, name: &str, gateway: Arc<dyn Gateway>) -> Box<dyn Observed> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let name: String = name
            .chars()
            .map(|c| if plain(c) { c } else { '_' })
            .collect();
        Box::new(Record {
            path: self.dir.join(format!("{number}-{name}.json")),
            recorder: Recorder::new(gateway),
        })
    }
}

struct Record {
    path: PathBuf,
    recorder: Arc<Recorder>,
}

impl Observed for Record {
    fn gateway(&self) -> Arc<dyn Gateway> {
        self.recorder.clone()
    }

    fn ended(self: Box<Self>, returned: &Result<BuildResult, Error>) {
        if let Err(error) = self.recorder.finish(returned).write(&self.path) {
            eprintln!("warning: {}: {error}", self.path.display());
        }
    }
}

/// Takes the graph out of the outermost frontend's result, so that nothing is built.
#[derive(Default)]
pub struct Graphs {
    begun: AtomicBool,
    taken: Mutex<Vec<pb::Definition>>,
}

impl Graphs {
    /// The frontend, with its result taken away.
    pub fn take_from(self: &Arc<Self>, frontend: FrontendFn) -> FrontendFn {
        let graphs = self.clone();
        Arc::new(move |gateway| {
            let outermost = !graphs.begun.swap(true, Ordering::Relaxed);
            let work = frontend(gateway);
            let graphs = graphs.clone();
            Box::pin(async move {
                let result = work.await?;
                if !outermost {
                    return Ok(result);
                }
                let definitions = result.refs.iter().filter_map(|(_, r)| r.def.clone());
                let mut taken = graphs.taken.lock().unwrap_or_else(PoisonError::into_inner);
                taken.extend(definitions);
                Ok(BuildResult {
                    refs: Refs::None,
                    ..BuildResult::default()
                })
            })
        })
    }

    /// Writes the graph, `-` for stdout.
    pub fn write(&self, path: &Path) -> Result<(), CliError> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.as_slice() {
            [definition] => write_out(path, &definition.encode_to_vec()),
            [] => Err(CliError::NoGraph("the result is empty".to_owned())),
            several => Err(CliError::NoGraph(format!(
                "there are {}, one for each platform: choose one with --platform",
                several.len()
            ))),
        }
    }
}
