//! How a frontend is written: a function from a build's options to LLB, and [`run`], which connects
//! it with the build server that started its process.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::sync::Arc;
//!
//! use gateway_frontend::api::{BuildResult, Error, Gateway, SolveRequest};
//! use gateway_frontend::llb::{Constraints, ImageSource, MarshalOptions};
//!
//! #[tokio::main]
//! async fn main() -> ExitCode {
//!     gateway_frontend::run(build).await
//! }
//!
//! async fn build(gateway: Arc<dyn Gateway>) -> Result<BuildResult, Error> {
//!     let image = ImageSource::new("docker.io/library/alpine:3.20");
//!     let state = image.state(Constraints::new()).dir("/").run(["make"]).root();
//!     let definition = state
//!         .marshal(&MarshalOptions::default())
//!         .map_err(|e| Error::unknown(e.to_string()))?;
//!     let request = SolveRequest {
//!         definition: Some(definition),
//!         ..SolveRequest::default()
//!     };
//!     gateway.solve(request).await
//! }
//! ```
//!
//! That is the smallest that there is: its result has files and no image config. `gateway frontend new NAME` writes a crate
//! that also pins its base, builds for several platforms, gives images a config, and has a test.
//!
//! - [`conventions`]: the options, contexts, ignore files and named contexts that build clients send,
//!   read as every frontend should read them. Start with [`BuildClient`].
//! - [`results`]: results of one or several platforms; [`image_config`]: how images are run.
//! - [`scanner`]: the bill of materials of a result, if the caller asks for one.
//! - [`subrequest`]: questions instead of builds, and capabilities that callers require.
//! - [`testing`]: a gateway in memory for unit tests; [`record`]: real conversations, played back.
//! - [`api`]: the `Gateway` trait and its values; [`llb`]: the language of build graphs.
//!
//! The same function runs in the process of an engine, in a container under this project's gateway,
//! and under BuildKit's, old and new. `docs/frontends.md` of the project is the guide,
//! `docs/write-a-frontend.md` the way from an empty folder to a published image.
//!
//! What may not enter: the solver, and C code: a frontend is a small static program.

mod answer;
mod caps;
mod client;
mod container;
pub mod conventions;
pub mod csv;
pub mod image_config;
mod invocation;
mod own_image;
pub mod record;
pub mod results;
mod run;
pub mod scanner;
mod stdio;
pub mod subrequest;
pub mod testing;
mod transport;

pub use gateway_api as api;
pub use gateway_llb as llb;

pub use caps::{FROZEN_LLB_CAPS, missing_llb_cap};
pub use client::Client;
pub use conventions::BuildClient;
pub use invocation::Environment;
pub use own_image::{OWN_IMAGE_PATH, own_image};
pub use run::{RunError, function, main, run, serve};
