//! The log: all of it by term and index, its end by content.
//!
//! A replica holds a window of the latest entries in memory and knows the term of every index by a
//! short table, so that a log of a million entries costs no memory. Older entries are read from
//! the store when a member needs them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::membership::{ChatState, voters_of};
use super::reign::host_of;
use super::submissions::{Submissions, is_submittable};
use crate::evidence::Offence;
use crate::planted::{Bug, planted};
use crate::types::{
    Entry, Generation, Hash, Incarnation, Index, Membership, Number, Payload, PeerId, Position,
    Term, VoterSet,
};

/// Everything that follows from the committed log up to one index, so that a start need not read
/// the log from its beginning. The default is the empty log.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Checkpoint {
    pub(super) state: ChatState,
    pub(super) terms: TermTable,
}

impl Checkpoint {
    /// The last entry that is in here; 0 for the empty log.
    pub fn index(&self) -> Index {
        self.state.index
    }
    /// That entry's hash.
    pub fn hash(&self) -> Hash {
        self.state.hash
    }
}

/// Where each term begins: (term, index of its first entry), ascending.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TermTable(pub(super) Vec<(Term, Index)>);

impl TermTable {
    /// Takes note of the entry at `index`, the next one.
    pub(super) fn push(&mut self, term: Term, index: Index) {
        if self.0.last().is_none_or(|(last, _)| *last != term) {
            self.0.push((term, index));
        }
    }

    /// The term of the entry at `index`, which the log must have.
    fn term_at(&self, index: Index) -> Term {
        let following = self.0.partition_point(|(_, first)| *first <= index);
        following.checked_sub(1).map_or(0, |position| self.0[position].0)
    }

    /// The first index of the term that `index` belongs to.
    fn first_index_of_term_at(&self, index: Index) -> Index {
        let following = self.0.partition_point(|(_, first)| *first <= index);
        following.checked_sub(1).map_or(0, |position| self.0[position].1)
    }

    fn truncate_from(&mut self, from: Index) {
        let keep = self.0.partition_point(|(_, first)| *first < from);
        self.0.truncate(keep);
    }
}

/// See the module's text.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Log {
    terms: TermTable,
    /// The entries after `base`, in order.
    window: VecDeque<Arc<Entry>>,
    window_bytes: usize,
    base: Index,
    last: Position,
    last_hash: Hash,
    last_generation: Generation,
    /// What the committed entries say.
    state: ChatState,
    /// Voter sets of entries beyond `state`, by index (R5).
    pending_voters: Vec<(Index, VoterSet)>,
    /// The last numbers of authors beyond `state`.
    pending_numbers: BTreeMap<(PeerId, Incarnation), Number>,
    /// What the entries beyond `state` say too, up to where that was last asked for.
    ahead: Option<Box<ChatState>>,
    /// Who hosts from entries beyond `state` on, by index (L3).
    pending_hosts: Vec<(Index, (PeerId, Incarnation))>,
}

impl Log {
    /// Takes over what a store recovered. `entries` follow the checkpoint.
    pub fn new(checkpoint: Checkpoint, entries: Vec<Arc<Entry>>, commit: Index) -> Self {
        let base = checkpoint.index();
        let mut log = Self {
            last: Position { term: checkpoint.terms.term_at(base), index: base },
            last_hash: checkpoint.hash(),
            last_generation: checkpoint.state.generation,
            terms: checkpoint.terms,
            window: VecDeque::new(),
            window_bytes: 0,
            base,
            state: checkpoint.state,
            pending_voters: Vec::new(),
            pending_numbers: BTreeMap::new(),
            ahead: None,
            pending_hosts: Vec::new(),
        };
        for entry in entries {
            log.append(entry);
        }
        log.commit_to(commit.min(log.last.index));
        log
    }

    pub fn last(&self) -> Position {
        self.last
    }
    pub fn last_hash(&self) -> Hash {
        self.last_hash
    }
    /// Which course of the chat it is at its end (R30).
    pub fn generation(&self) -> Generation {
        self.last_generation
    }
    /// The last committed index. It never goes back.
    pub fn commit(&self) -> Index {
        self.state.index
    }
    /// What the committed entries say.
    pub fn state(&self) -> &ChatState {
        &self.state
    }

    // R5: the voter set is the latest one in the log, in force as soon as it is appended.
    pub fn voters(&self) -> &VoterSet {
        let latest = self.pending_voters.last().filter(|_| !planted(Bug::VotersOnCommit));
        latest.map_or(&self.state.voters, |(_, voters)| voters)
    }
    /// Where that voter set stands.
    pub fn voters_index(&self) -> Index {
        self.pending_voters.last().map_or(self.state.voters_index, |(index, _)| *index)
    }

    /// The first entry of the last reign, if it is in the window.
    pub(crate) fn reign(&self) -> Option<&Arc<Entry>> {
        self.window.iter().rev().find(|entry| matches!(entry.payload, Payload::TermStart(_)))
    }

