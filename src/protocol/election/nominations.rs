//! A voter's search for a new host: suspicion, and nominations down the ranked list.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::adoption::{Adoption, TailReport};
use crate::event::{DiskState, Notice};
use crate::log::quorum::is_majority;
use crate::member::Lease;
use crate::message::{
    Body, HostAlive, Message, Nominate, NominateAnswer, SolicitAnswer, Withdraw, WithdrawReason,
};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::{Instant, Micros, SECOND};
use crate::types::{Incarnation, PeerId, Position, Term};

/// The first back-off spans so many round trips at least (R20).
const FALLBACK_ROUND_TRIPS: Micros = 4;

/// What a search has taken so far makes rounds no longer than this.
const SEARCHED_MAX_US: Micros = SECOND / 2;

/// A host that has paused no longer ago than this nominates nobody.
const PAUSED_US: Micros = SECOND;

/// All that belongs to finding a new host. It goes on through terms and candidacies, until a host
/// is there.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Search {
    pub suspicion: Option<Suspicion>,
    /// Who wants this peer to host.
    pub nominations: BTreeMap<PeerId, Nomination>,
    pub adoption: Option<Adoption>,
    /// Who got this peer's votes since it followed a host, how often, until when not again (L5).
    pub vain_votes: BTreeMap<Option<PeerId>, (u32, Instant)>,
}

impl Search {
    /// Another peer hosts. What others want of this one is held until a heartbeat refutes it (R16).
    pub fn end(&mut self) {
        let nominations = std::mem::take(&mut self.nominations);
        // R10: who follows a host takes its log over, and nobody else's.
        let adoption = self.adoption.take().filter(|_| planted(Bug::LateLogAdopted));
        *self = Self { nominations, adoption, ..Self::default() };
    }
}

/// A voter suspects the host, and goes down the ranked list.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Suspicion {
    pub suspected: Option<PeerId>,
    /// When the search began, or the world last changed for the better.
    pub since: Instant,
    /// The next place on the ranked list.
    pub place: usize,
    /// Whom this voter nominates in this round.
    pub nominee: Option<PeerId>,
    pub round_until: Instant,
    pub withdrawn: BTreeSet<PeerId>,
    /// When this voter asked all others last, while it wants to be nominated (R20).
    pub asked_at: Option<Instant>,
    /// The span of the fallback's next back-off; 0 while the list is not used up.
    pub back_off: Micros,
    /// This peer has told the others that it cannot stand.
    pub has_withdrawn: bool,
}

/// Somebody wants this peer to host (R15).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Nomination {
    pub at: Instant,
    pub until: Instant,
    pub incarnation: Incarnation,
    pub term: Term,
    pub last: Position,
}

impl Replica {
    // ---- suspecting (R14) and nominating (R15, R19, R20) ----

    pub(crate) fn election_timeouts(&self, at: &mut impl FnMut(Instant)) {
        if let Some(adoption) = &self.search.adoption {
            at(adoption.deadline);
        }
        if !self.is_voter() || self.stopping.is_some() {
            return;
        }
        match &self.search.suspicion {
            // Nothing is done before that, however long the round is over.
            Some(suspicion) => at(suspicion.round_until.max(self.lease.suspect_at)),
            None => at(self.lease.suspect_at),
        }
    }

    pub(crate) fn election_on_time(&mut self) {
        self.adoption_on_time();
        if !self.is_voter() || self.stopping.is_some() || self.now < self.lease.suspect_at {
            return;
        }
        match &self.search.suspicion {
            None => self.suspect(),
            Some(suspicion) if self.now >= suspicion.round_until => self.next_round(),
            Some(_) => {}
        }
    }

    // R14: the connection to the host was closed and a redial is refused. That voids this voter's
    // own lease, and nobody else's.
    pub(crate) fn host_process_is_gone(&mut self, peer: PeerId) {
        if self.host() == Some(peer) && matches!(self.part, Part::Follower(_)) {
            self.lease = Lease::void(self.now);
            self.election_on_time();
        }
    }

    pub(super) fn suspect(&mut self) {
        self.ready.notices.push(Notice::Suspect { term: self.hard_state.term });
        self.search.suspicion = Some(Suspicion {
            suspected: self.host(),
            since: self.now,
            place: 0,
            nominee: None,
            round_until: self.now,
            withdrawn: BTreeSet::new(),
            back_off: 0,
            asked_at: None,
            has_withdrawn: false,
        });
        self.next_round();
    }

