//! One module a target: its promise, and what makes inputs that reach it.

pub mod bridge_authority;
pub mod dockerfile;
pub mod dockerfile_context;
pub mod dockerfile_expand;
pub mod dockerfile_mount;
pub mod image_archive;
pub mod image_config;
pub mod image_manifest;
pub mod image_reference;
pub mod layer_estargz;
pub mod layer_tar;
pub mod layer_unpack;
pub mod llb_graph;
pub mod llb_text;
pub mod proto_errors;
pub mod proto_messages;
pub mod registry_certificate;
pub mod registry_settings;
pub mod registry_wire;
pub mod solver_archive;
pub mod solver_modes;
pub mod solver_patterns;
pub mod solver_signature;
