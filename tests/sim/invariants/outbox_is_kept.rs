//! What a person was told is queued stays in the outbox on disk until it is committed (R31, R34).
//!
//! It is the other half of the promise: a message survives the crash of its author's peer and the
//! loss of the host that had taken it.

use super::{End, Invariant, Synced};

pub struct OutboxIsKept;

impl Invariant for OutboxIsKept {
    fn at_end(&mut self, end: &End) -> Result<(), String> {
        for peer in end.healed.iter().map(|peer| &end.peers[*peer]) {
            let incarnation = peer.disk.incarnation();
            let last = end.oracle.committed_through(peer.id, incarnation);
            let mut queued = end.oracle.queued().range((peer.id, incarnation, last + 1)..);
            let next = queued.next().filter(|(id, of, _)| (*id, *of) == (peer.id, incarnation));
            if let Some((id, _, number)) = next {
                return Err(format!("{}'s {number} was queued, and is not committed", id.0[0]));
            }
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        "what is queued is kept until it is committed"
    }

    fn after_sync(&mut self, synced: &Synced) -> Result<(), String> {
        let Some(through) = synced.persist.outbox_remove_through else { return Ok(()) };
        let peer = &synced.peers[synced.peer];
        let incarnation = peer.disk.incarnation();
        let queued = (peer.id, incarnation, 0)..=(peer.id, incarnation, through);
        let last = synced.oracle.committed_through(peer.id, incarnation);
        if let Some((_, _, number)) = synced.oracle.queued().range(queued).next_back()
            && *number > last
        {
            let peer = synced.peer + 1;
            return Err(format!("{peer} drops its {number}, and {last} is committed"));
        }
        Ok(())
    }
}
