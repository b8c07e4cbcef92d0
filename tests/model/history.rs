//! What has been promised so far, and whether a step broke it.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use demes_protocol::log::Log;
use demes_protocol::types::{Entry, Index, Membership, Payload, PeerId, Term, VoterSet};

/// A property, by what it is called when it does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Broken {
    TwoHosts,
    LogsDiffer,
    VotersDiffer,
    HostLacksCommitted,
    CommitWentBack,
    CommittedChanged,
    CommitNotDurable,
    CommitOfOlderTerm,
    CommittedCut,
    VoteChanged,
    TermBehindLog,
    SaidBeforeDurable,
    ConfirmedWrongly,
    OrderOfAuthor,
    Fault,
    SentAway,
    Panic,
    NoRest,
}

impl Broken {
    /// Whether one peer breaks it, or notices it, by itself, and perhaps nothing comes of it.
    pub fn is_by_itself(self) -> bool {
        use Broken::*;
        matches!(self, VoteChanged | TermBehindLog | SaidBeforeDurable | Fault)
    }
}

/// What a step showed: that the interesting things do happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sight {
    HostInTerm2,
    HostInTerm3,
    CommitInTerm2,
    Confirmed,
    Cut,
    Paused,
    Resumed,
    HandedOver,
    WithdrewBehind,
    WithdrewWithoutMajority,
    Held,
    FellBack,
    UnsyncedLost,
    TwoVoters,
    OneVoter,
    ThreeVotersAgain,
    NewIncarnationVotes,
    Removed,
    Adopted,
    AdoptedAndCut,
    OldCopyNoticed,
}

/// A set of sights.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Sights(u32);

impl Sights {
    pub fn add(&mut self, sight: Sight) {
        self.0 |= 1 << sight as u32;
    }
    pub fn has(self, sight: u32) -> bool {
        self.0 & 1 << sight != 0
    }
}

/// All that was ever promised to anybody.
#[derive(Clone, Default)]
pub struct History {
    hosts: BTreeMap<Term, PeerId>,
    /// From index 1 on, each with the term of the host that committed it.
    committed: Vec<(Arc<Entry>, Term)>,
}

impl Hash for History {
    fn hash<H: Hasher>(&self, into: &mut H) {
        // The last hash stands for all entries.
        self.hosts.hash(into);
        self.committed.last().map(|(entry, _)| entry.hash).hash(into);
        for (_, term) in &self.committed {
            term.hash(into);
        }
    }
}

impl History {
    /// The last index that was ever committed.
    pub fn last(&self) -> Index {
        self.committed.len() as Index
    }

    pub fn entry(&self, index: Index) -> Option<&Arc<Entry>> {
        let position = usize::try_from(index).ok()?.checked_sub(1)?;
        self.committed.get(position).map(|(entry, _)| entry)
    }

    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.committed.iter().map(|(entry, _)| entry)
    }

    /// Somebody hosts `term`. Its log has everything that hosts before it have committed.
    pub fn hosts(&mut self, peer: PeerId, term: Term, log: &Log) -> Result<(), Broken> {
        if *self.hosts.entry(term).or_insert(peer) != peer {
            return Err(Broken::TwoHosts);
        }
        let mut before = self.committed.iter().filter(|(_, by)| *by < term);
        match before.all(|(entry, _)| has(log, entry)) {
            true => Ok(()),
            false => Err(Broken::HostLacksCommitted),
        }
    }

    /// A member commits an entry that was committed before. `None`: it is the first to do so.
    pub fn agrees(&self, entry: &Entry) -> Option<Result<(), Broken>> {
        let known = self.entry(entry.index)?;
        Some(if known.hash == entry.hash { Ok(()) } else { Err(Broken::CommittedChanged) })
    }

    /// The host of `term` is the first to commit this entry. An author's submissions stand in their
    /// order, each once.
    pub fn commit(&mut self, entry: Arc<Entry>, term: Term) -> Result<(), Broken> {
        if entry.index != self.last() + 1 {
            return Err(Broken::CommittedChanged);
        }
        let same = |one: &Entry| one.author == entry.author && one.incarnation == entry.incarnation;
        let before = self.entries().filter(|one| same(one)).map(|one| one.number).max();
        let in_order = entry.number == 0 || entry.number == before.unwrap_or(0) + 1;
        self.committed.push((entry, term));
        if in_order { Ok(()) } else { Err(Broken::OrderOfAuthor) }
    }
}

/// Whether the log has this entry.
pub fn has(log: &Log, entry: &Entry) -> bool {
    log.entry(entry.index).is_some_and(|own| own.hash == entry.hash)
}

/// Whether the voters are those that the log says last, committed or not.
pub fn voters_match(log: &Log) -> bool {
    let said = (1..=log.last().index).rev().find_map(|index| {
        let entry = log.entry(index)?;
        match &entry.payload {
            Payload::VoterChange(voters) => Some(voters.clone()),
            Payload::Membership(Membership::Founded { .. }) => {
                Some(VoterSet([(entry.author, entry.incarnation)].into()))
            }
            _ => None,
        }
    });
    said.is_none_or(|said| said == *log.voters())
}

/// Log matching: where two logs have an entry of the same index and term, they are equal up to it.
/// Hashes chain each entry to all before it, so that the last such place decides.
pub fn logs_match(one: &Log, other: &Log) -> bool {
    let last = one.last().index.min(other.last().index);
    let place = (1..=last).rev().find(|index| one.term_at(*index) == other.term_at(*index));
    let hash = |log: &Log, index| log.entry(index).map(|entry| entry.hash);
    place.is_none_or(|index| hash(one, index) == hash(other, index))
}
