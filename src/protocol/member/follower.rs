//! What a member does: finds the host, attaches to its log, keeps it, says how far it is, and
//! submits what its person wants said.

use std::sync::Arc;

use super::following::{Attached, Hint};
use crate::event::LinkState;
use crate::message::{
    Acknowledge, Append, Body, FindHostAnswer, Heartbeat, LookBack, Message, Receipt, ReportDelays,
    Submit, SubmitAnswer, SubmitProblem,
};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::{Instant, MS, Micros, SECOND};
use crate::types::{Entry, Index, PeerId, Position, Term};

/// What a member has told of itself, it tells anew no sooner than after so many heartbeats.
pub(crate) const PAST_AGAIN: Micros = 16;
/// How many members are asked at once who the host is.
const SEEK_PEERS_MAX: usize = 3;
/// Heartbeats that tell of entries which do not come, before the member attaches again. Heartbeats
/// overtake entries, and on a narrow link by much: what a stream has lost it says by its end.
const HOLES_MAX: u32 = 20;
/// One who reads through another member looks for the host itself again after this.
pub(crate) const RELAY_US: Micros = 5 * SECOND;
/// An attach waits no longer for its answer.
const PATIENCE_MAX_US: Micros = 8 * SECOND;
/// The pause before attaching again where a stream, but not the connection, was lost.
const REATTACH_US: Micros = 10 * MS;
/// Delays that have merely changed are told again no sooner than this, and all of them after this.
const REPORT_CHANGE_US: Micros = 5 * SECOND;
const REPORT_AGAIN_US: Micros = 30 * SECOND;

/// How long a host counts as alive. It outlasts the part: a candidate that gives up waits as long
/// as it would have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Lease {
    /// Until then the host counts as alive (R2).
    pub until: Instant,
    /// From then on the host is suspected (R14).
    pub suspect_at: Instant,
}

impl Lease {
    /// It is over, and the host suspected at once.
    pub fn void(now: Instant) -> Self {
        Self { until: now, suspect_at: now }
    }
}

impl Replica {
    // ---- finding the host ----

    pub(crate) fn follower_timeouts(&self, at: &mut impl FnMut(Instant)) {
        match self.part.attached() {
            None => at(self.sources.seek_host_at),
            Some(attached) => {
                at(self.report_at);
                at(self.attach_ends_at(attached));
            }
        }
        if let Some(resend_at) = self.outbox.resend_at() {
            at(resend_at);
        }
    }

    pub(crate) fn follower_on_time(&mut self) {
        match self.part.attached() {
            None if self.now >= self.sources.seek_host_at => self.seek_host(),
            Some(attached) if self.now >= self.attach_ends_at(attached) => {
                let patience_us = self.next_patience(attached);
                if attached.is_proven {
                    self.part.detach();
                } else {
                    self.give_up_claim(false);
                }
                self.seek_host();
                if let Some(attached) = self.part.attached_mut() {
                    attached.patience_us = attached.patience_us.max(patience_us);
                }
            }
            Some(_) if self.now >= self.report_at => self.report_delays(),
            _ => {}
        }
        if self.outbox.resend_at().is_some_and(|at| self.now >= at) {
            self.outbox.time_out();
        }
    }

    /// When the source of the log is to be looked for anew: one that does not answer, one that
    /// passes the log on and is not the host, and a host that says nothing any more, because it has
    /// forgotten this member.
    pub(crate) fn attach_ends_at(&self, attached: &Attached) -> Instant {
        if Some(attached.source) != self.host() || attached.term != self.hard_state.term {
            let limit = match attached.matched {
                Some(_) if planted(Bug::RelayedForEver) => Micros::MAX / 2,
                Some(_) => RELAY_US,
                None => self.config.lease_max_us,
            };
            return attached.since + limit;
        }
        let heard = match attached.matched {
            Some(_) => attached.since.max(self.lease.until),
            None => return attached.since + attached.patience_us,
        };
        heard + self.config.lease_max_us
    }

    /// For how long the first attach waits for its answer: longer where ways and syncs are, which
    /// it leaves after.
    pub(super) fn first_patience(&self) -> Micros {
        let usual = 2 * self.slowest_round_trip() + 4 * self.durability.syncs.p99();
        let usual = if planted(Bug::AttachImpatient) { 0 } else { usual };
        usual.clamp(self.config.lease_max_us, PATIENCE_MAX_US.max(self.config.lease_max_us))
    }

