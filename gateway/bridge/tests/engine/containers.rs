//! Containers of frontends, each test in process and over a connection: the same function.

use std::sync::Arc;
use std::time::Duration;

use gateway_api::*;
use gateway_llb::{Constraints, FileActions, Mkdir, Rm, pb};
use gateway_proto::frontend::exec_message::Input;
use gateway_proto::frontend::{
    ExecMessage, FdMessage, InitMessage, NewContainerRequest, ReadFileRequest,
    ReleaseContainerRequest, ResizeMessage, SignalMessage,
};

use crate::both::{both, root, solve};
use crate::clients::{Client, client_of, exec, id_of, solve_root};
use crate::rig::Rig;

fn mount(dest: &str, id: &str) -> pb::Mount {
    pb::Mount {
        dest: dest.to_owned(),
        result_id: id.to_owned(),
        ..pb::Mount::default()
    }
}

async fn container(gateway: &Arc<dyn Gateway>) -> Box<dyn Container> {
    let reference = solve(gateway, &root()).await;
    let request = ContainerRequest {
        mounts: vec![mount("/", &reference.id)],
        ..ContainerRequest::default()
    };
    gateway.new_container(request).await.unwrap()
}

fn run(args: &[&str]) -> ProcessRequest {
    ProcessRequest {
        meta: pb::Meta {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..pb::Meta::default()
        },
        fds: vec![0, 1, 2],
        ..ProcessRequest::default()
    }
}

fn sh(script: &str) -> ProcessRequest {
    run(&["/bin/sh", "-c", script])
}

#[derive(Debug, Default)]
struct Finished {
    out: String,
    err: String,
    exit: Option<Error>,
    /// The kinds of the events, equal ones in a row once.
    order: Vec<String>,
}

async fn finish(process: &dyn Process) -> Finished {
    let mut ran = Finished::default();
    while let Some(event) = process.next_event().await {
        let kind = match event.unwrap() {
            ProcessEvent::Started => "started".to_owned(),
            ProcessEvent::Output { fd, data } => {
                let text = String::from_utf8_lossy(&data).into_owned();
                match fd {
                    1 => ran.out.push_str(&text),
                    _ => ran.err.push_str(&text),
                }
                format!("output {fd}")
            }
            ProcessEvent::Exit(error) => {
                ran.exit = error;
                "exit".to_owned()
            }
            ProcessEvent::OutputEnd { fd } => format!("end {fd}"),
        };
        if ran.order.last() != Some(&kind) {
            ran.order.push(kind);
        }
    }
    ran
}

async fn output(container: &dyn Container, request: ProcessRequest) -> Finished {
    let process = container.start(request).await.unwrap();
    finish(&*process).await
}

/// Ids of the inputs and mounts of the failed step.
fn ids(error: &Error) -> (Vec<String>, Vec<String>) {
    let found = error.details.iter().find_map(|detail| match detail {
        Detail::Solve(solve) => Some((solve.input_ids.clone(), solve.mount_ids.clone())),
        // Over a connection: kept as it came, for what it says of the op.
        Detail::Other { type_url, value } if type_url.ends_with("Solve+json") => {
            let value: serde_json::Value = serde_json::from_slice(value).unwrap();
            let list = |name: &str| serde_json::from_value(value[name].clone()).unwrap();
            Some((list("inputIDs"), list("mountIDs")))
        }
        _ => None,
    });
    found.unwrap()
}

/// Waits for the process to say something.
async fn said(process: &dyn Process, wanted: &str) {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        match process.next_event().await.unwrap().unwrap() {
            ProcessEvent::Output { data, .. } => seen.push_str(&String::from_utf8_lossy(&data)),
            ProcessEvent::Started => {}
            other => panic!("{other:?} instead of {wanted}, after {seen}"),
        }
    }
}

