//! Keys and what is done with them: who a peer is, how two peers prove it to each other, what a
//! signature is worth, and where message texts will be sealed.
//!
//! Reading order: `identity` (the key and its files) and `certificate` (how it is shown), `verify`
//! (signatures), `link` (keys of invite links), `tls` (mutual TLS 1.3 pinned to keys), `seal` (the
//! room for end-to-end encryption).

pub mod certificate;
pub mod identity;
pub mod link;
pub mod seal;
pub mod tls;
pub mod verify;

pub use identity::{Identity, IdentityError};
