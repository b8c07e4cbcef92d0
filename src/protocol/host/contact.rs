//! A host's contact with a majority, and what it does without (R22).

use super::hosting::Hosting;
use crate::event::{DiskState, Notice};
use crate::log::quorum::is_majority;
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::Instant;
use crate::types::{Incarnation, PeerId};

impl Replica {
    pub(super) fn in_contact(
        &self,
        hosting: &Hosting,
        peer: &PeerId,
        incarnation: &Incarnation,
    ) -> bool {
        self.now <= self.contact_until(hosting, peer, incarnation)
    }

    /// Until when there is contact, if nothing more is heard.
    fn contact_until(
        &self,
        hosting: &Hosting,
        peer: &PeerId,
        incarnation: &Incarnation,
    ) -> Instant {
        if *peer == self.me {
            return Instant(u64::MAX);
        }
        // The peer's lease is as long as the round trip to it is more (R14), and begins when a
        // heartbeat arrives; contact is dated by when that was sent.
        let round_trip = self.round_trip_to(hosting, peer).unwrap_or(0);
        let round_trip = round_trip.min(self.config.stretch_max_us());
        let progress = hosting.progress.get(peer);
        let progress = progress.filter(|progress| progress.incarnation == *incarnation);
        // A new host has just had the votes of a majority, who attach once they hear of it.
        let contact = progress.and_then(|progress| progress.contact);
        let contact = contact.unwrap_or(hosting.since + round_trip);
        let lease = self.lease_at(hosting, peer, self.slowest_pace_since(hosting, contact));
        contact + lease * self.config.pause_percent / 100 + round_trip / 2
    }

    /// When a host that is not paused has contact to a majority no more, if it hears nothing.
    pub(super) fn pause_at(&self, hosting: &Hosting) -> Instant {
        let voters = self.log.voters();
        let until = |(peer, incarnation)| self.contact_until(hosting, peer, incarnation);
        let mut ends: Vec<_> = voters.0.iter().map(until).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        match ends.get(voters.majority() - 1) {
            Some(end) if !hosting.paused && end.0 < u64::MAX => *end + 1,
            _ => Instant(u64::MAX),
        }
    }

    pub(crate) fn voters_in_contact(&self, hosting: &Hosting) -> usize {
        let voters = self.log.voters().0.iter();
        voters.filter(|(peer, incarnation)| self.in_contact(hosting, peer, incarnation)).count()
    }

    /// A host without contact to a quorum pauses. It resumes on contact.
    pub(super) fn check_contact(&mut self) {
        let Part::Host(hosting) = &self.part else { return };
        let contact = is_majority(self.log.voters(), |peer, incarnation| {
            self.in_contact(hosting, peer, incarnation)
        });
        let contact = contact || planted(Bug::NeverPauses);
        let stalled = self.disk == DiskState::Stalled && !planted(Bug::StalledNotPaused);
        let paused = !contact || stalled;
        if paused != hosting.paused {
            let is_narrow = self.is_on_narrow_lines();
            let Part::Host(hosting) = &mut self.part else { return };
            hosting.paused = paused;
            hosting.paused_since = self.now;
            // The next heartbeat says it at once: it renews leases again, or does so no more. Where
            // contact comes and goes since lines are full, that would fill them the more.
            if !is_narrow || planted(Bug::FlapsFillLines) {
                hosting.heartbeat_at = self.now;
            }
            self.ready.notices.push(Notice::Paused { paused });
        }
    }

    /// One that confirms nothing, and has heard of a later host that cannot prove itself to this
    /// log, reads on there. Its own reign is over in any case if that is true.
    pub(super) fn give_way(&mut self) {
        let Part::Host(hosting) = &self.part else { return };
        let is_long =
            hosting.paused && self.now.since(hosting.paused_since) >= self.config.lease_max_us;
        let is_later = self.sources.hint.is_some_and(|hint| hint.term > self.hard_state.term);
        if is_long && is_later {
            self.become_follower();
            let term = self.hard_state.term;
            self.ready.notices.push(Notice::Host { host: None, term });
            self.attach();
        }
    }

    /// Whoever hosts no more still knows how long the ways are: echoes have shown it sooner than
    /// pings, and the time for votes, or for the next nomination, follows from it.
    pub(crate) fn keep_ways(&mut self) {
        let Part::Host(hosting) = &self.part else { return };
        if planted(Bug::WaysForgotten) {
            return;
        }
        for (peer, progress) in &hosting.progress {
            let pinged = self.world.round_trips.get(peer).and_then(|estimate| estimate.smoothed());
            if progress.echoes.smoothed() > pinged {
                self.world.round_trips.insert(*peer, progress.echoes);
            }
        }
    }
}
