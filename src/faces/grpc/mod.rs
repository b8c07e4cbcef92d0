//! The gRPC face: decode, ask the peer, encode. `client.rs` is for the person's programs, with
//! `writes.rs`, `feed.rs`, `pages.rs` and `shown.rs`; `host.rs`, `election.rs` and `peer.rs` are
//! for other peers, with what they share in `inbound.rs` and `streams.rs`. `status.rs` turns
//! refusals into codes and details.

pub mod client;
mod election;
mod feed;
pub mod host;
pub mod inbound;
mod pages;
mod peer;
mod shown;
pub mod status;
mod streams;
mod writes;
