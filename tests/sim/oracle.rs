//! What the world knows that no replica does: what was wanted by whom, what was promised to whom,
//! and what was committed, in the order in which it became known. Lists that only grow, made from
//! what peers said, never read back from a replica's log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use demes_protocol::types::{Entry, Incarnation, Index, Number, Payload, PeerId, Term};

use super::roll::Roll;

/// One author in one incarnation, and its count.
pub type Submitted = (PeerId, Incarnation, Number);

#[derive(Default)]
pub struct Oracle {
    committed: Vec<Arc<Entry>>,
    /// In which term of its host each of those was, as far as whoever told of it first knows.
    committed_in: Vec<Term>,
    /// More than one where an old copy of a store gave a number away again.
    proposed: BTreeMap<Submitted, Vec<Payload>>,
    queued: BTreeSet<Submitted>,
    confirmed: BTreeMap<Submitted, Index>,
    /// What was committed when each person said last that it does not want to be in the chat.
    declined: BTreeMap<PeerId, Index>,
    /// The last number of each author and incarnation that is committed.
    last_numbers: BTreeMap<(PeerId, Incarnation), Number>,
    /// Who belongs to the chat.
    pub roll: Roll,
    /// Where each reader of the feed is.
    readers: Vec<Index>,
}

impl Oracle {
    // ---- what was wanted, and promised ----

    /// A person wants something in the log.
    pub fn propose(
        &mut self,
        peer: PeerId,
        incarnation: Incarnation,
        number: Number,
        payload: &Payload,
    ) {
        self.proposed.entry((peer, incarnation, number)).or_default().push(payload.clone());
    }

    /// A person was told that it is queued.
    pub fn queue(&mut self, submitted: Submitted) {
        self.queued.insert(submitted);
    }

    /// The store that had what was queued after that is gone.
    pub fn unqueue(&mut self, (peer, incarnation, last): Submitted) {
        self.queued.retain(|(author, of, number)| {
            (*author, *of) != (peer, incarnation) || *number <= last
        });
    }

    /// A person was told that it is confirmed.
    pub fn confirm(&mut self, submitted: Submitted, index: Index) {
        self.confirmed.insert(submitted, index);
    }

    /// A person does not want to be in the chat, and has seen so much of it.
    pub fn decline(&mut self, peer: PeerId) {
        self.declined.insert(peer, self.last());
    }

    /// Whether that person has declined the invitation of that index.
    pub fn has_declined(&self, peer: PeerId, at: Index) -> bool {
        self.declined.get(&peer).is_some_and(|seen| *seen >= at)
    }

    /// What was to stand under that number, the latest wish last.
    pub fn proposed(&self, submitted: &Submitted) -> &[Payload] {
        self.proposed.get(submitted).map_or(&[], Vec::as_slice)
    }
    pub fn queued(&self) -> &BTreeSet<Submitted> {
        &self.queued
    }
    pub fn confirmed(&self) -> &BTreeMap<Submitted, Index> {
        &self.confirmed
    }

    // ---- what is committed ----

    /// Takes note of an entry that a peer takes for committed in that term. Only the first report
    /// counts.
    pub fn commit(&mut self, entry: &Arc<Entry>, term: Term) {
        if entry.index != self.last() + 1 {
            return;
        }
        self.committed.push(Arc::clone(entry));
        self.committed_in.push(term);
        if entry.number > 0 {
            self.last_numbers.insert((entry.author, entry.incarnation), entry.number);
        }
        if let Payload::Membership(change) = &entry.payload {
            self.roll.apply(entry, change);
        }
    }

    /// The last number of that author and incarnation that is committed; 0 if none.
    pub fn committed_through(&self, author: PeerId, incarnation: Incarnation) -> Number {
        self.last_numbers.get(&(author, incarnation)).copied().unwrap_or(0)
    }

    /// Everything that is known to be committed, in order.
    pub fn committed(&self) -> &[Arc<Entry>] {
        &self.committed
    }
    /// The last entry that a host of an earlier term has committed.
    pub fn last_committed_before(&self, term: Term) -> Option<&Arc<Entry>> {
        let at = self.committed_in.iter().rposition(|committed_in| *committed_in < term)?;
        self.committed.get(at)
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
