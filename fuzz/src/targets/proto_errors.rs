//! Errors of frontends: status messages with details of any kind. What was read is written and read
//! as the same.

use gateway_proto::{error, limits, rpc};
use prost::Message;

/// A type URL by its number, and its JSON.
const KINDS: [&str; 8] = [
    "stack.Stack+json",
    "errdefs.Vertex+json",
    "errdefs.Source+json",
    "errdefs.Frontend+json",
    "errdefs.FrontendCap+json",
    "errdefs.Subrequest+json",
    "errdefs.Solve+json",
    "gatewayapi.ExitMessage+json",
];

/// One run with one input.
pub fn run(bytes: &[u8]) {
    if let Ok(status) = rpc::Status::decode(bytes) {
        check(status);
    }
    if let Some((choice, json)) = bytes.split_first() {
        let kind = KINDS[usize::from(*choice) % KINDS.len()];
        check(rpc::Status {
            code: 2,
            message: "failed".to_owned(),
            details: vec![prost_types::Any {
                type_url: format!("github.com/moby/buildkit/{kind}"),
                value: json.to_vec(),
            }],
        });
    }
    let details = bytes.to_vec().into();
    error::from_status(&tonic::Status::with_details(
        tonic::Code::Unknown,
        "",
        details,
    ));
}

fn check(status: rpc::Status) {
    let error = error::from_rpc(status);
    let sent = error::to_rpc(&error);
    if sent.encoded_len() < limits::MAX_DETAIL_BYTES {
        assert_eq!(error::from_rpc(sent), error);
    }
    let from_status = error::from_status(&error::to_status(&error));
    assert_eq!(from_status.code, error.code);
    error.to_string();
}
