//! What a message says of its sender by the way: that it is back, is another incarnation, or is
//! in a term far ahead; and what a refusal says of it.

use std::sync::Arc;

use crate::log::quorum::majority_index;
use crate::log::signed::SignedChange;
use crate::member::Attached;
use crate::message::{Body, Message, Refused, RefusedReason};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::types::{Incarnation, Membership, PeerId, Term};

/// R11: who stands goes no further beyond its own term for the word of one.
const TERM_LEAP_MAX: Term = 1_024;
/// A voter goes further with a candidate: others may have stood many times without it.
const VOTE_LEAP_MAX: Term = 1 << 20;

impl Replica {
    pub(crate) fn on_refused(&mut self, message: &Message, refused: Refused) {
        let by_source = |attached: &mut Attached| attached.source == message.from;
        self.hand_over_refused(message.from, refused);
        // Whatever was meant for an earlier incarnation: the log is asked of the newer one.
        let is_address = matches!(refused.reason, RefusedReason::WrongIncarnation { .. })
            && !planted(Bug::AddressTakenForProof);
        let is_tried =
            self.part.attached().is_some_and(|it| it.source == message.from && !it.is_proven);
        if is_tried && !is_address {
            // It does not prove itself, and another may.
            self.give_up_claim(false);
            self.attach();
        }
        match refused.reason {
            RefusedReason::NotHost { host } => {
                if self.part.detach_if(by_source).is_some() && self.host() != Some(message.from) {
                    self.sources.seek_host_at = self.now + self.config.lease_min_us;
                }
                if let Some(host) = host {
                    self.hear_of_host(host, host, refused.term);
                }
            }
            RefusedReason::NotMember | RefusedReason::Removed { .. } => {
                self.on_not_member(message, refused);
            }
            RefusedReason::Outlived { is_here } => self.on_outlived(message, refused, is_here),
            RefusedReason::WrongIncarnation { incarnation } => {
                self.learn_incarnation(message.from, incarnation);
            }
            RefusedReason::StaleTerm => self.on_stale_term(message, refused.term),
            // One of another generation has been noted before this (R30).
            RefusedReason::OtherGeneration
            | RefusedReason::InviteLink(_)
            | RefusedReason::ChatFull => {}
        }
    }

    /// R26: one who said goodbye is back when it speaks in a later boot, or a new incarnation.
    pub(crate) fn notice_return(&mut self, message: &Message) {
        let said = self.world.goodbyes.get(&message.from);
        if said.is_some_and(|(incarnation, boot)| {
            message.from_incarnation != *incarnation || message.from_boot > *boot
        }) {
            self.world.goodbyes.remove(&message.from);
            self.watch_majority();
        }
    }

    // R9: a member whose log is behind may not know that its host has begun anew. It attaches to
    // it all the same, and its log then says so.
    fn learn_incarnation(&mut self, peer: PeerId, incarnation: Incarnation) {
        let known = self.log.state().members.get(&peer).map(|member| member.incarnation);
        let Some(outlived) = known.filter(|known| *known != incarnation) else { return };
        let learned = (outlived, incarnation);
        if self.world.newer_incarnations.insert(peer, learned) == Some(learned) {
            return;
        }
        let is_tried = self.part.detach_if(|it| it.source == peer && !it.is_proven).is_some();
        if self.host() == Some(peer) || is_tried {
            self.attach();
        }
    }

    // L5: a member's word about its own term, over its own connection. It raises nobody's term: who
    // stands goes beyond it, and the host stands anew for one who cannot follow it.
    pub(crate) fn note_term(&mut self, message: &Message) {
        let term = message.body.term();
        let (from, incarnation) = (message.from, message.from_incarnation);
        if term <= self.hard_state.term {
            return;
        }
        if self.host() == Some(from) && !matches!(message.body, Body::RequestVote(_)) {
            self.lose_host();
        }
        // Who asks for the log of a reign that has not shown its proof names that one's term, which
        // anybody may have made up.
        let is_own = match &message.body {
            Body::Attach(_) => false,
            Body::Acknowledge(acknowledge) => acknowledge.received == 0,
            _ => true,
        };
        if self.is_known(from, incarnation) && (is_own || planted(Bug::AskedTermHeard)) {
            let known = self.world.heard_terms.entry(from).or_default();
            *known = term.max(*known);
        }
    }

