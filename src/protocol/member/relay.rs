//! Passing the chat on to a member that only the host cannot be reached by (R35): it reads what is
//! committed, and hands in its submissions, through a member that hears the host.
//!
//! Nothing here counts for anything: a relayed member renews no lease, acknowledges nothing to the
//! host, and its submissions carry their author's signature, since no channel proves it.

use super::following::Following;
use crate::host::Progress;
use crate::message::{
    Acknowledge, Attach, Body, LookBack, Message, RefusedReason, Submit, SubmitAnswer,
};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::types::{Index, PeerId};

/// The most members that one member passes the chat on to; more are refused.
const RELAYS_MAX: usize = 16;

impl Replica {
    /// Whether this member may pass on what its host says.
    fn may_relay(&self, message: &Message, attach: &Attach) -> bool {
        let Some(following) = self.part.following() else { return false };
        let known = following.relays.contains_key(&message.from);
        attach.relay
            && attach.term == self.hard_state.term
            && following.host.is_some_and(|host| host != message.from)
            && self.is_attached_to_host()
            && self.is_served()
            && (known || following.relays.len() < RELAYS_MAX)
            && self.log.state().is_present(message.from, message.from_incarnation)
    }

    /// An attach that reaches a member which does not host.
    pub(crate) fn on_attach_elsewhere(&mut self, message: &Message, attach: Attach) {
        if !self.may_relay(message, &attach) {
            self.refuse(message, RefusedReason::NotHost { host: self.host() });
            return;
        }
        let known = self.part.following().and_then(|it| it.relays.get(&message.from));
        let newest = known.map(|it| (it.boot, it.attach));
        if newest.is_some_and(|newest| (message.from_boot, attach.attach) <= newest)
            && !planted(Bug::OvertakenRelayTaken)
        {
            // An older attach that was overtaken by a newer one, or a doubled one.
            return;
        }
        let mut progress = Progress::new(message.from_incarnation, attach.attach, None);
        progress.boot = message.from_boot;
        let commit = self.log.commit();
        if self.log.has(attach.look) && attach.look.index <= commit {
            progress.matched = attach.look.index;
            progress.next = Some(attach.look.index + 1);
        } else {
            let index = self.log.look_back(attach.look).min(attach.look.index.saturating_sub(1));
            let (term, index) = (self.hard_state.term, index.min(commit));
            let look_back = LookBack { term, attach: attach.attach, index };
            self.answer(message, Body::LookBack(look_back));
        }
        if let Some(following) = self.part.following_mut() {
            following.relays.insert(message.from, progress);
        }
    }

    pub(crate) fn on_acknowledge_elsewhere(&mut self, message: &Message, acknowledge: Acknowledge) {
        let (now, commit) = (self.now, self.log.commit());
        if let Some(following) = self.part.following_mut()
            && let Some(progress) = following.relays.get_mut(&message.from)
            && progress.attach == acknowledge.attach
            && progress.incarnation == message.from_incarnation
            && progress.boot == message.from_boot
            && acknowledge.synced <= commit
        {
            progress.acknowledged(now, acknowledge.synced);
        }
    }

    /// Up to where the log is passed on: a host passes on all of it, a member what is committed.
    pub(crate) fn passed_on_through(&self) -> Index {
        match self.part {
            Part::Host(_) => self.log.last().index,
            _ if planted(Bug::UncommittedRelayed) => self.log.last().index,
            _ => self.log.commit(),
        }
    }

    /// How far the one that is passed the log has come.
    pub(crate) fn progress_mut(&mut self, peer: PeerId) -> Option<&mut Progress> {
        match &mut self.part {
            Part::Host(hosting) => hosting.progress.get_mut(&peer),
            Part::Follower(following) => following.relays.get_mut(&peer),
            Part::Candidate(_) => None,
        }
    }

    /// Passes on what has been committed meanwhile. One that no longer hears its host passes
    /// nothing on, and those it did that for look for another.
    pub(super) fn flush_relays(&mut self) {
        let hears = self.is_attached_to_host() && self.is_served();
        let Some(Following { relays, .. }) = self.part.following_mut() else { return };
        if relays.is_empty() {
            return;
        }
        let state = self.log.state();
        relays.retain(|peer, progress| state.is_present(*peer, progress.incarnation));
        if !hears && !planted(Bug::RelayWithoutHost) {
            relays.clear();
        }
        let peers: Vec<_> = relays.keys().copied().collect();
        for peer in peers {
            self.replicate(peer);
        }
    }

    /// A submission that reaches a member which does not host.
    pub(crate) fn on_submit_elsewhere(&mut self, message: &Message, submit: &Submit) {
        let author = (message.from, message.from_incarnation);
        let following = self.part.following();
        let relayed = following.is_some_and(|it| it.relays.contains_key(&message.from))
            && submit.author == Some(author);
        let Some(host) = self.host().filter(|_| relayed) else {
            self.refuse(message, RefusedReason::NotHost { host: self.host() });
            return;
        };
        let term = self.hard_state.term;
        let author = submit.author.filter(|_| !planted(Bug::RelayedInOwnName));
        self.send(host, Body::Submit(Submit { term, author, ..submit.clone() }));
        // What becomes of it, the author sees in the log.
        let answer = SubmitAnswer { term, accepted: Vec::new(), problem: None };
        self.answer(message, Body::SubmitAnswer(answer));
    }
}
