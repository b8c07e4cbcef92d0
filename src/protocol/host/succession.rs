//! Who belongs, who votes and who comes next: the host takes members on and lets them go, publishes
//! the ranked candidates, changes voters step by step, and hands over.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ordering::Draft;
use super::progress::SLOW_SYNC_US;
use super::ranking::{rank, shown_edges};
use crate::event::DiskState;
use crate::log::membership::Admission;
use crate::message::{
    Body, Candidate, HandOver, Join, JoinAnswer, Message, Ranking, Refused, RefusedReason,
    ReportDelays,
};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::{Instant, Micros, SECOND};
use crate::types::{InviteLinkId, MemberState, Membership, Payload, PeerId};

/// Where nobody has taken over, a host does not try by itself again before this.
const HAND_OVER_AGAIN_US: Micros = 10 * SECOND;
/// A changed farness alone is published no more often than this.
const REPUBLISH_US: Micros = 30 * SECOND;

/// A hand-over on its way (R23).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct HandingOver {
    pub target: PeerId,
    pub tried: BTreeSet<PeerId>,
    pub deadline: Instant,
    pub sent: bool,
}

impl Replica {
    // ---- joining (M1) ----

    pub(crate) fn on_join(&mut self, message: &Message, join: &Join) {
        let (from, incarnation) = (message.from, message.from_incarnation);
        // R39: nobody else learns anything.
        let members = &self.log.state().members;
        if !members.is_empty() && !members.contains_key(&from) && join.proof.is_none() {
            self.refuse(message, RefusedReason::NotMember);
            return;
        }
        let Part::Host(hosting) = &self.part else {
            self.refuse(message, RefusedReason::NotHost { host: self.host() });
            return;
        };
        let state = self.log.state();
        let member = state.members.get(&from);
        let link = join.proof.map(|proof| proof.link);
        let admission = match join.decline {
            // Whoever is not waiting for an answer has given it.
            true if member.is_none_or(|m| m.state != MemberState::Invited)
                || state.outlived.contains(from, incarnation) =>
            {
                Ok(Admission::Done)
            }
            true => Ok(Admission::Known),
            false => state.admission(from, incarnation, link, join.arrived_at_ms),
        };
        // R4: a host that does not serve yet may not know of everything that is committed.
        let ready = hosting.serving && hosting.hand_over.is_none();
        let last_number = hosting.submissions.last(from, incarnation);
        let (done, may) = match admission {
            Ok(Admission::Done) => (true, false),
            Ok(Admission::Known) => (false, true),
            Ok(Admission::ByLink { uses_left }) => (false, self.has_spare_use(link, uses_left)),
            Err(_) if !ready => (false, false),
            Err(reason) => {
                self.refuse(message, reason);
                return;
            }
        };
        // L8: whoever is let in again and again waits.
        let declined = Payload::Membership(Membership::Declined);
        let may = may && self.may_add(from, &declined, 0);
        if may && ready && !self.has_pending_membership(from) {
            let (name, address) = (join.name.clone(), join.address.clone());
            let change = match join.decline {
                true => Membership::Declined,
                false => Membership::Joined { name, address, proof: join.proof },
            };
            self.append_draft(Draft {
                author: from,
                incarnation,
                number: 0,
                created_at_ms: join.created_at_ms,
                trace: None,
                payload: Payload::Membership(change),
                signature: Some(join.signature),
            });
        }
        let answer = JoinAnswer {
            term: self.hard_state.term,
            host: Some(self.me),
            accepted: done,
            last_number,
        };
        self.answer(message, Body::JoinAnswer(answer));
    }

    /// Whether a change of that member's own membership waits to be committed.
    pub(super) fn has_pending_membership(&self, peer: PeerId) -> bool {
        self.pending_memberships().any(|(author, change)| match change {
            Membership::Removed { peer: other }
            | Membership::Removing { peer: other }
            | Membership::InviteRevoked { peer: other } => other == peer,
            _ => author == peer,
        })
    }

    // R43: of a link's uses, those that others are about to have are not given away again.
    fn has_spare_use(&self, link: Option<InviteLinkId>, uses_left: u32) -> bool {
        let pending = self.pending_memberships().filter(|(_, change)| match change {
            Membership::Joined { proof: Some(proof), .. } => Some(proof.link) == link,
            _ => false,
        });
        planted(Bug::UsePromisedTwice) || pending.count() < uses_left as usize
    }

    /// Changes of membership that are not committed, each with its author.
    fn pending_memberships(&self) -> impl Iterator<Item = (PeerId, Membership)> {
        let tail = self.log.entries_from(self.log.commit() + 1, usize::MAX);
        tail.into_iter().filter_map(|entry| match &entry.payload {
            Payload::Membership(change) => Some((entry.author, change.clone())),
            _ => None,
        })
    }

