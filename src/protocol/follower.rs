//! What a member does: finds the host, attaches to its log, keeps it, says how far it is, and
//! submits what its person wants said.

use std::sync::Arc;

use super::event::{LinkState, Notice};
use super::message::{
    Acknowledge, Announce, Append, Attach, Body, FindHostAnswer, Heartbeat, LookBack, Message,
    Receipt, RefusedReason, ReportDelays, Submit, SubmitAnswer, SubmitProblem,
};
use super::planted::{Bug, planted};
use super::replica::{Part, Replica};
use super::time::{Instant, MS, Micros, SECOND};
use super::types::{Index, Membership, Payload, PeerId, Position, Term};

/// How many members are asked at once who the host is.
const SEEK_PEERS_MAX: usize = 3;
/// Heartbeats that tell of entries which do not come, before the member attaches again. Heartbeats
/// overtake entries, and on a narrow link by much: what a stream has lost it says by its end.
const HOLES_MAX: u32 = 20;
/// One who reads through another member looks for the host itself again after this.
pub(super) const RELAY_US: Micros = 5 * SECOND;
/// The pause before attaching again where a stream, but not the connection, was lost.
const REATTACH_US: Micros = 10 * MS;
/// Delays that have merely changed are told again no sooner than this, and all of them after this.
const REPORT_CHANGE_US: Micros = 5 * SECOND;
const REPORT_AGAIN_US: Micros = 30 * SECOND;

/// The newest attach to the host's log (R35).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Attached {
    /// Whom the log comes from: the host, or a member that passes it on.
    pub source: PeerId,
    pub attach: u64,
    /// The position that it named.
    pub look: Position,
    pub since: Instant,
    /// The log equals the host's up to here; `None` until the host has answered with entries.
    pub matched: Option<Index>,
    /// It has come up to what the source had committed when it said so.
    pub caught_up: bool,
    /// The newest heartbeat heard.
    pub heartbeat: u64,
    /// Heartbeats in a row that told of entries which have not come.
    pub holes: u32,
    pub acknowledge: bool,
    /// A heartbeat was heard that has not been echoed.
    pub echo: bool,
    /// The delays that the host was told last, and when.
    pub reported: Option<(Instant, ReportDelays)>,
}

impl Replica {
    // ---- finding the host ----

    pub(super) fn follower_timeouts(&self, at: &mut impl FnMut(Instant)) {
        match &self.attached {
            None => at(self.seek_host_at),
            Some(attached) => {
                at(self.report_at);
                at(self.attach_ends_at(attached));
            }
        }
        if let Some(resend_at) = self.outbox.resend_at() {
            at(resend_at);
        }
    }

