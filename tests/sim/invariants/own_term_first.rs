//! A host commits, and serves, from the first entry of its own term on (R3, R4).
//!
//! Copies of an older term's entry do not commit it: a majority may have it, and a later host
//! without it may still be elected and cut it.

use demes_protocol::event::Role;

use super::{Invariant, Step};

pub struct OwnTermFirst;

impl Invariant for OwnTermFirst {
    fn name(&self) -> &'static str {
        "a host commits its own term first"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        let (before, status) = (step.before, step.status);
        if status.role != Role::Host {
            return Ok(());
        }
        let reigned = before.role == Role::Host && before.term == status.term;
        let has_committed = reigned && before.commit != status.commit;
        let own_is_committed = step.replica.log().term_at(status.commit) == Some(status.term);
        if (has_committed || status.serving) && !own_is_committed {
            let (peer, commit, term) = (step.peer + 1, status.commit, status.term);
            return Err(format!("{peer} commits {commit}, which is not of its term {term}"));
        }
        Ok(())
    }
}
