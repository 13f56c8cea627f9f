//! Misbehaviour of every kind. A mode ends by itself only where its host may let it.

use super::*;

/// Whether there is such a mode; does not return from most.
pub fn run(mode: &str) -> bool {
    match mode {
        "empty-return" => {
            let mut host = Connection::open(false);
            assert!(host.call("Return", &[]).is_none());
        }
        "truncated" => {
            let mut host = Connection::open(false);
            let stream = host.start("Solve");
            // A message of 1000 bytes that ends after three.
            host.write(&frame(
                DATA,
                END_STREAM,
                stream,
                &[0, 0, 0, 3, 232, 1, 2, 3],
            ));
            assert!(host.receive(stream).is_none());
        }
        "not-protobuf" => {
            let mut host = Connection::open(false);
            for method in ["Solve", "Return", "ReadFile", "Warn", "NewContainer"] {
                assert!(host.call(method, &[0xff; 50]).is_none(), "{method}");
            }
        }
        "huge-message" => {
            let mut host = Connection::open(false);
            let stream = host.start("Solve");
            let size = 100_000_000u32.to_be_bytes();
            host.write(&frame(DATA, 0, stream, &[&[0][..], &size].concat()));
            for _ in 0..100_000_000 / 16_384 {
                host.write(&frame(DATA, 0, stream, &[0; 16_384]));
            }
            assert!(host.receive(stream).is_none());
        }
        "garbage-llb" => solve_and_return(&[b"this is not an op".to_vec()]),
        "missing-vertex" => {
            let nowhere = format!("sha256:{}", "0".repeat(64));
            solve_and_return(&[exec(&nowhere, 0), output(&nowhere)]);
        }
        "output-of-nothing" => {
            let source = image_source("docker-image://docker.io/test/none:1");
            let name = digest(&source);
            let (mut input, mut last) = (Vec::new(), Vec::new());
            field(&mut input, 1, name.as_bytes());
            number(&mut input, 2, 7_000_000_000);
            field(&mut last, 1, &input);
            solve_and_return(&[source, last]);
        }
        "million-vertices" => {
            let mut ops: Vec<Vec<u8>> = (0..1_000_000)
                .map(|number| image_source(&format!("a{number:x}")))
                .collect();
            let name = digest(&ops[0]);
            ops.push(output(&name));
            solve_and_return(&ops);
        }
        "cyclic" => {
            // Digests that lead in a circle cannot be made, only claimed.
            let (one, two) = (
                exec(&format!("sha256:{}", "1".repeat(64)), 1),
                image_source("two"),
            );
            let (mut a, mut b) = (output(&digest(&two)), output(&digest(&one)));
            a.extend(exec_on_root(&["/bin/true"]));
            b.extend(exec_on_root(&["/bin/true"]));
            let last = output(&digest(&b));
            solve_and_return(&[a, b, one, last]);
        }
        "deepest-graph" => {
            let mut ops = vec![image_source("docker-image://docker.io/test/none:1")];
            let mut name = digest(&ops[0]);
            for number in 0..100_000 {
                let op = exec(&name, number);
                name = digest(&op);
                ops.push(op);
            }
            ops.push(output(&name));
            solve_and_return(&ops);
        }
        // A step that cannot be run.
        "failing-step" => {
            let context = local_source("context");
            let mut step = output(&digest(&context));
            step.extend(exec_on_root(&["/nothing/here"]));
            let last = output(&digest(&step));
            solve_and_return(&[context, step, last]);
        }
        // One request that takes a while.
        "slow-step" => {
            let image = image_source("docker-image://docker.io/library/busybox:latest");
            let mut step = output(&digest(&image));
            step.extend(exec_on_root(&["/bin/sleep", "6"]));
            let last = output(&digest(&step));
            let (mut definition, mut solve) = (Vec::new(), Vec::new());
            for op in [image, step, last] {
                field(&mut definition, 1, &op);
            }
            field(&mut solve, 1, &definition);
            number(&mut solve, 5, 1);
            number(&mut solve, 6, 1);
            number(&mut solve, 14, 1);
            let mut host = Connection::open(false);
            let age = Age::new(false, true, true);
            let answer = host.call("Solve", &solve).expect("Solve");
            let returned = age.returned(&age.reference(&answer));
            assert!(host.call("Return", &returned).is_some());
        }
        // A step that nobody allowed.
        "host-network" => {
            let context = local_source("context");
            let (mut meta, mut mount, mut exec) = (Vec::new(), Vec::new(), Vec::new());
            field(&mut meta, 1, b"/bin/true");
            field(&mut mount, 3, b"/");
            field(&mut exec, 1, &meta);
            field(&mut exec, 2, &mount);
            number(&mut exec, 3, 1);
            let mut step = output(&digest(&context));
            field(&mut step, 2, &exec);
            let last = output(&digest(&step));
            solve_and_return(&[context, step, last]);
        }
        "deep-graph" => {
            let mut ops = vec![image_source("docker-image://docker.io/test/none:1")];
            let mut name = digest(&ops[0]);
            for number in 0..20_000 {
                let op = exec(&name, number);
                name = digest(&op);
                ops.push(op);
            }
            ops.push(output(&name));
            solve_and_return(&ops);
        }
        "many-calls" => {
            let mut host = Connection::open(false);
            for _ in 0..200 {
                let calls: Vec<u32> = (0..100)
                    .map(|number| match number % 3 {
                        0 => host.send("Ping", &[]),
                        1 => host.send("NoSuchMethod", &[1; 100]),
                        _ => host.send("ReadFile", &[10, 1, b'x']),
                    })
                    .collect();
                for call in calls {
                    host.receive(call);
                }
            }
        }
        "unknown-refs" => {
            let mut host = Connection::open(false);
            for number in 0..1000 {
                for id in [
                    format!("{number}"),
                    format!("ref{number}"),
                    "../x".to_owned(),
                ] {
                    let mut read = Vec::new();
                    field(&mut read, 1, id.as_bytes());
                    field(&mut read, 2, b"Dockerfile");
                    assert!(host.call("ReadFile", &read).is_none(), "{id}");
                    assert!(host.call("StatFile", &read).is_none(), "{id}");
                }
            }
        }
        "escape" => escape(),
        "many-refs" => {
            let mut host = Connection::open(false);
            let solve = Age::new(false, true, true).solve("context", None);
            for count in 0..20_000 {
                if host.call("Solve", &solve).is_none() {
                    eprintln!("refused after {count} refs");
                    exit(3);
                }
            }
        }
        "many-definitions" => {
            let mut host = Connection::open(false);
            let (mut definition, mut solve) = (Vec::new(), Vec::new());
            field(&mut definition, 1, &vec![b'x'; 15 << 20]);
            field(&mut solve, 1, &definition);
            number(&mut solve, 5, 1);
            for count in 0..100 {
                let stream = host.start("Solve");
                host.upload(&[stream], solve.len(), Some(&solve));
                if host.receive(stream).is_none() {
                    eprintln!("refused after {count} definitions");
                    exit(3);
                }
            }
        }
        "unfinished-messages" => {
            let mut host = Connection::open(false);
            let streams: Vec<u32> = (0..100).map(|_| host.start("Solve")).collect();
            host.upload(&streams, 15 << 20, None);
            forever();
        }
        "open-streams" => {
            let mut host = Connection::open(false);
            for _ in 0..100_000 {
                host.start("Solve");
            }
            forever();
        }
        "rapid-reset" => {
            let mut host = Connection::open(false);
            for _ in 0..100_000 {
                let stream = host.start("Solve");
                host.write(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            }
            forever();
        }
        "continuation-flood" => {
            let mut host = Connection::open(false);
            host.write(&frame(HEADERS, 0, 1, &[0x83]));
            loop {
                // Fields without index: `x: yyy..`.
                let mut block = vec![0, 1, b'x', 100];
                block.extend([b'y'; 100]);
                host.write(&frame(9, 0, 1, &block.repeat(150)));
            }
        }
        "header-bomb" => {
            let mut host = Connection::open(false);
            // One entry of the dynamic table, then as many references to it as a frame holds.
            let mut block = vec![0x83, 0x86, 0x84, 0x40, 1, b'x', 0x7f, 0x81, 0x1e];
            block.extend([b'y'; 4000]);
            block.extend([0xbe; 12_000]);
            for stream in (1..100_000).step_by(2) {
                host.write(&frame(HEADERS, END_HEADERS, stream, &block));
            }
            forever();
        }
        "ping-flood" => {
            let mut host = Connection::open(false);
            for _ in 0..3_000_000 {
                host.write(&frame(PING, 0, 0, &[7; 8]));
            }
            forever();
        }
        "settings-flood" => {
            let mut host = Connection::open(false);
            for _ in 0..3_000_000 {
                host.write(&frame(SETTINGS, 0, 0, &[]));
            }
            forever();
        }
        // Asks for much and reads nothing of it.
        "unread-answers" => {
            let mut host = Connection::open(false);
            let age = Age::new(false, true, true);
            let answer = host
                .call("Solve", &age.solve("context", None))
                .expect("Solve");
            let mut read = Vec::new();
            field(&mut read, 1, age.reference(&answer).as_bytes());
            field(&mut read, 2, b"big");
            for _ in 0..200 {
                host.send("ReadFile", &read);
            }
            forever();
        }
        // Speaks once and then no more.
        "silent-later" => {
            let mut host = Connection::open(false);
            host.call("Ping", &[]).expect("Ping");
            forever();
        }
        // More than the window of the connection.
        "window-overflow" => {
            let mut host = Connection::open(false);
            let streams: Vec<u32> = (0..100).map(|_| host.start("Solve")).collect();
            loop {
                for stream in &streams {
                    host.write(&frame(DATA, 0, *stream, &[0; 16_384]));
                }
            }
        }
        // Window updates until the window is larger than can be.
        "window-bomb" => {
            let mut host = Connection::open(false);
            for _ in 0..10 {
                host.write(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]));
            }
            forever();
        }
        "empty-data-flood" => {
            let mut host = Connection::open(false);
            let stream = host.start("Solve");
            for _ in 0..3_000_000 {
                host.write(&frame(DATA, 0, stream, &[]));
            }
            forever();
        }
        "priority-flood" => {
            let mut host = Connection::open(false);
            for number in 0..3_000_000u32 {
                host.write(&frame(2, 0, number * 2 + 1, &[0, 0, 0, 0, 7]));
            }
            forever();
        }
        "huge-frame" => {
            let mut host = Connection::open(false);
            host.write(&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]);
            host.write(&vec![0; 16 << 20]);
            forever();
        }
        // Each a header list of 200 KiB that never ends, on as many streams as there may be.
        "huge-headers" => {
            let mut host = Connection::open(false);
            let mut field = vec![0, 1, b'x', 0x7f, 0x81, 0x7e];
            field.extend([b'y'; 16_256]);
            for stream in (1..500).step_by(2) {
                host.write(&frame(HEADERS, 0, stream, &[0x83, 0x86, 0x84]));
                for _ in 0..12 {
                    host.write(&frame(9, 0, stream, &field));
                }
                host.write(&frame(9, END_HEADERS, stream, &[]));
            }
            forever();
        }
        "bad-hpack" => {
            let mut host = Connection::open(false);
            // An index of no table, a size of a table without end, a length beyond the block.
            host.write(&frame(
                HEADERS,
                END_HEADERS,
                1,
                &[0xff, 0xff, 0xff, 0xff, 0x0f],
            ));
            host.write(&frame(
                HEADERS,
                END_HEADERS,
                3,
                &[0x3f, 0xff, 0xff, 0xff, 0xff, 0x0f],
            ));
            host.write(&frame(
                HEADERS,
                END_HEADERS,
                5,
                &[0x40, 0x7f, 0xff, 0xff, 0x7f],
            ));
            forever();
        }
        // Ends the connection's input in the middle of a frame and lives on.
        "half-closed" => {
            use std::os::fd::FromRawFd;
            let mut host = Connection::open(false);
            host.call("Ping", &[]).expect("Ping");
            host.write(&[0, 0, 100, DATA, 0]);
            // SAFETY: nothing writes to stdout after this.
            drop(unsafe { std::fs::File::from_raw_fd(1) });
            forever();
        }
        "half-open" => {
            let mut host = Connection::open(false);
            host.call("Ping", &[]);
            host.start("Solve");
            forever();
        }
        "deaf" => {
            use std::os::fd::FromRawFd;
            let mut host = Connection::open(false);
            // SAFETY: nothing reads stdin after this.
            drop(unsafe { std::fs::File::from_raw_fd(0) });
            host.send("Ping", &[]);
            forever();
        }
        "memory" => {
            let mut host = Connection::open(false);
            host.call("Ping", &[]);
            let mut hoard = Vec::new();
            loop {
                hoard.push(vec![1u8; 16 << 20]);
            }
        }
        "disk" => {
            let mut host = Connection::open(false);
            host.call("Ping", &[]);
            for path in ["/tmp-file", "/dev/shm/file", "/dev/file", "/run/file"] {
                let Ok(mut file) = std::fs::File::create(path) else {
                    continue;
                };
                let mut written = 0u64;
                while file.write_all(&[1; 1 << 20]).is_ok() {
                    written += 1;
                }
                eprintln!("wrote {written} MiB to {path}");
            }
            exit(3);
        }
        "forks" => {
            let mut host = Connection::open(false);
            host.call("Ping", &[]);
            let mut children = Vec::new();
            loop {
                match std::process::Command::new("/bin/busybox")
                    .args(["sleep", "3600"])
                    .stdout(std::process::Stdio::null())
                    .spawn()
                {
                    Ok(child) => children.push(child),
                    Err(error) => {
                        eprintln!("refused after {} processes: {error}", children.len());
                        exit(3);
                    }
                }
                assert!(children.len() < 5000, "nobody stops us");
            }
        }
        "log-forever" => {
            let mut host = Connection::open(false);
            host.call("Ping", &[]);
            let line = "x".repeat(8191) + "\n";
            loop {
                eprint!("{line}");
            }
        }
        _ => return false,
    }
    true
}

