//! Registries as users meet them: Debian's docker-registry with TLS, passwords and tokens, as upstream and as a
//! pull-through mirror; nginx in front of it; openssl's server for what rustls cannot serve; skopeo as the second
//! opinion on what was stored and pushed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use gateway_tests::base_images::{Layout, Tar};
use gateway_tests::measure::timed;
use gateway_tests::nginx::Nginx;
use gateway_tests::program::{Home, binary, run, stderr, tool};
use gateway_tests::registry::{Registry, free_port};
use gateway_tests::tokens::{PASSWORD, Tokens, USER};
use serde_json::Value;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn succeeded(output: &Output) -> String {
    let texts = format!("{}\n{}", stdout(output), stderr(output));
    assert!(output.status.success(), "{texts}");
    no_secret(&texts);
    texts
}

/// The fault is a registry's.
fn failed(output: &Output) -> String {
    failed_with(3, output)
}

fn failed_with(code: i32, output: &Output) -> String {
    let texts = format!("{}\n{}", stdout(output), stderr(output));
    assert_eq!(output.status.code(), Some(code), "{texts}");
    no_secret(&texts);
    texts
}

/// Check 69.
fn no_secret(text: &str) {
    for secret in [PASSWORD, "YWxpY2U6czNjcmV0LXB3"] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// The digest of what a registry holds, by skopeo's reading.
fn skopeo_digest(certificates: &Path, name: &str, login: bool) -> String {
    let dir = certificates.display().to_string();
    let creds = format!("{USER}:{PASSWORD}");
    let name = format!("docker://{name}");
    let mut args = vec!["inspect", "--format", "{{.Digest}}", "--cert-dir", &dir];
    if login {
        args.extend(["--creds", &creds]);
    }
    args.push(&name);
    tool("skopeo", &args).trim().to_owned()
}

fn with_input(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut stdin = child.stdin.take().expect("its stdin");
    stdin.write_all(input.as_bytes()).expect("writing to it");
    drop(stdin);
    child.wait_with_output().expect("its end")
}

const BUSYBOX: &str = "library/busybox:latest";

#[test]
fn sentence_6_check_takes_every_step_on_a_real_registry_and_its_exit_code_is_the_verdict() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.table());
    let name = format!("{}/{BUSYBOX}", registry.address);
    let output = run(home
        .command(&["registry", "check"])
        .args(["--push", "--json", &name]));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(output.status.success(), "{report:#}");
    let steps: Vec<(&str, &str)> = report["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .map(|step| {
            (
                step["step"].as_str().unwrap_or(""),
                step["verdict"].as_str().unwrap_or(""),
            )
        })
        .collect();
    let names = [
        "name", "hosts", "dns", "tcp", "tls", "api", "login", "head", "get", "blob", "push",
    ];
    assert_eq!(steps, names.map(|name| (name, "ok")));
    assert_eq!(
        (&report["good"], &report["may_push"]),
        (&Value::Bool(true), &Value::Bool(true))
    );

    // The same with an unknown authority: the header as people search for it, and the whole page.
    let strange = Home::new(&format!(
        "[registry.\"{}\"]\nhttp = false\n",
        registry.address
    ));
    let text = failed_with(1, &run(strange.command(&["registry", "check"]).arg(&name)));
    let header = format!(
        "failed to do request: Head https://{}/v2/library/busybox/manifests/latest: x509: certificate signed by unknown authority",
        registry.address
    );
    assert!(text.lines().any(|line| line == header), "{text}");
    for part in [
        "failed  tls",
        "issuer  CN=gateway test authority",
        "openssl s_client -connect 127.0.0.1:",
        "failed: no host serves the image",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        text.contains(&format!(
            "save it as /etc/docker/certs.d/{}/ca.crt",
            registry.address
        )),
        "{text}"
    );
    // As an ordinary pull shows it.
    let text = failed(&run(strange.command(&["pull"]).arg(&name)));
    assert!(
        text.contains(&header) && text.contains("presented  [0] subject CN=registry of a test"),
        "{text}"
    );
}

#[test]
fn sentence_3_logins_with_passwords_are_tried_kept_used_and_forgotten() {
    let more = "auth: {htpasswd: {realm: tests, path: DIR/htpasswd}}";
    let registry = Registry::start_with(more, None);
    let images = Registry::with_base_images();
    let home = Home::new(&format!("{}{}", registry.table(), images.table()));
    let host = registry.address.to_string();
    let login = |password: &str| {
        with_input(
            home.command(&["login"])
                .args(["-u", USER, "--password-stdin", &host]),
            password,
        )
    };
    let text = failed(&login("wrong"));
    assert!(text.contains("user \"alice\" from the caller"), "{text}");
    assert!(!home.dir.path().join("docker/config.json").exists());
    let target = format!("{host}/team/app:1");
    let from = format!("{}/{BUSYBOX}", images.address);
    let text = failed(&run(home.command(&["copy"]).args([&from, &target])));
    assert!(
        text.contains("push access denied") && text.contains("credentials: none"),
        "{text}"
    );
    assert!(text.contains(&format!("gateway login {host}")), "{text}");

    succeeded(&login(PASSWORD));
    let text = succeeded(&run(home.command(&["copy"]).args([&from, &target])));
    let digest = skopeo_digest(&images.certificate_dir(), &from, false);
    assert!(text.contains(&digest), "{text}");
    assert_eq!(
        skopeo_digest(&registry.certificate_dir(), &target, true),
        digest
    );
    let text = succeeded(&run(home.command(&["inspect"]).arg(&target)));
    assert!(text.contains(&format!("digest    {digest}")), "{text}");

    let text = succeeded(&run(Command::new(gateway_tests::program::binary())
        .args(["logout", &host])
        .env("DOCKER_CONFIG", home.dir.path().join("docker"))));
    assert!(text.contains("removed"), "{text}");
    let text = failed(&run(home.command(&["inspect"]).arg(&target)));
    assert!(text.contains("pull access denied"), "{text}");
}

