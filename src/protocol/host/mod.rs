//! What a host does, from the votes that chose it to the end of its term.
//!
//! [`Hosting`] is all that it keeps, and is dropped whole. `hosting` begins it, passes the log on
//! and counts who has it (`progress`), with `heartbeats` to stay alive and `contact` to know it;
//! `ordering` puts submissions in order; `presence` says who is here, from which `voters` and
//! `succession` follow: who votes, who belongs, and who comes next in the list that `ranking`
//! makes.
//!
//! What other rooms call is `pub(crate)`: the messages for a host, `become_host`, `host_on_time`
//! and `flush_host`.

mod contact;
mod heartbeats;
mod hosting;
mod ordering;
mod presence;
mod progress;
mod ranking;
mod succession;
mod voters;

pub(crate) use hosting::{HeartbeatSent, Hosting};
pub(crate) use presence::Presence;
pub(crate) use progress::{Batch, Progress, RECALL_US};
pub(crate) use succession::HandingOver;
