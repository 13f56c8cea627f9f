//! Options of `RUN --mount`, with values as they stand.

#![no_main]

use gateway_dockerfile::parse::mount::Mount;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Mount::parse(text, &mut |value| Ok(value.to_owned()));
    let _ = Mount::parse(text, &mut |_| Err("refused".to_owned()));
});
