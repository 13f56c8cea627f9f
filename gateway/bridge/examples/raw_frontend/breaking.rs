//! Frontends that build, but break one point of the protocol each: what tests of frontends must find out.

use super::*;

/// Whether there is such a mode.
pub fn run(mode: &str) -> bool {
    let age = Age::new(false, true, true);
    match mode {
        // What it needs of its surroundings.
        "option-lines" => {
            let all =
                std::env::vars().filter(|(name, _)| name.starts_with("BUILDKIT_FRONTEND_OPT_"));
            demand(all.into_iter().all(|(_, text)| !text.contains('\n')));
        }
        "strict-workers" => demand(
            std::env::var("BUILDKIT_WORKERS")
                .is_ok_and(|text| text.contains(r#""architecture":""#) && !text.contains("null")),
        ),
        "writes-files" => demand(std::fs::write("/written", "x").is_ok()),
        "own-image" => demand(std::fs::read("/run/config/buildkit/metadata/frontend.bin").is_ok()),
        // Its words go to the connection.
        "talks" => {
            let mut host = Connection::open(false);
            let context = context(&mut host, &age);
            assert!(host.call("Return", &age.returned(&context)).is_some());
            host.write(b"done, thank you\n");
            return true;
        }
        // What it makes of Ping's answer.
        "known-caps" => {
            let mut host = Connection::open(false);
            let pong = host.call("Ping", &[]).expect("Ping");
            demand(!pong.windows(6).any(|part| part == b"zz.of."));
            finish(host, &age);
            return true;
        }
        "listed-caps" => {
            let mut host = Connection::open(false);
            let pong = host.call("Ping", &[]).expect("Ping");
            demand(pong.windows(10).any(|part| part == b"solve.base"));
            finish(host, &age);
            return true;
        }
        "small-messages" => {
            let mut host = Connection::open(false);
            demand(host.call("Ping", &[]).expect("Ping").len() < 4 << 20);
            finish(host, &age);
            return true;
        }
        // It does not look at what the host can do.
        "file-op" => {
            let mut host = Connection::open(false);
            let answer = host.call("Solve", &age.message(&mkdir(), None));
            let returned = age.returned(&age.reference(&answer.expect("Solve")));
            assert!(host.call("Return", &returned).is_some());
            return true;
        }
        "metaresolver" => {
            let image = option("build-arg:IMAGE").unwrap_or_default();
            let (mut source, mut request) = (Vec::new(), Vec::new());
            field(&mut source, 1, format!("docker-image://{image}").as_bytes());
            field(&mut request, 1, &source);
            let mut host = Connection::open(false);
            demand(host.call("ResolveSourceMeta", &request).is_some());
            finish(host, &age);
            return true;
        }
        "words" => {
            let mut host = Connection::open(false);
            let context = context(&mut host, &age);
            let mut read = Vec::new();
            field(&mut read, 1, context.as_bytes());
            field(&mut read, 2, b"there-is-no-such-file");
            assert!(host.call("ReadFile", &read).is_none());
            // It knows a missing file by the code that hosts of today give: 2, in HPACK.
            demand(host.last_block.windows(2).any(|part| part == [0x81, 0x17]));
            assert!(host.call("Return", &age.returned(&context)).is_some());
            return true;
        }
        "definitions" => {
            let mut host = Connection::open(false);
            let answer = host
                .call("Solve", &age.solve("context", None))
                .expect("Solve");
            let reference = get(&answer, 3).and_then(|result| get(result, 3));
            demand(reference.is_some_and(|reference| get(reference, 2).is_some()));
            let returned = age.returned(&age.reference(&answer));
            assert!(host.call("Return", &returned).is_some());
            return true;
        }
        // What it solves.
        "tag" => {
            let mut host = Connection::open(false);
            let (mut source, mut op) = (Vec::new(), Vec::new());
            field(&mut source, 1, b"docker-image://docker.io/test/none:1");
            field(&mut op, 3, &source);
            assert!(host.call("Solve", &age.message(&op, None)).is_some());
            finish(host, &age);
            return true;
        }
        "no-session" => {
            let mut host = Connection::open(false);
            let (mut source, mut op) = (Vec::new(), Vec::new());
            field(&mut source, 1, b"local://context");
            field(&mut op, 3, &source);
            assert!(host.call("Solve", &age.message(&op, None)).is_some());
            finish(host, &age);
            return true;
        }
        "random" => {
            let mut host = Connection::open(false);
            let now = std::time::SystemTime::now();
            let now = now.duration_since(std::time::UNIX_EPOCH).expect("a time");
            let (mut source, mut op) = (Vec::new(), Vec::new());
            field(&mut source, 1, b"local://context");
            let now = now.as_nanos().to_string();
            field(
                &mut source,
                2,
                &entry("local.sharedkeyhint", now.as_bytes()),
            );
            field(&mut op, 3, &source);
            assert!(host.call("Solve", &age.message(&op, None)).is_some());
            finish(host, &age);
            return true;
        }
        "text-only" => {
            let mut host = Connection::open(false);
            let answer = host
                .call("Solve", &age.solve("dockerfile", None))
                .expect("Solve");
            let mut read = Vec::new();
            field(&mut read, 1, age.reference(&answer).as_bytes());
            field(&mut read, 2, b"Dockerfile");
            let file = host.call("ReadFile", &read).expect("ReadFile");
            let text = get(&file, 1).unwrap_or_default();
            demand(std::str::from_utf8(text).is_ok());
            finish(host, &age);
            return true;
        }
        "config-only" => {
            let mut request = Vec::new();
            let image = option("build-arg:IMAGE").unwrap_or_default();
            field(&mut request, 1, image.as_bytes());
            let mut host = Connection::open(false);
            let answer = host.call("ResolveImageConfig", &request).expect("an image");
            demand(get(&answer, 2).is_some_and(|config| config.ends_with(b"}")));
            finish(host, &age);
            return true;
        }
        // How it calls and warns.
        "nested" => {
            let mut host = Connection::open(false);
            if option("cmdline").is_none() {
                let mut solve = Vec::new();
                field(&mut solve, 2, b"gateway.v0");
                field(&mut solve, 3, &entry("source", b"nowhere.test/nested:1"));
                number(&mut solve, 5, 1);
                number(&mut solve, 6, 1);
                assert!(host.call("Solve", &solve).is_none());
            }
            finish(host, &age);
            return true;
        }
        "warns" => {
            let mut host = Connection::open(false);
            let mut warning = Vec::new();
            number(&mut warning, 2, 1);
            field(&mut warning, 3, b"this is a warning about nothing");
            assert!(host.call("Warn", &warning).is_some());
            finish(host, &age);
            return true;
        }
        "hasty" => {
            let mut host = Connection::open(false);
            host.send("Solve", &age.solve("context", None));
            let mut message = Vec::new();
            field(&mut message, 1, &[]);
            assert!(host.call("Return", &message).is_some());
            return true;
        }
        "stays" => {
            let mut host = Connection::open(false);
            host.stays = true;
            finish(host, &age);
            return true;
        }
        "one-stream" | "two-streams" | "open-input" => {
            let mut host = Connection::open(false);
            let context = context(&mut host, &age);
            processes(&mut host, &context, mode);
            assert!(host.call("Return", &age.returned(&context)).is_some());
            return true;
        }
        _ => return false,
    }
    age.build(Ending::Return(0));
    true
}

fn demand(good: bool) {
    if !good {
        eprintln!("this frontend cannot do without");
        exit(9);
    }
}

fn context(host: &mut Connection, age: &Age) -> String {
    let answer = host.call("Solve", &age.solve("context", None));
    age.reference(&answer.expect("Solve"))
}

fn finish(mut host: Connection, age: &Age) {
    let context = context(&mut host, age);
    assert!(host.call("Return", &age.returned(&context)).is_some());
}

/// An op that makes a directory in nothing.
fn mkdir() -> Vec<u8> {
    let (mut made, mut action, mut file, mut op) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    field(&mut made, 1, b"/made");
    number(&mut made, 2, 0o755);
    number(&mut action, 1, u64::MAX);
    number(&mut action, 2, u64::MAX);
    number(&mut action, 3, 0);
    field(&mut action, 6, &made);
    field(&mut file, 2, &action);
    field(&mut op, 4, &file);
    op
}

/// A container over a ref, and two processes in it that are not there, with inputs that are ended or left open.
fn processes(host: &mut Connection, reference: &str, mode: &str) {
    let (mut mount, mut request) = (Vec::new(), Vec::new());
    field(&mut mount, 3, b"/");
    field(&mut mount, 23, reference.as_bytes());
    field(&mut request, 1, b"container");
    field(&mut request, 2, &mount);
    assert!(host.call("NewContainer", &request).is_some());
    let init = |id: &str| {
        let (mut meta, mut init, mut message) = (Vec::new(), Vec::new(), Vec::new());
        field(&mut meta, 1, b"/there-is-no-such-program");
        field(&mut meta, 3, b"/");
        field(&mut init, 1, b"container");
        field(&mut init, 2, &meta);
        // Packed: the input and no output.
        field(&mut init, 3, &[0]);
        field(&mut message, 1, id.as_bytes());
        field(&mut message, 2, &init);
        message
    };
    let end_of_input = |id: &str| {
        let (mut file, mut message) = (Vec::new(), Vec::new());
        number(&mut file, 2, 1);
        field(&mut message, 1, id.as_bytes());
        field(&mut message, 3, &file);
        message
    };
    let mut streams = Vec::new();
    for id in ["one", "two"] {
        if streams.is_empty() || mode == "two-streams" {
            streams.push(host.start("ExecProcess"));
        }
        let stream = streams[streams.len() - 1];
        let mut messages = vec![init(id)];
        if mode != "open-input" {
            messages.push(end_of_input(id));
        }
        for message in messages {
            let mut body = vec![0];
            body.extend((message.len() as u32).to_be_bytes());
            body.extend(message);
            host.used(stream, body.len() as i64);
            host.write(&frame(DATA, 0, stream, &body));
        }
    }
    for stream in streams {
        // Half closed: the host ends the stream when the processes have ended.
        host.write(&frame(DATA, END_STREAM, stream, &[]));
        host.receive(stream);
    }
    let mut release = Vec::new();
    field(&mut release, 1, b"container");
    host.call("ReleaseContainer", &release);
}
