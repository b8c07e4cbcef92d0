//! What a member acknowledges is on its disk, and is what the host has there (R3, R35).
//!
//! The host counts acknowledgements as copies. One that ran ahead of its sync would let a power cut
//! take a confirmed message away.

use demes_protocol::message::Body;

use super::{Invariant, Sent};

pub struct AcknowledgedIsSynced;

impl Invariant for AcknowledgedIsSynced {
    fn name(&self) -> &'static str {
        "what is acknowledged is synced"
    }

    fn on_sent(&mut self, sent: &Sent) -> Result<(), String> {
        let Body::Acknowledge(acknowledge) = &sent.message.body else { return Ok(()) };
        let own = &sent.peers[sent.peer].disk.image().entries;
        let synced = acknowledge.synced as usize;
        if synced > own.len() {
            let (peer, has) = (sent.peer + 1, own.len());
            return Err(format!("{peer} acknowledges {synced} and has synced {has}"));
        }
        // As long as that host reigns, its log is the measure.
        let host = &sent.peers[sent.to];
        let Some(replica) = host.replica.as_ref() else { return Ok(()) };
        if host.status.term != acknowledge.term || host.status.host != Some(host.id) {
            return Ok(());
        }
        let last = synced.checked_sub(1).map(|at| &own[at]);
        if last.is_some_and(|last| replica.log().term_at(last.index) != Some(last.term)) {
            return Err(format!("{} acknowledges what its host does not have", sent.peer + 1));
        }
        Ok(())
    }
}
