//! Compiles the `.proto` files beside this one with protox, so that no `protoc` is needed.

#![allow(clippy::disallowed_methods)] // A build script writes its output itself.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/etcd/auth.proto",
        "proto/etcd/auth_rpc.proto",
        "proto/etcd/kv.proto",
        "proto/etcd/rpc.proto",
        "proto/etcd/v3election.proto",
        "proto/etcd/v3lock.proto",
        "proto/setstone/auth.proto",
        "proto/setstone/client.proto",
        "proto/setstone/log.proto",
        "proto/setstone/peer.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    pack_relocations();
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("client_descriptors.bin"), {
        let mut compiler = protox::Compiler::new(["proto"])?;
        compiler.include_imports(true).open_files([
            "etcd/rpc.proto",
            "etcd/v3lock.proto",
            "etcd/v3election.proto",
            "etcd/auth_rpc.proto",
            "setstone/client.proto",
        ])?;
        compiler.encode_file_descriptor_set()
    })?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}

/// A static binary brings its relocations along, a thirtieth of it; packed they take next to nothing. Its own glibc, 2.36 or newer, reads them.
fn pack_relocations() {
    let is = |name: &str, value: &str| {
        std::env::var(name).unwrap_or_default().split(',').any(|feature| feature == value)
    };
    if is("CARGO_CFG_TARGET_ENV", "gnu") && is("CARGO_CFG_TARGET_FEATURE", "crt-static") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
