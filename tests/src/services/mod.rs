//! Services that keep caches, on a loopback port: buckets of S3, containers of Azure, the cache of GitHub Actions. They
//! check every signature with means of their own, fail when they are told to, and remember what they were asked.

mod azure;
mod gha;
mod s3;
mod sign;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

pub use gha::token;

/// The login of S3.
pub const KEY_ID: &str = "AKIATEST";
pub const SECRET: &str = "hunter2/secret+key";
/// The account of Azure, with its key in base64.
pub const ACCOUNT: &str = "account";
pub const ACCOUNT_KEY: &str = "aHVudGVyMi1hY2NvdW50LWtleQ==";

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// Percent-encoded, as it came.
    pub path: String,
    pub query: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The value of a key of the query, decoded.
    fn asks(&self, key: &str) -> Option<String> {
        let pairs = self
            .query
            .split('&')
            .map(|p| p.split_once('=').unwrap_or((p, "")));
        let mut found = pairs.filter(|(name, _)| *name == key);
        found.next().map(|(_, value)| decoded(value))
    }
}

/// What goes wrong, once.
#[derive(Clone, Debug)]
pub enum Failure {
    /// An answer of this status, with a body.
    Status(u16, &'static str),
    /// The connection ends without an answer.
    Silence,
    /// The answer's body ends after so many bytes.
    Cut(usize),
}

struct Object {
    bytes: Vec<u8>,
    written: OffsetDateTime,
}

#[derive(Default)]
struct State {
    /// By `BUCKET/KEY`, decoded.
    objects: BTreeMap<String, Object>,
    /// Parts and blocks that are not an object yet.
    parts: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    containers: Vec<String>,
    entries: Vec<gha::Entry>,
    /// What signs URLs; another one makes the old ones void.
    seal: u32,
    asked: Vec<Asked>,
    failures: Vec<(String, String, Failure)>,
}

/// Serves until the test's process ends.
pub struct Services {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }
}

impl Services {
    pub fn start() -> Services {
        Services::start_at("127.0.0.1:0")
    }

    pub fn start_at(address: &str) -> Services {
        let listener = TcpListener::bind(address).expect("a free loopback port");
        let address = listener.local_addr().expect("its address");
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(&stream, address, &state));
            }
        });
        Services { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the state")
    }

    /// The next request of this method whose path and query contain `part` fails.
    pub fn fail(&self, method: &str, part: &str, failure: Failure) {
        let failure = (method.to_owned(), part.to_owned(), failure);
        self.state().failures.push(failure);
    }

    /// Failures that have not happened yet.
    pub fn failures_left(&self) -> usize {
        self.state().failures.len()
    }

    /// What was asked since the last time.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }

    /// Names of all objects.
    pub fn objects(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    pub fn object(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.objects.get(name).map(|object| object.bytes.clone())
    }

    pub fn remove(&self, name: &str) {
        assert!(self.state().objects.remove(name).is_some(), "{name}");
    }

    /// Makes all objects so many days older.
    pub fn age(&self, days: i64) {
        for object in self.state().objects.values_mut() {
            object.written -= time::Duration::days(days);
        }
    }

    /// The age of an object in whole days.
    pub fn days(&self, name: &str) -> i64 {
        (OffsetDateTime::now_utc() - self.state().objects[name].written).whole_days()
    }

    /// Uploads that were begun, and neither finished nor given up.
    pub fn unfinished(&self) -> usize {
        self.state().parts.len()
    }
}

fn serve(stream: &TcpStream, address: SocketAddr, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some(asked) = request(&mut reader, stream) {
        let mut state = state.lock().expect("the state");
        state.asked.push(asked.clone());
        let whole = format!("{}?{}", asked.path, asked.query);
        let place = state
            .failures
            .iter()
            .position(|(method, part, _)| *method == asked.method && whole.contains(part));
        let failure = place.map(|place| state.failures.remove(place).2);
        let reply = match &failure {
            Some(Failure::Silence) => return,
            Some(Failure::Status(status, body)) => Reply::new(*status, *body),
            _ => answer(&asked, address, &mut state),
        };
        drop(state);
        let cut = match failure {
            Some(Failure::Cut(bytes)) => Some(bytes),
            _ => None,
        };
        if !send(stream, &asked, &reply, cut) {
            return;
        }
    }
}

fn answer(asked: &Asked, address: SocketAddr, state: &mut State) -> Reply {
    let path = asked.path.trim_start_matches('/');
    if path.starts_with("twirp/") {
        return gha::answer(asked, address, state);
    }
    if path.starts_with("signed/") {
        return match sign::sealed(asked, state.seal) {
            true => azure::blob(asked, path.to_owned(), state),
            false => Reply::new(403, "").with("x-ms-error-code", "AuthenticationFailed"),
        };
    }
    if path.starts_with(ACCOUNT) && path[ACCOUNT.len()..].starts_with('/') {
        return azure::answer(asked, state);
    }
    s3::answer(asked, state)
}

fn request(reader: &mut impl BufRead, mut stream: &TcpStream) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut parts = line.split_whitespace();
    let (method, target) = (parts.next()?.to_owned(), parts.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    if headers.get("expect").is_some_and(|e| e == "100-continue") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let length = headers.get("content-length").and_then(|l| l.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        method,
        path,
        query,
        headers,
        body,
    })
}

/// False when the connection is over.
fn send(mut stream: &TcpStream, asked: &Asked, reply: &Reply, cut: Option<usize>) -> bool {
    let mut head = format!("HTTP/1.1 {} Said\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if reply
        .headers
        .iter()
        .all(|(name, _)| *name != "content-length")
    {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    head.push_str("\r\n");
    let body: &[u8] = match asked.method.as_str() {
        "HEAD" => &[],
        _ => &reply.body[..reply.body.len().min(cut.unwrap_or(usize::MAX))],
    };
    let sent = stream.write_all(head.as_bytes()).is_ok() && stream.write_all(body).is_ok();
    sent && cut.is_none()
}

/// The bytes that were asked for, of an object.
fn part_of(asked: &Asked, object: &Object) -> Reply {
    let written = object.written.format(&Rfc2822).expect("a date");
    let written = written.replace("+0000", "GMT");
    let all = object.bytes.len();
    let range = asked.header("range");
    let range = if range.is_empty() {
        asked.header("x-ms-range")
    } else {
        range
    };
    let from = range.strip_prefix("bytes=").and_then(|r| {
        let (from, to) = r.split_once('-')?;
        let to = to.parse::<usize>().map_or(all, |to| (to + 1).min(all));
        Some((from.parse::<usize>().ok()?, to))
    });
    let reply = match (asked.method.as_str(), from) {
        ("HEAD", _) => Reply::new(200, "").with("content-length", all.to_string()),
        (_, None) => Reply::new(200, object.bytes.clone()),
        (_, Some((from, to))) if from <= to => Reply::new(206, &object.bytes[from..to]).with(
            "content-range",
            format!("bytes {from}-{}/{all}", to.max(1) - 1),
        ),
        _ => return Reply::new(416, ""),
    };
    reply
        .with("last-modified", written)
        .with("etag", format!("\"{all}\""))
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// Percent-decoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
