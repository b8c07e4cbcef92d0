//! What is written: the log of a chat, what it says of the chat, and its bytes.
//!
//! A room of plain values. It knows the words of the package and no [`crate::Replica`], so that a
//! store, a wire or a test can use it by itself. [`Log`] is the door: `entries` keeps it,
//! [`membership`] computes what its committed part says of the chat, with [`invite_link`],
//! [`submissions`] and the words that [`signed`] keeps to be shown, and [`reign`] judges what may
//! follow in it, by majorities ([`quorum`]). `codec` and `checkpoint` are its canonical bytes,
//! [`sign`] says what of them hashes and signatures cover, and [`founding`] makes the first entry.

mod checkpoint;
mod codec;
mod entries;
pub mod founding;
pub mod invite_link;
pub mod membership;
pub mod quorum;
pub mod reign;
pub mod sign;
pub mod signed;
pub mod submissions;

pub use entries::{Checkpoint, Log};
