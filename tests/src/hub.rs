//! Docker Hub on one machine: a network of its own in which `registry-1.docker.io` is Debian's docker-registry, over
//! TLS and with a login (`alice`, `s3cret-pw`), by a rule in `/etc/hosts`. Scripts run beside it and see nothing else.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::program::binary;
use crate::tls::Authority;

/// The names that are here.
const NAMES: [&str; 4] = [
    "registry-1.docker.io",
    "index.docker.io",
    "docker.io",
    "mirror.example",
];

/// Runs a script (`sh -eu`) with `$GATEWAY`, and `$HUB`: the folder with `ca.crt`, which the script may use.
/// A second registry is `mirror.example`, without a login; a third, `127.0.0.1:5000`, is Docker Hub without TLS and login.
pub fn run(dir: &Path, script: &str) -> Output {
    prepare(dir, "hub");
    let start = r#"
busybox ip link set lo up
busybox ip addr add 127.0.0.2/8 dev lo
mount --bind "$HUB/hosts" /etc/hosts
pids=""
trap 'for pid in $pids; do kill "$pid" 2>/dev/null || true; done; wait' EXIT
for name in hub mirror plain; do
    docker-registry serve "$HUB/$name.yml" >"$HUB/$name.log" 2>&1 </dev/null &
    pids="$pids $!"
done
for place in 127.0.0.1:443 127.0.0.2:443; do
    for _ in $(seq 300); do
        openssl s_client -connect "$place" </dev/null >/dev/null 2>&1 && break
        sleep 0.1
    done
done
"#;
    let all = format!("set -eu\n{start}\n{script}");
    let path = dir.join("script");
    std::fs::write(&path, all).expect("writing the script");
    Command::new("unshare")
        .args(["--net", "--mount", "sh"])
        .arg(&path)
        .env("GATEWAY", binary())
        .env("HUB", dir)
        .stdin(Stdio::null())
        .output()
        .expect("unshare, of util-linux")
}

fn prepare(dir: &Path, data: &str) {
    let authority = Authority::new("gateway test authority");
    authority.write_ca(&dir.join("ca.crt"));
    let mut names = NAMES.to_vec();
    names.extend(["127.0.0.1", "127.0.0.2"]);
    let files = authority.server(dir, &names);
    let tls = format!(
        "tls: {{certificate: {}, key: {}}}",
        files.certificate.display(),
        files.key.display()
    );
    // Of the password "s3cret-pw".
    let login = "alice:$2y$05$abcdefghijklmnopqrstuuzSvhclVSvY9ufOheOOhcPviTPFJlqIC\n";
    std::fs::write(dir.join("htpasswd"), login).expect("writing the logins");
    let auth = format!(
        "auth: {{htpasswd: {{realm: hub, path: {}}}}}\n",
        dir.join("htpasswd").display()
    );
    let config = |name: &str, data: &str, address: &str, more: &str, auth: &str| {
        let root = dir.join(data);
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"{more}}}\n{auth}",
            root.display()
        );
        std::fs::write(dir.join(format!("{name}.yml")), text).expect("writing a configuration");
    };
    config("hub", data, "127.0.0.1:443", &format!(", {tls}"), &auth);
    config("mirror", "mirror", "127.0.0.2:443", &format!(", {tls}"), "");
    config("plain", data, "127.0.0.1:5000", "", "");
    let mut hosts = String::from("127.0.0.1 localhost\n");
    for name in NAMES {
        let address = if name == "mirror.example" {
            "127.0.0.2"
        } else {
            "127.0.0.1"
        };
        hosts += &format!("{address} {name}\n");
    }
    std::fs::write(dir.join("hosts"), hosts).expect("writing the hosts");
}
