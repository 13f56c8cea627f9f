//! Capabilities as a frontend sees them: what to assume of a host that lists none, and whether a
//! graph asks for more than the host has.

use gateway_api::caps::CapSet;
use gateway_api::{Code, Error};
use gateway_llb::{caps, pb};

/// LLB capabilities that a client must assume when a host sends no list (the state of 2018).
pub const FROZEN_LLB_CAPS: [&str; 29] = [
    caps::SOURCE_IMAGE,
    caps::SOURCE_LOCAL,
    caps::SOURCE_LOCAL_UNIQUE,
    caps::SOURCE_LOCAL_SESSION_ID,
    caps::SOURCE_LOCAL_INCLUDE_PATTERNS,
    caps::SOURCE_LOCAL_FOLLOW_PATHS,
    caps::SOURCE_LOCAL_EXCLUDE_PATTERNS,
    caps::SOURCE_LOCAL_SHARED_KEY_HINT,
    caps::SOURCE_GIT,
    caps::SOURCE_GIT_KEEP_GIT_DIR,
    caps::SOURCE_GIT_FULL_URL,
    caps::SOURCE_HTTP,
    caps::SOURCE_HTTP_CHECKSUM,
    caps::SOURCE_HTTP_PERM,
    caps::SOURCE_HTTP_UID_GID,
    caps::SOURCE_BUILD_OP_LLB_FILENAME,
    caps::EXEC_META_BASE,
    caps::EXEC_META_PROXY,
    caps::EXEC_MOUNT_BIND,
    caps::EXEC_MOUNT_CACHE,
    caps::EXEC_MOUNT_CACHE_SHARING,
    caps::EXEC_MOUNT_SELECTOR,
    caps::EXEC_MOUNT_TMPFS,
    caps::EXEC_MOUNT_SECRET,
    caps::CONSTRAINTS,
    caps::PLATFORM,
    caps::META_IGNORE_CACHE,
    caps::META_DESCRIPTION,
    caps::META_EXPORT_CACHE,
];

/// Hosts have never listed these, though they do them.
const NEVER_ANNOUNCED: [&str; 2] = [
    "exec.meta.removemountstubs.recursive",
    "file.copy.modestring",
];

/// An error naming the first capability that the graph needs and the host lacks.
///
/// `product` is the host's name for itself, as in the invocation.
pub fn missing_llb_cap(definition: &pb::Definition, host: &CapSet, product: &str) -> Option<Error> {
    let needed = definition.metadata.values().flat_map(|op| &op.caps);
    needed
        .filter(|(id, needed)| **needed && !NEVER_ANNOUNCED.contains(&id.as_str()))
        .find(|(id, _)| !host.supports(id))
        .map(|(id, _)| missing(id, host, product))
}

/// An error when the host lacks a gateway capability.
pub(crate) fn require(id: &str, host: &CapSet, product: &str) -> Result<(), Error> {
    match host.supports(id) {
        true => Ok(()),
        false => Err(missing(id, host, product)),
    }
}

fn missing(id: &str, host: &CapSet, product: &str) -> Error {
    let product = if product.is_empty() {
        "the build server"
    } else {
        product
    };
    let disabled = host.iter().find(|(known, _)| *known == id);
    let text = match disabled {
        Some((_, cap)) if cap.disabled_reason_message.is_empty() => {
            format!("requested feature {id} has been disabled on the build server")
        }
        Some((_, cap)) => format!(
            "requested feature {id} has been disabled on the build server: {}",
            cap.disabled_reason_message
        ),
        None => format!(
            "requested feature {id} is not supported by the build server, please update {product}"
        ),
    };
    Error::new(Code::Unimplemented, text)
}
