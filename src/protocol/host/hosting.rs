//! What a host does: keeps in contact, passes the log on, and counts who has it. Its heartbeats
//! stand in `heartbeats.rs`, how it puts submissions in order in `ordering.rs`, and who belongs,
//! votes and follows in `succession.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::presence::Presence;
use super::progress::Progress;
use super::ranking::Reports;
use super::succession::HandingOver;
use crate::config::Config;
use crate::election::Search;
use crate::event::{Load, Notice};
use crate::log::quorum::majority_index;
use crate::log::submissions::Submissions;
use crate::message::{
    Acknowledge, Announce, Append, Attach, Body, LookBack, Message, Ranking, Receipt, RefusedReason,
};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::{Instant, Micros, SECOND};
use crate::types::{Entry, Incarnation, Index, Past, Payload, PeerId, Position, Reign, VoterSet};

/// Between announcements to members that have not attached.
const ANNOUNCE_US: Micros = SECOND;
/// On narrow lines, one of so many rounds tells a member that has attached.
const NARROW_ANNOUNCE_EVERY: u64 = 8;
/// One of so many announcements to one member has the proof of the reign again.
const PROVEN_ANNOUNCE_EVERY: u64 = 8;
/// So much of the log is on its way to a member over a narrow line.
const NARROW_AHEAD_BYTES: usize = 2 << 10;

/// A host's own state. It ends with the term.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Hosting {
    pub since: Instant,
    /// What the votes of a majority took: the first that is known of round trips to the voters.
    pub votes_us: Micros,
    pub term_start: Index,
    /// `TermStart` is committed (R4).
    pub serving: bool,
    pub paused: bool,
    /// Since when it is paused, or is not.
    pub paused_since: Instant,
    pub progress: BTreeMap<PeerId, Progress>,
    /// What the whole log has of each author, committed or not.
    pub submissions: Submissions,
    /// Members that joined in this term, committed or not, with their incarnation since.
    pub joined: BTreeMap<PeerId, Incarnation>,
    pub reports: Reports,
    pub publish_at: Instant,
    pub published_at: Instant,
    pub heartbeat: u64,
    /// Echoes of later heartbeats measure the ways.
    pub measured_from: u64,
    pub heartbeat_at: Instant,
    pub heartbeats_sent: VecDeque<HeartbeatSent>,
    /// What the last two heartbeats said of the time to the next.
    pub intervals_us: (Micros, Micros),
    pub active_at: Instant,
    pub announce_at: Instant,
    pub receipts_version: u64,
    /// In which version each receipt was changed last.
    pub receipts_changed: BTreeMap<PeerId, u64>,
    /// This host's own receipt in the newest version.
    pub own_receipt: Receipt,
    /// What voters had said of themselves a moment ago, and how often that has changed.
    pub pasts: Vec<(PeerId, Incarnation, Past)>,
    pub pasts_version: u64,
    pub gathered_at: Option<Instant>,
    pub hand_over: Option<HandingOver>,
    /// Before that, a host that must go does not ask for successors by itself.
    pub hand_over_from: Instant,
    pub presences: BTreeMap<PeerId, Presence>,
    /// The voters that the next step would lead to, and since when that is wanted without a break
    /// (R27).
    pub next_voters: Option<(VoterSet, Instant)>,
    /// Who is better placed than this host, and since when (R23).
    pub better: Option<(PeerId, Instant)>,
    /// Before that the chat does not move to a better host by itself.
    pub settled_at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct HeartbeatSent {
    pub number: u64,
    pub at: Instant,
    /// What was committed then.
    pub commit: Index,
    /// How far apart heartbeats were, by which the leases that it told were reckoned.
    pub pace_us: Micros,
}

impl Hosting {
    /// How far anybody is, voter or not.
    fn furthest_copy(&self) -> Index {
        self.progress.values().map(|progress| progress.matched).max().unwrap_or(0)
    }
}

