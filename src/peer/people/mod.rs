//! How people come to a chat: `invites.rs` keeps what was sent and what has arrived, `inviting.rs`
//! brings invitations, `invite_links.rs` makes links, `accepting.rs` takes one of either, and
//! `joining.rs` brings the answer to the chat's host.

pub mod accepting;
pub mod invite_links;
pub mod invites;
pub mod inviting;
pub mod joining;
