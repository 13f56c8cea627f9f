//! A frontend made of nothing but the standard library, with HTTP/2, gRPC and protobuf by hand, so
//! that it can speak as frontends of other years do, or misbehave. A test program: an image with it
//! as its entry point is a frontend, e.g. built by
//! `rustc --edition 2024 -O --target x86_64-unknown-linux-musl raw_frontend.rs`.
//!
//! The behaviour is the first argument, or the option `build-arg:MODE`, or `current`.

#[path = "raw_frontend/breaking.rs"]
mod breaking;
#[path = "raw_frontend/container.rs"]
mod container;
#[path = "raw_frontend/hostile.rs"]
mod hostile;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::exit;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

fn main() {
    let mode = std::env::args()
        .nth(1)
        .or_else(|| option("build-arg:MODE"))
        .unwrap_or_else(|| "current".to_owned());
    eprintln!("raw frontend: {mode}");
    match mode.as_str() {
        "2018" => Age::new(true, false, false).build(Ending::Return(0)),
        "2019" => Age::new(true, false, false).build(Ending::Return(0)),
        "2020" => Age::new(true, true, true).build(Ending::Return(0)),
        "current" => Age::new(false, true, true).build(Ending::Return(0)),
        // The end of a build before there was Return.
        "probe" => Age::new(false, true, true).build(Ending::Probe),
        "sleep" => Age::new(false, true, true).build(Ending::Sleep),
        "final" => Age::new(true, false, false).build(Ending::Final),
        "empty" => Age::new(false, true, true).build(Ending::Empty),
        "return-error" => Age::new(false, true, true).build(Ending::Error),
        "return-exit" => Age::new(false, true, true).build(Ending::Return(5)),
        "return-twice" => Age::new(false, true, true).build(Ending::Twice),
        "return-linger" => Age::new(false, true, true).build(Ending::Linger),
        "return-unknown" => Age::new(false, true, true).build(Ending::Unknown),
        "no-return" => Age::new(false, true, true).build(Ending::None(0)),
        "no-return-exit" => Age::new(false, true, true).build(Ending::None(3)),
        "close" => Age::new(false, true, true).build(Ending::Close),
        "flood" => {
            let line = format!("{}\n", "flood ".repeat(20));
            for _ in 0..100_000 {
                eprint!("{line}");
            }
            Age::new(false, true, true).build(Ending::Return(0));
        }
        "text" => println!("hello, this is not HTTP/2"),
        "exit" => exit(7),
        "silent" => sleep(Duration::from_secs(3600)),
        "garbage" => {
            let mut connection = Connection::open(false);
            connection.write(&[0xff; 4096]);
            sleep(Duration::from_secs(3600));
        }
        // Answers a subrequest.
        "subrequest" => subrequest(),
        // Tells the first line of its build file, and how it was asked for.
        "echo" => echo(),
        // Tells what the host knows of a source.
        "meta" => meta(),
        "source" => source(),
        // Runs processes of its own.
        "container" => container::run(),
        // The helper image of 2018 frontends for their COPY.
        "copy-helper" => Age::new(true, false, false).build(Ending::CopyHelper),
        other if hostile::run(other) || breaking::run(other) => {}
        other => {
            eprintln!("unknown mode {other}");
            exit(64);
        }
    }
}

/// The value of a frontend option.
fn option(key: &str) -> Option<String> {
    std::env::vars()
        .filter(|(name, _)| name.starts_with("BUILDKIT_FRONTEND_OPT_"))
        .find_map(|(_, text)| Some(text.strip_prefix(key)?.strip_prefix('=')?.to_owned()))
}

enum Ending {
    /// And exit with this code.
    Return(i32),
    Final,
    /// Return what the process sees around it.
    Probe,
    /// Never return.
    Sleep,
    Empty,
    Error,
    Twice,
    Unknown,
    Linger,
    Close,
    CopyHelper,
    None(i32),
}

/// What a frontend of some year does.
struct Age {
    empty_authority: bool,
    inputs: bool,
    array_ref: bool,
}

impl Age {
    fn new(empty_authority: bool, inputs: bool, array_ref: bool) -> Self {
        Age {
            empty_authority,
            inputs,
            array_ref,
        }
    }