#[test]
fn sentence_3_and_7_tokens_are_asked_by_scope_and_blobs_are_taken_from_other_repositories() {
    let tokens = Tokens::start();
    let more = format!(
        "auth: {{token: {{realm: 'http://{}/token', service: registry, issuer: tokens, rootcertbundle: {}}}}}",
        tokens.address,
        tokens.certificate().display()
    );
    let registry = Registry::start_with(&more, None);
    let images = Registry::with_base_images();
    let host = registry.address.to_string();
    // A login does not go in the clear to a service of a registry that itself speaks TLS.
    let home = Home::new(&format!("{}{}", registry.table(), images.table()));
    let login = with_input(
        home.command(&["login"])
            .args(["-u", USER, "--password-stdin", &host]),
        PASSWORD,
    );
    let text = failed(&login);
    assert!(
        text.contains("is plain HTTP; the login was not sent"),
        "{text}"
    );

    assert!(tokens.asked().is_empty(), "{:?}", tokens.asked());

    // Behind TLS it does.
    let front = Nginx::start(&format!(
        "location / {{ proxy_pass http://{}; }}",
        tokens.address
    ));
    let more = more.replace(
        &format!("http://{}", tokens.address),
        &format!("https://{}", front.address),
    );
    let registry = Registry::start_with(&more, None);
    let host = registry.address.to_string();
    let home = Home::new(&format!(
        "{}{}{}",
        registry.table(),
        images.table(),
        front.table()
    ));
    let login = with_input(
        home.command(&["login"])
            .args(["-u", USER, "--password-stdin", &host]),
        PASSWORD,
    );
    succeeded(&login);
    let from = format!("{}/{BUSYBOX}", images.address);
    let (first, second) = (format!("{host}/one/app:1"), format!("{host}/two/app:1"));
    let digest = skopeo_digest(&images.certificate_dir(), &from, false);
    let text = succeeded(&run(home.command(&["copy"]).args([&from, &first])));
    assert!(text.contains(&digest), "{text}");
    // From a repository of the same registry nothing is sent: the token is for both.
    let before = tokens.asked().len();
    succeeded(&run(home.command(&["copy"]).args([&first, &second])));
    let scopes = tokens.asked().split_off(before);
    assert!(
        scopes.contains(&"repository:one/app:pull repository:two/app:pull,push".to_owned()),
        "{scopes:?}"
    );
    let trusted = registry.certificate_dir();
    std::fs::copy(front.ca(), trusted.join("tokens.crt")).expect("copying the certificate");
    assert_eq!(skopeo_digest(&trusted, &second, true), digest);
    // One token for all requests of a pull.
    let before = tokens.asked().len();
    succeeded(&run(home.command(&["pull"]).arg(&second)));
    assert_eq!(
        tokens.asked().split_off(before),
        ["repository:two/app:pull"]
    );
}

#[test]
fn sentence_4_a_pull_through_mirror_serves_when_the_registry_is_gone_and_offline_needs_neither() {
    let mut upstream = Registry::with_base_images();
    let more = format!("proxy: {{remoteurl: 'https://{}'}}", upstream.address);
    let mut mirror = Registry::start_with(&more, Some(&upstream.ca()));
    let host = upstream.address.to_string();
    let config = format!(
        "{}{}mirrors = [\"{}\"]\n",
        mirror.table(),
        upstream.table(),
        mirror.address
    );
    let home = Home::new(&config);
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        context.path().join("Dockerfile"),
        format!("FROM {host}/{BUSYBOX}\nRUN echo one > /one\n"),
    )
    .expect("a build file");
    let build = |more: &[&str]| run(home.build().args(more).arg(context.path()));
    let text = succeeded(&build(&[]));
    assert!(!text.contains("passed over"), "{text}");
    upstream.stop();
    // The mirror has it, for a store that never saw it.
    let other = Home::new(&config);
    succeeded(&run(other.build().arg(context.path())));
    mirror.stop();
    let text = failed(&run(Home::new(&config).build().arg(context.path())));
    assert!(
        text.contains("connection refused")
            && text.contains("mirror 127.0.0.1:")
            && text.contains(&format!("registry {host}")),
        "{text}"
    );
    let text = succeeded(&build(&["--offline"]));
    assert!(
        text.contains("offline, what the tag named when it was last asked for is used"),
        "{text}"
    );
    let text = failed(&run(Home::new(&config)
        .build()
        .arg("--offline")
        .arg(context.path())));
    assert!(
        text.contains("registries may not be asked (offline)"),
        "{text}"
    );
}