    /// Whether a candidate's term is so much later than the own one that its word for it is not
    /// enough (R11).
    pub(crate) fn is_far_ahead(&self, term: Term) -> bool {
        let far = term > self.hard_state.term.saturating_add(VOTE_LEAP_MAX);
        far && term > self.term_of_majority() && !planted(Bug::LeapBelieved)
    }

    /// The term that a majority of the voters has reached at least, by their own words.
    fn term_of_majority(&self) -> Term {
        majority_index(self.log.voters(), |peer| self.heard_term(peer))
    }

    /// The latest term that the peer has said that it is in; the own one if that is later.
    pub(crate) fn heard_term(&self, peer: &PeerId) -> Term {
        let heard = self.world.heard_terms.get(peer).copied().unwrap_or_default();
        heard.max(self.hard_state.term)
    }

    /// The term that somebody says it is in, as far as one word is believed: who lies drives nobody
    /// far.
    pub(crate) fn believed_term(&self, said: Term) -> Term {
        let nearby = self.hard_state.term.saturating_add(TERM_LEAP_MAX);
        match planted(Bug::LeapBelieved) {
            true => said,
            false => said.min(nearby.max(self.term_of_majority())),
        }
    }

    // R9: a directory that was put back after its peer had begun anew elsewhere is told so by the
    // host; nobody else knows whether the other incarnation is there.
    /// Whether the message comes from an incarnation that has ended; then it has been answered.
    pub(crate) fn refuse_outlived(&mut self, message: &Message) -> bool {
        let state = self.log.state();
        let Part::Host(hosting) = &self.part else { return false };
        let Some(member) = state.members.get(&message.from) else { return false };
        let has_ended = member.incarnation != message.from_incarnation
            && state.outlived.contains(message.from, message.from_incarnation)
            && !matches!(message.body, Body::Join(_) | Body::FindHost);
        if !has_ended || !hosting.serving || planted(Bug::OutlivedNotTold) {
            return false;
        }
        let is_here = self.is_heard(hosting, &message.from, &member.incarnation);
        self.refuse(message, RefusedReason::Outlived { is_here });
        true
    }

    /// The host says that this peer goes on in another incarnation. Where that one is not there,
    /// this one takes its place in a third, with what it has queued. Two that are there at the same
    /// time would do that to each other without an end, so that this one waits, and says so.
    fn on_outlived(&mut self, message: &Message, refused: Refused, is_here: bool) {
        let says_host = self.host() == Some(message.from) && refused.term == self.hard_state.term;
        if says_host && self.is_outlived_by(&message.words) {
            self.world.key_in_use = is_here;
            if !is_here {
                self.stop_below_own_past("another incarnation of this peer has taken its place");
            }
        }
    }

    // L1: only this peer's own key says that it has joined as another incarnation, and only its log
    // that this was not before.
    /// Whether one of the words is such a joining, later than that of this incarnation.
    fn is_outlived_by(&self, words: &[Arc<SignedChange>]) -> bool {
        let state = self.log.state();
        let me = state.members.get(&self.me);
        let has_joined = me.is_some_and(|me| me.incarnation == self.incarnation);
        let is_later = |word: &Arc<SignedChange>| {
            matches!(word.change, Membership::Joined { .. })
                && word.is_of(self.generation)
                && word.author == self.me
                && word.incarnation != self.incarnation
                && !state.outlived.contains(self.me, word.incarnation)
        };
        (has_joined && words.iter().any(is_later)) || planted(Bug::OutlivedNotShown)
    }
}