    /// R17, R19: how long a nominee, or a candidate, has. Never more than the longest lease,
    /// whatever a stall has made of the estimates: where answers took longer, no host could last.
    /// A search that has come to nothing so far may have taken answers for missing that were still
    /// on their way, so that each round may last as long as all that went before it.
    pub(crate) fn round(&self) -> Micros {
        let stretch_max = self.config.stretch_max_us();
        let slowest = self.slowest_round_trip();
        let searched = self.search.suspicion.as_ref().map_or(0, |it| self.now.since(it.since));
        let searched = match planted(Bug::SearchNotPatient) {
            true => 0,
            false => searched.min(SEARCHED_MAX_US).min(stretch_max),
        };
        let round = (2 * slowest + 2 * self.durability.syncs.p99()).max(searched);
        round.min(self.config.lease_max_us).max(self.config.round_min_us)
    }

    /// How long a candidate waits for votes once it has asked for them: two rounds, of which its
    /// own sync is over.
    pub(crate) fn time_for_votes(&self) -> Micros {
        let round = self.round();
        (2 * round).saturating_sub(2 * self.durability.syncs.p99()).max(round)
    }

    /// The round trip to the slowest voter that can answer, as far as is known.
    pub(crate) fn slowest_round_trip(&self) -> Micros {
        let may_answer = |peer: &&PeerId| self.is_up(peer) || planted(Bug::UnreachableWaitedFor);
        let voters = self.log.voters().peers().filter(may_answer);
        let round_trips = voters.filter_map(|peer| self.world.round_trips.get(peer));
        let slowest = round_trips.map(|estimate| estimate.p99()).max().unwrap_or(0);
        slowest.max(self.world.lateness.longer_by().min(self.config.stretch_max_us()))
    }

    /// Nominates the next one on the list, or falls back.
    pub(super) fn next_round(&mut self) {
        let round = self.round();
        let Some(mut suspicion) = self.search.suspicion.take() else { return };
        suspicion.nominee = None;
        let ranking = Arc::clone(&self.world.ranking);
        // One in doubt about its log may not vote, and so asks all of them at once (R37).
        let listed = ranking.candidates.get(suspicion.place..).filter(|_| !self.is_in_doubt());
        for candidate in listed.unwrap_or_default() {
            suspicion.place += 1;
            if self.may_be_nominated(candidate.peer, &suspicion) {
                suspicion.nominee = Some(candidate.peer);
                break;
            }
        }
        suspicion.round_until = self.now + round;
        if let Some(nominee) = suspicion.nominee {
            let nominate = Nominate { term: self.hard_state.term, last: self.log.last() };
            self.ready.notices.push(Notice::Nominated { nominee, term: nominate.term });
            if nominee != self.me {
                self.nominated.insert(nominee);
                self.send(nominee, Body::Nominate(nominate));
            }
        } else {
            self.fall_back(&mut suspicion, round);
        }
        self.search.suspicion = Some(suspicion);
        self.try_stand();
    }

    // R15: a voter of the latest set, reachable, not the suspected host, not withdrawn.
    fn may_be_nominated(&self, peer: PeerId, suspicion: &Suspicion) -> bool {
        let reachable = peer == self.me || self.is_within_reach(&peer);
        self.log.voters().contains(&peer)
            && reachable
            && (planted(Bug::SuspectedNominated) || suspicion.suspected != Some(peer))
            && (planted(Bug::WithdrawnNominated) || !suspicion.withdrawn.contains(&peer))
    }

    // R20: the list is used up. After a back-off that is redrawn every time and grows, this voter
    // asks all others to nominate it. A majority is needed as ever.
    fn fall_back(&mut self, suspicion: &mut Suspicion, round: Micros) {
        if suspicion.back_off > 0 {
            suspicion.asked_at = Some(self.now);
            let solicit = Nominate { term: self.hard_state.term, last: self.log.last() };
            for peer in self.other_voters() {
                self.send(peer, Body::Solicit(solicit));
            }
        }
        let config = &self.config;
        // Two who ask within a round trip of each other both stand, and neither wins.
        let apart = FALLBACK_ROUND_TRIPS * self.slowest_round_trip();
        let grown = (suspicion.back_off + suspicion.back_off / 2).max(config.fallback_min_us);
        suspicion.back_off = grown.max(apart).min(config.fallback_max_us);
        let drawn = match planted(Bug::BackOffNotDrawn) {
            true => suspicion.back_off,
            false => self.prng.below(suspicion.back_off) + 1,
        };
        suspicion.round_until = self.now + round + drawn;
        suspicion.withdrawn.clear();
        suspicion.has_withdrawn = false;
    }

