//! Progress on a terminal: one line a step, repainted in place, with a small window of live output
//! under the steps that run.
//!
//! A pure function of events, time and the size of the terminal, so that a test can play any
//! recording on any terminal.

use std::collections::HashMap;

use gateway_api::progress::{Status, VertexStatus};
use time::OffsetDateTime;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::bytes::format_bytes;
use super::colors::{Colors, Paint};
use super::trace::{Keep, Trace, VertexState};

/// Lines of live output shown of one step unless configured otherwise.
pub const LOG_LINES: u16 = 6;
/// Columns that the mark before a line of live output takes.
const LOG_INDENT: u16 = 10;
/// Narrower than this nothing sensible can be drawn; wider lines wrap on such a terminal.
const LEAST_COLUMNS: u16 = 20;
/// From this width on a transfer has a bar.
const BAR_COLUMNS: usize = 90;
const BAR: usize = 20;

/// Of the terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

impl Default for Size {
    fn default() -> Self {
        Size {
            columns: 80,
            rows: 24,
        }
    }
}

/// How it looks.
#[derive(Debug, Clone)]
pub struct Look {
    pub colors: Colors,
    /// Lines of live output of one step.
    pub log_lines: u16,
    /// Right end of the first line.
    pub title: String,
}

/// A terminal of a few lines that a step's output is played into, so that progress bars and cursor
/// movements of the tools in there look as they should.
struct Window {
    screen: vt100::Parser,
    /// Bytes so far and lines lately: who writes much gets a window first.
    bytes: u64,
}

struct Line {
    text: String,
    paint: Paint,
}

pub struct Tty {
    trace: Trace,
    look: Look,
    windows: HashMap<usize, Window>,
    /// Widths of the lines on the screen, in columns.
    painted: Vec<usize>,
    started: Option<OffsetDateTime>,
    columns: u16,
}

impl Tty {
    pub fn new(look: Look) -> Self {
        Tty {
            // The window shows a few lines only: the whole output follows when the step fails.
            trace: Trace::new(Keep {
                lines: false,
                tail: usize::MAX,
            }),
            look,
            windows: HashMap::new(),
            painted: Vec::new(),
            started: None,
            columns: Size::default().columns,
        }
    }

    pub fn update(&mut self, status: Status, now: OffsetDateTime) {
        self.started.get_or_insert(now);
        let logs = status.logs.clone();
        self.trace.update(status, now);
        for log in logs {
            let Some(index) = self.trace.index_of(&log.vertex) else {
                continue;
            };
            let (rows, columns) = (self.look.log_lines.max(1), self.window_columns());
            let window = self.windows.entry(index).or_insert_with(|| Window {
                screen: vt100::Parser::new(rows, columns, 0),
                bytes: 0,
            });
            window.bytes += log.data.len() as u64;
            play(&mut window.screen, &log.data);
        }
    }

    /// The bytes that turn what is on the terminal into the state of now.
    pub fn render(&mut self, now: OffsetDateTime, size: Size) -> Vec<u8> {
        self.resize(size);
        self.forget_ended();
        let size = Size {
            columns: size.columns.max(LEAST_COLUMNS),
            rows: size.rows.max(4),
        };
        let lines = self.lines(now, size, false);
        self.paint(&lines, size)
    }

    /// The last picture with every step, and the output of those that failed.
    pub fn finish(&mut self, now: OffsetDateTime, size: Size) -> Vec<u8> {
        self.resize(size);
        let size = Size {
            columns: size.columns.max(LEAST_COLUMNS),
            ..size
        };
        let lines = self.lines(now, size, true);
        let mut out = self.paint(&lines, size);
        out.extend_from_slice(&self.trace.error_blocks());
        out
    }

    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    fn window_columns(&self) -> u16 {
        self.columns.saturating_sub(LOG_INDENT).max(10)
    }

    fn resize(&mut self, size: Size) {
        if self.columns == size.columns {
            return;
        }
        self.columns = size.columns;
        let (rows, columns) = (self.look.log_lines.max(1), self.window_columns());
        for window in self.windows.values_mut() {
            window.screen.screen_mut().set_size(rows, columns);
        }
    }

    /// Output of steps that ended well is not needed again.
    fn forget_ended(&mut self) {
        for index in std::mem::take(&mut self.trace.updated) {
            let state = &mut self.trace.vertices[index];
            if state.is_completed() && state.vertex.error.is_empty() {
                state.forget_output();
                self.windows.remove(&index);
            }
        }
    }

