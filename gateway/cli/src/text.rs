//! Numbers and times for people, and the ways to stdout and stderr.

use std::io::{self, Write as _};
use std::sync::OnceLock;

use crate::progress::bytes::format_bytes;

/// In the place of the standard library's: those panic when nobody reads stderr or a disk behind it is full.
macro_rules! eprintln {
    () => { $crate::text::tell(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::text::tell(format_args!("{}\n", format_args!($($arg)*))) };
}
macro_rules! eprint {
    ($($arg:tt)*) => { $crate::text::tell(format_args!($($arg)*)) };
}

/// What cannot be told changes nothing about the outcome.
pub fn tell(text: std::fmt::Arguments<'_>) {
    let _ = io::stderr().write_fmt(text);
}

/// Why something that was meant for stdout did not get there.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Nobody reading stdout is no failure; a full disk behind it is one, see [`lost`].
pub fn print(text: &str) {
    print_bytes(text.as_bytes());
}

pub fn print_bytes(bytes: &[u8]) {
    let mut stdout = io::stdout();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => drop(LOST.set(error)),
        _ => {}
    }
}

/// A command whose answer is lost has failed, whatever else it did.
pub fn lost() -> Option<&'static io::Error> {
    LOST.get()
}

pub fn size_text(bytes: u64) -> String {
    format_bytes(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// Seconds since the epoch as UTC.
pub fn time_text(seconds: i64) -> String {
    match time::OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(t) => format!(
            "{}-{:02}-{:02} {:02}:{:02}:{:02}",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        ),
        Err(_) => seconds.to_string(),
    }
}
