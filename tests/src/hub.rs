//! Docker Hub on one machine: a network of its own in which `registry-1.docker.io` is Debian's docker-registry, over
//! TLS and with a login (`alice`, `s3cret-pw`), by a rule in `/etc/hosts`. Scripts run beside it and see nothing else.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::program::binary;
use crate::tls::Authority;
use crate::tokens::Tokens;

/// The names that are here.
const NAMES: [(&str, &str); 5] = [
    ("registry-1.docker.io", "127.0.0.1"),
    ("index.docker.io", "127.0.0.1"),
    ("docker.io", "127.0.0.1"),
    ("mirror.example", "127.0.0.2"),
    ("auth.docker.io", "127.0.0.3"),
];

/// Runs a script (`sh -eu`) with `$GATEWAY`, and `$HUB`: the folder with `ca.crt`, which the script may use.
/// A second registry is `mirror.example`, without a login; a third, `127.0.0.1:5000`, is Docker Hub without TLS and login.
pub fn run(dir: &Path, script: &str) -> Output {
    let login = dir.join("htpasswd");
    let auth = format!(
        "auth: {{htpasswd: {{realm: hub, path: {}}}}}\n",
        login.display()
    );
    run_with(dir, &auth, "", script)
}

/// The same as Docker Hub is today: whoever pushes or pulls shows a token, which `https://auth.docker.io` gives for a
/// login. Gives the scopes of all tokens as well.
pub fn run_with_tokens(dir: &Path, script: &str) -> (Output, Vec<String>) {
    // The test's own process answers: sockets of files are seen from every network.
    let socket = dir.join("tokens.socket");
    let tokens = Tokens::start_at(&socket);
    let auth = format!(
        "auth: {{token: {{realm: 'https://auth.docker.io/token', service: registry, issuer: tokens, rootcertbundle: {}}}}}\n",
        tokens.certificate().display()
    );
    let folder = dir.display();
    let config = format!(
        "daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;\n\
         uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
         server {{ listen 127.0.0.3:443 ssl; ssl_certificate CERTIFICATE; ssl_certificate_key KEY;\n\
         location / {{ proxy_pass http://unix:{}:; }} }} }}\n",
        socket.display()
    );
    let start = r#"/usr/sbin/nginx -c "$HUB/nginx.conf" -p "$HUB" 2>/dev/null &
pids="$pids $!"
for _ in $(seq 300); do
    openssl s_client -connect 127.0.0.3:443 </dev/null >/dev/null 2>&1 && break
    sleep 0.1
done
"#;
    std::fs::write(dir.join("nginx.conf"), config).expect("writing a configuration");
    let output = run_with(dir, &auth, start, script);
    (output, tokens.asked())
}

fn run_with(dir: &Path, auth: &str, more: &str, script: &str) -> Output {
    prepare(dir, "hub", auth);
    let start = r#"
busybox ip link set lo up
busybox ip addr add 127.0.0.2/8 dev lo
busybox ip addr add 127.0.0.3/8 dev lo
mount --bind "$HUB/hosts" /etc/hosts
pids=""
trap 'for pid in $pids; do kill "$pid" 2>/dev/null || true; done; wait' EXIT
for name in hub mirror plain; do
    docker-registry serve "$HUB/$name.yml" >"$HUB/$name.log" 2>&1 </dev/null &
    pids="$pids $!"
done
MORE
for place in 127.0.0.1:443 127.0.0.2:443; do
    for _ in $(seq 300); do
        openssl s_client -connect "$place" </dev/null >/dev/null 2>&1 && break
        sleep 0.1
    done
done
"#;
    let start = start.replace("MORE\n", more);
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

fn prepare(dir: &Path, data: &str, auth: &str) {
    let authority = Authority::new("gateway test authority");
    authority.write_ca(&dir.join("ca.crt"));
    let mut names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
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
    // A front of its own has the same certificate.
    if let Ok(text) = std::fs::read_to_string(dir.join("nginx.conf")) {
        let text = text
            .replace("CERTIFICATE", &files.certificate.display().to_string())
            .replace("KEY", &files.key.display().to_string());
        std::fs::write(dir.join("nginx.conf"), text).expect("writing a configuration");
    }
    let config = |name: &str, data: &str, address: &str, more: &str, auth: &str| {
        let root = dir.join(data);
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"{more}}}\n{auth}",
            root.display()
        );
        std::fs::write(dir.join(format!("{name}.yml")), text).expect("writing a configuration");
    };
    config("hub", data, "127.0.0.1:443", &format!(", {tls}"), auth);
    config("mirror", "mirror", "127.0.0.2:443", &format!(", {tls}"), "");
    config("plain", data, "127.0.0.1:5000", "", "");
    let mut hosts = String::from("127.0.0.1 localhost\n");
    for (name, address) in NAMES {
        hosts += &format!("{address} {name}\n");
    }
    std::fs::write(dir.join("hosts"), hosts).expect("writing the hosts");
}
