//! Compiles the `.proto` files beside this one with protox, so that no `protoc` is needed.

#![allow(clippy::disallowed_methods)] // A build script writes its output itself.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/etcd/auth.proto",
        "proto/etcd/auth_rpc.proto",
        "proto/etcd/kv.proto",
        "proto/etcd/rpc.proto",
        "proto/setstone/auth.proto",
        "proto/setstone/client.proto",
        "proto/setstone/log.proto",
        "proto/setstone/peer.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("client_descriptors.bin"), {
        let mut compiler = protox::Compiler::new(["proto"])?;
        compiler.include_imports(true).open_files([
            "etcd/rpc.proto",
            "etcd/auth_rpc.proto",
            "setstone/client.proto",
        ])?;
        compiler.encode_file_descriptor_set()
    })?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
