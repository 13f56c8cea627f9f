//! Generates the messages of the Control API and of sessions. What they share with LLBBridge are the
//! types of gateway-proto; maps are ordered, so that equal messages have equal bytes.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=../../frontends/proto/proto");
    let files = protox::compile(
        [
            "proto/control.proto",
            "proto/session.proto",
            "proto/content.proto",
            "proto/trace.proto",
        ],
        ["proto", "../../frontends/proto/proto"],
    )?;
    tonic_prost_build::configure()
        .btree_map(".")
        .extern_path(".pb", "::gateway_llb::pb")
        .extern_path(".moby.buildkit.v1.frontend", "::gateway_proto::frontend")
        .extern_path(".moby.buildkit.v1.apicaps", "::gateway_proto::apicaps")
        .extern_path(".moby.buildkit.v1.types", "::gateway_proto::types")
        .extern_path(
            ".moby.buildkit.v1.sourcepolicy",
            "::gateway_proto::sourcepolicy",
        )
        .extern_path(".google.rpc", "::gateway_proto::rpc")
        .extern_path(".fsutil.types", "::gateway_proto::fsutil::types")
        .build_transport(false)
        .build_client(false)
        .compile_fds(files)?;
    Ok(())
}
