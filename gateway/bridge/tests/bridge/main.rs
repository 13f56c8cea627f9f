//! The bridge and the frontend library talking to each other over an in-memory pipe pair.

mod conversation;
mod mock;
mod raw;
#[path = "../support/mod.rs"]
mod support;
mod wire;
