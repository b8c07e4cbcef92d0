//! Standing for host, and how that ends: in a reign, or with a candidacy that is given up.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::Notice;
use crate::log::quorum::is_majority;
use crate::message::{Body, HandOver, RequestVote, WithdrawReason};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::Instant;
use crate::types::{HardState, Incarnation, PeerId, SignedVote, Term};

/// A peer asks for votes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Candidacy {
    pub since: Instant,
    /// The votes that count, with which it will prove its reign (L3).
    pub votes: BTreeMap<PeerId, SignedVote>,
    /// Who has said no.
    pub refusals: BTreeSet<PeerId>,
    /// The `Ready` that makes the candidate's own vote durable; it counts afterwards (R1).
    pub own_vote_ready: Option<u64>,
    pub deadline: Instant,
    pub was_handed_over: bool,
}

impl Replica {
    // ---- standing and voting (R1, R2, R7, R17) ----

    /// Raises the term above its own, and that which others are in, and votes for itself. The
    /// requests leave after that is durable, and the own vote counts then.
    pub(super) fn stand(&mut self, hand_over: Option<HandOver>, beyond: Term) {
        let beyond = self.believed_term(beyond).max(self.log.last().term);
        self.unbind_nominations(None);
        self.keep_ways();
        let term = beyond.max(self.hard_state.term) + 1;
        self.hard_state = HardState { term, vote: Some(self.me) };
        self.ready.persist.hard_state = Some(self.hard_state);
        self.durability.term_ready = self.ready_number();
        self.world.heard_terms.retain(|_, heard| *heard > term);
        self.ready.notices.push(Notice::Standing { term });
        // The time for votes begins when they are asked for, which is after the own one's sync.
        let deadline = match planted(Bug::VotesTimedFromStart) {
            true => self.now + 2 * self.round(),
            false => self.now + self.config.lease_max_us.max(2 * self.round()),
        };
        self.part = Part::Candidate(Candidacy {
            since: self.now,
            votes: BTreeMap::new(),
            refusals: BTreeSet::new(),
            own_vote_ready: Some(self.ready_number()),
            deadline,
            was_handed_over: hand_over.is_some(),
        });
        // Whoever does not vote may hear a host, which has the time to say so itself.
        self.sources.relay_at = self.now + self.config.lease_max_us;
        self.search.adoption.take_if(|_| !planted(Bug::CandidateAdopts));
        self.search.nominations.clear();
        for peer in self.other_voters() {
            let incarnation = self.log.voters().0[&peer];
            let past = self.past_of(peer, incarnation);
            let request = RequestVote { term, end: self.log.end(), hand_over, past };
            self.send_to_incarnation(peer, incarnation, Body::RequestVote(request));
        }
    }

    /// R18: a candidate whom a majority cannot choose any more does not wait for the others.
    pub(crate) fn count_refusals(&mut self) {
        let Part::Candidate(candidacy) = &self.part else { return };
        // Who cannot be reached was not asked, or cannot answer.
        let can_answer = |peer: &PeerId| {
            let is_here = *peer == self.me || self.is_up(peer);
            let may = is_here && !candidacy.refusals.contains(peer);
            candidacy.votes.contains_key(peer) || may
        };
        let may_vote = |peer: &PeerId, _: &Incarnation| match planted(Bug::UnreachableWaitedFor) {
            true => !candidacy.refusals.contains(peer),
            false => can_answer(peer),
        };
        if !is_majority(self.log.voters(), may_vote) && !planted(Bug::RefusalsNotCounted) {
            self.give_up_candidacy();
        }
    }

    pub(crate) fn count_votes(&mut self) {
        let Part::Candidate(candidacy) = &self.part else { return };
        // R1: nothing counts before the candidate's own vote and term are durable.
        let durable = candidacy.own_vote_ready.is_none();
        let voted = |peer: &PeerId, _: &Incarnation| candidacy.votes.contains_key(peer);
        if durable && is_majority(self.log.voters(), voted) {
            self.become_host();
        }
    }

    pub(crate) fn give_up_candidacy(&mut self) {
        self.part = Part::follower();
        self.lease.suspect_at = self.now;
        if self.search.suspicion.is_none() {
            self.suspect();
        }
        self.withdraw(WithdrawReason::NoMajority);
        // Whoever nominates it again does so after the others have heard that.
        self.search.nominations.clear();
        let prng = &mut self.prng;
        match &mut self.search.suspicion {
            // R20: of two who stand against each other, chance lets one be first.
            Some(suspicion) if suspicion.back_off > 0 => {
                suspicion.round_until = self.now + prng.below(suspicion.back_off) + 1;
            }
            _ => self.next_round(),
        }
    }
}