impl Replica {
    // R4, R21: the winner's first entry is its `TermStart`, and it announces itself.
    pub(crate) fn become_host(&mut self) {
        let tenure_us = match &self.part {
            Part::Candidate(candidacy) if candidacy.was_handed_over => self.config.move_every_us,
            _ => self.config.tenure_us,
        };
        let votes_us = match &self.part {
            Part::Candidate(candidacy) => self.now.since(candidacy.since),
            Part::Follower(_) | Part::Host(_) => 0,
        };
        let votes = match &mut self.part {
            Part::Candidate(candidacy) => std::mem::take(&mut candidacy.votes),
            Part::Follower(_) | Part::Host(_) => BTreeMap::new(),
        };
        let reign = Reign { last_term: self.log.last().term, votes };
        let term_start = self.log.last().index + 1;
        let mut submissions = self.log.state().submissions.clone();
        for entry in self.log.entries_from(self.log.commit() + 1, usize::MAX) {
            submissions.apply(&entry);
        }
        if planted(Bug::DuplicatesForgotten) {
            submissions = Submissions::default();
        }
        let now = self.now;
        self.knows_own_words = true;
        self.part = Part::Host(Box::new(Hosting {
            since: now,
            votes_us,
            term_start,
            serving: planted(Bug::ServesAtOnce),
            paused: false,
            paused_since: now,
            progress: Default::default(),
            submissions,
            joined: BTreeMap::new(),
            reports: Reports::new(),
            publish_at: now + self.config.report_us + self.config.report_us / 4,
            published_at: now,
            heartbeat: 0,
            measured_from: 0,
            heartbeat_at: now,
            heartbeats_sent: VecDeque::new(),
            intervals_us: (self.config.heartbeat_us, self.config.heartbeat_us),
            active_at: now,
            announce_at: now + ANNOUNCE_US,
            receipts_version: 1,
            receipts_changed: BTreeMap::new(),
            own_receipt: Receipt::default(),
            pasts: Vec::new(),
            pasts_version: 0,
            gathered_at: None,
            hand_over: None,
            hand_over_from: now,
            presences: self.first_presences(),
            next_voters: None,
            better: None,
            settled_at: now + tenure_us,
        }));
        self.search = Search::default();
        let term = self.hard_state.term;
        let inherited = Ranking { term, version: 1, ..(*self.world.ranking).clone() };
        self.world.ranking = Arc::new(inherited);
        self.append_own(Payload::TermStart(reign));
        self.ready.notices.push(Notice::Host { host: self.host(), term });
        for peer in self.others() {
            self.announce_to(peer);
        }
    }

    pub(super) fn announce_to(&mut self, peer: PeerId) {
        let (term, reign) = (self.hard_state.term, self.own_proof());
        self.send_early(peer, Body::Announce(Announce { term, reign }));
    }

    /// R21: members that have not attached, or are not heard of, may not know who hosts. One that
    /// is in a later term says so, and then this host steps down (R8).
    fn announce_to_silent(&mut self) {
        let span = self.lease_floor();
        let is_narrow = self.is_on_narrow_lines();
        let Part::Host(hosting) = &self.part else { return };
        let round = self.now.since(hosting.since) / ANNOUNCE_US;
        let heard = |(turn, peer): &(u64, PeerId)| {
            let progress = hosting.progress.get(peer);
            let contact = progress.and_then(|progress| progress.contact);
            let span = span.max(self.lease_of(hosting, peer));
            // Announcements to those that have attached would fill the lines on which their echoes
            // wait.
            let is_turn = !is_narrow
                || (round + turn).is_multiple_of(NARROW_ANNOUNCE_EVERY)
                || planted(Bug::AnnouncedToLate);
            contact.is_some_and(|contact| !is_turn || self.now.since(contact) <= span)
        };
        let others = (0..).zip(self.others());
        let silent: Vec<_> = others.filter(|one| !heard(one)).map(|(_, peer)| peer).collect();
        let term = self.hard_state.term;
        // The first one had the proof, which is longer than many heartbeats. Whom that has not
        // reached is given it when it asks (L3), but one who takes this host for a stranger.
        let reign = self.own_proof().filter(|_| round.is_multiple_of(PROVEN_ANNOUNCE_EVERY));
        for peer in silent {
            self.send_early(peer, Body::Announce(Announce { term, reign: reign.clone() }));
        }
    }

    // ---- time ----

