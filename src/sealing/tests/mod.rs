//! Whole chats of sealers over one log, with real MLS and real vaults.

mod crash;
mod keying;
mod messages;
mod vault;
mod world;
