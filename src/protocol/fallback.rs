//! When the list of candidates is used up, or there is none: whoever wants to host asks all others
//! for their nominations (R20).

use std::cmp::Reverse;

use super::adoption::TailReport;
use super::election::Suspicion;
use super::event::LinkState;
use super::message::{Body, Message, Nominate, SolicitAnswer};
use super::planted::{Bug, planted};
use super::replica::{Part, Replica};
use super::time::{Instant, Micros};
use super::types::{PeerId, Position};

/// Somebody who has asked for nominations, and is given the time to stand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Supported {
    pub peer: PeerId,
    /// Where its log ended when it asked.
    pub last: Position,
    pub until: Instant,
}

impl Supported {
    /// Whether it comes before another that asks at about the same time.
    fn comes_before(&self, peer: PeerId, last: Position) -> bool {
        (self.last, Reverse(self.peer)) > (last, Reverse(peer))
    }
}

impl Replica {
    // R20: the list is used up. After a back-off that is redrawn every time and grows, this voter
    // asks all others to nominate it. A majority is needed as ever.
    pub(super) fn fall_back(&mut self, suspicion: &mut Suspicion, round: Micros) {
        if suspicion.back_off > 0 {
            let solicit = Nominate { term: self.hard_state.term, last: self.log.last() };
            for peer in self.other_voters() {
                self.send(peer, Body::Solicit(solicit));
            }
            let (peer, last, until) = (self.me, self.log.last(), self.now + round);
            suspicion.supported = Some(Supported { peer, last, until });
        }
        let config = &self.config;
        let grown = (suspicion.back_off + suspicion.back_off / 2).max(config.fallback_min_us);
        suspicion.back_off = grown.min(config.fallback_max_us);
        suspicion.round_until = self.now + round + self.draw_back_off(suspicion.back_off);
        suspicion.withdrawn.clear();
        suspicion.has_withdrawn = false;
    }

    fn draw_back_off(&mut self, span: Micros) -> Micros {
        if planted(Bug::BackOffNotDrawn) { span } else { self.prng.below(span) + 1 }
    }

    pub(super) fn on_solicit(&mut self, message: &Message, solicit: Nominate) {
        let last = self.log.last();
        let host_alive = self.host_alive();
        let dialled = self.links.get(&message.from) == Some(&LinkState::Up);
        // R7: whether its own set has it or not: the asker counts by the set that it has. Who
        // may not vote does not nominate either (R37).
        let may = !self.tail_in_doubt && dialled && host_alive.is_none();
        let nominated = may && self.supports(message.from, solicit.last);
        let term = self.hard_state.term;
        let in_doubt = self.tail_in_doubt;
        let answer = SolicitAnswer { term, nominated, last, in_doubt, host_alive };
        self.answer(message, Body::SolicitAnswer(answer));
    }

    // R20: of several who ask at about the same time, all voters let the same one go first, so that
    // they do not take the votes from each other: the one with more of the log, or the smaller id.
    // Nobody is waited for twice in a row.
    fn supports(&mut self, peer: PeerId, last: Position) -> bool {
        if planted(Bug::AllAskersNominated) {
            return true;
        }
        let (now, round) = (self.now, self.round());
        let has_voted = self.hard_state.vote.is_some_and(|vote| vote != peer);
        let waits = has_voted && now < self.suspect_at && self.host.is_none();
        if waits || matches!(self.part, Part::Candidate(_)) {
            return false;
        }
        let Some(suspicion) = &self.suspicion else { return true };
        match suspicion.supported {
            Some(supported) if supported.peer == peer => return true,
            Some(supported) if now < supported.until && supported.comes_before(peer, last) => {
                return false;
            }
            _ => {}
        }
        let span = suspicion.back_off.max(self.config.fallback_min_us);
        let until = now + 2 * round;
        let asks_at = until + self.draw_back_off(span);
        let Some(suspicion) = &mut self.suspicion else { return true };
        suspicion.supported = Some(Supported { peer, last, until });
        suspicion.round_until = suspicion.round_until.max(asks_at);
        // Whoever has nominated this peer may still do so when it asks the next time.
        self.nominations.clear();
        true
    }

    pub(super) fn on_solicit_answer(&mut self, message: &Message, answer: SolicitAnswer) {
        if answer.term > self.hard_state.term {
            self.enter_term(answer.term);
        }
        let report = TailReport { last: answer.last, in_doubt: answer.in_doubt };
        self.on_tail_report(message, report);
        let gives_way = self.suspicion.as_ref().and_then(|suspicion| suspicion.supported);
        let gives_way = gives_way.is_some_and(|supported| supported.peer != self.me);
        if answer.nominated && !gives_way {
            self.take_nomination(message, answer.term, answer.last);
            self.try_stand();
        }
        self.on_host_alive(message, answer.host_alive);
    }
}