    pub(crate) fn host_timeout(&self, hosting: &Hosting) -> Instant {
        let mut at = hosting.heartbeat_at.min(hosting.publish_at).min(hosting.announce_at);
        at = at.min(self.pause_at(hosting));
        if let Some(hand_over) = &hosting.hand_over {
            at = at.min(hand_over.deadline);
        }
        at
    }

    pub(crate) fn host_on_time(&mut self) {
        self.check_contact();
        self.give_way();
        let now = self.now;
        let Part::Host(hosting) = &mut self.part else { return };
        let heartbeat = now >= hosting.heartbeat_at;
        if now.since(hosting.heartbeat_at) > self.config.heartbeat_us {
            // This host was frozen, or cut short of time: how long echoes of before have taken
            // says nothing about the ways.
            hosting.measured_from = hosting.heartbeat + 1;
        }
        let publish = now >= hosting.publish_at;
        let announce = now >= hosting.announce_at;
        if announce {
            hosting.announce_at = now + ANNOUNCE_US;
            self.announce_to_silent();
            self.gather_pasts();
        }
        if publish {
            self.publish_ranking();
        }
        if heartbeat {
            // Who votes is settled first: a hand-over in between lets no voter be changed.
            self.reconcile();
            self.leave_unfit_disk();
            self.send_heartbeats();
        }
        self.check_hand_over();
    }

    // ---- members attach and acknowledge (R35) ----

    pub(crate) fn on_attach(&mut self, message: &Message, attach: Attach) {
        let from = message.from;
        if !matches!(self.part, Part::Host(_)) {
            self.on_attach_elsewhere(message, attach);
            return;
        }
        if attach.term < self.hard_state.term {
            self.refuse(message, RefusedReason::StaleTerm);
            return;
        }
        if attach.term > self.hard_state.term {
            // It was told of a reign that this peer knows nothing of.
            self.refuse(message, RefusedReason::NotHost { host: None });
            return;
        }
        if !self.gives_log_to(from, message.from_incarnation) {
            // Before its `TermStart` is committed, a host does not know of the latest joins.
            let Part::Host(hosting) = &self.part else { return };
            self.refuse(
                message,
                match hosting.serving {
                    true => RefusedReason::NotMember,
                    false => RefusedReason::NotHost { host: None },
                },
            );
            return;
        }
        let incarnation = message.from_incarnation;
        let past = self.past_of(from, incarnation);
        let known = self.log.has(attach.look);
        let index = self.log.look_back(attach.look).min(attach.look.index.saturating_sub(1));
        let term = self.hard_state.term;
        let Part::Host(hosting) = &mut self.part else { return };
        // The next one comes when it was to come.
        let (_, interval_us) = hosting.intervals_us;
        let mut progress = Progress::new(incarnation, attach.attach, past);
        progress.boot = message.from_boot;
        progress.first_heartbeat = hosting.heartbeat;
        progress.receipts_from = self.log.commit();
        if let Some(before) = hosting.progress.get(&from)
            && before.incarnation == incarnation
        {
            let is_older = (message.from_boot, attach.attach) <= (before.boot, before.attach);
            if is_older && !planted(Bug::OvertakenAttachTaken) {
                // An older attach that was overtaken by a newer one, or a doubled one.
                return;
            }
            progress.contact = before.contact;
            progress.echoes = before.echoes;
            progress.shortest_echo = before.shortest_echo;
            progress.copied_soon = before.copied_soon;
            progress.late_until = before.late_until;
            progress.receipt = before.receipt;
            if progress.late_us(self.now) > 0 && progress.boot == before.boot {
                // It may well have come, and what is sent twice fills the line.
                progress.ranking_sent = before.ranking_sent;
            }
        }
        if known {
            progress.matched = attach.look.index;
            let cursor = attach.look.index + Index::from(planted(Bug::CursorOffByOne));
            progress.next = Some(cursor + 1);
        }
        hosting.progress.insert(from, progress);
        if !known {
            let look_back = LookBack { term, attach: attach.attach, index };
            self.answer(message, Body::LookBack(look_back));
        }
        self.send_heartbeat(from, interval_us, 0);
    }

