//! What a step has as it has it under runc, and what hosts that lack something
//! are told: points before and after those of safety.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use gateway_sandbox::Network;

use crate::places::{Bench, Place, wait_until};

#[test]
fn s07_s08_a_set_id_program_works_in_a_step_and_not_in_a_frontend() {
    for place in Place::ALL {
        let bench = Bench::new(place);
        fs::write(bench.path("layer/etc/closed"), "xx").expect("write");
        bench.hand_over();
        for (file, mode) in [("bin/probe", 0o4755), ("etc/closed", 0o600)] {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(bench.path("layer").join(file), permissions).expect("chmod");
        }
        let mut spec = bench.probe(&["read:/etc/closed"]);
        spec.user = "app".into();
        assert_eq!(bench.output(&spec), "read:/etc/closed 2\n", "{place:?}");
        if place != Place::Runc {
            let answer = bench.output(&bench.strict(spec));
            assert_eq!(answer, "read:/etc/closed EACCES\n", "{place:?}");
        }
    }
}

/// Mount point to file system and options of each mount of the kernel's.
fn mounts(bench: &Bench, network: Network) -> BTreeMap<String, String> {
    let mut spec = bench.shell("cat /proc/self/mountinfo");
    spec.network = network;
    let text = bench.output(&spec);
    text.lines()
        .filter_map(|line| {
            let (mount, fs) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(4);
            let (point, options) = (fields.next()?, fields.next()?);
            // Where the device of a masked file comes from does not matter.
            let kind = match fs.split(' ').next()? {
                "devtmpfs" => "tmpfs",
                kind => kind,
            };
            // Which of them has how much is a matter of the machine.
            let mut options: Vec<&str> = options.split(',').collect();
            options.retain(|option| *option != "relatime");
            options.sort_unstable();
            Some((point.to_owned(), format!("{kind} {}", options.join(","))))
        })
        .collect()
}

#[test]
fn s19_the_kernels_mounts_have_the_options_that_runc_gives_them() {
    let ours = mounts(&Bench::new(Place::Root), Network::None);
    let runcs = mounts(&Bench::new(Place::Runc), Network::None);
    let user = mounts(&Bench::new(Place::User), Network::None);
    for (point, theirs) in &runcs {
        // Without nodev there, and with single devices over it.
        if point == "/" || point == "/dev" {
            continue;
        }
        for ours in [&ours, &user] {
            let Some(options) = ours.get(point) else {
                panic!("{point} ({theirs}) is not mounted here: {ours:?}");
            };
            let (kind, options) = options.split_once(' ').expect("two parts");
            let (their_kind, theirs) = theirs.split_once(' ').expect("two parts");
            assert_eq!(kind, their_kind, "{point}");
            let missing: Vec<&str> = theirs
                .split(',')
                .filter(|option| !options.split(',').any(|ours| ours == *option))
                // Writable there and not here is stricter.
                .filter(|option| *option != "rw")
                .collect();
            assert_eq!(missing, Vec::<&str>::new(), "{point}: {options}");
        }
    }
}

#[test]
fn s32_two_steps_without_network_do_not_share_a_loopback() {
    for place in Place::OURS {
        let bench = Bench::new(place);
        let mut spec = bench.shell("nc -l -p 7077 127.0.0.1 & sleep 1000; true");
        spec.network = Network::None;
        let mut first = bench.command(&spec).spawn().expect("spawn");
        let other = Bench::new(place);
        let mut spec = other.shell(
            "cat /proc/net/tcp | wc -l; nc -w 1 127.0.0.1 7077 </dev/null 2>/dev/null || echo nobody",
        );
        spec.network = Network::None;
        assert_eq!(other.output(&spec), "1\nnobody\n", "{place:?}");
        first.kill().expect("kill");
        first.wait().expect("wait");
    }
}

#[test]
fn s82_a_machine_without_user_namespaces_is_told_which_setting_it_is() {
    let bench = Bench::new(Place::User);
    let inner = bench.command(&bench.shell("true"));
    // The limit of a namespace around it; root in there, without power.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && \
                  exec setpriv --bounding-set -sys_admin --inh-caps -sys_admin -- \"$@\"";
    let program: Vec<_> = inner
        .get_args()
        .skip_while(|a| *a != "--")
        .skip(1)
        .collect();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", script, "sh"])
        .args(program)
        .stdin(Stdio::null())
        .output()
        .expect("unshare");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("user.max_user_namespaces"), "{text}");
}

#[test]
fn s86_without_a_group_that_can_be_written_a_step_runs_unless_it_asked_for_limits() {
    let bench = Bench::new(Place::User);
    assert_eq!(bench.output(&bench.shell("echo ran")), "ran\n");
    let mut spec = bench.shell("echo ran");
    spec.resources.memory = Some(64 << 20);
    let refusal = bench.refusal(&spec);
    assert!(refusal.contains("the control group"), "{refusal}");
    spec.resources_optional = true;
    assert_eq!(bench.output(&spec), "ran\n");
}

#[test]
fn s87_without_a_helper_that_works_an_isolated_network_is_refused_by_name() {
    // As if neither were installed.
    let bench = Bench::new(Place::Root);
    let mut spec = bench.shell("echo ran");
    spec.network = Network::Isolated;
    let inner = bench.command(&spec);
    let hide = "mount -t tmpfs none /usr/local && mount -t tmpfs none /usr/bin && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", hide, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .output()
        .expect("unshare");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("passt") && text.contains("slirp4netns") && text.contains("installed"),
        "{text}"
    );
    // An ordinary user may lack the device that they need; then each of them tells.
    let bench = Bench::new(Place::User);
    let mut spec = bench.shell("cat /proc/net/route | wc -l");
    spec.network = Network::Isolated;
    let inner = bench.command(&spec);
    let within = |prepare: &str| {
        let script = format!("mount -t tmpfs none /dev/net && {prepare} && exec \"$@\"");
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .output();
        let output = output.expect("unshare");
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (_, text) = within("true");
    assert!(
        text.contains("pasta: ") && text.contains("slirp4netns: "),
        "{text}"
    );
    let (routes, text) = within("mknod -m 666 /dev/net/tun c 10 200");
    let routes: u32 = routes.trim().parse().unwrap_or_else(|_| panic!("{text}"));
    assert!(routes > 1, "{text}");
}

/// The process and all below it.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let text = text.unwrap_or_default();
        all.extend(
            text.split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
        next += 1;
    }
    all
}

#[test]
fn s87_a_helper_of_the_network_does_not_outlive_its_launcher() {
    let bench = Bench::new(Place::Root);
    let mut spec = bench.shell("sleep 1000");
    spec.network = Network::Isolated;
    let mut child = bench.command(&spec).spawn().expect("spawn");
    let helper = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        ["pasta", "slirp4netns", "passt"]
            .iter()
            .any(|helper| name.starts_with(helper))
    };
    let mut helpers = Vec::new();
    wait_until(
        || {
            helpers = family(child.id()).into_iter().filter(helper).collect();
            !helpers.is_empty()
        },
        "a helper runs",
    );
    child.kill().expect("kill");
    child.wait().expect("wait");
    wait_until(|| !helpers.iter().any(helper), "the helper is gone");
}
