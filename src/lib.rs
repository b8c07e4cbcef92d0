//! demes: private group chat with no server of its own.
pub mod cli;
pub mod config;
pub mod crypto;
pub mod protocol;
pub mod rpc;
pub mod runtime;
pub mod storage;
pub mod telemetry;
pub mod wire;
