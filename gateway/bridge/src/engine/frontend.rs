//! `gateway.v0`: running the image of a frontend, or giving the answer that it gave before.

use std::sync::Arc;

use gateway_api::{BuildResult, Error, Gateway};
use gateway_llb::pb;
use gateway_solver::Job;

use super::context;
use super::image::{check_caps, network_none};
use super::local::LocalGateway;
use super::observer::Watch;
use super::replay::{self, Recorder, Replay};
use super::solved::Solved;
use super::{Engine, FrontendCall, GATEWAY};
use crate::host::environment::environment;
use crate::host::life::{Call, host};
use crate::host::process::{FrontendProcess, start};
use crate::host::stderr::StderrLog;

/// Runs the image of the option `source`.
pub(super) async fn run(engine: &Engine, job: &Job, call: FrontendCall) -> Result<Solved, Error> {
    if call.opts.contains_key("gateway-devel") {
        return Err(Error::unknown("development gateway is no longer supported"));
    }
    let source = match call.opts.get("source") {
        Some(source) if !source.is_empty() => source.clone(),
        _ => return Err(Error::unknown("no source specified for gateway")),
    };
    engine.0.policy.check_source(&source)?;
    let image = context::resolve(engine, job, &call, &source).await?;
    check_caps(&image, &call)?;

    let policies = match &call.judge {
        Some(judge) => {
            let policies = call.policies.clone();
            Box::pin(judge.of_definition(job, &image.definition, policies)).await?
        }
        None => call.policies.clone(),
    };
    let result = job.load(image.definition.clone(), &policies);
    let verify = call.verify_replay;
    let none = network_none(&image.config);
    let gateway = engine.gateway(job, call.clone());
    let replay = Replay::of(job, &call, &image, none, gateway.invocation());
    let mut expected = None;
    // Who looks at a conversation must get one.
    let observed = engine.1.is_some();
    if let Some(replay) = replay.as_ref().filter(|_| !observed || verify)
        // Boxed: its calls are those of a whole frontend, and frontends call frontends.
        && let Some(returned) = Box::pin(replay.replay(job, gateway.as_ref())).await
    {
        if !verify {
            replay::note(job, &source, &gateway);
            return finish(job, &gateway, returned, &source);
        }
        expected = Some(returned);
    }
    // Pulling and unpacking, and starting the launcher, at the same time.
    let (rootfs, launcher) = tokio::try_join!(job.rootfs(&result), engine.0.solver.launcher())?;
    let recorder = Arc::new(Recorder::new(gateway.clone()));
    let asked: Arc<dyn Gateway> = match replay {
        Some(_) => recorder.clone(),
        None => gateway.clone(),
    };
    let watch = Watch::new(engine.1.as_deref(), &source, asked);
    let conduct = watch.conduct();
    let process = FrontendProcess {
        image: &source,
        lowers: rootfs.lowers.clone(),
        entrypoint: image.config.entrypoint.as_deref().unwrap_or_default(),
        env: environment(&image.config.env, gateway.invocation())?,
        cwd: &image.config.working_dir,
        // What was saved for a build without network is all that its frontends get.
        network_none: none || job.is_vendored() || !engine.0.limits.network,
        network: job.steps().network(pb::NetMode::Unset),
        definition: &image.definition,
        conduct: conduct.as_deref(),
    };
    let limits = &engine.0.limits;
    let process = start(&launcher, process, limits).await?;
    let unique = Arc::as_ptr(&gateway) as usize;
    let hosted = host(
        process,
        Call {
            image: &source,
            gateway: watch.gateway(),
            limits,
            cancel: job.cancelled(),
            log: StderrLog::new(job.progress().clone(), &source, &unique.to_string()),
            conduct: conduct.clone(),
        },
    );
    let returned = Box::pin(hosted).await;
    watch.ended(&returned);
    let returned = returned?;
    drop(rootfs);
    if let Some(expected) = &expected {
        replay::compare(&source, expected, &returned)?;
    }
    if let Some(replay) = &replay {
        replay.keep(job, &recorder, &returned);
    }
    finish(job, &gateway, returned, &source)
}

/// What a frontend returned, looked at.
fn finish(
    job: &Job,
    gateway: &LocalGateway,
    returned: BuildResult,
    source: &str,
) -> Result<Solved, Error> {
    let solved = gateway.resolve(returned)?.of_frontend(GATEWAY, source);
    // Its work is still to come, but a definition that cannot even be read is this frontend's fault.
    for result in solved.results() {
        result.check(job)?;
    }
    Ok(solved)
}
