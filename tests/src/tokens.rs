//! A token service as docker-registry wants one: signs what a user may do. Keeps the scopes that it was asked for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

pub const USER: &str = "alice";
pub const PASSWORD: &str = "s3cret-pw";

/// Serves until the test's process ends.
pub struct Tokens {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    dir: tempfile::TempDir,
}

/// Where its requests come from.
enum Requests {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Requests {
    fn next(&self) -> Option<(Box<dyn Read + Send>, Box<dyn Write + Send>)> {
        match self {
            Requests::Tcp(listener) => {
                let (stream, _) = listener.accept().ok()?;
                Some((Box::new(stream.try_clone().ok()?), Box::new(stream)))
            }
            Requests::Unix(listener) => {
                let (stream, _) = listener.accept().ok()?;
                Some((Box::new(stream.try_clone().ok()?), Box::new(stream)))
            }
        }
    }
}

impl Tokens {
    pub fn start() -> Tokens {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
        let address = listener.local_addr().expect("its address");
        Tokens::serve(Requests::Tcp(listener), address)
    }

    /// Behind a socket with a name, for what stands before it.
    pub fn start_at(socket: &Path) -> Tokens {
        let listener = UnixListener::bind(socket).expect("a socket");
        Tokens::serve(
            Requests::Unix(listener),
            SocketAddr::from(([0, 0, 0, 0], 0)),
        )
    }

    fn serve(requests: Requests, address: SocketAddr) -> Tokens {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (key, certificate) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "30",
                "-subj",
                "/CN=tokens",
                "-keyout",
            ])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status()
            .expect("openssl");
        assert!(made.success());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, folder) = (asked.clone(), dir.path().to_owned());
        std::thread::spawn(move || {
            while let Some((from, to)) = requests.next() {
                let (log, folder) = (log.clone(), folder.clone());
                std::thread::spawn(move || answer(from, to, &log, &folder));
            }
        });
        Tokens {
            address,
            asked,
            dir,
        }
    }

    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// The scopes of every token that was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("the log").clone()
    }
}

fn answer(
    from: impl Read,
    mut stream: impl Write,
    log: &Mutex<Vec<String>>,
    dir: &Path,
) -> Option<()> {
    let mut reader = BufReader::new(from);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut login = String::new();
    let mut line = String::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("authorization:") {
            let at = line.len() - value.len();
            login = line[at..].trim().to_owned();
        }
    }
    let query = first.split('?').nth(1)?.split(' ').next()?;
    let scopes: Vec<String> = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("scope="))
        .map(|scope| {
            scope
                .replace("%3A", ":")
                .replace("%2F", "/")
                .replace("%2C", ",")
        })
        .collect();
    log.lock().ok()?.push(scopes.join(" "));
    let user = "Basic YWxpY2U6czNjcmV0LXB3";
    let (status, body) = match login.as_str() {
        login if login == user => (
            "200 OK",
            json!({ "token": token(&scopes, dir)?, "expires_in": 300 }),
        ),
        "" => ("200 OK", json!({ "token": token(&[], dir)? })),
        _ => (
            "401 Unauthorized",
            json!({ "details": "incorrect username or password" }),
        ),
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()
}

/// Base64 for URLs, by openssl so that no code of the program under test judges itself.
fn base64url(bytes: &[u8]) -> Option<String> {
    let mut child = Command::new("openssl")
        .args(["base64", "-A"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(bytes).ok()?;
    let text = String::from_utf8(child.wait_with_output().ok()?.stdout).ok()?;
    Some(
        text.replace('+', "-")
            .replace('/', "_")
            .trim_end_matches('=')
            .to_owned(),
    )
}

fn token(scopes: &[String], dir: &Path) -> Option<String> {
    let pem = std::fs::read_to_string(dir.join("cert.pem")).ok()?;
    let der: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let access: Vec<_> = scopes
        .iter()
        .filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let actions: Vec<_> = actions.split(',').collect();
            Some(json!({ "type": kind, "name": name, "actions": actions }))
        })
        .collect();
    let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] }).to_string();
    let claims = json!({
        "iss": "tokens", "sub": USER, "aud": "registry", "exp": now + 300, "nbf": now - 60, "iat": now, "jti": "1",
        "access": access,
    })
    .to_string();
    let signed = format!(
        "{}.{}",
        base64url(header.as_bytes())?,
        base64url(claims.as_bytes())?
    );
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(dir.join("key.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(signed.as_bytes()).ok()?;
    let signature = child.wait_with_output().ok()?.stdout;
    Some(format!("{signed}.{}", base64url(&signature)?))
}
