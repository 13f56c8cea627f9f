//! The networks a sandbox can have, seen from inside.

mod common;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use common::Rig;
use gateway_sandbox::{Error, Network, Stage};

/// An address of this machine that is not its loopback.
fn outer_address() -> std::net::IpAddr {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("socket");
    // Nothing is sent: connecting only looks for the way.
    socket
        .connect("198.51.100.1:9")
        .expect("the test needs a default route");
    socket.local_addr().expect("address").ip()
}

#[tokio::test]
async fn an_isolated_network_reaches_out_but_not_the_hosts_loopback() {
    let rig = Rig::new().await;
    let outer = TcpListener::bind((outer_address(), 0)).expect("listen");
    let inner = TcpListener::bind("127.0.0.1:0").expect("listen");
    let at = outer.local_addr().expect("address");
    let local = inner.local_addr().expect("address");
    let answer = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = outer.accept().expect("a connection");
        stream.write_all(b"reached\n").expect("write");
    });
    let mut spec = rig.shell(&format!(
        "nc {} {} </dev/null; \
         for host in 127.0.0.1 10.0.2.2; do nc -w 2 $host {} </dev/null 2>/dev/null || echo out of reach; done; \
         ls /sys/class/net | grep -v lo | wc -l; grep -c nameserver /etc/resolv.conf",
        at.ip(),
        at.port(),
        local.port()
    ));
    spec.network = Network::Isolated;
    let outcome = rig.run(spec.clone()).await;
    assert_eq!(
        outcome.stdout, "reached\nout of reach\nout of reach\n1\n1\n",
        "{}",
        outcome.stderr
    );
    answer.join().expect("the server");
    // All steps share it, and it is not made again.
    spec.args = vec!["cat".into(), "/proc/self/net/route".into()];
    let first = rig.run(spec.clone()).await.stdout;
    assert!(first.lines().count() > 1, "{first}");
}

#[tokio::test]
async fn an_existing_network_namespace_can_be_joined() {
    let rig = Rig::new().await;
    let mut holder = Command::new("unshare")
        .args(["--net", "sh", "-c"])
        .arg("ip link set lo up && ip addr add 10.77.0.1/32 dev lo && echo made && exec sleep 1000")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut line = String::new();
    let stdout = holder.stdout.take().expect("stdout");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("read");
    assert_eq!(line, "made\n");
    for runtime in [None, Some(PathBuf::from("/usr/sbin/runc"))] {
        let mut spec = rig.shell("ip -o addr show lo | grep -c 10.77.0.1/32");
        spec.network = Network::Namespace(format!("/proc/{}/ns/net", holder.id()).into());
        spec.runtime = runtime;
        let outcome = rig.run(spec).await;
        assert_eq!(outcome.stdout, "1\n", "{}", outcome.stderr);
    }
    holder.kill().expect("kill");
    holder.wait().expect("wait");
    for (path, reason) in [
        ("/no/such/namespace", "no such file"),
        ("/proc/self/ns/mnt", "invalid argument"),
        ("/etc/passwd", "invalid argument"),
    ] {
        let mut spec = rig.shell("true");
        spec.network = Network::Namespace(path.into());
        let error = rig.try_run(spec).await.expect_err("no network namespace");
        assert!(
            matches!(&error, Error::Setup(e) if e.stage == Stage::Network),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains(path) && text.contains(reason), "{text}");
    }
}
