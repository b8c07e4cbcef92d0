//! The peers of one chat, driven by one seed: time, events, and what a driver does with a `Ready`.
//!
//! Everything random comes from the seed, and everything that goes wrong or is done by people is a
//! step of the plan. What the peers are made of stands in `disk` and `network`, processes and
//! connections in `process` and `links`, what must hold in `invariants`.

use std::hash::{DefaultHasher, Hash, Hasher};

use demes_protocol::event::{DiskState, Event, Load, Notice, Ready, Role, Status};
use demes_protocol::message::{Body, Message};
use demes_protocol::prng::Prng;
use demes_protocol::time::Instant;
use demes_protocol::types::PeerId;

use super::counts::Counts;
use super::failover::Failover;
use super::invariants::{Broken, Invariants, Sent, Step, Synced, is_ignored};
use super::liars::Lie;
use super::links::Links;
use super::liveness::Liveness;
use super::network::Network;
use super::oracle::Oracle;
pub use super::peer::Peer;
use super::plan::{Action, Plan, Who};
use super::queue::{Queue, What};
use super::signing::is_genuine;
use super::steps::Course;
use super::text;

pub const MS: u64 = 1_000;
pub const SECOND: u64 = 1_000_000;
/// The most events that a driver takes into its replica before it executes what that wants.
const TURN_MAX: usize = 512;
/// Entries that one read of the store brings.
const LOAD_ENTRIES_MAX: usize = 10;
/// How often a peer measures its connections.
const MEASURE_US: u64 = SECOND;
/// R24: after how long a write is told of, and when the process ends.
const SYNC_STALLING_US: u64 = 500 * MS;
const SYNC_STALLED_US: u64 = 2 * SECOND;
const SYNC_DEAD_US: u64 = 20 * SECOND;

pub struct World {
    pub now: u64,
    pub prng: Prng,
    pub plan: Plan,
    pub peers: Vec<Peer>,
    pub network: Network,
    pub links: Links,
    pub oracle: Oracle,
    pub invariants: Invariants,
    pub counts: Counts,
    /// The first invariant that broke. Nothing happens after that.
    pub broken: Option<Broken>,
    /// Over everything that any replica was told and has said.
    pub digest: u64,
    pub failover: Failover,
    pub liveness: Liveness,
    /// Things that people have said.
    pub said: u64,
    /// Somebody whom later steps are about.
    pub marked: Option<usize>,
    /// What every sync takes more, at all peers: so much, and up to that much.
    pub slow_syncs: (u64, u64),
    pub course: Course,
    queue: Queue,
    /// The peer whose loop takes several events into one turn.
    in_turn: Option<usize>,
    /// The faults are over.
    pub is_healing: bool,
    is_verbose: bool,
}

impl World {
    /// A chat that its founder has just made.
    pub fn new(plan: Plan, is_verbose: bool) -> Self {
        let prng = Prng::new(plan.seed ^ (plan.luck << 32) ^ 0x5eed);
        let network = Network::new(plan.distances.clone());
        let mut world = Self {
            now: 0,
            prng,
            peers: Vec::new(),
            links: Links::new(plan.members),
            network,
            oracle: Oracle::default(),
            invariants: Invariants::new(),
            counts: Counts::default(),
            broken: None,
            digest: 0,
            failover: Failover::default(),
            liveness: Liveness::default(),
            said: 0,
            marked: None,
            slow_syncs: (0, 0),
            course: Course::default(),
            queue: Queue::default(),
            in_turn: None,
            is_healing: false,
            is_verbose,
            plan,
        };
        world.found_chat();
        world.at(0, What::Watch);
        if let Some(first) = world.plan.steps.first() {
            world.at(first.at, What::Act(0));
        }
        world
    }

    /// Lets everything happen until `end`, or until an invariant breaks.
    pub fn run_until(&mut self, end: u64) {
        while self.broken.is_none()
            && let Some((at, what)) = self.queue.pop(end)
        {
            self.now = at;
            self.happen(what);
        }
        self.now = end.max(self.now);
    }

