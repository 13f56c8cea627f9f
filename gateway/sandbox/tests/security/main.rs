//! What a payload must not be able to do, one numbered test a point; the
//! numbers are those of the table in `docs/sandbox.md`. Each attempt is made in
//! a sandbox of root, in one of an ordinary user and under runc, which is the
//! yardstick: nothing that it refuses is allowed here.

#[path = "../common/mod.rs"]
mod common;

mod ends;
mod frontends;
mod kernel;
mod leaks;
mod limits;
mod parity;
mod paths;
mod places;
