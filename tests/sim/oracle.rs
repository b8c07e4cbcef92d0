//! What the world knows that no replica does: what was wanted by whom, what was promised to whom,
//! and what was committed, in the order in which it became known. Lists that only grow, made from
//! what peers said, never read back from a replica's log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use demes_protocol::types::{
    Entry, Incarnation, Index, Membership as Change, Number, Payload, PeerId,
};

/// One author in one session, and its count.
pub type Submitted = (PeerId, Incarnation, Number);

/// When somebody belonged to the chat: after the first index, through the second.
#[derive(Clone, Copy, Debug)]
pub struct Membership {
    incarnation: Incarnation,
    from: Index,
    /// The entry that ended it.
    pub through: Option<Index>,
}

#[derive(Default)]
pub struct Oracle {
    committed: Vec<Arc<Entry>>,
    proposed: BTreeMap<Submitted, Payload>,
    queued: BTreeSet<Submitted>,
    confirmed: BTreeMap<Submitted, Index>,
    /// The last number of each author and session that is committed.
    last_numbers: BTreeMap<(PeerId, Incarnation), Number>,
    invited: BTreeSet<PeerId>,
    memberships: BTreeMap<PeerId, Vec<Membership>>,
    /// Where each reader of the feed is.
    readers: Vec<Index>,
}

impl Oracle {
    // ---- what was wanted, and promised ----

    /// A person wants something in the log.
    pub fn propose(
        &mut self,
        peer: PeerId,
        session: Incarnation,
        number: Number,
        payload: &Payload,
    ) {
        self.proposed.insert((peer, session, number), payload.clone());
    }

    /// A person was told that it is queued.
    pub fn queue(&mut self, submitted: Submitted) {
        self.queued.insert(submitted);
    }

    /// A person was told that it is confirmed.
    pub fn confirm(&mut self, submitted: Submitted, index: Index) {
        self.confirmed.insert(submitted, index);
    }

    pub fn proposed(&self, submitted: &Submitted) -> Option<&Payload> {
        self.proposed.get(submitted)
    }
    pub fn queued(&self) -> &BTreeSet<Submitted> {
        &self.queued
    }
    pub fn confirmed(&self) -> &BTreeMap<Submitted, Index> {
        &self.confirmed
    }

    // ---- what is committed ----

    /// Takes note of an entry that a peer takes for committed. Only the first report counts.
    pub fn commit(&mut self, entry: &Arc<Entry>) {
        if entry.index != self.last() + 1 {
            return;
        }
        self.committed.push(Arc::clone(entry));
        if entry.number > 0 {
            self.last_numbers.insert((entry.author, entry.session), entry.number);
        }
        let Payload::Membership(change) = &entry.payload else { return };
        match change {
            Change::Founded { .. } => self.arrive(entry),
            Change::Invited { peer, .. } => {
                self.invited.insert(*peer);
            }
            Change::Joined { .. } if self.invited.contains(&entry.author) => self.arrive(entry),
            Change::Declined => {
                if !self.is_present(entry.author, entry.index) {
                    self.invited.remove(&entry.author);
                }
            }
            Change::Removed { peer } => {
                self.invited.remove(peer);
                self.depart(*peer, entry.index);
            }
            // The people of the simulation use no links, remove nobody, and recover nothing.
            Change::Joined { .. }
            | Change::Leaving
            | Change::Removing { .. }
            | Change::InviteRevoked { .. }
            | Change::InviteLinkCreated { .. }
            | Change::InviteLinkRevoked { .. }
            | Change::Recovered { .. } => {}
        }
    }

    fn arrive(&mut self, entry: &Entry) {
        self.invited.insert(entry.author);
        self.depart(entry.author, entry.index);
        let (incarnation, from) = (entry.session, entry.index);
        let membership = Membership { incarnation, from, through: None };
        self.memberships.entry(entry.author).or_default().push(membership);
    }

    fn depart(&mut self, peer: PeerId, at: Index) {
        let all = self.memberships.get_mut(&peer);
        if let Some(last) = all.and_then(|all| all.last_mut()) {
            last.through.get_or_insert(at);
        }
    }

    fn is_present(&self, peer: PeerId, at: Index) -> bool {
        let mut all = self.memberships.get(&peer).into_iter().flatten();
        all.any(|one| one.from <= at && one.through.is_none_or(|through| at <= through))
    }

    /// The membership of that peer in that incarnation; the latest where it is 0, unknown.
    pub fn membership(&self, peer: PeerId, incarnation: Incarnation) -> Option<&Membership> {
        let mut all = self.memberships.get(&peer)?.iter();
        all.rfind(|one| incarnation == 0 || one.incarnation == incarnation)
    }

    /// Whether that peer has ever been a member.
    pub fn was_member(&self, peer: PeerId) -> bool {
        self.memberships.contains_key(&peer)
    }

    /// The last number of that author and session that is committed; 0 if none.
    pub fn committed_through(&self, author: PeerId, session: Incarnation) -> Number {
        self.last_numbers.get(&(author, session)).copied().unwrap_or(0)
    }

    /// Everything that is known to be committed, in order.
    pub fn committed(&self) -> &[Arc<Entry>] {
        &self.committed
    }
    pub fn entry(&self, index: Index) -> Option<&Arc<Entry>> {
        self.committed.get(usize::try_from(index).ok()?.checked_sub(1)?)
    }
    pub fn last(&self) -> Index {
        self.committed.len() as Index
    }

    // ---- readers of the feed ----

    /// How far that reader has read.
    pub fn reader(&mut self, reader: usize) -> &mut Index {
        if self.readers.len() <= reader {
            self.readers.resize(reader + 1, 0);
        }
        &mut self.readers[reader]
    }
}