#[test]
fn sentence_2_a_registry_whose_head_fails_serves_builds_and_says_so_once() {
    let registry = Registry::with_base_images();
    // As Nexus before 3.15: HEAD of a manifest is 404, whatever is there.
    let front = Nginx::start(&format!(
        "location / {{ if ($request_method = HEAD) {{ return 404; }} proxy_pass https://{}; }}",
        registry.address
    ));
    let home = Home::new(&front.table());
    let name = format!("{}/{BUSYBOX}", front.address);
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        context.path().join("Dockerfile"),
        format!("FROM {name} AS a\nRUN echo 1 > /1\nFROM {name}\nCOPY --from=a /1 /\n"),
    )
    .expect("a build file");
    succeeded(&run(home.build().arg(context.path())));
    // The tag is known now, so HEAD is tried first.
    let text = succeeded(&run(home.build().arg(context.path())));
    let told = "answers HEAD of a manifest with 404: GET is used instead";
    assert_eq!(text.matches(told).count(), 1, "{text}");
    let manifest = "/v2/library/busybox/manifests/latest";
    let asked = front.asked();
    let count = |line: String| asked.iter().filter(|asked| **asked == line).count();
    assert_eq!(
        (
            count(format!("HEAD {manifest} 404")),
            count(format!("GET {manifest} 200"))
        ),
        (1, 2),
        "{asked:?}"
    );
    let text = succeeded(&run(home.command(&["registry", "check"]).arg(&name)));
    assert!(
        text.contains(&format!(
            "odd: {} answers HEAD of a manifest with 404",
            front.address
        )),
        "{text}"
    );
    // Check 12: where HEAD works, an unchanged tag costs one.
    let honest = Nginx::start(&format!(
        "location / {{ proxy_pass https://{}; }}",
        registry.address
    ));
    let home = Home::new(&honest.table());
    let name = format!("{}/{BUSYBOX}", honest.address);
    std::fs::write(
        context.path().join("Dockerfile"),
        format!("FROM {name}\nRUN echo 1 > /1\n"),
    )
    .expect("a build file");
    succeeded(&run(home.build().arg(context.path())));
    let before = honest.asked().len();
    succeeded(&run(home.build().arg(context.path())));
    assert_eq!(
        honest.asked().split_off(before),
        [format!("HEAD {manifest} 200")]
    );
}

#[test]
fn sentence_7_a_front_end_that_limits_requests_and_hides_tls_is_pushed_to_in_pieces() {
    let registry = Registry::start();
    let images = Registry::with_base_images();
    // Docker-registry behind it does not know that its front end speaks TLS: its addresses are plain http.
    let front = Nginx::start(&format!(
        "client_max_body_size 300k; location / {{ proxy_pass https://{}; proxy_set_header Host $http_host; \
         proxy_set_header X-Forwarded-Proto http; proxy_request_buffering off; proxy_http_version 1.1; }}",
        registry.address
    ));
    let home = Home::new(&format!("{}{}", front.table(), images.table()));
    let from = format!("{}/{BUSYBOX}", images.address);
    let target = format!("{}/big:1", front.address);
    let output = run(home.command(&["copy"]).args([&from, &target]));
    let text = succeeded(&output);
    assert!(text.contains("client_max_body_size"), "{text}");
    assert!(
        text.contains("X-Forwarded-Proto is probably missing"),
        "{text}"
    );
    let digest = skopeo_digest(&images.certificate_dir(), &from, false);
    assert_eq!(
        skopeo_digest(
            &registry.certificate_dir(),
            &format!("{}/big:1", registry.address),
            false
        ),
        digest
    );
    assert!(
        front
            .asked()
            .iter()
            .any(|line| line.starts_with("PATCH ") && line.ends_with(" 202")),
        "{:?}",
        front.asked()
    );
}

#[test]
fn sentence_7_http2_is_spoken_where_it_is_asked_for_and_offered() {
    let images = Registry::with_base_images();
    let from = format!("{}/{BUSYBOX}", images.address);
    let digest = skopeo_digest(&images.certificate_dir(), &from, false);
    let registry = Registry::start();
    let server = format!(
        "access_log DIR/combined.log combined; client_max_body_size 0; \
         location / {{ proxy_pass https://{}; proxy_set_header Host $http_host; \
         proxy_set_header X-Forwarded-Proto https; proxy_request_buffering off; proxy_http_version 1.1; }}",
        registry.address
    );
    for (listen, asked, spoken) in [
        ("ssl http2", "http2 = true\n", "HTTP/2.0"),
        ("ssl http2", "", "HTTP/1.1"),
        ("ssl", "http2 = true\n", "HTTP/1.1"),
    ] {
        let front = Nginx::listening(listen, &server);
        let home = Home::new(&format!("{}{asked}{}", front.table(), images.table()));
        let name = format!("{}/app:1", front.address);
        succeeded(&run(home.command(&["copy"]).args([&from, &name])));
        let trusted = registry.certificate_dir();
        let stored = format!("{}/app:1", registry.address);
        assert_eq!(skopeo_digest(&trusted, &stored, false), digest);
        succeeded(&run(home.command(&["pull"]).arg(&name)));
        let text = succeeded(&run(home.command(&["registry", "check"]).arg(&name)));
        assert_eq!(text.contains(", HTTP/2, "), spoken == "HTTP/2.0", "{text}");
        let lines = front.lines("combined.log");
        for method in ["PUT", "GET"] {
            assert!(lines.iter().any(|line| line.contains(method)), "{lines:?}");
        }
        let other = lines.iter().find(|line| !line.contains(spoken));
        assert_eq!(other, None, "{listen:?} {asked:?}");
    }
}

