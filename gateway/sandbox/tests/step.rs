//! What a build step sees, run as root on the host network.

mod common;

use std::fs;

use common::{Rig, tree};
use gateway_sandbox::{Error, Network, Stage, Ulimit};

#[tokio::test]
async fn a_step_runs_and_its_output_and_exit_code_come_back() {
    let rig = Rig::new().await;
    let outcome = rig.run(rig.shell("echo out; echo err >&2; exit 7")).await;
    assert_eq!(outcome.stdout, "out\n");
    assert_eq!(outcome.stderr, "err\n");
    assert_eq!(outcome.status.code, Some(7));
}

#[tokio::test]
async fn what_a_step_writes_lands_in_the_upper_directory_and_no_mount_point_does() {
    let rig = Rig::new().await;
    rig.output("echo x > /written; mkdir /d").await;
    assert_eq!(
        fs::read_to_string(rig.upper("written")).expect("file"),
        "x\n"
    );
    let left: Vec<_> = tree(&rig.path("upper"))
        .into_iter()
        // The base lacks these three; they stay as under BuildKit.
        .filter(|name| !["proc", "dev", "sys"].contains(&name.as_str()))
        .collect();
    assert_eq!(left, ["d", "etc", "written"]);
}

#[tokio::test]
async fn a_step_has_the_capabilities_and_the_filter_of_a_step() {
    let rig = Rig::new().await;
    let status = rig
        .output("grep -e ^Cap -e ^NoNewPrivs -e ^Seccomp: /proc/self/status")
        .await;
    assert_eq!(
        status,
        "CapInh:\t0000000000000000\n\
         CapPrm:\t00000000a80425fb\n\
         CapEff:\t00000000a80425fb\n\
         CapBnd:\t00000000a80425fb\n\
         CapAmb:\t0000000000000000\n\
         NoNewPrivs:\t0\n\
         Seccomp:\t2\n"
    );
}

#[tokio::test]
async fn devices_and_masked_paths_are_those_of_a_step() {
    let rig = Rig::new().await;
    let devices = rig.output("ls /dev | sort").await;
    assert_eq!(
        devices,
        "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"
    );
    let proc = rig
        .output("touch /proc/sys/kernel/x 2>/dev/null || echo ro; cat /proc/keys /proc/timer_list; stat -fc %T /dev/shm")
        .await;
    assert_eq!(proc, "ro\ntmpfs\n");
    let shm = rig
        .output("df -k /dev/shm | tail -n 1 | awk '{print $2}'")
        .await;
    assert_eq!(shm, "65536\n");
}

#[tokio::test]
async fn the_environment_is_given_plus_path_and_home() {
    let rig = Rig::new().await;
    let mut spec = rig.spec(&["env"]);
    spec.env = vec!["A=1".into()];
    let outcome = rig.run(spec).await;
    assert_eq!(
        outcome.stdout,
        "A=1\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOME=/root\n"
    );
}

#[tokio::test]
async fn a_step_is_process_1_alone_with_three_descriptors_and_an_empty_stdin() {
    let rig = Rig::new().await;
    let seen = rig
        .output("echo $$; cat; echo /proc/[0-9]*; umask; hostname; pwd; ls /proc/1/fd; true")
        .await;
    assert_eq!(seen, "1\n/proc/1\n0022\nbuildkitsandbox\n/\n0\n1\n2\n");
}

#[tokio::test]
async fn no_signal_is_ignored_or_blocked() {
    let rig = Rig::new().await;
    // A C program's own start changes neither; a shell's does.
    let spec = rig.spec(&[
        "grep",
        "-e",
        "^SigIgn",
        "-e",
        "^SigBlk",
        "/proc/self/status",
    ]);
    assert_eq!(
        rig.run(spec).await.stdout,
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    );
}

