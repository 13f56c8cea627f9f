//! What a RUN step sees of the flags and of the configuration, from inside: built by root, by an ordinary
//! user, and by root with runc in place of our own launcher.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gateway_tests::program::{binary, run, stderr, tool};
use gateway_tests::registry::Registry;

const ORDINARY_USER: &str = "gateway-test";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Root,
    User,
    Runc,
}

const ALL: [Who; 3] = [Who::Root, Who::User, Who::Runc];

/// The binary with a store, a configuration and a context that it can reach.
struct Rig {
    who: Who,
    dir: tempfile::TempDir,
    _registry: Registry,
}

impl Rig {
    fn new(who: Who, config: &str) -> Rig {
        let registry = Registry::with_base_images();
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))
            .expect("setting a mode");
        std::fs::copy(binary(), path("gateway")).expect("copying the binary");
        std::fs::copy(registry.ca(), path("ca.crt")).expect("copying the certificate");
        let ours = registry.as_docker_hub().replace(
            &registry.ca().display().to_string(),
            &path("ca.crt").display().to_string(),
        );
        let runtime = match who {
            Who::Runc => "binary = \"runc\"\n",
            _ => "",
        };
        let text = format!("{ours}\n[worker.oci]\n{runtime}{config}\n");
        std::fs::write(path("config.toml"), text).expect("writing configuration");
        for name in ["context", "own"] {
            std::fs::create_dir(path(name)).expect("making a folder");
        }
        if who == Who::User {
            tool(
                "chown",
                &[ORDINARY_USER, &path("own").display().to_string()],
            );
        }
        Rig {
            who,
            dir,
            _registry: registry,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, dockerfile: &str, flags: &[&str]) -> Command {
        std::fs::write(self.path("context/Dockerfile"), dockerfile).expect("writing");
        let mut command = match self.who {
            Who::User => {
                let mut command = Command::new("runuser");
                command
                    .args(["-u", ORDINARY_USER, "--"])
                    .arg(self.path("gateway"));
                command
            }
            Who::Root | Who::Runc => Command::new(self.path("gateway")),
        };
        command
            .arg("build")
            .arg("--root")
            .arg(self.path("own/store"))
            .arg("--config")
            .arg(self.path("config.toml"))
            .args(["--progress=plain", "--output=type=cacheonly"])
            .args(flags)
            .arg(self.path("context"))
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null())
            .current_dir("/");
        command
    }

    fn build(&self, dockerfile: &str, flags: &[&str]) -> Output {
        run(&mut self.command(dockerfile, flags))
    }

    /// The step's own lines, without numbers and times.
    fn said(&self, step: &str, flags: &[&str]) -> Vec<String> {
        let output = self.build(&format!("FROM busybox\n{step}\n"), flags);
        let text = stderr(&output);
        assert!(output.status.success(), "{:?}: {text}", self.who);
        lines(&text)
    }

    fn fails(&self, step: &str, flags: &[&str]) -> String {
        let output = self.build(&format!("FROM busybox\n{step}\n"), flags);
        let text = stderr(&output);
        assert!(!output.status.success(), "{:?}: {text}", self.who);
        text
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Of subordinate ids; only root can remove them all.
        let _ = std::fs::remove_dir_all(self.path("own/store"));
    }
}

/// `#7 0.123 TEXT` -> `TEXT`
fn lines(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let (time, said) = line.strip_prefix('#')?.split_once(' ')?.1.split_once(' ')?;
            time.parse::<f64>().ok()?;
            Some(said.to_owned())
        })
        .collect()
}

