//! The words on the wire: the generated code, and its translation to and from the core's words.
//!
//! What arrives is parsed here, whole: every id, limit and enum is checked before a value of the
//! core's types exists, and nothing that a peer sends can panic.

/// The generated messages and stubs of `proto/demes/v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod pb {
    tonic::include_proto!("demes.v1");
}

/// The compiled descriptors of `proto/demes/v1`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("demes");
