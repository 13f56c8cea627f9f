//! Errors on the wire: a gRPC status whose details travel in the trailer `grpc-status-details-bin`,
//! or a `google.rpc.Status` inside a Return. Either way the details are the same list.

mod detail;
mod json;
mod trim;

use gateway_api::{Code, Error};
use prost::Message;

use crate::rpc;

/// The error as a message, details trimmed to what every peer can take.
pub fn to_rpc(error: &Error) -> rpc::Status {
    rpc::Status {
        code: error.code as i32,
        message: error.message.clone(),
        details: trim::trimmed(error.details.iter().map(detail::encode).collect()),
    }
}

/// The error of a message. Code 0 is no error; it reads as `Unknown`, so that an error never looks
/// like a success.
pub fn from_rpc(status: rpc::Status) -> Error {
    Error {
        code: match Code::from_number(status.code) {
            Code::Ok => Code::Unknown,
            code => code,
        },
        message: status.message,
        details: status.details.into_iter().map(detail::decode).collect(),
    }
}

/// The error as a gRPC status.
pub fn to_status(error: &Error) -> tonic::Status {
    let code = tonic::Code::from_i32(error.code as i32);
    if error.details.is_empty() {
        return tonic::Status::new(code, error.message.clone());
    }
    let details = to_rpc(error).encode_to_vec();
    tonic::Status::with_details(code, error.message.clone(), details.into())
}

/// The error that a call ended with.
pub fn from_status(status: &tonic::Status) -> Error {
    let details = match rpc::Status::decode(status.details()) {
        Ok(message) => message.details.into_iter().map(detail::decode).collect(),
        // Not a Status message: nothing that anybody could use.
        Err(_) => Vec::new(),
    };
    Error {
        code: match Code::from_number(status.code() as i32) {
            Code::Ok => Code::Unknown,
            code => code,
        },
        message: status.message().to_owned(),
        details,
    }
}

#[cfg(test)]
mod tests {
    use gateway_api::error::SolveDetail;
    use gateway_api::{Detail, SourceLocation};
    use gateway_llb::pb;

    use super::*;

    fn location(data: Vec<u8>) -> SourceLocation {
        let position = |line| Some(pb::Position { line, character: 0 });
        let metadata = pb::OpMetadata {
            description: [("llb.customname".to_owned(), "a step".to_owned())].into(),
            caps: [("file.base".to_owned(), true)].into(),
            export_cache: Some(pb::ExportCache { value: true }),
            progress_group: Some(pb::ProgressGroup {
                id: "g".to_owned(),
                name: "group".to_owned(),
                weak: true,
            }),
            ..pb::OpMetadata::default()
        };
        SourceLocation {
            info: pb::SourceInfo {
                filename: "Dockerfile".to_owned(),
                data,
                definition: Some(pb::Definition {
                    def: vec![vec![1, 2, 3], vec![]],
                    metadata: [("sha256:aa".to_owned(), metadata)].into(),
                    source: Some(pb::Source::default()),
                }),
                language: "Dockerfile".to_owned(),
            },
            ranges: vec![pb::Range {
                start: position(3),
                end: position(4),
            }],
        }
    }