    pub fn at(&mut self, delay: u64, what: What) {
        self.queue.push(self.now + delay, what);
    }

    pub fn later(&mut self, delay: u64, action: Action) {
        self.at(delay, What::Later(action));
    }

    pub fn log(&self, text: impl FnOnce() -> String) {
        if self.is_verbose {
            println!("{:>11.6} {}", self.now as f64 / 1e6, text());
        }
    }

    /// Stops everything, because something does not hold.
    pub fn break_off(&mut self, broken: Broken) {
        if is_ignored(broken.invariant) {
            return;
        }
        self.log(|| format!("BROKEN {}: {}", broken.invariant, broken.what));
        self.broken.get_or_insert(broken);
    }

    // ---- events ----

    fn happen(&mut self, what: What) {
        if let Some(peer) = what.process() {
            let state = &mut self.peers[peer];
            let is_awaking = matches!(what, What::Thaw { .. } | What::Turn { .. });
            let is_waiting = state.frozen || self.now < state.busy_until || !state.held.is_empty();
            if is_waiting && !is_awaking && self.in_turn != Some(peer) {
                state.held.push(what);
                return;
            }
        }
        match what {
            What::Deliver { to, network_epoch, message } => {
                self.deliver(to, network_epoch, *message);
            }
            What::Detached { peer, network_epoch, host }
                if self.peers[peer].network_epoch == network_epoch =>
            {
                self.event(peer, Event::Detached { peer: host });
            }
            What::Tell { peer, epoch, event } if self.runs(peer, epoch) => self.event(peer, *event),
            What::Link { peer, other } => self.look_at_link(peer, other),
            What::Measure { peer, epoch } if self.runs(peer, epoch) => {
                self.measure(peer);
                self.at(MEASURE_US, What::Measure { peer, epoch });
            }
            What::Written { peer, epoch, write }
                if self.runs(peer, epoch) && self.peers[peer].disk.write_number == write =>
            {
                self.written(peer);
            }
            What::DiskLook { peer, epoch, since } if self.runs(peer, epoch) => {
                self.look_at_disk(peer, since);
            }
            What::Loaded { peer, epoch, load } if self.runs(peer, epoch) => {
                self.loaded(peer, load);
            }
            What::Tick { peer, epoch } if self.runs(peer, epoch) => {
                if self.peers[peer].tick_at <= self.now {
                    self.peers[peer].tick_at = u64::MAX;
                }
                self.event(peer, Event::Tick);
            }
            What::Turn { peer, epoch } if self.runs(peer, epoch) => self.catch_up(peer),
            What::Join { peer } => self.join(peer),
            What::Start { peer } => self.start(peer),
            What::Thaw { peer, epoch } if self.runs(peer, epoch) => self.thaw(peer),
            What::StopDeadline { peer, epoch } if self.runs(peer, epoch) => {
                self.end_process(peer, false);
            }
            What::Room { peer } => {
                self.peers[peer].disk_is_full = false;
                let epoch = self.peers[peer].epoch;
                self.at(0, What::DiskState { peer, epoch });
            }
            What::DiskState { peer, epoch } if self.runs(peer, epoch) => {
                self.tell_disk_state(peer);
            }
            What::Repair { peer } => self.move_store_away(peer),
            What::StopWatching { peer }
                if self.peers[peer].disk.is_old() && !self.peers[peer].is_stopped =>
            {
                self.counts.add("restored stores that nobody noticed");
                self.peers[peer].is_stopped = true;
                self.move_store_away(peer);
            }
            What::EndCondition(condition) => {
                self.network.end(condition);
                self.look_at_all_links();
            }
            What::Flap { a, b, period_us, left } => self.flap(a, b, period_us, left),
            What::Act(step) => self.act(step),
            What::Later(action) => {
                self.log(|| format!("-- {action:?}"));
                action.happen(self);
            }
            What::FastSyncs => self.slow_syncs = (0, 0),
            What::Watch => self.watch_liveness(),
            What::Say { peer, count } => (0..count).for_each(|_| self.say(peer)),
            // It was meant for a process that has ended.
            _ => {}
        }
    }

