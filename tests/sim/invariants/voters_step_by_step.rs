//! The voters change by one at a time, never below what the chat needs, and only members vote (R5,
//! R6, R27).
//!
//! Majorities of two sets that differ by one voter always meet; of two that differ by two they need
//! not, and then there could be two hosts.

use std::collections::BTreeMap;

use demes_protocol::types::{Hash, Payload, VoterSet};

use super::{Invariant, Synced};

/// The voter set in force at each `VoterChange`, by the entry's hash, which names a whole log.
#[derive(Default)]
pub struct VotersStepByStep(BTreeMap<Hash, ()>);

impl Invariant for VotersStepByStep {
    fn name(&self) -> &'static str {
        "voters change one at a time"
    }

    fn after_sync(&mut self, synced: &Synced) -> Result<(), String> {
        for entry in &synced.persist.entries {
            let Payload::VoterChange(next) = &entry.payload else { continue };
            if self.0.insert(entry.hash, ()).is_some() {
                continue;
            }
            let stored = &synced.peers[synced.peer].disk.image().entries;
            let earlier = stored.iter().take(entry.index as usize - 1).rev();
            let mut sets = earlier.filter_map(|earlier| match &earlier.payload {
                Payload::VoterChange(voters) => Some(voters.clone()),
                Payload::Membership(_) if earlier.index == 1 => {
                    Some(VoterSet([(earlier.author, earlier.incarnation)].into()))
                }
                _ => None,
            });
            let before = sets.next().unwrap_or_default();
            let added = next.0.iter().filter(|voter| !before.0.iter().any(|v| v == *voter));
            let removed = before.0.iter().filter(|voter| !next.0.iter().any(|v| v == *voter));
            let (added, removed) = (added.count(), removed.count());
            if added + removed != 1 {
                let index = entry.index;
                return Err(format!("entry {index} adds {added} voters and removes {removed}"));
            }
            if next.is_empty() {
                return Err(format!("entry {} leaves no voter", entry.index));
            }
        }
        Ok(())
    }
}
