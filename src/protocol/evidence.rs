//! What is proven of other peers, and what follows from it (L4, L6).
//!
//! A host that shows what no honest host would show is not followed in that term: its lease is over
//! here, its log and heartbeats are not read any more, and another host is wanted. Where the others
//! go on with it, because it lies to this peer alone, the chat is read through one of them, as by
//! one who cannot reach the host (R35). Nothing that another peer shows stops this one.

use super::event::Notice;
use super::planted::{Bug, planted};
use super::replica::{Part, Replica};
use super::types::{Entry, PeerId, Term};

/// What was seen of a peer that lies, or is broken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Evidence {
    /// The term in which it was seen.
    pub term: Term,
    pub what: &'static str,
}

impl Replica {
    /// Keeps the proof of another peer's fault, and follows it no more in this term.
    pub(super) fn blame(&mut self, peer: PeerId, what: &'static str) {
        if planted(Bug::LiarStopsAll) {
            self.fault(what);
            return;
        }
        let term = self.hard_state.term;
        self.evidence.insert(peer, Evidence { term, what });
        self.ready.notices.push(Notice::Evidence { peer, term, what });
        if self.attached.take_if(|attached| attached.source == peer).is_some() {
            self.seek_host_at = self.now + self.config.lease_min_us;
        }
        self.nominations.remove(&peer);
        if self.host == Some(peer) && matches!(self.part, Part::Follower) {
            self.lease_until = self.now;
            self.suspect_at = self.now;
            self.relay_at = self.relay_at.min(self.now + self.config.lease_max_us);
        }
    }

    /// Whether the peer is not followed in this term.
    pub(super) fn is_blamed(&self, peer: PeerId) -> bool {
        let evidence = self.evidence.get(&peer);
        evidence.is_some_and(|evidence| evidence.term == self.hard_state.term)
            && !planted(Bug::LiarFollowed)
    }

    // R9, R31, L4: this peer's numbers are durable before they leave, and each stands for one
    // content. Who shows another content under one lies; or this store is older than its own words,
    // which then most others have too.
    /// Whether the entry is in this peer's name and not what it has said.
    pub(super) fn is_foreign_word(&mut self, from: PeerId, entry: &Entry) -> bool {
        let own = entry.author == self.me && entry.session == self.incarnation && entry.number > 0;
        if !own || self.outbox.has_given(entry) || planted(Bug::OwnWordNotCompared) {
            return false;
        }
        self.foreign_words_of.insert(from);
        let others = self.log.voters().peers().filter(|peer| **peer != self.me);
        let (mut all, mut show) = (0, 0);
        for peer in others {
            all += 1;
            show += usize::from(self.foreign_words_of.contains(peer));
        }
        if show > all / 2 || planted(Bug::ForeignWordBelieved) {
            self.stop_below_own_past("the log has words of this peer that its store does not know");
        } else {
            self.blame(from, "words in this peer's name that it has not said");
        }
        true
    }
}
