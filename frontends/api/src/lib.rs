//! The `Gateway` trait and its values: what a frontend may ask of the engine that runs it, and what
//! it answers. One trait, three doors: in process, over a container's stdio, over a socket.
//!
//! What may not enter: transports (no tonic, no C code), how anything is solved or run.

pub mod caps;
pub mod container;
pub mod error;
pub mod gateway;
pub mod progress;
pub mod request;
pub mod result;
pub mod truth;

pub use container::{Container, ContainerRequest, Process, ProcessEvent, ProcessRequest};
pub use error::{Cause, Code, Detail, Error, SourceLocation};
pub use gateway::{FrontendFn, Gateway, Invocation, Worker};
pub use request::*;
pub use result::{Attestation, BuildResult, Ref, Refs};
pub use truth::parse_bool;
