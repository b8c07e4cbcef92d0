pub mod config;
pub mod event;
pub mod log;
pub mod message;
pub mod prng;
pub mod time;
pub mod types;