    fn build(&self, ending: Ending) {
        let mut host = Connection::open(self.empty_authority);
        host.call("Ping", &[]).expect("Ping");
        if self.inputs {
            host.call("Inputs", &[]).expect("Inputs");
        }
        // Two at once, as every frontend does.
        let first = host.send("Solve", &self.solve("dockerfile", None));
        let second = host.send("Solve", &self.solve("context", None));
        let dockerfile = self.reference(&host.receive(first).expect("Solve"));
        let context = self.reference(&host.receive(second).expect("Solve"));
        let filename = option("filename").unwrap_or_else(|| "Dockerfile".to_owned());
        let mut read = Vec::new();
        field(&mut read, 1, dockerfile.as_bytes());
        field(&mut read, 2, filename.as_bytes());
        match host.call("ReadFile", &read) {
            Some(answer) => eprintln!("read {} bytes", get(&answer, 1).unwrap_or_default().len()),
            None => eprintln!("no file {filename}"),
        }
        match ending {
            Ending::Return(code) => {
                assert!(host.call("Return", &self.returned(&context)).is_some());
                exit(code);
            }
            Ending::Final => {
                // The config below in base64.
                let exporter = r#"{"containerimage.config":"eyJhcmNoaXRlY3R1cmUiOiJhbWQ2NCIsIm9zIjoibGludXgiLCJjb25maWciOnt9LCJyb290ZnMiOnsidHlwZSI6ImxheWVycyIsImRpZmZfaWRzIjpudWxsfX0="}"#;
                let solve = self.solve("context", Some(exporter));
                assert!(host.call("Solve", &solve).is_some());
            }
            Ending::Probe => {
                let mut result = Vec::new();
                field(
                    &mut result,
                    10,
                    &entry("frontend.probe", probe().as_bytes()),
                );
                let mut message = Vec::new();
                field(&mut message, 1, &result);
                assert!(host.call("Return", &message).is_some());
            }
            Ending::Sleep => sleep(Duration::from_secs(3600)),
            Ending::Empty => {
                let mut message = Vec::new();
                field(&mut message, 1, &[]);
                assert!(host.call("Return", &message).is_some());
            }
            Ending::Error => {
                let (mut status, mut message) = (Vec::new(), Vec::new());
                number(&mut status, 1, 9);
                field(&mut status, 2, b"my frontend error");
                field(&mut message, 2, &status);
                assert!(host.call("Return", &message).is_some());
                exit(7);
            }
            Ending::Twice => {
                assert!(host.call("Return", &self.returned(&context)).is_some());
                assert!(host.call("Return", &self.returned(&dockerfile)).is_none());
            }
            Ending::Unknown => {
                assert!(host.call("Return", &self.returned("unknown")).is_none());
                assert!(host.call("Return", &self.returned(&context)).is_some());
            }
            Ending::Linger => {
                assert!(host.call("Return", &self.returned(&context)).is_some());
                sleep(Duration::from_secs(3600));
            }
            Ending::Close => {
                // Closing is dropping a file of the same number.
                use std::os::fd::FromRawFd;
                // SAFETY: nothing writes to stdout after this.
                drop(unsafe { std::fs::File::from_raw_fd(1) });
                sleep(Duration::from_millis(300));
                exit(0);
            }
            Ending::CopyHelper => {
                let answer = host.call("Solve", &self.copy_helper()).expect("Solve");
                let copied = self.reference(&answer);
                assert!(host.call("Return", &self.returned(&copied)).is_some());
            }
            Ending::None(code) => exit(code),
        }
    }

    /// A Solve of one local source.
    fn solve(&self, name: &str, last: Option<&str>) -> Vec<u8> {
        let session = std::env::var("BUILDKIT_SESSION_ID").unwrap_or_default();
        let (mut source, mut op) = (Vec::new(), Vec::new());
        field(&mut source, 1, format!("local://{name}").as_bytes());
        if !session.is_empty() {
            field(&mut source, 2, &entry("local.session", session.as_bytes()));
        }
        field(
            &mut source,
            2,
            &entry("local.sharedkeyhint", name.as_bytes()),
        );
        field(&mut op, 3, &source);
        self.message(&op, last)
    }

