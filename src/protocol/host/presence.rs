//! Who is here and who is away: links, goodbyes, and what the host makes of them, which decides
//! whose vote is taken out and who gets one (R25–R28).

use std::collections::{BTreeMap, BTreeSet};

use super::hosting::Hosting;
use super::voters::{Seats, VOTERS_FLOOR, next_voters};
use crate::event::LinkState;
use crate::log::quorum::is_majority;
use crate::message::{Absence, Body};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::{Instant, Micros};
use crate::types::{Incarnation, Payload, PeerId, VoterSet};

/// What the host remembers of one member's comings and goings.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Presence {
    /// Until it has been steady for `wait_us`.
    pub absence: Option<Absence>,
    /// Since when this host knows of it.
    pub known_since: Instant,
    /// Since when a majority of voters cannot dial it, without a break (R25).
    pub undialled_since: Option<Instant>,
    /// When it last came back.
    pub back_at: Option<Instant>,
    /// How long it must be steady before it counts as here again.
    pub wait_us: Micros,
}

impl Replica {
    pub(crate) fn on_link(&mut self, peer: PeerId, state: LinkState) {
        let before = self.world.links.insert(peer, state);
        if state == LinkState::Up && before != Some(LinkState::Up) {
            self.ask_whether_back(peer);
        }
        self.watch_majority();
        match state {
            LinkState::Up if before != Some(LinkState::Up) => {
                self.sources.seek_host_at = self.sources.seek_host_at.min(self.now);
                if let Some(suspicion) = &mut self.search.suspicion {
                    suspicion.since = self.now;
                }
                if let Part::Host(_) = self.part {
                    self.announce_to(peer);
                } else if self.host() == Some(peer) {
                    self.attach();
                }
            }
            LinkState::Up => {}
            LinkState::Down => self.lose_link(peer),
            LinkState::Refused => {
                self.lose_link(peer);
                self.host_process_is_gone(peer);
            }
        }
    }

    /// R26: who is reached anew may have come back, and have told only the host so. Its answer
    /// tells its boot; a process that is about to end can be reached as well.
    fn ask_whether_back(&mut self, peer: PeerId) {
        if planted(Bug::LinkTakenForReturn) {
            self.world.goodbyes.remove(&peer);
        }
        if self.world.goodbyes.contains_key(&peer) && !planted(Bug::GoodbyeForEver) {
            self.send(peer, Body::FindHost);
        }
    }

    fn lose_link(&mut self, peer: PeerId) {
        self.detach_from(peer);
        // R17, R18: nothing comes over it any more.
        self.stop_awaiting(peer);
        self.count_refusals();
    }

    /// Whether that peer can be reached.
    pub(crate) fn is_up(&self, peer: &PeerId) -> bool {
        self.world.links.get(peer) == Some(&LinkState::Up)
    }

    /// Whether that peer can be reached, and has not said that it goes.
    pub(crate) fn is_linked(&self, peer: PeerId) -> bool {
        self.world.links.get(&peer) == Some(&LinkState::Up)
            && !self.world.goodbyes.contains_key(&peer)
    }

    /// What a new host makes of the members that it finds: a learner that is there already may
    /// have been away, and waits as one that comes back does.
    pub(super) fn first_presences(&self) -> BTreeMap<PeerId, Presence> {
        let learners =
            self.log.state().active().filter(|(peer, _)| !self.log.voters().contains(peer));
        // Whether it is there at all, this host has yet to hear.
        let silent = Some(Absence::Silent);
        let silent = silent.filter(|_| !planted(Bug::NewHostTrustsLearners));
        learners.map(|(peer, _)| (peer, self.presence(silent))).collect()
    }

    fn presence(&self, absence: Option<Absence>) -> Presence {
        Presence {
            absence,
            known_since: self.now,
            undialled_since: None,
            back_at: None,
            wait_us: self.config.back_us,
        }
    }