    /// Who hosts, or hosted, in the last term.
    pub(crate) fn host(&self) -> (PeerId, Incarnation) {
        self.pending_hosts.last().map_or(self.state.host, |(_, host)| *host)
    }

    /// The voters, and the host of the term, as of an index that is not below the commit index.
    pub(super) fn in_force_at(&self, index: Index) -> Option<(VoterSet, (PeerId, Incarnation))> {
        if index < self.state.index || index > self.last.index {
            return None;
        }
        let voters = self.pending_voters.iter().rev().find(|(at, _)| *at <= index);
        let host = self.pending_hosts.iter().rev().find(|(at, _)| *at <= index);
        Some((
            voters.map_or(&self.state.voters, |(_, voters)| voters).clone(),
            host.map_or(self.state.host, |(_, host)| *host),
        ))
    }

    /// The hash of the entry at `index`, where it is at hand.
    pub(crate) fn hash_at(&self, index: Index) -> Option<Hash> {
        match index {
            0 => Some(Hash::default()),
            _ if index == self.last.index => Some(self.last_hash),
            _ if index == self.state.index => Some(self.state.hash),
            _ => self.entry(index).map(|entry| entry.hash),
        }
    }

    /// Which course of the chat the log is at `index`, where that is at hand.
    pub(crate) fn generation_at(&self, index: Index) -> Option<Generation> {
        match index {
            _ if index == self.last.index => Some(self.last_generation),
            _ if index == self.state.index => Some(self.state.generation),
            _ => self.entry(index).map(|entry| entry.generation),
        }
    }

