//! What people with bad intentions may try, over real connections: each case has a stated result,
//! changes nothing in the chat, and leaves the peer serving it.
//!
//! `raw.rs` has what an attacker brings: keys of its own, the keys of a member that was taken over,
//! and bytes that no honest peer sends. The other files have a kind of attack each.

mod doors;
mod feeds;
mod floods;
mod frames;
mod invites;
mod keys;
mod liar;
mod lies;
mod lying_host;
mod members;
mod moments;
mod peer;
mod programs;
mod quotas;
mod raw;
mod reach;
mod reigns;
mod removal;
mod strangers;