    /// For how long the next attach waits for its answer. Where the host is heard and says nothing
    /// of its log, that is on its way over a line that is full, and to ask for it again and again
    /// would keep it so.
    fn next_patience(&self, attached: &Attached) -> Micros {
        let is_on_its_way = self.is_attached_to_host()
            && attached.matched.is_none()
            && self.now < self.lease.until
            && !planted(Bug::AttachImpatient);
        if is_on_its_way { (2 * attached.patience_us).min(PATIENCE_MAX_US) } else { 0 }
    }

    /// M10: attaches to the host if it is known and linked, and else asks others for it.
    fn seek_host(&mut self) {
        // Questions and answers of all would fill a line over which they take so long.
        let patience = (2 * self.slowest_round_trip()).min(self.config.lease_max_us);
        self.sources.seek_host_at = self.now + self.config.lease_min_us.max(patience);
        self.attach();
        if self.part.attached().is_some() {
            return;
        }
        let up = self.world.links.iter().filter(|(_, state)| **state == LinkState::Up);
        let mut linked: Vec<_> = up.map(|(peer, _)| *peer).collect();
        for _ in 0..SEEK_PEERS_MAX.min(linked.len()) {
            let choice = self.prng.below(linked.len() as u64) as usize;
            let peer = linked.swap_remove(choice);
            self.send(peer, Body::FindHost);
        }
    }

    pub(crate) fn on_find_host(&mut self, request: &Message) {
        let alive = matches!(&self.part, Part::Host(hosting) if !hosting.paused)
            || self.now < self.lease.until;
        let host = self.host().filter(|_| alive);
        let term = self.hard_state.term;
        self.answer(request, Body::FindHostAnswer(FindHostAnswer { term, host }));
    }

    /// One who passes the log on has less of it than this peer: it is not asked again for a while.
    fn give_up_relay(&mut self, relay: PeerId) {
        self.part.detach();
        self.sources.relay_behind = Some((relay, self.now + self.config.lease_max_us));
        self.sources.seek_host_at = self.now + self.config.lease_min_us;
    }

    pub(crate) fn detach_from(&mut self, peer: PeerId) {
        if let Some(attached) = self.part.detach_if(|attached| attached.source == peer) {
            // A host that never answered is not asked again at once.
            let pause = match attached.matched {
                Some(_) => REATTACH_US,
                None => self.config.lease_min_us,
            };
            self.sources.seek_host_at = self.now + pause;
        }
    }

    pub(crate) fn on_detached(&mut self, peer: PeerId) {
        self.detach_from(peer);
    }

    /// The newest attach, if a message of `from` is about it and its term.
    fn current_attach(&mut self, from: PeerId, term: Term, attach: u64) -> Option<&mut Attached> {
        let attached = self.part.attached_mut()?;
        let current = attached.term == term && attached.attach == attach;
        (current && attached.source == from).then_some(attached)
    }

    pub(crate) fn on_look_back(&mut self, message: &Message, look_back: LookBack) {
        if self.current_attach(message.from, look_back.term, look_back.attach).is_none() {
            return;
        }
        // One who passes the log on and lacks what is committed here is behind: then another is
        // asked. What is not committed here, it may have in another form.
        let commit = self.log.commit();
        let asked = self.part.attached().map_or(0, |attached| attached.look.index);
        let is_behind = asked <= commit && !self.is_attached_to_host();
        if is_behind && !planted(Bug::AskedAgainBehind) {
            self.give_up_relay(message.from);
            return;
        }
        // Every host has what is committed here, so there is no need to look behind that.
        let index = look_back.index.min(self.log.last().index).max(self.log.commit());
        if planted(Bug::CutsAtLookBack) && index < self.log.last().index {
            self.truncate_from(index + 1);
        }
        let term = self.log.term_at(index).unwrap_or(0);
        let Some(attached) = self.part.attached() else { return };
        let reign = Hint { host: attached.host, term: attached.term };
        self.attach_at(message.from, reign, Position { term, index });
    }

    // L3: what comes from a reign that is not proven is tried first.
    pub(crate) fn on_append(&mut self, message: &Message, append: &Append) {
        let Some(attached) = self.current_attach(message.from, append.term, append.attach) else {
            return;
        };
        attached.holes = 0;
        attached.end = attached.end.or(append.last).or(Some(append.commit));
        if !self.note_reign(append) {
            return;
        }
        if self.part.attached().is_some_and(|attached| attached.is_proven) {
            self.take_append(message, append, &append.entries);
        } else if let Some(entries) = self.try_entries(append) {
            self.take_append(message, append, &entries);
        }
    }

