//! Generates the messages and the services of the bridge. The LLB messages in them are the types
//! of gateway-llb; every map is a `BTreeMap`, so that equal messages have equal bytes.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "proto/gateway.proto",
            "proto/health.proto",
            "proto/policy.proto",
        ],
        ["proto"],
    )?;
    tonic_prost_build::configure()
        .btree_map(".")
        .extern_path(".pb", "::gateway_llb::pb")
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
