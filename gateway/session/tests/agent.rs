//! Agents as steps meet them, asked by OpenSSH's own programs.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine as _;
use gateway_session::ssh::{Agent, AgentSource, KeyError, Keys};
use gateway_session::{LocalSession, Session};

fn run(program: &str, args: &[&str], agent: Option<&Path>) -> Output {
    let mut command = Command::new(program);
    command.args(args).env_remove("SSH_AUTH_SOCK");
    if let Some(agent) = agent {
        command.env("SSH_AUTH_SOCK", agent);
    }
    command
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program} (package openssh-client): {error}"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a readable path")
}

/// A new key of OpenSSH's.
fn keygen(dir: &Path, name: &str, args: &[&str]) -> PathBuf {
    let path = dir.join(name);
    let made = run(
        "ssh-keygen",
        &[&["-q", "-N", "", "-C", name, "-f", text(&path)], args].concat(),
        None,
    );
    assert!(made.status.success(), "{made:?}");
    path
}

fn session(source: AgentSource) -> LocalSession {
    LocalSession::new("s").with_agent(Agent {
        id: "default".to_owned(),
        source,
    })
}

/// Signs with the agent and checks the signature with OpenSSH.
fn signs(dir: &Path, key: &Path, agent: &Path) -> bool {
    let message = dir.join("message");
    std::fs::write(&message, "hello").unwrap();
    let signature = dir.join("message.sig");
    let _ = std::fs::remove_file(&signature);
    let public = format!("{}.pub", text(key));
    let signed = run(
        "ssh-keygen",
        &[
            "-Y",
            "sign",
            "-q",
            "-f",
            &public,
            "-n",
            "file",
            text(&message),
        ],
        Some(agent),
    );
    if !signed.status.success() {
        return false;
    }
    let check = format!(
        "ssh-keygen -q -Y check-novalidate -n file -s {} < {}",
        text(&signature),
        text(&message)
    );
    let checked = run("sh", &["-c", &check], None);
    assert!(checked.status.success(), "{checked:?}");
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_given_as_files_sign_without_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let kinds: [(&str, &[&str]); 4] = [
        ("ed25519", &["-t", "ed25519"]),
        ("ecdsa", &["-t", "ecdsa", "-b", "256"]),
        ("rsa", &["-t", "rsa", "-b", "2048"]),
        ("old-rsa", &["-t", "rsa", "-b", "2048", "-m", "PEM"]),
    ];
    let mut files = Vec::new();
    for (name, args) in kinds {
        files.push(keygen(dir.path(), name, args));
    }
    let keys = Keys::read(&files).unwrap();
    let session = session(AgentSource::Keys(keys));
    let socket = session.ssh_socket("default").await.unwrap().unwrap();
    let listed = run("ssh-add", &["-L"], Some(&socket));
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), files.len(), "{listed}");
    for file in &files {
        // The private half is away: only the agent can sign.
        std::fs::remove_file(file).unwrap();
        assert!(signs(dir.path(), file, &socket), "{}", file.display());
    }
    assert!(session.ssh_socket("other").await.unwrap().is_none());
    drop(session);
    assert!(!socket.exists(), "the socket goes with the build");
}

/// A key of nobody's.
const SHORT_P256: &str = "\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAaAAAABNlY2RzYS
1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQRa5+351YOMKaLuanUCK0IpGGntiHj/
p1OYHRsk3w7tDaLS9hkieY2RpjgVbEpEqw3QREopsSWbkq3RG3Uxob//AAAAoJx6lU+cep
VPAAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBFrn7fnVg4wpou5q
dQIrQikYae2IeP+nU5gdGyTfDu0NotL2GSJ5jZGmOBVsSkSrDdBESimxJZuSrdEbdTGhv/
8AAAAfQ1Vdx18SiAWVHv7skorplxah7cx2TQIqbFhrhtx8lQAAAAVzaG9ydAECAwQ=
-----END OPENSSH PRIVATE KEY-----
";

