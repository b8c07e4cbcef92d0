//! The voters are the latest set in the log, committed or not, and a host changes them once at a
//! time (R5, R6).
//!
//! Whoever counted another set would take for a majority what is none.

use demes_protocol::event::Role;
use demes_protocol::types::{Entry, Index, Payload, VoterSet};

use super::{Invariant, Step};

/// The sets that are known to be committed, each with its index.
#[derive(Default)]
pub struct VotersInForce {
    committed: Vec<(Index, VoterSet)>,
    through: usize,
}

fn set_of(entry: &Entry) -> Option<VoterSet> {
    match &entry.payload {
        Payload::VoterChange(voters) => Some(voters.clone()),
        _ if entry.index == 1 => Some(VoterSet([(entry.author, entry.incarnation)].into())),
        _ => None,
    }
}

impl Invariant for VotersInForce {
    fn name(&self) -> &'static str {
        "the voters are the latest set in the log"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        for entry in &step.oracle.committed()[self.through..] {
            self.committed.extend(set_of(entry).map(|set| (entry.index, set)));
        }
        self.through = step.oracle.committed().len();
        let (log, peer) = (step.replica.log(), step.peer + 1);
        let tail = log.entries_from(log.commit() + 1, usize::MAX);
        let pending: Vec<_> =
            tail.iter().filter_map(|entry| Some((entry, set_of(entry)?))).collect();
        let just_committed = || step.ready.committed.iter().rev().find_map(|entry| set_of(entry));
        let before = || {
            let known = self.committed.iter().rev().find(|(index, _)| *index <= log.commit());
            known.map(|(_, set)| set.clone())
        };
        let latest = pending.last().map(|(_, set)| set.clone());
        let latest = latest.or_else(just_committed).or_else(before);
        if latest.is_some_and(|latest| latest != *log.voters()) {
            return Err(format!("{peer} counts other voters than the latest set in its log"));
        }
        let is_own = step.status.role == Role::Host
            && pending.iter().any(|(entry, _)| entry.term == step.status.term);
        let own_is_committed = log.term_at(log.commit()) == Some(step.status.term);
        if is_own && (pending.len() > 1 || !own_is_committed) {
            return Err(format!("{peer} changes the voters before the last change is committed"));
        }
        Ok(())
    }
}