    /// The request to solve one op.
    fn message(&self, op: &[u8], last: Option<&str>) -> Vec<u8> {
        let digest = format!("sha256:{}", hex(&sha256(op)));
        let (mut input, mut output) = (Vec::new(), Vec::new());
        field(&mut input, 1, digest.as_bytes());
        field(&mut output, 1, &input);
        let (mut definition, mut message) = (Vec::new(), Vec::new());
        field(&mut definition, 1, op);
        field(&mut definition, 1, &output);
        field(&mut message, 1, &definition);
        number(&mut message, 5, 1);
        if self.array_ref {
            number(&mut message, 6, 1);
        }
        if let Some(exporter) = last {
            number(&mut message, 10, 1);
            field(&mut message, 11, exporter.as_bytes());
        }
        message
    }

    /// `COPY hello.txt copied.txt` into an empty root, as the frontend of 2018 has it done.
    fn copy_helper(&self) -> Vec<u8> {
        let image = "docker-image://docker.io/docker/dockerfile-copy:v0.1.9@sha256:e8f159d3f00786604b93c675ee2783f8dc194bb565e61ca5788f6a6e9d304061";
        let session = std::env::var("BUILDKIT_SESSION_ID").unwrap_or_default();
        let (mut helper, mut context) = (Vec::new(), Vec::new());
        field(&mut helper, 1, image.as_bytes());
        field(&mut helper, 2, &entry("image.recordtype", b"internal"));
        field(&mut context, 1, b"local://context");
        field(&mut context, 2, &entry("local.session", session.as_bytes()));
        let op = |source: &[u8]| {
            let mut op = Vec::new();
            field(&mut op, 3, source);
            op
        };
        let (helper, context) = (op(&helper), op(&context));
        let digest = |op: &[u8]| format!("sha256:{}", hex(&sha256(op)));
        let input = |digest: String| {
            let mut input = Vec::new();
            field(&mut input, 1, digest.as_bytes());
            input
        };
        let mut copy = Vec::new();
        field(&mut copy, 1, &input(digest(&helper)));
        field(&mut copy, 1, &input(digest(&context)));
        let (mut exec, mut meta) = (Vec::new(), Vec::new());
        for arg in ["copy", "/src-0/hello.txt", "copied.txt"] {
            field(&mut meta, 1, arg.as_bytes());
        }
        field(&mut meta, 3, b"/dest");
        field(&mut exec, 1, &meta);
        // (input or -1, where, output or -1, read-only)
        for (from, dest, to, readonly) in [
            (0i64, "/", -1i64, true),
            (-1, "/dest", 0, false),
            (1, "/src-0", -1, true),
        ] {
            let mut mount = Vec::new();
            number(&mut mount, 1, from as u64);
            field(&mut mount, 3, dest.as_bytes());
            number(&mut mount, 4, to as u64);
            number(&mut mount, 5, u64::from(readonly));
            field(&mut exec, 2, &mount);
        }
        field(&mut copy, 2, &exec);
        let mut output = Vec::new();
        field(&mut output, 1, &input(digest(&copy)));
        let (mut definition, mut message) = (Vec::new(), Vec::new());
        for op in [helper, context, copy, output] {
            field(&mut definition, 1, &op);
        }
        field(&mut message, 1, &definition);
        number(&mut message, 5, 1);
        message
    }

    fn reference(&self, answer: &[u8]) -> String {
        let result = get(answer, 3).expect("a result");
        let id = match self.array_ref {
            true => get(get(result, 3).expect("a ref"), 1),
            false => get(result, 1),
        };
        String::from_utf8(id.expect("an id").to_vec()).expect("text")
    }

    fn returned(&self, reference: &str) -> Vec<u8> {
        let (mut result, mut message) = (Vec::new(), Vec::new());
        if self.array_ref {
            let mut inner = Vec::new();
            field(&mut inner, 1, reference.as_bytes());
            field(&mut result, 3, &inner);
        } else {
            field(&mut result, 1, reference.as_bytes());
        }
        let config = br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":null}}"#;
        field(&mut result, 10, &entry("containerimage.config", config));
        field(&mut result, 10, &entry("frontend.raw", b"yes"));
        field(&mut message, 1, &result);
        message
    }
}

