//! Whole-program tests: the harness that starts real servers, runs the real binary and reads what it
//! made. Test files are under `tests/`, their data under `data/`.
//!
//! What may not enter: the product's own code for judging results (images are read back here by
//! means of our own and by Debian's tools, so that one bug cannot hide another).

pub mod base_images;
pub mod cache;
pub mod calls;
pub mod case;
pub mod client;
pub mod daemon;
pub mod dockerd;
pub mod expect;
pub mod git;
pub mod hub;
pub mod image;
pub mod machine;
pub mod measure;
pub mod nginx;
pub mod program;
pub mod raw_frontend;
pub mod registry;
pub mod remains;
pub mod rig;
pub mod scanner;
pub mod services;
pub mod stalling;
pub mod tls;
pub mod tokens;
pub mod web;