/// One of four secrets on P-521 is written shorter than the curve's, one of 256 on the others.
#[tokio::test(flavor = "multi_thread")]
async fn keys_whose_secret_begins_with_zeros_sign() {
    let dir = tempfile::tempdir().unwrap();
    let mut files: Vec<PathBuf> = (0..32)
        .map(|n| {
            keygen(
                dir.path(),
                &format!("p521-{n}"),
                &["-t", "ecdsa", "-b", "521"],
            )
        })
        .collect();
    // Made once, its secret a byte short.
    let short = dir.path().join("p256-short");
    std::fs::write(&short, SHORT_P256).unwrap();
    std::fs::set_permissions(&short, PermissionsExt::from_mode(0o600)).unwrap();
    let public = run("ssh-keygen", &["-y", "-f", text(&short)], None);
    assert!(public.status.success(), "{public:?}");
    std::fs::write(dir.path().join("p256-short.pub"), public.stdout).unwrap();
    files.push(short);

    let session = session(AgentSource::Keys(Keys::read(&files).unwrap()));
    let socket = session.ssh_socket("default").await.unwrap().unwrap();
    for file in &files {
        std::fs::remove_file(file).unwrap();
        assert!(signs(dir.path(), file, &socket), "{}", file.display());
    }
}

/// The public half of a key as OpenSSH writes it. Ed25519 keys in PKCS#8 it does not read itself.
fn public_half(key: &Path) -> Vec<u8> {
    let public = run("ssh-keygen", &["-y", "-f", text(key)], None);
    if public.status.success() {
        return public.stdout;
    }
    let args = ["pkey", "-in", text(key), "-pubout", "-outform", "DER"];
    let der = run("openssl", &args, None);
    // The number is the end of it: RFC 8410, section 4.
    let number = der.stdout.last_chunk::<32>().expect("a public key");
    let kind = b"ssh-ed25519";
    let mut blob = vec![0, 0, 0, 11];
    blob.extend_from_slice(kind);
    blob.extend_from_slice(&[0, 0, 0, 32]);
    blob.extend_from_slice(number);
    let blob = base64::engine::general_purpose::STANDARD.encode(blob);
    format!("ssh-ed25519 {blob}\n").into_bytes()
}

/// Files of openssl, as it writes them and as `ssh-keygen -m` changes them; the public half is OpenSSH's to tell.
#[tokio::test(flavor = "multi_thread")]
async fn keys_in_the_forms_of_other_programs_sign() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    let mut made = |name: String, program: &str, args: &[&str]| {
        let path = dir.path().join(name);
        let all = [args, &[text(&path)]].concat();
        let output = run(program, &all, None);
        assert!(output.status.success(), "{program} {all:?}: {output:?}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(path.with_extension("pub"), public_half(&path)).unwrap();
        files.push(path);
    };
    for (curve, bits) in [
        ("prime256v1", "256"),
        ("secp384r1", "384"),
        ("secp521r1", "521"),
    ] {
        // With the parameters of the curve before the key, and without.
        let sec1 = ["ecparam", "-genkey", "-name", curve, "-out"];
        made(format!("{curve}-parameters"), "openssl", &sec1);
        let sec1 = ["ecparam", "-genkey", "-noout", "-name", curve, "-out"];
        made(format!("{curve}-sec1"), "openssl", &sec1);
        let group = format!("ec_paramgen_curve:{curve}");
        let pkcs8 = ["genpkey", "-algorithm", "EC", "-pkeyopt", &group, "-out"];
        made(format!("{curve}-pkcs8"), "openssl", &pkcs8);
        for form in ["PEM", "PKCS8"] {
            let args = ["-q", "-N", "", "-t", "ecdsa", "-b", bits, "-m", form, "-f"];
            made(format!("{bits}-{form}"), "ssh-keygen", &args);
        }
    }
    let ed25519 = ["genpkey", "-algorithm", "ED25519", "-out"];
    made("ed25519-pkcs8".to_owned(), "openssl", &ed25519);
    let rsa = ["genpkey", "-algorithm", "RSA", "-out"];
    made("rsa-pkcs8".to_owned(), "openssl", &rsa);

    let session = session(AgentSource::Keys(Keys::read(&files).unwrap()));
    let socket = session.ssh_socket("default").await.unwrap().unwrap();
    for file in &files {
        std::fs::remove_file(file).unwrap();
        assert!(signs(dir.path(), file, &socket), "{}", file.display());
    }
}

