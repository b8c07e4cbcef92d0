//! Two logs that have an entry of the same term at the same index have the same entry there, and
//! each entry holds the hash of the one before.
//!
//! Followers compare positions (term and index) and never contents (R35); this is why they may.

use std::collections::BTreeMap;

use demes_protocol::types::{Hash, Index, Term};

use super::{Invariant, Synced};

#[derive(Default)]
pub struct LogMatching(BTreeMap<(Index, Term), Hash>);

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "a position names one entry"
    }

    fn after_sync(&mut self, synced: &Synced) -> Result<(), String> {
        for entry in &synced.persist.entries {
            let position = (entry.index, entry.term);
            let hash = *self.0.entry(position).or_insert(entry.hash);
            if hash != entry.hash {
                let peer = synced.peer + 1;
                return Err(format!("{peer} has another entry at index and term {position:?}"));
            }
            let stored = &synced.peers[synced.peer].disk.image().entries;
            let before = (entry.index as usize).checked_sub(2).and_then(|at| stored.get(at));
            if before.is_some_and(|before| before.hash != entry.previous) {
                return Err(format!("{}'s log is no chain at {position:?}", synced.peer + 1));
            }
        }
        Ok(())
    }
}
