//! What a peer keeps on its disk.
//!
//! A data directory belongs to one process at a time (`directory`). Each chat has a file of its own
//! (`chat` writes it, `recover` opens it, `reader` reads it, `anew` replaces it), so that a damaged
//! chat leaves the others alone; what belongs to the peer as a whole is in one more (`peer`). All
//! are redb files; `database` is the only place that calls redb's transactions, and `schema` says
//! what the records look like: each has a checksum that every read verifies (R37), as `records`
//! does for single ones. `unverified` reads what redb refuses, for `anew`. `files` has every change
//! of a name, and `names` which ones there are. `probe` measures the disk.
//!
//! Calls block, those of the peer's own store and of the directory without holding up the tasks of
//! the thread that makes them (`apart`). The writer of a chat belongs to one thread; readers work
//! beside it anywhere.

mod anew;
mod apart;
mod chat;
mod database;
pub mod directory;
mod error;
#[cfg(test)]
pub mod faults;
mod files;
mod known;
mod mark;
mod names;
pub mod peer;
mod probe;
mod reader;
mod records;
mod recover;
mod rights;
pub mod schema;
mod unverified;

pub use anew::Anew;
pub use apart::apart;
pub use chat::{Carry, ChatStore, new_incarnation};
pub use database::{Panic, take_panic};
pub use directory::{DataDir, free_bytes, process_on};
pub use error::StorageError;
pub use peer::PeerStore;
pub use probe::{is_in_memory, sync_times};
pub use reader::{ChatReader, Page};
pub use rights::{make_private_dir, write_private};
