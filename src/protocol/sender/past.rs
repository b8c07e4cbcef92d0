//! What peers remember of each other, so that an old copy of a store is noticed (R9).

use crate::event::Notice;
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::{Micros, SECOND};
use crate::types::{Incarnation, Past, PeerId, Position};

/// How long something new about another peer's past may wait to be written down.
const PASTS_US: Micros = SECOND;
/// How often voters are told anew what the others have said of themselves.
pub(crate) const GATHER_US: Micros = 4 * SECOND;

impl Replica {
    /// Whether somebody remembers more of this peer than its store does: an old copy was put back.
    /// Such a peer must not vote again in terms that it has forgotten.
    pub(crate) fn compare_with_past(&mut self, past: Past) -> bool {
        let below = past.boot > self.boot
            || past.term > self.hard_state.term
            || past.acknowledged > self.furthest();
        if below && !planted(Bug::PastIgnored) {
            self.stop_below_own_past("the store is older than what this peer has told the others");
        }
        below
    }

    /// The furthest that this log has been. Where another host's entries replace what it had, its
    /// end falls, and what this peer has said of it stands all the same.
    fn furthest(&self) -> Position {
        match planted(Bug::FurthestForgotten) {
            true => self.log.last(),
            false => self.kept.furthest.max(self.log.last()),
        }
    }

    pub(super) fn stop_below_own_past(&mut self, what: &'static str) {
        self.ready.notices.push(Notice::BelowOwnPast);
        self.fault(what);
    }

    // L5: only a peer's own word shows it what it has forgotten; anybody could make up the rest.
    /// What this peer says of itself: what is durable by the time that it is said.
    pub(crate) fn own_past(&self, end: Position) -> Past {
        let acknowledged = self.kept.furthest.max(end);
        let (boot, term) = (self.boot, self.hard_state.term);
        Past { boot, term, acknowledged, signature: None }
    }

    /// Remembers what a peer has said of itself, in this incarnation. One who says less than it has
    /// said before is not believed: it may have forgotten the rest.
    pub(crate) fn learn_past(&mut self, peer: PeerId, incarnation: Incarnation, said: Past) {
        if peer == self.me || !self.is_known(peer, incarnation) {
            return;
        }
        let known = self.kept.pasts.entry((peer, incarnation)).or_default();
        let same = Past { signature: known.signature, ..said } == *known;
        if same || !(said.covers(known) || planted(Bug::PastForgotten)) {
            return;
        }
        *known = said;
        self.durability.pasts_due_at.get_or_insert(self.now + PASTS_US);
    }

    /// Every 4 s a host looks at what the voters have said of themselves, and says as much of
    /// itself, for the next heartbeats to voters: any of them may host next.
    pub(crate) fn gather_pasts(&mut self) {
        let pasts = self.pasts_of_voters();
        if let Part::Host(hosting) = &mut self.part
            && hosting.pasts != pasts
            && hosting.gathered_at.is_none_or(|at| self.now.since(at) >= GATHER_US)
        {
            hosting.gathered_at = Some(self.now);
            hosting.pasts = pasts;
            hosting.pasts_version += 1;
        }
    }

    fn pasts_of_voters(&self) -> Vec<(PeerId, Incarnation, Past)> {
        let synced = Position {
            term: self.log.term_at(self.durability.synced).unwrap_or(0),
            index: self.durability.synced,
        };
        let said = |(peer, incarnation): (&PeerId, &Incarnation)| {
            let past = match *peer == self.me {
                true => self.own_past(synced),
                false => *self.kept.pasts.get(&(*peer, *incarnation))?,
            };
            Some((*peer, *incarnation, past))
        };
        self.log.voters().0.iter().filter_map(said).collect()
    }

    pub(crate) fn past_of(&self, peer: PeerId, incarnation: Incarnation) -> Option<Past> {
        self.kept.pasts.get(&(peer, incarnation)).copied()
    }
}
