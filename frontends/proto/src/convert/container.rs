//! What a container is asked to be.

use gateway_api::{ContainerRequest, ProcessRequest};

use crate::frontend;

pub fn container_to_wire(id: String, request: ContainerRequest) -> frontend::NewContainerRequest {
    frontend::NewContainerRequest {
        container_id: id,
        mounts: request.mounts,
        network: request.network,
        platform: request.platform,
        constraints: request.constraints,
        extra_hosts: request.extra_hosts,
        hostname: request.hostname,
    }
}

pub fn container_from_wire(request: frontend::NewContainerRequest) -> ContainerRequest {
    ContainerRequest {
        mounts: request.mounts,
        network: request.network,
        platform: request.platform,
        constraints: request.constraints,
        extra_hosts: request.extra_hosts,
        hostname: request.hostname,
    }
}

pub fn process_to_wire(container_id: String, request: ProcessRequest) -> frontend::InitMessage {
    frontend::InitMessage {
        container_id,
        meta: Some(request.meta),
        fds: request.fds,
        tty: request.tty,
        security: request.security,
        secretenv: request.secret_env,
    }
}

pub fn process_from_wire(init: frontend::InitMessage) -> ProcessRequest {
    ProcessRequest {
        meta: init.meta.unwrap_or_default(),
        fds: init.fds,
        tty: init.tty,
        security: init.security,
        secret_env: init.secretenv,
    }
}
