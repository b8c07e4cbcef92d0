//! What a person was told is confirmed stands in the committed log where they were told, then and
//! in every healed log at the end.
//!
//! This is the promise that demes makes.

use super::{Confirmed, End, Invariant};

pub struct ConfirmedIsKept;

impl Invariant for ConfirmedIsKept {
    fn name(&self) -> &'static str {
        "what is confirmed is never lost"
    }

    fn on_confirmed(&mut self, confirmed: &Confirmed) -> Result<(), String> {
        let (peer, number, index) = (confirmed.peer, confirmed.number, confirmed.index);
        let submitted = (peer.id, peer.disk.incarnation(), number);
        let entry = confirmed.oracle.entry(index);
        if entry.is_none_or(|entry| (entry.author, entry.incarnation, entry.number) != submitted) {
            return Err(format!("{}'s {number} is not at {index}", peer.id.0[0]));
        }
        // A number that was given away twice stands for one thing only.
        let own = confirmed.oracle.proposed(&submitted).last();
        if entry.map(|entry| &entry.payload) != own {
            return Err(format!("{}'s {number} is confirmed, with other words", peer.id.0[0]));
        }
        let before = confirmed.oracle.confirmed().get(&submitted);
        if before.is_some_and(|before| *before != index) {
            return Err(format!("{}'s {number} is confirmed at two places", peer.id.0[0]));
        }
        Ok(())
    }

    fn at_end(&mut self, end: &End) -> Result<(), String> {
        for &peer in end.healed {
            let stored = &end.peers[peer].disk.image().entries;
            for (submitted, index) in end.oracle.confirmed() {
                let entry = stored.get(*index as usize - 1);
                let found = entry.map(|entry| (entry.author, entry.incarnation, entry.number));
                if found != Some(*submitted) {
                    let author = submitted.0.0[0];
                    return Err(format!("{author}'s entry {index} is not at {}", peer + 1));
                }
            }
            for (entry, own) in end.oracle.committed().iter().zip(stored) {
                if entry.hash != own.hash {
                    return Err(format!("{} has another entry {}", peer + 1, entry.index));
                }
            }
            if stored.len() < end.oracle.committed().len() {
                return Err(format!("{}'s log is shorter than what is committed", peer + 1));
            }
        }
        Ok(())
    }
}
