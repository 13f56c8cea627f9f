//! What we announce: only what works. A missing capability gives the user a precise message at
//! once, a false one a failure later.

use gateway_api::caps::{Cap, CapSet};
use gateway_llb::caps as llb;

/// Calls of the bridge.
const FRONTEND: &[&str] = &[
    "frontend.caps",
    "frontend.inputs",
    "gateway.evaluate",
    "gateway.exec",
    "gateway.exec.extrahosts",
    "gateway.exec.filesystem",
    "gateway.exec.secretenv",
    "gateway.exec.signals",
    "gateway.solve.evaluate",
    "gateway.solve.metadata",
    "gateway.warnings",
    "importcaches",
    "proto.refarray",
    "readdir",
    "readfile",
    "reference.attestations",
    "reference.output",
    "resolveimage",
    "resolveimage.resolvemode",
    "return",
    "returnmap",
    "solve.base",
    "source.metaresolver",
    "source.metaresolver.http.checksumrequest",
    "source.metaresolver.image.attestations",
    "statfile",
];

/// How builds ended before there was Return: works, but nobody should begin to use it.
const FRONTEND_DEPRECATED: &str = "solve.inlinereturn";

/// What ops may ask of the solver.
const LLB: &[&str] = &[
    llb::SOURCE_IMAGE,
    llb::SOURCE_IMAGE_RESOLVE_MODE,
    llb::SOURCE_IMAGE_LAYER_LIMIT,
    llb::SOURCE_IMAGE_CHECKSUM,
    llb::SOURCE_IMAGE_BLOB,
    llb::SOURCE_LOCAL,
    llb::SOURCE_LOCAL_UNIQUE,
    llb::SOURCE_LOCAL_SESSION_ID,
    llb::SOURCE_LOCAL_INCLUDE_PATTERNS,
    llb::SOURCE_LOCAL_FOLLOW_PATHS,
    llb::SOURCE_LOCAL_EXCLUDE_PATTERNS,
    llb::SOURCE_LOCAL_SHARED_KEY_HINT,
    llb::SOURCE_LOCAL_DIFFER,
    llb::SOURCE_LOCAL_METADATA_TRANSFER,
    llb::SOURCE_OCI_LAYOUT,
    llb::SOURCE_GIT,
    llb::SOURCE_GIT_KEEP_GIT_DIR,
    llb::SOURCE_GIT_FULL_URL,
    llb::SOURCE_GIT_HTTP_AUTH,
    llb::SOURCE_GIT_KNOWN_SSH_HOSTS,
    llb::SOURCE_GIT_MOUNT_SSH_SOCK,
    llb::SOURCE_GIT_SUBDIR,
    llb::SOURCE_GIT_CHECKSUM,
    llb::SOURCE_GIT_SKIP_SUBMODULES,
    llb::SOURCE_GIT_MTIME,
    llb::SOURCE_GIT_FETCH_BY_COMMIT,
    llb::SOURCE_GIT_SIGNATURE_VERIFY,
    llb::SOURCE_GIT_BUNDLE,
    llb::SOURCE_GIT_CHECKOUT_BUNDLE,
    llb::SOURCE_HTTP,
    llb::SOURCE_HTTP_AUTH,
    llb::SOURCE_HTTP_CHECKSUM,
    llb::SOURCE_HTTP_PERM,
    llb::SOURCE_HTTP_HEADER,
    llb::SOURCE_HTTP_UID_GID,
    llb::SOURCE_HTTP_SIGNATURE_VERIFY,
    llb::EXEC_META_BASE,
    llb::EXEC_META_CDI,
    llb::EXEC_META_CGROUP_PARENT,
    llb::EXEC_META_NETWORK,
    llb::EXEC_META_PROXY,
    llb::EXEC_META_SECURITY,
    llb::EXEC_META_SETS_DEFAULT_PATH,
    llb::EXEC_META_ULIMIT,
    llb::EXEC_META_LINUX_RESOURCES,
    llb::EXEC_MOUNT_BIND,
    llb::EXEC_MOUNT_BIND_READWRITE_NO_OUTPUT,
    llb::EXEC_MOUNT_CACHE,
    llb::EXEC_MOUNT_CACHE_SHARING,
    llb::EXEC_MOUNT_CONTENT_CACHE,
    llb::EXEC_MOUNT_SELECTOR,
    llb::EXEC_MOUNT_TMPFS,
    llb::EXEC_MOUNT_TMPFS_SIZE,
    llb::EXEC_MOUNT_SECRET,
    llb::EXEC_MOUNT_SSH,
    llb::EXEC_CGROUP,
    llb::EXEC_SECRET_ENV,
    llb::EXEC_VALID_EXIT_CODE,
    llb::FILE_BASE,
    llb::FILE_RM_WILDCARD,
    llb::FILE_RM_NO_FOLLOW_SYMLINK,
    llb::FILE_COPY_INCLUDE_EXCLUDE_PATTERNS,
    llb::FILE_COPY_REQUIRED_PATHS,
    llb::FILE_COPY_ALWAYS_REPLACE,
    llb::FILE_SYMLINK_CREATE,
    llb::CONSTRAINTS,
    llb::PLATFORM,
    llb::META_IGNORE_CACHE,
    llb::META_DESCRIPTION,
    llb::META_EXPORT_CACHE,
    llb::MERGE_OP,
    llb::DIFF_OP,
    llb::PASSTHROUGH_OP,
    llb::EXPORTER_SOURCE_DATE_EPOCH,
    llb::EXPORTER_IMAGE_ANNOTATIONS,
    llb::EXPORTER_IMAGE_ATTESTATIONS,
    llb::EXPORTER_MULTIPLE,
    llb::EXPORTER_SESSION,
    llb::GC_FREE_SPACE_FILTER,
    llb::HISTORY_FILTER,
    llb::CACHE_GHA,
    llb::CACHE_S3,
    llb::CACHE_AZBLOB,
    llb::SOURCE_BUILD_OP_LLB_FILENAME,
    llb::SOURCE_POLICY,
    llb::SOURCE_POLICY_SESSION,
];

