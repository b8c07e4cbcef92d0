//! What the log knows of each author's submissions (R32): computed from the entries alone, so that
//! it moves with the log and never expires.

use std::collections::{BTreeMap, VecDeque};

use crate::planted::{Bug, planted};
use crate::types::{Entry, Incarnation, Index, Membership, Number, Payload, PeerId};

/// How many of an author's latest indices are kept for answering repeats. An author has fewer in
/// flight (`Config::in_flight_max`), and never repeats what its own log confirms.
const RECENT_MAX: usize = 1_024;

/// The last numbers of every (author, incarnation).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Submissions(pub(super) BTreeMap<(PeerId, Incarnation), Author>);

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Author {
    /// The highest number in the log.
    pub last: Number,
    /// Where the numbers up to `last` stand, the latest at the back.
    pub recent: VecDeque<Index>,
}

/// What a host does with a number (R32).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is the next one.
    Next,
    /// The log has it: at this index, if it is recent enough to be known.
    Duplicate(Option<Index>),
    /// Numbers are missing before it.
    Gap { last: Number },
}

impl Submissions {
    /// The highest number of that author and incarnation in the log; 0 if none.
    pub fn last(&self, author: PeerId, incarnation: Incarnation) -> Number {
        self.0.get(&(author, incarnation)).map_or(0, |author| author.last)
    }

    // R32: the host takes the next number, answers a lower one with what the log has, and a higher
    // one with the last it knows.
    pub fn verdict(&self, author: PeerId, incarnation: Incarnation, number: Number) -> Verdict {
        let known = self.0.get(&(author, incarnation));
        let last = known.map_or(0, |author| author.last);
        if number > last + 1 && !planted(Bug::GapAccepted) {
            return Verdict::Gap { last };
        }
        if number > last {
            return Verdict::Next;
        }
        let back = usize::try_from(last - number).unwrap_or(usize::MAX);
        let index = known.and_then(|author| {
            let position = author.recent.len().checked_sub(back + 1)?;
            author.recent.get(position).copied()
        });
        Verdict::Duplicate(index)
    }

    /// Takes note of an entry. Entries outside the count (number 0) leave no trace, and neither do
    /// numbers out of order, which no honest host lets into a log.
    pub fn apply(&mut self, entry: &Entry) {
        if entry.number != self.last(entry.author, entry.incarnation) + 1 {
            return;
        }
        let author = self.0.entry((entry.author, entry.incarnation)).or_default();
        author.last = entry.number;
        author.recent.push_back(entry.index);
        if author.recent.len() > RECENT_MAX {
            author.recent.pop_front();
        }
    }

    /// Forgets the incarnations of a peer that are over.
    pub fn retain_incarnation(&mut self, peer: PeerId, incarnation: Incarnation) {
        self.0.retain(|(author, theirs), _| *author != peer || *theirs == incarnation);
    }
}

/// What members may submit. The rest is the host's own, or comes by `Join`.
pub fn is_submittable(payload: &Payload) -> bool {
    matches!(
        payload,
        Payload::Message { .. }
            | Payload::Policy(_)
            | Payload::Membership(
                Membership::Invited { .. }
                    | Membership::InviteRevoked { .. }
                    | Membership::InviteLinkCreated { .. }
                    | Membership::InviteLinkRevoked { .. }
                    | Membership::Leaving
                    | Membership::Removing { .. }
            )
    )
}