#[test]
fn sentence_7_blobs_come_from_where_the_registry_sends_them_without_its_login() {
    let more = "auth: {htpasswd: {realm: tests, path: DIR/htpasswd}}";
    let registry = Registry::start_with(more, None);
    let images = Registry::with_base_images();
    // Storage that refuses requests with a login, as signed addresses do.
    let storage = Nginx::start(&format!(
        "location / {{ if ($http_authorization) {{ return 400; }} rewrite ^/store/(.*)$ /v2/library/busybox/blobs/$1 break; \
         proxy_pass https://{}; }}",
        images.address
    ));
    let front = Nginx::start(&format!(
        "location ~ ^/v2/library/busybox/blobs/(.*)$ {{ return 307 https://{}/store/$1?sig=s; }} \
         location / {{ proxy_pass https://{}; proxy_set_header Host $http_host; }}",
        storage.address, registry.address
    ));
    let home = Home::new(&format!(
        "{}{}{}{}",
        registry.table(),
        images.table(),
        front.table(),
        storage.table()
    ));
    for host in [registry.address, front.address] {
        let login = with_input(
            home.command(&["login"])
                .args(["-u", USER, "--password-stdin", &host.to_string()]),
            PASSWORD,
        );
        succeeded(&login);
    }
    let from = format!("{}/{BUSYBOX}", images.address);
    succeeded(&run(home
        .command(&["copy"])
        .args([&from, &format!("{}/{BUSYBOX}", registry.address)])));
    let name = format!("{}/{BUSYBOX}", front.address);
    succeeded(&run(home.command(&["pull"]).arg(&name)));
    assert!(
        storage.asked().iter().all(|line| line.ends_with(" 200")) && !storage.asked().is_empty(),
        "{:?}",
        storage.asked()
    );
}

#[test]
fn sentence_5_a_front_end_that_wants_a_client_certificate_is_explained() {
    let registry = Registry::with_base_images();
    let front = Nginx::start(&format!(
        "ssl_client_certificate DIR/ca.crt; ssl_verify_client on; location / {{ proxy_pass https://{}; }}",
        registry.address
    ));
    let home = Home::new(&front.table());
    let name = format!("{}/{BUSYBOX}", front.address);
    let text = failed(&run(home.command(&["pull"]).arg(&name)));
    assert!(
        text.contains("No required SSL certificate was sent"),
        "{text}"
    );
    assert!(
        text.contains("the server wants a client certificate") && text.contains("keypair = "),
        "{text}"
    );
}

/// openssl's server, which can be made to speak what rustls refuses to.
struct Openssl {
    process: Child,
    address: std::net::SocketAddr,
    dir: tempfile::TempDir,
}

impl Openssl {
    /// With a certificate of its own making: `request` are arguments of `openssl req -x509`.
    fn start(request: &[&str], server: &[&str]) -> Openssl {
        Self::with(server, |dir| {
            let path = |name: &str| dir.join(name).display().to_string();
            let mut made = Command::new("openssl");
            made.args(["req", "-x509", "-nodes", "-days", "30"])
                .args(["-subj", "/CN=localhost"])
                .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")])
                .args(request)
                .env("OPENSSL_CONF", "/dev/null");
            assert!(run(&mut made).status.success());
        })
    }

