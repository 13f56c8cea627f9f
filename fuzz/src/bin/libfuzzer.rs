//! The fuzzer: libFuzzer over the target that the variable `FUZZ_TARGET` names. Built by `scripts/fuzz`,
//! for the feature and the compiler's flags that it needs.

#![no_main]

use std::sync::LazyLock;

use gateway_fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static RUN: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let Some(target) = Target::find(&name) else {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("FUZZ_TARGET must be one of: {}", names.join(" "));
        std::process::exit(2);
    };
    target.run
});

fuzz_target!(|bytes: &[u8]| RUN(bytes));
