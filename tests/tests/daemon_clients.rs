//! `gateway daemon` as clients meet it beside the plain build: contexts on standard input, logins that
//! stay with the client, tunnels instead of sockets, sockets of a service manager, and buildkitd's flags.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway_tests::daemon::{Daemon, said};
use gateway_tests::nginx::Nginx;
use gateway_tests::program::{Home, binary, run, tool};
use gateway_tests::registry::Registry;
use gateway_tests::tokens::{PASSWORD, Tokens, USER};

fn succeeded(output: &Output) -> String {
    let text = said(output);
    assert!(output.status.success(), "{text}");
    text
}

/// A folder with a context and a place for what comes out.
struct Work(tempfile::TempDir);

impl Work {
    fn new(dockerfile: &str) -> Work {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(dir.path().join("context")).expect("a context");
        fs::write(dir.path().join("context/Dockerfile"), dockerfile).expect("a build file");
        Work(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `docker build` into the folder `out`.
    fn build(&self, daemon: &Daemon, more: &[&str]) -> Command {
        let mut build = daemon.docker(&self.path("docker"));
        let out = self.path("out").display().to_string();
        build
            .args(["build", "--progress=plain", "--output", &out])
            .args(more);
        build
    }

    fn out(&self, name: &str) -> String {
        let path = self.path("out").join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

#[test]
fn p31_p57_a_context_or_a_build_file_comes_on_standard_input() {
    let registry = Registry::with_base_images();
    let daemon = Daemon::start(&registry.as_docker_hub(), &[]);
    let work = Work::new("FROM scratch\nCOPY file /of-archive\n");
    fs::write(work.path("context/file"), "archived").unwrap();
    let archive = work.path("context.tar");
    tool(
        "tar",
        &[
            "cf",
            &archive.display().to_string(),
            "-C",
            &work.path("context").display().to_string(),
            ".",
        ],
    );
    let from = |name: &str| Stdio::from(fs::File::open(work.path(name)).unwrap());
    succeeded(&run(work.build(&daemon, &["-"]).stdin(from("context.tar"))));
    assert_eq!(work.out("of-archive"), "archived");

    fs::write(
        work.path("alone"),
        "FROM busybox\nRUN echo $((6*7)) > /of-file\n",
    )
    .unwrap();
    succeeded(&run(work.build(&daemon, &["-"]).stdin(from("alone"))));
    assert_eq!(work.out("of-file"), "42\n");

    fs::write(work.path("other"), "FROM scratch\nCOPY file /of-both\n").unwrap();
    let context = work.path("context").display().to_string();
    succeeded(&run(work
        .build(&daemon, &["-f", "-", &context])
        .stdin(from("other"))));
    assert_eq!(work.out("of-both"), "archived");
}

/// A registry that wants tokens, of a service that only those who trust `front` can ask.
struct Guarded {
    tokens: Tokens,
    front: Nginx,
    registry: Registry,
}

impl Guarded {
    fn start() -> Guarded {
        let tokens = Tokens::start();
        // The service knows one of the two ways to ask.
        let front = Nginx::start(&format!(
            "location / {{ if ($request_method = POST) {{ return 405; }} proxy_pass http://{}; }}",
            tokens.address
        ));
        let registry = Registry::start_with(
            &format!(
                "auth: {{token: {{realm: 'https://{}/token', service: registry, issuer: tokens, rootcertbundle: {}}}}}",
                front.address,
                tokens.certificate().display()
            ),
            None,
        );
        Guarded {
            tokens,
            front,
            registry,
        }
    }

    /// A client's configuration with this password.
    fn login(&self, dir: &Path, password: &str) {
        fs::create_dir_all(dir).unwrap();
        let auth = STANDARD.encode(format!("{USER}:{password}"));
        let config =
            serde_json::json!({"auths": {self.registry.address.to_string(): {"auth": auth}}});
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
    }
}

#[test]
fn p28_tokens_are_fetched_by_the_client_and_used_by_its_next_build_only() {
    let images = Registry::with_base_images();
    let guarded = Guarded::start();
    // It does not trust the token service: it could not ask there itself.
    let config = format!("{}{}", images.as_docker_hub(), guarded.registry.table());
    let daemon = Daemon::start(&config, &[]);
    let work = Work::new("FROM busybox\nRUN echo made > /made\n");
    guarded.login(&work.path("docker"), PASSWORD);
    guarded.login(&work.path("stranger"), "another");
    let name = format!("{}/team/app:1", guarded.registry.address);
    let client = |config: &str, args: &[&str]| {
        let mut docker = daemon.docker(&work.path(config));
        docker
            .env("SSL_CERT_FILE", guarded.front.ca())
            .args(["build", "--progress=plain", "--no-cache"])
            .args(args)
            .arg(work.path("context"));
        run(&mut docker)
    };
    let to = format!("type=image,name={name},push=true");
    let text = succeeded(&client("docker", &["-o", &to]));
    assert!(!text.contains(PASSWORD));
    let asked = guarded.tokens.asked();
    assert!(
        asked
            .iter()
            .any(|scopes| scopes.contains("repository:team/app:pull,push")
                || scopes.contains("repository:team/app:push")),
        "{asked:?}"
    );

    // Another build of the same client needs no other token for the same thing.
    fs::write(
        work.path("context/Dockerfile"),
        format!("FROM {name}\nRUN echo more > /more\n"),
    )
    .unwrap();
    succeeded(&client("docker", &["--pull", "-o", "type=cacheonly"]));
    let before = guarded.tokens.asked().len();
    succeeded(&client("docker", &["--pull", "-o", "type=cacheonly"]));
    assert_eq!(guarded.tokens.asked().len(), before);

    // One who does not have the key gets nothing by the first one's token.
    let refused = client("stranger", &["--pull", "-o", "type=cacheonly"]);
    let text = said(&refused);
    assert!(!refused.status.success(), "{text}");
    assert!(guarded.tokens.asked().len() > before);
    assert!(!daemon.log().contains(PASSWORD));
}

#[test]
fn p28_a_client_that_fetches_no_tokens_is_asked_for_its_login() {
    let images = Registry::with_base_images();
    let guarded = Guarded::start();
    // Now it is the daemon that asks the token service.
    let config = [
        images.as_docker_hub(),
        guarded.registry.table(),
        guarded.front.table(),
    ];
    let daemon = Daemon::start(&config.concat(), &[]);
    let work = Work::new("FROM busybox\nRUN echo made > /made\n");
    guarded.login(&work.path("docker"), PASSWORD);
    let to = format!(
        "type=image,name={}/team/app:1,push=true",
        guarded.registry.address
    );
    let mut docker = daemon.docker(&work.path("docker"));
    docker
        .env("BUILDKIT_NO_CLIENT_TOKEN", "1")
        .args(["build", "--progress=plain", "-o", &to])
        .arg(work.path("context"));
    let text = succeeded(&run(&mut docker));
    assert!(!text.contains(PASSWORD) && !daemon.log().contains(PASSWORD));
    assert!(!guarded.tokens.asked().is_empty());
}

#[test]
fn p56_a_daemon_is_reached_through_a_tunnel_as_through_its_socket() {
    let registry = Registry::with_base_images();
    let daemon = Daemon::start(&registry.as_docker_hub(), &[]);
    let work = Work::new("FROM scratch\nCOPY Dockerfile /copied\n");
    let bin = work.path("bin");
    fs::create_dir(&bin).unwrap();
    // As on another machine: a program called buildctl, and a client that runs something over ssh.
    symlink(binary(), bin.join("buildctl")).unwrap();
    let ssh = format!(
        "#!/bin/sh\nexec '{}' --addr 'unix://{}' dial-stdio\n",
        bin.join("buildctl").display(),
        daemon.socket().display()
    );
    fs::write(bin.join("ssh"), ssh).unwrap();
    fs::set_permissions(bin.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = run(Command::new("/usr/bin/docker")
        .env("PATH", path)
        .env("DOCKER_BUILDKIT", "1")
        .env("DOCKER_CONFIG", work.path("docker"))
        .env("DOCKER_HOST", "ssh://elsewhere")
        .args(["build", "--output"])
        .arg(work.path("out"))
        .arg(work.path("context"))
        .stdin(Stdio::null()));
    succeeded(&output);
    assert!(work.out("copied").contains("COPY"));
}

#[test]
fn a_daemon_serves_on_the_sockets_that_a_service_manager_opened() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.as_docker_hub());
    let socket = home.dir.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let arguments = format!(
        "'{}' daemon --addr fd:// --root '{}' --config '{}' --idle-timeout 2s",
        binary().display(),
        home.store().display(),
        home.dir.path().join("config.toml").display()
    );
    // Descriptor 3, and the number of the process that it is meant for.
    let script = format!("exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec {arguments}");
    let mut process = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .spawn()
        .expect("gateway daemon");
    let work = Work::new("FROM scratch\nCOPY Dockerfile /copied\n");
    let output = run(Command::new("/usr/bin/docker")
        .env("DOCKER_BUILDKIT", "1")
        .env("DOCKER_CONFIG", work.path("docker"))
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .args(["build", "--output"])
        .arg(work.path("out"))
        .arg(work.path("context"))
        .stdin(Stdio::null()));
    succeeded(&output);
    assert!(work.out("copied").contains("COPY"));
    // It is for the service manager to take the socket away.
    assert!(process.wait().unwrap().success());
    assert!(socket.exists());
}

#[test]
fn p62_flags_of_buildkitd_start_it_and_those_that_change_nothing_are_told() {
    let daemon = Daemon::start(
        "",
        &[
            "--debug",
            "--oci-worker=true",
            "--containerd-worker=false",
            "--oci-worker-snapshotter",
            "native",
            "--oci-worker-net=host",
            "--log-level",
            "debug",
            "--cdi-disabled",
            "--oci-max-parallelism",
            "4",
        ],
    );
    let log = daemon.log();
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("is ignored"))
        .collect();
    assert_eq!(told.len(), 2, "{log}");
    assert!(
        log.contains("--oci-worker-snapshotter=native is ignored"),
        "{log}"
    );
    assert!(log.contains("--oci-worker-net=host is ignored"), "{log}");
}
