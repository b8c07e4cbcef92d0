//! Reigns prove themselves (L3): what may follow in a log, and who says so.
//!
//! The founder's key is the chat's id. From there on, everything that decides who may host is
//! signed by those whom the log names by then: a reign begins with the votes of a majority, under
//! the hash of all that came before it, and only its host changes the voters, under the same. So
//! whoever reads a log from its beginning, or goes on from its own, need not believe anybody who
//! passes it on.

use super::entries::Log;
use super::membership::ChatState;
use super::quorum::is_majority;
use crate::planted::{Bug, planted};
use crate::types::{
    Ballot, End, Entry, Generation, Incarnation, Index, Membership, Payload, PeerId, Position,
    Reign, VoterSet,
};

/// The end of a log, or of a part of it, and who may go on from there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Head {
    pub end: End,
    /// The voters in force.
    pub voters: VoterSet,
    /// Who hosts in the last term, in which incarnation.
    pub host: (PeerId, Incarnation),
    /// Which course of the chat it is (R30).
    pub generation: Generation,
}

/// Who hosts from the entry on, if it begins a reign.
pub(crate) fn host_of(entry: &Entry) -> Option<(PeerId, Incarnation)> {
    match &entry.payload {
        Payload::TermStart(_) => Some((entry.author, entry.incarnation)),
        Payload::Membership(Membership::Founded { .. }) if entry.index > 1 => None,
        Payload::Membership(Membership::Founded { .. } | Membership::Recovered { .. }) => {
            Some((entry.author, entry.incarnation))
        }
        _ => None,
    }
}

/// The course of the chat that the entry begins, if it is a recovery (R30).
fn begun_by(entry: &Entry) -> Option<Generation> {
    match &entry.payload {
        Payload::Membership(Membership::Recovered { generation }) => Some(*generation),
        _ => None,
    }
}

impl Head {
    /// Whether the entry may come next. Its hash and signatures are right by themselves.
    pub fn admits(&self, entry: &Entry) -> bool {
        let last = self.end.last;
        if entry.index != last.index + 1 || entry.term < last.term {
            return false;
        }
        if entry.previous != self.end.hash && !planted(Bug::ChainNotChecked) {
            return false;
        }
        let is_of_here = entry.generation == begun_by(entry).unwrap_or(self.generation);
        if !is_of_here && !planted(Bug::EntryOfAnotherCourse) {
            return false;
        }
        let begins = entry.term > last.term;
        match &entry.payload {
            Payload::TermStart(reign) => begins && self.elects(entry, reign),
            // R30: a recovery is proven by its author's signature, and by the person who has
            // chosen its generation.
            Payload::Membership(Membership::Recovered { .. }) => begins,
            // Nobody but the host of a term changes the voters in it.
            Payload::VoterChange(_) => {
                let by_host = (entry.author, entry.incarnation) == self.host;
                (!begins && by_host) || planted(Bug::VotersByAnyone)
            }
            _ => !begins || planted(Bug::TermWithoutStart),
        }
    }

    /// Whether a majority of the voters has chosen the entry's author to go on from this very end.
    fn elects(&self, entry: &Entry, reign: &Reign) -> bool {
        if planted(Bug::ReignUnproven) {
            return true;
        }
        let has_voted = |peer: &PeerId, incarnation: &Incarnation| {
            reign.votes.get(peer).is_some_and(|vote| vote.incarnation == *incarnation)
        };
        // Votes for another term are none: what they say was checked with their signatures.
        reign.last_term == self.end.last.term
            && self.voters.0.get(&entry.author) == Some(&entry.incarnation)
            && has_voted(&entry.author, &entry.incarnation)
            && is_majority(&self.voters, has_voted)
    }
}

/// A part of a log that is read beside the own one, up to where that has come.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Reading {
    pub last: Position,
    /// Voters that the entries do not bear out are void in it (L4).
    state: Box<ChatState>,
}

impl Reading {
    /// Who may go on from there.
    pub fn head(&self) -> Head {
        let ChatState { hash, voters, host, generation, .. } = &*self.state;
        let end = End { last: self.last, hash: *hash };
        Head { end, voters: voters.clone(), host: *host, generation: *generation }
    }

    pub fn voters(&self) -> &VoterSet {
        &self.state.voters
    }

    /// Goes on to an entry, if it may come next. Whether that is so.
    pub fn read(&mut self, entry: &Entry) -> bool {
        let may = self.head().admits(entry);
        if entry.index == self.last.index + 1 {
            self.last = Position { term: entry.term, index: entry.index };
            self.state.apply(entry);
        }
        may
    }
}

impl Log {
    /// Whether the entry may come next. See `Head::admits`.
    pub(crate) fn admits(&self, entry: &Entry) -> bool {
        let goes_on = entry.term == self.last().term
            && entry.index == self.last().index + 1
            && entry.previous == self.last_hash()
            && entry.generation == self.generation();
        match &entry.payload {
            // By far the most are such.
            Payload::Message { .. } if goes_on => true,
            _ => self.head().admits(entry),
        }
    }

    /// The end of the log.
    pub(crate) fn end(&self) -> End {
        End { last: self.last(), hash: self.last_hash() }
    }

    /// Who may go on from the end of the log.
    fn head(&self) -> Head {
        let (voters, host) = (self.voters().clone(), self.host());
        Head { end: self.end(), voters, host, generation: self.generation() }
    }

    /// The same for an earlier end, at or after the commit index.
    pub(crate) fn head_at(&self, index: Index) -> Option<Head> {
        if index == self.last().index {
            return Some(self.head());
        }
        let hash = self.hash_at(index)?;
        let term = self.term_at(index)?;
        let (voters, host) = self.in_force_at(index)?;
        let generation = self.generation_at(index)?;
        Some(Head { end: End { last: Position { term, index }, hash }, voters, host, generation })
    }

    /// Reads on from an end at or after the commit index.
    pub(crate) fn reading_from(&self, index: Index) -> Option<Reading> {
        let term = self.term_at(index)?;
        let mut state = Box::new(self.state().clone());
        if index < state.index {
            return None;
        }
        for known in self.entries_from(state.index + 1, usize::MAX) {
            if known.index <= index {
                state.apply(&known);
            }
        }
        (state.index == index).then_some(Reading { last: Position { term, index }, state })
    }
}

/// What the votes in a reign's first entry were given for.
pub fn ballot_of(entry: &Entry, reign: &Reign) -> Ballot {
    let last = Position { term: reign.last_term, index: entry.index.saturating_sub(1) };
    Ballot {
        generation: entry.generation,
        term: entry.term,
        candidate: entry.author,
        incarnation: entry.incarnation,
        end: End { last, hash: entry.previous },
    }
}