#[test]
fn keys_of_other_programs_that_cannot_be_used_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let locked = file("locked");
    let group = "ec_paramgen_curve:prime256v1";
    let args = [
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        group,
        "-aes256",
        "-pass",
        "pass:secret",
        "-out",
        text(&locked),
    ];
    assert!(run("openssl", &args, None).status.success());
    let error = Keys::read(&[locked]).unwrap_err();
    assert!(matches!(error, KeyError::Encrypted { .. }), "{error}");
    // A curve that SSH has no name for, and a kind of key that signs nothing.
    let koblitz = file("koblitz");
    let args = [
        "ecparam",
        "-genkey",
        "-noout",
        "-name",
        "secp256k1",
        "-out",
        text(&koblitz),
    ];
    assert!(run("openssl", &args, None).status.success());
    let agreement = file("x25519");
    let args = ["genpkey", "-algorithm", "X25519", "-out", text(&agreement)];
    assert!(run("openssl", &args, None).status.success());
    for path in [koblitz, agreement] {
        let error = Keys::read(std::slice::from_ref(&path)).unwrap_err();
        assert!(matches!(error, KeyError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(text(&path)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_agent_lists_and_signs_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key", &["-t", "ed25519"]);
    let other = keygen(dir.path(), "other", &["-t", "ed25519"]);
    let real = dir.path().join("real");
    let mut agent = Command::new("ssh-agent")
        .args(["-D", "-a", text(&real)])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("ssh-agent (package openssh-client)");
    while !real.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let added = run("ssh-add", &[text(&key)], Some(&real));
    assert!(added.status.success(), "{added:?}");

    let session = session(AgentSource::Socket(real.clone()));
    let socket = session.ssh_socket("default").await.unwrap().unwrap();
    assert_ne!(socket, real);
    assert!(signs(dir.path(), &key, &socket));
    for forbidden in [&["-D"][..], &[text(&other)], &["-x"], &["-d", text(&key)]] {
        let refused = run("ssh-add", forbidden, Some(&socket));
        assert!(!refused.status.success(), "{forbidden:?}: {refused:?}");
    }
    let listed = run("ssh-add", &["-L"], Some(&real));
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), 1, "as it was: {listed}");
    agent.kill().unwrap();
    agent.wait().unwrap();
}

#[test]
fn files_that_are_no_usable_keys_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let locked = dir.path().join("locked");
    let args = ["-q", "-t", "ed25519", "-N", "secret", "-f", text(&locked)];
    assert!(run("ssh-keygen", &args, None).status.success());
    let error = Keys::read(std::slice::from_ref(&locked)).unwrap_err();
    assert!(matches!(error, KeyError::Encrypted { .. }), "{error}");
    assert!(error.to_string().contains("ssh-add"), "{error}");

    let old = dir.path().join("old");
    let args = [
        "-q",
        "-t",
        "rsa",
        "-b",
        "2048",
        "-m",
        "PEM",
        "-N",
        "secret",
        "-f",
        text(&old),
    ];
    assert!(run("ssh-keygen", &args, None).status.success());
    let error = Keys::read(&[old]).unwrap_err();
    assert!(matches!(error, KeyError::Encrypted { .. }), "{error}");

    let public = dir.path().join("locked.pub");
    for (path, content) in [
        (public.clone(), None),
        (dir.path().join("text"), Some(vec![b'x'; 20])),
        (dir.path().join("huge"), Some(vec![b'x'; 200 << 10])),
        (dir.path().join("binary"), Some(vec![0xff; 20])),
        (dir.path().join("missing/file"), None),
    ] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = Keys::read(std::slice::from_ref(&path))
            .unwrap_err()
            .to_string();
        assert!(error.contains(text(&path)), "{error}");
    }
}
