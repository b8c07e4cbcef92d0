//! What two peers take for committed at one index is the same entry, and there are no gaps.
//!
//! This is what the chat is: one order for all.

use super::{Invariant, Step};

pub struct CommittedEverywhereAlike;

impl Invariant for CommittedEverywhereAlike {
    fn name(&self) -> &'static str {
        "committed entries are the same everywhere"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        let mut last = step.oracle.last();
        for entry in &step.ready.committed {
            let index = entry.index;
            if index > last + 1 {
                return Err(format!("{} commits {index} after {last}", step.peer + 1));
            }
            last = last.max(index);
            let known = step.oracle.entry(index);
            if let Some(known) = known.filter(|known| known.hash != entry.hash) {
                let (peer, terms) = (step.peer + 1, (known.term, entry.term));
                return Err(format!("{peer} commits another entry {index}: terms {terms:?}"));
            }
        }
        Ok(())
    }
}
