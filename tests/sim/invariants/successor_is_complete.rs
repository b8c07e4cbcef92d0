//! A host hands over when its successor has the whole log durably, and it has that itself (R23).
//!
//! Otherwise the successor stands in vain, and nobody serves meanwhile. What a disk loses
//! afterwards counts as durable.

use std::collections::BTreeSet;

use demes_protocol::message::Body;
use demes_protocol::types::{Hash, PeerId};

use super::{Invariant, Sent, Synced};

/// Every entry that was ever durable, and at whom.
#[derive(Default)]
pub struct SuccessorIsComplete(BTreeSet<(PeerId, Hash)>);

impl Invariant for SuccessorIsComplete {
    fn name(&self) -> &'static str {
        "a successor has the whole log"
    }

    fn after_sync(&mut self, synced: &Synced) -> Result<(), String> {
        let peer = synced.peers[synced.peer].id;
        self.0.extend(synced.persist.entries.iter().map(|entry| (peer, entry.hash)));
        Ok(())
    }

    fn on_sent(&mut self, sent: &Sent) -> Result<(), String> {
        let Body::HandOver(_) = &sent.message.body else { return Ok(()) };
        let Some(replica) = &sent.peers[sent.peer].replica else { return Ok(()) };
        let last = replica.log().last_hash();
        for peer in [sent.message.from, sent.message.to] {
            if !self.0.contains(&(peer, last)) {
                let (host, who) = (sent.peer + 1, peer.0[0]);
                return Err(format!("{host} hands over, and {who} has not synced the whole log"));
            }
        }
        Ok(())
    }
}
