//! How a frontend is written: a function over the `Gateway` trait, and [`run`], which connects it
//! with the engine that started this process.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use gateway_api::{BuildResult, Gateway};
//!
//! fn main() -> std::process::ExitCode {
//!     gateway_frontend::run(Arc::new(|gateway: Arc<dyn Gateway>| {
//!         Box::pin(async move {
//!             let _options = &gateway.invocation().opts;
//!             Ok(BuildResult::default())
//!         })
//!     }))
//! }
//! ```
//!
//! What may not enter: the solver, and C code: a frontend is a small static program.

mod caps;
mod client;
mod container;
pub mod csv;
mod invocation;
mod own_image;
mod run;
mod stdio;
mod transport;

pub use caps::{FROZEN_LLB_CAPS, missing_llb_cap};
pub use client::Client;
pub use invocation::Environment;
pub use own_image::{OWN_IMAGE_PATH, own_image};
pub use run::{RunError, run, serve};