    /// Whether that very process still runs.
    fn runs(&self, peer: usize, epoch: u64) -> bool {
        self.peers[peer].replica.is_some() && self.peers[peer].epoch == epoch
    }

    /// The peer's own clock.
    pub fn local(&self, peer: usize) -> Instant {
        let time = self.now as i64 + self.peers[peer].clock_us;
        Instant(u64::try_from(time).expect("a peer's clock starts at its process"))
    }

    /// Tells a replica something, as soon as its loop has time.
    pub fn tell(&mut self, peer: usize, event: Event) {
        let epoch = self.peers[peer].epoch;
        self.at(0, What::Tell { peer, epoch, event: Box::new(event) });
    }

    pub fn event(&mut self, peer: usize, event: Event) {
        let now = self.local(peer);
        let Some(replica) = &mut self.peers[peer].replica else { return };
        let mut hasher = DefaultHasher::new();
        (self.digest, peer, self.now, &event).hash(&mut hasher);
        self.digest = hasher.finish();
        replica.handle(now, event);
        if self.in_turn.is_none() {
            self.execute(peer);
        }
    }

    /// Everything that was held back, in turns.
    pub fn catch_up(&mut self, peer: usize) {
        let mut held = std::mem::take(&mut self.peers[peer].held).into_iter().peekable();
        while held.peek().is_some() && self.broken.is_none() {
            self.in_turn = Some(peer);
            for what in held.by_ref().take(TURN_MAX) {
                self.happen(what);
            }
            self.in_turn = None;
            self.execute(peer);
        }
    }

    // ---- what a driver does with a `Ready` ----

    fn execute(&mut self, peer: usize) {
        let Some(replica) = &mut self.peers[peer].replica else { return };
        let mut ready = replica.take_ready();
        let timeout = replica.poll_timeout();
        let status = replica.status();
        self.check_step(peer, &ready, status);
        if self.broken.is_some() || self.is_trapped_before(peer, &ready) {
            return;
        }
        for message in std::mem::take(&mut ready.early) {
            self.send(peer, message);
        }
        if self.is_trapped_after_early(peer, &ready) {
            return;
        }
        for notice in std::mem::take(&mut ready.notices) {
            self.notice(peer, notice);
        }
        let epoch = self.peers[peer].epoch;
        if self.peers[peer].replica.is_none() {
            return;
        }
        for load in std::mem::take(&mut ready.loads) {
            self.counts.add("reads from the store");
            let delay = 100 + self.prng.below(2 * MS);
            self.at(delay, What::Loaded { peer, epoch, load });
        }
        self.store(peer, ready);
        if !self.runs(peer, epoch) {
            return;
        }
        if self.plan.is_busy {
            let busy_us = self.prng.below(MS);
            self.peers[peer].busy_until = self.now + busy_us;
            self.at(busy_us, What::Turn { peer, epoch });
        }
        // One tick is under way per peer, so that they do not breed.
        if let Some(timeout) = timeout {
            let at = self.now + timeout.0.saturating_sub(self.local(peer).0).max(1);
            if at < self.peers[peer].tick_at {
                self.peers[peer].tick_at = at;
                self.at(at - self.now, What::Tick { peer, epoch });
            }
        }
    }

    fn check_step(&mut self, peer: usize, ready: &Ready, status: Status) {
        let before = std::mem::replace(&mut self.peers[peer].status, status);
        let state = &self.peers[peer];
        let Some(replica) = &state.replica else { return };
        let step = Step {
            peer,
            peers: &self.peers,
            replica,
            before: &before,
            status: &state.status,
            ready,
            oracle: &self.oracle,
        };
        if let Err(broken) = self.invariants.after_step(&step) {
            self.break_off(broken);
            return;
        }
        self.counts.step(ready, &self.oracle);
        if state.lie.is_some() && (before.role, state.status.role) == (Role::Candidate, Role::Host)
        {
            self.counts.add("liars that hosted");
        }
        let term = self.peers[peer].status.term;
        for entry in &ready.committed {
            self.oracle.commit(entry, term);
        }
    }