    pub(crate) fn on_acknowledge(&mut self, message: &Message, acknowledge: Acknowledge) {
        let from = message.from;
        let last = self.log.last().index;
        let term = self.hard_state.term;
        let Part::Host(hosting) = &mut self.part else {
            self.on_acknowledge_elsewhere(message, acknowledge);
            return;
        };
        let Some(progress) = hosting.progress.get_mut(&from) else { return };
        // Answers bind to the newest attach, and to the incarnation that made it.
        if acknowledge.term != term
            || (progress.attach != acknowledge.attach && !planted(Bug::OlderAttachCounts))
            || progress.incarnation != message.from_incarnation
            || (progress.boot != message.from_boot && !planted(Bug::OlderBootCounts))
            || acknowledge.synced > last
        {
            return;
        }
        if progress.next.is_some_and(|next| acknowledge.synced < next) {
            progress.acknowledged(self.now, acknowledge.synced);
        }
        progress.received(acknowledge.received);
        progress.ranking_version = acknowledge.ranking_version;
        // R36: an answer that was overtaken, or echoes a heartbeat alone, takes nothing back.
        let mut receipt = progress.receipt;
        receipt.advance(acknowledge.receipt);
        if progress.receipt != receipt {
            progress.receipt = receipt;
            hosting.receipts_version += 1;
            hosting.receipts_changed.insert(from, hosting.receipts_version);
        }
        // R22: contact is dated by when the echoed heartbeat was sent.
        let sent = hosting.heartbeats_sent.iter();
        if let Some(echoed) = sent.clone().rev().find(|it| it.number == acknowledge.heartbeat) {
            let is_new = progress.contact < Some(echoed.at);
            let first = progress.first_heartbeat.max(hosting.measured_from);
            if is_new && echoed.number > first {
                let stretch_max_us = self.config.stretch_max_us();
                progress.echoed(self.now, self.now.since(echoed.at), stretch_max_us);
            }
            let at = if planted(Bug::ContactDatedByArrival) { self.now } else { echoed.at };
            progress.contact = progress.contact.max(Some(at));
            // R28: it has caught up when it has what was committed when that heartbeat left. Of
            // what is said without a break, each piece waits for a sync: it keeps up as long as it
            // is no more than the longest lease behind.
            let longest = self.config.lease_max_us;
            let before = sent.rev().find(|sent| self.now.since(sent.at) >= longest);
            let is_close = before.is_none_or(|before| progress.matched >= before.commit)
                && !planted(Bug::SyncBreaksKeepingUp);
            let keeps_up =
                progress.matched >= echoed.commit || (progress.steady_since.is_some() && is_close);
            progress.steady_since =
                if keeps_up { progress.steady_since.or(Some(self.now)) } else { None };
        }
        self.check_contact();
        self.step_when_confirmed();
    }

    // ---- passing the log on ----

    pub(crate) fn flush_host(&mut self) {
        if !matches!(self.part, Part::Host(_)) {
            return;
        }
        self.accept_own();
        self.advance_commit();
        self.flush_hand_over();
        let Part::Host(hosting) = &self.part else { return };
        let peers: Vec<_> = hosting.progress.keys().copied().collect();
        for peer in peers {
            self.replicate(peer);
        }
        self.forget_absent();
    }

    /// The host's own copy counts once its `Ready` was executed.
    fn own_copy(&self) -> Index {
        if planted(Bug::HostCountsEarly) { self.log.last().index } else { self.durability.synced }
    }

    // R3: commits an entry of the own term that a majority of the latest voters has made durable;
    // older entries follow. The host's own copy counts once its `Ready` was executed.
    fn advance_commit(&mut self) {
        let Part::Host(hosting) = &self.part else { return };
        if hosting.paused && !planted(Bug::PausedCommits) {
            return;
        }
        let voters = self.log.voters();
        let counts = |peer: &PeerId, progress: &&Progress| {
            planted(Bug::IncarnationNotCounted) || voters.0.get(peer) == Some(&progress.incarnation)
        };
        let index = majority_index(voters, |peer| {
            if *peer == self.me {
                return self.own_copy();
            }
            if planted(Bug::LearnerCounts) {
                return hosting.furthest_copy();
            }
            let progress = hosting.progress.get(peer).filter(|progress| counts(peer, progress));
            progress.map_or(0, |progress| progress.matched)
        });
        let is_older = index < hosting.term_start && !planted(Bug::OlderTermCommitted);
        if is_older || index <= self.log.commit() {
            return;
        }
        let members_before = Arc::clone(&self.log.state().members);
        self.commit_to(index);
        if *members_before != *self.log.state().members {
            self.publish_soon();
        }
        let term = self.hard_state.term;
        // Nobody but this host could have ended the hosting meanwhile; look again all the same.
        let Part::Host(hosting) = &mut self.part else { return };
        if !hosting.serving {
            hosting.serving = true;
            self.ready.notices.push(Notice::Serving { term });
            self.accept_own();
        }
    }

