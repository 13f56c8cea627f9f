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
        .or_else(|| missing_file_cap(definition, host, product))
}

/// The same for copies, whose metadata do not tell what they need: an older host passes over the
/// patterns and modes that it does not know, and would put files into images that were left out.
fn missing_file_cap(definition: &pb::Definition, host: &CapSet, product: &str) -> Option<Error> {
    let patterns = host.supports(caps::FILE_COPY_INCLUDE_EXCLUDE_PATTERNS);
    // No host lists modes in letters. They came right after this one.
    let modes = host.supports(caps::EXEC_SECRET_ENV);
    if patterns && modes {
        return None;
    }
    let needs = |copy: &pb::FileActionCopy| {
        let with_patterns = !copy.include_patterns.is_empty() || !copy.exclude_patterns.is_empty();
        if with_patterns && !patterns {
            return Some(caps::FILE_COPY_INCLUDE_EXCLUDE_PATTERNS);
        }
        (!copy.mode_str.is_empty() && !modes).then_some(caps::FILE_COPY_MODE_STRING)
    };
    let ops = definition.def.iter();
    let mut ops = ops.filter_map(|bytes| <pb::Op as prost::Message>::decode(&bytes[..]).ok());
    let id = ops.find_map(|op| match op.op {
        Some(pb::op::Op::File(file)) => {
            file.actions.iter().find_map(|action| match &action.action {
                Some(pb::file_action::Action::Copy(copy)) => needs(copy),
                _ => None,
            })
        }
        _ => None,
    })?;
    Some(missing(id, host, product))
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

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_llb::{Chmod, Constraints, Copy, FileActions, ImageSource, MarshalOptions, State};

    /// Refused by a host that has all capabilities but `lacking`?
    fn refusal(options: Copy, lacking: &str) -> Option<String> {
        let from =
            ImageSource::new("docker.io/library/busybox:latest").state(Constraints::default());
        let actions = FileActions::new().copy(&from, "/a", "/", options);
        let state = State::scratch().file(actions, Constraints::default());
        let graph = state.marshal(&MarshalOptions::default()).unwrap();
        let host = caps::ALL.iter().copied().filter(|id| *id != lacking);
        let host = CapSet::enabled(host);
        missing_llb_cap(&graph, &host, "docker").map(|error| error.message)
    }

    #[test]
    fn a_copy_that_an_older_host_would_do_otherwise_is_refused_by_name() {
        let left_out = Copy {
            exclude_patterns: vec!["*.key".to_owned()],
            ..Copy::default()
        };
        let letters = Copy {
            chmod: Some(Chmod::Symbolic("go-r".to_owned())),
            ..Copy::default()
        };
        assert_eq!(
            refusal(left_out.clone(), caps::FILE_COPY_INCLUDE_EXCLUDE_PATTERNS).unwrap(),
            "requested feature file.copy.includeexcludepatterns is not supported by the build server, please update docker"
        );
        let error = refusal(letters.clone(), caps::EXEC_SECRET_ENV).unwrap();
        assert!(error.contains("file.copy.modestring"), "{error}");
        for (options, lacking) in [
            (left_out.clone(), caps::EXEC_SECRET_ENV),
            (left_out, "none"),
            (letters.clone(), caps::FILE_COPY_INCLUDE_EXCLUDE_PATTERNS),
            (letters, "none"),
            (Copy::default(), caps::FILE_COPY_INCLUDE_EXCLUDE_PATTERNS),
        ] {
            assert_eq!(refusal(options, lacking), None, "{lacking}");
        }
    }
}