    fn all_details() -> Vec<Detail> {
        vec![
            Detail::Stack(r#"{"frames":[{"Name":"main"}]}"#.to_owned()),
            Detail::Frontend {
                name: "gateway.v0".to_owned(),
                source: "docker/dockerfile:1".to_owned(),
            },
            Detail::Solve(SolveDetail {
                input_ids: vec!["in".to_owned()],
                mount_ids: vec!["w::m".to_owned()],
                op: None,
                file_index: Some(2),
                cache_index: None,
                description: [("k".to_owned(), "v".to_owned())].into(),
            }),
            Detail::Vertex {
                digest: "sha256:bb".to_owned(),
            },
            Detail::Source(location(b"FROM x\n".to_vec())),
            Detail::FrontendCap {
                name: "moby.buildkit.frontend.inputs".to_owned(),
            },
            Detail::Subrequest {
                name: "frontend.lint".to_owned(),
            },
            Detail::Exit { code: 42 },
            Detail::Other {
                type_url: "example.org/Unknown".to_owned(),
                value: vec![0, 159, 255],
            },
        ]
    }

    #[test]
    fn p45_code_message_and_every_detail_survive_the_wire() {
        let mut error = Error::new(Code::FailedPrecondition, "it failed: \u{fc}\n\"quoted\"");
        error.details = all_details();
        assert_eq!(from_status(&to_status(&error)), error);
        assert_eq!(from_rpc(to_rpc(&error)), error);
    }

    #[test]
    fn a_source_detail_is_plain_json_of_the_reference_form() {
        let mut source = location(b"FROM x\n".to_vec());
        source.info.definition = None;
        let any = detail::encode(&Detail::Source(source));
        assert_eq!(any.type_url, "github.com/moby/buildkit/errdefs.Source+json");
        assert_eq!(
            String::from_utf8(any.value).unwrap(),
            r#"{"info":{"filename":"Dockerfile","data":"RlJPTSB4Cg==","language":"Dockerfile"},"ranges":[{"start":{"line":3},"end":{"line":4}}]}"#
        );
    }

    #[test]
    fn p45_a_location_of_a_2022_frontend_reads_in_its_spelling() {
        let any = prost_types::Any {
            type_url: "github.com/moby/buildkit/errdefs.Source+json".to_owned(),
            value: br#"{"info":{"filename":"Dockerfile","data":"RlJPTSB4Cg=="},"ranges":[{"start":{"Line":2},"end":{"Line":2,"Character":1}}]}"#.to_vec(),
        };
        let Detail::Source(location) = detail::decode(any) else {
            panic!("not a location");
        };
        let range = &location.ranges[0];
        assert_eq!(range.start.as_ref().unwrap().line, 2);
        assert_eq!(range.end.as_ref().unwrap().character, 1);
    }

    #[test]
    fn a_solve_detail_is_protojson_with_original_names_and_numbers_as_text() {
        let detail = Detail::Solve(SolveDetail {
            input_ids: vec!["a".to_owned()],
            op: Some(Box::new(pb::Op {
                inputs: vec![pb::Input {
                    digest: "sha256:aa".to_owned(),
                    index: 0,
                }],
                ..pb::Op::default()
            })),
            file_index: Some(1),
            ..SolveDetail::default()
        });
        let value: serde_json::Value =
            serde_json::from_slice(&detail::encode(&detail).value).unwrap();
        assert_eq!(value["inputIDs"][0], "a");
        assert_eq!(value["file"]["index"], "1");
        assert_eq!(value["op"]["inputs"][0]["digest"], "sha256:aa");
        let empty = detail::encode(&Detail::Solve(SolveDetail::default()));
        assert_eq!(empty.value, b"{}");
        let any = detail::encode(&detail);
        assert_eq!(detail::decode(any), detail);
    }

    #[test]
    fn a_solve_detail_of_the_reference_reads_with_its_op() {
        let any = prost_types::Any {
            type_url: "github.com/moby/buildkit/errdefs.Solve+json".to_owned(),
            // As a step fails whose input could not be digested; protojson puts blanks at random.
            value: br#"{"inputIDs":["in1"], "op":{"exec":{"meta":{"args":["/bin/sh","-c","x"],"cwd":"/"},"mounts":[{"dest":"/","output":"1"}]},"newer":true},"cache":{},"newer":[]}"#.to_vec(),
        };
        let Detail::Solve(solve) = detail::decode(any) else {
            panic!("kept as it came");
        };
        let Some(pb::op::Op::Exec(exec)) = solve.op.and_then(|op| op.op) else {
            panic!("no command");
        };
        assert_eq!(exec.meta.unwrap().args, ["/bin/sh", "-c", "x"]);
        assert_eq!(exec.mounts[0].output, 1);
        assert_eq!((solve.cache_index, solve.file_index), (Some(0), None));
        assert_eq!(solve.input_ids, ["in1"]);
    }

    #[test]
    fn an_exit_detail_of_the_reference_reads() {
        let any = prost_types::Any {
            type_url: "github.com/moby/buildkit/gatewayapi.ExitMessage+json".to_owned(),
            value: br#"{"Code":42}"#.to_vec(),
        };
        assert_eq!(detail::decode(any), Detail::Exit { code: 42 });
    }

    #[test]
    fn what_does_not_read_is_kept_as_it_came() {
        for (kind, value) in [
            ("errdefs.Source+json", r#"{"info":"no object"}"#),
            ("errdefs.Vertex+json", "not json"),
            ("errdefs.Solve+json", r#"{ "op": {"exec":[]} }"#),
        ] {
            let any = prost_types::Any {
                type_url: format!("github.com/moby/buildkit/{kind}"),
                value: value.as_bytes().to_vec(),
            };
            let decoded = detail::decode(any.clone());
            assert!(matches!(decoded, Detail::Other { .. }), "{kind}");
            assert_eq!(detail::encode(&decoded), any);
        }
    }

    #[test]
    fn details_over_the_limit_lose_stacks_first_then_source_text_then_all() {
        let big = crate::limits::MAX_DETAIL_BYTES;
        let mut error = Error::unknown("large");
        error.details = vec![
            Detail::Stack("x".repeat(big)),
            Detail::Source(location(vec![b'a'; big / 2])),
            Detail::Exit { code: 1 },
        ];
        let sent = from_rpc(to_rpc(&error));
        assert_eq!(sent.details, error.details[1..]);

        error.details[1] = Detail::Source(location(vec![b'a'; big]));
        let sent = from_rpc(to_rpc(&error));
        let source = sent.sources().next().unwrap();
        assert_eq!(source.info.filename, "Dockerfile");
        assert!(source.info.data.is_empty());
        assert_eq!(sent.exit_code(), Some(1));

        error.details = vec![Detail::Other {
            type_url: "x".to_owned(),
            value: vec![0; big + 1],
        }];
        assert!(to_rpc(&error).encoded_len() < big);
    }

    #[test]
    fn a_status_without_details_reads_and_code_zero_is_never_success() {
        let error = from_status(&tonic::Status::not_found("gone"));
        assert_eq!((error.code, error.details.len()), (Code::NotFound, 0));
        assert_eq!(from_rpc(rpc::Status::default()).code, Code::Unknown);
    }
}