    /// Sends a member what it lacks, as far as it keeps up (R35). One whose membership has just
    /// ended is told of the commit that says so, and of nothing that comes after it.
    pub(crate) fn replicate(&mut self, peer: PeerId) {
        let (term, commit) = (self.hard_state.term, self.log.commit());
        let Some(incarnation) = self.progress_mut(peer).map(|it| it.incarnation) else { return };
        let last = match self.gives_log_to(peer, incarnation) {
            true => self.passed_on_through(),
            false => 0,
        };
        let now = self.now;
        let Config { unacknowledged_bytes_max, append_bytes_max, .. } = self.config;
        loop {
            let Some(progress) = self.progress_mut(peer) else { return };
            let Some(next) = progress.next else { return };
            let is_narrow = progress.late_us(now) > 0;
            // On a narrow line the next heartbeat tells that something is committed, and of the
            // log little is on its way: what comes meanwhile shares the next message.
            let news = progress.commit_sent != Some(commit)
                && !(is_narrow && last > 0 && progress.commit_sent.is_some());
            let bytes_max = if is_narrow { NARROW_AHEAD_BYTES } else { unacknowledged_bytes_max };
            let room = progress.has_room(bytes_max);
            let has_more = next <= last && room;
            if progress.loading || (!has_more && !news) {
                return;
            }
            let attach = progress.attach;
            if has_more && !self.log.in_window(next) {
                self.progress_mut(peer).expect("it was there").loading = true;
                let through = self.log.base();
                self.ready.loads.push(Load { peer, attach, from: next, through });
                return;
            }
            let mut entries = match has_more {
                true => self.log.entries_from(next, append_bytes_max.min(bytes_max)),
                false => Vec::new(),
            };
            entries.retain(|entry| entry.index <= last);
            self.send_entries(peer, term, next, entries);
        }
    }

    pub(super) fn send_entries(
        &mut self,
        peer: PeerId,
        term: u64,
        next: Index,
        entries: Vec<Arc<Entry>>,
    ) {
        let (now, commit) = (self.now, self.log.commit());
        let (proof, passed_on_through) = (self.own_proof(), self.passed_on_through());
        let previous = Position { term: self.log.term_at(next - 1).unwrap_or(0), index: next - 1 };
        let Some(progress) = self.progress_mut(peer) else { return };
        if let Some(entry) = entries.last() {
            let bytes = entries.iter().map(|entry| entry.size()).sum();
            progress.sent(now, entry.index, bytes);
        }
        progress.commit_sent = Some(commit);
        progress.sent_at = Some(now);
        let too_much = entries.last().map(|entry| entry.index);
        let told = too_much.filter(|_| planted(Bug::CommitAheadOfQuorum)).unwrap_or(commit);
        let (attach, past) = (progress.attach, progress.past.take());
        let is_first = std::mem::take(&mut progress.tells_reign);
        let (reign, last) =
            (proof.filter(|_| is_first), Some(passed_on_through).filter(|_| is_first));
        let append = Append { term, attach, previous, entries, commit: told, past, reign, last };
        self.send_early(peer, Body::Append(append));
    }

    pub(crate) fn on_loaded(&mut self, load: Load, entries: Vec<Arc<Entry>>) {
        let term = self.hard_state.term;
        let Some(progress) = self.progress_mut(load.peer) else { return };
        if progress.attach != load.attach {
            return;
        }
        progress.loading = false;
        if progress.next == Some(load.from) && entries.first().map(|e| e.index) == progress.next {
            self.send_entries(load.peer, term, load.from, entries);
        }
    }
}
