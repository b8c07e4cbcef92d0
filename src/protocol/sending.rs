//! How messages leave a replica: at once, or after what they rely on is durable.

use super::log::signed::Words;
use super::message::{Body, Message, Refused, RefusedReason};
use super::planted::{Bug, planted};
use super::replica::Replica;
use super::types::{CallId, Incarnation, PeerId};

impl Replica {
    /// Sends after this `Ready` is durable.
    pub(super) fn send(&mut self, to: PeerId, body: Body) {
        let message = self.message(to, body, 0);
        self.send_synced(message);
    }

    /// The same, to that incarnation of the peer and no other.
    pub(super) fn send_to_incarnation(&mut self, to: PeerId, incarnation: Incarnation, body: Body) {
        let message = self.message(to, body, 0);
        self.send_synced(Message { to_incarnation: incarnation, ..message });
    }

    /// Sends at once. For what relies on nothing unsynced.
    pub(super) fn send_early(&mut self, to: PeerId, body: Body) {
        let message = self.message(to, body, 0);
        self.ready.early.push(message);
    }

    /// Answers a request, after this `Ready` is durable. Where nobody waits, the answer still goes.
    pub(super) fn answer(&mut self, request: &Message, body: Body) {
        let message = self.answer_to(request, body);
        self.send_synced(message);
    }

    fn answer_to(&self, request: &Message, body: Body) -> Message {
        let message = self.message(request.from, body, request.call);
        Message { to_incarnation: request.from_incarnation, ..message }
    }

    // R8: a request is refused with this peer's own term, never dropped in silence; answers are
    // never answered.
    pub(super) fn refuse(&mut self, request: &Message, reason: RefusedReason) {
        if !request.body.is_answer() && !planted(Bug::RefusalUnsaid) {
            let term = self.hard_state.term;
            let words = self.words_for(request.from, reason);
            let mut message = self.answer_to(request, Body::Refused(Refused { term, reason }));
            message.words = words;
            self.send_synced(message);
        }
    }

    fn send_synced(&mut self, message: Message) {
        // R24: who is nominated does not depend on disks. Such words bind nobody, and what waits
        // for a slow sync speaks of what has changed by then.
        let is_unbinding = match &message.body {
            Body::Vote(vote) => vote.granted.is_none(),
            Body::Nominate(_)
            | Body::NominateAnswer(_)
            | Body::Solicit(_)
            | Body::SolicitAnswer(_)
            | Body::Withdraw(_)
            | Body::LookBack(_) => true,
            _ => false,
        };
        let is_early = is_unbinding
            && self.is_syncing()
            && self.is_term_durable()
            && !planted(Bug::NominationWaitsForSync);
        match is_early || is_too_early(&message.body) {
            true => self.ready.early.push(message),
            false => self.ready.messages.push(message),
        }
    }

    fn message(&self, to: PeerId, body: Body, call: CallId) -> Message {
        let known = self.log.state().members.get(&to).map(|member| member.incarnation);
        // Whoever hosts is followed in whatever incarnation. A vote is asked of the one that the
        // voters' set names, and of no other.
        let newer = self.world.newer_incarnations.get(&to).filter(|_| follows(&body));
        let newer = newer.filter(|(outlived, _)| known == Some(*outlived));
        // Who asks for the host may have no log yet; it says no boot.
        let says_boot = !matches!(body, Body::FindHost);
        Message {
            from: self.me,
            from_incarnation: self.incarnation,
            from_boot: if says_boot { self.boot } else { 0 },
            to,
            to_incarnation: newer.map(|(_, newer)| *newer).or(known).unwrap_or(0),
            generation: self.generation,
            call,
            words: self.words_of_asking(&body),
            body,
        }
    }
}

impl Replica {
    // L1: who is told that it is no member any more, or another incarnation, is shown why.
    fn words_for(&self, peer: PeerId, reason: RefusedReason) -> Words {
        match reason {
            RefusedReason::Removed { .. } => self.log.state().word_of_end(peer),
            RefusedReason::Outlived { .. } => self.log.state().word_of_joining(peer),
            _ => Words::new(),
        }
    }

    // R7, L2: a voter that lags may not have read who asks for its vote.
    fn words_of_asking(&self, body: &Body) -> Words {
        match body {
            Body::Solicit(_) | Body::RequestVote(_) | Body::Announce(_) => {
                self.log.state().words_of_coming_in(self.me)
            }
            _ => Words::new(),
        }
    }
}

/// Whether this is what a member says to its host, or to who may be it.
fn follows(body: &Body) -> bool {
    matches!(
        body,
        Body::Attach(_)
            | Body::Acknowledge(_)
            | Body::Submit(_)
            | Body::ReportDelays(_)
            | Body::FindHost
    )
}

/// Whether a message leaves before the sync that it relies on.
fn is_too_early(body: &Body) -> bool {
    match body {
        Body::Vote(_) => planted(Bug::VoteBeforeSync),
        Body::RequestVote(_) => planted(Bug::RequestBeforeSync),
        Body::Acknowledge(_) => planted(Bug::AcknowledgedBeforeSync),
        _ => false,
    }
}
