//! What peers remember of each other, so that an old copy of a store is noticed (R9).

use super::event::Notice;
use super::planted::{Bug, planted};
use super::replica::Replica;
use super::types::{Entry, Incarnation, Past, PeerId, Position};

impl Replica {
    /// Whether somebody remembers more of this peer than its store does: an old copy was put back.
    /// Such a peer must not vote again in terms that it has forgotten.
    pub(super) fn compare_with_past(&mut self, past: Past) -> bool {
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
            false => self.furthest.max(self.log.last()),
        }
    }

    // R9, R31: this peer's numbers are durable before they leave, and each stands for one content.
    // A log that has one which was never given, or another content under it, was written with the
    // help of a newer store than this one.
    /// Whether the entry is such a one. Then this peer stops here.
    pub(super) fn is_forgotten_word(&mut self, entry: &Entry) -> bool {
        let own = entry.author == self.me && entry.session == self.incarnation && entry.number > 0;
        let forgotten = own && !self.outbox.has_given(entry) && !planted(Bug::OwnWordNotCompared);
        if forgotten {
            self.stop_below_own_past("the log has words of this peer that its store does not know");
        }
        forgotten
    }

    pub(super) fn stop_below_own_past(&mut self, what: &'static str) {
        self.ready.notices.push(Notice::BelowOwnPast);
        self.fault(what);
    }

    /// What this peer knows of another's past. What a member has delivered was durable there, and
    /// every heartbeat tells everybody, so that a new host knows it too.
    pub(super) fn past_of(&self, peer: PeerId, incarnation: Incarnation) -> Option<Past> {
        let known = self.pasts.get(&(peer, incarnation)).copied();
        let member = self.log.state().members.get(&peer);
        // What was delivered up to where it joined, an earlier incarnation may have said.
        let delivered = member
            .filter(|member| member.incarnation == incarnation && !planted(Bug::ReceiptsNoPast))
            .and_then(|member| {
                let delivered = self.receipts.get(&peer)?.delivered;
                let counts = delivered > member.since && delivered <= self.log.commit();
                let term = self.log.term_at(delivered).filter(|_| counts)?;
                Some(Position { term, index: delivered })
            });
        let Some(delivered) = delivered else { return known };
        let past = known.unwrap_or_default();
        Some(Past { acknowledged: past.acknowledged.max(delivered), ..past })
    }
}