    // ---- ranking (R12, R13) ----

    pub(crate) fn on_report_delays(&mut self, message: &Message, report: &ReportDelays) {
        if report.term < self.hard_state.term {
            self.refuse(message, RefusedReason::StaleTerm);
            return;
        }
        let present = self.log.state().is_present(message.from, message.from_incarnation);
        if let Some(past) = report.past {
            self.learn_past(message.from, message.from_incarnation, past);
        }
        if let Part::Host(hosting) = &mut self.part
            && present
            && !report.unchanged
        {
            let report = ReportDelays { past: None, ..report.clone() };
            hosting.reports.insert(message.from, report);
        }
    }

    pub(super) fn publish_ranking(&mut self) {
        let own = self.own_report();
        let members: Vec<_> = self.log.state().active().map(|(peer, _)| peer).collect();
        let now = self.now;
        let is_narrow = self.is_on_narrow_lines();
        let Part::Host(hosting) = &mut self.part else { return };
        hosting.reports.insert(self.me, own);
        hosting.reports.retain(|peer, _| members.contains(peer));
        let quantum = self.config.rank_quantum_us;
        let mut candidates = rank(&members, self.log.voters(), &hosting.reports, quantum);
        for candidate in &mut candidates {
            let presence = hosting.presences.get(&candidate.peer);
            candidate.absence = presence.and_then(|presence| presence.absence);
        }
        self.consider_moving(&candidates);
        let Part::Host(hosting) = &mut self.part else { return };
        // Somebody who is here has not been measured yet, and is soon.
        let awaited = |one: &Candidate| one.farness_us.is_none() && one.absence.is_none();
        hosting.publish_at = now
            + match candidates.iter().any(awaited) {
                true => self.config.report_us + self.config.report_us / 4,
                false => self.config.publish_us,
            };
        let order = |list: &[Candidate]| -> Vec<_> {
            list.iter().map(|one| (one.peer, one.farness_us.is_some(), one.absence)).collect()
        };
        let (new, old) = (order(&candidates), order(&self.world.ranking.candidates));
        let differs = |new: &[_], old: &[_]| -> bool {
            new.len() != old.len() || new.iter().any(|one| !old.contains(one))
        };
        // Delays over lines that are full are those of what waits, and the list would fill them
        // the more.
        let reordered = if is_narrow { differs(&new, &old) } else { new != old };
        let refined = candidates != self.world.ranking.candidates
            && now.since(hosting.published_at) >= REPUBLISH_US
            && !is_narrow;
        if reordered || refined {
            hosting.published_at = now;
            self.world.ranking = Arc::new(Ranking {
                term: self.hard_state.term,
                version: self.world.ranking.version + 1,
                candidates,
                delays: shown_edges(&members, &hosting.reports),
            });
        }
    }

    // R23: moves to a member that has been clearly better placed for long enough. A host that was
    // handed over to waits longer before it moves on, so that the chat does not flap; and so does
    // one whose hand-over comes to nothing, during which it accepts nothing: who only says that it
    // is near would hold the chat up again and again.
    fn consider_moving(&mut self, candidates: &[Candidate]) {
        let voters = self.log.voters();
        let own = candidates.iter().find(|candidate| candidate.peer == self.me);
        let best = candidates.first().filter(|best| voters.contains(&best.peer));
        let better = best.zip(own).and_then(|(best, own)| {
            let gain = own.farness_us?.checked_sub(best.farness_us?)?;
            let worthwhile = gain >= self.config.move_gain_us
                && gain * 100 >= own.farness_us? * self.config.move_gain_percent;
            worthwhile.then_some(best.peer)
        });
        let (now, config) = (self.now, &self.config);
        let Part::Host(hosting) = &mut self.part else { return };
        let since = hosting.better.filter(|(peer, _)| Some(*peer) == better);
        hosting.better = better.map(|peer| (peer, since.map_or(now, |(_, since)| since)));
        if let Some((peer, since)) = hosting.better
            && (planted(Bug::MovesAtOnce) || now.since(since) >= config.move_after_us)
            && now >= hosting.settled_at
        {
            hosting.better = None;
            self.start_hand_over(Some(peer));
            let wait = if planted(Bug::FailedMoveAtOnce) { 0 } else { self.config.move_every_us };
            if let Part::Host(hosting) = &mut self.part
                && hosting.hand_over.is_some()
            {
                hosting.settled_at = now + wait;
            }
        }
    }

    // ---- voters (R5, R6) and leaving ----

