//! Options of `RUN --mount`, with values as they stand.

use gateway_dockerfile::parse::mount::Mount;

/// One run with one input.
pub fn run(text: &str) {
    let _ = Mount::parse(text, &mut |value| Ok(value.to_owned()));
    let _ = Mount::parse(text, &mut |_| Err("refused".to_owned()));
}
