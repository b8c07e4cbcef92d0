//! A host's heartbeats: how far apart they are, what they tell, and how long the leases are that
//! they renew (R13, R22, R36).

use std::sync::Arc;

use super::hosting::{HeartbeatSent, Hosting};
use super::progress::{LATE_KEPT_US, LATE_US};
use crate::log::quorum::is_majority;
use crate::message::{Body, Heartbeat};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::{Instant, MS, Micros};
use crate::types::{Incarnation, PeerId};

/// Above these round trips to a majority, heartbeats are further apart, and as far as where nobody
/// speaks: a line that is so slow is long, or carries no more.
const FAR_US: Micros = 30 * MS;
const SLOW_US: Micros = 250 * MS;
/// On a narrow line, one of so many heartbeats tells of receipts, and one of what the voters have
/// said of themselves, which is more.
const RECEIPTS_EVERY: u64 = 8;
const PASTS_EVERY: u64 = 32;
/// One of so many heartbeats tells a member the list, where the member has an older one.
const LIST_EVERY: u64 = 4;
/// Heartbeats whose moment of sending is remembered.
const HEARTBEATS_MAX: usize = 256;

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

    /// The same since a heartbeat was sent, the last that a member is known to have: its lease is
    /// what that one told, though heartbeats may be closer meanwhile.
    pub(super) fn slowest_pace_since(&self, hosting: &Hosting, contact: Instant) -> Micros {
        let since = hosting.heartbeats_sent.iter().rev().take_while(|sent| sent.at >= contact);
        let since = since.filter(|_| !planted(Bug::ToldLeaseForgotten));
        let slowest = since.map(|sent| sent.pace_us).max().unwrap_or(0);
        slowest.max(self.slowest_pace(hosting))
    }

    pub(super) fn heartbeat_interval(&self) -> Micros {
        let Part::Host(hosting) = &self.part else { return self.config.heartbeat_us };
        let config = &self.config;
        let within = |limit: Micros, late_us: Micros| {
            is_majority(self.log.voters(), |peer, incarnation| {
                let is_near = self.round_trip_to(hosting, peer).is_none_or(|it| it <= limit);
                let is_early = self.late_us(hosting, peer) <= late_us;
                *peer == self.me
                    || (is_near && is_early && self.matters(hosting, peer, incarnation))
            })
        };
        let is_idle = self.now.since(hosting.active_at) > config.idle_after_us;
        let usual = if within(FAR_US, 0) && !is_idle {
            config.heartbeat_us
        } else if within(SLOW_US, LATE_KEPT_US) && !is_idle {
            config.heartbeat_far_us
        } else if within(Micros::MAX, 2 * LATE_KEPT_US) {
            config.heartbeat_idle_us
        } else {
            config.heartbeat_narrow_us()
        };
        usual.max(self.owed_us(hosting).min(config.heartbeat_idle_us))
    }

    /// Whether a voter's way says how far apart heartbeats are to be. One that is away has none,
    /// unless so many are that the rest is no majority: then whoever comes first is to be heard
    /// soon.
    fn matters(&self, hosting: &Hosting, peer: &PeerId, incarnation: &Incarnation) -> bool {
        hosting.paused
            || self.in_contact(hosting, peer, incarnation)
            || planted(Bug::AwayCountAsNear)
    }

    /// For how long a majority of the voters has owed an echo, of those that owe it least.
    fn owed_us(&self, hosting: &Hosting) -> Micros {
        let voters = self.log.voters();
        let owed_by = |(peer, incarnation): (&PeerId, &Incarnation)| {
            if *peer == self.me {
                0
            } else if self.matters(hosting, peer, incarnation) {
                self.owed_by(hosting, peer)
            } else {
                Micros::MAX
            }
        };
        let mut owed: Vec<_> = voters.0.iter().map(owed_by).collect();
        owed.sort_unstable();
        owed.get(voters.majority() - 1).copied().unwrap_or(0)
    }

    /// How long ago the oldest heartbeat was sent that the member has not echoed, once that is
    /// longer than the way takes by as much as makes an echo late; 0 before. The next one then
    /// waits as long, as TCP does with what is not acknowledged (RFC 6298): all that is sent would
    /// only wait behind what is on its way.
    fn owed_by(&self, hosting: &Hosting, peer: &PeerId) -> Micros {
        let Some(progress) = hosting.progress.get(peer) else { return 0 };
        let Some(usual) = progress.shortest_echo.known() else { return 0 };
        let first = progress.first_heartbeat.max(hosting.measured_from);
        let is_owed = |sent: &&HeartbeatSent| progress.contact < Some(sent.at);
        let owed = hosting.heartbeats_sent.iter().rev().take_while(is_owed);
        let oldest = owed.filter(|sent| sent.number > first).last();
        let since = oldest.map_or(0, |sent| self.now.since(sent.at));
        // Where no lease can be longer, nothing is to be gained.
        let is_late = since > usual + LATE_US && self.config.stretch_max_us() > 0;
        if is_late && !planted(Bug::OwedEchoesIgnored) { since } else { 0 }
    }

    /// For how long the line to a member still counts as narrow.
    fn late_us(&self, hosting: &Hosting, peer: &PeerId) -> Micros {
        hosting.progress.get(peer).map_or(0, |progress| progress.late_us(self.now))
    }

    /// Whether those lines that matter are narrow: then what is only shown is told less often.
    pub(super) fn is_on_narrow_lines(&self) -> bool {
        let Part::Host(hosting) = &self.part else { return false };
        let voters = self.log.voters();
        let is_late = |peer: &PeerId| self.late_us(hosting, peer) > 0;
        let is_any_late = voters.peers().any(is_late);
        is_any_late
            && !is_majority(voters, |peer, incarnation| {
                !is_late(peer) && self.matters(hosting, peer, incarnation)
            })
    }

    /// What is known of the round trip to a voter: pings measure it, and so do the echoes of
    /// heartbeats, which are more and know sooner that the way has got longer.
    pub(super) fn round_trip_to(&self, hosting: &Hosting, peer: &PeerId) -> Option<Micros> {
        let pinged = self.world.round_trips.get(peer).and_then(|estimate| estimate.smoothed());
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
        self.lease_at(hosting, peer, self.slowest_pace(hosting))
    }

    /// The lease that a member has at such a pace of heartbeats.
    pub(super) fn lease_at(&self, hosting: &Hosting, peer: &PeerId, pace_us: Micros) -> Micros {
        let round_trip = self.round_trip_to(hosting, peer).unwrap_or(0);
        let round_trip = round_trip.max(self.echoes_of(hosting, peer).map_or(0, |(_, most)| most));
        (3 * pace_us + round_trip).clamp(self.config.lease_min_us, self.config.lease_max_us)
    }

    pub(super) fn send_heartbeats(&mut self) {
        let interval_us = self.heartbeat_interval();
        let now = self.now;
        let Part::Host(hosting) = &mut self.part else { return };
        let pace_us = hosting.intervals_us.1.max(interval_us);
        hosting.heartbeat_at = now + interval_us;
        hosting.intervals_us = (hosting.intervals_us.1, interval_us);
        hosting.heartbeat += 1;
        let commit = self.log.commit();
        let sent = HeartbeatSent { number: hosting.heartbeat, at: now, commit, pace_us };
        hosting.heartbeats_sent.push_back(sent);
        if hosting.heartbeats_sent.len() > HEARTBEATS_MAX {
            hosting.heartbeats_sent.pop_front();
        }
        let peers: Vec<_> = hosting.progress.keys().copied().collect();
        for (turn, peer) in (0..).zip(peers) {
            self.send_heartbeat(peer, interval_us, turn);
            self.recall(peer);
        }
    }

    // R35: a member that has not acknowledged for long what it was sent is told where that ends. If
    // it has not come, the member sees the gap, and attaches again.
    fn recall(&mut self, peer: PeerId) {
        let (now, term) = (self.now, self.hard_state.term);
        let Some(progress) = self.progress_mut(peer) else { return };
        if let Some(next) = progress.next.filter(|_| progress.is_recall_due(now)) {
            self.send_entries(peer, term, next, Vec::new());
        }
    }

    pub(super) fn send_heartbeat(&mut self, peer: PeerId, interval_us: Micros, turn: u64) {
        let is_voter = self.log.voters().contains(&peer);
        let term = self.hard_state.term;
        let commit = self.log.commit();
        let ranking = &self.world.ranking;
        let Part::Host(hosting) = &self.part else { return };
        let lease_us = self.lease_of(hosting, &peer);
        let owes = self.owed_by(hosting, &peer) > 0;
        let sent_us = self.now.since(hosting.since);
        let Part::Host(hosting) = &mut self.part else { return };
        let Some(progress) = hosting.progress.get_mut(&peer) else { return };
        // R36: on a narrow line, what is only shown waits for some heartbeats, one member after the
        // other: this host's line may be the narrow one.
        let is_late = owes || progress.late_us(self.now) > 0;
        let heartbeats = hosting.heartbeat + turn;
        let is_turn = |every| !is_late || heartbeats.is_multiple_of(every);
        let are_pasts_new = is_voter
            && progress.pasts_version_sent != hosting.pasts_version
            && is_turn(PASTS_EVERY);
        if are_pasts_new {
            progress.pasts_version_sent = hosting.pasts_version;
        }
        // R13: a list is larger than a heartbeat. Who says that it has none gets it at once, and
        // everybody else in turn, so that not all members' lists leave together.
        let has_none = progress.contact.is_some() && progress.ranking_version == 0;
        let is_lists_turn =
            has_none || heartbeats.is_multiple_of(LIST_EVERY) || planted(Bug::ListToAllAtOnce);
        let tells_ranking =
            is_lists_turn && progress.is_ranking_due(self.now, ranking.version, owes);
        let number = hosting.heartbeat;
        let probe = hosting.paused && !planted(Bug::PausedStillHeartbeats);
        let pasts = if are_pasts_new { hosting.pasts.clone() } else { Vec::new() };
        let ranking = tells_ranking.then(|| Arc::clone(ranking));
        let tells_receipts = is_turn(RECEIPTS_EVERY);
        let positions = if tells_receipts { self.new_receipts(peer) } else { Vec::new() };
        let heartbeat = Heartbeat {
            term,
            number,
            interval_us,
            sent_us,
            lease_us,
            probe,
            commit,
            positions,
            pasts,
            ranking,
        };
        self.send_early(peer, Body::Heartbeat(heartbeat));
    }
}
