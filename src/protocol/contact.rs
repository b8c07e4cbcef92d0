//! Whom a host is in contact with: how long the ways are, how often it sends heartbeats, which leases
//! its members have, and when it pauses (R22).

use super::event::{DiskState, Notice};
use super::host::Hosting;
use super::planted::{Bug, planted};
use super::quorum::is_majority;
use super::replica::{Part, Replica};
use super::time::{MS, Micros};
use super::types::{Incarnation, PeerId};

/// Above these round trips to a majority, heartbeats are further apart, and as far as where nobody
/// speaks: a line that is so slow is long, or carries no more.
const FAR_US: Micros = 30 * MS;
const SLOW_US: Micros = 250 * MS;

impl Replica {
    /// The lease that members have at least, as the host must assume.
    pub(super) fn lease_floor(&self) -> Micros {
        let Part::Host(hosting) = &self.part else { return self.config.lease_min_us };
        self.config.lease_min_us.max(3 * self.slowest_pace(hosting))
    }

    /// Where the pace of heartbeats has just changed, the newest may not have arrived yet.
    fn slowest_pace(&self, hosting: &Hosting) -> Micros {
        let (before, newest) = hosting.intervals_us;
        before.max(newest)
    }

    pub(super) fn heartbeat_interval(&self) -> Micros {
        let Part::Host(hosting) = &self.part else { return self.config.heartbeat_us };
        if self.now.since(hosting.active_at) > self.config.idle_after_us {
            return self.config.heartbeat_idle_us;
        }
        let within = |limit: Micros| {
            is_majority(self.log.voters(), |peer, _| {
                let known = self.round_trip_to(hosting, peer);
                let progress = hosting.progress.get(peer);
                let is_late = progress.is_some_and(|progress| self.now < progress.late_until);
                let is_near = known.is_none_or(|round_trip| round_trip <= limit) && !is_late;
                *peer == self.me || is_near
            })
        };
        if within(FAR_US) {
            self.config.heartbeat_us
        } else if within(SLOW_US) {
            self.config.heartbeat_far_us
        } else {
            self.config.heartbeat_idle_us
        }
    }

    /// What is known of the round trip to a voter: pings measure it, and so do the echoes of
    /// heartbeats, which are more and know sooner that the way has got longer.
    fn round_trip_to(&self, hosting: &Hosting, peer: &PeerId) -> Option<Micros> {
        let pinged = self.round_trips.get(peer).and_then(|estimate| estimate.smoothed());
        pinged.max(self.echoes_of(hosting, peer).map(|(smoothed, _)| smoothed))
    }

    /// What echoes of heartbeats take, and what hardly any exceeds; at first, what the votes took.
    fn echoes_of(&self, hosting: &Hosting, peer: &PeerId) -> Option<(Micros, Micros)> {
        let echoes = hosting.progress.get(peer).map(|progress| progress.echoes);
        let known = echoes.and_then(|echoes| Some((echoes.smoothed()?, echoes.p99())));
        let votes = Some((hosting.votes_us, hosting.votes_us)).filter(|_| hosting.votes_us > 0);
        known.or(votes).filter(|_| !planted(Bug::EchoesNotMeasured))
    }

    /// The lease that a member has at least after each heartbeat: those tell it so.
    pub(super) fn lease_of(&self, hosting: &Hosting, peer: &PeerId) -> Micros {
        let round_trip = self.round_trip_to(hosting, peer).unwrap_or(0);
        let round_trip = round_trip.max(self.echoes_of(hosting, peer).map_or(0, |(_, most)| most));
        (3 * self.slowest_pace(hosting) + round_trip)
            .clamp(self.config.lease_min_us, self.config.lease_max_us)
    }

    // ---- contact with a majority (R22) ----

    pub(super) fn in_contact(
        &self,
        hosting: &Hosting,
        peer: &PeerId,
        incarnation: &Incarnation,
    ) -> bool {
        if *peer == self.me {
            return true;
        }
        // The peer's lease is as long as the round trip to it is more (R14), and begins when a
        // heartbeat arrives; contact is dated by when that was sent.
        let round_trip = self.round_trip_to(hosting, peer).unwrap_or(0);
        let round_trip = round_trip.min(self.config.stretch_max_us());
        let lease = self.lease_of(hosting, peer);
        let span = lease * self.config.pause_percent / 100 + round_trip / 2;
        let progress = hosting.progress.get(peer);
        let progress = progress.filter(|progress| progress.incarnation == *incarnation);
        // A new host has just had the votes of a majority, who attach once they hear of it.
        let contact = progress.and_then(|progress| progress.contact);
        let contact = contact.unwrap_or(hosting.since + round_trip);
        self.now.since(contact) <= span
    }

    pub(super) fn voters_in_contact(&self, hosting: &Hosting) -> usize {
        let voters = self.log.voters().0.iter();
        voters.filter(|(peer, incarnation)| self.in_contact(hosting, peer, incarnation)).count()
    }

    // R22: a host without contact to a quorum pauses. It resumes on contact.
    pub(super) fn check_contact(&mut self) {
        let Part::Host(hosting) = &self.part else { return };
        let contact = is_majority(self.log.voters(), |peer, incarnation| {
            self.in_contact(hosting, peer, incarnation)
        });
        let contact = contact || planted(Bug::NeverPauses);
        let stalled = self.disk == DiskState::Stalled && !planted(Bug::StalledNotPaused);
        let paused = !contact || stalled;
        if paused != hosting.paused {
            let Part::Host(hosting) = &mut self.part else { return };
            hosting.paused = paused;
            hosting.paused_since = self.now;
            // The next heartbeat says it at once: it renews leases again, or does so no more.
            hosting.heartbeat_at = self.now;
            self.ready.notices.push(Notice::Paused { paused });
        }
    }
}
