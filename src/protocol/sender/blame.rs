//! What follows from what is proven of another peer (L4, L6).
//!
//! A host that shows what no honest host would show is not followed in that term: its lease is over
//! here, its log and heartbeats are not read any more, and another host is wanted. Where the others
//! go on with it, because it lies to this peer alone, the chat is read through one of them, as by
//! one who cannot reach the host (R35). Nothing that another peer shows stops this one.

use std::sync::Arc;

use crate::event::Notice;
use crate::evidence::{Evidence, Offence};
use crate::log::reign::host_of;
use crate::member::Lease;
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::types::{Entry, MEMBERS_MAX, PeerId, Term};

/// So many peers' faults are remembered; of more, that of the earliest term is forgotten.
const EVIDENCE_MAX: usize = MEMBERS_MAX;

impl Replica {
    /// Keeps the proof of another peer's fault, and follows it no more in this term.
    pub(crate) fn blame(&mut self, peer: PeerId, what: Offence) {
        if planted(Bug::LiarStopsAll) {
            self.fault(what.text());
            return;
        }
        let term = self.hard_state.term;
        self.keep_evidence(peer, Evidence { term, what });
        self.ready.notices.push(Notice::Evidence { peer, term, what });
        if self.part.detach_if(|attached| attached.source == peer).is_some() {
            self.sources.seek_host_at = self.now + self.config.lease_min_us;
        }
        self.search.nominations.remove(&peer);
        if self.host() == Some(peer) && matches!(self.part, Part::Follower(_)) {
            self.lease = Lease::void(self.now);
            self.sources.relay_at = self.sources.relay_at.min(self.now + self.config.lease_max_us);
        }
    }

    /// What was found outlives this run: who is followed after a restart, and what a person reads
    /// then, are the same.
    fn keep_evidence(&mut self, peer: PeerId, evidence: Evidence) {
        if self.kept.evidence.insert(peer, evidence) == Some(evidence) {
            return;
        }
        if self.kept.evidence.len() > EVIDENCE_MAX {
            let others = self.kept.evidence.iter().filter(|(other, _)| **other != peer);
            let first = others.min_by_key(|(_, evidence)| evidence.term).map(|(peer, _)| *peer);
            self.kept.evidence.retain(|peer, _| Some(*peer) != first);
        }
        self.ready.persist.evidence = Some(Arc::new(self.kept.evidence.clone()));
    }

    /// Whether the peer is not followed in this term.
    pub(crate) fn is_blamed(&self, peer: PeerId) -> bool {
        let evidence = self.kept.evidence.get(&peer);
        evidence.is_some_and(|evidence| evidence.term == self.hard_state.term)
            && !planted(Bug::LiarFollowed)
    }

    // R9, R31, L4: this peer's numbers are durable before they leave, and each stands for one
    // content. Who shows another content under one lies; or this store is older than its own words,
    // which then most others have too. But once this run has read all that the log has of it, it
    // knows its words: what most show then, their host has made up, and nobody else can tell.
    /// Whether the entry is in this peer's name and not what it has said.
    pub(crate) fn is_foreign_word(&mut self, from: PeerId, entry: &Entry) -> bool {
        let own =
            entry.author == self.me && entry.incarnation == self.incarnation && entry.number > 0;
        if !own || self.outbox.has_given(entry) || planted(Bug::OwnWordNotCompared) {
            return false;
        }
        self.world.foreign_words_of.insert(from);
        let others = self.log.voters().peers().filter(|peer| **peer != self.me);
        let (mut all, mut show) = (0, 0);
        for peer in others {
            all += 1;
            show += usize::from(self.world.foreign_words_of.contains(peer));
        }
        if show > all / 2 || planted(Bug::ForeignWordBelieved) {
            self.absolve_readers();
            if self.knows_own_words && !planted(Bug::ForgeryTakenForForgotten) {
                self.blame_for_own_words(entry.term);
            }
            self.stop_below_own_past("the log has words of this peer that its store does not know");
        } else {
            self.blame(from, Offence::ForeignWords);
        }
        true
    }

    /// Keeps nothing against those who have only read what this peer does not know: evidence
    /// outlives the store, and they followed a host in good faith.
    fn absolve_readers(&mut self) {
        if planted(Bug::ReadersBlamed) {
            return;
        }
        let readers = &self.world.foreign_words_of;
        let before = self.kept.evidence.len();
        self.kept
            .evidence
            .retain(|peer, found| found.what != Offence::ForeignWords || !readers.contains(peer));
        if self.kept.evidence.len() < before {
            self.ready.persist.evidence = Some(Arc::new(self.kept.evidence.clone()));
        }
    }

    /// Keeps what the host of this term has made up. Of an earlier term nobody can tell: its host
    /// may have done so, or who was elected afterwards with a log that ends so.
    fn blame_for_own_words(&mut self, term: Term) {
        if term != self.hard_state.term && !planted(Bug::EarlierHostBlamed) {
            return;
        }
        let in_log = || {
            let log = self.log.entries_from(self.log.base() + 1, usize::MAX);
            log.into_iter().find(|entry| entry.term == term)
        };
        let reign = self.sources.reign.clone().filter(|reign| reign.term == term).or_else(in_log);
        let Some((host, _)) = reign.as_ref().and_then(|reign| host_of(reign)) else { return };
        let what = Offence::ForgedWords;
        self.keep_evidence(host, Evidence { term, what });
        self.ready.notices.push(Notice::Evidence { peer: host, term, what });
    }
}