/// The part of an op that runs something in the root of its first input.
fn exec_on_root(args: &[&str]) -> Vec<u8> {
    let (mut meta, mut mount, mut exec, mut op) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for arg in args {
        field(&mut meta, 1, arg.as_bytes());
    }
    field(&mut meta, 3, b"/");
    field(&mut mount, 3, b"/");
    field(&mut exec, 1, &meta);
    field(&mut exec, 2, &mount);
    field(&mut op, 2, &exec);
    op
}

/// Results as the Dockerfile frontend names them, for the request of the option.
fn subrequest() {
    let request = option("requestid").unwrap_or_default();
    let keys: &[&str] = match request.as_str() {
        "frontend.lint" => &["result.json", "result.txt", "result.statuscode", "version"],
        "frontend.convertllb" => &["result.json", "version"],
        _ => &["result.json", "result.txt", "version"],
    };
    let (mut result, mut message) = (Vec::new(), Vec::new());
    field(&mut result, 3, &[]);
    for key in keys {
        let value = format!("{request}: {key} \u{fc}\n\0");
        field(&mut result, 10, &entry(key, value.as_bytes()));
    }
    field(&mut message, 1, &result);
    let mut host = Connection::open(false);
    assert!(host.call("Return", &message).is_some());
}

/// Says on stderr what it was given, and returns the context.
fn echo() {
    let mut host = Connection::open(false);
    let age = Age::new(false, true, true);
    let answer = host
        .call("Solve", &age.solve("dockerfile", None))
        .expect("Solve");
    let mut read = Vec::new();
    field(&mut read, 1, age.reference(&answer).as_bytes());
    field(&mut read, 2, b"Dockerfile");
    let file = host.call("ReadFile", &read).expect("ReadFile");
    let text = String::from_utf8_lossy(get(&file, 1).unwrap_or_default()).into_owned();
    eprintln!("the file is {text:?}");
    eprintln!(
        "source={:?} cmdline={:?}",
        option("source"),
        option("cmdline")
    );
    eprintln!("release={:?}", std::env::var("RELEASE").unwrap_or_default());
    let answer = host
        .call("Solve", &age.solve("context", None))
        .expect("Solve");
    let returned = age.returned(&age.reference(&answer));
    assert!(host.call("Return", &returned).is_some());
}

/// Asks for the source of the option `SOURCE` by both calls, and says on stderr what is answered.
fn meta() {
    let identifier = option("build-arg:SOURCE").unwrap_or_default();
    let mut platform = Vec::new();
    if let Some(architecture) = option("build-arg:ARCHITECTURE") {
        field(&mut platform, 1, architecture.as_bytes());
        field(&mut platform, 2, b"linux");
    }
    let text =
        |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let mut host = Connection::open(false);
    if let Some(reference) = identifier.strip_prefix("docker-image://") {
        let mut request = Vec::new();
        field(&mut request, 1, reference.as_bytes());
        field(&mut request, 2, &platform);
        let answer = host.call("ResolveImageConfig", &request).expect("an image");
        eprintln!(
            "config digest={} ref={}",
            text(get(&answer, 1)),
            text(get(&answer, 3))
        );
        eprintln!("config={}", text(get(&answer, 2)));
    }
    let (mut source, mut request) = (Vec::new(), Vec::new());
    field(&mut source, 1, identifier.as_bytes());
    if let Some(url) = option("build-arg:GITURL") {
        field(&mut source, 2, &entry("git.fullurl", url.as_bytes()));
    }
    field(&mut request, 1, &source);
    field(&mut request, 2, &platform);
    let (mut git, mut http, mut checksum) = (Vec::new(), Vec::new(), Vec::new());
    number(&mut git, 1, 1);
    field(&mut request, 5, &git);
    if let Some(suffix) = option("build-arg:SUFFIX") {
        number(&mut checksum, 1, 2);
        field(&mut checksum, 2, suffix.as_bytes());
        field(&mut http, 1, &checksum);
        field(&mut request, 7, &http);
    }
    if let Some(predicate) = option("build-arg:PREDICATE") {
        let mut image = Vec::new();
        number(&mut image, 2, 1);
        field(&mut image, 3, predicate.as_bytes());
        field(&mut request, 6, &image);
    }
    let answer = host.call("ResolveSourceMeta", &request);
    let answer = answer.expect("metadata");
    let chain = get(&answer, 2).and_then(|image| get(image, 3));
    for number in 1..=4 {
        let value = chain.and_then(|chain| get(chain, number));
        eprintln!("chain.{number}={}", text(value));
    }
    for blob in chain.into_iter().flat_map(|chain| every(chain, 5)) {
        let (digest, blob) = (text(get(blob, 1)), get(blob, 2).unwrap_or_default());
        let kind = text(get(blob, 1).and_then(|descriptor| get(descriptor, 1)));
        let data = get(blob, 2).unwrap_or_default();
        let same = format!("sha256:{}", hex(&sha256(data))) == digest;
        eprintln!("chain blob {digest} {kind} right={same}");
    }
    eprintln!(
        "source={}",
        text(get(get(&answer, 1).unwrap_or_default(), 1))
    );
    for (number, name) in [(2, "image"), (3, "git"), (4, "http")] {
        let Some(part) = get(&answer, number) else {
            continue;
        };
        for field in [1, 2, 3, 4, 5] {
            let value = get(part, field);
            // Timestamps and inner messages are no text.
            let value = match (name, field) {
                ("http", 3) => String::new(),
                ("http", 4) => text(value.and_then(|inner| get(inner, 1))),
                _ => text(value),
            };
            eprintln!("{name}.{field}={value:?}");
        }
    }
    let age = Age::new(false, true, true);
    let answer = host.call("Solve", &age.solve("context", None));
    let returned = age.returned(&age.reference(&answer.expect("Solve")));
    assert!(host.call("Return", &returned).is_some());
}