pub async fn p40_a_container_on_a_mount_id_shows_the_failed_steps_files() {
    both(|gateway| {
        Box::pin(async move {
            let step = root().run(["/bin/sh", "-c", "echo before > /made; exit 42"]);
            let reference = solve(&gateway, &step.root()).await;
            let error = gateway.evaluate(&reference).await.unwrap_err();
            assert_eq!(error.exit_code(), Some(42));
            let (inputs, mounts) = ids(&error);
            let ([input], [failed]) = (inputs.as_slice(), mounts.as_slice()) else {
                panic!("{error:?}");
            };
            assert!(failed.contains("::"), "{failed}");
            for (id, expected) in [(failed, "before\n"), (input, "")] {
                let request = ContainerRequest {
                    mounts: vec![mount("/", id)],
                    ..ContainerRequest::default()
                };
                let container = gateway.new_container(request).await?;
                let ran = output(&*container, sh("cat /made; echo more >> /made")).await;
                assert_eq!(ran.out, expected, "{ran:?}");
                // Each container has a copy of its own: the next one sees what this one saw.
                let made = container.read_file(0, "/made", None).await?;
                assert_eq!(made, format!("{expected}more\n").as_bytes());
                container.release().await?;
            }
            let request = ContainerRequest {
                mounts: vec![mount("/", failed)],
                ..ContainerRequest::default()
            };
            let again = gateway.new_container(request).await?;
            assert_eq!(again.read_file(0, "/made", None).await?, b"before\n");
            let request = ContainerRequest {
                mounts: vec![mount("/", "gateway::unknown")],
                ..ContainerRequest::default()
            };
            let Err(error) = gateway.new_container(request).await else {
                panic!("unknown ids are refused");
            };
            assert_eq!(
                error.message,
                "failed to find ref gateway::unknown for \"/\" mount: return reference gateway::unknown not found"
            );
            Ok(())
        })
    })
    .await;
}

pub async fn p40_a_failed_file_action_leaves_its_files_to_look_at() {
    both(|gateway| {
        Box::pin(async move {
            let actions = FileActions::new()
                .mkdir("/made", Mkdir::default())
                .rm("/missing", Rm::default());
            let step = root().file(actions, Constraints::new());
            let reference = solve(&gateway, &step).await;
            let error = gateway.evaluate(&reference).await.unwrap_err();
            let (inputs, mounts) = ids(&error);
            let ([input], [unfailed, failed]) = (inputs.as_slice(), mounts.as_slice()) else {
                panic!("one input, two actions: {error:?}");
            };
            assert_eq!(unfailed, "");
            for (id, expected) in [(failed, "made\n"), (input, "")] {
                let request = ContainerRequest {
                    mounts: vec![mount("/", id)],
                    ..ContainerRequest::default()
                };
                let container = gateway.new_container(request).await?;
                let script = "ls / | while read f; do case $f in made) echo $f;; esac; done";
                let ran = output(&*container, sh(script)).await;
                assert_eq!(ran.out, expected, "{ran:?}");
            }
            Ok(())
        })
    })
    .await;
}

