//! The state machine of one chat at one peer: what goes in, what comes out, and who deals with it.
//!
//! Control flow only. What a host does stands in `host/`, what a member does in `member/`, how a
//! host is chosen in `election/`, who is listened to in `sender/`, and what leaves how in
//! `sending.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::config::Config;
use super::durable::Later;
use super::election::{Doubt, Search};
use super::event::{DiskState, Event, LinkState, Notice, Ready, Recovered, Role, Status};
use super::evidence::Findings;
use super::log::Log;
use super::log::sign::Signer;
use super::member::{Distrust, Hint, Outbox};
use super::message::{Body, Message, Ranking, Receipt, RefusedReason};
use super::part::Part;
use super::planted::{Bug, planted};
use super::prng::Prng;
use super::sender::{Added, ShownByLink};
use super::time::Instant;
use super::timers::{Estimate, Lateness};
use super::types::{
    Boot, Entry, Generation, HardState, Incarnation, Index, MemberState, Number, Pasts, PeerId,
    Position, Term,
};

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

    // What is durable, or on its way there.
    pub(super) hard_state: HardState,
    /// The `Ready` that makes the term durable.
    pub(super) term_ready: u64,
    pub(super) log: Log,
    pub(super) outbox: Outbox,
    pub(super) read: Index,
    /// The furthest that this log has ever been, where it was cut since (R9).
    pub(super) furthest: Position,
    pub(super) doubt: Option<Doubt>,

    // How durable it is.
    pub(super) synced: Index,
    pub(super) unsynced: VecDeque<(u64, Index)>,
    pub(super) commit_persisted: Index,
    pub(super) checkpoint_index: Index,
    pub(super) flush_at: Option<Instant>,

    // The part that this peer plays.
    pub(super) part: Part,
    /// The first entry of the newest reign that is known to be one.
    pub(super) reign: Option<Arc<Entry>>,
    /// Who is said to host, unproven (L1).
    pub(super) hint: Option<Hint>,
    /// Who has said so falsely, as far as this peer could tell.
    pub(super) distrusted: BTreeMap<PeerId, Distrust>,
    pub(super) attach_count: u64,
    /// From then on a host that is not heard and cannot be dialled is read through a member.
    pub(super) relay_at: Instant,
    /// Who passes the log on and was found to be behind this peer; not asked until then.
    pub(super) relay_behind: Option<(PeerId, Instant)>,
    /// Until then the host counts as alive (R2).
    pub(super) lease_until: Instant,
    /// From then on the host is suspected (R14).
    pub(super) suspect_at: Instant,
    pub(super) search: Search,
    /// Whom this peer has nominated since it heard the host last.
    pub(super) nominated: BTreeSet<PeerId>,
    pub(super) fetch_count: u64,
    pub(super) seek_host_at: Instant,
    pub(super) report_at: Instant,
    pub(super) ranking: Arc<Ranking>,
    pub(super) receipts: BTreeMap<PeerId, Receipt>,
    /// Who has stopped gracefully, and in which boot; it is back with a later one (R26).
    pub(super) goodbyes: BTreeMap<PeerId, (Incarnation, Boot)>,

    // The world, as far as it matters here.
    pub(super) links: BTreeMap<PeerId, LinkState>,
    pub(super) round_trips: BTreeMap<PeerId, Estimate>,
    pub(super) syncs: Estimate,
    /// Of the present host, or the last one of this term.
    pub(super) lateness: Lateness,
    /// The last `Ready` that is known to be durable.
    pub(super) persisted_ready: u64,
    /// Since when no majority of the voters has been linked to this peer (R30).
    pub(super) apart_since: Option<Instant>,
    pub(super) pasts: Pasts,
    /// From then on, what changed in them is written down with the next sync.
    pub(super) pasts_due_at: Option<Instant>,
    /// The later terms that members have said they are in, each of itself (L5).
    pub(super) heard_terms: BTreeMap<PeerId, Term>,
    /// When this peer, as host, stood anew for one in a later term.
    pub(super) renewed_at: Option<Instant>,
    /// Peers that have said themselves that they have outlived the incarnation which this log
    /// names, the first one, and which one they are now (R9).
    pub(super) newer_incarnations: BTreeMap<PeerId, (Incarnation, Incarnation)>,
    /// Members that were last heard of in another generation (R30).
    pub(super) other_generations: BTreeMap<PeerId, Generation>,
    /// Another running peer has this one's key, and takes part in its place.
    pub(super) key_in_use: bool,
    pub(super) disk: DiskState,
    /// When that was told.
    pub(super) disk_since: Instant,
    pub(super) stopping: Option<Stopping>,
    pub(super) fault: Option<&'static str>,
    /// This peer was a member, and takes no part any more.
    pub(super) has_gone: bool,
    /// Who removed it, if it did not leave by itself.
    pub(super) removed_by: Option<PeerId>,
    /// Voters that say so, and could not show it (L1).
    pub(super) sent_away_by: BTreeSet<PeerId>,
    /// Whom links have let in, as strangers have shown and the log does not tell yet (L2).
    pub(super) shown_by_link: ShownByLink,
    /// Peers that were found out (L6).
    pub(super) evidence: Findings,
    /// Who has shown words in this peer's name that its store does not know.
    pub(super) foreign_words_of: BTreeSet<PeerId>,
    /// What authors have added of late (L8).
    pub(super) added: BTreeMap<PeerId, Added>,
    /// In this run it has come up to where another's log ended (R31).
    pub(super) knows_own_words: bool,
    /// The host takes nothing more of this peer for now.
    pub(super) is_over_quota: bool,

    pub(super) ready: Ready,
    pub(super) ready_count: u64,
    pub(super) later: Later,
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
        let outbox = Outbox::new(recovered.outbox, recovered.last_number);
        let doubt = recovered.tail_in_doubt && !planted(Bug::DoubtIgnored);
        let mut replica = Self {
            me,
            signer,
            incarnation: recovered.incarnation,
            boot: recovered.boot,
            generation: recovered.generation,
            now,
            prng: Prng::new(seed),
            hard_state: remembered(recovered.hard_state),
            term_ready: 0,
            synced: log.last().index,
            unsynced: VecDeque::new(),
            commit_persisted: log.commit(),
            checkpoint_index,
            flush_at: None,
            outbox,
            read: recovered.read,
            furthest: recovered.furthest,
            doubt: doubt
                .then(|| Doubt { term: recovered.hard_state.term, reports: BTreeMap::new() }),
            part: Part::follower(),
            reign: log.reign().cloned(),
            hint: None,
            distrusted: BTreeMap::new(),
            attach_count: 0,
            relay_at: now + config.lease_max_us,
            relay_behind: None,
            lease_until: now,
            suspect_at: match planted(Bug::RestartSuspectsAtOnce) {
                true => now,
                false => now + config.lease_min_us,
            },
            search: Search::default(),
            nominated: BTreeSet::new(),
            fetch_count: 0,
            seek_host_at: now,
            report_at: now + config.report_us,
            ranking: Arc::default(),
            receipts: BTreeMap::new(),
            goodbyes: BTreeMap::new(),
            links: BTreeMap::new(),
            round_trips: BTreeMap::new(),
            syncs: Estimate::default(),
            lateness: Lateness::default(),
            persisted_ready: 0,
            apart_since: Some(now),
            pasts: recovered.pasts,
            pasts_due_at: None,
            heard_terms: BTreeMap::new(),
            renewed_at: None,
            newer_incarnations: BTreeMap::new(),
            other_generations: BTreeMap::new(),
            key_in_use: false,
            disk: DiskState::Fit,
            disk_since: now,
            stopping: None,
            fault: None,
            has_gone: recovered.removed_by.is_some() && !planted(Bug::RemovalForgotten),
            removed_by: recovered.removed_by,
            sent_away_by: BTreeSet::new(),
            shown_by_link: ShownByLink::new(),
            evidence: match planted(Bug::EvidenceForgotten) {
                true => Findings::new(),
                false => recovered.evidence,
            },
            foreign_words_of: BTreeSet::new(),
            added: BTreeMap::new(),
            is_over_quota: false,
            knows_own_words: false,
            ready: Ready::default(),
            ready_count: 1,
            later: Later::default(),
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
                self.round_trips.entry(peer).or_default().add(rtt_us);
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
                self.unsynced.push_back((ready.number, last.index));
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
        let mut next = self.flush_at;
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
            other_generations: self.other_generations.clone(),
            majority_lost: self.is_majority_lost(),
            chat_name: state.chat_name.clone(),
            members: Arc::clone(&state.members),
            former_members: Arc::clone(&state.former_members),
            invite_links: state.invite_links.clone(),
            removed_by: self.removed_by,
            is_leaving: self.has_asked_to_leave(),
            key_in_use: self.key_in_use,
            evidence: self.evidence.clone(),
            quota: state.quota,
            is_over_quota: self.is_over_quota,
            voters: self.log.voters().clone(),
            links: self.links.clone(),
            receipts: self.all_receipts(),
            last: self.log.last().index,
            commit: self.log.commit(),
            queued: self.outbox.len(),
            ranking: Arc::clone(&self.ranking),
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
            if self.other_generations.remove(&message.from).is_some() {
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
        if index > self.read || planted(Bug::ReadGoesBack) {
            self.read = index;
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
        self.term_ready = self.ready_count;
        self.heard_terms.retain(|_, heard| *heard > term);
        self.become_follower();
        self.nominated.clear();
        self.lateness.forget_host();
        // There is nobody left whose lease could run.
        let until = self.now + self.config.lease_min_us + self.round();
        self.suspect_at = self.suspect_at.min(until);
        // Its host is looked for before anybody else is asked to pass the log on.
        self.relay_at = self.now + self.config.lease_max_us;
        self.ready.notices.push(Notice::Host { host: None, term });
    }

    pub(super) fn become_follower(&mut self) {
        if let Part::Host(hosting) = &self.part {
            if hosting.paused {
                self.ready.notices.push(Notice::Paused { paused: false });
            }
            self.suspect_at = self.now + self.config.lease_min_us;
            self.lease_until = self.now;
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
