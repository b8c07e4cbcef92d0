//! How far everybody has got and read the log (R36), for showing and for what peers remember.

use std::collections::BTreeMap;

use crate::message::Receipt;
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::types::PeerId;

impl Replica {
    // R36: both only grow, whoever tells. Of those who are no members nothing is kept.
    pub(super) fn learn_receipt(&mut self, peer: PeerId, receipt: Receipt) {
        if self.log.state().members.contains_key(&peer) || planted(Bug::ReceiptsOfAnybody) {
            let known = self.world.receipts.entry(peer).or_default();
            match planted(Bug::ReceiptsGoBack) {
                true => *known = receipt,
                false => known.advance(receipt),
            }
        }
    }

    /// How far every member is: what the host has told, and this peer's own position.
    pub(crate) fn all_receipts(&self) -> BTreeMap<PeerId, Receipt> {
        let mut receipts = self.world.receipts.clone();
        if let Part::Host(hosting) = &self.part {
            for (peer, progress) in &hosting.progress {
                receipts.entry(*peer).or_default().advance(progress.receipt);
            }
        }
        receipts.entry(self.me).or_default().advance(self.own_receipt());
        receipts
    }

    // A host commits with the others' copies. What it has delivered itself is on its own disk.
    fn own_receipt(&self) -> Receipt {
        Receipt { delivered: self.log.commit().min(self.durability.synced), read: self.kept.read }
    }

    /// What a host tells a member now: all receipts at first, then those that have changed, and
    /// nothing of itself. They are taken for told.
    pub(crate) fn new_receipts(&mut self, member: PeerId) -> Vec<(PeerId, Receipt)> {
        let (me, own) = (self.me, self.own_receipt());
        let Part::Host(hosting) = &mut self.part else { return Vec::new() };
        if hosting.own_receipt != own {
            hosting.own_receipt = own;
            hosting.receipts_version += 1;
            hosting.receipts_changed.insert(me, hosting.receipts_version);
        }
        let version = hosting.receipts_version;
        let Some(progress) = hosting.progress.get_mut(&member) else { return Vec::new() };
        let told = progress.receipts_version_sent;
        if told == version {
            return Vec::new();
        }
        if progress.matched >= progress.receipts_from {
            progress.receipts_version_sent = version;
        }
        let Part::Host(hosting) = &self.part else { return Vec::new() };
        let is_new = |peer: &PeerId| {
            let changed = hosting.receipts_changed.get(peer);
            *peer != member && (told == 0 || changed.is_some_and(|changed| *changed > told))
        };
        let all = self.all_receipts().into_iter();
        all.filter(|(peer, _)| is_new(peer) || planted(Bug::AllReceiptsTold)).collect()
    }

    /// What a host was told itself outlives its hosting.
    pub(crate) fn keep_receipts(&mut self) {
        if !planted(Bug::ReceiptsEndWithTerm) {
            self.world.receipts = self.all_receipts();
        }
    }

    /// Voters that this peer is linked to, itself included.
    pub(crate) fn voters_linked(&self) -> usize {
        let linked = |peer: &&PeerId| **peer == self.me || self.is_within_reach(peer);
        self.log.voters().peers().filter(linked).count()
    }
}