    /// The term of the entry at `index`; 0 at 0, `None` beyond the end.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        (index <= self.last.index).then(|| self.terms.term_at(index))
    }

    /// Whether the log has an entry at that position, or the position is before the first.
    pub fn has(&self, position: Position) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// Where a log that does not have `position` of another could agree with it (R35): the end of
    /// this log, or the entry before the term that stands at the position here.
    pub fn look_back(&self, position: Position) -> Index {
        if position.index > self.last.index {
            return self.last.index;
        }
        self.terms.first_index_of_term_at(position.index).saturating_sub(1)
    }

    /// The entry at `index`, if it is in the window.
    pub fn entry(&self, index: Index) -> Option<&Arc<Entry>> {
        let offset = index.checked_sub(self.base + 1)?;
        self.window.get(usize::try_from(offset).ok()?)
    }

    /// Whether entries from `from` on, or nothing at the end, can be had from memory.
    pub fn in_window(&self, from: Index) -> bool {
        from > self.base
    }

    /// The last index that is not in the window.
    pub fn base(&self) -> Index {
        self.base
    }

    /// Entries from `from` on, up to about `bytes_max` but at least one.
    pub fn entries_from(&self, from: Index, bytes_max: usize) -> Vec<Arc<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let offset = from.saturating_sub(self.base + 1);
        for entry in self.window.iter().skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            bytes += entry.size();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(Arc::clone(entry));
        }
        entries
    }

    /// Adds an entry at the end.
    pub fn append(&mut self, entry: Arc<Entry>) {
        assert!(entry.index == self.last.index + 1, "the log has no gaps");
        assert!(entry.term >= self.last.term, "terms never go back");
        assert!(entry.previous == self.last_hash, "each entry holds the hash of the one before");
        self.terms.push(entry.term, entry.index);
        self.last = Position { term: entry.term, index: entry.index };
        self.last_hash = entry.hash;
        self.last_generation = entry.generation;
        self.window_bytes += entry.size();
        self.note_number(&entry);
        if let Some(voters) = voters_of(&entry)
            && self.bears_out(&entry)
        {
            self.pending_voters.push((entry.index, voters));
        }
        if let Some(host) = host_of(&entry) {
            self.pending_hosts.push((entry.index, host));
        }
        self.window.push_back(entry);
    }

    fn note_number(&mut self, entry: &Entry) {
        if entry.number > 0 {
            self.pending_numbers.insert((entry.author, entry.incarnation), entry.number);
        }
    }

    // L4: a set of voters that the log does not bear out is void, here as everywhere.
    /// Whether this log, up to its end, bears out the set of voters that the entry brings.
    fn bears_out(&mut self, entry: &Entry) -> bool {
        let mut ahead = match self.ahead.take() {
            Some(ahead) if ahead.index >= self.state.index => ahead,
            _ => Box::new(self.state.clone()),
        };
        for index in ahead.index + 1..entry.index {
            let known = self.entry(index).expect("uncommitted entries are in the window");
            ahead.apply(known);
        }
        let bears_out = ahead.bears_out(entry);
        self.ahead = Some(ahead);
        bears_out
    }

    // L4: an author's numbers stand in the log without a gap, each once, and only of those who take
    // part; what has no number is the host's own, or joins. No honest host lets anything else in.
    /// Why no honest host would have put the entry at its index in this log, which may have another
    /// one there that is not committed.
    pub fn misfit(&self, entry: &Entry) -> Option<Offence> {
        if entry.number == 0 {
            let has_number = is_submittable(&entry.payload);
            return has_number.then_some(Offence::NoNumber);
        }
        let (author, incarnation) = (entry.author, entry.incarnation);
        let pending = match entry.index > self.last.index {
            true => self.pending_numbers.get(&(author, incarnation)).copied(),
            false => self.pending_number_before(entry),
        };
        let last = pending.unwrap_or(self.state.submissions.last(author, incarnation));
        if entry.number <= last && !planted(Bug::DoubledTaken) {
            return Some(Offence::Doubled);
        }
        if entry.number > last + 1 && !planted(Bug::GapTaken) {
            return Some(Offence::LeftOut);
        }
        if !is_submittable(&entry.payload) {
            return Some(Offence::NumberWithout);
        }
        let joins = |other: &Arc<Entry>| {
            let comes = matches!(
                other.payload,
                Payload::Membership(Membership::Joined { .. } | Membership::Founded { .. })
            );
            comes && (other.author, other.incarnation) == (author, incarnation)
        };
        let takes_part = last > 0
            || self.state.is_present(author, incarnation)
            || self.entries_from(self.commit() + 1, usize::MAX).iter().any(joins);
        (!takes_part).then_some(Offence::OutsidersWords)
    }

    fn pending_number_before(&self, entry: &Entry) -> Option<Number> {
        let before = self.entries_from(self.commit() + 1, usize::MAX);
        let mut before = before.iter().rev().skip_while(|other| other.index >= entry.index);
        let same = |other: &&Arc<Entry>| {
            other.number > 0
                && (other.author, other.incarnation) == (entry.author, entry.incarnation)
        };
        before.find(same).map(|other| other.number)
    }

    /// Cuts the entries from `from` on. Committed ones cannot be cut.
    pub fn truncate_from(&mut self, from: Index) {
        assert!(from > self.commit(), "a committed entry is never cut");
        while self.last.index >= from {
            let entry = self.window.pop_back().expect("uncommitted entries are in the window");
            self.window_bytes -= entry.size();
            self.last.index = entry.index - 1;
            self.last_hash = entry.previous;
        }
        // What was cut is not committed, so that the committed entry before it is at hand.
        let before = self.entry(self.last.index).map(|entry| entry.generation);
        self.last_generation = before.unwrap_or(self.state.generation);
        self.terms.truncate_from(from);
        self.last.term = self.terms.term_at(self.last.index);
        // R5: cutting the log rolls the voter set back.
        self.pending_voters.retain(|(at, _)| *at < from || planted(Bug::VotersNotRolledBack));
        self.ahead = None;
        self.pending_numbers.clear();
        for entry in self.entries_from(self.commit() + 1, usize::MAX) {
            self.note_number(&entry);
        }
        self.pending_hosts.retain(|(at, _)| *at < from);
    }

    /// Commits up to `index` and returns the entries that this adds.
    pub fn commit_to(&mut self, index: Index) -> Vec<Arc<Entry>> {
        assert!(index <= self.last.index, "only what the log has can be committed");
        let mut committed = Vec::new();
        while self.state.index < index {
            let next = self.state.index + 1;
            let entry =
                Arc::clone(self.entry(next).expect("uncommitted entries are in the window"));
            self.state.apply(&entry);
            committed.push(entry);
        }
        let commit = self.state.index;
        self.pending_voters.retain(|(index, _)| *index > commit);
        self.ahead = None;
        if commit == self.last.index {
            self.pending_numbers.clear();
        }
        self.pending_hosts.retain(|(index, _)| *index > commit);
        committed
    }

    /// Lets old committed entries go, beyond the given numbers of entries and bytes. What the store
    /// does not have yet stays: in its place there may be what was cut (R35).
    pub fn shrink_window(&mut self, entries_max: usize, bytes_max: usize, stored: Index) {
        let may_go = self.commit().min(stored);
        while self.window.len() > entries_max || self.window_bytes > bytes_max {
            match self.window.front() {
                Some(entry) if entry.index <= may_go => {
                    self.window_bytes -= entry.size();
                    self.base = entry.index;
                    self.window.pop_front();
                }
                _ => break,
            }
        }
    }

    /// The committed log at this moment.
    pub fn checkpoint(&self) -> Checkpoint {
        let mut terms = self.terms.clone();
        terms.truncate_from(self.commit() + 1);
        Checkpoint { state: kept(&self.state), terms }
    }
}

/// What a checkpoint keeps.
fn kept(state: &ChatState) -> ChatState {
    let mut kept = state.clone();
    if planted(Bug::CheckpointForgetsNumbers) {
        kept.submissions = Submissions::default();
    }
    kept
}
