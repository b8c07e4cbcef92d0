//! Who may ask the peers of a chat for anything: its members, and nobody else (R39).

use std::collections::BTreeMap;

use crate::log::signed::ByLink;
use crate::message::{Body, Message, RefusedReason};
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::{Instant, Micros, SECOND};
use crate::types::{
    HardState, INVITE_LINKS_MAX, Incarnation, InviteLinkId, MemberState, Membership, Payload,
    PeerId,
};

/// Whom links have let in, as strangers have shown, and when each has shown it last.
pub(crate) type ShownByLink = BTreeMap<InviteLinkId, BTreeMap<(PeerId, Incarnation), Instant>>;

/// One whom the log does not tell of in this time, and who asks no more, has the use of its link
/// no longer: its joining may have been lost with the host that had it.
pub(crate) const SHOWN_US: Micros = 600 * SECOND;

impl Replica {
    // R39: a stranger cannot raise a term, name a host or say goodbye, whatever it knows of the
    // chat. One who was invited and has not joined is still a stranger, who may only join.
    /// Whether the message comes from a stranger who may not send it; then it has been answered.
    pub(crate) fn refuse_stranger(&mut self, message: &Message) -> bool {
        let members = &self.log.state().members;
        let has_joined =
            members.get(&message.from).is_some_and(|member| member.state != MemberState::Invited);
        // Who has no log yet knows nobody; the runtime lets only those in that it was told of.
        if has_joined || members.is_empty() || self.log.voters().contains(&message.from) {
            return false;
        }
        // Who was sent away might ask for votes ever again.
        let former = self.log.state().former_members.get(&message.from);
        let was_removed = former.is_some_and(|former| former.removed_by.is_some());
        let may = match &message.body {
            Body::Join(_) | Body::FindHost => true,
            Body::RequestVote(_) | Body::Solicit(_) | Body::Announce(_) if was_removed => false,
            // R7: a voter that lags may not have read yet who the candidate is, and is shown.
            Body::RequestVote(request) => {
                request.end.last > self.log.last() && self.is_shown_to_have_joined(message)
            }
            Body::Solicit(solicit) => {
                solicit.last > self.log.last()
                    && self.is_shown_to_have_joined(message)
                    && !planted(Bug::UnknownVoterRefused)
            }
            // Nor whom it has just voted for, nor who has proven its reign all the same.
            Body::Announce(announce) => {
                let HardState { term, vote } = self.hard_state;
                let proof = announce.reign.as_ref();
                (announce.term == term && vote == Some(message.from))
                    || proof.is_some_and(|proof| self.proves(proof))
            }
            // What answers this peer's own calls was asked for.
            body => body.is_answer(),
        };
        let may = may || planted(Bug::StrangerAnswered);
        if !may {
            self.refuse(message, RefusedReason::NotMember);
        }
        !may
    }

    // L2: how far somebody's log claims to be, anybody could say. That it has joined, only those
    // could who have let it in.
    fn is_shown_to_have_joined(&mut self, message: &Message) -> bool {
        let who = (self.generation, message.from, message.from_incarnation);
        let state = self.log.state();
        let Some(by_link) = state.shows_joining(who, &message.words) else { return false };
        // L2: whoever has a link's secret signs as many joinings as it likes, and the log takes as
        // many as the link has uses. Those that it has taken, it counts itself.
        let is_over =
            |at: Instant| self.now.since(at) >= SHOWN_US && !planted(Bug::ShownByLinkForEver);
        for joined in self.world.shown_by_link.values_mut() {
            joined.retain(|(peer, incarnation), at| {
                !state.is_present(*peer, *incarnation) && !is_over(*at)
            });
        }
        self.world.shown_by_link.retain(|_, joined| !joined.is_empty());
        for ByLink { link, uses, peer, incarnation } in by_link {
            let has_room = self.world.shown_by_link.len() < INVITE_LINKS_MAX;
            let joined = self.world.shown_by_link.get(&link);
            let has_use = joined.map_or(has_room, |joined| {
                joined.contains_key(&(peer, incarnation)) || joined.len() < uses as usize
            });
            if !has_use && !planted(Bug::LinkUsesNotCounted) {
                return false;
            }
            let joined = self.world.shown_by_link.entry(link).or_default();
            joined.insert((peer, incarnation), self.now);
        }
        true
    }

    /// Whether the log names that incarnation of the peer, as a member or as a voter.
    pub(crate) fn is_known(&self, peer: PeerId, incarnation: Incarnation) -> bool {
        self.log.state().is_present(peer, incarnation) || self.is_voting(peer, incarnation)
    }

    /// Whether this peer gives the log to that incarnation of another: to a member, as far as is
    /// known to be committed, and to a voter that is joining.
    pub(crate) fn gives_log_to(&self, peer: PeerId, incarnation: Incarnation) -> bool {
        self.log.state().is_present(peer, incarnation) || self.is_joining_voter(peer, incarnation)
    }

    // R35: who has adopted its log may host without knowing how far that is committed, and may
    // need the copy of a voter, whose joining lies beyond, to commit anything. A vote is given to
    // members only, so that the vote says that the joining is committed.
    /// Whether the peer has a vote, while its joining is in this log and not known to be committed.
    fn is_joining_voter(&self, peer: PeerId, incarnation: Incarnation) -> bool {
        if self.log.voters().0.get(&peer) != Some(&incarnation) || planted(Bug::JoiningVoterRefused)
        {
            return false;
        }
        self.log.entries_from(self.log.commit() + 1, usize::MAX).iter().any(|entry| {
            let joined = matches!(entry.payload, Payload::Membership(Membership::Joined { .. }));
            joined && (entry.author, entry.incarnation) == (peer, incarnation)
        })
    }
}