pub async fn p40_mounts_are_private_copies_and_readable_from_outside() {
    both(|gateway| {
        Box::pin(async move {
            let reference = solve(&gateway, &root()).await;
            let of_type = |dest: &str, kind: pb::MountType| pb::Mount {
                mount_type: kind as i32,
                ..mount(dest, "")
            };
            let request = ContainerRequest {
                mounts: vec![
                    mount("/", &reference.id),
                    pb::Mount {
                        selector: "bin".to_owned(),
                        readonly: true,
                        ..mount("/tools", &reference.id)
                    },
                    mount("/empty", ""),
                    of_type("/memory", pb::MountType::Tmpfs),
                    pb::Mount {
                        cache_opt: Some(pb::CacheOpt {
                            id: "the-cache".to_owned(),
                            ..pb::CacheOpt::default()
                        }),
                        ..of_type("/cache", pb::MountType::Cache)
                    },
                    pb::Mount {
                        secret_opt: Some(pb::SecretOpt {
                            id: "token".to_owned(),
                            mode: 0o400,
                            ..pb::SecretOpt::default()
                        }),
                        ..of_type("/secret", pb::MountType::Secret)
                    },
                ],
                ..ContainerRequest::default()
            };
            let container = gateway.new_container(request.clone()).await?;
            let before = container.read_dir(0, "/", None).await?;
            assert!(before.iter().any(|entry| entry.path == "bin"));
            let script = "cat /secret; /tools/ls /tools/cat; echo a > /empty/a; echo b > /memory/b; \
                 echo c > /cache/c; echo d > /d; busybox ln -s /d /link; busybox ln -s /bin/sh /empty/out; \
                 echo no > /tools/x || echo refused";
            let ran = output(&*container, sh(script)).await;
            assert_eq!(ran.out, "hidden/tools/cat\nrefused\n", "{ran:?}");
            // The process has ended; its files are there.
            assert_eq!(container.read_file(0, "/d", None).await?, b"d\n");
            assert_eq!(container.read_file(2, "/a", None).await?, b"a\n");
            assert_eq!(container.read_file(4, "/c", None).await?, b"c\n");
            let range = FileRange {
                offset: 0,
                length: 1,
            };
            assert_eq!(container.read_file(0, "/d", Some(range)).await?, b"d");
            let names = container.read_dir(2, "/", Some("a*")).await?;
            assert_eq!(names.len(), 1);
            assert_eq!(container.stat_file(0, "/d").await?.size, 2);
            // A link out of the mount is for the asker to follow.
            let link = container.stat_file(2, "/out").await?;
            assert_eq!((link.path.as_str(), link.linkname.as_str()), ("out", "/bin/sh"));
            let relative = container.read_file(0, "d", None).await.unwrap_err();
            assert!(relative.message.contains("can't make d relative to /"));
            assert!(container.read_file(3, "/b", None).await.is_err());
            let beyond = container.read_file(6, "/", None).await.unwrap_err();
            assert_eq!(beyond.message, "mount index 6 is out of bounds (6 available)");
            container.release().await?;
            // Only the cache has kept anything.
            let again = gateway.new_container(request).await?;
            assert!(again.read_file(0, "/d", None).await.is_err());
            assert!(again.read_dir(2, "/", None).await?.is_empty());
            assert_eq!(again.read_file(4, "/c", None).await?, b"c\n");
            Ok(())
        })
    })
    .await;
}

pub async fn p41_events_come_in_the_order_of_the_protocol() {
    both(|gateway| {
        Box::pin(async move {
            let container = container(&gateway).await;
            let process = container.start(sh("cat; echo gone >&2; exit 3")).await?;
            process.write(b"hello ").await?;
            process.write(b"there\n").await?;
            process.close_input().await?;
            assert!(process.write(b"late").await.is_err());
            let ran = finish(&*process).await;
            assert_eq!(
                (ran.out.as_str(), ran.err.as_str()),
                ("hello there\n", "gone\n")
            );
            let exit = ran.exit.unwrap();
            assert_eq!(exit.message, "exit code: 3");
            assert_eq!((exit.code, exit.exit_code()), (Code::Unknown, Some(3)));
            assert_eq!(ran.order[0], "started");
            let exit = ran.order.iter().position(|kind| kind == "exit").unwrap();
            assert_eq!(ran.order[exit + 1..], ["end 1", "end 2"], "{:?}", ran.order);
            // A release tells of the failed process.
            let error = container.release().await.unwrap_err();
            assert_eq!(error.message, "exit code: 3");
            Ok(())
        })
    })
    .await;
}

