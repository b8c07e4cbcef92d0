//! The state machine of one chat at one peer: what goes in, what comes out, and who deals with it.
//!
//! Control flow only. What a host does stands in `host/`, what a member does in `member/`, how a
//! host is chosen in `election/`, who is listened to in `sender/`, and what leaves how in
//! `sending.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::config::Config;
use super::durable::{Durability, Kept};
use super::election::{Doubt, Search};
use super::event::{DiskState, Event, Notice, Ready, Recovered, Role, Status};
use super::evidence::Findings;
use super::log::Log;
use super::log::sign::Signer;
use super::member::{Lease, Outbox, Sources};
use super::message::{Body, Message, RefusedReason};
use super::part::Part;
use super::planted::{Bug, planted};
use super::prng::Prng;
use super::time::Instant;
use super::types::{
    Boot, Generation, HardState, Incarnation, Index, MemberState, Number, PeerId, Term,
};
use super::world::World;

/// One chat at one peer. See the module's text and `event.rs`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Replica {
    pub(super) config: Config,
    pub(super) me: PeerId,
    pub(super) incarnation: Incarnation,
    pub(super) boot: Boot,
    pub(super) signer: Signer,
    pub(super) generation: Generation,
    pub(super) now: Instant,
    pub(super) prng: Prng,

    // What is durable, or on its way there, and how durable it is.
    pub(super) hard_state: HardState,
    pub(super) log: Log,
    pub(super) outbox: Outbox,
    pub(super) kept: Kept,
    pub(super) durability: Durability,

    // The part that this peer plays in its term, and what outlasts it: a lease runs on where the
    // part ends, a search goes on through terms, and the numbers of attaches and fetches never
    // come again.
    pub(super) part: Part,
    pub(super) lease: Lease,
    pub(super) sources: Sources,
    pub(super) search: Search,
    /// Whom this peer has nominated in this term, since it heard the host last. It outlasts the
    /// search: a host that has paused nominates others, too.
    pub(super) nominated: BTreeSet<PeerId>,
    pub(super) fetch_count: u64,
    /// From then on the host is told this peer's delays.
    pub(super) report_at: Instant,
    /// When this peer, as host, stood anew for one in a later term.
    pub(super) renewed_at: Option<Instant>,

    pub(super) world: World,

    // How this peer itself is.
    pub(super) disk: DiskState,
    /// When that was told.
    pub(super) disk_since: Instant,
    pub(super) stopping: Option<Stopping>,
    pub(super) fault: Option<&'static str>,
    /// This peer was a member, and takes no part any more.
    pub(super) has_gone: bool,
    /// In this run it has come up to where another's log ended (R31).
    pub(super) knows_own_words: bool,
    /// The host takes nothing more of this peer for now.
    pub(super) is_over_quota: bool,

    pub(super) ready: Ready,
    pub(super) ready_count: u64,
}

/// How far a graceful stop has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Stopping {
    HandingOver { deadline: Instant },
    SaidGoodbye,
}

impl Replica {
    /// Takes up a chat from what its store recovered. It begins as a follower, whatever it was
    /// before (R3), and waits a full lease before it suspects anyone (R14). `seed` is for back-off
    /// times. `signer` has the key of `me`.
    pub fn new(
        config: Config,
        me: PeerId,
        signer: Signer,
        recovered: Recovered,
        now: Instant,
        seed: u64,
    ) -> Self {
        let checkpoint_index = recovered.checkpoint.index();
        let log = Log::new(recovered.checkpoint, recovered.entries, recovered.commit);
        let doubt = recovered.tail_in_doubt && !planted(Bug::DoubtIgnored);
        let doubt =
            doubt.then(|| Doubt { term: recovered.hard_state.term, reports: BTreeMap::new() });
        let mut replica = Self {
            me,
            signer,
            incarnation: recovered.incarnation,
            boot: recovered.boot,
            generation: recovered.generation,
            now,
            prng: Prng::new(seed),
            hard_state: remembered(recovered.hard_state),
            outbox: Outbox::new(recovered.outbox, recovered.last_number),
            kept: Kept {
                read: recovered.read,
                furthest: recovered.furthest,
                doubt,
                pasts: recovered.pasts,
                evidence: match planted(Bug::EvidenceForgotten) {
                    true => Findings::new(),
                    false => recovered.evidence,
                },
                removed_by: recovered.removed_by,
            },
            durability: Durability::of(&log, checkpoint_index),
            part: Part::follower(),
            lease: Lease {
                until: now,
                suspect_at: match planted(Bug::RestartSuspectsAtOnce) {
                    true => now,
                    false => now + config.lease_min_us,
                },
            },
            sources: Sources {
                reign: log.reign().cloned(),
                hint: None,
                distrusted: BTreeMap::new(),
                attach_count: 0,
                relay_at: now + config.lease_max_us,
                relay_behind: None,
                seek_host_at: now,
            },
            search: Search::default(),
            nominated: BTreeSet::new(),
            fetch_count: 0,
            report_at: now + config.report_us,
            renewed_at: None,
            world: World { apart_since: Some(now), ..World::default() },
            disk: DiskState::Fit,
            disk_since: now,
            stopping: None,
            fault: None,
            has_gone: recovered.removed_by.is_some() && !planted(Bug::RemovalForgotten),
            knows_own_words: false,
            is_over_quota: false,
            ready: Ready::default(),
            ready_count: 1,
            log,
            config,
        };
        replica.confirm_from_log();
        replica
    }

