//! `gateway frontend test`: a frontend image in the sandbox of builds, under hosts that are of other years, broken or
//! gone, and what it makes of them.

mod checks;
mod contexts;
mod judge;
mod probe;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::{StreamExt as _, stream};
use gateway_api::progress::Progress;
use gateway_bridge::{
    BuildRequest, Collect, Engine, EngineOptions, FrontendLimits, FrontendPolicy,
};
use gateway_images::archive::write_index;
use gateway_images::platform::Platform;
use gateway_images::registry::Registries;
use gateway_images::store::BlobStore;
use gateway_session::LocalSession;
use gateway_solver::policy::SourcePolicies;
use gateway_solver::{Solver, SolverOptions, StepOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::checks::{CHECKS, Check, Known, Order, SAMPLE, Verdict};
use self::judge::Ran;
use self::probe::{Probe, Watching};
use super::inspect::profile;
use super::subject::{Place, Subject};
use crate::error::{CliError, UsageError};
use crate::registry::settings::RegistryArgs;
use crate::registry::with_registries;
use crate::text::print;

/// What the image goes by in its tests.
const NAME: &str = "frontend.test/image:1";
const LAYOUT_ID: &str = "frontend";
/// The same in every run: it is a part of graphs.
const SESSION: &str = "0123456789012345678901234";
/// For one run; real frontends take below a second.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a frontend may stay when it has nothing more to do.
const GRACE: Duration = Duration::from_secs(5);
/// In this time a frontend that does not wait has returned.
const GOES_ON: Duration = Duration::from_millis(300);
/// Where crates of `gateway frontend new` have a sample.
const EXAMPLE: &str = "example";
const NO_SAMPLE: &str = "it does not build the sample: give one in its language with --sample";
/// Checks at once: most of their time is waiting.
const AT_ONCE: usize = 3;

/// Test whether a frontend image keeps to the protocol.
///
/// It runs in the sandbox of builds, without network, on hosts that know little, answer wrongly or refuse, and must
/// return a result or an error of its own each time.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gateway frontend test . --sample example          the crate here, after `gateway frontend build`
  gateway frontend test docker/dockerfile:1         one of a registry, with a small Dockerfile as its sample
  gateway frontend test . --sample example --only f22  one check again, while it is being mended
  gateway frontend test --json oci:out > report.json")]
pub struct Test {
    /// Reference, oci:DIR[:NAME], or the folder of a crate that was built
    #[arg(value_name = "REF|LAYOUT")]
    image: String,

    /// Folder with a build file in the frontend's language, and what it copies [default: the folder example of a crate]
    #[arg(long, value_name = "DIR")]
    sample: Option<PathBuf>,

    /// Build argument for all runs
    #[arg(long = "build-arg", value_name = "KEY=VALUE")]
    build_args: Vec<String>,

    /// Only these checks, by their names in the report, e.g. f03,f22b; the first one is always made
    #[arg(long, value_name = "CHECK", value_delimiter = ',')]
    only: Vec<String>,

    /// Fail also when it does not survive a host whose answers are broken
    #[arg(long)]
    strict: bool,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    registries: RegistryArgs,
}

/// How one check ended.
struct Line {
    check: &'static Check,
    verdict: Verdict,
    took: Duration,
}

pub fn run(args: &Test) -> Result<(), CliError> {
    let place = Place::parse(&args.image)?;
    if let Some(sample) = &args.sample
        && !sample.is_dir()
    {
        let problem = "is no folder".to_owned();
        return Err(UsageError::new("--sample", sample.to_string_lossy(), problem).into());
    }
    let known = |id: &&String| !CHECKS.iter().any(|check| check.id == **id);
    if let Some(unknown) = args.only.iter().find(known) {
        let ids: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
        let problem = format!("there is no such check: there are {}", ids.join(", "));
        return Err(UsageError::new("--only", unknown, problem).into());
    }
    // Of a crate the example is a sample.
    let example = Path::new(&args.image).join(EXAMPLE);
    let sample = match &args.sample {
        Some(sample) => Some(sample.clone()),
        None => Some(example).filter(|example| example.is_dir() && place.is_layout()),
    };
    let sample = sample.as_deref();
    let (subject, platform, lines) = with_registries(&args.registries, |registries| async move {
        test(args, &registries, &place, sample).await
    })?;
    print(&match args.json {
        true => format!("{:#}\n", json_of(&subject, &platform, &lines)),
        false => text_of(&subject, &platform, sample, &lines),
    });
    let failed = lines.iter().any(|line| {
        matches!(line.verdict, Verdict::Failed(_)) && (args.strict || !line.check.beyond)
    });
    match failed {
        true => Err(CliError::Told),
        false => Ok(()),
    }
}

async fn test(
    args: &Test,
    registries: &Registries,
    place: &Place,
    sample: Option<&Path>,
) -> Result<(Subject, Platform, Vec<Line>), CliError> {
    let dir = tempfile::tempdir().map_err(CliError::Runtime)?;
    let failed = |problem: &dyn std::fmt::Display| CliError::Frontend(problem.to_string());
    let layout = dir.path().join("layout");
    let blobs = BlobStore::open(&layout).map_err(|e| failed(&e))?;
    let subject = Subject::fetch(registries, place, &blobs).await?;
    write_index(&layout, vec![subject.root.descriptor.clone()]).map_err(|e| failed(&e))?;
    let faults = subject.faults(&blobs);
    if !faults.is_empty() {
        return Err(CliError::Frontend(format!(
            "{}: hosts could not run it:\n  {}",
            subject.shown,
            faults.join("\n  ")
        )));
    }
    let host = crate::registry::platform(None)?;
    let own = subject.images.iter().find(|image| {
        image.platform.architecture == host.architecture && image.platform.os == host.os
    });
    let Some(own) = own else {
        let has: Vec<String> = subject
            .images
            .iter()
            .map(|image| image.platform.to_string())
            .collect();
        return Err(failed(&format!(
            "{}: it has no image for this machine ({host}), only for {}: test it on one of these, or build it for {host}",
            subject.shown,
            has.join(", ")
        )));
    };
    let own_sample_used = sample.is_none();
    let sample = match sample {
        Some(sample) => std::path::absolute(sample).map_err(CliError::Runtime)?,
        None => own_sample(dir.path(), "sample", SAMPLE)?,
    };
    let bench = Bench {
        registries,
        layout: &layout,
        digest: subject.root.descriptor.digest.to_string(),
        sample: &sample,
        own_sample: own_sample_used,
        build_args: &args.build_args,
        stores: dir.path(),
    };
    let at = bench.image();
    let mut known = Known {
        image: own,
        first: None,
        own_sample: own_sample_used,
        layout: &at,
    };
    let mut checks = CHECKS.iter();
    let Some(first) = checks.next() else {
        return Err(failed(&"there are no checks"));
    };
    let wanted = |check: &&Check| args.only.is_empty() || args.only.iter().any(|id| id == check.id);
    let rest: Vec<&'static Check> = checks.filter(wanted).collect();
    let (line, ran) = bench.check(first, &known).await?;
    let builds = line.verdict == Verdict::Passed;
    known.first = ran.first();
    let mut lines = vec![line];
    if builds {
        let checked = stream::iter(rest).map(|check| bench.check(check, &known));
        let checked: Vec<_> = checked.buffered(AT_ONCE).collect().await;
        for checked in checked {
            lines.push(checked?.0);
        }
    } else {
        lines.extend(rest.into_iter().map(|check| Line {
            check,
            verdict: Verdict::Skipped(NO_SAMPLE.to_owned()),
            took: Duration::ZERO,
        }));
    }
    let platform = own.platform.clone();
    Ok((subject, platform, lines))
}

/// A folder with this Dockerfile, and what it copies.
fn own_sample(dir: &Path, name: &str, dockerfile: &str) -> Result<PathBuf, CliError> {
    let sample = dir.join(name);
    std::fs::create_dir_all(&sample).map_err(CliError::Runtime)?;
    for (name, text) in [("Dockerfile", dockerfile), ("hello.txt", "hello\n")] {
        std::fs::write(sample.join(name), text).map_err(CliError::Runtime)?;
    }
    Ok(sample)
}

/// Where runs are made. Each has a store of its own: nothing that one left helps the next, and no answer is replayed.
struct Bench<'a> {
    registries: &'a Registries,
    layout: &'a Path,
    digest: String,
    sample: &'a Path,
    own_sample: bool,
    build_args: &'a [String],
    stores: &'a Path,
}

