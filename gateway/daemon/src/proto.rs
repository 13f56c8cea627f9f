//! Generated messages.

#[allow(clippy::all, missing_docs)]
pub mod control {
    include!(concat!(env!("OUT_DIR"), "/moby.buildkit.v1.rs"));
}
#[allow(clippy::all, missing_docs)]
pub mod session {
    include!(concat!(env!("OUT_DIR"), "/gateway.session.rs"));
}
#[allow(clippy::all, missing_docs, dead_code)]
pub mod content {
    include!(concat!(
        env!("OUT_DIR"),
        "/containerd.services.content.v1.rs"
    ));
}
#[allow(clippy::all, missing_docs)]
pub mod trace {
    include!(concat!(
        env!("OUT_DIR"),
        "/opentelemetry.proto.collector.trace.v1.rs"
    ));
}