    /// With what `make` puts into its folder: `cert.pem` and `key.pem`.
    fn with(server: &[&str], make: impl FnOnce(&Path)) -> Openssl {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name).display().to_string();
        make(dir.path());
        let address = free_port();
        let process = Command::new("openssl")
            .args([
                "s_server",
                "-quiet",
                "-www",
                "-accept",
                &address.to_string(),
            ])
            .args(["-cert", &path("cert.pem"), "-key", &path("key.pem")])
            .args(server)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        let started = std::time::Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            assert!(started.elapsed().as_secs() < 30, "openssl does not listen");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Openssl {
            process,
            address,
            dir,
        }
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn check_82_servers_that_only_openssl_can_play_have_their_kinds() {
    let rsa = [
        "-newkey",
        "rsa:2048",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ];
    let weak = [
        "-newkey",
        "rsa:1024",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ];
    let low = "DEFAULT@SECLEVEL=0";
    let rows: [(&[&str], &[&str], &str, &str); 7] = [
        (
            &weak,
            &["-cipher", low],
            "weak_key",
            "the server's RSA key has 1024 bits",
        ),
        (
            &rsa,
            &["-tls1_1", "-cipher", low],
            "protocol_version",
            "remote error: tls: protocol version not supported",
        ),
        (
            &rsa,
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA"],
            "no_shared_cipher",
            "ciphers with CBC",
        ),
        (
            &rsa,
            &["-tls1_2", "-cipher", "AES256-GCM-SHA384"],
            "no_shared_cipher",
            "key exchange by RSA alone",
        ),
        (
            &rsa,
            &["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"],
            "no_shared_cipher",
            "remote error: tls: handshake failure",
        ),
        (
            &rsa,
            &["-tls1_2", "-Verify", "1"],
            "client_cert_required",
            "remote error: tls: handshake failure",
        ),
        (
            &rsa,
            &["-Verify", "1"],
            "client_cert_required",
            "remote error: tls: certificate required",
        ),
    ];
    for (request, server, kind, words) in rows {
        let server = Openssl::start(request, server);
        // Pinned, so that nothing but the row's own fault is left.
        let home = Home::new(&format!(
            "[registry.\"{}\"]\nca = [\"{}\"]\n",
            server.address,
            server.dir.path().join("cert.pem").display()
        ));
        let name = format!("{}/x:1", server.address);
        let output = run(home.command(&["registry", "check"]).args(["--json", &name]));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let attempt = &report["error"]["attempts"][0];
        let step = report["steps"]
            .as_array()
            .and_then(|steps| steps.last())
            .expect("steps");
        assert_eq!(
            (step["step"].as_str(), step["kind"].as_str()),
            (Some("tls"), Some(kind)),
            "{report:#}"
        );
        assert_eq!(attempt["kind"], kind, "{report:#}");
        for text in asked_every_way(&home, server.address) {
            assert!(text.contains(words), "{kind}: {text}");
        }
    }
}

/// What is said of a server that is pulled from, pushed to, and named as token service.
fn asked_every_way(home: &Home, server: std::net::SocketAddr) -> Vec<String> {
    let name = format!("{server}/x:1");
    let layout = tempfile::tempdir().expect("a temporary folder");
    let mut written = Layout::create(layout.path()).expect("a layout");
    let image = written.image(
        &[Tar::default().file("f", b"x", (0o644, 0, 0)).bytes()],
        serde_json::json!({}),
        "amd64",
    );
    written.name(image.expect("an image"), "1");
    written.close().expect("closing the layout");
    let from = format!("oci:{}:1", layout.path().display());
    let registry = std::net::TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
    let hidden = format!("{}/x:1", registry.local_addr().expect("its address"));
    std::thread::spawn(move || {
        for mut stream in registry.incoming().flatten() {
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let answer = format!(
                "HTTP/1.1 401 No\r\nwww-authenticate: Bearer realm=\"https://{server}/token\"\r\n\
                 content-length: 0\r\nconnection: close\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let pulled = failed(&run(home.command(&["pull"]).arg(&name)));
    let pushed = failed(&run(home.command(&["copy"]).args([&from, &name])));
    let named = failed(&run(home.command(&["pull"]).arg(&hidden)));
    assert!(
        named.contains(&format!("https://{server}/token")),
        "{named}"
    );
    vec![pulled, pushed, named]
}

/// A certificate that openssl issues from `ca.pem` beside it: without extensions it has version 1.
fn issued(dir: &Path, extensions: Option<&str>, digest: &str) {
    let path = |name: &str| dir.join(name).display().to_string();
    let quiet = |args: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(args).env("OPENSSL_CONF", "/dev/null");
        assert!(run(&mut command).status.success(), "{args:?}");
    };
    let new = [
        "req",
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ];
    let (ca_key, ca, key, csr, cert) = (
        path("ca-key.pem"),
        path("ca.pem"),
        path("key.pem"),
        path("csr.pem"),
        path("cert.pem"),
    );
    let ca_args = [
        "-x509",
        "-days",
        "30",
        "-subj",
        "/CN=Old CA",
        "-keyout",
        &ca_key,
        "-out",
        &ca,
    ];
    let is_ca = ["-addext", "basicConstraints=critical,CA:TRUE"];
    quiet(&[&new[..], &ca_args, &is_ca].concat());
    quiet(
        &[
            &new[..],
            &["-subj", "/CN=localhost", "-keyout", &key, "-out", &csr],
        ]
        .concat(),
    );
    let mut sign = vec![
        "x509",
        "-req",
        "-days",
        "30",
        "-in",
        &csr,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-out",
        &cert,
        digest,
        "-set_serial",
        "7",
    ];
    let file = path("extensions");
    if let Some(extensions) = extensions {
        std::fs::write(&file, extensions).expect("writing extensions");
        sign.extend(["-extfile", &file]);
    }
    quiet(&sign);
}

#[test]
fn check_82_certificates_of_old_times_have_their_kinds_and_large_curves_are_spoken() {
    let names = "subjectAltName=IP:127.0.0.1\n";
    for (extensions, digest, kinds) in [
        // Version 1 has no names at all, and names are looked at first.
        (None, "-sha256", ["no_san", "cert_version"]),
        (Some(names), "-sha1", ["weak_signature", "weak_signature"]),
    ] {
        let server = Openssl::with(&["-cipher", "DEFAULT@SECLEVEL=0"], |dir| {
            issued(dir, extensions, digest)
        });
        let home = Home::new(&format!(
            "[registry.\"{}\"]\nca = [\"{}\"]\n",
            server.address,
            server.dir.path().join("ca.pem").display()
        ));
        let name = format!("{}/x:1", server.address);
        let output = run(home.command(&["registry", "check"]).args(["--json", &name]));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let kind = report["error"]["attempts"][0]["kind"].as_str();
        assert!(kind.is_some_and(|kind| kinds.contains(&kind)), "{report:#}");
        for text in asked_every_way(&home, server.address) {
            assert!(text.contains("x509: certificate "), "{text}");
        }
    }
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"];
    let name = ["-addext", "subjectAltName=IP:127.0.0.1"];
    let server = Openssl::start(&[&curve[..], &name].concat(), &[]);
    let home = Home::new(&format!(
        "[registry.\"{}\"]\nca = [\"{}\"]\n",
        server.address,
        server.dir.path().join("cert.pem").display()
    ));
    // What openssl answers to requests is no matter: the step before them is.
    let mut child = home
        .command(&["registry", "check"])
        .arg(format!("{}/x:1", server.address))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let steps = lines.map(|line| line.expect("a line"));
    let step = steps
        .map(|line| {
            line.split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .find(|step| step.ends_with(" tls"));
    child.kill().expect("ending it");
    child.wait().expect("its end");
    assert_eq!(step.as_deref(), Some("ok tls"));
}

#[test]
fn sentence_6_an_image_of_several_platforms_goes_round_through_every_kind_of_place() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.table());
    let dir = home.dir.path().display().to_string();
    let at = |name: &str| format!("{}/{name}", registry.address);
    let multi = at("test/multi:latest");
    let digest = skopeo_digest(&registry.certificate_dir(), &multi, false);
    let raw = |name: &str| {
        let dir = registry.certificate_dir().display().to_string();
        tool(
            "skopeo",
            &[
                "inspect",
                "--raw",
                "--cert-dir",
                &dir,
                &format!("docker://{name}"),
            ],
        )
    };
    let layout = format!("oci:{dir}/layout:1");
    let archive = format!("oci-archive:{dir}/image.tar:1");
    let last = at("round/trip:1");
    for (from, to) in [
        (&multi, &layout),
        (&layout, &archive),
        (&archive, &"store:round/trip:1".to_owned()),
        (&"store:round/trip:1".to_owned(), &last),
    ] {
        let text = succeeded(&run(home.command(&["copy"]).args([from, to])));
        assert!(text.contains(&digest), "{from} to {to}: {text}");
    }
    assert_eq!(raw(&last), raw(&multi));
    // One platform of it, for docker.
    let docker = format!("docker-archive:{dir}/docker.tar");
    succeeded(&run(home.command(&["copy"]).args([
        "--platform",
        "linux/arm64",
        &last,
        &docker,
    ])));
    let shown = tool("skopeo", &["inspect", "--config", &docker]);
    assert!(shown.contains("\"arm64\""), "{shown}");
    let back = at("one/platform:1");
    succeeded(&run(home.command(&["copy"]).args([&docker, &back])));
    let text = succeeded(&run(home.command(&["inspect"]).args([
        "--image-config",
        "--platform",
        "linux/arm64",
        &back,
    ])));
    assert!(text.contains("\"arm64\""), "{text}");
    // Pull and push by the store's own commands.
    let text = succeeded(&run(home
        .command(&["pull"])
        .args(["--all-platforms", &multi])));
    assert!(text.contains(&digest), "{text}");
    let text = succeeded(&run(home
        .command(&["push"])
        .args([&multi, &at("pushed:1")])));
    assert!(text.contains(&digest), "{text}");
    assert_eq!(raw(&at("pushed:1")), raw(&multi));
}

#[test]
fn sentence_8_a_killed_pull_leaves_a_store_that_verifies_and_the_next_takes_it_up() {
    let registry = Registry::with_base_images();
    let slow = Nginx::start(&format!(
        "location ~ /blobs/ {{ proxy_pass https://{0}; limit_rate 100k; }} location / {{ proxy_pass https://{0}; }}",
        registry.address
    ));
    let home = Home::new(&slow.table());
    let name = format!("{}/{BUSYBOX}", slow.address);
    let mut child = home
        .command(&["pull"])
        .arg(&name)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    let started = std::time::Instant::now();
    while !slow.asked().iter().any(|line| line.contains("/manifests/")) {
        assert!(started.elapsed().as_secs() < 60, "no request came");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    child.kill().expect("killing it");
    child.wait().expect("its end");
    let text = succeeded(&run(home.command(&["images"]).arg("--")));
    assert!(!text.contains("busybox"), "{text}");
    let store = home.store().display().to_string();
    tool(
        gateway_tests::program::binary().to_str().expect("a path"),
        &["store", "verify", "--root", &store],
    );
    std::fs::write(home.dir.path().join("config.toml"), registry.table()).expect("a configuration");
    succeeded(&run(home
        .command(&["pull"])
        .arg(format!("{}/{BUSYBOX}", registry.address))));
    tool(
        gateway_tests::program::binary().to_str().expect("a path"),
        &["store", "verify", "--root", &store],
    );
}

#[test]
fn sentence_4_mistakes_of_the_configuration_are_told_and_hosts_toml_works() {
    let registry = Registry::with_base_images();
    let home = Home::new(
        "[registry.\"https://h.example\"]\nca = []\n[registry.\"h.example\"]\nmirror = [\"m\"]\n",
    );
    let hosts = home
        .dir
        .path()
        .join("xdg/containerd/certs.d/elsewhere.example");
    std::fs::create_dir_all(&hosts).expect("a folder");
    let text = format!(
        "[host.\"https://{}\"]\nca = \"{}\"\n",
        registry.address,
        registry.ca().display()
    );
    std::fs::write(hosts.join("hosts.toml"), text).expect("a hosts.toml");
    let text = succeeded(&run(home
        .command(&["pull"])
        .arg(format!("elsewhere.example/{BUSYBOX}"))));
    assert!(text.contains("write [registry.\"h.example\"]"), "{text}");
    assert!(
        text.contains("the key \"mirror\" is not known and has no effect"),
        "{text}"
    );
}

#[test]
fn sentence_4_files_of_docker_and_podman_count_only_when_they_are_asked_for() {
    let registry = Registry::with_base_images();
    let home = Home::new("");
    let write = |name: &str, text: String| {
        let path = home.dir.path().join("xdg").join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    // Both would change whom to trust.
    let daemon = "{\"insecure-registries\": [\"127.0.0.0/8\"]}";
    write("docker/daemon.json", daemon.to_owned());
    let rule = format!(
        "[[registry]]\nprefix = \"never.invalid/team\"\nlocation = \"{}/library\"\ninsecure = true\n",
        registry.address
    );
    write("containers/registries.conf", rule);
    let own = format!("{}/{BUSYBOX}", registry.address);
    let elsewhere = "never.invalid/team/busybox:latest";
    let pull = |more: &[&str], name: &str| run(home.command(&["pull"]).args(more).arg(name));
    let podman = ["--registries-from", "podman"];
    for (asked, name) in [("docker", own.as_str()), ("podman", elsewhere)] {
        failed(&pull(&[], name));
        let other = if asked == "docker" {
            "podman"
        } else {
            "docker"
        };
        failed(&pull(&["--registries-from", other], name));
        let text = succeeded(&pull(&["--registries-from", asked], name));
        assert!(text.contains("marked insecure"), "{asked}: {text}");
    }
    // In builds too, and from a file that is named.
    let context = tempfile::tempdir().expect("a temporary folder");
    let dockerfile = format!("FROM {elsewhere}\nRUN echo one > /one\n");
    std::fs::write(context.path().join("Dockerfile"), dockerfile).expect("a build file");
    failed(&run(Home::new("").build().arg(context.path())));
    succeeded(&run(home.build().args(podman).arg(context.path())));
    let named = home.dir.path().join("rules");
    std::fs::rename(
        home.dir.path().join("xdg/containers/registries.conf"),
        &named,
    )
    .expect("moved");
    let named = format!("podman={}", named.display());
    succeeded(&pull(&["--registries-from", &named], elsewhere));
    failed(&pull(&podman, elsewhere));
    for (tool, told) in [
        ("nerdctl", "known are docker and podman"),
        ("docker=/nowhere", "there is no /nowhere"),
    ] {
        let text = failed_with(2, &pull(&["--registries-from", tool], elsewhere));
        assert!(text.contains(told), "{text}");
    }
}

#[test]
fn bad_input_a_full_disk_says_so_leaves_a_store_that_verifies_and_the_next_pull_works() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.table());
    std::fs::create_dir(home.store()).expect("the store's folder");
    let name = format!("{}/{BUSYBOX}", registry.address);
    let words = |command: &mut Command| {
        let args = std::iter::once(command.get_program()).chain(command.get_args());
        let quoted = args.map(|arg| format!("'{}'", arg.to_string_lossy()));
        quoted.collect::<Vec<_>>().join(" ")
    };
    let pull = words(home.command(&["pull"]).arg(&name));
    let mut verify = Command::new(binary());
    let verify = words(verify.args(["store", "verify", "--root"]).arg(home.store()));
    let script = format!(
        "mount -t tmpfs -o size=600k tmpfs $STORE; {pull}; echo rc=$?; {verify}; echo rc=$?; \
         mount -o remount,size=64m $STORE; {pull}; echo rc=$?; {verify}; echo rc=$?"
    );
    let mut shell = home.command(&[]);
    let environment: Vec<_> = shell
        .env("STORE", home.store())
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    let output = run(Command::new("unshare")
        .args(["-m", "bash", "-c", &script])
        .envs(environment));
    let ends = stdout(&output);
    let codes: Vec<&str> = ends
        .lines()
        .filter(|line| line.starts_with("rc="))
        .collect();
    assert_eq!(
        codes,
        ["rc=1", "rc=0", "rc=0", "rc=0"],
        "{ends}\n{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains("No space left on device"),
        "{}",
        stderr(&output)
    );
}

/// The commands of the documentation run as they stand, with a registry in the place of the one that they name.
#[test]
fn sentence_9_the_commands_of_the_documentation_work() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.table());
    let docs = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the project")
        .join("docs/registries.md");
    let docs = std::fs::read_to_string(docs).expect("the documentation");
    registry.push_layout(
        &{
            let dir = home.dir.path().join("base");
            std::fs::create_dir(&dir).expect("a folder");
            gateway_tests::base_images::write_layout(&dir).expect("base images");
            dir
        },
        "library/busybox:latest",
        "team/app:1",
    );
    let mut commands = 0;
    let mut inside = false;
    for line in docs.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside && line.starts_with("gateway ") => {
                let line = line.split(" #").next().unwrap_or(line).trim();
                let line = line.replace("registry.example", &registry.address.to_string());
                let words: Vec<&str> = line.split_ascii_whitespace().skip(1).collect();
                let mut command = home.command(&[words[0]]);
                command.args(&words[1..]).current_dir(home.dir.path());
                let output = match words[0] {
                    "login" => with_input(&mut command, PASSWORD),
                    "logout" => continue,
                    "registry" => run(home.command(&words[..2]).args(&words[2..])),
                    _ => run(&mut command),
                };
                succeeded(&output);
                commands += 1;
            }
            _ => {}
        }
    }
    assert!(commands >= 8, "{commands} commands");
}

