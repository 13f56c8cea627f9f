//! Points 75 and 77 (76 is the host of frontends' own): the tighter profile.

use crate::places::{Bench, Place};

#[test]
fn s75_a_frontend_has_no_sockets_no_writable_root_no_sys_and_sees_itself_only() {
    let names = [
        "socket:1",
        "socket:2",
        "socket:16",
        "raw_socket",
        "make:/file",
        "make:/tmp/file",
        "list:/sys",
        "read:/proc/meminfo",
        "read:/proc/kallsyms",
        "list:/proc/2",
        "trace_child",
        "char:/dev/node=1.3",
        "unshare_user",
        "clone_user",
        "chroot",
        "mount_tmpfs",
        "bpf",
    ];
    let expected = [
        "ok", "EPERM", "EPERM", "EPERM", "EROFS", "EROFS", "ENOENT", "ENOENT", "ENOENT", "ENOENT",
        "EPERM", "EPERM", "EPERM", "EPERM", "EPERM", "EPERM", "EPERM",
    ];
    for place in Place::OURS {
        let bench = Bench::new(place);
        let text = bench.output(&bench.strict(bench.probe(&names)));
        let answers: Vec<&str> = text
            .lines()
            .map(|line| line.rsplit(' ').next().unwrap_or_default())
            .collect();
        for ((name, expected), answer) in names.iter().zip(expected).zip(&answers) {
            // A folder that a layer lacks is an empty one of the image.
            let fine = *answer == expected || (*name == "list:/sys" && *answer == "0");
            assert!(fine, "{place:?} {name}: {answer} instead of {expected}");
        }
        let status = bench.output(&bench.strict(
            bench.shell("grep -e ^CapPrm -e ^CapBnd -e ^NoNewPrivs -e ^Seccomp: /proc/self/status"),
        ));
        assert_eq!(
            status,
            "CapPrm:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n",
            "{place:?}"
        );
    }
}

#[test]
fn s77_what_a_frontend_says_on_stderr_comes_out() {
    for place in Place::OURS {
        let bench = Bench::new(place);
        let output = bench.run(&bench.strict(bench.shell("echo said >&2; exit 3")));
        assert_eq!(output.stderr, b"said\n", "{place:?}");
        assert_eq!(output.status.code(), Some(3), "{place:?}");
    }
}
