//! Archives that ADD unpacks: whatever names and links say, nothing outside of the destination changes.

use crate::{Archive, Arena};
use gateway_solver::fs::{Owner, Root, unpack::unpack};
use std::fs;

thread_local! {
    static ARENA: Arena = Arena::new();
}

/// One run with one input.
pub fn run(archive: &Archive) {
    ARENA.with(|arena| run_in(arena, archive));
}

fn run_in(arena: &Arena, archive: &Archive) {
    let inside = arena.inside();
    let bytes = archive.bytes(&arena.outside());
    let (from, to) = (inside.join("from"), inside.join("to"));
    fs::create_dir(&from).expect("made");
    fs::create_dir(&to).expect("made");
    fs::write(from.join("a.tar"), bytes).expect("written");
    let roots = Root::open(&from).and_then(|from| Ok((from, Root::open(&to)?)));
    let (from_root, to_root) = roots.expect("opened");
    let me = Owner {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
    };
    if let Err(error) = unpack(&from_root, b"a.tar", &to_root, b"/dest", Some(me), None) {
        error.to_string();
    }
    arena.check();
    let entries = fs::read_dir(&to).expect("listed").count();
    assert!(entries <= 1, "something was made beside the destination");
    let names = fs::read_dir(&from).expect("listed").count();
    assert_eq!(names, 1, "something was made in the source");
}
