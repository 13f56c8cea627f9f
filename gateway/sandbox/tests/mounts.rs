//! What is mounted over the root, and what of it stays afterwards.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::{Duration, SystemTime};

use common::{Rig, tree};
use gateway_sandbox::{Error, Mount, MountKind, Root, SecretBytes, Stage, StubRemoval};

fn mount(dest: &str, kind: MountKind) -> Mount {
    Mount {
        dest: dest.into(),
        kind,
    }
}

fn bind(rig: &Rig, name: &str, selector: &str, readonly: bool) -> MountKind {
    MountKind::Bind {
        source: rig.path(name),
        selector: selector.into(),
        readonly,
    }
}

fn tmpfs() -> MountKind {
    MountKind::Tmpfs { size_bytes: 0 }
}

/// Without the three directories that stay as under BuildKit.
fn upper(rig: &Rig) -> Vec<String> {
    let mut names = tree(&rig.path("upper"));
    names.retain(|name| !["proc", "dev", "sys"].contains(&name.as_str()));
    names
}

#[tokio::test]
async fn a_bind_mount_shows_the_selected_part_and_can_be_read_only() {
    let rig = Rig::new().await;
    fs::create_dir_all(rig.path("src/sub")).expect("mkdir");
    fs::write(rig.path("src/sub/a.txt"), "alpha\n").expect("write");
    let mut spec = rig.shell(
        "cat /in/a.txt /file; echo x 2>/dev/null > /in/a.txt || echo refused; echo y > /rw/new",
    );
    spec.mounts = vec![
        mount("/file", bind(&rig, "src", "sub/a.txt", true)),
        mount("/in", bind(&rig, "src", "/sub", true)),
        mount("/rw", bind(&rig, "src", "", false)),
    ];
    assert_eq!(rig.run(spec).await.stdout, "alpha\nalpha\nrefused\n");
    assert_eq!(fs::read_to_string(rig.path("src/new")).expect("new"), "y\n");
}

#[tokio::test]
async fn a_selector_cannot_leave_its_source() {
    let rig = Rig::new().await;
    fs::create_dir_all(rig.path("src/etc")).expect("mkdir");
    fs::write(rig.path("src/etc/passwd"), "the source's own\n").expect("write");
    symlink("/etc/passwd", rig.path("src/absolute")).expect("symlink");
    symlink("../../../../../../etc/passwd", rig.path("src/climbing")).expect("symlink");
    symlink("/proc/self/root/etc/passwd", rig.path("src/magic")).expect("symlink");
    for selector in ["absolute", "climbing", "../../../etc/passwd"] {
        let mut spec = rig.shell("cat /seen");
        spec.mounts = vec![mount("/seen", bind(&rig, "src", selector, true))];
        assert_eq!(
            rig.run(spec).await.stdout,
            "the source's own\n",
            "{selector}"
        );
    }
    let mut spec = rig.shell("cat /seen");
    spec.mounts = vec![mount("/seen", bind(&rig, "src", "magic", true))];
    let error = rig
        .try_run(spec)
        .await
        .expect_err("there is no proc in the source");
    assert!(
        matches!(&error, Error::Setup(e) if e.stage == Stage::MountSource),
        "{error}"
    );
}

