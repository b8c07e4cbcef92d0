//! demes: private group chat with no server of its own.
pub mod config;
pub mod protocol;
pub mod telemetry;
pub mod pb {
    #![allow(clippy::all)]
    tonic::include_proto!("demes.v1");
    pub const D: &[u8] = tonic::include_file_descriptor_set!("demes");
}
