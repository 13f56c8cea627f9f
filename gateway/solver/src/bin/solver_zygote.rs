//! The smallest program that can be a sandbox launcher process; the tests of this crate start it.

use std::process::ExitCode;

fn main() -> ExitCode {
    gateway_sandbox::maybe_run_zygote();
    eprintln!("this program is started by a sandbox launcher only");
    ExitCode::FAILURE
}
