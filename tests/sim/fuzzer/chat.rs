//! The peers of one chat with nothing around them: what happens next is always a step from
//! outside, one message, one sync, one timer at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use demes_protocol::Replica;
use demes_protocol::config::Config;
use demes_protocol::event::{Event, LinkState, Notice, Ready, Role};
use demes_protocol::message::{Body, Message, RefusedReason};
use demes_protocol::time::Instant;
use demes_protocol::types::{MemberState, PeerId};

use super::super::disk::{Disk, Found, Pending};
use super::super::invariants::{Broken, Confirmed, Invariants, Sent, Step, Synced, is_ignored};
use super::super::oracle::Oracle;
use super::super::peer::Peer;
use super::super::process::Wish;
use super::super::signing::signer;
use super::super::text;

/// Times that one timer may be due again at the same moment.
const WAKES_MAX: u32 = 64;

/// Names one message of a run: the `count`th of its kind from one to the other. It means the same
/// message when steps before it are left out, if that is still sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    pub from: usize,
    pub to: usize,
    pub kind: &'static str,
    pub count: u64,
}

/// A message on its way.
pub struct Flying {
    pub key: Key,
    pub message: Message,
}

/// What one peer was told of its own connection to another one, and that one's epoch then.
#[derive(Clone, Copy)]
pub struct Told {
    pub state: LinkState,
    pub epoch: u64,
}

pub struct Chat {
    /// In microseconds, the same for all: who is not woken does not notice.
    pub now: u64,
    pub config: Config,
    pub seed: u64,
    /// One-way delays between any two, as pings measure them.
    pub distance_us: u64,
    pub peers: Vec<Peer>,
    pub flying: Vec<Flying>,
    pub told: Vec<Vec<Told>>,
    /// Whose last batch was torn, until it has caught up with all.
    pub doubting: Vec<bool>,
    /// Pairs, the lower number first, between which nothing passes.
    pub cuts: BTreeSet<(usize, usize)>,
    pub oracle: Oracle,
    pub invariants: Invariants,
    pub broken: Option<Broken>,
    pub is_verbose: bool,
    todo: VecDeque<(usize, u64, Event)>,
    is_handling: bool,
    counts: BTreeMap<(usize, usize, &'static str), u64>,
    /// Messages that were sent, and hand-overs among them.
    pub sent: u64,
    pub hand_overs: u64,
    /// Things that people have said.
    pub said: u64,
    /// Timers that were due.
    pub wakes: u64,
    /// Hosts that began to serve, hand-overs and the like, for the statistics.
    pub seen: BTreeMap<&'static str, u64>,
}

impl Flying {
    /// Streams keep their order or break: entries, and submissions with their answers.
    pub fn stream(&self) -> Option<(usize, usize, bool)> {
        match &self.message.body {
            Body::Append(_) | Body::LookBack(_) => Some((self.key.from, self.key.to, true)),
            Body::Submit(_) | Body::SubmitAnswer(_) => Some((self.key.from, self.key.to, false)),
            _ => None,
        }
    }
}

pub fn kind(body: &Body) -> &'static str {
    match body {
        Body::Attach(_) => "Attach",
        Body::Append(_) => "Append",
        Body::LookBack(_) => "LookBack",
        Body::Heartbeat(_) => "Heartbeat",
        Body::Acknowledge(_) => "Acknowledge",
        Body::Submit(_) => "Submit",
        Body::SubmitAnswer(_) => "SubmitAnswer",
        Body::ReportDelays(_) => "ReportDelays",
        Body::Goodbye => "Goodbye",
        Body::Join(_) => "Join",
        Body::JoinAnswer(_) => "JoinAnswer",
        Body::Nominate(_) => "Nominate",
        Body::NominateAnswer(_) => "NominateAnswer",
        Body::Solicit(_) => "Solicit",
        Body::SolicitAnswer(_) => "SolicitAnswer",
        Body::RequestVote(_) => "RequestVote",
        Body::Vote(_) => "Vote",
        Body::Withdraw(_) => "Withdraw",
        Body::FetchLog(_) => "FetchLog",
        Body::FetchLogAnswer(_) => "FetchLogAnswer",
        Body::Announce(_) => "Announce",
        Body::HandOver(_) => "HandOver",
        Body::FindHost => "FindHost",
        Body::FindHostAnswer(_) => "FindHostAnswer",
        Body::Refused(_) => "Refused",
    }
}