impl Bench<'_> {
    async fn check(
        &self,
        check: &'static Check,
        known: &Known<'_>,
    ) -> Result<(Line, Vec<Ran>), CliError> {
        let started = Instant::now();
        let mut runs = Vec::new();
        let verdict = match (check.orders)(known) {
            Err(reason) => Verdict::Skipped(reason),
            Ok(orders) => {
                for order in orders {
                    runs.push(self.run(order).await?);
                }
                (check.judge)(&runs)
            }
        };
        let took = started.elapsed();
        Ok((
            Line {
                check,
                verdict,
                took,
            },
            runs,
        ))
    }

    async fn run(&self, order: Order) -> Result<Ran, CliError> {
        let store = tempfile::tempdir_in(self.stores).map_err(CliError::Runtime)?;
        let sample = match order.sample.filter(|_| self.own_sample) {
            Some(dockerfile) => own_sample(store.path(), "sample", dockerfile)?,
            None => self.sample.to_owned(),
        };
        let solver = Solver::open(SolverOptions {
            root: store.path().join("store"),
            registries: self.registries.clone(),
            launcher: gateway_sandbox::LauncherOptions::default(),
            max_parallelism: 0,
            steps: StepOptions::default(),
            default_platform: gateway_llb::platform::host(),
        })
        .await?;
        let probe = Probe::new(order.twist, order.conduct.clone());
        let timeout = order.timeout.unwrap_or(TIMEOUT);
        let engine = Engine::new(EngineOptions {
            solver,
            builtins: BTreeMap::new(),
            policy: FrontendPolicy::default(),
            limits: FrontendLimits {
                start_timeout: timeout,
                timeout: Some(timeout),
                exit_grace: GRACE,
                network: false,
                ..FrontendLimits::default()
            },
        })
        .observed_by(Arc::new(Watching(probe.clone())));
        let cancel = CancellationToken::new();
        let started = Instant::now();
        let building = engine.build(self.request(&order, &sample, cancel.clone()));
        let mut building = std::pin::pin!(building);
        let mut from = started;
        let built = tokio::select! {
            built = &mut building => built,
            () = hung(&probe), if order.cancelled => {
                cancel.cancel();
                from = Instant::now();
                building.await
            }
        };
        Ok(Ran {
            seen: probe.seen(),
            built: built.map(drop),
            took: from.elapsed(),
            name: NAME.to_owned(),
            note: order.note,
        })
    }

    /// The frontend's image, as contexts name it.
    fn image(&self) -> String {
        format!("oci-layout://{LAYOUT_ID}@{}", self.digest)
    }

    fn request(&self, order: &Order, sample: &Path, cancel: CancellationToken) -> BuildRequest {
        let mut opts = BTreeMap::from([("source".to_owned(), NAME.to_owned())]);
        if !order.outermost {
            // As behind a `# syntax` line: nobody looks for another frontend.
            opts.insert("cmdline".to_owned(), NAME.to_owned());
        }
        opts.insert(format!("context:{NAME}"), self.image());
        for text in self.build_args {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            opts.insert(format!("build-arg:{key}"), value.to_owned());
        }
        opts.extend(order.opts.clone());
        let session = LocalSession::new(SESSION.to_owned())
            .with_dir("context", sample)
            .with_dir("dockerfile", sample)
            .with_oci_store(LAYOUT_ID, self.layout);
        BuildRequest {
            frontend: "gateway.v0".to_owned(),
            opts,
            inputs: order.inputs.clone(),
            session: Arc::new(session),
            progress: Progress::discard(),
            entitlements: BTreeSet::new(),
            source_policies: SourcePolicies::default(),
            pins: None,
            registries: None,
            collect: (!order.whole).then_some(Collect::Nothing),
            source_judge: None,
            late_exporters: None,
            record_provenance: false,
            exporters: Vec::new(),
            cache_imports: Vec::new(),
            cache_exports: Vec::new(),
            verify_replay: false,
            cancel,
        }
    }
}

