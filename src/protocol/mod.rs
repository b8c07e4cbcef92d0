//! The rules of one chat at one peer. (Temporary map, completed with the replica.)
mod codec;
pub mod config;
pub mod event;
pub mod founding;
pub mod log;
pub mod membership;
pub mod message;
pub mod prng;
pub mod sign;
pub mod submissions;
pub mod time;
pub mod types;
