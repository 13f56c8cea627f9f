//! The ops: how each is keyed and run.

pub mod blob;
pub mod build;
mod cache_mount;
mod combine;
mod copy_helper;
mod difference;
pub mod exec;
mod file;
pub mod git;
pub mod http;
pub mod image;
pub mod local;
pub mod oci_layout;
mod single;

use std::sync::Arc;

use gateway_api::Error;
use gateway_llb::pb;

use crate::job::JobInner;
use crate::key;
use crate::live::{LiveVertex, VertexKey};
use crate::shared::Outcome;
use crate::store::Snapshot;

/// A source's identifier, split.
enum Source<'a> {
    Image(&'a str),
    Local(&'a str),
    Http,
    Git,
    OciLayout(&'a str),
    Blob,
}

fn source(op: &pb::SourceOp) -> Outcome<Source<'_>> {
    let (scheme, rest) = op
        .identifier
        .split_once("://")
        .ok_or_else(|| Error::unknown(format!("failed to parse {}: invalid", op.identifier)))?;
    match scheme {
        "docker-image" => Ok(Source::Image(rest)),
        "local" => Ok(Source::Local(rest)),
        "http" | "https" => Ok(Source::Http),
        "git" => Ok(Source::Git),
        "oci-layout" => Ok(Source::OciLayout(rest)),
        "docker-image+blob" | "oci-layout+blob" => Ok(Source::Blob),
        scheme => Err(Error::unknown(format!(
            "unknown scheme {scheme}: not found"
        ))),
    }
}

/// What a source is known by. Resolves images; reads no content.
///
/// Here and in [`run`] the work of each op is a box of its own: without, every vertex of a graph would hold and move
/// room for the largest of them, which is 40 KiB, also where nothing is to do.
pub async fn source_key(job: &Arc<JobInner>, vertex: &Arc<LiveVertex>) -> Outcome<VertexKey> {
    let Some(pb::op::Op::Source(op)) = &vertex.op.op else {
        return op_key(job, vertex);
    };
    match source(op)? {
        // Never fetched: the reference says all that there is to know.
        Source::Image(reference) if copy_helper::is_image(reference) => {
            Ok(VertexKey::Source(vec![key::source_digest(reference)]))
        }
        Source::Image(reference) => Box::pin(image::keys(job, vertex, op, reference)).await,
        Source::Local(name) => Ok(VertexKey::Source(vec![key::source_digest(&local::key(
            job, op, name,
        )?)])),
        Source::Http => Box::pin(http::keys(job, vertex, op)).await,
        Source::Git => Box::pin(git::keys(job, vertex, op)).await,
        Source::OciLayout(reference) => {
            Box::pin(oci_layout::keys(job, vertex, op, reference)).await
        }
        Source::Blob => blob::keys(vertex, op),
    }
}

/// What any other op is known by, beside its inputs.
pub fn op_key(job: &Arc<JobInner>, vertex: &Arc<LiveVertex>) -> Outcome<VertexKey> {
    let inputs = vertex.inputs.len();
    let op_key = match &vertex.op.op {
        Some(pb::op::Op::Exec(exec)) => {
            let mut key =
                key::exec_key(exec, &job.platform(&vertex.op), inputs).map_err(Error::unknown)?;
            if copy_helper::is_copy(job, vertex, exec)
                && let Some(dep) =
                    copy_helper::changed_input(exec).and_then(|i| key.deps.get_mut(i))
            {
                dep.content = None;
            }
            key
        }
        Some(pb::op::Op::File(file)) => key::file_key(file, inputs).map_err(Error::unknown)?,
        Some(pb::op::Op::Merge(merge)) => key::merge_key(merge, inputs),
        Some(pb::op::Op::Diff(diff)) => key::diff_key(diff, inputs),
        Some(pb::op::Op::Build(build)) => key::build_key(build, inputs),
        Some(pb::op::Op::Passthrough(op)) => key::passthrough_key(op, inputs),
        Some(pb::op::Op::Source(_)) | None => return Err(Error::unknown("no support for <nil>")),
    };
    Ok(VertexKey::Op(op_key))
}

/// Whether the op reads this input where it lies when that is a local source: it does not if the
/// files must stay as they are while a step runs.
pub fn reads_in_place(vertex: &LiveVertex, input: usize) -> bool {
    match &vertex.op.op {
        Some(pb::op::Op::File(op)) => file::only_copies_from(op, input),
        _ => false,
    }
}

/// Runs the op over its inputs' file systems; gives those of its outputs.
pub async fn run(
    job: &Arc<JobInner>,
    vertex: &Arc<LiveVertex>,
    inputs: Vec<Snapshot>,
) -> Outcome<Vec<Snapshot>> {
    match &vertex.op.op {
        Some(pb::op::Op::Source(op)) => match source(op)? {
            Source::Image(reference) if copy_helper::is_image(reference) => {
                Ok(vec![Snapshot::scratch()])
            }
            Source::Image(reference) => Box::pin(image::run(job, vertex, op, reference)).await,
            Source::Local(name) => Box::pin(local::run(job, vertex, op, name)).await,
            Source::Http => Box::pin(http::run(job, vertex, op)).await,
            Source::Git => Box::pin(git::run(job, vertex, op)).await,
            Source::OciLayout(reference) => {
                Box::pin(oci_layout::run(job, vertex, op, reference)).await
            }
            Source::Blob => Box::pin(blob::run(job, vertex, op)).await,
        },
        Some(pb::op::Op::Exec(op)) if copy_helper::is_copy(job, vertex, op) => {
            Box::pin(copy_helper::run(job, vertex, op, inputs)).await
        }
        Some(pb::op::Op::Exec(op)) => Box::pin(exec::run(job, vertex, op, inputs)).await,
        Some(pb::op::Op::File(op)) => Box::pin(file::run(job, vertex, op, inputs)).await,
        Some(pb::op::Op::Merge(op)) => combine::merge(job, vertex, op, &inputs),
        Some(pb::op::Op::Diff(op)) => Box::pin(combine::diff(job, vertex, op, inputs)).await,
        Some(pb::op::Op::Passthrough(op)) => combine::passthrough(op, &inputs),
        Some(pb::op::Op::Build(op)) => Box::pin(build::run(job, vertex, op, &inputs)).await,
        None => Err(Error::unknown("no support for <nil>")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Room in a vertex's task for its work, in bytes.
    const MOST: usize = 2048;

    #[test]
    fn vertices_do_not_hold_room_for_the_work_of_every_op() {
        fn of_key<'a, F>(_: fn(&'a Arc<JobInner>, &'a Arc<LiveVertex>) -> F) -> usize {
            size_of::<F>()
        }
        fn of_run<'a, F>(
            _: fn(&'a Arc<JobInner>, &'a Arc<LiveVertex>, Vec<Snapshot>) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let (key, run) = (of_key(source_key), of_run(run));
        assert!(key < MOST && run < MOST, "{key} and {run} bytes");
    }
}