    fn lines(&self, now: OffsetDateTime, size: Size, whole: bool) -> Vec<Line> {
        let columns = usize::from(size.columns);
        let shown = |state: &VertexState| !state.hidden;
        let total = self.trace.vertices.iter().filter(|s| shown(s)).count();
        let mut done = 0;
        let mut jobs: Vec<Job> = Vec::new();
        for (index, state) in self.trace.vertices.iter().enumerate() {
            if !shown(state) || !state.is_started() {
                continue;
            }
            done += usize::from(state.is_completed());
            jobs.push(Job::of(index, state, now, columns));
        }
        jobs.sort_by_key(|job| job.first_start);
        if !whole {
            self.fit(&mut jobs, usize::from(size.rows));
        }
        let ended = whole && done == total && total > 0;
        let mut lines = vec![self.header(now, (done, total), ended, columns)];
        for job in jobs {
            let window = job.window;
            lines.extend(job.lines);
            if window {
                lines.extend(self.window_lines(job.index, columns));
            }
        }
        lines
    }

    /// Gives windows to the busiest steps while there is room, and drops ended steps from the top
    /// when there is none.
    fn fit(&self, jobs: &mut Vec<Job>, rows: usize) {
        let room = rows.saturating_sub(2);
        let window_rows = usize::from(self.look.log_lines);
        let running: usize = jobs.iter().filter(|job| !job.ended).map(Job::height).sum();
        let mut free = room.saturating_sub(running);
        let mut busy: Vec<usize> = (0..jobs.len())
            .filter(|at| !jobs[*at].ended && self.windows.contains_key(&jobs[*at].index))
            .collect();
        busy.sort_by_key(|at| std::cmp::Reverse(self.windows[&jobs[*at].index].bytes));
        for at in busy {
            if free < window_rows {
                break;
            }
            jobs[at].window = true;
            free -= window_rows;
        }
        let windows: usize = jobs
            .iter()
            .filter(|job| job.window)
            .map(|job| self.window_height(job.index))
            .sum();
        let mut height = windows + jobs.iter().map(Job::height).sum::<usize>();
        jobs.retain(|job| {
            let drop = height > room && job.ended;
            if drop {
                height -= job.height();
            }
            !drop
        });
        // More runs at once than there are rows: the newest are shown.
        let mut surplus = height.saturating_sub(room);
        for job in jobs.iter_mut() {
            let cut = surplus.min(job.lines.len());
            job.lines.drain(..cut);
            surplus -= cut;
        }
    }

    fn window_height(&self, index: usize) -> usize {
        self.windows
            .get(&index)
            .map_or(0, |window| used_rows(&window.screen).len())
    }

    fn window_lines(&self, index: usize, columns: usize) -> Vec<Line> {
        let Some(window) = self.windows.get(&index) else {
            return Vec::new();
        };
        used_rows(&window.screen)
            .into_iter()
            .map(|row| Line {
                text: cut(&format!(" => => # {row}"), columns),
                paint: Paint::Faint,
            })
            .collect()
    }

    fn header(
        &self,
        now: OffsetDateTime,
        (done, total): (usize, usize),
        ended: bool,
        columns: usize,
    ) -> Line {
        let seconds = self
            .started
            .map_or(0.0, |started| (now - started).as_seconds_f64());
        let ended = if ended { " FINISHED" } else { "" };
        let text = format!("[+] Building {seconds:.1}s ({done}/{total}){ended}");
        Line {
            text: justify(&text, &self.look.title, columns),
            paint: Paint::Plain,
        }
    }

    fn paint(&mut self, lines: &[Line], size: Size) -> Vec<u8> {
        let mut out = String::new();
        // A terminal that became narrower has broken the painted lines into more of them.
        let columns = usize::from(size.columns);
        let rows: usize = self
            .painted
            .iter()
            .map(|width| width.div_ceil(columns).max(1))
            .sum();
        out.push_str("\x1b[?25l");
        if rows > 0 {
            out.push_str(&format!("\x1b[{rows}A\r"));
        }
        for line in lines {
            let (before, after) = self.look.colors.around(line.paint);
            out.push_str(before);
            out.push_str(&line.text);
            out.push_str(after);
            // A full line leaves the cursor behind its last character: erasing there would eat it.
            if line.text.width() < columns {
                out.push_str("\x1b[K");
            }
            out.push_str("\r\n");
        }
        out.push_str("\x1b[J\x1b[?25h");
        self.painted = lines.iter().map(|line| line.text.width()).collect();
        out.into_bytes()
    }
}

/// A step with all its lines.
struct Job {
    index: usize,
    first_start: Option<OffsetDateTime>,
    lines: Vec<Line>,
    ended: bool,
    window: bool,
}

impl Job {
    fn height(&self) -> usize {
        self.lines.len()
    }