#[test]
fn hostname_shm_size_ulimits_and_hosts_reach_a_step() {
    for who in ALL {
        let rig = Rig::new(who, "");
        let said = rig.said(
            "RUN hostname; df -k /dev/shm | tail -n 1 | awk '{print $2}'; ulimit -n; ulimit -Hn; \
             grep -e builder -e db /etc/hosts; id -u; grep ^CapEff /proc/self/status",
            &[
                "--opt=hostname=builder",
                "--shm-size=32m",
                "--ulimit=nofile=123:456",
                "--add-host=db:10.1.2.3",
            ],
        );
        let expected = [
            "builder",
            "32768",
            "123",
            "456",
            "127.0.0.1\tlocalhost builder",
            "10.1.2.3\tdb",
            "0",
            "CapEff:\t00000000a80425fb",
        ];
        assert_eq!(said, expected, "{who:?}");
        let said = rig.said(
            "RUN hostname; df -k /dev/shm | tail -n 1 | awk '{print $2}'",
            &[],
        );
        assert_eq!(said, ["buildkitsandbox", "65536"], "{who:?}");
    }
}

#[test]
fn limits_of_memory_processors_and_groups_reach_a_step() {
    for who in [Who::Root, Who::Runc] {
        let rig = Rig::new(who, "");
        let said = rig.said(
            "RUN grep -c gateway-steps/ /proc/self/cgroup | sed 's/^0$/none/;s/^[0-9]*$/some/'; grep ^Cpus_allowed_list /proc/self/status",
            &["--cgroup-parent=/gateway-steps", "--resource=cpuset-cpus=0"],
        );
        assert_eq!(said, ["some", "Cpus_allowed_list:\t0"], "{who:?}");
        let eat = "RUN dd if=/dev/zero of=/dev/null bs=256M count=1";
        let text = rig.fails(eat, &["--memory=48m"]);
        assert!(text.contains("cannot allocate memory"), "{who:?}: {text}");
        assert!(rig.said(&format!("{eat} 2>/dev/null && echo fine"), &[]) == ["fine"]);
    }
    // Asked for, and nobody would enforce it.
    let rig = Rig::new(Who::User, "");
    let text = rig.fails("RUN true", &["--memory=48m"]);
    assert!(text.contains("the control group"), "{text}");
}

#[test]
fn s71_a_fork_bomb_in_a_step_does_not_take_the_machine() {
    for who in [Who::Root, Who::Runc] {
        let rig = Rig::new(who, "maxProcesses = 50");
        let bomb = "RUN i=0; while [ $i -lt 200 ]; do sleep 2 & i=$((i+1)); done; echo all";
        let text = rig.fails(bomb, &[]);
        assert!(text.contains("can't fork"), "{who:?}: {text}");
    }
    // Without a word in the configuration there is a limit too.
    let rig = Rig::new(Who::Root, "");
    let said = rig.said(
        "RUN grep -c gateway/ /proc/self/cgroup | sed 's/^0$/none/;s/^[0-9]*$/some/'",
        &[],
    );
    assert_eq!(said, ["some"]);
}

/// An address of this machine that is not its loopback.
fn outer_address() -> std::net::IpAddr {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // Nothing is sent: connecting only looks for the way.
    socket
        .connect("198.51.100.1:9")
        .expect("the test needs a default route");
    socket.local_addr().expect("its address").ip()
}

#[test]
fn an_isolated_network_leads_out_and_not_to_services_of_the_machine() {
    let outer = TcpListener::bind((outer_address(), 0)).expect("listening");
    let local = TcpListener::bind("127.0.0.1:0").expect("listening");
    let at = outer.local_addr().expect("an address");
    let port = local.local_addr().expect("an address").port();
    for (listener, answer) in [(outer, "reached\n"), (local, "the machine's own\n")] {
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
            }
        });
    }
    for (who, config, flags) in [
        (Who::Root, "", vec!["--network=isolated"]),
        (Who::Runc, "networkMode = \"isolated\"", vec![]),
    ] {
        let rig = Rig::new(who, config);
        let said = rig.said(
            &format!(
                "RUN nc {} {} </dev/null; nc -w 2 127.0.0.1 {port} </dev/null 2>/dev/null || echo out of reach\n\
                 RUN --network=none nc -w 2 {} {} </dev/null 2>/dev/null || echo nothing",
                at.ip(),
                at.port(),
                at.ip(),
                at.port()
            ),
            &flags,
        );
        let mut said: Vec<&str> = said.iter().map(String::as_str).collect();
        said.sort_unstable();
        assert_eq!(said, ["nothing", "out of reach", "reached"], "{who:?}");
    }
    // The usual network is the machine's own, as the reference's is.
    for who in [Who::Root, Who::User] {
        let rig = Rig::new(who, "");
        let said = rig.said(&format!("RUN nc 127.0.0.1 {port} </dev/null"), &[]);
        assert_eq!(said, ["the machine's own"], "{who:?}");
    }
}

