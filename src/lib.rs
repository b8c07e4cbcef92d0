//! demes: private group chat with no server of its own.
pub mod cli;
pub mod config;
pub mod crypto;
pub mod rpc;
pub mod runtime;
pub mod storage;
pub mod telemetry;
pub mod wire;

/// The rules: a package of its own in `src/protocol`.
pub use demes_protocol as protocol;
