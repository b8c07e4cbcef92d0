//! demes: private group chat with no server of its own.
pub mod crypto;
pub mod protocol;
pub mod rpc;
pub mod runtime;
pub mod storage;
pub mod wire;
