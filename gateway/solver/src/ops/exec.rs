//! Exec ops: a command over the file systems of its inputs.

mod devices;
mod logs;
pub mod mounts;
mod ssh;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use gateway_api::error::SolveDetail;
use gateway_api::{Code, Detail, Error};
use gateway_llb::pb;
use gateway_llb::quote::go_quote;
use gateway_sandbox::usage::Gauge;
use gateway_sandbox::{Resources, SandboxSpec, Security, Stdio, StubRemoval, Ulimit};

use super::image;
use crate::job::JobInner;
use crate::live::LiveVertex;
use crate::shared::{Outcome, blocking};
use crate::solve::internal;
use crate::store::Snapshot;
use crate::usage::StepUsage;
pub use devices::granted as granted_device;
use logs::Logs;
use mounts::{Mounts, Shown, Tree};

/// As BuildKit sets it for steps without one.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub async fn run(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    op: &pb::ExecOp,
    inputs: Vec<Snapshot>,
) -> Outcome<Vec<Snapshot>> {
    let meta = op
        .meta
        .as_ref()
        .ok_or_else(|| Error::unknown("invalid exec op with no meta"))?;
    for snapshot in &inputs {
        image::ensure(job, snapshot).await?;
    }
    let inputs: Vec<Tree> = inputs.into_iter().map(Tree::from).collect();
    let fresh = vertex.metadata.ignore_cache;
    let mut mounts = Mounts::prepare(job, fresh, &op.mounts, meta, &inputs).await?;
    let _permit = job.permit().await?;
    let running = job.reports.start(&vertex.digest);
    let outcome = async {
        let spec = spec(job, vertex, op, meta, &mut mounts).await?;
        if let Err(error) = step(job, vertex, meta, spec).await {
            return Err(error.with(Detail::Solve(keep(job, op, &inputs, mounts.shown()))));
        }
        let (job, vertex) = (job.clone(), vertex.clone());
        blocking(move || mounts.commit(job.store(), &format!("mount / from exec {}", vertex.name)))
            .await
    }
    .await;
    running.finish(&outcome);
    outcome
}

/// Keeps the file systems of a failed step as it left them, for whoever wants to look at them
/// while the build lasts.
fn keep(job: &JobInner, op: &pb::ExecOp, inputs: &[Tree], shown: &[Shown]) -> SolveDetail {
    // One id for each mount of the op, empty for mounts without files of their own.
    let input_ids: Vec<String> = op
        .mounts
        .iter()
        .map(|mount| usize::try_from(mount.input).ok())
        .map(|input| input.and_then(|index| inputs.get(index)))
        .map(|input| input.map_or_else(String::new, |tree| job.keep(tree.clone())))
        .collect();
    let mount_ids = input_ids
        .iter()
        .zip(shown)
        .map(|(input, shown)| match shown {
            Shown::Tree(tree) if !tree.changes.is_empty() => job.keep(tree.clone()),
            _ => input.clone(),
        })
        .collect();
    SolveDetail {
        input_ids,
        mount_ids,
        ..SolveDetail::default()
    }
}

async fn spec(
    job: &Arc<JobInner>,
    vertex: &LiveVertex,
    op: &pb::ExecOp,
    meta: &pb::Meta,
    mounts: &mut Mounts,
) -> Outcome<SandboxSpec> {
    let mut spec = SandboxSpec::new(mounts.root(), meta.args.clone());
    spec.root_readonly = mounts.root_readonly();
    spec.mounts = mounts.take();
    spec.env = env(job, op, meta).await?;
    spec.cwd.clone_from(&meta.cwd);
    spec.user.clone_from(&meta.user);
    spec.hostname.clone_from(&meta.hostname);
    spec.extra_hosts = extra_hosts(&meta.extra_hosts)?;
    let steps = job.solver().steps();
    steps.apply(&mut spec);
    spec.network = steps.network(op.network());
    spec.security = match op.security() {
        pb::SecurityMode::Sandbox => Security::Sandbox,
        pb::SecurityMode::Insecure => Security::Insecure,
    };
    spec.ulimits = meta
        .ulimit
        .iter()
        .map(|limit| Ulimit {
            name: limit.name.clone(),
            soft: limit.soft,
            hard: limit.hard,
        })
        .collect();
    spec.cgroup_parent = (!meta.cgroup_parent.is_empty()).then(|| meta.cgroup_parent.clone());
    spec.remove_mount_stubs = match meta.remove_mount_stubs_recursive {
        true => StubRemoval::Recursive,
        false => StubRemoval::Leaf,
    };
    if let Some(limits) = &vertex.metadata.linux_resources {
        spec.resources = resources(limits);
    }
    spec.measure = job.options.measure;
    let entitlements = &job.options.entitlements;
    devices::add(&steps.cdi_dirs, &op.cdi_devices, entitlements, &mut spec)?;
    Ok(spec)
}

/// Names and addresses, checked.
pub fn extra_hosts(hosts: &[pb::HostIp]) -> Outcome<Vec<(String, String)>> {
    let check = |host: &pb::HostIp| match host.ip.parse::<std::net::IpAddr>() {
        Ok(_) => Ok((host.host.clone(), host.ip.clone())),
        Err(_) => Err(Error::unknown(format!("failed to parse IP {}", host.ip))),
    };
    hosts.iter().map(check).collect()
}

