//! The rules of one chat at one peer. (Temporary map, completed with the replica.)
mod codec;
pub mod config;
pub mod event;
pub mod founding;
pub mod log;
pub mod membership;
pub mod message;
mod outbox;
pub mod prng;
mod progress;
pub mod quorum;
pub mod ranking;
pub mod sign;
pub mod submissions;
pub mod time;
pub mod timers;
pub mod types;
