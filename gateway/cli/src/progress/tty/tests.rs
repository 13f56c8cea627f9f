//! Recordings played on terminals of several sizes; what is compared is what a person would see.

use gateway_api::progress::{Vertex, VertexLog, VertexWarning};
use time::Duration;

use super::*;

fn look() -> Look {
    Look {
        colors: Colors::none(),
        log_lines: LOG_LINES,
        title: "gateway".into(),
    }
}

const fn size(columns: u16, rows: u16) -> Size {
    Size { columns, rows }
}

fn at(ms: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(ms)
}

/// A terminal with what was above before.
struct Terminal(vt100::Parser);

impl Terminal {
    fn new(size: Size) -> Self {
        let mut parser = vt100::Parser::new(size.rows, size.columns, 1000);
        parser.process(b"$ gateway build .\r\n");
        Terminal(parser)
    }

    /// As the kernel's terminal driver hands it on: a line feed returns the carriage too.
    fn show(&mut self, bytes: &[u8]) {
        play(&mut self.0, bytes);
    }

    fn text(&self) -> String {
        self.0.screen().contents()
    }
}

/// Plays a recording; `stop` ends it early.
fn play_recording(recorded: &str, size: Size, stop: Option<usize>) -> Terminal {
    let mut tty = Tty::new(look());
    let mut terminal = Terminal::new(size);
    let events: Vec<Status> = recorded
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut now = events
        .iter()
        .flat_map(|status| &status.vertexes)
        .find_map(|vertex| vertex.started)
        .unwrap();
    let mut painted = at(0);
    for status in events.into_iter().take(stop.unwrap_or(usize::MAX)) {
        for vertex in &status.vertexes {
            now = now.max(vertex.completed.or(vertex.started).unwrap_or(now));
        }
        tty.update(status, now);
        if now - painted >= Duration::milliseconds(100) {
            terminal.show(&tty.render(now, size));
            painted = now;
        }
    }
    match stop {
        Some(_) => terminal.show(&tty.render(now, size)),
        None => terminal.show(&tty.finish(now, size)),
    }
    terminal
}

#[test]
fn p61_a_recorded_build_ends_with_all_its_steps() {
    let terminal = play_recording(include_str!("../testdata/ok.rawjson"), size(80, 40), None);
    insta::assert_snapshot!(terminal.text());
}

#[test]
fn p61_a_recorded_cached_build_says_so_of_each_step() {
    let recorded = include_str!("../testdata/ok.again.rawjson");
    insta::assert_snapshot!(play_recording(recorded, size(80, 40), None).text());
}

#[test]
fn p61_a_recorded_failure_ends_with_the_whole_log_of_the_failed_step() {
    let terminal = play_recording(include_str!("../testdata/fail.rawjson"), size(80, 40), None);
    insta::assert_snapshot!(terminal.text());
}

#[test]
fn forty_columns_are_enough() {
    let terminal = play_recording(include_str!("../testdata/ok.rawjson"), size(40, 40), None);
    insta::assert_snapshot!(terminal.text());
}

#[test]
fn running_steps_stay_in_sight_on_a_low_terminal() {
    let size = size(80, 8);
    let recorded = include_str!("../testdata/ok.rawjson");
    let count = recorded
        .lines()
        .filter(|line| line.starts_with('{'))
        .count();
    for stop in 1..count {
        let terminal = play_recording(recorded, size, Some(stop));
        let text = terminal.text();
        assert!(
            text.lines().count() <= usize::from(size.rows),
            "{stop}: {text}"
        );
        let headers = text.matches("[+] Building").count();
        assert!(headers <= 1, "painted over, not below: {stop}: {text}");
    }
}

fn vertex(digest: &str, name: &str, started: i64, completed: Option<i64>) -> Status {
    Status {
        vertexes: vec![Vertex {
            digest: digest.into(),
            name: name.into(),
            started: Some(at(started)),
            completed: completed.map(at),
            ..Vertex::default()
        }],
        ..Status::default()
    }
}

fn log(digest: &str, data: &str) -> Status {
    Status {
        logs: vec![VertexLog {
            vertex: digest.into(),
            stream: 1,
            data: data.as_bytes().to_vec(),
            timestamp: at(10),
        }],
        ..Status::default()
    }
}