/// As Ping answers.
pub fn frontend() -> CapSet {
    let mut set = CapSet::enabled(FRONTEND.iter().copied());
    set.insert(
        FRONTEND_DEPRECATED,
        Cap {
            enabled: true,
            deprecated: true,
            ..Cap::default()
        },
    );
    set
}

/// As Ping answers.
pub fn llb() -> CapSet {
    CapSet::enabled(LLB.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p25_caps_are_sorted_and_inline_return_is_deprecated() {
        let frontend = frontend();
        let ids: Vec<&str> = frontend.iter().map(|(id, _)| id).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids.len(), FRONTEND.len() + 1);
        for (id, cap) in frontend.iter() {
            assert!(cap.enabled);
            assert_eq!(cap.deprecated, id == "solve.inlinereturn", "{id}");
        }
        let llb = llb();
        assert!(llb.iter().map(|(id, _)| id).is_sorted());
        assert_eq!(llb.iter().count(), LLB.len());
    }

    #[test]
    fn p25_every_cap_is_one_that_clients_know_spelt_as_they_do() {
        for (id, _) in llb().iter() {
            assert!(llb::ALL.contains(&id), "{id}");
            assert!(!llb::UNANNOUNCED.contains(&id), "{id}");
        }
        assert!(llb().supports("soruce.http.uidgid"));
    }

    /// Clients leave out caches whose type is not announced, without a word.
    #[test]
    fn p25_caches_that_are_services_are_announced() {
        for id in ["cache.gha", "cache.s3", "cache.azblob"] {
            assert!(llb().supports(id), "{id}");
        }
    }

    #[test]
    fn p25_what_almost_every_graph_needs_is_there() {
        for id in ["constraints", "platform", "meta.description", "file.base"] {
            assert!(llb().supports(id), "{id}");
        }
    }
}
