//! A frontend that runs processes in a container over what it had built, and says on stderr what came of them.

use super::*;

pub fn run() {
    let mut host = Connection::open(false);
    let age = Age::new(false, true, true);
    let (mut source, mut op) = (Vec::new(), Vec::new());
    let image = b"docker-image://docker.io/library/busybox:latest";
    field(&mut source, 1, image);
    field(&mut op, 3, &source);
    let answer = host.call("Solve", &age.message(&op, None));
    let reference = age.reference(&answer.expect("Solve"));
    let (mut mount, mut request) = (Vec::new(), Vec::new());
    field(&mut mount, 3, b"/");
    field(&mut mount, 23, reference.as_bytes());
    field(&mut request, 1, b"of the frontend");
    field(&mut request, 2, &mount);
    field(&mut request, 7, b"its-host");
    assert!(host.call("NewContainer", &request).is_some());
    // The second sees what the first left, and runs beside it.
    let script = "read word; echo \"$word back\" > /kept; echo ready; read more; echo over";
    let one = start(&mut host, "one", script, "there and\n");
    while !host.streams[&one]
        .0
        .windows(5)
        .any(|bytes| bytes == b"ready")
    {
        host.take_frame();
    }
    let two = start(&mut host, "two", "cat /kept; hostname; exit 3", "");
    for (name, stream) in [("two", two), ("one", one)] {
        let (said, code) = ended(&mut host, name, stream);
        let line = format!("process {name} said {said:?} and ended with {code}\n");
        // At once: clients show pieces of a line as lines.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    let mut release = Vec::new();
    field(&mut release, 1, b"of the frontend");
    // Answered with how the last process ended, as the reference does.
    host.call("ReleaseContainer", &release);
    assert!(host.call("NewContainer", &request).is_some());
    // Left behind: it ends with its frontend.
    let stream = host.start("ExecProcess");
    send(&mut host, stream, &init("left", "sleep 3600"));
    assert!(host.call("Return", &age.returned(&reference)).is_some());
}

/// Starts a shell, whose input stays open.
fn start(host: &mut Connection, id: &str, script: &str, input: &str) -> u32 {
    let stream = host.start("ExecProcess");
    send(host, stream, &init(id, script));
    let (mut file, mut message) = (Vec::new(), Vec::new());
    field(&mut file, 3, input.as_bytes());
    field(&mut message, 1, id.as_bytes());
    field(&mut message, 3, &file);
    send(host, stream, &message);
    stream
}

/// Ends the input of a process; what it said, and its exit code.
fn ended(host: &mut Connection, id: &str, stream: u32) -> (String, u64) {
    let (mut file, mut message) = (Vec::new(), Vec::new());
    number(&mut file, 2, 1);
    field(&mut message, 1, id.as_bytes());
    field(&mut message, 3, &file);
    send(host, stream, &message);
    host.write(&frame(DATA, END_STREAM, stream, &[]));
    while !host.streams[&stream].1 {
        host.take_frame();
    }
    let (body, _) = host.streams.remove(&stream).expect("the stream");
    let (mut rest, mut said, mut code) = (body.as_slice(), Vec::new(), 0);
    while let Some((head, after)) = rest.split_at_checked(5) {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (message, after) = after.split_at(length);
        rest = after;
        if let Some(file) = get(message, 3) {
            said.extend(get(file, 3).unwrap_or_default());
        }
        // A code is the first number of it, and there is none for 0.
        if let Some([8, value, ..]) = get(message, 6) {
            code = u64::from(*value);
        }
    }
    (String::from_utf8_lossy(&said).into_owned(), code)
}

fn init(id: &str, script: &str) -> Vec<u8> {
    let (mut meta, mut init, mut message) = (Vec::new(), Vec::new(), Vec::new());
    for arg in ["/bin/sh", "-c", script] {
        field(&mut meta, 1, arg.as_bytes());
    }
    field(&mut meta, 2, b"PATH=/bin:/usr/bin");
    field(&mut meta, 3, b"/");
    field(&mut init, 1, b"of the frontend");
    field(&mut init, 2, &meta);
    field(&mut init, 3, &[0, 1, 2]);
    field(&mut message, 1, id.as_bytes());
    field(&mut message, 2, &init);
    message
}

fn send(host: &mut Connection, stream: u32, message: &[u8]) {
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    host.used(stream, body.len() as i64);
    host.write(&frame(DATA, 0, stream, &body));
}