pub async fn p41_further_processes_join_the_first_and_end_with_it() {
    both(|gateway| {
        Box::pin(async move {
            let container = container(&gateway).await;
            let first = container
                .start(sh("echo shared > /file; echo up; cat"))
                .await?;
            said(&*first, "up").await;
            let ran = output(&*container, sh("cat /file; exit 7")).await;
            assert_eq!(ran.out, "shared\n", "{ran:?}");
            assert_eq!(ran.exit.and_then(|error| error.exit_code()), Some(7));
            assert_eq!(container.read_file(0, "/file", None).await?, b"shared\n");
            let other = container.start(sh("echo up; sleep 1000")).await?;
            said(&*other, "up").await;
            first.close_input().await?;
            assert_eq!(finish(&*first).await.exit, None);
            let killed = finish(&*other).await.exit.unwrap();
            assert_eq!(killed.exit_code(), Some(137));
            // The first is gone, and with it the container.
            let late = output(&*container, sh("true")).await;
            assert_eq!(late.order, ["started", "exit", "end 1", "end 2"]);
            let error = late.exit.unwrap();
            assert!(error.message.starts_with("container "), "{error}");
            assert!(error.message.ends_with(" not found"), "{error}");
            assert_eq!(error.exit_code(), None);
            Ok(())
        })
    })
    .await;
}

pub async fn p41_a_killed_process_is_137_and_a_missing_program_1() {
    both(|gateway| {
        Box::pin(async move {
            let first = container(&gateway).await;
            let process = first
                .start(sh(
                    "trap 'echo term; exit 9' TERM; echo up; while true; do sleep 0.01; done",
                ))
                .await?;
            said(&*process, "up").await;
            process.signal("TERM").await?;
            said(&*process, "term").await;
            let ran = finish(&*process).await;
            assert_eq!(ran.exit.and_then(|error| error.exit_code()), Some(9));

            let second = container(&gateway).await;
            let process = second.start(sh("echo up; sleep 1000")).await?;
            said(&*process, "up").await;
            process.signal("KILL").await?;
            let exit = finish(&*process).await.exit.unwrap();
            assert_eq!(
                (exit.exit_code(), exit.message.as_str()),
                (Some(137), "exit code: 137")
            );

            let third = container(&gateway).await;
            let ran = output(&*third, run(&["/no/such/program"])).await;
            assert_eq!(ran.order, ["started", "output 2", "exit", "end 1", "end 2"]);
            assert!(ran.err.contains("/no/such/program"), "{ran:?}");
            assert_eq!(ran.exit.and_then(|error| error.exit_code()), Some(1));
            Ok(())
        })
    })
    .await;
}

pub async fn p41_a_terminal_tells_its_size_and_its_changes() {
    both(|gateway| {
        Box::pin(async move {
            let container = container(&gateway).await;
            let script = "trap 'stty size' WINCH; echo $TERM; read line; stty size; echo ready; \
                 while true; do sleep 0.01; done";
            let request = ProcessRequest {
                tty: true,
                fds: vec![0, 1],
                ..sh(script)
            };
            let process = container.start(request).await?;
            said(&*process, "xterm\r\n").await;
            process.resize(40, 100).await?;
            process.write(b"go\n").await?;
            said(&*process, "40 100\r\nready\r\n").await;
            process.resize(50, 120).await?;
            said(&*process, "50 120\r\n").await;
            // Control-C reaches the terminal's foreground.
            process.write(b"\x03").await?;
            let ran = finish(&*process).await;
            assert_eq!(ran.exit.and_then(|error| error.exit_code()), Some(130));
            Ok(())
        })
    })
    .await;
}