#[test]
fn check_13_a_pinned_image_that_is_here_costs_no_request() {
    let registry = Registry::with_base_images();
    let front = Nginx::start(&format!(
        "location / {{ proxy_pass https://{}; }}",
        registry.address
    ));
    let home = Home::new(&format!("{}{}", registry.table(), front.table()));
    let at = format!("{}/{BUSYBOX}", registry.address);
    let digest = skopeo_digest(&registry.certificate_dir(), &at, false);
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        context.path().join("Dockerfile"),
        format!(
            "FROM {}/library/busybox@{digest}\nRUN echo 1 > /1\n",
            front.address
        ),
    )
    .expect("a build file");
    succeeded(&run(home.build().arg(context.path())));
    let before = front.asked().len();
    assert!(before > 0);
    succeeded(&run(home.build().arg(context.path())));
    assert_eq!(front.asked().split_off(before), [""; 0]);
}

#[test]
fn check_47_the_variables_of_the_environment_name_the_proxy() {
    let closed = free_port();
    let home = Home::new("");
    let pull = |set: &[(&str, &str)]| {
        let mut command = home.command(&["pull"]);
        for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(name);
        }
        command.envs(set.iter().copied()).arg("r.invalid/x:1");
        failed(&run(&mut command))
    };
    let proxy = format!("http://user:{PASSWORD}@{closed}");
    for name in ["HTTPS_PROXY", "https_proxy"] {
        let text = pull(&[(name, &proxy)]);
        let words = format!("proxyconnect tcp: dial tcp {closed}: connect: connection refused");
        assert!(text.contains(&words), "{text}");
        assert!(
            text.contains(&format!("through the proxy {closed}")),
            "{text}"
        );
        let text = pull(&[(name, &proxy), ("NO_PROXY", ".invalid")]);
        assert!(text.contains("lookup r.invalid: no such host"), "{text}");
    }
}

