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
//! from there into one room at a time: `host` and `member`, the parts that a peer can play,
//! `election`, which takes it from one to the other, and `sender`, which says whom it listens to.
//! All of them stand on [`log`], what is written.

// What has no place in here; clippy.toml says why.
#![deny(clippy::disallowed_types, clippy::disallowed_methods, clippy::float_arithmetic)]

pub mod config;
mod durable;
mod election;
pub mod event;
pub mod evidence;
mod host;
pub mod log;
mod member;
pub mod message;
mod part;
pub mod planted;
pub mod prng;
pub mod quota;
pub mod recovery;
pub mod replica;
mod sender;
mod sending;
pub mod situation;
mod stopping;
pub mod time;
pub mod timers;
pub mod traceparent;
pub mod types;
mod world;

// Around the rules these are words like the others.
pub use log::{founding, invite_link, quorum, reign, sign, signed};
pub use replica::Replica;
