//! `gateway daemon`: other build clients drive this program.

mod address;
mod clients;
mod collector;
mod file;
mod memory;
mod platforms;
mod unused;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use gateway_bridge::{Engine, EngineOptions};
use gateway_daemon::{
    Daemon, DaemonOptions, Entitlement, Grants, HistoryLimits, Listener, PeerLimits, Policies,
    TlsFiles, UnknownEntitlement, Worker,
};
use gateway_llb::platform;
use gateway_solver::{Solver, SolverOptions};

use self::address::Address;
use self::clients::Accounts;
use self::file::DaemonFile;
use self::unused::Unused;
use crate::environment::Environment;
use crate::error::{CliError, UsageError};
use crate::registry::settings::{RegistryArgs, system_trust};
use crate::{build, collection, config};

/// Between the first signal and the end of builds that do not notice it.
const GRACE: Duration = Duration::from_secs(20);

/// What only a start needs is given back after this time.
const STARTED: Duration = Duration::from_secs(2);

/// Descriptors that are wanted: all connections, and what their builds open.
const DESCRIPTORS: u64 = 65_536;

/// Threads for work that waits, e.g. for a client that takes its image: several of every build, so that
/// clients that take nothing leave enough for the builds of others.
const BLOCKING: usize = 8192;

/// Serve build clients: buildctl, docker buildx (remote driver), docker build with DOCKER_HOST.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gateway daemon                                        on BuildKit's usual socket
  gateway daemon --addr unix:///tmp/builder.sock
  gateway daemon --addr tcp://0.0.0.0:1234 --tlscert cert.pem --tlskey key.pem --tlscacert ca.pem
  DOCKER_BUILDKIT=1 DOCKER_HOST=unix:///tmp/builder.sock docker build .
  buildctl --addr unix:///tmp/builder.sock build --frontend dockerfile.v0 --local context=. --local dockerfile=.")]
pub struct DaemonArgs {
    /// Where clients come from: unix://PATH, tcp://HOST:PORT with certificates, stdio://, fd:// for the
    /// sockets of systemd (may be repeated) [default: unix:///run/buildkit/buildkitd.sock, for users
    /// below $XDG_RUNTIME_DIR]
    #[arg(long = "addr", value_name = "ADDRESS")]
    addresses: Vec<String>,

    /// Image store and cache [default: /var/lib/gateway, or ~/.local/share/gateway for users]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    #[command(flatten)]
    registries: RegistryArgs,

    /// Group that may use the Unix sockets, by name or number
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    /// Certificate of TCP listeners
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,

    /// Its key
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,

    /// Authority of the certificates that clients must have
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,

    /// Listen on TCP without certificates: whoever reaches the port may do everything
    #[arg(long)]
    allow_unauthenticated_tcp: bool,

    /// What builds may be granted: network.host, security.insecure, device (may be repeated); [[client]] of the
    /// configuration says it of some clients
    #[arg(long = "allow-insecure-entitlement", value_name = "ENTITLEMENT")]
    entitlements: Vec<String>,

    /// End when nobody was connected for this long, e.g. 10m
    #[arg(long, value_name = "DURATION")]
    idle_timeout: Option<String>,

    /// Steps that run at once
    #[arg(long = "oci-max-parallelism", value_name = "NUMBER")]
    max_parallelism: Option<usize>,

    /// Platforms that are announced beside the machine's own
    #[arg(long = "oci-worker-platform", value_name = "PLATFORM")]
    platforms: Vec<String>,

    /// Labels of the worker
    #[arg(long = "oci-worker-labels", value_name = "KEY=VALUE")]
    labels: Vec<String>,

    #[command(flatten)]
    unused: Unused,
}

/// Connect standard input and output to a daemon, as `buildctl dial-stdio` does.
#[derive(Debug, Args)]
pub struct DialStdio {
    /// Unix socket of the daemon
    #[arg(long = "addr", value_name = "ADDRESS")]
    address: Option<String>,
}

pub fn run(args: &DaemonArgs) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING)
        .build()
        .map_err(CliError::Runtime)?;
    let result = runtime.block_on(serve(args));
    // A blocking read of a stuck file system must not keep an ended daemon alive.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root() && !crate::is_rootless()
}