    pub(super) fn other_voters(&self) -> Vec<PeerId> {
        self.log.voters().peers().copied().filter(|peer| *peer != self.me).collect()
    }

    // ---- being nominated (R15–R18) ----

    // R16: a nominee whose lease still runs says so, and holds the nomination.
    pub(crate) fn on_nominate(&mut self, message: &Message, nominate: Nominate) {
        self.take_nomination(message, nominate.term, nominate.last);
        if planted(Bug::NominationRaisesTerm) {
            self.enter_term(self.hard_state.term + 1);
        }
        let term = self.hard_state.term;
        let host_alive = self.host_alive();
        self.answer(message, Body::NominateAnswer(NominateAnswer { term, host_alive }));
        self.try_stand();
    }

    pub(crate) fn on_solicit(&mut self, message: &Message, solicit: Nominate) {
        let last = self.log.last();
        // R21: whoever asks so follows nobody in its later term, and could not be elected by this
        // host, whose log is further.
        let is_paused = matches!(&self.part, Part::Host(hosting) if hosting.paused);
        let is_needed = is_paused && self.is_voting(message.from, message.from_incarnation);
        if is_needed && solicit.last < last && !planted(Bug::LaterVoterLeft) {
            self.on_stale_term(message, solicit.term);
        }
        let host_alive = self.host_alive();
        let dialled = self.is_up(&message.from);
        // R7: whether its own set has it or not: the asker counts by the set that it has. Who
        // may not vote does not nominate either (R37), nor does one whose vote is out (R17): the
        // asker would only stand against that candidate.
        let is_bound = self.awaits_candidate() && self.hard_state.vote != Some(message.from);
        let is_bound = is_bound && !planted(Bug::NominatesBesideVote);
        let may = !self.is_in_doubt() && dialled && host_alive.is_none() && !is_bound;
        let may = may && !self.has_just_paused();
        let nominated = may && self.lets_go_first(message.from, solicit.last);
        let term = self.hard_state.term;
        let in_doubt = self.is_in_doubt();
        if nominated {
            self.nominated.insert(message.from);
        }
        let answer = SolicitAnswer { term, nominated, last, in_doubt, host_alive };
        self.answer(message, Body::SolicitAnswer(answer));
    }

    // R20: two who have asked each other would both be nominated, and stand against each other. The
    // one whose log goes further stands, of two as far the first by its id.
    /// Whether the asker may be nominated; whoever asks too then takes its own question back.
    fn lets_go_first(&mut self, asker: PeerId, last: Position) -> bool {
        let (round, own, now) = (self.round(), self.log.last(), self.now);
        let Some(suspicion) = &mut self.search.suspicion else { return true };
        let asks = suspicion.asked_at.is_some_and(|at| now.since(at) < round);
        if !asks || planted(Bug::AskersBothStand) {
            return true;
        }
        let is_first = (last, Reverse(asker)) > (own, Reverse(self.me));
        if is_first {
            suspicion.asked_at = None;
        }
        is_first
    }

    pub(crate) fn on_solicit_answer(&mut self, message: &Message, answer: SolicitAnswer) {
        let report = TailReport {
            term: answer.term,
            last: answer.last,
            in_doubt: answer.in_doubt,
            is_served: answer.host_alive.is_some(),
        };
        self.on_tail_report(message, report);
        let asks =
            self.search.suspicion.as_ref().is_none_or(|suspicion| suspicion.asked_at.is_some());
        if answer.nominated && (asks || planted(Bug::AskersBothStand)) {
            self.take_nomination(message, answer.term, answer.last);
            self.try_stand();
        }
        self.on_host_alive(message, answer.host_alive);
    }

    /// Somebody else hears the host: attach to it, if the term is right.
    pub(crate) fn on_host_alive(&mut self, message: &Message, alive: Option<HostAlive>) {
        if let Some(alive) = alive {
            self.hear_of_host(message.from, alive.host, alive.term);
        }
    }