/// Returns one source, whatever it is: its attributes are given as `NAME=VALUE,NAME=VALUE`.
fn source() {
    let identifier = option("build-arg:SOURCE").unwrap_or_default();
    let (mut source, mut op) = (Vec::new(), Vec::new());
    field(&mut source, 1, identifier.as_bytes());
    let attrs = option("build-arg:ATTRS").unwrap_or_default();
    // The client names its layouts as it likes.
    let context = option("context:store").unwrap_or_default();
    let store = context.rsplit('/').next().unwrap_or_default();
    let store = store.split(['@', ':']).next().unwrap_or_default();
    for (name, value) in attrs.split(',').filter_map(|attr| attr.split_once('=')) {
        let value = if value == "STORE" { store } else { value };
        field(&mut source, 2, &entry(name, value.as_bytes()));
    }
    field(&mut op, 3, &source);
    let age = Age::new(false, true, true);
    let mut host = Connection::open(false);
    let answer = host.call("Solve", &age.message(&op, None));
    let returned = age.returned(&age.reference(&answer.expect("Solve")));
    assert!(host.call("Return", &returned).is_some());
}

/// The surroundings of this process, a line each.
fn probe() -> String {
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    let text = |path: &str| String::from_utf8_lossy(&read(path)).trim().to_owned();
    let own_image = "/run/config/buildkit/metadata/frontend.bin";
    let interfaces: Vec<String> = text("/proc/self/net/dev")
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect();
    let status = text("/proc/self/status");
    let status = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let cwd = std::env::current_dir().map(|dir| dir.display().to_string());
    let lines = [
        format!("cwd={}", cwd.unwrap_or_default()),
        format!("pid={}", std::process::id()),
        format!("uid={}", status("Uid:")),
        format!("hostname={}", text("/proc/sys/kernel/hostname")),
        format!("interfaces={}", interfaces.join(" ")),
        format!("own image={}", read(own_image).len()),
        format!(
            "own image written={}",
            std::fs::write(own_image, "x").is_ok()
        ),
        format!("root written={}", std::fs::write("/written", "x").is_ok()),
        format!(
            "session={}",
            std::env::var("BUILDKIT_SESSION_ID").unwrap_or_default()
        ),
        format!(
            "workers={}",
            std::env::var("BUILDKIT_WORKERS").unwrap_or_default()
        ),
        format!("source={}", option("source").unwrap_or_default()),
        format!("cmdline={}", option("cmdline").unwrap_or_default()),
        format!("args={}", std::env::args().collect::<Vec<_>>().join(" ")),
        format!(
            "image variable={}",
            std::env::var("OF_THE_IMAGE").unwrap_or_default()
        ),
    ];
    lines.join("\n")
}