    // R35: takes entries that follow what this log has, and cuts only at a received entry that
    // conflicts with its own. `entries` end where those of `append` do.
    fn take_append(&mut self, message: &Message, append: &Append, entries: &[Arc<Entry>]) {
        let is_tried = entries.len() > append.entries.len();
        if !is_tried && !self.log.has(append.previous) {
            // One before it is lost: its host sends all in order, and each thing once.
            if !planted(Bug::GapPassedOver) {
                self.detach_from(message.from);
            }
            return;
        }
        if append.past.is_some_and(|past| self.compare_with_past(past)) {
            // R9: what it lacks must not come back unnoticed; its votes would still be forgotten.
            return;
        }
        let since = append.previous.index + append.entries.len() as Index - entries.len() as Index;
        for entry in entries {
            if !self.take_entry(message.from, entry, since, append.term) {
                return;
            }
        }
        let matched = append.previous.index + append.entries.len() as Index;
        let Some(attached) = self.part.attached_mut() else { return };
        let first_answer = attached.matched.is_none();
        let matched = matched.max(attached.matched.unwrap_or(0));
        attached.matched = Some(matched);
        attached.caught_up |= matched >= append.commit;
        self.knows_own_words |= attached.end.is_some_and(|end| matched >= end);
        attached.acknowledge |= first_answer || !append.entries.is_empty();
        if planted(Bug::FeedRenewsLease) {
            self.renew_lease(message.from, self.config.heartbeat_idle_us, 0);
        }
        // R3: what the host has committed and this log has is committed here.
        self.commit_to(append.commit.min(matched));
        let of_host = self.is_attached_to_host() || planted(Bug::RelayEndsDoubt);
        if self.is_in_doubt() && of_host && matched >= append.commit {
            // R37: caught up to a host, which counts what this peer says from now on and nothing
            // that it said before, so that nothing durable can be missing. One who passes the log
            // on knows less than its host.
            self.kept.doubt = None;
        }
    }

    // ---- heartbeats and acknowledgements ----

    pub(crate) fn on_heartbeat(&mut self, message: &Message, heartbeat: &Heartbeat) {
        // L3: only of a reign that is proven. Any other is a hint.
        let is_followed =
            self.host() == Some(message.from) && heartbeat.term == self.hard_state.term;
        if !is_followed && !planted(Bug::AnyHeartbeatRenews) {
            self.hear_of_host(message.from, message.from, heartbeat.term);
            let tried = self.part.attached_mut().filter(|attached| {
                attached.source == message.from && attached.term == heartbeat.term
            });
            if let Some(attached) = tried {
                attached.early = Some((heartbeat.clone(), self.now));
            }
            return;
        }
        if is_followed && self.is_blamed(message.from) {
            return;
        }
        // Whoever else was asked meanwhile has proven nothing.
        self.sources.hint = None;
        self.part.detach_if(|attached| !attached.is_proven);
        if self.part.attached().is_none() {
            self.attach();
        }
        self.take_heartbeat(message.from, heartbeat);
    }

    pub(super) fn take_heartbeat(&mut self, host: PeerId, heartbeat: &Heartbeat) {
        self.world.lateness.add(self.now, heartbeat.number, heartbeat.sent_us);
        if !heartbeat.probe {
            self.renew_lease(host, heartbeat.interval_us, heartbeat.lease_us);
        }
        if let Some(ranking) = &heartbeat.ranking {
            self.world.ranking = Arc::clone(ranking);
        }
        for (peer, receipt) in &heartbeat.positions {
            self.learn_receipt(*peer, *receipt);
        }
        for (peer, incarnation, past) in &heartbeat.pasts {
            if planted(Bug::PastsNotPassedOn) {
                break;
            }
            self.learn_past(*peer, *incarnation, *past);
        }
        let last = self.log.last().index;
        let Some(attached) = self.part.attached_mut() else { return };
        attached.heartbeat = attached.heartbeat.max(heartbeat.number);
        attached.interval_us = heartbeat.interval_us.min(self.config.heartbeat_narrow_us());
        attached.echo = true;
        let Some(matched) = attached.matched else { return };
        attached.holes = if heartbeat.commit > last { attached.holes + 1 } else { 0 };
        let lost = attached.holes >= HOLES_MAX;
        let compared = if planted(Bug::UnmatchedCommitted) { last } else { matched };
        self.commit_to(heartbeat.commit.min(compared));
        if lost {
            self.attach();
        }
    }

