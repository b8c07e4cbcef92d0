//! demes: private group chat with no server of its own.
pub mod cli;
pub mod config;
pub mod crypto;
mod faces;
pub mod links;
mod peer;
pub mod planted;
pub mod runtime;
pub mod serve;
pub mod storage;
pub mod telemetry;
pub mod wire;

/// The rules: a package of its own in `src/protocol`.
pub use demes_protocol as protocol;

const _: () = assert!(
    !demes_protocol::planted::PLANTED,
    "the feature `planted` puts mistakes into the rules: only tests/mutation is built with it"
);