    fn of(index: usize, state: &VertexState, now: OffsetDateTime, columns: usize) -> Job {
        let vertex = &state.vertex;
        let ended = state.is_completed();
        let canceled = vertex.error.ends_with("context canceled");
        let (mark, paint) = if canceled {
            ("CANCELED ", Paint::Canceled)
        } else if !vertex.error.is_empty() {
            ("ERROR ", Paint::Error)
        } else if vertex.cached && ended {
            ("CACHED ", Paint::Done)
        } else if ended {
            ("", Paint::Done)
        } else {
            ("", Paint::Plain)
        };
        let mut lines = vec![Line {
            text: timed(
                &format!("{mark}{}", clean(&vertex.name)),
                "",
                state.seconds_until(now),
                columns,
            ),
            paint,
        }];
        lines.extend(
            state
                .statuses
                .iter()
                .map(|status| part(status, ended, now, columns)),
        );
        lines.extend(state.warnings.iter().map(|warning| Line {
            text: cut(
                &format!(
                    " => WARN: {}",
                    clean(&String::from_utf8_lossy(&warning.short))
                ),
                columns,
            ),
            paint: Paint::Warning,
        }));
        Job {
            index,
            first_start: state.first_start(),
            lines,
            ended,
            window: false,
        }
    }
}

/// One part of a step, e.g. the transfer of a layer.
fn part(status: &VertexStatus, step_ended: bool, now: OffsetDateTime, columns: usize) -> Line {
    let ended = status.completed.is_some();
    let amount = if status.total != 0 {
        let numbers = format!(
            " {} / {}",
            format_bytes(status.current),
            format_bytes(status.total)
        );
        if ended || step_ended || columns < BAR_COLUMNS {
            numbers
        } else {
            format!(" {}{numbers}", bar(status.current, status.total))
        }
    } else if status.current != 0 {
        format!(" {}", format_bytes(status.current))
    } else {
        String::new()
    };
    let end = status
        .completed
        .unwrap_or(if step_ended { status.timestamp } else { now });
    let seconds = status
        .started
        .map_or(0.0, |started| (end - started).as_seconds_f64());
    Line {
        text: timed(
            &format!("=> {}", clean(&status.id)),
            &amount,
            seconds,
            columns,
        ),
        paint: match ended || step_ended {
            true => Paint::Done,
            false => Paint::Plain,
        },
    }
}

fn bar(current: i64, total: i64) -> String {
    let share = (current as f64 / total as f64).clamp(0.0, 1.0);
    let full = ((BAR as f64) * share) as usize;
    let head = if full < BAR { ">" } else { "" };
    format!(
        "[{}{head}{}]",
        "=".repeat(full),
        " ".repeat(BAR.saturating_sub(full + head.len()))
    )
}

/// ` => NAME[AMOUNT]        1.2s`: the amount only where it fits whole.
fn timed(name: &str, amount: &str, seconds: f64, columns: usize) -> String {
    // What rounds to nothing is nothing: a clock that stepped back must not show as a minus.
    let seconds = if seconds < 0.05 { 0.0 } else { seconds };
    let timer = format!(" {seconds:>3.1}s");
    let room = columns.saturating_sub(timer.width());
    let left = format!(" => {name}");
    let left = if left.width() + amount.width() <= room {
        left + amount
    } else {
        cut(&left, room)
    };
    justify(&left, &timer, columns)
}

/// Both texts with blanks between them up to the width; the right one goes when there is no room.
fn justify(left: &str, right: &str, columns: usize) -> String {
    let (left_width, right_width) = (left.width(), right.width());
    if left_width + right_width > columns {
        return cut(left, columns);
    }
    let blanks = columns - left_width - right_width;
    format!("{left}{}{right}", " ".repeat(blanks))
}

/// As much of the text as fits, by columns, not characters.
fn cut(text: &str, columns: usize) -> String {
    let mut width = 0;
    text.chars()
        .take_while(|c| {
            width += c.width().unwrap_or(0);
            width <= columns
        })
        .collect()
}

/// Names come from frontends: nothing in them may steer the terminal.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Rows that hold something, from the top.
fn used_rows(screen: &vt100::Parser) -> Vec<String> {
    let screen = screen.screen();
    let (_, columns) = screen.size();
    let mut rows: Vec<String> = screen.rows(0, columns).map(|row| clean(&row)).collect();
    while rows.last().is_some_and(|row| row.trim().is_empty()) {
        rows.pop();
    }
    rows
}

/// A line feed of a program's output also goes to the start of the line, as on a terminal.
fn play(screen: &mut vt100::Parser, data: &[u8]) {
    for piece in data.split_inclusive(|byte| *byte == b'\n') {
        match piece.strip_suffix(b"\n") {
            Some(text) => {
                screen.process(text);
                screen.process(b"\r\n");
            }
            None => screen.process(piece),
        }
    }
}

#[cfg(test)]
mod tests;