impl Chat {
    pub fn new(config: Config, seed: u64, distance_us: u64, peers: Vec<Peer>) -> Self {
        let count = peers.len();
        let down = Told { state: LinkState::Down, epoch: 0 };
        Self {
            now: 1_000,
            config,
            seed,
            distance_us,
            peers,
            flying: Vec::new(),
            told: vec![vec![down; count]; count],
            doubting: vec![false; count],
            cuts: BTreeSet::new(),
            oracle: Oracle::default(),
            invariants: Invariants::new(),
            broken: None,
            is_verbose: false,
            todo: VecDeque::new(),
            is_handling: false,
            counts: BTreeMap::new(),
            sent: 0,
            hand_overs: 0,
            said: 0,
            wakes: 0,
            seen: BTreeMap::new(),
        }
    }

    pub fn log(&self, text: impl FnOnce() -> String) {
        if self.is_verbose {
            println!("{:>11.6} {}", self.now as f64 / 1e6, text());
        }
    }

    pub fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_insert(0) += 1;
    }

    pub fn break_off(&mut self, invariant: &'static str, what: String) {
        if is_ignored(invariant) {
            return;
        }
        self.log(|| format!("BROKEN {invariant}: {what}"));
        self.broken.get_or_insert(Broken { invariant, what });
    }

    fn hold(&mut self, result: Result<(), Broken>) {
        if let Err(broken) = result {
            self.break_off(broken.invariant, broken.what);
        }
    }

    pub fn runs(&self, peer: usize) -> bool {
        self.peers[peer].replica.is_some()
    }

    pub fn index_of(&self, id: PeerId) -> usize {
        usize::from(id.0[0]) - 1
    }

    pub fn is_active(&self, peer: usize) -> bool {
        let state = &self.peers[peer];
        let me = state.status.members.get(&state.id);
        state.replica.is_some() && me.is_some_and(|me| me.state == MemberState::Active)
    }

    /// The peer that hosts with the highest term.
    pub fn host(&self) -> Option<usize> {
        let hosts = (0..self.peers.len())
            .filter(|peer| self.runs(*peer) && self.peers[*peer].status.role == Role::Host);
        hosts.max_by_key(|peer| self.peers[*peer].status.term)
    }

    // ---- processes ----

    pub fn start(&mut self, peer: usize) {
        let state = &mut self.peers[peer];
        if state.replica.is_some() || !state.joined {
            return;
        }
        let Found::Sound(recovered) = state.disk.recover() else {
            unreachable!("no bit flips here");
        };
        self.doubting[peer] |= recovered.tail_in_doubt;
        let state = &mut self.peers[peer];
        state.epoch += 1;
        let seed = self.seed ^ (peer as u64) << 32 ^ state.epoch << 40;
        let replica = Replica::new(
            self.config.clone(),
            state.id,
            signer(state.id),
            *recovered,
            Instant(self.now),
            seed,
        );
        state.status = replica.status();
        state.replica = Some(replica);
        self.log(|| format!("{} starts", peer + 1));
        self.invariants.start(peer, &self.peers[peer].status);
        let down = Told { state: LinkState::Down, epoch: 0 };
        self.told[peer].fill(down);
        self.handle(peer, Event::Tick);
    }

    /// The process is gone, and with it what was on its way to it. Of what was being written, so
    /// many parts have become durable.
    pub fn crash(&mut self, peer: usize, durable: usize) {
        if self.peers[peer].replica.take().is_none() {
            return;
        }
        self.log(|| format!("{}'s process ends", peer + 1));
        let written = self.peers[peer].disk.crash(durable);
        for ready in written {
            self.check_synced(peer, &ready);
        }
        self.flying.retain(|flying| flying.key.to != peer);
    }

    pub fn forget_store(&mut self, peer: usize) {
        let state = &mut self.peers[peer];
        state.disk = Disk::new(state.disk.incarnation() + 1_000, Vec::new());
        state.joined = false;
        state.is_stopped = false;
        state.has_answered = false;
        state.wish = Wish::Join;
        self.doubting[peer] = false;
    }

    // ---- connections ----

    pub fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cuts.contains(&(a.min(b), a.max(b)))
    }

    /// What a peer finds that looks at its connection now.
    pub fn found(&self, peer: usize, other: usize) -> LinkState {
        match () {
            () if self.is_cut(peer, other) => LinkState::Down,
            () if self.runs(other) => LinkState::Up,
            () => LinkState::Refused,
        }
    }

    /// Whether the peer does not know how its connection is.
    pub fn is_stale(&self, peer: usize, other: usize) -> bool {
        let told = self.told[peer][other];
        let is_broken = told.state == LinkState::Up && told.epoch != self.peers[other].epoch;
        self.runs(peer) && peer != other && (is_broken || told.state != self.found(peer, other))
    }

    fn is_connected(&self, peer: usize, other: usize) -> bool {
        let told = self.told[peer][other];
        // Who is not in the chat yet dials for one call.
        let dials = !self.runs(peer) || told.state == LinkState::Up;
        let is_same = !self.runs(peer) || told.epoch == self.peers[other].epoch;
        dials && is_same && !self.is_cut(peer, other) && self.runs(other)
    }

    /// A peer looks at its own connection, and tells its replica what is new.
    pub fn look(&mut self, peer: usize, other: usize) {
        if !self.is_stale(peer, other) {
            return;
        }
        let told = self.told[peer][other];
        let found = self.found(peer, other);
        let id = self.peers[other].id;
        if told.state == LinkState::Up {
            // Calls over it are gone: requests one way, answers the other.
            self.told[peer][other].state = LinkState::Down;
            self.flying.retain(|flying| {
                let is_answer = flying.message.body.is_answer();
                let caller = if is_answer { flying.key.to } else { flying.key.from };
                let called = if is_answer { flying.key.from } else { flying.key.to };
                (caller, called) != (peer, other)
            });
            self.handle(peer, Event::Link { peer: id, state: LinkState::Down });
            return;
        }
        self.told[peer][other] = Told { state: found, epoch: self.peers[other].epoch };
        self.log(|| format!("{} finds {} {found:?}", peer + 1, other + 1));
        self.handle(peer, Event::Link { peer: id, state: found });
        if found == LinkState::Up {
            for _ in 0..3 {
                self.handle(peer, Event::RoundTrip { peer: id, rtt_us: 2 * self.distance_us });
            }
        }
    }

    // ---- events ----

    /// Tells a replica something. What follows from it at once comes after it, in order.
    pub fn handle(&mut self, peer: usize, event: Event) {
        self.todo.push_back((peer, self.peers[peer].epoch, event));
        if std::mem::replace(&mut self.is_handling, true) {
            return;
        }
        while let Some((peer, epoch, event)) = self.todo.pop_front() {
            let now = Instant(self.now);
            let state = &mut self.peers[peer];
            if let Some(replica) = state.replica.as_mut().filter(|_| state.epoch == epoch) {
                replica.handle(now, event);
                self.execute(peer);
            }
        }
        self.is_handling = false;
    }

    /// The peer's next timer, and whether that is over afterwards.
    pub fn wake(&mut self, peer: usize) {
        let timeout = |chat: &Self| chat.peers[peer].replica.as_ref()?.poll_timeout();
        let Some(at) = timeout(self) else { return };
        self.now = self.now.max(at.0);
        for _ in 0..WAKES_MAX {
            self.wakes += 1;
            self.handle(peer, Event::Tick);
            if self.broken.is_some() || timeout(self).is_none_or(|next| next.0 > self.now) {
                return;
            }
        }
        let what = format!("{} wants to be woken in the past, again and again", peer + 1);
        self.break_off("no busy loop", what);
        self.now += 1_000;
    }

    fn execute(&mut self, peer: usize) {
        let state = &mut self.peers[peer];
        let Some(replica) = &mut state.replica else { return };
        let mut ready = replica.take_ready();
        let status = replica.status();
        let before = std::mem::replace(&mut state.status, status);
        let state = &self.peers[peer];
        let Some(replica) = &state.replica else { return };
        let step = Step {
            peer,
            peers: &self.peers,
            replica,
            before: &before,
            status: &state.status,
            ready: &ready,
            oracle: &self.oracle,
        };
        let result = self.invariants.after_step(&step);
        self.hold(result);
        let term = self.peers[peer].status.term;
        for entry in &ready.committed {
            self.oracle.commit(entry, term);
        }
        self.doubting[peer] &= self.peers[peer].status.commit < self.oracle.last();
        if ready.persist.truncate_from.is_some() {
            self.see("logs cut");
        }
        for message in std::mem::take(&mut ready.early) {
            self.send(peer, message);
        }
        for notice in std::mem::take(&mut ready.notices) {
            self.notice(peer, notice);
        }
        for load in std::mem::take(&mut ready.loads) {
            let entries = self.peers[peer].disk.read(load.from, load.through, 10);
            let entries = entries.unwrap_or_default();
            self.handle(peer, Event::Loaded { load, entries });
        }
        if !self.runs(peer) {
            return;
        }
        if ready.persist.is_empty() && self.peers[peer].disk.pending.is_empty() {
            self.release(peer, ready);
        } else if !ready.is_empty() {
            let since = self.now;
            self.peers[peer].disk.pending.push_back(Pending { ready, since });
        }
    }

    /// The oldest `Ready` that waits becomes durable.
    pub fn sync(&mut self, peer: usize) {
        if !self.runs(peer) || self.peers[peer].disk.pending.is_empty() {
            return;
        }
        let epoch = self.peers[peer].epoch;
        for ready in self.peers[peer].disk.write(1) {
            self.check_synced(peer, &ready);
            let (number, is_written) = (ready.number, !ready.persist.is_empty());
            self.release(peer, ready);
            if is_written && self.runs(peer) && self.peers[peer].epoch == epoch {
                self.handle(peer, Event::Persisted { ready: number, sync_us: 1_000 });
            }
        }
    }

    fn check_synced(&mut self, peer: usize, ready: &Ready) {
        let synced =
            Synced { peer, peers: &self.peers, persist: &ready.persist, oracle: &self.oracle };
        let result = self.invariants.after_sync(&synced);
        self.hold(result);
    }

    fn release(&mut self, peer: usize, ready: Ready) {
        for message in ready.messages {
            self.send(peer, message);
        }
        for notice in ready.persisted_notices {
            self.notice(peer, notice);
        }
    }

    // ---- messages ----

    pub fn send(&mut self, from: usize, message: Message) {
        let to = self.index_of(message.to);
        let sent =
            Sent { peer: from, to, peers: &self.peers, message: &message, oracle: &self.oracle };
        let result = self.invariants.on_sent(&sent);
        self.hold(result);
        let kind = kind(&message.body);
        let count = self.counts.entry((from, to, kind)).or_insert(0);
        *count += 1;
        let key = Key { from, to, kind, count: *count };
        self.sent += 1;
        self.hand_overs += u64::from(kind == "HandOver");
        let (caller, called) = if message.body.is_answer() { (to, from) } else { (from, to) };
        if let Body::FetchLogAnswer(answer) = &message.body {
            let gives = !answer.entries.is_empty();
            self.see(if gives { "logs to adopt" } else { "looks back for adoption" });
        }
        let arrives = self.is_connected(caller, called) && (self.runs(to) || kind == "JoinAnswer");
        let is_answer_to_newcomer = !self.runs(to) && self.peers[to].wants_in;
        let arrives = arrives || (is_answer_to_newcomer && !self.is_cut(from, to));
        self.log(|| {
            let lost = if arrives { "" } else { " (lost)" };
            format!("{}{lost}", text::message(&message))
        });
        if arrives {
            self.flying.push(Flying { key, message });
        } else {
            self.break_stream(&message);
        }
    }

    /// A stream that has lost something breaks, and its reader notices.
    fn break_stream(&mut self, message: &Message) {
        let (from, to) = (self.index_of(message.from), self.index_of(message.to));
        if matches!(message.body, Body::Append(_) | Body::LookBack(_)) && self.peers[to].joined {
            self.flying.retain(|flying| flying.stream() != Some((from, to, true)));
            self.handle(to, Event::Detached { peer: message.from });
        }
    }

    /// Takes a message out of the air.
    pub fn take(&mut self, key: Key) -> Option<Message> {
        let position = self.flying.iter().position(|flying| flying.key == key)?;
        Some(self.flying.remove(position).message)
    }

    /// What arrives before that one, or with it.
    pub fn first_of_stream(&self, key: Key) -> Key {
        let known = self.flying.iter().find(|flying| flying.key == key);
        let Some(stream) = known.and_then(|flying| flying.stream()) else { return key };
        let first = self.flying.iter().find(|flying| flying.stream() == Some(stream));
        first.map_or(key, |first| first.key)
    }

    /// A call is lost, or a stream breaks, which its reader notices.
    pub fn lose(&mut self, key: Key) {
        let Some(flying) = self.flying.iter().find(|flying| flying.key == key) else { return };
        let Some(stream) = flying.stream() else {
            self.take(key);
            return;
        };
        let Some(message) = self.take(key) else { return };
        self.flying.retain(|flying| flying.stream() != Some(stream));
        self.break_stream(&message);
    }

    pub fn deliver(&mut self, message: Message) {
        let (from, to) = (self.index_of(message.from), self.index_of(message.to));
        if self.is_cut(from, to) {
            self.break_stream(&message);
            return;
        }
        if !self.peers[to].joined {
            self.answers_join(to, &message);
            return;
        }
        self.handle(to, Event::Message(message));
    }

    fn answers_join(&mut self, peer: usize, message: &Message) {
        let state = &mut self.peers[peer];
        if message.to_incarnation != state.disk.incarnation() || !state.wants_in {
            return;
        }
        let is_accepted = matches!(&message.body, Body::JoinAnswer(answer) if answer.accepted);
        let refused = match &message.body {
            Body::Refused(refused) => Some(refused.reason),
            _ => None,
        };
        if state.wish == Wish::Decline && (is_accepted || refused == Some(RefusedReason::NotMember))
        {
            // Where there is no such invitation, there is nothing to decline.
            state.wants_in = false;
            self.forget_store(peer);
        } else if is_accepted {
            state.joined = true;
            self.start(peer);
        } else if matches!(refused, Some(RefusedReason::Removed { .. })) {
            self.forget_store(peer);
        }
    }

    // ---- notices ----

    fn notice(&mut self, peer: usize, notice: Notice) {
        self.log(|| format!("{}: {}", peer + 1, text::notice(&notice)));
        let state = &self.peers[peer];
        if state.replica.is_none() {
            return;
        }
        match notice {
            Notice::Queued { number } => {
                self.oracle.queue((state.id, state.disk.incarnation(), number));
            }
            Notice::Confirmed { number, index } => {
                let confirmed = Confirmed { peer: state, number, index, oracle: &self.oracle };
                let result = self.invariants.on_confirmed(&confirmed);
                self.hold(result);
                let state = &self.peers[peer];
                self.oracle.confirm((state.id, state.disk.incarnation(), number), index);
                self.see("confirmed");
            }
            Notice::Fault { what } if !state.is_stopped => {
                self.break_off("no proof of a fault", format!("{}: {what}", peer + 1));
            }
            Notice::BelowOwnPast => {
                if !state.disk.has_lost {
                    let what = format!("{} has lost nothing", peer + 1);
                    self.break_off("no false alarm", what);
                }
                self.see("restored stores noticed");
                self.peers[peer].is_stopped = true;
            }
            Notice::MayStop => {
                self.see("stopped");
                self.crash(peer, usize::MAX);
            }
            Notice::Removed { .. } => {
                self.see("removed");
                self.crash(peer, usize::MAX);
                self.peers[peer].wants_in = false;
                self.forget_store(peer);
            }
            Notice::Members => {
                // Links that the replica forgot with a membership are told again.
                for other in 0..self.peers.len() {
                    if other != peer && self.is_connected(peer, other) {
                        let id = self.peers[other].id;
                        self.handle(peer, Event::Link { peer: id, state: LinkState::Up });
                    }
                }
            }
            Notice::Serving { .. } => self.see("served"),
            Notice::Suspect { .. } => self.see("suspicions"),
            Notice::Standing { .. } => self.see("candidacies"),
            _ => {}
        }
    }
}
