//! Points 57 to 63: paths that lead elsewhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gateway_sandbox::{MountKind, SecretBytes};

use crate::common::tree;
use crate::places::{Bench, Place, mount, tmpfs};

fn secret(text: &str) -> MountKind {
    MountKind::SecretFile {
        data: SecretBytes(text.into()),
        uid: 0,
        gid: 0,
        mode: 0o400,
    }
}

#[test]
fn s57_a_mount_point_that_is_a_link_outwards_stays_inside() {
    for place in Place::ALL {
        let bench = Bench::new(place);
        symlink("/../../etc", bench.path("layer/climb")).expect("symlink");
        symlink("/tmp/of-the-image", bench.path("layer/absolute")).expect("symlink");
        bench.hand_over();
        let mut spec = bench.shell("ls -d /etc/deep /tmp/of-the-image/deep");
        spec.mounts = vec![
            mount("/absolute/deep", tmpfs()),
            mount("/climb/deep", tmpfs()),
        ];
        assert_eq!(
            bench.output(&spec),
            "/etc/deep\n/tmp/of-the-image/deep\n",
            "{place:?}"
        );
        assert!(!fs::exists("/etc/deep").expect("stat"));
        assert!(!fs::exists("/tmp/of-the-image").expect("stat"));
    }
    // A link of /proc is text like any other: it leads to the root it is in.
    for place in Place::OURS {
        let bench = Bench::new(place);
        symlink("/proc/1/root", bench.path("layer/magic")).expect("symlink");
        bench.hand_over();
        let mut spec = bench.shell("ls -d /deep-inside");
        spec.mounts = vec![mount("/magic/deep-inside", tmpfs())];
        assert_eq!(bench.output(&spec), "/deep-inside\n", "{place:?}");
        assert!(!fs::exists("/deep-inside").expect("stat"));
    }
}

#[test]
fn s58_a_selector_that_is_a_link_outwards_stays_in_its_source() {
    for place in Place::ALL {
        let bench = Bench::new(place);
        fs::create_dir_all(bench.path("src/etc")).expect("mkdir");
        fs::write(bench.path("src/etc/passwd"), "the source's own\n").expect("write");
        symlink("/etc/passwd", bench.path("src/absolute")).expect("symlink");
        symlink("../../../../../etc/passwd", bench.path("src/climbing")).expect("symlink");
        symlink("/proc/self/root/etc/passwd", bench.path("src/magic")).expect("symlink");
        bench.hand_over();
        let bind = |selector: &str| MountKind::Bind {
            source: bench.path("src"),
            selector: selector.into(),
            readonly: true,
        };
        for selector in ["absolute", "climbing", "../../../etc/passwd"] {
            let mut spec = bench.shell("cat /seen");
            spec.mounts = vec![mount("/seen", bind(selector))];
            assert_eq!(
                bench.output(&spec),
                "the source's own\n",
                "{place:?} {selector}"
            );
        }
        let mut spec = bench.shell("cat /seen");
        spec.mounts = vec![mount("/seen", bind("magic"))];
        assert!(bench.refusal(&spec).contains("magic"), "{place:?}");
    }
}

#[test]
fn s59_a_mount_point_that_changes_during_the_set_up_never_leads_outside() {
    // Another step that shares a cache swaps a folder in it for a link, over and over.
    for place in Place::OURS {
        let bench = Bench::new(place);
        let cache = bench.path("cache");
        let outside = bench.path("outside");
        fs::create_dir_all(cache.join("folder")).expect("mkdir");
        fs::create_dir(&outside).expect("mkdir");
        symlink(&outside, cache.join("link")).expect("symlink");
        bench.hand_over();
        let end = Arc::new(AtomicBool::new(false));
        let swapping = {
            let (end, cache) = (end.clone(), cache.clone());
            std::thread::spawn(move || {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let dir = fs::File::open(&cache).expect("open");
                while !end.load(Ordering::Relaxed) {
                    rustix::fs::renameat_with(&dir, "folder", &dir, "link", flags).expect("swap");
                }
            })
        };
        let bind = MountKind::Bind {
            source: cache,
            selector: String::new(),
            readonly: false,
        };
        let mut inside = 0;
        for _ in 0..rounds() {
            let mut spec =
                bench.shell("cat /cache/folder/secret/key || cat /cache/link/secret/key");
            spec.mounts = vec![
                mount("/cache", bind.clone()),
                mount("/cache/folder/secret/key", secret("hidden")),
            ];
            // In the folder, or in the sandbox's own directory of the link's name, or refused.
            let output = bench.run(&spec);
            inside += usize::from(output.stdout == b"hidden");
            assert_eq!(
                tree(&outside),
                Vec::<String>::new(),
                "{place:?}: {output:?}"
            );
        }
        end.store(true, Ordering::Relaxed);
        swapping.join().expect("the other step");
        assert!(inside > 0, "{place:?}: it never worked");
    }
}

