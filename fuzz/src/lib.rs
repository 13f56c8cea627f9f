//! What every parser and decoder of bytes from outside promises, as functions of one input each: the
//! fuzzer (`src/bin/libfuzzer.rs`) searches for inputs that break a promise, the tests (`tests/corpus.rs`)
//! hold the promises over the seeds and some thousands of mutations of them.
//!
//! What may not enter: a parser. What a target knows about the bytes it reads belongs into `targets`,
//! what several of them need beside it.

mod arena;
mod mutate;
mod tarball;
pub mod targets;

use std::path::PathBuf;

use arbitrary::{Arbitrary, Unstructured};

pub use arena::Arena;
pub use mutate::Mutator;
pub use tarball::{Archive, Packing};

/// One promise over all inputs.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Names the module in `targets` and the folder in `corpus`.
    pub name: &'static str,
    /// Panics when the promise is broken.
    pub run: fn(&[u8]),
    /// How many mutated inputs the tests try: some seconds' worth without optimisation.
    pub rounds: u32,
}

impl Target {
    /// The target of that name.
    pub fn find(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Where its seeds lie.
    pub fn corpus(&self) -> PathBuf {
        let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        package.join("corpus").join(self.name)
    }
}

/// A target that reads bytes, text, or values that are made from bytes.
macro_rules! target {
    ($name:ident, bytes, $rounds:literal) => {
        target!($name, $rounds, targets::$name::run)
    };
    ($name:ident, text, $rounds:literal) => {
        target!($name, $rounds, |bytes| {
            if let Ok(text) = std::str::from_utf8(bytes) {
                targets::$name::run(text);
            }
        })
    };
    ($name:ident, made $made:ty, $rounds:literal) => {
        target!($name, $rounds, |bytes| {
            if let Ok(made) = <$made>::arbitrary_take_rest(Unstructured::new(bytes)) {
                targets::$name::run(&made);
            }
        })
    };
    ($name:ident, $rounds:literal, $run:expr) => {
        Target {
            name: stringify!($name),
            run: $run,
            rounds: $rounds,
        }
    };
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target!(bridge_authority, bytes, 20_000),
    target!(daemon_answers, bytes, 10_000),
    target!(daemon_control, bytes, 10_000),
    target!(daemon_http, text, 10_000),
    target!(daemon_receive, bytes, 2_000),
    target!(daemon_send, bytes, 3_000),
    target!(dockerfile, bytes, 3_000),
    target!(dockerfile_context, bytes, 5_000),
    target!(dockerfile_expand, text, 10_000),
    target!(dockerfile_mount, text, 10_000),
    target!(image_archive, made Vec<targets::image_archive::File>, 500),
    target!(image_config, bytes, 3_000),
    target!(image_manifest, bytes, 5_000),
    target!(image_reference, text, 20_000),
    target!(layer_estargz, bytes, 2_000),
    target!(layer_tar, bytes, 3_000),
    target!(layer_unpack, made Archive, 500),
    target!(llb_graph, bytes, 5_000),
    target!(llb_text, text, 20_000),
    target!(proto_errors, bytes, 5_000),
    target!(proto_messages, bytes, 10_000),
    target!(registry_certificate, bytes, 5_000),
    target!(registry_settings, bytes, 5_000),
    target!(registry_wire, bytes, 10_000),
    target!(solver_archive, made Archive, 500),
    target!(solver_modes, text, 20_000),
    target!(solver_patterns, bytes, 5_000),
    target!(solver_signature, bytes, 1_000),
];
