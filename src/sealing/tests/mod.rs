//! Whole chats of sealers over one log, with real MLS and real vaults.

mod crash;
mod keying;
mod messages;
mod rubbish;
mod secrecy;
mod vault;
mod vectors;
mod world;