fn resources(limits: &pb::LinuxResources) -> Resources {
    let set = |value: i64| (value != 0).then_some(value);
    let count = |value: u64| (value != 0).then_some(value);
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    Resources {
        memory: set(limits.memory),
        memory_swap: set(limits.memory_swap),
        cpu_shares: count(limits.cpu_shares),
        cpu_period: count(limits.cpu_period),
        cpu_quota: set(limits.cpu_quota),
        cpuset_cpus: text(&limits.cpuset_cpus),
        cpuset_mems: text(&limits.cpuset_mems),
        pids: None,
    }
}

/// The op's own variables, proxies, a `PATH` where there is none, secrets; in this order.
async fn env(job: &Arc<JobInner>, op: &pb::ExecOp, meta: &pb::Meta) -> Outcome<Vec<String>> {
    let mut env = meta.env.clone();
    if let Some(proxy) = &meta.proxy_env {
        for (name, value) in [
            ("HTTP_PROXY", &proxy.http_proxy),
            ("HTTPS_PROXY", &proxy.https_proxy),
            ("FTP_PROXY", &proxy.ftp_proxy),
            ("NO_PROXY", &proxy.no_proxy),
            ("ALL_PROXY", &proxy.all_proxy),
        ] {
            if !value.is_empty() {
                env.push(format!("{name}={value}"));
                env.push(format!("{}={value}", name.to_lowercase()));
            }
        }
    }
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.push(DEFAULT_PATH.into());
    }
    env.extend(secret_env(job, &op.secretenv).await?);
    Ok(env)
}

/// The variables whose values are secrets, each with its value.
pub async fn secret_env(job: &Arc<JobInner>, list: &[pb::SecretEnv]) -> Outcome<Vec<String>> {
    let mut env = Vec::with_capacity(list.len());
    for secret in list {
        if secret.id.is_empty() {
            return Err(Error::unknown(format!(
                "secret ID missing for {:?} environment variable",
                secret.name
            )));
        }
        let value = mounts::secret(job, &secret.id).await?;
        let text = match &value {
            // A value that is no text cannot be a variable of a program that expects one.
            Some(value) => String::from_utf8(value.expose().to_vec()).map_err(|_| {
                Error::unknown(format!(
                    "secret {}: not valid text for a variable",
                    secret.id
                ))
            })?,
            None if secret.optional => String::new(),
            None => return Err(Error::unknown(format!("secret {}: not found", secret.id))),
        };
        env.push(format!("{}={text}", secret.name));
    }
    Ok(env)
}

/// Runs the process to its end, its output on the vertex.
async fn step(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    meta: &pb::Meta,
    spec: SandboxSpec,
) -> Outcome<()> {
    let (stdout, stdout_far) = pipe()?;
    let (stderr, stderr_far) = pipe()?;
    let logs = Logs::new(job, vertex);
    let launcher = job.solver().launcher().await?;
    let stdio = Stdio {
        stdin: None,
        stdout: Some(stdout_far),
        stderr: Some(stderr_far),
    };
    let mut process = match launcher.spawn(spec, stdio).await {
        Ok(process) => process,
        Err(error) => {
            let Some(code) = error.step_exit_code() else {
                return Err(match error.unknown_user() {
                    Some(why) => Error::unknown(unsuccessful(meta, why)),
                    None => Error::unknown(error.to_string()),
                });
            };
            job.reports
                .log(&vertex.digest, 2, format!("{error}\n").into_bytes());
            return Err(exit_error(meta, code));
        }
    };
    let gauge = process.gauge();
    let ended =
        async { tokio::join!(process.wait(), logs.copy(stdout, 1), logs.copy(stderr, 2)).0 };
    let status = match job.options.measure {
        false => ended.await,
        true => {
            let mut usage = StepUsage::start();
            let read = || gauge.as_ref().and_then(Gauge::read);
            let status = usage.during(read, ended).await;
            let _ = vertex.usage.set(usage.told(process.usage().cloned()));
            status
        }
    };
    let status = status.map_err(|error| Error::unknown(error.to_string()))?;
    if status.oom_killed {
        let text = unsuccessful(meta, "cannot allocate memory");
        return Err(Error::new(Code::ResourceExhausted, text));
    }
    let code = status.exit_code();
    let fine = match meta.valid_exit_codes.is_empty() {
        true => code == 0,
        false => meta.valid_exit_codes.contains(&code),
    };
    match fine {
        true => Ok(()),
        false => Err(exit_error(meta, code)),
    }
}

fn exit_error(meta: &pb::Meta, code: i32) -> Error {
    let text = unsuccessful(meta, &format!("exit code: {code}"));
    Error::unknown(text).with(Detail::Exit {
        code: code.unsigned_abs(),
    })
}

/// Scripts of many lines are one line of the text.
fn unsuccessful(meta: &pb::Meta, why: &str) -> String {
    let command = go_quote(&meta.args.join(" "));
    format!("process {command} did not complete successfully: {why}")
}

fn pipe() -> Outcome<(tokio::net::unix::pipe::Receiver, OwnedFd)> {
    let (near, far) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(internal)?;
    rustix::io::ioctl_fionbio(&near, true).map_err(internal)?;
    let near = tokio::net::unix::pipe::Receiver::from_owned_fd(near).map_err(internal)?;
    Ok((near, far))
}