    pub(super) fn follower_on_time(&mut self) {
        match &self.attached {
            None if self.now >= self.seek_host_at => self.seek_host(),
            Some(attached) if self.now >= self.attach_ends_at(attached) => {
                self.attached = None;
                self.seek_host();
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
    fn attach_ends_at(&self, attached: &Attached) -> Instant {
        if Some(attached.source) != self.host {
            let limit = match attached.matched {
                Some(_) if planted(Bug::RelayedForEver) => Micros::MAX / 2,
                Some(_) => RELAY_US,
                None => self.config.lease_max_us,
            };
            return attached.since + limit;
        }
        let heard = match attached.matched {
            Some(_) => attached.since.max(self.lease_until),
            None => attached.since,
        };
        heard + self.config.lease_max_us
    }

    /// M10: attaches to the host if it is known and linked, and else asks others for it.
    fn seek_host(&mut self) {
        // Questions and answers of all would fill a line over which they take so long.
        let patience = (2 * self.slowest_round_trip()).min(self.config.lease_max_us);
        self.seek_host_at = self.now + self.config.lease_min_us.max(patience);
        self.attach();
        if self.attached.is_some() {
            return;
        }
        let up = self.links.iter().filter(|(_, state)| **state == LinkState::Up);
        let mut linked: Vec<_> = up.map(|(peer, _)| *peer).collect();
        for _ in 0..SEEK_PEERS_MAX.min(linked.len()) {
            let choice = self.prng.below(linked.len() as u64) as usize;
            let peer = linked.swap_remove(choice);
            self.send(peer, Body::FindHost);
        }
    }

    pub(super) fn on_find_host(&mut self, request: &Message) {
        let alive = matches!(&self.part, Part::Host(hosting) if !hosting.paused)
            || self.now < self.lease_until;
        let host = self.host.filter(|_| alive);
        let term = self.hard_state.term;
        self.answer(request, Body::FindHostAnswer(FindHostAnswer { term, host }));
    }

    /// Somebody says who hosts. It is believed as far as attaching goes; the host itself must
    /// answer for the rest.
    pub(super) fn learn_host(&mut self, host: Option<PeerId>, term: Term) {
        if term > self.hard_state.term {
            self.enter_term(term);
        }
        let Some(host) = host.filter(|host| *host != self.me) else { return };
        if term < self.hard_state.term || matches!(self.part, Part::Host(_)) {
            return;
        }
        if self.host.is_none() {
            // A candidate that hears of the host of its own term has lost.
            self.become_follower();
            self.host = Some(host);
            // It needs some round trips until its heartbeats come.
            let until = self.now + self.config.lease_min_us.max(3 * self.round());
            // R10: who follows a host takes its log over, and nobody else's.
            self.adoption.take_if(|_| !planted(Bug::LateLogAdopted));
            self.suspicion = None;
            self.suspect_at = self.suspect_at.max(until);
            self.ready.notices.push(Notice::Host { host: Some(host), term });
        }
        if self.host == Some(host) && self.attached.is_none() {
            self.attach();
        }
    }

    // R21, R35: `informant` hears a host of that term. Who cannot reach the host reads through it.
    // Who is in a later term can follow neither, and where only the host cannot be reached, the
    // host would never hear of that term: so the informant is told of it, and then its host.
    pub(super) fn hear_of_host(&mut self, informant: PeerId, host: PeerId, term: Term) {
        self.learn_host(Some(host), term);
        let left_behind = term < self.hard_state.term && !planted(Bug::LaterTermKeptToItself);
        if left_behind && self.host.is_none() && self.may_attach_through(informant) {
            self.relay_at = self.now + self.config.lease_max_us;
            self.attach_at(informant, self.log.last());
        } else {
            self.attach_through(informant);
        }
    }

    // R21: members attach to the heartbeats and the log of the one who announces itself.
    pub(super) fn on_announce(&mut self, message: &Message, announce: Announce) {
        if announce.term < self.hard_state.term {
            self.refuse(message, RefusedReason::StaleTerm);
            return;
        }
        self.learn_host(Some(message.from), announce.term);
    }

    // ---- the log ----

    // R35: attaches with the end of the synced log. The message leaves after everything that is
    // being written, so that the end of the log is the end of the synced log by then.
    pub(super) fn attach(&mut self) {
        let Some(host) = self.host else { return };
        if host == self.me || self.links.get(&host) != Some(&LinkState::Up) {
            return;
        }
        self.attach_at(host, self.log.last());
    }

    // R35: a member that the host cannot be reached by directly, for longer than a lease, reads
    // through `informant`, who hears it. From time to time it looks for the host again.
    pub(super) fn attach_through(&mut self, informant: PeerId) {
        let elsewhere = self.host.is_some_and(|host| host != informant && host != self.me);
        if elsewhere && self.may_attach_through(informant) {
            self.attach_at(informant, self.log.last());
        }
    }

    fn may_attach_through(&self, informant: PeerId) -> bool {
        let is_behind = |(peer, until): (PeerId, Instant)| peer == informant && self.now < until;
        self.attached.is_none()
            && matches!(self.part, Part::Follower)
            && (planted(Bug::RelayedAtOnce) || self.now >= self.relay_at)
            && !self.relay_behind.is_some_and(is_behind)
            && self.links.get(&informant) == Some(&LinkState::Up)
    }

    /// One who passes the log on has less of it than this peer: it is not asked again for a while.
    fn give_up_relay(&mut self, relay: PeerId) {
        self.attached = None;
        self.relay_behind = Some((relay, self.now + self.config.lease_max_us));
        self.seek_host_at = self.now + self.config.lease_min_us;
    }

    /// Whether the log comes from the host itself.
    pub(super) fn is_attached_to_host(&self) -> bool {
        self.attached.as_ref().is_some_and(|attached| Some(attached.source) == self.host)
    }

    fn attach_at(&mut self, source: PeerId, look: Position) {
        self.attach_count += 1;
        let attach = self.attach_count;
        self.attached = Some(Attached {
            source,
            attach,
            look,
            since: self.now,
            matched: None,
            caught_up: false,
            heartbeat: 0,
            holes: 0,
            acknowledge: false,
            echo: false,
            reported: None,
        });
        self.outbox.resend_all();
        let term = self.hard_state.term;
        let relay = self.host != Some(source);
        self.send(source, Body::Attach(Attach { term, attach, look, relay }));
    }

    pub(super) fn detach_from(&mut self, peer: PeerId) {
        if let Some(attached) = self.attached.take_if(|attached| attached.source == peer) {
            // A host that never answered is not asked again at once.
            let pause = match attached.matched {
                Some(_) => REATTACH_US,
                None => self.config.lease_min_us,
            };
            self.seek_host_at = self.now + pause;
        }
    }

    pub(super) fn on_detached(&mut self, peer: PeerId) {
        self.detach_from(peer);
    }

    /// The newest attach, if `message` is from its host, in its term and about it.
    fn current_attach(&mut self, from: PeerId, term: Term, attach: u64) -> Option<&mut Attached> {
        let current = self.hard_state.term == term;
        let attached = self.attached.as_mut()?;
        (current && attached.source == from && attached.attach == attach).then_some(attached)
    }

    pub(super) fn on_look_back(&mut self, message: &Message, look_back: LookBack) {
        if self.current_attach(message.from, look_back.term, look_back.attach).is_none() {
            return;
        }
        // One who passes the log on and lacks what is committed here is behind: then another is
        // asked. What is not committed here, it may have in another form.
        let commit = self.log.commit();
        let asked = self.attached.as_ref().map_or(0, |attached| attached.look.index);
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
        self.attach_at(message.from, Position { term, index });
    }

    // R35: takes entries that follow what this log has, and cuts only at a received entry that
    // conflicts with its own.
    pub(super) fn on_append(&mut self, message: &Message, append: &Append) {
        let log_has_previous = self.log.has(append.previous);
        let Some(attached) = self.current_attach(message.from, append.term, append.attach) else {
            return;
        };
        attached.holes = 0;
        if !log_has_previous {
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
        for entry in &append.entries {
            if !self.take_entry(entry, append.term) {
                return;
            }
        }
        let matched = append.previous.index + append.entries.len() as Index;
        let Some(attached) = &mut self.attached else { return };
        let first_answer = attached.matched.is_none();
        let matched = matched.max(attached.matched.unwrap_or(0));
        attached.matched = Some(matched);
        attached.caught_up |= matched >= append.commit;
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
            self.doubt = None;
        }
    }

    /// Whether the entry stands in the log afterwards.
    fn take_entry(&mut self, entry: &Arc<super::types::Entry>, host_term: Term) -> bool {
        if let Some(own) = self.log.term_at(entry.index) {
            if own == entry.term {
                if self.log.entry(entry.index).is_some_and(|own| own.hash != entry.hash)
                    && !planted(Bug::ContentNotCompared)
                {
                    self.fault("two hosts have made different entries in one term");
                    return false;
                }
                return true;
            }
            let is_hosts_own = own == host_term && !planted(Bug::CutsOwnTerm);
            let is_committed = entry.index <= self.log.commit() && !planted(Bug::CutsCommitted);
            if is_committed || is_hosts_own {
                self.fault("the host's log conflicts with what is committed here");
                return false;
            }
            self.truncate_from(entry.index);
        }
        let last = self.log.last();
        if entry.index != last.index + 1 || entry.term < last.term || entry.term > host_term {
            return false;
        }
        if entry.previous != self.log.last_hash() && !planted(Bug::ChainNotChecked) {
            self.fault("the chain of hashes is broken");
            return false;
        }
        // R30: a running chat is never recovered; only a log on its way to its own generation
        // still meets recoveries.
        let arrived =
            self.log.state().generation == self.generation && !planted(Bug::RunningChatRecovered);
        if arrived && matches!(entry.payload, Payload::Membership(Membership::Recovered { .. })) {
            self.fault("a recovery of the chat came from a host of the same generation");
            return false;
        }
        if self.is_forgotten_word(entry) {
            return false;
        }
        self.append(Arc::clone(entry));
        true
    }

    // ---- heartbeats and acknowledgements ----

    pub(super) fn on_heartbeat(&mut self, message: &Message, heartbeat: &Heartbeat) {
        if heartbeat.term < self.hard_state.term {
            return;
        }
        self.learn_host(Some(message.from), heartbeat.term);
        if self.host != Some(message.from) {
            return;
        }
        self.lateness.add(self.now, heartbeat.number, heartbeat.sent_us);
        if !heartbeat.probe {
            self.renew_lease(message.from, heartbeat.interval_us, heartbeat.lease_us);
        }
        if let Some(ranking) = &heartbeat.ranking {
            self.ranking = Arc::clone(ranking);
        }
        for (peer, receipt) in &heartbeat.positions {
            self.learn_receipt(*peer, *receipt);
        }
        let last = self.log.last().index;
        let Some(attached) = &mut self.attached else { return };
        attached.heartbeat = attached.heartbeat.max(heartbeat.number);
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
        let round_trip = self.round_trips.get(&host).map_or(0, |estimate| estimate.p99());
        let longer_by = self.lateness.longer_by();
        let longer_by = if planted(Bug::LatenessIgnored) { 0 } else { longer_by };
        let told_us = if planted(Bug::ToldLeaseIgnored) { 0 } else { told_us };
        let config = &self.config;
        let length = (3 * interval_us.min(config.heartbeat_idle_us) + round_trip.max(longer_by))
            .max(told_us)
            .clamp(config.lease_min_us, config.lease_max_us);
        self.drop_refuted_nominations(host);
        self.take_nominations_back();
        self.lease_until = self.now + length;
        self.relay_at = self.now + self.config.lease_max_us;
        self.suspect_at = self.lease_until;
        self.suspicion = None;
    }

    pub(super) fn acknowledge_soon(&mut self) {
        if let Some(attached) = &mut self.attached {
            attached.acknowledge = true;
        }
    }

    fn flush_acknowledgement(&mut self) {
        let receipt = Receipt { delivered: self.log.commit(), read: self.read };
        let all = planted(Bug::UnmatchedAcknowledged).then_some(self.log.last().index);
        let is_syncing = self.is_syncing() && !planted(Bug::EchoWaitsForSync);
        let synced = self.synced;
        let Some(attached) = &mut self.attached else { return };
        let acknowledge = std::mem::take(&mut attached.acknowledge);
        let echo = std::mem::take(&mut attached.echo);
        let full = Acknowledge {
            term: self.hard_state.term,
            attach: attached.attach,
            synced: all.or(attached.matched).unwrap_or(0),
            heartbeat: attached.heartbeat,
            receipt,
            ranking_version: if self.ranking.term == self.hard_state.term {
                self.ranking.version
            } else {
                0
            },
        };
        let source = attached.source;
        // R22: contact does not depend on the disk, so that an echo waits for no sync. It tells of
        // what was durable before, and nothing of what has been received and read since. It does
        // not speak of its term too early: the host began to send heartbeats when it had the
        // attach, which left when the term was durable.
        if echo && is_syncing {
            let synced = full.synced.min(synced);
            let echo = Acknowledge { synced, receipt: Receipt::default(), ..full };
            self.send_early(source, Body::Acknowledge(echo));
        }
        if acknowledge || (echo && !is_syncing) {
            self.send(source, Body::Acknowledge(full));
        }
    }

    /// R12: this member's row of delays, and the others from near to far.
    pub(super) fn own_report(&self) -> ReportDelays {
        let mut row: Vec<_> = self
            .others()
            .into_iter()
            .filter(|peer| self.links.get(peer) == Some(&LinkState::Up))
            .filter_map(|peer| Some((peer, self.round_trips.get(&peer)?.smoothed()? / 2)))
            .collect();
        row.sort_by_key(|(peer, delay)| (*delay / self.config.rank_quantum_us, *peer));
        ReportDelays {
            term: self.hard_state.term,
            preferences: row.iter().map(|(peer, _)| *peer).collect(),
            row,
            host_weight: self.config.host_weight,
        }
    }

    fn report_delays(&mut self) {
        self.report_at = self.now + self.config.report_us;
        let Some(host) = self.host.filter(|_| self.is_attached_to_host()) else { return };
        let (now, report) = (self.now, self.own_report());
        let quantum = self.config.rank_quantum_us;
        let Some(attached) = &mut self.attached else { return };
        // A row for each member each second would be most of what a quiet chat sends.
        let is_known = attached.reported.as_ref().is_some_and(|(at, told)| {
            let since = now.since(*at);
            since < REPORT_AGAIN_US
                && told.reaches_as(&report)
                && (since < REPORT_CHANGE_US || told.is_like(&report, quantum))
        });
        if !is_known || planted(Bug::ReportsAllTheTime) {
            attached.reported = Some((now, report.clone()));
            self.send(host, Body::ReportDelays(report));
        }
    }

    pub(super) fn on_goodbye(&mut self, message: &Message) {
        let known = self.pasts.get(&(message.from, message.from_incarnation));
        if known.is_some_and(|past| past.boot > message.from_boot) {
            // It was long on its way: that peer has come back meanwhile.
            return;
        }
        // R26: it is away at once, and whoever hosts from here on knows.
        if !planted(Bug::GoodbyeForgotten) {
            self.goodbyes.insert(message.from, (message.from_incarnation, message.from_boot));
        }
        self.detach_from(message.from);
    }

    // ---- submitting ----

    /// Whether a host is there that has begun: its `TermStart` is committed here.
    pub(super) fn is_served(&self) -> bool {
        let attached = self.attached.as_ref().is_some_and(|attached| attached.matched.is_some());
        attached && self.log.term_at(self.log.commit()) == Some(self.hard_state.term)
    }

    /// Whether that host is there at this moment, as far as one can know.
    pub(super) fn is_served_now(&self) -> bool {
        // Through another member nothing is heard of the host but what it commits (R35).
        let is_alive = self.now < self.lease_until || planted(Bug::ServedBySilence);
        self.is_served() && (is_alive || !self.is_attached_to_host())
    }

    /// Whether the log has everything that such a host had committed at some moment since.
    pub(super) fn is_caught_up(&self) -> bool {
        let attached = self.attached.as_ref().is_some_and(|attached| attached.caught_up);
        attached && self.is_attached_to_host() && self.is_served()
    }

    pub(super) fn flush_follower(&mut self) {
        if !matches!(self.part, Part::Follower) {
            return;
        }
        self.flush_relays();
        self.flush_submissions();
        self.flush_acknowledgement();
    }

    // R33: on a new host, after its `TermStart`, everything that is not confirmed is sent again.
    fn flush_submissions(&mut self) {
        let Some(source) = self.attached.as_ref().map(|attached| attached.source) else { return };
        if self.outbox.len() == 0 || !self.is_served() {
            return;
        }
        let author = (self.host != Some(source)).then_some((self.me, self.incarnation));
        let config = &self.config;
        let round_trip = self.round_trips.get(&source).map_or(0, |estimate| estimate.p99());
        let answer_us = 2 * round_trip.max(self.lateness.longer_by()) + 2 * self.syncs.p99();
        let resend_min = config.resend_min_us.max(answer_us).min(config.resend_max_us);
        let term = self.hard_state.term;
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

    pub(super) fn on_submit_answer(&mut self, message: &Message, answer: &SubmitAnswer) {
        if answer.term > self.hard_state.term {
            self.enter_term(answer.term);
        }
        if self.host != Some(message.from) || answer.term != self.hard_state.term {
            return;
        }
        match answer.problem {
            // R32: the host says which number it waits for.
            Some(SubmitProblem::Gap { last }) => self.outbox.resend_after(last),
            // These pass; the time for an answer runs, and then all is sent again. What follows
            // meanwhile has a gap for that reason.
            Some(
                SubmitProblem::NotServing | SubmitProblem::StorageFull | SubmitProblem::NotMember,
            ) => self.outbox.put_off(),
            None => {}
        }
    }
}
