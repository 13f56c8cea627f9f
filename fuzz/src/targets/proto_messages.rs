//! Messages of LLBBridge to values and back (the first byte chooses the message): a value that was
//! read is written and read as the same.

use gateway_proto::convert::definition::without_empty;
use gateway_proto::convert::{caps, container, files, request, result, source};
use gateway_proto::{frontend, fsutil};
use prost::Message;

/// One run with one input.
pub fn run(bytes: &[u8]) {
    let Some((choice, body)) = bytes.split_first() else {
        return;
    };
    match choice % 9 {
        0 => each(body, |message: frontend::Result| {
            for array_ref in [false, true] {
                let read = result::from_wire(message.clone());
                let again = result::from_wire(result::to_wire(read.clone(), array_ref));
                assert_eq!(again.metadata, read.metadata);
            }
        }),
        1 => each(body, |message: frontend::SolveResponse| {
            let read = result::from_solve_response(message);
            for flag in [false, true] {
                let accepts = result::Accepts {
                    result: flag,
                    array_ref: true,
                };
                let _ = result::solve_response(read.clone(), accepts);
            }
        }),
        2 => each(body, |message: frontend::SolveRequest| {
            let read = request::solve_from_wire(message);
            let again = request::solve_from_wire(request::solve_to_wire(read.clone()));
            // Entries that say nothing do not travel.
            let mut sent = read;
            sent.definition = sent.definition.map(without_empty);
            for input in sent.frontend_inputs.values_mut() {
                *input = without_empty(std::mem::take(input));
            }
            assert_eq!(again, sent);
        }),
        3 => each(body, |message: frontend::ResolveSourceMetaRequest| {
            if let Some(read) = source::meta_request_from_wire(message) {
                let again =
                    source::meta_request_from_wire(source::meta_request_to_wire(read.clone()));
                assert_eq!(again, Some(read));
            }
        }),
        4 => each(body, |message: frontend::ResolveSourceMetaResponse| {
            let read = source::meta_from_wire(message);
            let again = source::meta_from_wire(source::meta_to_wire(read.clone()));
            assert_eq!(again, read);
        }),
        5 => each(body, |message: frontend::NewContainerRequest| {
            container::container_from_wire(message);
        }),
        6 => each(body, |message: frontend::InitMessage| {
            container::process_from_wire(message);
        }),
        7 => each(body, |message: frontend::PongResponse| {
            let read = caps::from_wire(message.frontend_api_caps);
            caps::to_wire(&read);
            for worker in message.workers {
                caps::worker_to_wire(&caps::worker_from_wire(worker));
            }
        }),
        _ => each(body, |message: fsutil::types::Stat| {
            files::stat_to_wire(files::stat_from_wire(message));
        }),
    }
}

fn each<M: Message + Default>(bytes: &[u8], check: impl FnOnce(M)) {
    if let Ok(message) = M::decode(bytes) {
        check(message);
    }
}