fn forever() -> ! {
    loop {
        sleep(Duration::from_secs(3600));
    }
}

fn digest(op: &[u8]) -> String {
    format!("sha256:{}", hex(&sha256(op)))
}

fn image_source(identifier: &str) -> Vec<u8> {
    let (mut source, mut op) = (Vec::new(), Vec::new());
    field(&mut source, 1, identifier.as_bytes());
    field(&mut op, 3, &source);
    op
}

/// A local source of the build's session.
fn local_source(name: &str) -> Vec<u8> {
    let session = std::env::var("BUILDKIT_SESSION_ID").unwrap_or_default();
    let (mut source, mut op) = (Vec::new(), Vec::new());
    field(&mut source, 1, format!("local://{name}").as_bytes());
    field(&mut source, 2, &entry("local.session", session.as_bytes()));
    field(&mut op, 3, &source);
    op
}

fn output(of: &str) -> Vec<u8> {
    let (mut input, mut op) = (Vec::new(), Vec::new());
    field(&mut input, 1, of.as_bytes());
    field(&mut op, 1, &input);
    op
}

/// `/bin/true NUMBER` in the root of another vertex.
fn exec(root: &str, serial: u32) -> Vec<u8> {
    let mut op = output(root);
    op.extend(exec_on_root(&["/bin/true", &serial.to_string()]));
    op
}

