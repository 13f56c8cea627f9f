//! Metadata of images and other sources.

use gateway_api::{
    AttestationBlob, AttestationChain, GitMeta, HttpChecksumRequest, HttpMeta, ImageConfig,
    ImageMeta, ImageMetaRequest, ResolveImageConfigRequest, ResolveSourceMetaRequest, SourceMeta,
};

use crate::frontend;

pub fn image_request_from_wire(
    request: frontend::ResolveImageConfigRequest,
) -> ResolveImageConfigRequest {
    ResolveImageConfigRequest {
        reference: request.r#ref,
        platform: request.platform,
        resolve_mode: request.resolve_mode,
        log_name: request.log_name,
        resolver_type: request.resolver_type,
        session_id: request.session_id,
        store_id: request.store_id,
        source_policies: request.source_policies,
    }
}

pub fn image_request_to_wire(
    request: ResolveImageConfigRequest,
) -> frontend::ResolveImageConfigRequest {
    frontend::ResolveImageConfigRequest {
        r#ref: request.reference,
        platform: request.platform,
        resolve_mode: request.resolve_mode,
        log_name: request.log_name,
        resolver_type: request.resolver_type,
        session_id: request.session_id,
        store_id: request.store_id,
        source_policies: request.source_policies,
    }
}

pub fn image_config_to_wire(config: ImageConfig) -> frontend::ResolveImageConfigResponse {
    frontend::ResolveImageConfigResponse {
        digest: config.digest,
        config: config.config,
        r#ref: config.reference,
    }
}

pub fn image_config_from_wire(response: frontend::ResolveImageConfigResponse) -> ImageConfig {
    ImageConfig {
        digest: response.digest,
        config: response.config,
        reference: response.r#ref,
    }
}

/// None when the request names no source.
pub fn meta_request_from_wire(
    request: frontend::ResolveSourceMetaRequest,
) -> Option<ResolveSourceMetaRequest> {
    Some(ResolveSourceMetaRequest {
        source: request.source?,
        platform: request.platform,
        log_name: request.log_name,
        resolve_mode: request.resolve_mode,
        git_return_object: request.git.is_some_and(|git| git.return_object),
        image: request.image.map(|image| ImageMetaRequest {
            no_config: image.no_config,
            attestation_chain: image.attestation_chain,
            resolve_attestations: image.resolve_attestations,
        }),
        http_checksum: request
            .http
            .and_then(|http| http.checksum_request)
            .map(|checksum| HttpChecksumRequest {
                algorithm: checksum.algo,
                suffix: checksum.suffix,
            }),
        source_policies: request.source_policies,
    })
}

pub fn meta_request_to_wire(
    request: ResolveSourceMetaRequest,
) -> frontend::ResolveSourceMetaRequest {
    frontend::ResolveSourceMetaRequest {
        source: Some(request.source),
        platform: request.platform,
        log_name: request.log_name,
        resolve_mode: request.resolve_mode,
        git: request
            .git_return_object
            .then_some(frontend::ResolveSourceGitRequest {
                return_object: true,
            }),
        image: request
            .image
            .map(|image| frontend::ResolveSourceImageRequest {
                no_config: image.no_config,
                attestation_chain: image.attestation_chain,
                resolve_attestations: image.resolve_attestations,
            }),
        http: request
            .http_checksum
            .map(|checksum| frontend::ResolveSourceHttpRequest {
                checksum_request: Some(frontend::ChecksumRequest {
                    algo: checksum.algorithm,
                    suffix: checksum.suffix,
                }),
            }),
        source_policies: request.source_policies,
    }
}

pub fn meta_to_wire(meta: SourceMeta) -> frontend::ResolveSourceMetaResponse {
    frontend::ResolveSourceMetaResponse {
        source: Some(meta.source),
        image: meta
            .image
            .map(|image| frontend::ResolveSourceImageResponse {
                digest: image.digest,
                config: image.config,
                attestation_chain: image.attestation_chain.map(chain_to_wire),
            }),
        git: meta.git.map(|git| frontend::ResolveSourceGitResponse {
            checksum: git.checksum,
            r#ref: git.reference,
            commit_checksum: git.commit_checksum,
            commit_object: git.commit_object,
            tag_object: git.tag_object,
        }),
        http: meta.http.map(|http| frontend::ResolveSourceHttpResponse {
            checksum: http.checksum,
            filename: http.filename,
            last_modified: http
                .last_modified
                .map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
            checksum_response: http
                .checksum_response
                .map(|(digest, suffix)| frontend::ChecksumResponse { digest, suffix }),
        }),
    }
}

fn chain_to_wire(chain: AttestationChain) -> frontend::AttestationChain {
    let blob = |(digest, blob): (String, AttestationBlob)| {
        let descriptor = frontend::Descriptor {
            media_type: blob.media_type,
            digest: digest.clone(),
            size: i64::try_from(blob.data.len()).unwrap_or(i64::MAX),
            annotations: blob.annotations.into_iter().collect(),
        };
        let blob = frontend::Blob {
            descriptor: Some(descriptor),
            data: blob.data,
        };
        (digest, blob)
    };
    frontend::AttestationChain {
        root: chain.root,
        image_manifest: chain.image_manifest,
        attestation_manifest: chain.attestation_manifest,
        signature_manifests: chain.signature_manifests,
        blobs: chain.blobs.into_iter().map(blob).collect(),
    }
}

fn chain_from_wire(chain: frontend::AttestationChain) -> AttestationChain {
    let blob = |(digest, blob): (String, frontend::Blob)| {
        let descriptor = blob.descriptor.unwrap_or_default();
        let blob = AttestationBlob {
            media_type: descriptor.media_type,
            annotations: descriptor.annotations.into_iter().collect(),
            data: blob.data,
        };
        (digest, blob)
    };
    AttestationChain {
        root: chain.root,
        image_manifest: chain.image_manifest,
        attestation_manifest: chain.attestation_manifest,
        signature_manifests: chain.signature_manifests,
        blobs: chain.blobs.into_iter().map(blob).collect(),
    }
}

pub fn meta_from_wire(response: frontend::ResolveSourceMetaResponse) -> SourceMeta {
    SourceMeta {
        source: response.source.unwrap_or_default(),
        image: response.image.map(|image| ImageMeta {
            digest: image.digest,
            config: image.config,
            attestation_chain: image.attestation_chain.map(chain_from_wire),
        }),
        git: response.git.map(|git| GitMeta {
            checksum: git.checksum,
            reference: git.r#ref,
            commit_checksum: git.commit_checksum,
            commit_object: git.commit_object,
            tag_object: git.tag_object,
        }),
        http: response.http.map(|http| HttpMeta {
            checksum: http.checksum,
            filename: http.filename,
            last_modified: http.last_modified.map(|time| time.seconds),
            checksum_response: http
                .checksum_response
                .map(|response| (response.digest, response.suffix)),
        }),
    }
}
