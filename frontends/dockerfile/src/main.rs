//! The Dockerfile frontend as an image: its entry point, speaking over stdin and stdout.

use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    if std::env::args()
        .nth(1)
        .is_some_and(|arg| arg == "-version" || arg == "--version")
    {
        println!("gateway-dockerfile {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    gateway_frontend::run(Arc::new(|gateway| {
        Box::pin(gateway_dockerfile::build(gateway))
    }))
}