// protobuf

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn field(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn number(out: &mut Vec<u8>, number: u64, value: u64) {
    varint(out, number << 3);
    varint(out, value);
}

/// One entry of a map with text keys.
fn entry(key: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, 1, key.as_bytes());
    field(&mut out, 2, value);
    out
}

/// The first field of a number that has bytes.
fn get(bytes: &[u8], wanted: u64) -> Option<&[u8]> {
    every(bytes, wanted).next()
}

/// All fields of a number that have bytes, up to what cannot be read.
fn every(mut bytes: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> {
    fn read(bytes: &mut &[u8]) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = bytes.split_first()?;
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    std::iter::from_fn(move || {
        while !bytes.is_empty() {
            let key = read(&mut bytes)?;
            match key & 7 {
                0 => drop(read(&mut bytes)?),
                2 => {
                    let length = read(&mut bytes)? as usize;
                    let value = bytes.get(..length)?;
                    bytes = bytes.get(length..)?;
                    if key >> 3 == wanted {
                        return Some(value);
                    }
                }
                _ => return None,
            }
        }
        None
    })
}

// HTTP/2

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

struct Connection {
    input: std::io::Stdin,
    output: std::io::Stdout,
    empty_authority: bool,
    next_stream: u32,
    /// Bodies so far, and whether the stream has ended.
    streams: BTreeMap<u32, (Vec<u8>, bool)>,
    /// What may be sent on a stream; 0 is the connection.
    windows: BTreeMap<u32, i64>,
    /// The first window of a stream.
    first_window: i64,
    /// The headers that came last, as they are.
    last_block: Vec<u8>,
    /// Does not end when the host is gone.
    stays: bool,
}

impl Connection {
    fn open(empty_authority: bool) -> Self {
        let mut connection = Connection {
            input: std::io::stdin(),
            output: std::io::stdout(),
            empty_authority,
            next_stream: 1,
            streams: BTreeMap::new(),
            windows: [(0, 65_535)].into(),
            first_window: 65_535,
            last_block: Vec::new(),
            stays: false,
        };
        let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // Windows so large that no update is ever needed.
        start.extend(frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
        start.extend(frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0]));
        connection.write(&start);
        connection
    }

    fn write(&mut self, bytes: &[u8]) {
        let written = self.output.write_all(bytes);
        if written.and_then(|()| self.output.flush()).is_err() {
            eprintln!("the host is gone");
            if self.stays {
                sleep(Duration::from_secs(3600));
            }
            exit(1);
        }
    }

    /// None for an error status.
    fn call(&mut self, method: &str, message: &[u8]) -> Option<Vec<u8>> {
        let stream = self.send(method, message);
        self.receive(stream)
    }

    fn room(&self, stream: u32) -> i64 {
        let of_stream = self.windows.get(&stream).copied().unwrap_or_default();
        self.windows[&0].min(of_stream + self.first_window)
    }

    fn used(&mut self, stream: u32, bytes: i64) {
        *self.windows.entry(0).or_default() -= bytes;
        *self.windows.entry(stream).or_default() -= bytes;
    }

    fn send(&mut self, method: &str, message: &[u8]) -> u32 {
        let stream = self.start(method);
        let mut body = vec![0];
        body.extend((message.len() as u32).to_be_bytes());
        body.extend(message);
        self.used(stream, body.len() as i64);
        self.write(&frame(DATA, END_STREAM, stream, &body));
        stream
    }

    /// Sends the head of a call.
    fn start(&mut self, method: &str) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let path = format!("/moby.buildkit.v1.frontend.LLBBridge/{method}");
        // POST, http, then the path as a literal.
        let mut block = vec![0x83, 0x86, 0x44, path.len() as u8];
        block.extend(path.as_bytes());
        if self.empty_authority {
            block.push(0x81);
        } else {
            block.extend([0x41, 9]);
            block.extend(b"localhost");
        }
        block.extend([0x5f, 16]);
        block.extend(b"application/grpc");
        block.extend([0x40, 2]);
        block.extend(b"te");
        block.push(8);
        block.extend(b"trailers");
        self.streams.insert(stream, Default::default());
        self.write(&frame(HEADERS, END_HEADERS, stream, &block));
        stream
    }

    fn receive(&mut self, stream: u32) -> Option<Vec<u8>> {
        while !self.streams[&stream].1 {
            self.take_frame();
        }
        let (body, _) = self.streams.remove(&stream)?;
        // An answer without a message is an error status.
        body.get(5..).map(<[u8]>::to_vec)
    }

    fn take_frame(&mut self) {
        let mut head = [0; 9];
        if self.input.read_exact(&mut head).is_err() {
            eprintln!("the host closed the connection");
            if self.stays {
                sleep(Duration::from_secs(3600));
            }
            exit(1);
        }
        let [a, b, c, kind, flags, s0, s1, s2, s3] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.input.read_exact(&mut payload).expect("a whole frame");
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        match kind {
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    if setting[..2] == [0, 4] {
                        let value = [setting[2], setting[3], setting[4], setting[5]];
                        self.first_window = i64::from(u32::from_be_bytes(value));
                    }
                }
                self.write(&frame(SETTINGS, ACK, 0, &[]));
            }
            WINDOW_UPDATE => {
                if let &[a, b, c, d] = payload.as_slice() {
                    let more = i64::from(u32::from_be_bytes([a & 0x7f, b, c, d]));
                    *self.windows.entry(stream).or_default() += more;
                }
            }
            PING if flags & ACK == 0 => self.write(&frame(PING, ACK, 0, &payload)),
            DATA | HEADERS => {
                if let Some((body, ended)) = self.streams.get_mut(&stream) {
                    match kind {
                        DATA => body.extend(payload),
                        _ => self.last_block = payload,
                    }
                    *ended |= flags & END_STREAM != 0;
                }
            }
            // The host answered before it had the whole request, and needs no more of it.
            RST_STREAM if self.streams.get(&stream).is_none_or(|(_, ended)| *ended) => {}
            RST_STREAM if payload == [0; 4] => {
                if let Some((_, ended)) = self.streams.get_mut(&stream) {
                    *ended = true;
                }
            }
            RST_STREAM | GOAWAY => {
                eprintln!("stream terminated by RST_STREAM or GOAWAY: {payload:?}");
                exit(1);
            }
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

