//! The Dockerfile frontend as an image: its entry point, speaking over stdin and stdout.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args()
        .nth(1)
        .is_some_and(|arg| arg == "-version" || arg == "--version")
    {
        println!("gateway-dockerfile {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    gateway_frontend::main(gateway_dockerfile::build)
}
