//! How far everybody has got and read the log (R36), for showing and for what peers remember.

use std::collections::BTreeMap;

use super::message::Receipt;
use super::planted::{Bug, planted};
use super::replica::{Part, Replica};
use super::types::PeerId;

impl Replica {
    // R36: both only grow, whoever tells. Of those who are no members nothing is kept.
    pub(super) fn learn_receipt(&mut self, peer: PeerId, receipt: Receipt) {
        if self.log.state().members.contains_key(&peer) || planted(Bug::ReceiptsOfAnybody) {
            let known = self.receipts.entry(peer).or_default();
            match planted(Bug::ReceiptsGoBack) {
                true => *known = receipt,
                false => known.advance(receipt),
            }
        }
    }

    /// How far every member is: what the host has told, and this peer's own position.
    pub(super) fn all_receipts(&self) -> BTreeMap<PeerId, Receipt> {
        let mut receipts = self.receipts.clone();
        if let Part::Host(hosting) = &self.part {
            for (peer, progress) in &hosting.progress {
                receipts.entry(*peer).or_default().advance(progress.receipt);
            }
        }
        // A host commits with the others' copies. What it has delivered itself is on its own disk.
        let delivered = self.log.commit().min(self.synced);
        receipts.entry(self.me).or_default().advance(Receipt { delivered, read: self.read });
        receipts
    }

    /// What a host was told itself outlives its hosting.
    pub(super) fn keep_receipts(&mut self) {
        if !planted(Bug::ReceiptsEndWithTerm) {
            self.receipts = self.all_receipts();
        }
    }

    /// Voters that this peer is linked to, itself included.
    pub(super) fn voters_linked(&self) -> usize {
        let linked = |peer: &&PeerId| **peer == self.me || self.is_within_reach(peer);
        self.log.voters().peers().filter(linked).count()
    }
}
