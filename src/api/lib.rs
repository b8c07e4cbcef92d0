//! The calls of demes: what `build.rs` makes of `proto/demes/v1`. It is a package of its own, so
//! that it is compiled once, and not again with every change around it.

pub mod feed;

/// The generated messages and stubs. What a field means, and its limits, stand in the `.proto`.
#[allow(clippy::all, clippy::pedantic, missing_docs, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("demes.v1");
}

/// The compiled descriptors of `proto/demes/v1`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("demes");

/// All calls, `package.Service/Method`, in order.
pub const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));
