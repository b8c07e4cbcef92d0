//! demes: private group chat with no server of its own.
pub mod cli;
pub mod protocol;
pub mod rpc;
pub mod wire;