#[test]
fn a_running_step_has_a_window_of_its_last_lines() {
    let mut tty = Tty::new(look());
    let mut terminal = Terminal::new(size(60, 20));
    tty.update(vertex("a", "[1/2] RUN make", 0, None), at(0));
    tty.update(vertex("b", "[1/1] FROM x", 0, Some(5)), at(5));
    for line in 0..9 {
        tty.update(log("a", &format!("line {line}\n")), at(10));
    }
    tty.update(log("a", " 10%\r 20%\r\x1b[31m 30%"), at(10));
    terminal.show(&tty.render(at(1500), size(60, 20)));
    insta::assert_snapshot!(terminal.text(), @r"
    $ gateway build .
    [+] Building 1.5s (1/2)                              gateway
     => [1/2] RUN make                                      1.5s
     => => # line 4
     => => # line 5
     => => # line 6
     => => # line 7
     => => # line 8
     => => #  30%
     => [1/1] FROM x                                        0.0s
    ");
    // Its end takes the window away.
    tty.update(vertex("a", "[1/2] RUN make", 0, Some(2000)), at(2000));
    terminal.show(&tty.render(at(2000), size(60, 20)));
    insta::assert_snapshot!(terminal.text(), @r"
    $ gateway build .
    [+] Building 2.0s (2/2)                              gateway
     => [1/2] RUN make                                      2.0s
     => [1/1] FROM x                                        0.0s
    ");
}

#[test]
fn a_transfer_has_a_bar_where_there_is_room() {
    let status = |current| Status {
        statuses: vec![VertexStatus {
            id: "sha256:0123456789".into(),
            vertex: "a".into(),
            name: String::new(),
            total: 4_000_000,
            current,
            timestamp: at(100),
            started: Some(at(0)),
            completed: None,
        }],
        ..Status::default()
    };
    let mut tty = Tty::new(look());
    tty.update(vertex("a", "[1/1] FROM x", 0, None), at(0));
    tty.update(status(1_000_000), at(100));
    for (columns, has_bar) in [(100, true), (80, false)] {
        let mut terminal = Terminal::new(size(columns, 10));
        let mut tty_now = tty.render(at(1000), size(columns, 10));
        // The first picture of this size: nothing above it to go back to.
        tty.painted.clear();
        terminal.show(&std::mem::take(&mut tty_now));
        let text = terminal.text();
        assert_eq!(text.contains("[=====>              ]"), has_bar, "{text}");
        assert!(text.contains("1.00MB / 4.00MB"), "{text}");
    }
}

#[test]
fn a_narrower_terminal_is_painted_over_whole() {
    let mut tty = Tty::new(look());
    tty.update(vertex("a", "[1/2] RUN make", 0, None), at(0));
    tty.render(at(100), size(80, 20));
    let bytes = tty.render(at(200), size(40, 20));
    // Two full lines of 80 became four of 40.
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("\x1b[4A"), "{text:?}");
}

#[test]
fn names_and_warnings_steer_no_terminal() {
    let mut tty = Tty::new(look());
    let mut status = vertex("a", "RUN \x1b[2J\x1b]0;owned\x07 echo\nx", 0, None);
    status.warnings.push(VertexWarning {
        vertex: "a".into(),
        short: b"careful \x1b[1;1H".to_vec(),
        ..VertexWarning::default()
    });
    tty.update(status, at(0));
    let text = String::from_utf8(tty.render(at(10), size(80, 20))).unwrap();
    assert!(!text.contains("\x1b[2J") && !text.contains("\x1b]0") && !text.contains("\x1b[1;1H"));
    assert!(text.contains("WARN: careful"), "{text}");
}

#[test]
fn wide_characters_count_double() {
    assert_eq!(cut("建构建构", 5), "建构");
    let line = timed("建构 RUN x", "", 1.0, 30);
    assert_eq!(line.width(), 30, "{line:?}");
}

#[test]
fn colours_go_around_lines_and_are_ended() {
    let mut tty = Tty::new(Look {
        colors: Colors::default(),
        ..look()
    });
    tty.update(vertex("a", "[1/1] FROM x", 0, Some(5)), at(5));
    let text = String::from_utf8(tty.finish(at(10), size(40, 20))).unwrap();
    assert!(text.contains("\x1b[34m => [1/1] FROM x"), "{text:?}");
    assert!(text.ends_with("\x1b[?25h"), "the cursor is back: {text:?}");
}