#[tokio::test]
async fn users_are_looked_up_in_the_root() {
    let rig = Rig::new().await;
    for (user, expected) in [
        (
            "app",
            "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra) /home/app\n",
        ),
        (
            "app:staff",
            "uid=1000(app) gid=50(staff) groups=50(staff) /home/app\n",
        ),
        ("4242:4343", "uid=4242 gid=4343 groups=4343 /\n"),
    ] {
        let mut spec = rig.shell("echo $(id) $HOME");
        spec.user = user.into();
        assert_eq!(rig.run(spec).await.stdout, expected, "{user}");
    }
    let mut spec = rig.shell("true");
    spec.user = "nobody-here".into();
    let error = rig.try_run(spec).await.expect_err("unknown user");
    assert!(
        error
            .to_string()
            .contains("unable to find user nobody-here"),
        "{error}"
    );
}

#[tokio::test]
async fn another_user_has_no_capabilities_and_can_reopen_its_output() {
    let rig = Rig::new().await;
    let mut spec =
        rig.shell("grep -e ^CapEff -e ^CapBnd /proc/self/status; echo again > /dev/stdout");
    spec.user = "app".into();
    let outcome = rig.run(spec).await;
    assert_eq!(
        outcome.stdout, "CapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\nagain\n",
        "{}",
        outcome.stderr
    );
}

#[tokio::test]
async fn a_missing_working_directory_is_made_for_the_user() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("pwd; stat -c '%u %g %a' . ..");
    spec.cwd = "/site/dir".into();
    spec.user = "app:staff".into();
    assert_eq!(
        rig.run(spec).await.stdout,
        "/site/dir\n1000 50 755\n1000 50 755\n"
    );
}

#[tokio::test]
async fn without_network_there_is_only_a_loopback_interface_that_is_up() {
    let rig = Rig::new().await;
    let mut spec = rig.shell(
        "ip -o link | grep -c UP; cat /proc/net/route | wc -l; ip -o link | grep -c 'lo:.*UP'",
    );
    spec.network = Network::None;
    assert_eq!(rig.run(spec).await.stdout, "1\n1\n1\n");
}

#[tokio::test]
async fn hosts_and_host_name_follow_the_specification() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("hostname; cat /etc/hosts");
    spec.hostname = "builder".into();
    spec.extra_hosts = vec![("db".into(), "10.1.2.3".into())];
    assert_eq!(
        rig.run(spec).await.stdout,
        "builder\n127.0.0.1\tlocalhost builder\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tdb\n"
    );
}

#[tokio::test]
async fn resource_limits_are_set() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("ulimit -n; ulimit -Hn");
    spec.ulimits = vec![Ulimit {
        name: "nofile".into(),
        soft: 123,
        hard: 456,
    }];
    assert_eq!(rig.run(spec).await.stdout, "123\n456\n");
}

