//! What somebody said in an earlier situation does nothing in a later one (R9, R41, R43): a word of
//! an incarnation that has been outlived brings that one not back, and who declined an invitation
//! has not declined the next one.
//!
//! Calls may arrive late and twice. Who was locked out by its own old word could not even say so.

use demes_protocol::types::{Membership, Payload};

use super::{Invariant, Step};

pub struct OldWordsAreOver;

impl Invariant for OldWordsAreOver {
    fn name(&self) -> &'static str {
        "old words are over"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        // The effect of an entry depends on those before it, which the oracle knows at the next
        // step; here one of each kind is enough.
        let roll = &step.oracle.roll;
        let next = step.oracle.last() + 1;
        let Some(entry) = step.ready.committed.iter().find(|entry| entry.index == next) else {
            return Ok(());
        };
        let author = entry.author;
        match &entry.payload {
            Payload::Membership(Membership::Joined { .. })
                if roll.would_return(author, entry.incarnation) =>
            {
                Err(format!("{}'s {} is back, which was outlived", author.0[0], entry.incarnation))
            }
            Payload::Membership(Membership::Declined) => match roll.invited_at(author) {
                Some(at) if !step.oracle.has_declined(author, at) => {
                    Err(format!("{} has not declined its invitation of {at}", author.0[0]))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