fn solve_and_return(ops: &[Vec<u8>]) {
    let mut host = Connection::open(false);
    host.call("Ping", &[]).expect("Ping");
    let (mut definition, mut solve) = (Vec::new(), Vec::new());
    for op in ops {
        field(&mut definition, 1, op);
    }
    field(&mut solve, 1, &definition);
    number(&mut solve, 5, 1);
    number(&mut solve, 6, 1);
    let stream = host.start("Solve");
    host.upload(&[stream], solve.len(), Some(&solve));
    let Some(answer) = host.receive(stream) else {
        eprintln!("Solve was refused");
        exit(3);
    };
    let age = Age::new(false, true, true);
    let reference = age.reference(&answer);
    host.call("Return", &age.returned(&reference));
}

/// Tries to read what is outside of the context.
fn escape() {
    let mut host = Connection::open(false);
    let age = Age::new(false, true, true);
    let answer = host
        .call("Solve", &age.solve("context", None))
        .expect("Solve");
    let context = age.reference(&answer);
    let mut read = |path: &str| {
        let mut request = Vec::new();
        field(&mut request, 1, context.as_bytes());
        field(&mut request, 2, path.as_bytes());
        host.call("ReadFile", &request)
    };
    assert!(read("Dockerfile").is_some());
    for path in [
        "../../../../../../../../etc/passwd",
        "/etc/passwd",
        "//etc//passwd",
        "absolute",
        "relative",
        "dir/passwd",
        "dir/../../../../etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "Dockerfile/../../../etc/passwd",
        "etc/passwd\0",
        &"a/".repeat(5000),
    ] {
        if read(path).is_some() {
            eprintln!("ESCAPED by {path:.100}");
            exit(9);
        }
    }
    assert!(host.call("Return", &age.returned(&context)).is_some());
}

impl Connection {
    /// Sends a message of this size on each stream in turns, as fast as the windows allow; without
    /// data it is never finished.
    fn upload(&mut self, streams: &[u32], size: usize, data: Option<&[u8]>) {
        let head = [&[0][..], &(size as u32).to_be_bytes()].concat();
        for stream in streams {
            self.used(*stream, head.len() as i64);
            self.write(&frame(DATA, 0, *stream, &head));
        }
        let filler = [0; 16_384];
        let mut sent = 0;
        while sent < size {
            let length = (size - sent).min(filler.len());
            let part = data.map_or(&filler[..length], |data| &data[sent..sent + length]);
            sent += length;
            let ends = data.is_some() && sent == size;
            for stream in streams {
                while self.room(*stream) < length as i64 {
                    self.take_frame();
                }
                self.used(*stream, length as i64);
                self.write(&frame(DATA, u8::from(ends), *stream, part));
            }
        }
    }
}
