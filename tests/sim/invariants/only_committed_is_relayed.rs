//! Who passes the log on and does not host passes on what is committed, and nothing else (R35).
//!
//! Only the host knows what else may stay. A reader who got more from another member would have to
//! take it back.

use std::collections::BTreeMap;

use demes_protocol::event::Role;
use demes_protocol::message::Body;
use demes_protocol::types::{PeerId, Term};

use super::{Invariant, Sent, Step};

/// The host of each term.
#[derive(Default)]
pub struct OnlyCommittedIsRelayed(BTreeMap<Term, PeerId>);

impl Invariant for OnlyCommittedIsRelayed {
    fn name(&self) -> &'static str {
        "only what is committed is passed on"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        if step.status.role == Role::Host {
            self.0.insert(step.status.term, step.peers[step.peer].id);
        }
        Ok(())
    }

    fn on_sent(&mut self, sent: &Sent) -> Result<(), String> {
        let Body::Append(append) = &sent.message.body else { return Ok(()) };
        if self.0.get(&append.term) == Some(&sent.message.from) {
            return Ok(());
        }
        let is_committed =
            |index, hash| sent.oracle.entry(index).is_some_and(|committed| committed.hash == hash);
        let other = append.entries.iter().find(|entry| !is_committed(entry.index, entry.hash));
        other.map_or(Ok(()), |entry| {
            Err(format!("{} passes on {}, which is not committed", sent.peer + 1, entry.index))
        })
    }
}