#[test]
fn check_68_logins_come_from_the_places_of_docker_and_podman_in_their_order() {
    let more = "auth: {htpasswd: {realm: tests, path: DIR/htpasswd}}";
    let registry = Registry::start_with(more, None);
    let host = registry.address.to_string();
    let home = Home::new(&registry.table());
    let name = format!("{host}/none:1");
    // Of `alice:s3cret-pw` and of a wrong password.
    let auth = |good: bool| {
        let secret = match good {
            true => "YWxpY2U6czNjcmV0LXB3",
            false => "YWxpY2U6d3Jvbmc=",
        };
        format!(r#"{{"auths":{{"{host}":{{"auth":"{secret}"}}}}}}"#)
    };
    let inspect = |set: &[(&str, String)]| {
        let mut command = home.command(&["inspect"]);
        for variable in ["DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE"] {
            command.env_remove(variable);
        }
        command.env("HOME", home.dir.path().join("nobody"));
        command.env("XDG_RUNTIME_DIR", home.dir.path().join("run"));
        command.envs(set.iter().map(|(name, value)| (*name, value.as_str())));
        failed(&run(command.arg(&name)))
    };
    let logged_in = |text: &str| text.contains("not found");
    let text = inspect(&[]);
    assert!(text.contains("credentials: none"), "{text}");
    let write = |path: &str, text: &str| {
        let path = home.dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, text).expect("a file of logins");
        path.display().to_string()
    };
    let podman = write("podman.json", &auth(true));
    assert!(logged_in(&inspect(&[(
        "REGISTRY_AUTH_FILE",
        podman.clone()
    )])));
    write("run/containers/auth.json", &auth(true));
    assert!(logged_in(&inspect(&[])));
    // Docker's file comes before podman's, and the variable before both.
    write("docker/config.json", &auth(false));
    let text = inspect(&[("REGISTRY_AUTH_FILE", podman)]);
    assert!(
        text.contains("access denied") && text.contains("config.json"),
        "{text}"
    );
    assert!(logged_in(&inspect(&[("DOCKER_AUTH_CONFIG", auth(true))])));
    write("docker/config.json", &auth(true));
    assert!(logged_in(&inspect(&[])));
    let text = inspect(&[("DOCKER_AUTH_CONFIG", auth(false))]);
    assert!(text.contains("DOCKER_AUTH_CONFIG"), "{text}");
}

