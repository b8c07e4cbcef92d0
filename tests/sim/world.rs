//! The peers of one chat, their disks and their network, driven by one seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use demes_protocol::Replica;
use demes_protocol::config::Config;
use demes_protocol::event::{Event, LinkState, Notice, Proposal, Ready, Role};
use demes_protocol::founding::founding_entry;
use demes_protocol::message::{Body, Join, Message};
use demes_protocol::prng::Prng;
use demes_protocol::time::Instant;
use demes_protocol::types::{MemberState, Membership, Payload, PeerId};

use super::check::Check;
use super::disk::Disk;
use super::network::{Fate, Network};

pub(super) const SECOND: u64 = 1_000_000;
/// Faults come and go for this long, and then everything heals.
pub(super) const FAULTS_UNTIL: u64 = 30 * SECOND;
/// After healing, everything must agree within this time.
const HEALED_WITHIN: u64 = 120 * SECOND;

pub(super) struct Peer {
    pub id: PeerId,
    /// Absent while crashed, and before it has joined.
    pub replica: Option<Replica>,
    pub disk: Disk,
    pub invited: bool,
    pub joined: bool,
    pub syncing: bool,
    pub tick_at: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    at: u64,
    order: u64,
    what: What,
}

/// Something that will happen. Messages lie in a table of their own, since they have no order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Deliver { to: usize, parcel: usize, boot: u64 },
    Detached { peer: usize, host: usize },
    Link { peer: usize, other: usize, state: LinkState },
    Sync { peer: usize, boot: u64 },
    Tick { peer: usize, boot: u64 },
    Speak,
    Join { peer: usize },
    Fault,
    Restart { peer: usize },
    Heal { generation: u64 },
}

pub struct World {
    pub(super) now: u64,
    pub(super) prng: Prng,
    pub(super) peers: Vec<Peer>,
    pub(super) network: Network,
    pub(super) queue: BinaryHeap<Reverse<Due>>,
    pub(super) parcels: Vec<Option<Message>>,
    pub(super) order: u64,
    pub(super) generation: u64,
    pub check: Check,
    pub crashes: u64,
    pub digest: u64,
    pub(super) verbose: bool,
    pub(super) seed: u64,
}

impl World {
    pub fn new(seed: u64, verbose: bool) -> Self {
        let mut prng = Prng::new(seed);
        let count = [1, 2, 3, 3, 4, 5, 5, 5, 7][prng.below(9) as usize];
        let founder = PeerId([1; 32]);
        let (_, first) = founding_entry(
            founder,
            1_001,
            "chat".into(),
            "founder".into(),
            "h:1".into(),
            0,
            |_| [0; 64],
        );
        let peers = (0..count)
            .map(|i| Peer {
                id: PeerId([i + 1; 32]),
                replica: None,
                disk: Disk::new(
                    1_001 + u64::from(i),
                    if i == 0 { vec![first.clone().into()] } else { Vec::new() },
                ),
                invited: i == 0,
                joined: i == 0,
                syncing: false,
                tick_at: u64::MAX,
            })
            .collect();
        let mut world = Self {
            now: 0,
            prng,
            peers,
            network: Network::calm(),
            queue: BinaryHeap::new(),
            parcels: Vec::new(),
            order: 0,
            generation: 0,
            check: Check::default(),
            crashes: 0,
            digest: 0,
            verbose,
            seed,
        };
        // The oracle knows the founding entry.
        let mut replica = world.make_replica(0);
        let image = &world.peers[0].disk.image;
        world.check.committed(&first, &replica, &[(founder, image)]);
        let _ = replica.take_ready();
        world
    }

    /// Faults, healing, agreement.
    pub fn run(&mut self) {
        self.start(0);
        for peer in 1..self.peers.len() {
            self.at(100_000, What::Join { peer });
        }
        self.at(200_000, What::Speak);
        self.at(3 * SECOND, What::Fault);
        self.run_until(FAULTS_UNTIL);
        self.heal_everything();
        let deadline = self.now + HEALED_WITHIN;
        while self.now < deadline && !self.agrees() {
            let next = self.now + SECOND / 10;
            self.run_until(next);
        }
        assert!(self.agrees(), "no agreement after healing: {}", self.describe());
        for peer in &self.peers {
            self.check.complete(&peer.disk.image.entries);
        }
    }