async fn exec_error(rig: &Rig, args: &[&str]) -> String {
    let error = rig
        .try_run(rig.spec(args))
        .await
        .expect_err("must not start");
    assert!(
        matches!(&error, Error::Setup(e) if e.stage == Stage::Exec),
        "{error}"
    );
    assert_eq!(error.step_exit_code(), Some(1));
    error.to_string()
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_is_explained() {
    let rig = Rig::new().await;
    rig.output(
        "printf '#!/no/such/interpreter\\n' > /script; printf x > /junk; chmod 755 /script /junk",
    )
    .await;
    assert_eq!(
        exec_error(&rig, &["/no/such/program"]).await,
        "unable to start the process: exec: \"/no/such/program\": stat /no/such/program: no such file or directory"
    );
    assert_eq!(
        exec_error(&rig, &["nothing"]).await,
        "unable to start the process: exec: \"nothing\": executable file not found in $PATH"
    );
    let error = exec_error(&rig, &["/script"]).await;
    assert!(
        error.contains("interpreter /no/such/interpreter"),
        "{error}"
    );
    let error = exec_error(&rig, &["/junk"]).await;
    assert!(error.contains("exec format error"), "{error}");
    // A program of another machine; its first bytes are enough.
    let head = "printf '\\177ELF\\002\\001\\001\\0\\0\\0\\0\\0\\0\\0\\0\\0\\002\\0\\026\\0' > /foreign; \
                head -c 100 /dev/zero >> /foreign; chmod 755 /foreign";
    rig.output(head).await;
    let error = exec_error(&rig, &["/foreign"]).await;
    assert!(
        error.contains("machine") && error.contains("binfmt_misc") && error.contains("s390x"),
        "{error}"
    );
    let error = exec_error(&rig, &["/etc"]).await;
    assert!(error.ends_with("is a directory"), "{error}");
    let error = exec_error(&rig, &["/etc/passwd"]).await;
    assert!(error.ends_with("permission denied"), "{error}");
}

#[tokio::test]
async fn a_signal_that_ends_a_step_is_reported() {
    let rig = Rig::new().await;
    let outcome = rig.run(rig.shell("sh -c 'kill -9 $$'; echo $?")).await;
    assert_eq!(outcome.stdout, "137\n");
    let mut running = rig.start(rig.spec(&["sleep", "1000"])).await;
    running.kill();
    let status = running.wait().await.expect("status");
    assert_eq!((status.signal, status.exit_code()), (Some(9), 137));
}

#[tokio::test]
async fn an_ended_step_whose_caller_keeps_it_costs_the_launcher_nothing() {
    let rig = Rig::new().await;
    let mut running = rig.start(rig.spec(&["sleep", "1000"])).await;
    let payload = running.pid().expect("a pid");
    let fields = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
        let (_, rest) = stat.rsplit_once(')').expect("its name");
        rest.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    // Fields count from the state: the parent, later the ticks of user and system time.
    let launcher = fields(&payload.to_string())[1].clone();
    let ticks = || fields(&launcher)[11..13].to_vec();
    running.signal(9).expect("a signal");
    running.wait().await.expect("its end");
    // One that goes round without rest takes some in every interval.
    let mut rested = false;
    for _ in 0..50 {
        let before = ticks();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        rested = before == ticks();
        if rested {
            break;
        }
    }
    assert!(rested, "the launcher is busy");
    drop(running);
}

/// What the kernel runs programs of a machine with, while this lives. The machine is one that nobody has.
struct Emulator {
    /// The kernel's table was not there before.
    mounted: bool,
}

const EMULATOR: &str = "/proc/sys/fs/binfmt_misc";
const MACHINE: [u8; 2] = [0x34, 0x12];

impl Emulator {
    /// busybox: it takes the name of the program that it shall run as the name of what it shall be. The `F` has it
    /// opened here: the step's own file system has none.
    fn register() -> Emulator {
        let mounted = !fs::exists(format!("{EMULATOR}/register")).expect("a look");
        if mounted {
            let made = std::process::Command::new("mount")
                .args(["-t", "binfmt_misc", "binfmt_misc", EMULATOR])
                .status();
            assert!(made.is_ok_and(|status| status.success()), "binfmt_misc");
        }
        let _ = fs::write(format!("{EMULATOR}/gateway-test"), "-1");
        let mask =
            r"\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff";
        let magic = format!(
            r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x{:02x}\x{:02x}",
            MACHINE[0], MACHINE[1]
        );
        let line = format!(":gateway-test:M::{magic}:{mask}:/bin/busybox:F");
        fs::write(format!("{EMULATOR}/register"), line).expect("registering an emulator");
        Emulator { mounted }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = fs::write(format!("{EMULATOR}/gateway-test"), "-1");
        if self.mounted {
            let _ = std::process::Command::new("umount").arg(EMULATOR).status();
        }
    }
}

#[tokio::test]
async fn a_program_of_another_machine_runs_where_the_kernel_knows_an_emulator() {
    let rig = Rig::new().await;
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
    program.extend(MACHINE);
    program.extend([0; 100]);
    let path = rig.path("layer").join("bin/echo");
    let _ = fs::remove_file(&path);
    fs::write(&path, program).expect("a program");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let error = exec_error(&rig, &["/bin/echo", "emulated"]).await;
    assert!(error.contains("binfmt_misc"), "{error}");

    let emulator = Emulator::register();
    let outcome = rig.run(rig.spec(&["/bin/echo", "emulated"])).await;
    drop(emulator);
    assert_eq!(outcome.stdout, "emulated\n", "{outcome:?}");
    assert_eq!(outcome.status.code, Some(0));
}
