//! Unpacking a layer: whatever its names and links say, nothing outside of the destination changes.

use crate::{Archive, Arena};
use gateway_images::layer::{Limits, OpaqueXattr, UnpackOptions, unpack};

thread_local! {
    static ARENA: Arena = Arena::new();
}

/// One run with one input.
pub fn run(archive: &Archive) {
    ARENA.with(|arena| run_in(arena, archive));
}

fn run_in(arena: &Arena, archive: &Archive) {
    let bytes = archive.bytes(&arena.outside());
    for parents in [None, Some(&[][..])] {
        let inside = arena.inside();
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
        arena.check();
    }
}
