//! The HTTP of docker's clients: a path with the query of a build on the first line, headers of a session on
//! the others. An output never names a path of this machine, an id of a session is letters and digits.

use gateway_daemon::fuzzing;

/// One run with one input.
pub fn run(text: &str) {
    fuzzing::http(text);
}