    /// Takes note of who is away and who is back.
    fn update_presences(&mut self) {
        let Part::Host(hosting) = &self.part else { return };
        // R26: where one more loss would stop the chat, silence counts sooner.
        let spare = self.voters_in_contact(hosting) > self.log.voters().majority();
        let limit = if spare { self.config.silent_us } else { self.config.silent_critical_us };
        let active: BTreeMap<_, _> = self.log.state().active().collect();
        let mut presences = hosting.presences.clone();
        presences.retain(|peer, _| active.contains_key(peer));
        for (peer, incarnation) in active.iter().filter(|(peer, _)| **peer != self.me) {
            let presence = presences.entry(*peer).or_insert_with(|| self.presence(None));
            if self.is_dialled(peer) {
                presence.undialled_since = None;
            } else {
                presence.undialled_since.get_or_insert(self.now);
            }
            let undialled = presence.undialled_since.map_or(0, |since| self.now.since(since));
            let absence = if self.world.goodbyes.contains_key(peer) {
                Some(Absence::Goodbye)
            } else if self.silent_us(peer, incarnation, presence.known_since) >= limit
                || (presence.absence.is_some()
                    && !self.is_heard(hosting, peer, incarnation)
                    && !planted(Bug::UnheardShownAsBack))
            {
                Some(Absence::Silent)
            } else if undialled >= limit {
                Some(Absence::NotDialled)
            } else {
                None
            };
            match (presence.absence, absence) {
                (None, None) => {}
                (None, Some(_)) => {
                    // R28: one who flaps waits twice as long each time.
                    let flaps = presence
                        .back_at
                        .is_some_and(|back| self.now.since(back) < self.config.back_max_us);
                    presence.wait_us = match flaps {
                        true => (2 * presence.wait_us).min(self.config.back_max_us),
                        false => self.config.back_us,
                    };
                    presence.absence = absence;
                }
                (Some(_), Some(_)) => presence.absence = absence,
                (Some(_), None) => {
                    let steady = self.steady_us(peer, incarnation);
                    presence.absence = Some(Absence::Returning);
                    let wait_us = if planted(Bug::BackAtOnce) { 0 } else { presence.wait_us };
                    if steady.is_some_and(|steady| steady >= wait_us) {
                        presence.absence = None;
                        presence.back_at = Some(self.now);
                    }
                }
            }
        }
        let absences = |presences: &BTreeMap<PeerId, Presence>| -> Vec<_> {
            presences.values().map(|presence| presence.absence).collect()
        };
        let changed = absences(&presences) != absences(&hosting.presences);
        let Part::Host(hosting) = &mut self.part else { return };
        hosting.presences = presences;
        if changed {
            self.publish_soon();
        }
    }

    /// One step towards the voters that the members, and who of them is here, ask for. Whether
    /// there is one to take, now or as soon as it is confirmed. `wanted` is the step that was to be
    /// confirmed at the last look, with the moment since when.
    pub(super) fn step_voters(&mut self, wanted: Option<(VoterSet, Instant)>) -> bool {
        self.update_presences();
        let Part::Host(hosting) = &self.part else { return false };
        let active: BTreeMap<_, _> = self.log.state().active().collect();
        let is_short = self.is_short_of_voters(hosting, &active);
        let is_away = |peer: &PeerId| {
            let absence = hosting.presences.get(peer).and_then(|presence| presence.absence);
            let comes = absence == Some(Absence::Returning) && !self.log.voters().contains(peer);
            absence.is_some() && !(is_short && comes)
        };
        let others = active.iter().filter(|(peer, _)| **peer != self.me);
        let away: BTreeSet<_> =
            others.clone().map(|(peer, _)| *peer).filter(|peer| is_away(peer)).collect();
        // R22: a paused host may take a silent voter out, where that gives it a majority again, and
        // adds nobody. Both majorities have a voter in common, so that no other host can have been
        // chosen meanwhile without this entry's failing.
        let ready: BTreeSet<_> = others
            .filter(|(peer, incarnation)| !is_away(peer) && self.is_ready(peer, incarnation))
            .map(|(peer, _)| *peer)
            .filter(|_| !hosting.paused)
            .collect();
        let known = self.log.voters().0.iter().chain(&active);
        let heard: BTreeSet<_> = known
            .map(|(peer, incarnation)| (*peer, *incarnation))
            .filter(|(peer, incarnation)| self.is_heard(hosting, peer, incarnation))
            .collect();
        let next = next_voters(&Seats {
            active: &active,
            voters: self.log.voters(),
            host: self.me,
            ranked: &self.world.ranking.candidates,
            voters_max: self.config.voters_max,
            away: &away,
            ready: &ready,
            heard: &heard,
        });
        let Some(voters) = next else { return false };
        let since = wanted.filter(|(next, _)| *next == voters).map_or(self.now, |(_, since)| since);
        if self.is_confirmed(&voters, since) {
            self.append_own(Payload::VoterChange(voters));
            self.publish_soon();
        } else if let Part::Host(hosting) = &mut self.part {
            hosting.next_voters = Some((voters, since));
        }
        true
    }

