//! A peer's feed is a prefix of the committed log without a gap: each start goes on where the log
//! was committed, and nothing is told twice or left out.
//!
//! Programs rely on the sequence being dense: it is all they need to go on after a break.

use std::collections::BTreeMap;

use demes_protocol::event::Status;
use demes_protocol::types::Index;

use super::{Invariant, Step};

#[derive(Default)]
pub struct FeedGapFree(BTreeMap<usize, Index>);

impl Invariant for FeedGapFree {
    fn name(&self) -> &'static str {
        "every feed is a gap-free prefix"
    }

    fn start(&mut self, peer: usize, status: &Status) {
        self.0.insert(peer, status.commit);
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        let told = self.0.entry(step.peer).or_insert(0);
        for entry in &step.ready.committed {
            if entry.index != *told + 1 {
                let (peer, index) = (step.peer + 1, entry.index);
                return Err(format!("{peer} tells of {index} after {told}"));
            }
            *told = entry.index;
        }
        if *told != step.status.commit {
            let (peer, commit) = (step.peer + 1, step.status.commit);
            return Err(format!("{peer} has told of {told} and committed {commit}"));
        }
        Ok(())
    }
}