    fn store(&mut self, peer: usize, ready: Ready) {
        let disk = &mut self.peers[peer].disk;
        if ready.persist.is_empty() && disk.pending.is_empty() {
            self.release(peer, ready);
            return;
        }
        if ready.is_empty() {
            return;
        }
        disk.pending.push_back(super::disk::Pending { ready, since: self.now });
        if disk.writing == 0 {
            self.start_write(peer);
        }
    }

    fn start_write(&mut self, peer: usize) {
        let (slow_us, more_us) = self.slow_syncs;
        let normal = self.plan.sync_us_min + self.prng.below(self.plan.sync_us_max);
        let normal = match more_us {
            0 => normal + slow_us,
            _ => normal + slow_us + self.prng.below(more_us),
        };
        let now = self.now;
        let state = &mut self.peers[peer];
        // What waited for the write before it does not make this one slow.
        state.disk.pending[0].since = now;
        state.disk.begin_write();
        let delay = normal.max(state.disk.stalled_until.saturating_sub(now));
        let (epoch, write) = (state.epoch, state.disk.write_number);
        let since = state.disk.pending[0].since;
        self.at(delay, What::Written { peer, epoch, write });
        for limit in [SYNC_STALLING_US, SYNC_STALLED_US, SYNC_DEAD_US] {
            if now + delay > since + limit {
                let wait = (since + limit).saturating_sub(now);
                self.at(wait, What::DiskLook { peer, epoch, since });
            }
        }
    }

    /// The storage thread is done with what it was given.
    fn written(&mut self, peer: usize) {
        if self.peers[peer].disk.fails {
            self.counts.add("processes ended by a failed write");
            self.end_process(peer, false);
            return;
        }
        let took = self.now - self.peers[peer].disk.pending[0].since;
        let count = self.peers[peer].disk.writing;
        let readies = self.peers[peer].disk.write(count);
        for ready in &readies {
            self.check_synced(peer, ready);
        }
        let epoch = self.peers[peer].epoch;
        let in_turn = self.in_turn.replace(peer);
        for ready in readies {
            let (number, is_written) = (ready.number, !ready.persist.is_empty());
            let trapped = self.peers[peer].trapped_ready == Some(number);
            if self.springs(peer, trapped && !self.trap_lets_messages_go(peer)) {
                break;
            }
            self.release(peer, ready);
            if self.springs(peer, trapped) || !self.runs(peer, epoch) {
                break;
            }
            if is_written {
                self.event(peer, Event::Persisted { ready: number, sync_us: took });
            }
        }
        // What only stood behind it, with nothing to write, waits for no further write.
        while self.runs(peer, epoch)
            && let Some(ready) = self.peers[peer].disk.take_unwritten()
        {
            self.release(peer, ready);
        }
        self.in_turn = in_turn;
        if !self.runs(peer, epoch) {
            return;
        }
        self.tell_disk_state(peer);
        if !self.peers[peer].disk.pending.is_empty() {
            self.start_write(peer);
        }
        if self.in_turn.is_none() {
            self.execute(peer);
        }
    }

    pub fn check_synced(&mut self, peer: usize, ready: &Ready) {
        let synced =
            Synced { peer, peers: &self.peers, persist: &ready.persist, oracle: &self.oracle };
        if let Err(broken) = self.invariants.after_sync(&synced) {
            self.break_off(broken);
        }
    }

    /// R24: a write takes long.
    fn look_at_disk(&mut self, peer: usize, since: u64) {
        let oldest = self.peers[peer].disk.pending.front().map(|pending| pending.since);
        if oldest.is_some_and(|oldest| self.now >= oldest + SYNC_DEAD_US) {
            self.counts.add("processes ended by a stall");
            self.end_process(peer, false);
        } else if oldest == Some(since) {
            self.tell_disk_state(peer);
        }
    }