    /// One step towards the voters that the members ask for.
    pub(super) fn reconcile(&mut self) {
        let Part::Host(hosting) = &mut self.part else { return };
        // What is not wanted at one look begins anew at the next.
        let wanted = hosting.next_voters.take();
        let Part::Host(hosting) = &self.part else { return };
        // R6: the next change only when the last one and an entry of this term are committed.
        let settled = planted(Bug::TwoVoterChanges) || self.log.commit() >= self.log.voters_index();
        let begun = hosting.serving || planted(Bug::VoterChangeBeforeTermStart);
        if !begun || hosting.hand_over.is_some() || !settled {
            return;
        }
        let state = self.log.state();
        if state.active().next().is_none() {
            self.end_chat();
            return;
        }
        if hosting.paused {
            // R22: with a disk that stalls, another voter set would not help.
            if self.disk != DiskState::Stalled {
                self.step_voters(wanted);
            }
            return;
        }
        if self.is_leaving() && !planted(Bug::HostLeavesAtOnce) {
            // R7, R26: a leaving host hands over first, and then is a member like any other. Where
            // nobody could take over yet, somebody gets a vote first.
            self.hand_over_by_itself();
            if self.is_handing_over() {
                return;
            }
        }
        if self.step_voters(wanted) {
            return;
        }
        let state = self.log.state();
        let gone = state.members.iter().find(|(peer, member)| {
            member.state == MemberState::Leaving
                && (planted(Bug::GoesBeforeVote) || !self.log.voters().contains(peer))
                && !self.has_pending_membership(**peer)
        });
        if let Some((peer, _)) = gone {
            let removed = Membership::Removed { peer: *peer };
            self.append_own(Payload::Membership(removed));
        }
    }

    /// Everybody leaves. The host goes once all who hear it know that, and they go by themselves.
    fn end_chat(&mut self) {
        let Part::Host(hosting) = &self.part else { return };
        let commit = self.log.commit();
        let mut heard = hosting
            .progress
            .iter()
            .filter(|(peer, progress)| self.in_contact(hosting, peer, &progress.incarnation));
        let all_know = heard.all(|(_, progress)| progress.receipt.delivered >= commit);
        if all_know {
            self.end_own_membership(self.removed_by_whom());
        }
    }

    pub(crate) fn is_handing_over(&self) -> bool {
        matches!(&self.part, Part::Host(hosting) if hosting.hand_over.is_some())
    }

    /// The list follows what has changed, once the members have reported. A list that does not name
    /// everybody does not wait for that: whom it lacks could not be nominated.
    pub(super) fn publish_soon(&mut self) {
        let wait = match self.lists_everybody() {
            true => self.config.report_us + self.config.report_us / 4,
            false => 0,
        };
        let soon = self.now + wait;
        if let Part::Host(hosting) = &mut self.part {
            hosting.publish_at = hosting.publish_at.min(soon);
        }
    }

    fn lists_everybody(&self) -> bool {
        let listed =
            |peer| self.world.ranking.candidates.iter().any(|candidate| candidate.peer == peer);
        self.log.state().active().all(|(peer, _)| listed(peer))
    }

    /// One who is no member any more, or has come back as another incarnation, has just been told
    /// of the commit that says so, and gets nothing after it.
    pub(super) fn forget_absent(&mut self) {
        if planted(Bug::RemovedStillServed) {
            return;
        }
        let Part::Host(hosting) = &self.part else { return };
        let progress = hosting.progress.iter();
        let absent = progress.filter(|(peer, it)| !self.gives_log_to(**peer, it.incarnation));
        let absent: Vec<_> = absent.map(|(peer, _)| *peer).collect();
        if let Part::Host(hosting) = &mut self.part {
            hosting.progress.retain(|peer, _| !absent.contains(peer));
        }
    }

    // ---- hand-over (R23) ----

    /// Begins to hand over to `target`, or to the best ranked voter that is in contact. Does
    /// nothing where there is nobody, or where this peer does not host.
    pub(crate) fn start_hand_over(&mut self, target: Option<PeerId>) {
        let Part::Host(hosting) = &self.part else { return };
        if !hosting.serving || hosting.hand_over.is_some() {
            return;
        }
        self.hand_over_to(target, BTreeSet::new());
    }

    // R24, R38: whoever may take over from a host whose disk is unfit is asked as soon as there is
    // somebody.
    pub(super) fn leave_unfit_disk(&mut self) {
        if self.disk != DiskState::Fit {
            self.hand_over_by_itself();
        }
    }

    // R23: a host that must go asks all who may take over, once. While it asks, it accepts nothing
    // and changes no voters; so where all have refused, it goes on hosting for a while.
    fn hand_over_by_itself(&mut self) {
        if let Part::Host(hosting) = &self.part
            && (self.now >= hosting.hand_over_from || planted(Bug::HandsOverWithoutPause))
        {
            self.start_hand_over(None);
        }
    }