#[test]
fn a_network_of_somebody_else_needs_to_be_allowed() {
    let rig = Rig::new(Who::Root, "");
    let mut holder = Command::new("unshare")
        .args(["--net", "sh", "-c"])
        .arg("ip link set lo up && ip addr add 10.77.0.1/32 dev lo && echo made && exec sleep 1000")
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut line = String::new();
    let stdout = holder.stdout.take().expect("stdout");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("reading");
    let flag = format!("--network=ns:/proc/{}/ns/net", holder.id());
    let step = "RUN ip -o addr show lo | grep -c 10.77.0.1/32 || true";
    let refused = rig.fails(step, &[&flag]);
    assert!(refused.contains("--allow network.host"), "{refused}");
    let said = rig.said(step, &[&flag, "--allow=network.host"]);
    holder.kill().expect("killing the holder");
    holder.wait().expect("its end");
    assert_eq!(said, ["1"]);
}

#[test]
fn a_runtime_that_is_not_there_is_named_before_anything_is_built() {
    let rig = Rig::new(Who::Root, "binary = \"no-such-runtime\"");
    let text = rig.fails("RUN true", &[]);
    assert!(
        text.contains("no-such-runtime") && text.contains("config.toml"),
        "{text}"
    );
}

/// Most KiB that a process had resident; 0 once it has ended.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The process and all below it.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let file = format!("/proc/{pid}/task/{pid}/children");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        all.extend(
            text.split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
        next += 1;
    }
    all
}

#[test]
fn s70_a_flood_of_output_takes_no_memory_and_is_clipped() {
    // A gigabyte in the long run; what it takes does not depend on the amount.
    let mebibytes = match std::env::var_os("GATEWAY_LONG_TESTS") {
        Some(_) => 1024,
        None => 192,
    };
    for who in ALL {
        let rig = Rig::new(who, "");
        let log = rig.path("log");
        let mut child = rig
            .command(
                &format!(
                    "FROM busybox\nRUN head -c {mebibytes}m /dev/zero | tr '\\0' x; echo end\n"
                ),
                &[],
            )
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("starting the build");
        let mut peak = 0;
        let status = loop {
            for pid in family(child.id()) {
                peak = peak.max(peak_memory(pid));
            }
            if let Some(status) = child.try_wait().expect("its state") {
                break status;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        };
        let text = std::fs::read(&log).expect("the log");
        assert!(status.success(), "{who:?}");
        assert!(text.len() < 10 << 20, "{who:?}: {} bytes", text.len());
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.contains("[output clipped, log limit "), "{who:?}");
        assert!(peak > 0 && peak < 150 << 10, "{who:?}: {} MiB", peak >> 10);
    }
}

#[test]
fn s69_an_agents_socket_is_the_steps_own_and_gone_afterwards() {
    for who in ALL {
        let rig = Rig::new(who, "");
        let socket = rig.path("own/agent");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("listening");
        if who == Who::User {
            tool("chown", &[ORDINARY_USER, &socket.display().to_string()]);
        }
        let flag = format!("--ssh=default={}", socket.display());
        let said = rig.said(
            "RUN --mount=type=ssh stat -c '%a %u %F' $SSH_AUTH_SOCK\n\
             RUN ls /run/buildkit 2>/dev/null || echo gone",
            &[&flag],
        );
        assert_eq!(said, ["600 0 socket", "gone"], "{who:?}");
        assert_eq!(
            sockets_below(&rig.path("own/store")),
            Vec::<PathBuf>::new(),
            "{who:?}"
        );
    }
}

fn sockets_below(dir: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(sockets_below(&entry.path())),
            Ok(kind) if kind.is_socket() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}
