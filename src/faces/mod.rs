//! What a peer shows to others: to its person's programs, and to other peers. `places.rs` and
//! `visit.rs` are for every listener: who is let in, who gives way, and whose connection it is.

pub mod grpc;
pub mod places;
pub mod visit;
