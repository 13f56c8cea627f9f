//! Directories that a client sends: a first transfer and, into the same directory, a second one (the first
//! byte says where the input is cut). Whatever names and links say, nothing outside of it changes.

use gateway_daemon::fuzzing;

use crate::Arena;

thread_local! {
    static ARENA: Arena = Arena::new();
}

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let Some((cut, packets)) = bytes.split_first() else {
        return;
    };
    let (first, second) = packets.split_at(packets.len() * usize::from(*cut) / 255);
    ARENA.with(|arena| {
        let inside = arena.inside();
        for (part, fresh) in [(first, false), (second, false), (second, true)] {
            let _ = fuzzing::receive(part, &inside, fresh);
            arena.check();
        }
    });
}
