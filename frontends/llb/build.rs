//! Generates the prost types of the LLB messages. Every map becomes a `BTreeMap`: the order of
//! map entries enters vertex digests, and so does what they leave out: see `src/wire.rs`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/ops.proto");
    let files = protox::compile(["proto/ops.proto"], ["proto"])?;
    prost_build::Config::new()
        .btree_map(["."])
        .prost_path("crate::wire")
        .compile_fds(files)?;
    Ok(())
}