    // R28: whether fewer voters are here than there should be at least. Whoever keeps up is given a
    // vote then without a wait: the next loss would stop the chat, and that of a sole voter would
    // lose what it has confirmed. But a sole voter needs nobody, and with another one it would, so
    // that it waits for one; two who come make three of it in a moment.
    fn is_short_of_voters(
        &self,
        hosting: &Hosting,
        active: &BTreeMap<PeerId, Incarnation>,
    ) -> bool {
        let is_here = |(peer, incarnation): &(&PeerId, &Incarnation)| {
            let presence = hosting.presences.get(peer);
            active.get(peer) == Some(incarnation)
                && presence.is_none_or(|presence| presence.absence.is_none())
        };
        let voters = self.log.voters();
        let here = voters.0.iter().filter(is_here).count();
        let comes = |(peer, incarnation): &(&PeerId, &Incarnation)| {
            let absence = hosting.presences.get(peer).and_then(|presence| presence.absence);
            absence == Some(Absence::Returning) && self.is_ready(peer, incarnation)
        };
        let may_grow = voters.len() > 1
            || (active.iter().filter(comes).count() > 1 && !planted(Bug::SoleVoterStaysAlone));
        here < VOTERS_FLOOR.min(active.len()) && may_grow && !planted(Bug::ShortChatWaits)
    }

    /// Takes the step that is wanted once it is confirmed, and not later: who has answered may die
    /// until then.
    pub(super) fn step_when_confirmed(&mut self) {
        if let Part::Host(hosting) = &self.part
            && let Some((next, since)) = &hosting.next_voters
            && self.is_confirmed(next, *since)
        {
            self.reconcile();
        }
    }

    // R27: who was heard within a lease may be dead all the same, and a set whose majority is dead
    // cannot even be changed back. So a step waits until a majority of the set that it leads to has
    // answered a heartbeat that was sent since the step was first wanted.
    fn is_confirmed(&self, next: &VoterSet, since: Instant) -> bool {
        let Part::Host(hosting) = &self.part else { return false };
        is_majority(next, |peer, incarnation| {
            let progress = hosting.progress.get(peer);
            let progress = progress.filter(|progress| progress.incarnation == *incarnation);
            let contact = progress.and_then(|progress| progress.contact);
            *peer == self.me || contact.is_some_and(|contact| contact >= since)
        }) || planted(Bug::StepNotConfirmed)
    }

    /// Whether the member has really been heard of lately, in that incarnation.
    pub(crate) fn is_heard(
        &self,
        hosting: &Hosting,
        peer: &PeerId,
        incarnation: &Incarnation,
    ) -> bool {
        let progress = hosting.progress.get(peer);
        let progress = progress.filter(|progress| progress.incarnation == *incarnation);
        let is_known = progress.is_some_and(|progress| progress.contact.is_some());
        *peer == self.me || (is_known && self.in_contact(hosting, peer, incarnation))
    }

    /// A learner that may be given a vote: caught up and steady, and this host's own connection to
    /// it works too (R25).
    fn is_ready(&self, peer: &PeerId, incarnation: &Incarnation) -> bool {
        let steady = self.steady_us(peer, incarnation);
        let is_steady = steady.is_some_and(|steady| steady >= self.config.steady_us);
        // One that is about to join anew will have outlived this incarnation.
        is_steady && self.is_linked(*peer) && !self.has_pending_membership(*peer)
    }

    /// For how long the member has kept up without a break; `None` while it does not.
    fn steady_us(&self, peer: &PeerId, incarnation: &Incarnation) -> Option<Micros> {
        let Part::Host(hosting) = &self.part else { return None };
        let progress = hosting.progress.get(peer)?;
        let is_heard = self.is_heard(hosting, peer, incarnation);
        let since = progress.steady_since.filter(|_| is_heard)?;
        (progress.incarnation == *incarnation).then(|| self.now.since(since))
    }

    /// For how long nothing was heard of the member, since this host knows of it.
    fn silent_us(&self, peer: &PeerId, incarnation: &Incarnation, known: Instant) -> Micros {
        let Part::Host(hosting) = &self.part else { return 0 };
        let progress = hosting.progress.get(peer);
        let progress = progress.filter(|progress| progress.incarnation == *incarnation);
        let contact = progress.and_then(|progress| progress.contact).unwrap_or(known);
        self.now.since(contact)
    }

    // R25: a connection counts only where it works in the other direction too. The voters' reports
    // name whom they can dial.
    fn is_dialled(&self, peer: &PeerId) -> bool {
        let Part::Host(hosting) = &self.part else { return true };
        if planted(Bug::UndialledKeepsVote) {
            return true;
        }
        is_majority(self.log.voters(), |voter, _| {
            if voter == peer || *voter == self.me {
                return voter == peer || self.world.links.get(peer) == Some(&LinkState::Up);
            }
            // Who has not reported yet says nothing against anybody.
            let report = hosting.reports.get(voter);
            report.is_none_or(|report| report.row.iter().any(|(other, _)| other == peer))
        })
    }
}
