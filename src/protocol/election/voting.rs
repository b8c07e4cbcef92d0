//! Votes: who gets one, what it is worth, and how a host follows itself or another (R1, R2, R7, L3,
//! L5).

use crate::event::DiskState;
use crate::message::{Body, Granted, HandOver, Message, RefusedReason, RequestVote, Vote};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::{Micros, SECOND};
use crate::types::{Ballot, HardState, PeerId, SignedVote, Term};

/// A host stands anew for one in a later term no more often than this.
pub(crate) const RENEW_US: Micros = 10 * SECOND;

/// So often a voter votes for one that comes to nothing before it lets it wait.
const VOTES_FREE: u32 = 3;
/// The most candidates that are remembered for that.
const VAIN_VOTES_MAX: usize = 64;

impl Replica {
    // R2: a vote is granted only to a log at least as up to date. Apart from that, a voter that
    // hears its host says so and keeps its term, unless the host itself has handed over. R7: a
    // peer votes whatever its own voter set says.
    pub(crate) fn on_request_vote(&mut self, message: &Message, request: RequestVote) {
        // R9, L5: it is this peer's own word, whoever shows it.
        if request.past.is_some_and(|past| self.compare_with_past(past)) {
            return;
        }
        if self.is_far_ahead(request.term) {
            self.refuse(message, RefusedReason::StaleTerm);
            return;
        }
        let permitted = request.hand_over.is_some_and(|hand_over| {
            (planted(Bug::PermissionOutlivesTerm) || hand_over.term == self.hard_state.term)
                && (planted(Bug::PermissionForAnyone) || hand_over.target == message.from)
                && self.host() == Some(hand_over.host)
        });
        let permitted = permitted || planted(Bug::LeaseIgnoredByVoter);
        let host_alive = self.host_alive().filter(|_| !permitted);
        // L5: a term is entered for one that this peer votes for, and for nobody else.
        let HardState { term, vote } = match request.term > self.hard_state.term {
            true => HardState { term: request.term, vote: None },
            false => self.hard_state,
        };
        let is_later = term > self.hard_state.term;
        // R7: only a log that goes further may name a voter that this one does not.
        let may_stand = self.is_voting(message.from, message.from_incarnation)
            || request.end.last > self.log.last()
            || planted(Bug::LearnerVotedFor);
        let who = self.counted_as(message.from);
        let is_soon = self.search.vain_votes.get(&who).is_some_and(|(_, until)| self.now < *until);
        let granted = host_alive.is_none()
            && may_stand
            && (!is_soon || permitted || planted(Bug::VotesInVain))
            && request.term == term
            && (planted(Bug::VotedTwice) || vote.is_none_or(|vote| vote == message.from))
            && (planted(Bug::LogCheckSkipped) || request.end.last >= self.log.last())
            && (!planted(Bug::RankIsVeto) || self.is_first_ranked(message.from))
            && (!planted(Bug::OutsiderRefused) || self.log.voters().contains(&message.from))
            && (!planted(Bug::RemovedRefusesVote) || self.is_voter())
            && (is_later || matches!(self.part, Part::Follower(_)))
            && (planted(Bug::DoubtVotes) || !self.is_in_doubt());
        let granted = granted.then(|| {
            let (candidate, incarnation) = (message.from, message.from_incarnation);
            let (generation, end) = (self.generation, request.end);
            let ballot = Ballot { generation, term, candidate, incarnation, end };
            let SignedVote { signature, .. } = self.signer.vote(&ballot, self.me, self.incarnation);
            Granted { end: request.end, signature }
        });
        if granted.is_some() {
            self.unbind_nominations(Some(message.from));
        }
        if is_later && (granted.is_some() || planted(Bug::AskedTermEntered)) {
            self.enter_term(term);
        }
        let term = self.hard_state.term;
        if granted.is_some() {
            self.hard_state.vote = Some(message.from);
            self.ready.persist.hard_state = Some(self.hard_state);
            self.note_vain_vote(message.from);
            self.wait_for_candidate();
        }
        self.answer(message, Body::Vote(Vote { term, granted, host_alive }));
    }