#[tokio::test]
async fn a_mount_point_behind_a_link_stays_inside_the_root() {
    let rig = Rig::new().await;
    let outside = rig.path("outside");
    fs::create_dir(&outside).expect("mkdir");
    symlink(&outside, rig.path("layer/link")).expect("symlink");
    symlink("/../../../../tmp/via", rig.path("layer/climb")).expect("symlink");
    let mut spec = rig.shell("ls -d /link/deep /climb/deep; grep -c /deep /proc/mounts");
    spec.mounts = vec![mount("/link/deep", tmpfs()), mount("/climb/deep", tmpfs())];
    let outcome = rig.run(spec).await;
    assert_eq!(
        outcome.stdout, "/climb/deep\n/link/deep\n2\n",
        "{}",
        outcome.stderr
    );
    assert_eq!(tree(&outside), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_is_mounted_on_the_root_or_inside_proc() {
    let rig = Rig::new().await;
    symlink("/proc/self", rig.path("layer/sneaky")).expect("symlink");
    for dest in ["/", "/proc/sys", "/sneaky/attr", "/bin/.."] {
        let mut spec = rig.shell("true");
        spec.mounts = vec![mount(dest, tmpfs())];
        let error = rig.try_run(spec).await.expect_err(dest);
        assert!(
            matches!(&error, Error::Setup(e) if e.stage == Stage::Mount),
            "{dest}: {error}"
        );
    }
}

#[tokio::test]
async fn an_overlay_mount_takes_changes_or_throws_them_away() {
    let rig = Rig::new().await;
    for name in ["low", "mount-upper", "mount-work"] {
        fs::create_dir(rig.path(name)).expect("mkdir");
    }
    fs::write(rig.path("low/a.txt"), "alpha\n").expect("write");
    let overlay = |with_upper: bool| MountKind::Overlay {
        lowers: vec![rig.path("low")],
        upper: with_upper.then(|| rig.path("mount-upper")),
        work: with_upper.then(|| rig.path("mount-work")),
        selector: String::new(),
        readonly: false,
    };
    let throwaway = MountKind::Throwaway {
        lowers: vec![rig.path("low")],
        selector: String::new(),
    };
    let mut spec = rig.shell(
        "echo new > /kept/a.txt && echo new > /gone/a.txt && cat /gone/a.txt; \
         echo x 2>/dev/null > /ro/a.txt || echo refused",
    );
    spec.mounts = vec![
        mount("/gone", throwaway),
        mount("/kept", overlay(true)),
        mount("/ro", overlay(false)),
    ];
    let outcome = rig.run(spec).await;
    assert_eq!(outcome.stdout, "new\nrefused\n", "{}", outcome.stderr);
    assert_eq!(
        fs::read_to_string(rig.path("low/a.txt")).expect("low"),
        "alpha\n"
    );
    assert_eq!(
        fs::read_to_string(rig.path("mount-upper/a.txt")).expect("upper"),
        "new\n"
    );
}

#[tokio::test]
async fn the_same_overlay_can_be_mounted_run_after_run() {
    let rig = Rig::new().await;
    rig.output("echo 1 > /a").await;
    assert_eq!(rig.output("cat /a").await, "1\n");
}

#[tokio::test]
async fn a_secret_is_a_file_with_owner_and_mode_that_nothing_keeps() {
    let rig = Rig::new().await;
    let secret = "s3cret-that-must-not-stay";
    let mut spec = rig
        .shell("stat -c '%a %u %g' /root/.key; cat /root/.key | wc -c; mount | grep -c /root/.key");
    spec.mounts = vec![mount(
        "/root/.key",
        MountKind::SecretFile {
            data: SecretBytes(secret.into()),
            uid: 1000,
            gid: 50,
            mode: 0o440,
        },
    )];
    assert!(!format!("{spec:?}").contains(secret));
    assert_eq!(rig.run(spec).await.stdout, "440 1000 50\n25\n1\n");
    assert!(
        !upper(&rig).iter().any(|name| name.starts_with("root")),
        "{:?}",
        upper(&rig)
    );
}

#[tokio::test]
async fn tmpfs_mounts_are_empty_and_have_the_size_asked_for() {
    let rig = Rig::new().await;
    let mut spec = rig.shell(
        "ls /opt/t; df -k /opt/t | tail -n 1 | awk '{print $2}'; df -k /dev/shm | tail -n 1 | awk '{print $2}'; grep -c ' /dev/shm ' /proc/mounts",
    );
    spec.mounts = vec![
        mount(
            "/dev/shm",
            MountKind::Tmpfs {
                size_bytes: 32 << 20,
            },
        ),
        mount(
            "/opt/t",
            MountKind::Tmpfs {
                size_bytes: 1 << 20,
            },
        ),
    ];
    assert_eq!(rig.run(spec).await.stdout, "1024\n32768\n1\n");
}

#[tokio::test]
async fn mount_points_made_for_a_run_are_gone_and_their_parents_keep_their_times() {
    let rig = Rig::new().await;
    fs::create_dir_all(rig.path("layer/opt")).expect("mkdir");
    for name in ["proc", "dev", "sys"] {
        fs::create_dir(rig.path("layer").join(name)).expect("mkdir");
    }
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in ["layer/opt", "layer/etc", "layer", "upper"] {
        let dir = fs::File::open(rig.path(name)).expect("open");
        dir.set_modified(old).expect("times");
    }
    let mut spec = rig.shell("ls -d /new/deep/point /opt/t");
    spec.mounts = vec![mount("/new/deep/point", tmpfs()), mount("/opt/t", tmpfs())];
    assert_eq!(rig.run(spec).await.stdout, "/new/deep/point\n/opt/t\n");
    assert_eq!(tree(&rig.path("upper")), ["etc", "opt"]);
    for name in ["", "etc", "opt"] {
        let mtime = fs::metadata(rig.upper(name)).expect("dir").mtime();
        assert_eq!(mtime, 1_000_000_000, "/{name}");
    }
}

#[tokio::test]
async fn a_mount_point_in_use_or_not_ours_stays() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("echo full > /new/beside; touch /etc/mine");
    spec.mounts = vec![mount("/new/point", tmpfs())];
    rig.run(spec).await;
    assert_eq!(upper(&rig), ["etc", "etc/mine", "new", "new/beside"]);
}

#[tokio::test]
async fn stub_removal_can_spare_parents_or_everything() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("true");
    spec.mounts = vec![mount("/a/b", tmpfs())];
    spec.remove_mount_stubs = StubRemoval::Leaf;
    rig.run(spec.clone()).await;
    assert_eq!(upper(&rig), ["a", "etc"]);
    spec.remove_mount_stubs = StubRemoval::Off;
    rig.run(spec).await;
    assert_eq!(
        upper(&rig),
        ["a", "a/b", "etc", "etc/hosts", "etc/resolv.conf"]
    );
}