    pub fn tell_disk_state(&mut self, peer: usize) {
        let state = &mut self.peers[peer];
        let oldest = state.disk.pending.front();
        let waited = oldest.map_or(0, |oldest| self.now - oldest.since);
        let disk = match waited {
            SYNC_STALLED_US.. => DiskState::Stalled,
            SYNC_STALLING_US.. => DiskState::Stalling,
            _ if state.disk_is_full => DiskState::Full,
            _ => DiskState::Fit,
        };
        if disk != state.disk_state {
            state.disk_state = disk;
            self.counts.add(match disk {
                DiskState::Full => "disks full",
                DiskState::Fit => "disks fit again",
                DiskState::Stalling | DiskState::Stalled => "disks stalled",
            });
            self.log(|| format!("{}'s disk: {disk:?}", peer + 1));
            self.event(peer, Event::Disk(disk));
        }
    }

    fn loaded(&mut self, peer: usize, load: Load) {
        match self.peers[peer].disk.read(load.from, load.through, LOAD_ENTRIES_MAX) {
            Some(entries) => self.event(peer, Event::Loaded { load, entries }),
            None => {
                self.counts.add("damaged entries met while running");
                self.peers[peer].is_damaged = true;
                self.end_process(peer, false);
            }
        }
    }

    fn release(&mut self, peer: usize, ready: Ready) {
        for message in ready.messages {
            self.send(peer, message);
        }
        for notice in ready.persisted_notices {
            self.notice(peer, notice);
        }
    }

    fn notice(&mut self, peer: usize, notice: Notice) {
        self.log(|| format!("{}: {}", peer + 1, text::notice(&notice)));
        self.failover.note(self.now, &notice);
        self.note_liveness(&notice);
        self.course.note(self.now, &notice);
        if self.peers[peer].replica.is_none() {
            return;
        }
        self.obey(peer, notice);
    }

    // ---- messages ----

    pub fn index_of(&self, id: PeerId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == id)
    }

    pub fn send(&mut self, from: usize, mut message: Message) {
        let Some(to) = self.index_of(message.to) else { return };
        let sent =
            Sent { peer: from, to, peers: &self.peers, message: &message, oracle: &self.oracle };
        if let Err(broken) = self.invariants.on_sent(&sent) {
            self.break_off(broken);
            return;
        }
        self.counts.sent(&message.body);
        if let Some(lie) = self.peers[from].lie {
            self.lie(from, lie, &mut message.body);
            if lie == Lie::Reigns {
                self.tell_beside(from, &message);
            }
        }
        self.carry(from, to, message);
    }

    fn deliver(&mut self, to: usize, network_epoch: u64, message: Message) {
        // A connection does not outlive the process at its end.
        if self.answers_join(to, &message) || self.peers[to].network_epoch != network_epoch {
            return;
        }
        if self.peers[to].lie == Some(Lie::TakesNothing)
            && matches!(message.body, Body::HandOver(_))
        {
            return;
        }
        if !is_genuine(&message) {
            self.counts.add("messages that are not genuine");
            return;
        }
        if let (Body::Attach(attach), Some(from)) = (&message.body, self.index_of(message.from)) {
            self.network.open_stream(to, from);
            if self.peers[to].lie == Some(Lie::Reigns) {
                self.answer_falsely(to, &message, attach);
            }
        }
        self.event(to, Event::Message(message));
    }

    /// Whoever that is at this moment.
    pub fn find(&self, who: Who) -> Option<usize> {
        match who {
            Who::Peer(peer) => Some(peer),
            Who::Host => self.host(),
            Who::Heir => {
                let host = self.host()?;
                let ranking = &self.peers[host].status.ranking.candidates;
                let mut heirs = ranking.iter().map(|candidate| candidate.peer);
                self.index_of(heirs.find(|heir| *heir != self.peers[host].id)?)
            }
        }
    }

    /// The peer that hosts with the highest term, whoever believes what.
    pub fn host(&self) -> Option<usize> {
        let hosts = (0..self.peers.len()).filter(|peer| {
            self.peers[*peer].replica.is_some() && self.peers[*peer].status.role == Role::Host
        });
        hosts.max_by_key(|peer| self.peers[*peer].status.term)
    }
}