    /// One that is in a later term does not take part in this one. A candidate waits for it no
    /// more. A host that it would follow stands anew, beyond that term: not for a liar again and
    /// again, nor where it is only told so by who follows a later host, which proves itself.
    pub(crate) fn on_stale_term(&mut self, message: &Message, term: Term) {
        if term <= self.hard_state.term || planted(Bug::LaterTermIgnored) {
            return;
        }
        let is_known = self.is_known(message.from, message.from_incarnation);
        match &mut self.part {
            Part::Candidate(candidacy) => {
                candidacy.refusals.insert(message.from);
                self.count_refusals();
            }
            Part::Host(hosting) if is_known && self.stopping.is_none() => {
                let is_busy = hosting.hand_over.is_some();
                let again = self.renewed_at.map(|at| at + RENEW_US);
                let is_soon = !hosting.paused && again.is_some_and(|again| self.now < again);
                if !is_busy && (!is_soon || planted(Bug::RenewedAgain)) && self.is_voter() {
                    self.renew(term);
                }
            }
            Part::Host(_) | Part::Follower(_) => {}
        }
    }

    /// A host begins another reign, with its own permission.
    fn renew(&mut self, beyond: Term) {
        self.renewed_at = Some(self.now);
        let (host, host_incarnation) = (self.me, self.incarnation);
        let term = self.hard_state.term;
        let mut permission =
            HandOver { host, host_incarnation, term, target: host, signature: None };
        permission.signature = Some(self.signer.hand_over(self.generation, &permission));
        self.become_follower();
        self.stand(Some(permission), beyond);
    }

    /// All whom the log does not name count as one: anybody has as many keys as it likes.
    fn counted_as(&self, candidate: PeerId) -> Option<PeerId> {
        Some(candidate).filter(|candidate| self.log.state().members.contains_key(candidate))
    }

    /// Who asks for votes again and again, and never hosts, would hold up every election: each vote
    /// is for one term. It gets the next one later each time.
    fn note_vain_vote(&mut self, candidate: PeerId) {
        let candidate = self.counted_as(candidate);
        let round = self.round();
        let is_known = self.search.vain_votes.contains_key(&candidate);
        if !is_known && self.search.vain_votes.len() >= VAIN_VOTES_MAX {
            return;
        }
        let (count, until) = self.search.vain_votes.entry(candidate).or_default();
        *count = count.saturating_add(1);
        if let Some(more) = count.checked_sub(VOTES_FREE).filter(|more| *more > 0) {
            let wait = (3 * round) << more.min(8);
            *until = self.now + wait.min(self.config.lease_max_us);
        }
    }

    /// Having voted, gives the candidate the time to win before nominating anybody else.
    fn wait_for_candidate(&mut self) {
        if planted(Bug::GrantedNominatesAtOnce) {
            return;
        }
        let until = self.now + 3 * self.round();
        self.lease.suspect_at = self.lease.suspect_at.max(until);
        if let Some(suspicion) = &mut self.search.suspicion {
            suspicion.round_until = suspicion.round_until.max(until);
        }
    }

    pub(crate) fn on_vote(&mut self, message: &Message, vote: Vote) {
        let voting = self.is_voting(message.from, message.from_incarnation);
        let end = self.log.end();
        // L3: what was granted for another end of the log would prove nothing.
        let granted = vote.granted.filter(|it| it.end == end || planted(Bug::VoteForAnotherEnd));
        if let Part::Candidate(candidacy) = &mut self.part
            && let Some(granted) = granted
            && (planted(Bug::OlderVoteCounts) || vote.term == self.hard_state.term)
            && voting
        {
            let incarnation = message.from_incarnation;
            let vote = SignedVote { incarnation, signature: granted.signature };
            candidacy.votes.insert(message.from, vote);
            self.count_votes();
        } else if let Part::Candidate(candidacy) = &mut self.part
            && vote.granted.is_none()
        {
            candidacy.refusals.insert(message.from);
            self.count_refusals();
        }
        self.on_host_alive(message, vote.host_alive);
    }

    // ---- being handed over to (R23) ----

    pub(crate) fn on_hand_over(&mut self, message: &Message, hand_over: HandOver) {
        let valid = hand_over.host == message.from
            && hand_over.host_incarnation == message.from_incarnation
            && hand_over.term == self.hard_state.term
            && hand_over.target == self.me
            && (planted(Bug::HandOverByAnyone) || self.host() == Some(message.from));
        let may = self.is_voter() && self.stopping.is_none() && self.disk < DiskState::Full;
        if valid && may && !self.is_in_doubt() && matches!(self.part, Part::Follower(_)) {
            self.stand(Some(hand_over), 0);
        } else {
            self.refuse(message, RefusedReason::StaleTerm);
        }
    }

    /// Whether that peer is the best candidate, which must not matter to a vote.
    fn is_first_ranked(&self, peer: PeerId) -> bool {
        self.world.ranking.candidates.first().is_none_or(|first| first.peer == peer)
    }
}