/// Every connection and every file of a transfer is a descriptor: the soft limit, 1024 of them on most
/// machines, would keep the clients of some hundred builds out.
fn allow_descriptors() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = rustix::process::Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        // With fewer, fewer clients come in at once.
        let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    }
}

async fn serve(args: &DaemonArgs) -> Result<(), CliError> {
    let env = environment();
    let layers = config::Layers::of_daemon(args.registries.config.as_deref(), &env)?;
    let (file, mut warnings) = file::read(&layers)?;
    warnings.extend(args.unused.0.iter().cloned());
    let settings = config::settings(&args.registries, &layers, &env)?;
    warnings.extend(settings.warnings);
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    let given = args.root.as_deref().or(file.root.as_deref());
    let root = config::store_root(given, &layers, &env, is_root())?;
    let addresses = addresses(args, &file, &env)?;
    let idle = match &args.idle_timeout {
        None => None,
        Some(text) => Some(
            collection::duration(text)
                .map_err(|problem| UsageError::new("--idle-timeout", text, problem))?,
        ),
    };
    let solver = Solver::open(SolverOptions {
        root: root.clone(),
        registries: settings.registries,
        launcher: gateway_sandbox::LauncherOptions::default(),
        max_parallelism: args.max_parallelism.unwrap_or(settings.max_parallelism),
        steps: settings.steps,
        default_platform: platform::host(),
    })
    .await?;
    // Steps keep the limit that we came with: what starts them is started first.
    let _ = solver.launcher().await;
    allow_descriptors();
    let engine = Engine::new(EngineOptions {
        solver: solver.clone(),
        builtins: BTreeMap::from([("dockerfile.v0".to_owned(), build::dockerfile_frontend())]),
        policy: settings.policy,
        limits: settings.limits.clone(),
    });
    let collection = settings.collection;
    let policies = collection
        .clone()
        .policies()
        .is_some()
        .then(|| -> Policies {
            Arc::new(move |disk| {
                let policies = collection.clone().policies();
                policies.map(|policies| policies(disk)).unwrap_or_default()
            })
        });
    let grants = grants(args, &file, &layers)?;
    let collector = collector::collector(&env, system_trust(&env)).unwrap_or_else(|problem| {
        eprintln!("warning: {problem}");
        None
    });
    let daemon = Daemon::new(DaemonOptions {
        engine,
        solver,
        root: root.join("daemon"),
        worker: worker(args, &file, &root)?,
        version: format!("v{}", env!("CARGO_PKG_VERSION")),
        grants,
        limits: settings.limits,
        peers: PeerLimits::default(),
        history: file.history.unwrap_or_else(HistoryLimits::default),
        policies,
        collector,
    })
    .map_err(|source| CliError::Write {
        path: root.join("daemon"),
        source,
    })?;
    listen(args, &file, &env, &daemon, addresses, idle).await
}

/// What builds may be granted, by whom they are of.
fn grants(
    args: &DaemonArgs,
    file: &DaemonFile,
    layers: &config::Layers,
) -> Result<Grants, CliError> {
    let given = args.entitlements.iter().map(|text| {
        text.parse().map_err(|error: UnknownEntitlement| {
            UsageError::new("--allow-insecure-entitlement", text, error.to_string())
        })
    });
    let mut others = given.collect::<Result<Vec<Entitlement>, _>>()?;
    others.extend(file.entitlements.iter().cloned());
    let wrong = |problem: String| {
        let path = layers.origin(&["client".to_owned()]);
        CliError::Config {
            path: path.unwrap_or(Path::new("")).to_owned(),
            problem,
        }
    };
    let accounts = match file.clients.is_empty() {
        true => Accounts::default(),
        false => Accounts::of_this_machine(crate::is_rootless())
            .map_err(|error| wrong(format!("[[client]]: the ids of this process: {error}")))?,
    };
    clients::grants(&file.clients, others, &accounts).map_err(wrong)
}