// SHA-256, by the standard: constants are the fractions of roots of the first primes.

fn primes() -> impl Iterator<Item = u64> {
    (2u64..).filter(|n| (2..*n).all(|d| n % d != 0))
}

/// The first 32 bits of the fraction of `root` of `n`, by comparing powers of integers.
fn fraction(n: u64, power: u32) -> u32 {
    let (mut low, mut high) = (0u128, 1u128 << 40);
    let target = |x: u128| match power {
        2 => x.pow(2) <= u128::from(n) << 64,
        _ => x.pow(3) <= u128::from(n) << 96,
    };
    while high - low > 1 {
        let middle = (low + high) / 2;
        match target(middle) {
            true => low = middle,
            false => high = middle,
        }
    }
    low as u32
}

fn sha256(message: &[u8]) -> [u8; 32] {
    static K: OnceLock<Vec<u32>> = OnceLock::new();
    static H: OnceLock<Vec<u32>> = OnceLock::new();
    let k = K.get_or_init(|| primes().take(64).map(|p| fraction(p, 3)).collect());
    let first = H.get_or_init(|| primes().take(8).map(|p| fraction(p, 2)).collect());
    let mut h = first.clone();
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    for chunk in padded.chunks(64) {
        let mut w: Vec<u32> = chunk
            .chunks(4)
            .map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        for i in 16..64 {
            let a = w[i - 15];
            let b = w[i - 2];
            let s0 = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let s1 = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            w.push(
                w[i - 16]
                    .wrapping_add(s0)
                    .wrapping_add(w[i - 7])
                    .wrapping_add(s1),
            );
        }
        let mut v = h.clone();
        for i in 0..64 {
            let (a, e) = (v[0], v[4]);
            let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let choice = (e & v[5]) ^ (!e & v[6]);
            let t1 = [s1, choice, k[i], w[i]]
                .iter()
                .fold(v[7], |t, x| t.wrapping_add(*x));
            let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let majority = (a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]);
            v.rotate_right(1);
            v[4] = v[4].wrapping_add(t1);
            v[0] = t1.wrapping_add(s0).wrapping_add(majority);
        }
        for (h, v) in h.iter_mut().zip(v) {
            *h = h.wrapping_add(v);
        }
    }
    let mut out = [0; 32];
    for (bytes, word) in out.chunks_mut(4).zip(h) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