pub async fn p41_defaults_secrets_hosts_and_host_name() {
    both(|gateway| {
        Box::pin(async move {
            let reference = solve(&gateway, &root()).await;
            let request = ContainerRequest {
                mounts: vec![mount("/", &reference.id)],
                network: pb::NetMode::None as i32,
                hostname: "of-the-test".to_owned(),
                extra_hosts: vec![pb::HostIp {
                    host: "db".to_owned(),
                    ip: "10.1.2.3".to_owned(),
                }],
                ..ContainerRequest::default()
            };
            let container = gateway.new_container(request).await?;
            let script = "echo $PATH; echo $HOME; busybox pwd; busybox hostname; echo $TOKEN; \
                 busybox grep db /etc/hosts; ls /sys/class/net";
            let mut process = sh(script);
            process.secret_env = vec![pb::SecretEnv {
                id: "token".to_owned(),
                name: "TOKEN".to_owned(),
                optional: false,
            }];
            let ran = output(&*container, process).await;
            assert_eq!(
                ran.out,
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/\n/\nof-the-test\n\
                 hidden\n10.1.2.3\tdb\nlo\n",
                "{ran:?}"
            );
            // What was not asked for is empty or discarded.
            let other = self::container(&gateway).await;
            let mut quiet = sh("cat; echo seen; echo unseen >&2");
            quiet.fds = vec![1];
            let ran = output(&*other, quiet).await;
            assert_eq!(ran.order, ["started", "output 1", "exit", "end 1"]);
            assert_eq!(ran.out, "seen\n");
            Ok(())
        })
    })
    .await;
}

pub async fn p41_an_agents_socket_reaches_a_container_and_only_the_one_that_asks() {
    both(|gateway| {
        Box::pin(async move {
            let reference = solve(&gateway, &root()).await;
            let agent = |id: &str, optional: bool| pb::Mount {
                mount_type: pb::MountType::Ssh as i32,
                ssh_opt: Some(pb::SshOpt {
                    id: id.to_owned(),
                    uid: 7,
                    gid: 8,
                    mode: 0o640,
                    optional,
                }),
                ..mount(&format!("/run/agent-{id}"), "")
            };
            let request = |mounts: Vec<pb::Mount>| ContainerRequest {
                mounts: [vec![mount("/", &reference.id)], mounts].concat(),
                ..ContainerRequest::default()
            };
            let mounts = vec![agent("", false), agent("missing", true)];
            let with = gateway.new_container(request(mounts)).await?;
            let script = "ls /run; busybox stat -c '%a %u %g %F' /run/agent-";
            let ran = output(&*with, sh(script)).await;
            assert_eq!(ran.out, "agent-\n640 7 8 socket\n", "{ran:?}");
            // A further process of the container has it too, another container does not.
            let without = gateway.new_container(request(Vec::new())).await?;
            let ran = output(&*without, sh("ls /run 2>/dev/null || echo none")).await;
            assert_eq!(ran.out, "none\n", "{ran:?}");
            with.release().await?;
            let Err(error) = gateway
                .new_container(request(vec![agent("missing", false)]))
                .await
            else {
                panic!("there is no such agent");
            };
            assert!(error.to_string().contains("no SSH key"), "{error}");
            Ok(())
        })
    })
    .await;
}

/// Runs other tests of this file as an ordinary user, with a copy of this program.
pub async fn p41_containers_run_for_an_ordinary_user() {
    use std::os::unix::fs::PermissionsExt;
    const USER: &str = "gateway-test";
    const TESTS: [&str; 6] = [
        "p40_a_container_on_a_mount_id_shows_the_failed_steps_files",
        "p40_mounts_are_private_copies_and_readable_from_outside",
        "p41_a_terminal_tells_its_size_and_its_changes",
        "p41_an_agents_socket_reaches_a_container_and_only_the_one_that_asks",
        "p41_defaults_secrets_hosts_and_host_name",
        "p41_further_processes_join_the_first_and_end_with_it",
    ];
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("engine");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let raw = dir.path().join("raw");
    std::fs::copy(crate::support::raw_frontend(), &raw).unwrap();
    let output = tokio::process::Command::new("runuser")
        .args(["-u", USER, "--"])
        .arg(&program)
        .args(TESTS)
        .env("GATEWAY_TEST_RAW_FRONTEND", raw)
        .env_remove("TMPDIR")
        .current_dir("/")
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}\n{errors}");
    for test in TESTS {
        assert!(text.contains(&format!("test {test} ... ok")), "{text}");
    }
}