    fn take_nomination(&mut self, message: &Message, term: Term, last: Position) {
        // R25: who cannot be dialled back could not be led either.
        let dialled = self.is_up(&message.from) || planted(Bug::OneWayNominationCounts);
        if !dialled || !self.is_voting(message.from, message.from_incarnation) {
            return;
        }
        // R16: what is held until the end of the own lease must still count then. R15: those who
        // go down the same list a round apart must meet on it all the same.
        let rounds = if planted(Bug::NominationShort) { 0 } else { 2 * self.round() };
        let until = (self.now + self.config.lease_min_us.max(rounds))
            .max(self.lease.suspect_at + self.round());
        let incarnation = message.from_incarnation;
        let at = self.now;
        self.search
            .nominations
            .insert(message.from, Nomination { at, until, incarnation, term, last });
    }

    /// R16: a heartbeat that the host sent after a nomination had come shows that the nominator was
    /// wrong, or was right about another time. What is held would have this peer stand as soon as
    /// its own lease ends, long after the others have heard of the host again.
    pub(crate) fn drop_refuted_nominations(&mut self, host: PeerId) {
        let round_trip = self.world.round_trips.get(&host).and_then(|estimate| estimate.smoothed());
        let way = round_trip.unwrap_or(0).max(self.world.lateness.longer_by()) / 3;
        if !planted(Bug::RefutedNominationHeld) {
            self.search.nominations.retain(|_, nomination| nomination.at + way >= self.now);
        }
    }

    /// Who hosts, if this peer knows that it is alive.
    pub(super) fn host_alive(&self) -> Option<HostAlive> {
        let term = self.hard_state.term;
        match &self.part {
            Part::Host(hosting) if !hosting.paused => {
                Some(HostAlive { host: self.me, term, retry_in_us: self.config.lease_min_us })
            }
            Part::Follower(_) if self.now < self.lease.until => self.host().map(|host| HostAlive {
                host,
                term,
                retry_in_us: self.lease.until.since(self.now),
            }),
            _ => None,
        }
    }

    /// Whether this peer hosts and has paused only now. Where the ways have got longer, contact is
    /// back before long, and its word would have the chat change its host for nothing.
    fn has_just_paused(&self) -> bool {
        let span = self.config.stretch_max_us().min(PAUSED_US);
        matches!(&self.part, Part::Host(hosting) if self.now.since(hosting.paused_since) < span)
    }

    // R17: stands with nominations from a majority of voters, itself included, whose logs are no
    // further than its own.
    pub(super) fn try_stand(&mut self) {
        let may = matches!(self.part, Part::Follower(_))
            && (planted(Bug::LearnerStands) || self.is_voter())
            && (planted(Bug::NomineeDoesNotHold) || self.now >= self.lease.suspect_at)
            && self.stopping.is_none();
        if !may {
            return;
        }
        self.resolve_doubt();
        let now = self.now;
        self.search
            .nominations
            .retain(|_, nomination| planted(Bug::NominationNeverEnds) || nomination.until > now);
        let last = self.log.last();
        let nominated = |peer: &PeerId, incarnation: &Incarnation| {
            let nomination = self.search.nominations.get(peer);
            nomination.filter(|nomination| nomination.incarnation == *incarnation)
        };
        let voters = self.log.voters();
        let wanted = is_majority(voters, |peer, incarnation| {
            *peer == self.me || nominated(peer, incarnation).is_some()
        });
        let qualified = is_majority(voters, |peer, incarnation| {
            let nomination = nominated(peer, incarnation);
            let behind = |nomination: &Nomination| nomination.last <= last;
            let enough = |n: &Nomination| planted(Bug::NominationIgnoresLog) || behind(n);
            *peer == self.me || nomination.is_some_and(enough)
        });
        if !wanted {
            return;
        }
        // R24: a slow disk makes room for a faster one. Where the list has brought forth nobody,
        // the others' are as slow.
        let is_only_slow = self.disk == DiskState::Stalling && !planted(Bug::SlowNeverStands);
        let asked = |it: &Suspicion| it.back_off > self.config.fallback_min_us;
        let is_last_resort = self.search.suspicion.as_ref().is_some_and(asked);
        let is_unfit = self.disk >= DiskState::Full && !(is_only_slow && is_last_resort);
        if is_unfit || self.is_in_doubt() {
            self.withdraw(WithdrawReason::Unfit);
        } else if qualified {
            let beyond = self.term_of_nominators();
            self.stand(None, beyond);
        } else if let Some(furthest) = self.furthest_nominator() {
            // R10: adoption is part of standing.
            if !self.adopt_from(furthest) {
                self.withdraw(WithdrawReason::LogBehind);
            }
        }
    }