    /// Only heartbeats renew the lease (R22). Its length follows the link's own history, and what
    /// the host has measured and tells: `told_us`.
    fn renew_lease(&mut self, host: PeerId, interval_us: Micros, told_us: Micros) {
        let round_trip = self.world.round_trips.get(&host).map_or(0, |estimate| estimate.p99());
        let longer_by = self.world.lateness.longer_by();
        let longer_by = if planted(Bug::LatenessIgnored) { 0 } else { longer_by };
        let told_us = if planted(Bug::ToldLeaseIgnored) { 0 } else { told_us };
        let config = &self.config;
        let length = (3 * interval_us.min(config.heartbeat_idle_us) + round_trip.max(longer_by))
            .max(told_us)
            .clamp(config.lease_min_us, config.lease_max_us);
        self.drop_refuted_nominations(host);
        self.take_nominations_back();
        self.lease.until = self.now + length;
        self.sources.relay_at = self.now + self.config.lease_max_us;
        self.lease.suspect_at = self.lease.until;
        self.search.suspicion = None;
    }

    pub(crate) fn acknowledge_soon(&mut self) {
        if let Some(attached) = self.part.attached_mut() {
            attached.acknowledge = true;
        }
    }

    fn flush_acknowledgement(&mut self) {
        let receipt = Receipt { delivered: self.log.commit(), read: self.kept.read };
        let all = planted(Bug::UnmatchedAcknowledged).then_some(self.log.last().index);
        let is_syncing = self.is_syncing() && !planted(Bug::EchoWaitsForSync);
        let synced = self.durability.synced;
        let is_term_durable = self.is_term_durable();
        let Some(attached) = self.part.attached_mut() else { return };
        let acknowledge = std::mem::take(&mut attached.acknowledge);
        let echo = std::mem::take(&mut attached.echo);
        let tried = attached.trial.as_ref().map_or(0, |trial| trial.reading.last.index);
        let full = Acknowledge {
            term: attached.term,
            attach: attached.attach,
            synced: all.or(attached.matched).unwrap_or(0),
            received: tried,
            heartbeat: attached.heartbeat,
            receipt,
            ranking_version: if self.world.ranking.term == self.hard_state.term {
                self.world.ranking.version
            } else {
                0
            },
        };
        if !attached.is_proven && full.received == 0 {
            return;
        }
        let source = attached.source;
        // R22: contact does not depend on the disk, so that an echo waits for no sync. It tells of
        // what was durable before, and nothing of what has been received and read since; nor of a
        // term that is not durable yet.
        let early = echo && is_syncing && is_term_durable;
        if early {
            let synced = full.synced.min(synced);
            let echo = Acknowledge { synced, receipt: Receipt::default(), ..full };
            self.send_early(source, Body::Acknowledge(echo));
        }
        if acknowledge || (echo && !early) {
            self.send(source, Body::Acknowledge(full));
        }
    }

    /// R12: this member's row of delays, and the others from near to far.
    pub(crate) fn own_report(&self) -> ReportDelays {
        let mut row: Vec<_> = self
            .others()
            .into_iter()
            .filter(|peer| self.world.links.get(peer) == Some(&LinkState::Up))
            .filter_map(|peer| Some((peer, self.world.round_trips.get(&peer)?.smoothed()? / 2)))
            .collect();
        row.sort_by_key(|(peer, delay)| (*delay / self.config.rank_quantum_us, *peer));
        ReportDelays {
            term: self.hard_state.term,
            preferences: row.iter().map(|(peer, _)| *peer).collect(),
            row,
            host_weight: self.config.host_weight,
            unchanged: false,
            past: None,
        }
    }

    fn report_delays(&mut self) {
        self.report_at = self.now + self.config.report_us;
        let Some(host) = self.host().filter(|_| self.is_attached_to_host()) else { return };
        let (now, report) = (self.now, self.own_report());
        let quantum = self.config.rank_quantum_us;
        // It leaves when all of that is durable.
        let past = self.own_past(self.log.last());
        let Some(attached) = self.part.attached_mut() else { return };
        // A row for each member each second would be most of what a quiet chat sends.
        let is_known = attached.reported.as_ref().is_some_and(|(at, told)| {
            let since = now.since(*at);
            since < REPORT_AGAIN_US
                && told.reaches_as(&report)
                && (since < REPORT_CHANGE_US || told.is_like(&report, quantum))
        });
        let is_known = is_known && !planted(Bug::ReportsAllTheTime);
        // Where heartbeats are further apart, the line has no room for more.
        let tells_again_us = PAST_AGAIN * attached.interval_us;
        let has_told_past = attached
            .told_past
            .is_some_and(|(at, told)| told == past || now.since(at) < tells_again_us);
        if !is_known || !has_told_past {
            attached.told_past = Some((now, past));
        }
        if !is_known {
            attached.reported = Some((now, report.clone()));
            self.send(host, Body::ReportDelays(ReportDelays { past: Some(past), ..report }));
        } else if !has_told_past && !planted(Bug::PastToldWithDelays) {
            // L5: while much is said, how far this peer has come is news each second.
            let (row, preferences) = (Vec::new(), Vec::new());
            let report =
                ReportDelays { row, preferences, unchanged: true, past: Some(past), ..report };
            self.send(host, Body::ReportDelays(report));
        }
    }

