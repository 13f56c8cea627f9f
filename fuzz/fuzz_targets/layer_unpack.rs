//! Unpacking a layer: whatever its names and links say, nothing outside of the destination changes.

#![no_main]

use std::sync::LazyLock;

use gateway_fuzz::{Archive, Arena};
use gateway_images::layer::{Limits, OpaqueXattr, UnpackOptions, unpack};
use libfuzzer_sys::fuzz_target;

static ARENA: LazyLock<Arena> = LazyLock::new(Arena::new);

fuzz_target!(|archive: Archive| {
    let bytes = archive.bytes(&ARENA.outside());
    for parents in [None, Some(&[][..])] {
        let inside = ARENA.inside();
        let options = UnpackOptions {
            opaque: OpaqueXattr::User,
            parents,
            owners: false,
            diff_id: None,
            limits: Limits {
                bytes: 4 << 20,
                entries: 1000,
            },
        };
        if let Err(error) = unpack(&bytes[..], &inside.join("layer"), &options) {
            error.to_string();
        }
        ARENA.check();
    }
});