pub async fn p41_what_the_build_may_not_do_is_refused() {
    both(|gateway| {
        Box::pin(async move {
            let reference = solve(&gateway, &root()).await;
            let refused = async |request: ContainerRequest| {
                let made = gateway.new_container(request).await;
                made.err().expect("must be refused").message
            };
            let sane = ContainerRequest {
                mounts: vec![mount("/", &reference.id)],
                ..ContainerRequest::default()
            };
            let host = ContainerRequest {
                network: pb::NetMode::Host as i32,
                ..sane.clone()
            };
            assert_eq!(refused(host).await, "network.host is not allowed");
            let tmpfs = pb::Mount {
                mount_type: pb::MountType::Tmpfs as i32,
                ..mount("/", "")
            };
            let no_bind = ContainerRequest {
                mounts: vec![tmpfs],
                ..sane.clone()
            };
            assert_eq!(refused(no_bind).await, "invalid mount type TMPFS for /");
            let hosts = ContainerRequest {
                extra_hosts: vec![pb::HostIp {
                    host: "a".to_owned(),
                    ip: "b".to_owned(),
                }],
                ..sane.clone()
            };
            assert_eq!(refused(hosts).await, "failed to parse IP b");
            let none = ContainerRequest {
                mounts: Vec::new(),
                ..sane.clone()
            };
            assert!(refused(none).await.contains("mount for /"));
            let container = gateway.new_container(sane).await?;
            let mut insecure = sh("true");
            insecure.security = pb::SecurityMode::Insecure as i32;
            // Over a connection the answer comes where the first event would.
            let error = match container.start(insecure).await {
                Err(error) => error,
                Ok(process) => process.next_event().await.unwrap().unwrap_err(),
            };
            assert_eq!(error.message, "security.insecure is not allowed");
            // The container is none the worse.
            assert_eq!(output(&*container, sh("echo fine")).await.out, "fine\n");
            Ok(())
        })
    })
    .await;
}

pub async fn p41_messages_out_of_order_end_the_stream_at_once() {
    both(|gateway| {
        Box::pin(async move {
            let container = container(&gateway).await;
            let process = container.start(sh("echo up; cat")).await?;
            said(&*process, "up").await;
            let told = match process.signal("SIGKILL").await {
                Err(error) => error,
                Ok(()) => loop {
                    match process.next_event().await.unwrap() {
                        Err(error) => break error,
                        Ok(event) => assert!(matches!(event, ProcessEvent::Output { .. })),
                    }
                },
            };
            assert_eq!(told.code, Code::InvalidArgument);
            assert_eq!(told.message, "Unknown signal SIGKILL");
            Ok(())
        })
    })
    .await;
}

/// Processes of this machine whose arguments contain the text.
fn running(text: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| String::from_utf8_lossy(line).contains(text))
        .count()
}