    pub(crate) fn on_goodbye(&mut self, message: &Message) {
        let known = self.kept.pasts.get(&(message.from, message.from_incarnation));
        if known.is_some_and(|past| past.boot > message.from_boot) {
            // It was long on its way: that peer has come back meanwhile.
            return;
        }
        // R26: it is away at once, and whoever hosts from here on knows.
        if !planted(Bug::GoodbyeForgotten) {
            self.world.goodbyes.insert(message.from, (message.from_incarnation, message.from_boot));
        }
        self.detach_from(message.from);
    }

    // ---- submitting ----

    /// Whether a host is there that has begun: its `TermStart` is committed here.
    pub(super) fn is_served(&self) -> bool {
        let attached = self.part.attached().filter(|it| it.is_proven && it.matched.is_some());
        attached.is_some() && attached.map(|it| it.term) == self.log.term_at(self.log.commit())
    }

    /// Whether that host is there at this moment, as far as one can know.
    pub(crate) fn is_served_now(&self) -> bool {
        // Through another member nothing is heard of the host but what it commits (R35).
        let is_alive = self.now < self.lease.until || planted(Bug::ServedBySilence);
        self.is_served() && (is_alive || !self.is_attached_to_host())
    }

    /// Whether the log has everything that such a host had committed at some moment since.
    pub(crate) fn is_caught_up(&self) -> bool {
        let attached = self.part.attached().is_some_and(|attached| attached.caught_up);
        attached && self.is_attached_to_host() && self.is_served()
    }

    pub(crate) fn flush_follower(&mut self) {
        if !matches!(self.part, Part::Follower(_)) {
            return;
        }
        self.flush_relays();
        self.flush_submissions();
        self.flush_acknowledgement();
    }

    // R33: on a new host, after its `TermStart`, everything that is not confirmed is sent again.
    // R31: not before this run knows all that was said under its numbers. An old copy of a store
    // would say again what it has forgotten, under numbers beyond those that are taken.
    fn flush_submissions(&mut self) {
        let Some(source) = self.part.attached().map(|attached| attached.source) else { return };
        let knows_own_words = self.knows_own_words || planted(Bug::SaysBeforeReading);
        if self.outbox.len() == 0 || !self.is_served() || !knows_own_words {
            return;
        }
        let author = (!self.is_attached_to_host()).then_some((self.me, self.incarnation));
        let config = &self.config;
        let round_trip = self.world.round_trips.get(&source).map_or(0, |estimate| estimate.p99());
        let answer_us =
            2 * round_trip.max(self.world.lateness.longer_by()) + 2 * self.durability.syncs.p99();
        let resend_min = config.resend_min_us.max(answer_us).min(config.resend_max_us);
        let Some(term) = self.part.attached().map(|attached| attached.term) else { return };
        let unsent = self.outbox.take_unsent(config.in_flight_max, config.append_bytes_max);
        self.outbox.expect_answer(self.now, resend_min, config.resend_max_us);
        if let Some(last) = unsent.last().filter(|_| planted(Bug::OutboxClearedOnSend)) {
            self.clear_outbox_through(last.number);
        }
        if !unsent.is_empty() {
            let submit = Submit { term, author, submissions: unsent };
            self.send(source, Body::Submit(submit));
        }
    }

    pub(crate) fn on_submit_answer(&mut self, message: &Message, answer: &SubmitAnswer) {
        if self.host() != Some(message.from) || answer.term != self.hard_state.term {
            return;
        }
        match answer.problem {
            // R32: the host says which number it waits for.
            Some(SubmitProblem::Gap { last }) => self.outbox.resend_after(last),
            // These pass; the time for an answer runs, and then all is sent again. What follows
            // meanwhile has a gap for that reason.
            Some(
                SubmitProblem::NotServing
                | SubmitProblem::StorageFull
                | SubmitProblem::OverQuota
                | SubmitProblem::NotMember,
            ) => self.outbox.put_off(),
            None => {}
        }
        self.is_over_quota = answer.problem == Some(SubmitProblem::OverQuota);
    }
}