    fn run_until(&mut self, end: u64) {
        while let Some(Reverse(due)) = self.queue.peek() {
            if due.at > end {
                break;
            }
            let Some(Reverse(due)) = self.queue.pop() else { break };
            self.now = due.at;
            self.happen(due.what);
        }
        self.now = end;
    }

    pub(super) fn at(&mut self, delay: u64, what: What) {
        self.order += 1;
        self.queue.push(Reverse(Due { at: self.now + delay, order: self.order, what }));
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Deliver { to, parcel, boot } => self.deliver(to, parcel, boot),
            What::Detached { peer, host } => {
                let host = self.peers[host].id;
                self.event(peer, Event::Detached { peer: host });
            }
            What::Link { peer, other, state } => {
                let other = self.peers[other].id;
                self.event(peer, Event::Link { peer: other, state });
            }
            What::Sync { peer, boot } => self.sync(peer, boot),
            What::Tick { peer, boot } => {
                if self.boot(peer) == Some(boot) {
                    if self.peers[peer].tick_at <= self.now {
                        self.peers[peer].tick_at = u64::MAX;
                    }
                    self.event(peer, Event::Tick);
                }
            }
            What::Speak => self.speak(),
            What::Join { peer } => self.join(peer),
            What::Fault => self.fault(),
            What::Restart { peer } => {
                if self.peers[peer].replica.is_none() && self.peers[peer].joined {
                    self.start(peer);
                }
            }
            What::Heal { generation } => {
                if generation == self.generation {
                    self.heal_network();
                }
            }
        }
    }

    // ---- peers ----

    fn boot(&self, peer: usize) -> Option<u64> {
        let peer = &self.peers[peer];
        peer.replica.as_ref().map(|_| peer.disk.image.boot)
    }

    fn make_replica(&mut self, peer: usize) -> Replica {
        let seed = self.prng.next_u64();
        // Small windows and checkpoints, so that their edges are met.
        let config = Config { window_entries: 40, checkpoint_every: 25, ..Config::default() };
        let peer = &mut self.peers[peer];
        Replica::new(config, peer.id, peer.disk.recover(), Instant(self.now), seed)
    }

    pub(super) fn start(&mut self, peer: usize) {
        let replica = self.make_replica(peer);
        self.peers[peer].replica = Some(replica);
        self.peers[peer].syncing = false;
        self.peers[peer].tick_at = u64::MAX;
        for other in 0..self.peers.len() {
            if other != peer && self.peers[other].replica.is_some() {
                let delay = 1_000 + self.prng.below(20_000);
                self.at(delay, What::Link { peer, other, state: LinkState::Up });
                self.at(delay, What::Link { peer: other, other: peer, state: LinkState::Up });
            }
        }
        self.event(peer, Event::Tick);
    }

    pub(super) fn crash(&mut self, peer: usize) {
        if self.peers[peer].replica.take().is_none() {
            return;
        }
        self.crashes += 1;
        self.log(|| format!("crash of {peer}"));
        // Some of what was being written may have become durable without anyone knowing.
        for _ in 0..self.prng.below(3) {
            self.peers[peer].disk.sync_one();
        }
        self.peers[peer].disk.pending.clear();
        for other in 0..self.peers.len() {
            let delay = 300 + self.prng.below(2_000);
            let state = if self.prng.below(4) > 0 { LinkState::Refused } else { LinkState::Down };
            self.at(delay, What::Link { peer: other, other: peer, state });
        }
        let delay = self.prng.below(4 * SECOND);
        self.at(delay, What::Restart { peer });
    }

    pub(super) fn event(&mut self, peer: usize, event: Event) {
        if let Event::Link { peer: other, state: LinkState::Up } = &event {
            let alive = self.peers.iter().any(|p| p.id == *other && p.replica.is_some());
            if !alive {
                return;
            }
        }
        let now = Instant(self.now);
        let Some(replica) = &mut self.peers[peer].replica else { return };
        let mut hasher = DefaultHasher::new();
        (self.digest, peer, self.now, &event).hash(&mut hasher);
        self.digest = hasher.finish();
        replica.handle(now, event);
        self.execute(peer);
    }

    fn execute(&mut self, peer: usize) {
        let Some(replica) = &mut self.peers[peer].replica else { return };
        let mut ready = replica.take_ready();
        let status = replica.status();
        let timeout = replica.poll_timeout();
        let boot = self.peers[peer].disk.image.boot;
        let id = self.peers[peer].id;
        self.check.status(id, boot, &status);
        for message in std::mem::take(&mut ready.early) {
            self.send(peer, message);
        }
        for entry in std::mem::take(&mut ready.committed) {
            let images: Vec<_> = self.peers.iter().map(|p| (p.id, &p.disk.image)).collect();
            let replica = self.peers[peer].replica.as_ref().expect("it is running");
            self.check.committed(&entry, replica, &images);
        }
        for notice in std::mem::take(&mut ready.notices) {
            self.notice(peer, notice);
        }
        for load in std::mem::take(&mut ready.loads) {
            let entries = &self.peers[peer].disk.image.entries;
            let through = (load.through as usize).min(entries.len());
            let end = through.min(load.from as usize - 1 + 10);
            let entries = entries[load.from as usize - 1..end].to_vec();
            if let Some(replica) = &mut self.peers[peer].replica {
                replica.handle(Instant(self.now), Event::Loaded { load, entries });
            }
            self.at(1, What::Tick { peer, boot });
        }
        self.store(peer, ready);
        // One tick is under way per peer, so that they do not breed.
        let earlier = timeout.is_some_and(|timeout| timeout.0 < self.peers[peer].tick_at);
        if let (Some(timeout), true) = (timeout, earlier) {
            let delay = timeout.0.saturating_sub(self.now).max(1);
            self.peers[peer].tick_at = self.now + delay;
            self.at(delay, What::Tick { peer, boot });
        }
    }

    fn store(&mut self, peer: usize, ready: Ready) {
        let idle = self.peers[peer].disk.pending.is_empty();
        if ready.persist.is_empty() && idle {
            self.release(peer, ready);
            return;
        }
        if ready.is_empty() {
            return;
        }
        self.peers[peer].disk.pending.push_back(ready);
        if !self.peers[peer].syncing {
            self.start_sync(peer);
        }
    }

    fn start_sync(&mut self, peer: usize) {
        let Some(boot) = self.boot(peer) else { return };
        self.peers[peer].syncing = true;
        let stall = if self.prng.below(500) == 0 { 300_000 } else { 0 };
        let delay = 50 + self.prng.below(2_000) + stall;
        self.at(delay, What::Sync { peer, boot });
    }

    fn sync(&mut self, peer: usize, boot: u64) {
        if self.boot(peer) != Some(boot) {
            return;
        }
        self.peers[peer].syncing = false;
        let Some(ready) = self.peers[peer].disk.sync_one() else { return };
        let (number, durable) = (ready.number, !ready.persist.is_empty());
        self.release(peer, ready);
        if !self.peers[peer].disk.pending.is_empty() {
            self.start_sync(peer);
        }
        if durable {
            self.event(peer, Event::Persisted { ready: number, sync_us: 1_000 });
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
        let (id, session) = (self.peers[peer].id, self.peers[peer].disk.image.incarnation);
        match notice {
            Notice::Confirmed { number, index } => self.check.confirmed(id, session, number, index),
            Notice::Fault { what } => panic!("a fault at {peer}: {what}"),
            other => self.log(|| format!("{peer}: {other:?}")),
        }
    }

    // ---- messages ----

    fn index_of(&self, id: PeerId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == id)
    }

    fn send(&mut self, from: usize, message: Message) {
        let Some(to) = self.index_of(message.to) else { return };
        let fate = self.network.fate(&mut self.prng, self.now, from, to, &message.body);
        match fate {
            Fate::Lost => {}
            Fate::StreamBreaks(at) => {
                self.at(at - self.now, What::Detached { peer: to, host: from });
            }
            Fate::Arrives(arrivals) => {
                let boot = self.boot(to).unwrap_or(0);
                for at in arrivals {
                    self.parcels.push(Some(message.clone()));
                    let parcel = self.parcels.len() - 1;
                    self.at(at - self.now, What::Deliver { to, parcel, boot });
                }
            }
        }
    }

    fn deliver(&mut self, to: usize, parcel: usize, boot: u64) {
        let Some(message) = self.parcels[parcel].take() else { return };
        if let Body::JoinAnswer(answer) = &message.body
            && !self.peers[to].joined
        {
            if answer.accepted {
                self.peers[to].joined = true;
                self.start(to);
            }
            return;
        }
        // A connection does not outlive the process at its end.
        if self.boot(to) == Some(boot) {
            self.event(to, Event::Message(message));
        }
    }

    // ---- the people ----

    fn speak(&mut self) {
        let peer = self.prng.below(self.peers.len() as u64) as usize;
        self.propose(peer, |number| Payload::Message {
            request_id: format!("r{number}"),
            sealed: Bytes::from(format!("message {number} of {peer}")),
        });
        let delay =
            if self.now < FAULTS_UNTIL { 10_000 + self.prng.below(200_000) } else { SECOND };
        self.at(delay, What::Speak);
    }

    fn propose(&mut self, peer: usize, payload: impl FnOnce(u64) -> Payload) {
        let Some(replica) = &self.peers[peer].replica else { return };
        let payload = payload(replica.next_number());
        if replica.can_propose(&payload).is_err() {
            return;
        }
        let proposal = Proposal { payload, created_at_ms: 0, trace: None, signature: None };
        self.event(peer, Event::Propose(proposal));
    }

    /// A newcomer is invited by the founder and asks whoever hosts until it is taken on.
    fn join(&mut self, peer: usize) {
        if self.peers[peer].joined {
            return;
        }
        let id = self.peers[peer].id;
        if !self.peers[peer].invited && self.peers[0].replica.is_some() {
            self.peers[peer].invited = true;
            self.propose(0, |_| {
                let address = format!("h:{peer}");
                Payload::Membership(Membership::Invited { peer: id, address })
            });
        }
        let host = self.peers.iter().position(|other| {
            other.replica.as_ref().is_some_and(|replica| replica.status().role == Role::Host)
        });
        if let Some(host) = host {
            let join = Join {
                name: format!("person {peer}"),
                address: format!("h:{peer}"),
                created_at_ms: 0,
                decline: false,
                signature: [0; 64],
            };
            let message = Message {
                from: id,
                from_incarnation: self.peers[peer].disk.image.incarnation,
                from_boot: 1,
                to: self.peers[host].id,
                to_incarnation: 0,
                call: 1,
                body: Body::Join(join),
            };
            self.send(peer, message);
        }
        let delay = 50_000 + self.prng.below(100_000);
        self.at(delay, What::Join { peer });
    }

    // ---- agreement ----

    /// One host, everyone a member, the right voters, all logs equal, nothing queued.
    fn agrees(&self) -> bool {
        let statuses: Option<Vec<_>> =
            self.peers.iter().map(|peer| peer.replica.as_ref().map(Replica::status)).collect();
        let Some(statuses) = statuses else { return false };
        let first = &statuses[0];
        let hosts = statuses.iter().filter(|status| status.role == Role::Host).count();
        let goal = match self.peers.len() {
            2 => 2,
            n if n % 2 == 0 => n - 1,
            n => n,
        };
        hosts == 1
            && statuses.iter().all(|status| {
                status.host == first.host
                    && status.term == first.term
                    && status.last == first.last
                    && status.commit == status.last
                    && status.queued == 0
                    && status.serving
                    && status.voters.len() == goal
                    && status.members.len() == self.peers.len()
                    && status.members.values().all(|m| m.state == MemberState::Active)
            })
            && self.peers.iter().all(|p| p.disk.image.entries.len() as u64 == first.last)
    }

    fn describe(&self) -> String {
        let mut text = format!("seed {}\n", self.seed);
        for (i, peer) in self.peers.iter().enumerate() {
            let status = peer.replica.as_ref().map(|replica| {
                let s = replica.status();
                format!(
                    "{:?} term {} host {:?} last {} commit {} queued {} voters {} members {} \
                     served {} {:?}",
                    s.role,
                    s.term,
                    s.host,
                    s.last,
                    s.commit,
                    s.queued,
                    s.voters.len(),
                    s.members.len(),
                    s.serving,
                    s.links
                )
            });
            let stored = peer.disk.image.entries.len();
            let pending = peer.disk.pending.len();
            text +=
                &format!("{i} stored {stored} pending {pending} {}: {status:?}\n", peer.syncing);
        }
        text
    }

    fn log(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>10.6} {}", self.now as f64 / 1e6, text());
        }
    }
}