    /// Whether this peer is about to leave the chat, by its own or another's word.
    fn is_leaving(&self) -> bool {
        !self.log.state().active().any(|(peer, _)| peer == self.me)
    }

    fn hand_over_to(&mut self, target: Option<PeerId>, tried: BTreeSet<PeerId>) {
        let Part::Host(hosting) = &self.part else { return };
        // R24: there is nothing to gain from one whose disk is as slow. Which is not, shows by
        // what it was sent since this one's has been slow.
        let stalls = self.disk == DiskState::Stalling && !planted(Bug::SlowTakesOver);
        let is_slow = |peer: &PeerId| {
            let copied = hosting.progress.get(peer).and_then(|progress| progress.copied_soon);
            stalls && copied.is_none_or(|sent_at| sent_at + SLOW_SYNC_US < self.disk_since)
        };
        let fit = |peer: &PeerId| {
            let incarnation = self.log.voters().0.get(peer);
            *peer != self.me
                && !tried.contains(peer)
                && !is_slow(peer)
                && self.is_linked(*peer)
                && incarnation.is_some_and(|incarnation| {
                    hosting.progress.contains_key(peer)
                        && self.in_contact(hosting, peer, incarnation)
                })
        };
        let ranked = self.world.ranking.candidates.iter().map(|candidate| candidate.peer);
        let anyone = self.log.voters().peers().copied();
        let stays = |peer: &PeerId| {
            let member = self.log.state().members.get(peer);
            // Who has said that it leaves would have nobody to be elected by, once the others have
            // read that all do, and are gone.
            let leaves =
                self.has_pending_membership(*peer) && !planted(Bug::HandsOverToWhoJustLeaves);
            member.is_some_and(|member| member.state == MemberState::Active) && !leaves
        };
        let chosen = match target {
            Some(target) => Some(target).filter(fit),
            None => {
                let fit: Vec<_> = ranked.chain(anyone).filter(fit).collect();
                // R7: of two who leave, neither would keep the hosting from the other.
                let must = self.stopping.is_some() || self.disk != DiskState::Fit;
                let whoever = fit.first().filter(|_| must || planted(Bug::HandsOverToLeaving));
                fit.iter().find(|peer| stays(peer)).or(whoever).copied()
            }
        };
        let endless = planted(Bug::HandOverNeverEnds);
        let deadline = if endless { Instant(u64::MAX) } else { self.now + self.lease_floor() };
        let Part::Host(hosting) = &mut self.part else { return };
        hosting.hand_over =
            chosen.map(|target| HandingOver { target, tried, deadline, sent: false });
    }

    /// The chosen successor says no: there is nothing to wait for. What it refuses for another
    /// reason was another request.
    pub(crate) fn hand_over_refused(&mut self, by: PeerId, refused: Refused) {
        let now = self.now;
        let is_of_term = refused.term == self.hard_state.term;
        if refused.reason != RefusedReason::StaleTerm || !is_of_term {
            return;
        }
        if let Part::Host(hosting) = &mut self.part
            && let Some(hand_over) = &mut hosting.hand_over
            && hand_over.sent
            && hand_over.target == by
        {
            hand_over.deadline = now;
        }
    }

    /// If a hand-over fails, the host goes on; if it must go, it tries the next.
    pub(super) fn check_hand_over(&mut self) {
        let must = self.stopping.is_some() || self.disk != DiskState::Fit || self.is_leaving();
        let now = self.now;
        let Part::Host(hosting) = &mut self.part else { return };
        let Some(hand_over) = hosting.hand_over.take_if(|hand_over| now >= hand_over.deadline)
        else {
            return;
        };
        if must {
            let mut tried = hand_over.tried;
            tried.insert(hand_over.target);
            self.hand_over_to(None, tried);
        }
        if let Part::Host(hosting) = &mut self.part
            && hosting.hand_over.is_none()
        {
            hosting.hand_over_from = now + HAND_OVER_AGAIN_US;
        }
    }

    pub(super) fn flush_hand_over(&mut self) {
        let last = self.log.last().index;
        let (host, host_incarnation, term) = (self.me, self.incarnation, self.hard_state.term);
        let synced = self.durability.synced;
        let Part::Host(hosting) = &mut self.part else { return };
        let Some(hand_over) = &mut hosting.hand_over else { return };
        let target = hand_over.target;
        let matched = hosting.progress.get(&target).map(|progress| progress.matched);
        let caught_up = matched == Some(last) || planted(Bug::HandOverToLagging);
        let is_own_durable = synced == last || planted(Bug::HandOverBeforeSync);
        if hand_over.sent || !caught_up || !is_own_durable {
            return;
        }
        hand_over.sent = true;
        let hand_over = HandOver { host, host_incarnation, term, target, signature: None };
        self.send_early(target, Body::HandOver(hand_over));
    }
}
