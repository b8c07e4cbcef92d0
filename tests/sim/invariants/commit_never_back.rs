//! The commit index of a running peer never goes back, and neither does its term.
//!
//! A restart may know less, because the commit index is written down at leisure; nobody is told of
//! that, since a feed goes on from its reader's own cursor.

use super::{Invariant, Step};

pub struct CommitNeverBack;

impl Invariant for CommitNeverBack {
    fn name(&self) -> &'static str {
        "the commit index never goes back"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        let (before, now) = (step.before, step.status);
        if now.commit < before.commit || now.term < before.term {
            let (from, to) = ((before.term, before.commit), (now.term, now.commit));
            return Err(format!("{}: term and commit {from:?} to {to:?}", step.peer + 1));
        }
        if now.commit > now.last {
            return Err(format!("{} commits what it does not have", step.peer + 1));
        }
        Ok(())
    }
}