/// A step starts in milliseconds; the walk alone is raced ten thousand times
/// by a test beside it.
fn rounds() -> u32 {
    let set = std::env::var("GATEWAY_RACE_ROUNDS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(60)
}

#[test]
fn s60_a_working_directory_behind_a_link_outwards_stays_inside() {
    for place in Place::ALL {
        let bench = Bench::new(place);
        let outside = bench.path("outside");
        fs::create_dir(&outside).expect("mkdir");
        symlink(&outside, bench.path("layer/cwd")).expect("symlink");
        symlink("/../../../../..", bench.path("layer/up")).expect("symlink");
        bench.hand_over();
        for (cwd, seen) in [
            ("/cwd", outside.display().to_string()),
            ("/up/tmp", "/tmp".into()),
        ] {
            let mut spec = bench.shell("/bin/pwd; touch here; ls /bin/busybox");
            spec.cwd = cwd.into();
            let expected = format!("{seen}\n/bin/busybox\n");
            assert_eq!(bench.output(&spec), expected, "{place:?}");
        }
        assert_eq!(tree(&outside), Vec::<String>::new(), "{place:?}");
    }
}

#[test]
fn s61_a_secret_below_a_linked_folder_stays_inside() {
    for place in Place::ALL {
        let bench = Bench::new(place);
        let outside = bench.path("outside");
        fs::create_dir(&outside).expect("mkdir");
        symlink(&outside, bench.path("layer/keys")).expect("symlink");
        bench.hand_over();
        let mut spec = bench.shell("cat /keys/deep/key");
        spec.mounts = vec![mount("/keys/deep/key", secret("hidden"))];
        assert_eq!(bench.output(&spec), "hidden", "{place:?}");
        assert_eq!(tree(&outside), Vec::<String>::new(), "{place:?}");
    }
}

#[test]
fn s62_nothing_is_mounted_below_proc() {
    for place in Place::ALL {
        let bench = Bench::new(place);
        symlink("/proc/self", bench.path("layer/sneaky")).expect("symlink");
        bench.hand_over();
        for dest in ["/proc/sys/kernel", "/proc/self/attr", "/sneaky/attr"] {
            let mut spec = bench.shell("true");
            spec.mounts = vec![mount(dest, tmpfs())];
            let output = bench.run(&spec);
            assert!(!output.status.success(), "{place:?} {dest}: {output:?}");
            if place != Place::Runc {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(text.contains("inside /proc"), "{place:?} {dest}: {text}");
            }
        }
    }
}

#[test]
fn s63_an_image_with_links_in_place_of_system_folders_gains_nothing() {
    for place in Place::ALL {
        for name in ["proc", "dev", "sys"] {
            let bench = Bench::new(place);
            let host = bench.path("host");
            fs::create_dir(&host).expect("mkdir");
            symlink(&host, bench.path("layer").join(name)).expect("symlink");
            bench.hand_over();
            let output = bench.run(&bench.shell("true"));
            if place != Place::Runc {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(!output.status.success(), "{place:?} {name}");
                assert!(
                    text.contains(&format!("/{name} is a symbolic link")),
                    "{text}"
                );
            }
            assert_eq!(tree(&host), Vec::<String>::new(), "{place:?} {name}");
        }
        let bench = Bench::new(place);
        let host = bench.path("host");
        fs::create_dir(&host).expect("mkdir");
        fs::write(host.join("hosts"), "the host's\n").expect("write");
        fs::remove_dir_all(bench.path("layer/etc")).expect("rm");
        symlink(&host, bench.path("layer/etc")).expect("symlink");
        bench.hand_over();
        let seen = bench.output(&bench.shell("cat /etc/hosts; echo mine > /etc/mine"));
        assert!(
            seen.starts_with("127.0.0.1\tlocalhost"),
            "{place:?}: {seen}"
        );
        assert_eq!(tree(&host), ["hosts"], "{place:?}");
        assert_eq!(
            fs::read_to_string(host.join("hosts")).expect("read"),
            "the host's\n"
        );
    }
}