    /// The term beyond which a majority of the voters would vote, the nominators that is. Where
    /// enough of them are in earlier terms, what the others say does not matter.
    fn term_of_nominators(&self) -> Term {
        let mut terms: Vec<_> = (self.log.voters().0.iter())
            .filter_map(|(peer, incarnation)| {
                let nomination = self.search.nominations.get(peer);
                let nomination = nomination.filter(|it| it.incarnation == *incarnation);
                let term = nomination.map(|it| it.term.max(self.heard_term(peer)));
                term.or((*peer == self.me).then_some(self.hard_state.term))
            })
            .collect();
        terms.sort_unstable();
        let needed = self.log.voters().majority() - 1;
        terms.get(needed).or(terms.last()).copied().unwrap_or_default()
    }

    fn furthest_nominator(&self) -> Option<PeerId> {
        let voting = |(peer, nomination): &(&PeerId, &Nomination)| {
            self.is_voting(**peer, nomination.incarnation)
        };
        let nominators = self.search.nominations.iter().filter(voting);
        nominators.max_by_key(|(_, nomination)| nomination.last).map(|(peer, _)| *peer)
    }

    // R18: says so to everybody; it only speeds things up.
    pub(super) fn withdraw(&mut self, reason: WithdrawReason) {
        if let Some(suspicion) = &mut self.search.suspicion {
            if suspicion.has_withdrawn {
                return;
            }
            suspicion.has_withdrawn = true;
            suspicion.withdrawn.insert(self.me);
            if suspicion.nominee == Some(self.me) {
                // Nobody waits for one who has withdrawn, and neither does it itself.
                suspicion.round_until = self.now;
            }
        }
        let term = self.hard_state.term;
        for peer in self.other_voters() {
            self.send(peer, Body::Withdraw(Withdraw { term, reason }));
        }
    }

    /// R17: whose vote goes to one has no nomination for another: that one would stand against it.
    /// It says so before the vote is durable, in the term that it is in until then.
    pub(super) fn unbind_nominations(&mut self, candidate: Option<PeerId>) {
        let term = self.hard_state.term;
        for peer in std::mem::take(&mut self.nominated) {
            if Some(peer) != candidate
                && self.is_term_durable()
                && !planted(Bug::NominationOutlivesVote)
            {
                let reason = WithdrawReason::HostHeard;
                self.send_early(peer, Body::Withdraw(Withdraw { term, reason }));
            }
        }
    }

    /// R16: a nominee that still hears the host may hold a nomination for as long as its lease
    /// runs. Whoever was wrong about the host takes its own back.
    pub(crate) fn take_nominations_back(&mut self) {
        let term = self.hard_state.term;
        for peer in std::mem::take(&mut self.nominated) {
            if !planted(Bug::NominationNotTakenBack) {
                self.send(
                    peer,
                    Body::Withdraw(Withdraw { term, reason: WithdrawReason::HostHeard }),
                );
            }
        }
    }

    pub(crate) fn on_withdraw(&mut self, message: &Message, withdraw: Withdraw) {
        if withdraw.reason == WithdrawReason::HostHeard {
            self.search.nominations.remove(&message.from);
        }
        if withdraw.reason == WithdrawReason::NoMajority {
            self.stop_awaiting(message.from);
        }
        let Some(suspicion) = &mut self.search.suspicion else { return };
        suspicion.withdrawn.insert(message.from);
        if suspicion.nominee == Some(message.from) {
            self.next_round();
        }
    }

    /// R17: whom this peer has voted for comes to nothing, or cannot be heard any more.
    pub(crate) fn stop_awaiting(&mut self, candidate: PeerId) {
        let is_awaited = matches!(self.part, Part::Follower(_))
            && self.hard_state.vote == Some(candidate)
            && self.awaits_candidate();
        if is_awaited && !planted(Bug::LostCandidateAwaited) {
            self.lease.suspect_at = self.now;
            if let Some(suspicion) = &mut self.search.suspicion {
                suspicion.round_until = suspicion.round_until.min(self.now);
            }
        }
    }

    /// Whether this peer's vote is out, its own or another's, and may still make a host.
    pub(crate) fn awaits_candidate(&self) -> bool {
        match self.part {
            Part::Candidate(_) => true,
            Part::Host(_) => false,
            Part::Follower(_) => {
                let has_voted = self.hard_state.vote.is_some_and(|vote| vote != self.me);
                has_voted && self.host().is_none() && self.now < self.lease.suspect_at
            }
        }
    }
}
