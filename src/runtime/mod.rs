//! What stands between the pure rules and the world: one loop that owns all replicas, one storage
//! thread for each chat, and the queues around them.
//!
//! Read `driver.rs` first, the loop, and `chat.rs`, what it does for one chat. `handle.rs` is how
//! everybody else speaks to the loop, `send_queue.rs` what waits for another peer, `journal.rs` the
//! thread that makes things durable, and `feed.rs` the way of committed entries to their readers.
//! All chats of two peers share their streams: `lanes.rs` lets them take turns, and `pace.rs` says
//! how much is sent ahead.
//! `absences.rs` remembers since when members are away, for people.
//! `proposing.rs` takes what this peer's programs want said, and `carry.rs` goes on with what an
//! earlier incarnation of this peer had to say. `measure.rs` counts for the metrics.

mod absences;
mod carry;
mod chat;
pub mod driver;
pub mod feed;
pub mod handle;
mod journal;
pub mod lanes;
pub mod measure;
pub mod pace;
mod proposing;
mod requests;
pub mod send_queue;
mod spans;
