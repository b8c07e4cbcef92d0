//! When an entry is first taken for committed, a majority of the voters in force has really had it
//! on disk (R3).
//!
//! This looks at what the simulated disks have made durable, not at what anybody acknowledged. What
//! a disk loses afterwards, against its word, counts as synced. A voter counts only in the
//! incarnation that the voter set names (R9).

use std::collections::BTreeMap;

use demes_protocol::types::{Entry, Hash, Incarnation, PeerId};

use super::{Invariant, Step, Synced};

/// Every log as it became durable.
#[derive(Default)]
pub struct QuorumIsSynced(BTreeMap<(PeerId, Incarnation), Vec<Hash>>);

impl QuorumIsSynced {
    fn has(&self, peer: PeerId, incarnation: Incarnation, entry: &Entry) -> bool {
        let log = self.0.get(&(peer, incarnation));
        // The founder's store begins with the first entry.
        let stored = log.and_then(|log| log.get(entry.index as usize - 1));
        entry.index == 1 || stored == Some(&entry.hash)
    }
}

impl Invariant for QuorumIsSynced {
    fn name(&self) -> &'static str {
        "a majority has synced what is committed"
    }

    fn after_sync(&mut self, synced: &Synced) -> Result<(), String> {
        let peer = &synced.peers[synced.peer];
        let log = self.0.entry((peer.id, peer.disk.incarnation())).or_default();
        if let Some(from) = synced.persist.truncate_from {
            log.truncate(from as usize - 1);
        }
        for entry in &synced.persist.entries {
            log.resize(entry.index as usize - 1, Hash::default());
            log.push(entry.hash);
        }
        Ok(())
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        let new = step.ready.committed.iter().filter(|entry| entry.index > step.oracle.last());
        let voters = step.replica.log().voters();
        for entry in new {
            let has = voters.0.iter().filter(|(peer, inc)| self.has(**peer, **inc, entry));
            let (index, count, of) = (entry.index, has.count(), voters.len());
            if count < voters.majority() {
                return Err(format!("entry {index} is on {count} disks of {of} voters"));
            }
        }
        Ok(())
    }
}
