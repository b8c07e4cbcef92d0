//! The life of a peer: its chats, what its person asks for, and what it does by itself.
//!
//! `node.rs` is the peer as a whole. `person.rs` has what its person wants said in a chat,
//! `people/` how people come and go, `life.rs` what becomes of a chat here, `records.rs` and
//! `repair.rs` how chats outlive a bad disk, `reach.rs` who reaches whom, `gate.rs` how often
//! others may call, `refusal.rs` every error. Nothing here
//! knows through which face it is asked.

pub mod gate;
pub mod life;
pub mod limits;
pub mod lookup;
pub mod node;
pub mod own_address;
pub mod people;
pub mod person;
pub mod reach;
pub mod records;
pub mod refusal;
pub mod repair;
pub mod repeats;
pub mod resolve;
