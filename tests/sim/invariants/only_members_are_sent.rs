//! Entries go only to members: peers that belong to the chat, in that incarnation, as far as the
//! sender knows.
//!
//! One who has left, or was declined, reads nothing more. What was in flight when the removal was
//! committed cannot be called back. The host tells a member of the commit that ends the membership,
//! once, with nothing that comes after it.

use std::collections::BTreeMap;

use demes_protocol::message::Body;
use demes_protocol::types::Index;

use super::{Invariant, Sent, Step};

/// The commit index of each peer before its last step.
#[derive(Default)]
pub struct OnlyMembersAreSent(BTreeMap<usize, Index>);

impl Invariant for OnlyMembersAreSent {
    fn name(&self) -> &'static str {
        "only members are sent entries"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        self.0.insert(step.peer, step.before.commit);
        Ok(())
    }

    fn on_sent(&mut self, sent: &Sent) -> Result<(), String> {
        let Body::Append(append) = &sent.message.body else { return Ok(()) };
        let (to, incarnation) = (sent.message.to, sent.message.to_incarnation);
        let Some(membership) = sent.oracle.roll.membership(to, incarnation) else {
            return Err(format!("{} sends entries to a stranger", sent.peer + 1));
        };
        let Some(removed_at) = membership.through else { return Ok(()) };
        let (from, to) = (sent.peer + 1, sent.to + 1);
        let known = self.0.get(&sent.peer).copied().unwrap_or(0);
        if known >= removed_at {
            return Err(format!("{from} sends entries to {to}, which is no member any more"));
        }
        let last = append.entries.last().map_or(0, |entry| entry.index);
        if append.commit >= removed_at && last > removed_at {
            return Err(format!("{from} sends {last} to {to}, removed at {removed_at}"));
        }
        Ok(())
    }
}
