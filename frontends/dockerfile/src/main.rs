//! The Dockerfile frontend as a program of its own: the entrypoint of a frontend image.

use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    gateway_frontend::run(Arc::new(|gateway| {
        Box::pin(gateway_dockerfile::build(gateway))
    }))
}
