//! What a member does, whoever hosts.
//!
//! `following` decides whom it takes for the host, and by what proof; `follower` keeps in touch
//! with that one and says how far it is; `taking` judges each entry that comes. `outbox` keeps what
//! its person wants said until the log has it, `receipts` shows how far everybody is, and `relay`
//! passes the chat on to a member that only the host cannot be reached by.
//!
//! What other rooms call is `pub(crate)`: the messages for a member, `lose_host` and its like, and
//! `flush_follower`.

mod follower;
mod following;
mod outbox;
mod receipts;
mod relay;
mod taking;

pub(crate) use follower::{Lease, PAST_AGAIN, RELAY_US};
pub(crate) use following::{Attached, Following, Sources, Trial};
pub(crate) use outbox::Outbox;
