//! The rules of one chat at one peer, as a pure state machine: no IO, clock, task, float or random
//! order in here. Read this first.
//!
//! A [`replica::Replica`] is driven by four calls. `handle(now, event)` lets something happen;
//! `take_ready()` gives everything that is to be done since the last time, in the order in which
//! to do it; `poll_timeout()` says when `handle` wants to be called at the latest; `status()` shows
//! the chat to people. Whoever drives it keeps three promises, which [`event::Ready`] states in
//! full: what is early may go at once, what is to be durable is made durable in one sync, and
//! what relies on that leaves only afterwards, in order.
//!
//! The rules have the numbers of `docs/protocol.md`; `// R22:` marks the place of a rule. A reader
//! goes from [`types`], [`message`] and [`event`], the words, to [`replica`], the control flow, and
//! from there to `host`, `follower` and `election`, one file per part that a peer can play.

// What has no place in here; clippy.toml says why.
#![deny(clippy::disallowed_types, clippy::disallowed_methods, clippy::float_arithmetic)]

mod adoption;
mod checkpoint;
mod codec;
pub mod config;
mod durable;
mod election;
pub mod event;
pub mod evidence;
mod follower;
mod following;
pub mod founding;
mod hearsay;
mod heartbeats;
mod host;
pub mod invite_link;
pub mod log;
pub mod membership;
pub mod message;
mod ordering;
mod outbox;
mod past;
pub mod planted;
mod presence;
pub mod prng;
mod progress;
pub mod quorum;
pub mod quota;
pub mod ranking;
mod receipts;
pub mod recovery;
pub mod reign;
mod relay;
mod removal;
pub mod replica;
mod sending;
pub mod sign;
pub mod signed;
pub mod situation;
mod stopping;
mod strangers;
pub mod submissions;
mod succession;
mod taking;
pub mod time;
pub mod timers;
pub mod traceparent;
pub mod types;
pub mod voters;
mod voting;

pub use replica::Replica;
