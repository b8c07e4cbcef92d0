//! Who is here and who is away, as the host sees it: what decides whose vote is taken out and who
//! gets one (R25–R28).

use std::collections::{BTreeMap, BTreeSet};

use super::event::LinkState;
use super::quorum::is_majority;
use super::replica::{Part, Replica};
use super::time::{Instant, Micros};
use super::types::{Incarnation, Payload, PeerId, VoterSet};
use super::voters::{Seats, next_voters};

/// What the host remembers of one member's comings and goings.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Presence {
    /// Silent for long, or gone with a goodbye; until it has been steady for `wait_us`.
    pub away: bool,
    /// Since when a majority of voters cannot dial it, without a break (R25).
    pub undialled_since: Option<Instant>,
    /// When it last came back.
    pub back_at: Option<Instant>,
    /// How long it must be steady before it counts as here again.
    pub wait_us: Micros,
}

impl Replica {
    /// What a new host makes of the members that it finds: a learner that is there already may
    /// have been away, and waits as one that comes back does.
    pub(super) fn first_presences(&self) -> BTreeMap<PeerId, Presence> {
        let learners =
            self.log.state().active().filter(|(peer, _)| !self.log.voters().contains(peer));
        learners.map(|(peer, _)| (peer, self.presence(true))).collect()
    }

    fn presence(&self, away: bool) -> Presence {
        Presence { away, undialled_since: None, back_at: None, wait_us: self.config.back_us }
    }

    /// Takes note of who is away and who is back.
    pub(super) fn update_presences(&mut self) {
        let Part::Host(hosting) = &self.part else { return };
        // R26: where one more loss would stop the chat, silence counts sooner.
        let spare = self.voters_in_contact(hosting) > self.log.voters().majority();
        let limit = if spare { self.config.silent_us } else { self.config.silent_critical_us };
        let active: BTreeMap<_, _> = self.log.state().active().collect();
        let mut presences = hosting.presences.clone();
        presences.retain(|peer, _| active.contains_key(peer));
        for (peer, incarnation) in active.iter().filter(|(peer, _)| **peer != self.me) {
            let presence = presences.entry(*peer).or_insert_with(|| self.presence(false));
            if self.is_dialled(peer) {
                presence.undialled_since = None;
            } else {
                presence.undialled_since.get_or_insert(self.now);
            }
            let undialled = presence.undialled_since.map_or(0, |since| self.now.since(since));
            let gone = self.goodbyes.contains_key(peer)
                || self.silent_us(peer, incarnation) >= limit
                || undialled >= limit;
            if presence.away {
                let steady = self.steady_us(peer, incarnation);
                if !gone && steady.is_some_and(|steady| steady >= presence.wait_us) {
                    presence.away = false;
                    presence.back_at = Some(self.now);
                }
            } else if gone {
                presence.away = true;
                // R28: one who flaps waits twice as long each time.
                let flaps = presence
                    .back_at
                    .is_some_and(|back| self.now.since(back) < self.config.back_max_us);
                presence.wait_us = match flaps {
                    true => (2 * presence.wait_us).min(self.config.back_max_us),
                    false => self.config.back_us,
                };
            }
        }
        let Part::Host(hosting) = &mut self.part else { return };
        hosting.presences = presences;
    }

    /// One step towards the voters that the members, and who of them is here, ask for. Whether
    /// there was one to take.
    pub(super) fn step_voters(&mut self) -> bool {
        self.update_presences();
        let Part::Host(hosting) = &self.part else { return false };
        let active: BTreeMap<_, _> = self.log.state().active().collect();
        let is_away = |peer: &PeerId| hosting.presences.get(peer).is_some_and(|p| p.away);
        let others = active.iter().filter(|(peer, _)| **peer != self.me);
        let away: BTreeSet<_> =
            others.clone().map(|(peer, _)| *peer).filter(|peer| is_away(peer)).collect();
        let ready: BTreeSet<_> = others
            .filter(|(peer, incarnation)| !is_away(peer) && self.is_ready(peer, incarnation))
            .map(|(peer, _)| *peer)
            .collect();
        let next = next_voters(&Seats {
            active: &active,
            voters: self.log.voters(),
            host: self.me,
            ranked: &self.ranking.candidates,
            voters_max: self.config.voters_max,
            away: &away,
            ready: &ready,
        });
        let Some(voters) = next.filter(|voters| !hosting.paused || self.would_resume(voters))
        else {
            return false;
        };
        self.append_own(Payload::VoterChange(voters));
        self.publish_soon();
        true
    }

    // R22: a paused host may take one silent voter out, where that gives it a majority again. Both
    // majorities have a voter in common, so that no other host can have been chosen meanwhile
    // without this entry's failing.
    fn would_resume(&self, voters: &VoterSet) -> bool {
        let Part::Host(hosting) = &self.part else { return false };
        voters.len() < self.log.voters().len()
            && is_majority(voters, |peer, incarnation| self.in_contact(hosting, peer, incarnation))
    }

    /// A learner that may be given a vote: caught up and steady, and this host's own connection to
    /// it works too (R25).
    fn is_ready(&self, peer: &PeerId, incarnation: &Incarnation) -> bool {
        let steady = self.steady_us(peer, incarnation);
        steady.is_some_and(|steady| steady >= self.config.steady_us)
            && self.links.get(peer) == Some(&LinkState::Up)
    }

    /// For how long the member has kept up without a break; `None` while it does not.
    fn steady_us(&self, peer: &PeerId, incarnation: &Incarnation) -> Option<Micros> {
        let Part::Host(hosting) = &self.part else { return None };
        let progress = hosting.progress.get(peer)?;
        let in_contact = progress.contact.is_some() && self.in_contact(hosting, peer, incarnation);
        let since = progress.steady_since.filter(|_| in_contact)?;
        (progress.incarnation == *incarnation).then(|| self.now.since(since))
    }

    /// For how long nothing was heard of the member, since this peer hosts.
    fn silent_us(&self, peer: &PeerId, incarnation: &Incarnation) -> Micros {
        let Part::Host(hosting) = &self.part else { return 0 };
        let progress = hosting.progress.get(peer);
        let progress = progress.filter(|progress| progress.incarnation == *incarnation);
        let contact = progress.and_then(|progress| progress.contact).unwrap_or(hosting.since);
        self.now.since(contact)
    }

    // R25: a connection counts only where it works in the other direction too. The voters' reports
    // name whom they can dial.
    fn is_dialled(&self, peer: &PeerId) -> bool {
        let Part::Host(hosting) = &self.part else { return true };
        is_majority(self.log.voters(), |voter, _| {
            if voter == peer || *voter == self.me {
                return voter == peer || self.links.get(peer) == Some(&LinkState::Up);
            }
            // Who has not reported yet says nothing against anybody.
            let report = hosting.reports.get(voter);
            report.is_none_or(|report| report.row.iter().any(|(other, _)| other == peer))
        })
    }
}