    /// Lets something happen. R45: it never fails; what makes no sense is ignored, or answered.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.now = self.now.max(now);
        if self.is_over() {
            return;
        }
        // Time first: a host that was frozen must notice that before it believes anything (R22).
        self.on_time();
        match event {
            Event::Tick => {}
            Event::Message(message) => self.on_message(message),
            Event::Link { peer, state } => self.on_link(peer, state),
            Event::Detached { peer } => self.on_detached(peer),
            Event::RoundTrip { peer, rtt_us } => {
                self.world.round_trips.entry(peer).or_default().add(rtt_us);
            }
            Event::Persisted { ready, sync_us } => self.on_persisted(ready, sync_us),
            Event::Loaded { load, entries } => self.on_loaded(load, entries),
            Event::Disk(state) => self.on_disk(state),
            Event::Propose(proposal) => self.on_propose(proposal),
            Event::MarkRead { index } => self.on_mark_read(index),
            Event::HandOver { target } => self.start_hand_over(target),
            Event::Stop => self.on_stop(),
        }
    }

    /// Everything to be done since the last time, in the order in which to do it.
    pub fn take_ready(&mut self) -> Ready {
        if !self.is_over() {
            self.flush_host();
            self.flush_follower();
        }
        if self.fault.is_none() {
            self.flush_store();
        }
        let mut ready = std::mem::take(&mut self.ready);
        ready.number = self.ready_count;
        if !ready.persist.is_empty() {
            if let Some(last) = ready.persist.entries.last() {
                self.durability.unsynced.push_back((ready.number, last.index));
            }
            if !ready.persist.outbox_put.is_empty() {
                self.outbox.syncing(ready.number);
            }
            self.ready_count += 1;
        }
        ready
    }

    /// When `handle` wants to be called with `Event::Tick` at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let mut next = self.durability.flush_at;
        let mut at = |moment: Instant| next = Some(next.map_or(moment, |next| next.min(moment)));
        match &self.part {
            Part::Host(hosting) => at(self.host_timeout(hosting)),
            Part::Candidate(candidacy) => at(candidacy.deadline),
            Part::Follower(_) => {
                self.follower_timeouts(&mut at);
                self.election_timeouts(&mut at);
            }
        }
        if let Some(Stopping::HandingOver { deadline }) = self.stopping {
            at(deadline);
        }
        next
    }

    /// The number that the next proposal gets; what it is signed with.
    pub fn next_number(&self) -> Number {
        self.outbox.next_number()
    }

    /// This replica as it sees itself.
    pub fn status(&self) -> Status {
        let state = self.log.state();
        let (role, paused, serving, caught_up, in_contact) = match &self.part {
            Part::Host(hosting) => {
                let contact = self.voters_in_contact(hosting);
                let (paused, serving) = (hosting.paused, hosting.serving);
                (Role::Host, paused, serving && !paused, serving, contact)
            }
            part => {
                let role = match part {
                    Part::Candidate(_) => Role::Candidate,
                    _ if self.search.suspicion.is_some() => Role::Suspecting,
                    _ => Role::Follower,
                };
                let (serving, caught_up) = (self.is_served_now(), self.is_caught_up());
                (role, false, serving, caught_up, self.voters_linked())
            }
        };
        Status {
            role,
            term: self.hard_state.term,
            host: self.host_read(),
            paused,
            serving,
            caught_up,
            voters_in_contact: in_contact,
            majority: self.log.voters().majority(),
            incarnation: self.incarnation,
            generation: self.generation,
            other_generations: self.world.other_generations.clone(),
            majority_lost: self.is_majority_lost(),
            chat_name: state.chat_name.clone(),
            members: Arc::clone(&state.members),
            former_members: Arc::clone(&state.former_members),
            invite_links: state.invite_links.clone(),
            removed_by: self.kept.removed_by,
            is_leaving: self.has_asked_to_leave(),
            key_in_use: self.world.key_in_use,
            evidence: self.kept.evidence.clone(),
            quota: state.quota,
            is_over_quota: self.is_over_quota,
            voters: self.log.voters().clone(),
            links: self.world.links.clone(),
            receipts: self.all_receipts(),
            last: self.log.last().index,
            commit: self.log.commit(),
            queued: self.outbox.len(),
            ranking: Arc::clone(&self.world.ranking),
        }
    }

    /// Whether this peer has nothing to do in the chat any more.
    pub(super) fn is_over(&self) -> bool {
        self.fault.is_some() || self.has_gone
    }

    /// Whether this peer has asked to leave, and is still here.
    fn has_asked_to_leave(&self) -> bool {
        let own = self.log.state().members.get(&self.me).map(|member| member.state);
        self.has_gone || self.outbox.has_leaving() || own == Some(MemberState::Leaving)
    }

    /// The course of the chat that this peer takes part in (R30).
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The host of this term, whose reign is proven.
    pub(super) fn host(&self) -> Option<PeerId> {
        self.part.host(self.me)
    }

    /// What the committed log says.
    pub fn log(&self) -> &Log {
        &self.log
    }

    // ---- dispatch ----

    fn on_time(&mut self) {
        match &self.part {
            Part::Host(_) => self.host_on_time(),
            Part::Candidate(candidacy) => {
                if self.now >= candidacy.deadline {
                    self.give_up_candidacy();
                }
            }
            Part::Follower(_) => {
                self.follower_on_time();
                self.election_on_time();
            }
        }
        if let Some(Stopping::HandingOver { deadline }) = self.stopping
            && (self.now >= deadline || !matches!(self.part, Part::Host(_)))
        {
            self.say_goodbye();
        }
    }

    fn on_message(&mut self, message: Message) {
        // R30: nothing crosses from one generation of the chat to another. Only who hosts may be
        // asked by anybody: the answer names the generation.
        if message.body != Body::FindHost {
            if message.generation != self.generation && !planted(Bug::GenerationsMixed) {
                if !self.refuse_stranger(&message) {
                    self.on_other_generation(&message);
                }
                return;
            }
            if self.world.other_generations.remove(&message.from).is_some() {
                self.watch_majority();
            }
        }
        // R9: what is meant for another incarnation of this peer is refused.
        let is_for_me = message.to_incarnation == self.incarnation;
        if message.to_incarnation != 0 && !is_for_me && !planted(Bug::WrongIncarnationTaken) {
            let incarnation = self.incarnation;
            self.refuse(&message, RefusedReason::WrongIncarnation { incarnation });
            return;
        }
        if self.refuse_former_member(&message)
            || self.refuse_outlived(&message)
            || self.refuse_stranger(&message)
        {
            return;
        }
        self.note_term(&message);
        self.notice_return(&message);
        let from = &message;
        match &message.body {
            Body::Attach(attach) => self.on_attach(from, *attach),
            Body::Append(append) => self.on_append(from, append),
            Body::LookBack(look_back) => self.on_look_back(from, *look_back),
            Body::Heartbeat(heartbeat) => self.on_heartbeat(from, heartbeat),
            Body::Acknowledge(acknowledge) => self.on_acknowledge(from, *acknowledge),
            Body::Submit(submit) => self.on_submit(from, submit),
            Body::SubmitAnswer(answer) => self.on_submit_answer(from, answer),
            Body::ReportDelays(report) => self.on_report_delays(from, report),
            Body::Goodbye => self.on_goodbye(from),
            Body::Join(join) => self.on_join(from, join),
            Body::JoinAnswer(_) => {}
            Body::Nominate(nominate) => self.on_nominate(from, *nominate),
            Body::NominateAnswer(answer) => self.on_host_alive(from, answer.host_alive),
            Body::Solicit(solicit) => self.on_solicit(from, *solicit),
            Body::SolicitAnswer(answer) => self.on_solicit_answer(from, *answer),
            Body::RequestVote(request) => self.on_request_vote(from, *request),
            Body::Vote(vote) => self.on_vote(from, *vote),
            Body::Withdraw(withdraw) => self.on_withdraw(from, *withdraw),
            Body::FetchLog(fetch) => self.on_fetch_log(from, *fetch),
            Body::FetchLogAnswer(answer) => self.on_fetch_log_answer(from, answer),
            Body::Announce(announce) => self.on_announce(from, announce),
            Body::HandOver(hand_over) => self.on_hand_over(from, *hand_over),
            Body::FindHost => self.on_find_host(from),
            Body::FindHostAnswer(answer) => {
                if let Some(host) = answer.host {
                    self.hear_of_host(from.from, host, answer.term);
                }
            }
            Body::Refused(refused) => self.on_refused(from, *refused),
        }
    }

    fn on_mark_read(&mut self, index: Index) {
        let index = index.min(self.log.commit());
        if index > self.kept.read || planted(Bug::ReadGoesBack) {
            self.kept.read = index;
            self.ready.persist.read = Some(index);
            self.acknowledge_soon();
        }
    }

    fn on_disk(&mut self, state: DiskState) {
        let before = std::mem::replace(&mut self.disk, state);
        self.disk_since = self.now;
        // R24, R38: a host whose disk does not keep up makes room for one whose does.
        if state > before && state != DiskState::Fit {
            self.start_hand_over(None);
        }
    }

    // ---- shared by the parts ----

    /// The members that have joined, without this one.
    pub(super) fn others(&self) -> Vec<PeerId> {
        let members = self.log.state().members.iter();
        let joined = members.filter(|(_, member)| member.state != MemberState::Invited);
        joined.map(|(peer, _)| *peer).filter(|peer| *peer != self.me).collect()
    }

    /// Whether this peer, in this incarnation, is a voter of the latest set in its log.
    pub(super) fn is_voter(&self) -> bool {
        self.log.voters().0.get(&self.me) == Some(&self.incarnation)
    }

    /// Whether that peer, in that incarnation, is one.
    pub(super) fn is_voting(&self, peer: PeerId, incarnation: Incarnation) -> bool {
        self.log.voters().0.get(&peer) == Some(&incarnation)
    }

    /// R1: a new term begins without a vote, and is durable before anyone hears of it. A host or
    /// candidate of the old one becomes a follower. L5: that is so for a reign that is proven, and
    /// for a candidate that this peer votes for.
    pub(super) fn enter_term(&mut self, term: Term) {
        assert!(term > self.hard_state.term, "terms only grow");
        self.hard_state = HardState { term, vote: None };
        self.ready.persist.hard_state = Some(self.hard_state);
        self.durability.term_ready = self.ready_count;
        self.world.heard_terms.retain(|_, heard| *heard > term);
        self.become_follower();
        self.nominated.clear();
        self.world.lateness.forget_host();
        // There is nobody left whose lease could run.
        let until = self.now + self.config.lease_min_us + self.round();
        self.lease.suspect_at = self.lease.suspect_at.min(until);
        // Its host is looked for before anybody else is asked to pass the log on.
        self.sources.relay_at = self.now + self.config.lease_max_us;
        self.ready.notices.push(Notice::Host { host: None, term });
    }

    pub(super) fn become_follower(&mut self) {
        if let Part::Host(hosting) = &self.part {
            if hosting.paused {
                self.ready.notices.push(Notice::Paused { paused: false });
            }
            let suspect_at = self.now + self.config.lease_min_us;
            self.lease = Lease { until: self.now, suspect_at };
            self.keep_receipts();
            self.keep_ways();
        }
        self.part = Part::follower();
        self.outbox.resend_all();
    }

    /// The number that the next `Ready` with something durable will have.
    pub(super) fn ready_number(&self) -> u64 {
        self.ready_count
    }

    /// Stops this chat here, because going on would be wrong.
    pub(super) fn fault(&mut self, what: &'static str) {
        self.fault = Some(what);
        self.ready.notices.push(Notice::Fault { what });
    }
}

/// What a restarted peer knows of its terms and votes.
fn remembered(hard_state: HardState) -> HardState {
    let vote = hard_state.vote.filter(|_| !planted(Bug::VoteForgotten));
    HardState { vote, ..hard_state }
}