/// Where to listen: what the flags say, else the configuration, else the usual place.
fn addresses(
    args: &DaemonArgs,
    file: &DaemonFile,
    env: &Environment,
) -> Result<Vec<Address>, CliError> {
    let given = match args.addresses.is_empty() {
        true => &file.addresses,
        false => &args.addresses,
    };
    if given.is_empty() {
        return Ok(vec![Address::Unix(usual_socket(env))]);
    }
    let parsed = given.iter().map(|text| {
        Address::parse(text).map_err(|problem| UsageError::new("--addr", text, problem))
    });
    Ok(parsed.collect::<Result<_, _>>()?)
}

/// Where BuildKit's clients look.
fn usual_socket(env: &Environment) -> PathBuf {
    let runtime = env.get("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    match runtime {
        Some(dir) if !is_root() => Path::new(dir).join("buildkit/buildkitd.sock"),
        _ => PathBuf::from("/run/buildkit/buildkitd.sock"),
    }
}

async fn listen(
    args: &DaemonArgs,
    file: &DaemonFile,
    env: &Environment,
    daemon: &Daemon,
    addresses: Vec<Address>,
    idle: Option<Duration>,
) -> Result<(), CliError> {
    // Who sees the socket may ask it to end.
    let cancel = tokio_util::sync::CancellationToken::new();
    tokio::spawn(crate::interrupt::cancel_on_signal(cancel.clone()));
    let tls = tls(args, file)?;
    let group = args.group.as_deref().or(file.group.as_deref());
    let mut sockets = Vec::new();
    let mut listeners = Vec::new();
    let mut stdio = false;
    for address in addresses {
        let wrong = |problem: String| CliError::Listen {
            address: address.to_string(),
            problem,
        };
        match &address {
            Address::Stdio => stdio = true,
            Address::Inherited => listeners.extend(inherited(env).map_err(&wrong)?),
            Address::Unix(path) => {
                let listener = address::listen_unix(path, group).map_err(&wrong)?;
                sockets.push(path.clone());
                listeners.push(Listener::Unix(listener));
            }
            Address::Tcp(place) => {
                let acceptor = match (&tls, args.allow_unauthenticated_tcp) {
                    (Some(files), _) => Some(
                        gateway_daemon::acceptor(files).map_err(|error| wrong(error.to_string()))?,
                    ),
                    (None, true) => None,
                    (None, false) => return Err(wrong(
                        "without certificates whoever reaches the port could do everything: give --tlscert, \
                         --tlskey and --tlscacert, or say --allow-unauthenticated-tcp".to_owned(),
                    )),
                };
                let listener = tokio::net::TcpListener::bind(place.as_str())
                    .await
                    .map_err(|error| wrong(error.to_string()))?;
                if let Ok(place) = listener.local_addr() {
                    eprintln!("listening on tcp://{place}");
                }
                listeners.push(match acceptor {
                    Some(acceptor) => Listener::Tls(listener, acceptor),
                    None => Listener::OpenTcp(listener),
                });
            }
        }
    }
    for path in &sockets {
        eprintln!("listening on unix://{}", path.display());
    }
    for listener in listeners {
        let daemon = daemon.clone();
        tokio::spawn(async move { daemon.serve(listener).await });
    }
    let working = daemon.clone();
    tokio::spawn(async move {
        tokio::time::sleep(STARTED).await;
        loop {
            // It walks all memory that is free.
            let _ = tokio::task::spawn_blocking(memory::give_back).await;
            working.lull().await;
        }
    });
    let one = async {
        if !stdio {
            return std::future::pending().await;
        }
        let io = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
        // How the client leaves is its own affair.
        let _ = daemon.serve_one(io).await;
    };
    let unused = async {
        match idle {
            Some(idle) => daemon.idle_for(idle).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = one => {}
        () = unused => {}
    }
    daemon.stop();
    let _ = tokio::time::timeout(GRACE, daemon.idle()).await;
    for path in sockets {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn tls(args: &DaemonArgs, file: &DaemonFile) -> Result<Option<TlsFiles>, CliError> {
    let pick = |flag: &Option<PathBuf>, key: &Option<PathBuf>| flag.clone().or_else(|| key.clone());
    let given = (
        pick(&args.tlscert, &file.certificate),
        pick(&args.tlskey, &file.key),
        pick(&args.tlscacert, &file.authority),
    );
    match given {
        (None, None, None) => Ok(None),
        (Some(certificate), Some(key), Some(client_authority)) => Ok(Some(TlsFiles {
            certificate,
            key,
            client_authority,
        })),
        _ => Err(UsageError::new(
            "--tlscert",
            "",
            "needs --tlskey and --tlscacert with it: clients must prove who they are".to_owned(),
        )
        .into()),
    }
}

/// Sockets of the service manager, if it means us: an ordinary user's daemon is a child of the process
/// that was started.
fn inherited(env: &Environment) -> Result<Vec<Listener>, String> {
    let number = |name: &str| env.get(name).and_then(|text| text.parse::<i32>().ok());
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    let own = i32::try_from(std::process::id()).ok();
    let meant = number("LISTEN_PID");
    let count = number("LISTEN_FDS").filter(|count| *count > 0);
    match count {
        Some(count) if meant.is_some() && (meant == own || meant == parent) => {
            gateway_daemon::inherited(count).map_err(|error| error.to_string())
        }
        _ => Err(
            "no sockets were handed over (LISTEN_FDS): fd:// is for units with sockets".to_owned(),
        ),
    }
}

fn worker(args: &DaemonArgs, file: &DaemonFile, root: &Path) -> Result<Worker, CliError> {
    let mut platforms = platforms::executable(root);
    for text in args.platforms.iter().chain(&file.platforms) {
        let parsed = platform::parse(text)
            .map_err(|error| UsageError::new("--oci-worker-platform", text, error.to_string()))?;
        let parsed = platform::normalize(&parsed);
        if !platforms.contains(&parsed) {
            platforms.push(parsed);
        }
    }
    let hostname = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let mut labels = BTreeMap::from(
        [
            ("executor", "oci"),
            ("hostname", hostname.as_str()),
            ("network", "host"),
            ("oci.process-mode", "sandbox"),
            ("selinux.enabled", "false"),
            ("snapshotter", "overlayfs"),
        ]
        .map(|(key, value)| {
            (
                format!("org.mobyproject.buildkit.worker.{key}"),
                value.to_owned(),
            )
        }),
    );
    for text in &args.labels {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            UsageError::new("--oci-worker-labels", text, "write KEY=VALUE".to_owned())
        })?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels.extend(file.labels.clone());
    Ok(Worker {
        id: worker_id(root)?,
        labels,
        platforms,
    })
}

/// The same as long as the store is.
fn worker_id(root: &Path) -> Result<String, CliError> {
    let path = root.join("daemon").join("workerid");
    if let Ok(id) = std::fs::read_to_string(&path)
        && !id.is_empty()
    {
        return Ok(id);
    }
    let id = build::session_id();
    let written =
        std::fs::create_dir_all(root.join("daemon")).and_then(|()| std::fs::write(&path, &id));
    written.map_err(|source| CliError::Write { path, source })?;
    Ok(id)
}

pub fn dial_stdio(args: &DialStdio) -> Result<(), CliError> {
    let env = environment();
    let given = args
        .address
        .clone()
        .or_else(|| env.get("BUILDKIT_HOST").cloned());
    let path = match &given {
        None => usual_socket(&env),
        Some(text) => match Address::parse(text) {
            Ok(Address::Unix(path)) => path,
            _ => {
                let problem = "only unix://PATH can be dialled".to_owned();
                return Err(UsageError::new("--addr", text, problem).into());
            }
        },
    };
    let failed = |source| CliError::Dial {
        address: format!("unix://{}", path.display()),
        source,
    };
    let stream = std::os::unix::net::UnixStream::connect(&path).map_err(failed)?;
    let (mut from, mut to) = (stream.try_clone().map_err(failed)?, stream);
    std::thread::spawn(move || {
        // The other direction may go on: only this half ends.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let mut out = std::io::stdout().lock();
    std::io::copy(&mut from, &mut Flushing(&mut out))
        .map(drop)
        .map_err(failed)
}

/// Standard output keeps lines back; a protocol waits for its bytes.
struct Flushing<W>(W);

impl<W: std::io::Write> std::io::Write for Flushing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_all(bytes)?;
        self.0.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}
