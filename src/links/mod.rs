//! The connections that this peer makes to others: `peers.rs` keeps one to each member, `dial.rs`
//! makes one and checks who answers, `calls.rs` and `asking.rs` have the calls over it, and
//! `edge.rs` what every message from another peer passes, over whichever connection it came.

pub mod asking;
pub mod backoff;
mod calls;
pub mod dial;
pub mod edge;
pub mod peers;