/// The frontend waits for a solve that does not end; or goes on without.
async fn hung(probe: &Probe) {
    probe.hanging.cancelled().await;
    tokio::time::sleep(GOES_ON).await;
}

/// Passed, failed, weak, skipped.
fn counts(lines: &[Line]) -> [usize; 4] {
    let count = |wanted: &str| {
        lines
            .iter()
            .filter(|line| line.outcome().0 == wanted)
            .count()
    };
    ["passed", "failed", "weak", "skipped"].map(count)
}

impl Line {
    /// The word of the report, and why.
    fn outcome(&self) -> (&'static str, Option<&String>) {
        match &self.verdict {
            Verdict::Passed => ("passed", None),
            Verdict::Failed(reason) if self.check.beyond => ("weak", Some(reason)),
            Verdict::Failed(reason) => ("failed", Some(reason)),
            Verdict::Skipped(reason) => ("skipped", Some(reason)),
        }
    }
}

fn text_of(
    subject: &Subject,
    platform: &Platform,
    sample: Option<&Path>,
    lines: &[Line],
) -> String {
    let own = subject
        .images
        .iter()
        .find(|image| image.platform == *platform);
    let profile = own.map_or("", |image| profile(image).0);
    let mut out = format!(
        "{}\n{}  {platform}, profile {profile}, without network\nsample: {}\n\n",
        subject.shown,
        subject.root.descriptor.digest,
        sample.map_or("a small Dockerfile".to_owned(), |dir| dir
            .display()
            .to_string())
    );
    let unmade = Verdict::Skipped(NO_SAMPLE.to_owned());
    for line in lines.iter().filter(|line| line.verdict != unmade) {
        let (outcome, reason) = line.outcome();
        let word = match outcome {
            "passed" => "ok  ",
            "failed" => "FAIL",
            "weak" => "weak",
            _ => "n/a ",
        };
        out += &format!("{word}  {:4}  {}\n", line.check.id, line.check.name);
        for text in reason.into_iter().flat_map(|reason| reason.lines()) {
            out += &format!("            {text}\n");
        }
    }
    if lines.iter().any(|line| line.verdict == unmade) {
        out += &format!("n/a   all other checks\n            {NO_SAMPLE}\n");
    }
    let [passed, failed, weak, skipped] = counts(lines);
    out + &format!("\n{passed} passed, {failed} failed, {weak} weak, {skipped} do not apply\n")
}

fn json_of(subject: &Subject, platform: &Platform, lines: &[Line]) -> Value {
    let checks: Vec<Value> = lines
        .iter()
        .map(|line| {
            let (outcome, reason) = line.outcome();
            json!({
                "id": line.check.id,
                "name": line.check.name,
                "outcome": outcome,
                "reason": reason,
                "seconds": line.took.as_secs_f64(),
            })
        })
        .collect();
    let [passed, failed, weak, skipped] = counts(lines);
    json!({
        "name": subject.shown,
        "digest": subject.root.descriptor.digest,
        "platform": platform.to_string(),
        "passed": passed,
        "failed": failed,
        "weak": weak,
        "skipped": skipped,
        "checks": checks,
    })
}
