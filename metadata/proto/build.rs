//! Generates the gRPC code from `proto/holdfast.proto`; needs `protoc` (Debian package protobuf-compiler).
fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=proto/holdfast.proto");
    tonic_prost_build::configure().compile_protos(&["proto/holdfast.proto"], &["proto"])
}