#[tokio::test]
async fn a_dangling_resolv_conf_link_is_filled_for_the_run_only() {
    let rig = Rig::new().await;
    symlink(
        "../run/resolve/stub.conf",
        rig.path("layer/etc/resolv.conf"),
    )
    .expect("symlink");
    let mut spec = rig.shell("cat /etc/resolv.conf");
    spec.resolv_conf = gateway_sandbox::ResolvConf::Given(b"nameserver 10.0.0.1\n".to_vec());
    assert_eq!(rig.run(spec).await.stdout, "nameserver 10.0.0.1\n");
    assert!(
        !upper(&rig).iter().any(|name| name.starts_with("run")),
        "{:?}",
        upper(&rig)
    );
}

#[tokio::test]
async fn a_read_only_root_refuses_writes_but_takes_mounts() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("touch /x 2>/dev/null || echo refused; touch /new/x && echo written");
    spec.root_readonly = true;
    spec.mounts = vec![mount("/new", tmpfs())];
    assert_eq!(rig.run(spec).await.stdout, "refused\nwritten\n");
}

#[tokio::test]
async fn a_root_without_layers_and_a_plain_directory_work() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("echo x > /y; cat /y");
    spec.root = Root::Overlay {
        lowers: Vec::new(),
        upper: rig.path("layer"),
        work: rig.path("work"),
    };
    assert_eq!(rig.run(spec).await.stdout, "x\n");
    let mut spec = rig.shell("cat /y; touch /z 2>/dev/null || echo refused");
    spec.root = Root::Throwaway {
        lowers: vec![rig.path("layer")],
        size_bytes: 1 << 20,
    };
    assert_eq!(rig.run(spec.clone()).await.stdout, "x\n");
    spec.root = Root::Dir {
        path: rig.path("layer"),
        readonly: false,
    };
    assert_eq!(rig.run(spec).await.stdout, "x\n");
    assert!(rig.path("layer/z").exists());
    assert!(!rig.path("layer/etc/hosts").exists());
}

#[tokio::test]
async fn many_layers_stack_topmost_first() {
    let rig = Rig::new().await;
    let mut lowers = vec![rig.path("layer")];
    for n in 0..300 {
        let dir = rig.path(&format!("l{n}"));
        fs::create_dir(&dir).expect("mkdir");
        fs::write(dir.join("top"), format!("{n}\n")).expect("write");
        lowers.insert(0, dir);
    }
    // A layer that an image contains twice.
    lowers.push(rig.path("l299"));
    let mut spec = rig.shell("cat /top");
    spec.root = Root::Overlay {
        lowers,
        upper: rig.path("upper"),
        work: rig.path("work"),
    };
    assert_eq!(rig.run(spec).await.stdout, "299\n");
}

#[tokio::test]
async fn what_cannot_be_mounted_is_named() {
    let rig = Rig::new().await;
    let mut spec = rig.shell("true");
    spec.mounts = vec![mount("/in", bind(&rig, "no-such-source", "", true))];
    let error = rig.try_run(spec).await.expect_err("no source").to_string();
    assert!(
        error.contains("no-such-source for /in: no such file"),
        "{error}"
    );
    let mut spec = rig.shell("true");
    spec.root = Root::Overlay {
        lowers: vec![rig.path("no-such-layer")],
        upper: rig.path("upper"),
        work: rig.path("work"),
    };
    let error = rig.try_run(spec).await.expect_err("no layer").to_string();
    assert!(
        error.contains("the root file system") && error.contains("no-such-layer"),
        "{error}"
    );
}