pub async fn p42_what_a_frontend_leaves_running_ends_with_it() {
    const MARK: &str = "4242.4242";
    both(|gateway| {
        Box::pin(async move {
            let container = container(&gateway).await;
            let process = container
                .start(sh(&format!("echo up; sleep {MARK}")))
                .await?;
            said(&*process, "up").await;
            assert!(running(MARK) > 0);
            // As a frontend that is killed: nothing of ours says goodbye.
            std::mem::forget(process);
            std::mem::forget(container);
            Ok(())
        })
    })
    .await;
    for _ in 0..200 {
        if running(MARK) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still running");
}

/// A plain client with a container called `c`.
async fn client_with_container(gateway: Arc<dyn Gateway>) -> Client {
    let mut client = client_of(gateway).await;
    let id = id_of(client.solve(solve_root()).await.unwrap().into_inner());
    let request = NewContainerRequest {
        container_id: "c".to_owned(),
        mounts: vec![mount("/", &id)],
        ..NewContainerRequest::default()
    };
    client.new_container(request).await.unwrap();
    client
}

fn message(process: &str, input: Input) -> ExecMessage {
    ExecMessage {
        process_id: process.to_owned(),
        input: Some(input),
    }
}

fn init(process: &str, container: &str, script: &str) -> ExecMessage {
    let meta = pb::Meta {
        args: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
        ..pb::Meta::default()
    };
    let init = InitMessage {
        container_id: container.to_owned(),
        meta: Some(meta),
        fds: vec![0, 1, 2],
        ..InitMessage::default()
    };
    message(process, Input::Init(init))
}

pub async fn p41_a_stream_of_messages_that_make_no_sense_ends_with_their_code() {
    let rig = Rig::new().with_builtin("test.v0", |gateway| async move {
        let mut client = client_with_container(gateway).await;
        let file = Input::File(FdMessage::default());
        let signal = |name: &str| {
            Input::Signal(SignalMessage {
                name: name.to_owned(),
            })
        };
        let cases = [
            (
                vec![message("", file.clone())],
                tonic::Code::InvalidArgument,
                "ProcessID required",
            ),
            (
                vec![message("p", file)],
                tonic::Code::NotFound,
                "IO for process \"p\" not found",
            ),
            (
                vec![message("p", Input::Resize(ResizeMessage::default()))],
                tonic::Code::NotFound,
                "IO for process \"p\" not found",
            ),
            (
                vec![message("p", signal("KILL"))],
                tonic::Code::NotFound,
                "IO for process \"p\" not found",
            ),
            (
                vec![init("p", "unknown", "true")],
                tonic::Code::NotFound,
                "container \"unknown\" previously released or not created",
            ),
            (
                vec![init("p", "c", "sleep 100"), init("p", "c", "true")],
                tonic::Code::AlreadyExists,
                "Process p already exists",
            ),
        ];
        for (messages, code, text) in cases {
            let status = exec(&mut client, messages).await;
            assert_eq!((status.code(), status.message()), (code, text));
        }
        // A message of a kind that is not known yet, and those that only the host sends.
        let unknown = ExecMessage {
            process_id: "p".to_owned(),
            input: None,
        };
        let status = exec(&mut client, vec![unknown]).await;
        assert_eq!(status.code(), tonic::Code::Ok, "{status}");
        Ok(BuildResult::default())
    });
    rig.build("test.v0", &[]).await.unwrap();
}

pub async fn p41_containers_have_one_id_each_and_are_released_once() {
    let rig = Rig::new().with_builtin("test.v0", |gateway| async move {
        let mut client = client_with_container(gateway).await;
        let again = NewContainerRequest {
            container_id: "c".to_owned(),
            ..NewContainerRequest::default()
        };
        let status = client.new_container(again).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::AlreadyExists);
        let status = exec(&mut client, vec![init("p", "c", "echo x > /made; exit 3")]).await;
        assert_eq!(status.code(), tonic::Code::Ok, "{status}");
        let read = |container: &str, mount_index| ReadFileRequest {
            r#ref: container.to_owned(),
            file_path: "/made".to_owned(),
            mount_index,
            ..ReadFileRequest::default()
        };
        let data = client.read_file_container(read("c", 0)).await.unwrap();
        assert_eq!(data.into_inner().data, b"x\n");
        for (index, text) in [(1, "mount index 1 is out of bounds"), (-1, "out of bounds")] {
            let status = client
                .read_file_container(read("c", index))
                .await
                .unwrap_err();
            assert!(status.message().contains(text), "{status}");
        }
        let status = client
            .read_file_container(read("other", 0))
            .await
            .unwrap_err();
        assert_eq!(status.message(), "container details for other@0 not found");
        let release = |id: &str| ReleaseContainerRequest {
            container_id: id.to_owned(),
        };
        // It tells that a process has failed; clients do not mind.
        let status = client.release_container(release("c")).await.unwrap_err();
        assert_eq!(status.message(), "exit code: 3");
        for id in ["c", "never"] {
            let status = client.release_container(release(id)).await.unwrap_err();
            let text = format!("container details for {id} not found");
            assert_eq!(status.message(), text);
        }
        Ok(BuildResult::default())
    });
    rig.build("test.v0", &[]).await.unwrap();
}