#[test]
fn check_160_layers_unpacked_at_once_give_what_one_after_the_other_gives() {
    let registry = Registry::with_base_images();
    let home = Home::new(&registry.table());
    let name = format!("{}/test/layers:latest", registry.address);
    let dir = |name: &str| home.dir.path().join(name).display().to_string();
    succeeded(&run(home
        .command(&["copy"])
        .args([&name, &format!("oci:{}:1", dir("layout"))])));
    let image = format!("{}:1", dir("layout"));
    tool(
        "umoci",
        &["raw", "unpack", "--image", &image, &dir("umoci")],
    );
    let context = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(context.path().join("Dockerfile"), format!("FROM {name}\n"))
        .expect("a build file");
    // The files are asked for, so all layers are unpacked.
    let output = format!("type=tar,dest={}", dir("ours.tar"));
    succeeded(&run(home.build().args(["-o", &output]).arg(context.path())));
    std::fs::create_dir(dir("ours")).expect("a folder");
    let (archive, root) = (dir("ours.tar"), dir("ours"));
    let extract = [
        "--numeric-owner",
        "--same-owner",
        "-xpf",
        &archive,
        "-C",
        &root,
    ];
    tool("tar", &extract);
    let listed = |root: &str| {
        let format = "%P %y %m %U %G %l\n";
        let names = tool("find", &[root, "-mindepth", "1", "-printf", format]);
        let mut lines: Vec<String> = names.lines().map(str::to_owned).collect();
        lines.sort();
        let sums = ["-type", "f", "-exec", "sha256sum", "{}", "+"];
        let sums = tool("find", &[&[root], &sums[..]].concat());
        let mut sums: Vec<String> = sums.lines().map(|line| line.replace(root, "")).collect();
        sums.sort();
        (lines, sums)
    };
    assert_eq!(listed(&dir("ours")), listed(&dir("umoci")));
}

#[test]
fn check_162_the_memory_of_a_pull_does_not_grow_with_the_image() {
    // Nothing in it repeats, so its layer is as large as its file.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    })
    .take(120 << 20)
    .collect();
    let tar = Tar::default().file("noise", &noise, (0o644, 0, 0)).bytes();
    drop(noise);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut layout = Layout::create(dir.path()).expect("a layout");
    let config = serde_json::json!({"Env": ["PATH=/bin"]});
    let image = layout.image(&[tar], config, "amd64").expect("an image");
    layout.name(image, "test/noise:1");
    layout.close().expect("closing the layout");
    let registry = Registry::with_base_images();
    registry.push_layout(dir.path(), "test/noise:1", "test/noise:1");
    let home = Home::new(&registry.table());
    let context = tempfile::tempdir().expect("a temporary folder");
    let built = |image: &str| {
        std::fs::write(
            context.path().join("Dockerfile"),
            // The file is read, so the layer is unpacked; it is as large in the store, not in memory.
            format!("FROM {}/{image}\nCOPY Dockerfile /\n", registry.address),
        )
        .expect("a build file");
        let output = home.dir.path().join("o.tar");
        let output = format!("type=oci,dest={}", output.display());
        timed(home.build().args(["-o", &output]).arg(context.path())).memory
    };
    let idle = built(BUSYBOX);
    let most = built("test/noise:1");
    assert!(most <= idle + 64.0, "{idle} MiB, then {most} MiB");
}
