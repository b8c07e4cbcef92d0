//! Whoever begins to host has every entry that was ever committed.
//!
//! Votes go only to logs at least as up to date (R2), so that a majority that has an entry never
//! elects somebody without it. A host that lacked one would write another in its place.

use demes_protocol::event::Role;
use demes_protocol::types::Position;

use super::{Invariant, Step};

pub struct NewHostIsComplete;

impl Invariant for NewHostIsComplete {
    fn name(&self) -> &'static str {
        "a new host has all that is committed"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        if step.status.role != Role::Host || step.before.role == Role::Host {
            return Ok(());
        }
        // A position names one entry, and an entry all that stands before it. Its votes may reach a
        // candidate when a later term has its host already; what that one commits it need not have.
        let last = step.oracle.last_committed_before(step.status.term);
        let last = last.map(|entry| Position { term: entry.term, index: entry.index });
        if last.is_some_and(|last| !step.replica.log().has(last)) {
            return Err(format!("{} begins to host without {last:?}", step.peer + 1));
        }
        Ok(())
    }
}
