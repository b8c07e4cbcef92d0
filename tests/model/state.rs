//! One state of the chat: the peers, their disks, what is on its way, what may still go wrong.
//!
//! What does not change is shared between states. Whether two states are the same is decided by
//! their situations (see `demes_protocol::situation`), never by clocks or by counts as such.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use demes_protocol::Replica;
use demes_protocol::event::{Persist, Role};
use demes_protocol::message::{Append, Body, Heartbeat, HostAlive, Message};
use demes_protocol::situation::{Count, Scale, Situation};
use demes_protocol::types::{PeerId, Term};

use crate::disk::Disk;
use crate::history::{Broken, History, Sights};

/// How many peers there are.
pub const PEERS: usize = 3;

const SECOND: u64 = 1_000_000;
/// Clocks show multiples of a second. Nothing looks back further than a lease of three, and what
/// is a hundred ahead never comes due.
pub const SCALE: Scale =
    Scale { quantum_us: SECOND, past_us: 4 * SECOND, future_us: 100 * SECOND };

#[derive(Clone)]
pub struct State {
    pub peers: [Arc<Peer>; PEERS],
    /// On its way, in an order that says nothing.
    pub network: Vec<Arc<Parcel>>,
    pub left: Left,
    pub history: Arc<History>,
    /// What the last step showed. No part of the state.
    pub sights: Sights,
    /// The property that the last step broke.
    pub broken: Option<Broken>,
}

/// How often something may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Left {
    pub crashes: u8,
    pub doubles: u8,
    /// Streams that break.
    pub breaks: u8,
    /// Messages that members write.
    pub says: u8,
    pub hand_overs: u8,
    /// Graceful stops.
    pub stops: u8,
    pub leaves: u8,
    /// Disks that are lost.
    pub wipes: u8,
    /// Clocks that jump over a lease.
    pub sleeps: u8,
}

/// A peer's process and disk.
#[derive(Clone)]
pub struct Peer {
    pub id: PeerId,
    /// Its own clock, in microseconds.
    pub now: u64,
    /// Absent while it does not run.
    pub replica: Option<Replica>,
    pub disk: Disk,
    /// Those of whose processes it has been told that they are gone.
    pub gone: [bool; PEERS],
    /// It asks to be taken on, since its disk is empty.
    pub joining: bool,
    /// The term in which it stands because it was handed over to. For sights only.
    pub handed: Term,
    /// The rest follows from the above, and must be made anew after a change.
    pub term: Term,
    pub hosts: bool,
    pub key: Key,
}

/// A message on its way.
pub struct Parcel {
    pub message: Message,
    pub key: Key,
}

/// What one part adds to the state's hash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Key {
    pub hash: u64,
    counts: Vec<Count>,
}

type Part = Situation<DefaultHasher>;

fn part() -> Part {
    Situation::new(DefaultHasher::new(), SCALE)
}

impl Key {
    fn of(part: Part) -> Self {
        Self { hash: part.hasher.finish(), counts: part.counts }
    }
}

impl Parcel {
    pub fn new(message: Message) -> Self {
        let mut part = part();
        add_message(&mut part, &message);
        Self { message, key: Key::of(part) }
    }
}

impl Peer {
    /// Takes note of the peer as it is now.
    pub fn mark(&mut self) {
        let mut part = part();
        (self.gone, self.joining, self.replica.is_some()).hash(&mut part.hasher);
        self.hosts = false;
        if let Some(replica) = &self.replica {
            replica.situation(&mut part);
            let status = replica.status();
            self.term = status.term;
            self.hosts = status.role == Role::Host;
        }
        let image = &self.disk.image;
        let last = image.entries.last().map(|entry| (entry.index, entry.hash));
        let (state, read) = (image.hard_state, image.read);
        (image.incarnation, image.boot, state, last, image.commit, read).hash(&mut part.hasher);
        (&image.outbox, image.last_number, self.disk.pending.len()).hash(&mut part.hasher);
        for ready in &self.disk.pending {
            // Their numbers follow one another.
            add_persist(&mut part, &ready.persist);
            ready.messages.len().hash(&mut part.hasher);
            for message in &ready.messages {
                add_message(&mut part, message);
            }
            ready.persisted_notices.hash(&mut part.hasher);
        }
        self.key = Key::of(part);
    }
}

fn add_persist(part: &mut Part, persist: &Persist) {
    let into = &mut part.hasher;
    (persist.hard_state, persist.truncate_from, persist.entries.len()).hash(into);
    for entry in &persist.entries {
        entry.hash.hash(into);
    }
    (&persist.outbox_put, persist.outbox_remove_through, persist.commit).hash(into);
    (persist.checkpoint.is_some(), persist.read).hash(into);
}

/// How long a host is alive, and what is for showing, changes nothing that a receiver does.
fn add_message(part: &mut Part, message: &Message) {
    let Message { from, from_incarnation, from_boot, to, to_incarnation, call, body } = message;
    let into = &mut part.hasher;
    (from.0[0], from_incarnation, from_boot, to.0[0], to_incarnation, call).hash(into);
    std::mem::discriminant(body).hash(into);
    body.term().hash(into);
    let alive = |alive: Option<HostAlive>| alive.map(|alive| (alive.host, alive.term));
    match body {
        Body::Attach(body) => {
            body.look.hash(into);
            part.counts.push(Count::Attach { member: *from, number: body.attach });
        }
        Body::Append(body) => {
            let Append { term: _, attach, previous, entries, commit, past } = body;
            (previous, entries.len(), commit, past).hash(into);
            for entry in entries {
                entry.hash.hash(into);
            }
            part.counts.push(Count::Attach { member: *to, number: *attach });
        }
        Body::LookBack(body) => {
            body.index.hash(into);
            part.counts.push(Count::Attach { member: *to, number: body.attach });
        }
        Body::Heartbeat(body) => {
            let Heartbeat { term, number, interval_us, probe, commit, positions: _, ranking } =
                body;
            (interval_us, probe, commit).hash(into);
            ranking.as_ref().map(|ranking| (ranking.term, ranking.version)).hash(into);
            part.counts.push(Count::Heartbeat { term: *term, number: *number });
        }
        Body::Acknowledge(body) => {
            (body.synced, body.ranking_version).hash(into);
            part.counts.push(Count::Attach { member: *from, number: body.attach });
            part.counts.push(Count::Heartbeat { term: body.term, number: body.heartbeat });
        }
        Body::NominateAnswer(body) => alive(body.host_alive).hash(into),
        Body::SolicitAnswer(body) => {
            (body.nominated, body.last, alive(body.host_alive)).hash(into);
        }
        Body::Vote(body) => (body.granted, alive(body.host_alive)).hash(into),
        other => other.hash(into),
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, into: &mut H) {
        let keys = || {
            let peers = self.peers.iter().map(|peer| &peer.key);
            peers.chain(self.network.iter().map(|parcel| &parcel.key))
        };
        let mut attaches: Vec<_> = Vec::with_capacity(16);
        let mut sent: Vec<_> = Vec::with_capacity(8);
        for count in keys().flat_map(|key| &key.counts) {
            match *count {
                Count::Attach { member, number } => attaches.push((member.0[0], number)),
                Count::Sent { term, number, ago_us } => sent.push((term, number, ago_us)),
                Count::Heartbeat { .. } => {}
            }
        }
        attaches.sort_unstable();
        attaches.dedup();
        for key in keys() {
            key.hash.hash(into);
            for count in &key.counts {
                match *count {
                    Count::Attach { member, number } => {
                        let place = attaches.partition_point(|a| *a < (member.0[0], number));
                        let first = attaches.partition_point(|a| *a < (member.0[0], 0));
                        into.write_u8((place - first) as u8);
                    }
                    Count::Heartbeat { term, number } => {
                        let known = sent.iter().find(|(t, n, _)| (*t, *n) == (term, number));
                        let ago_us = known.map_or(SCALE.past_us, |(_, _, ago_us)| *ago_us);
                        into.write_u64(if number == 0 { u64::MAX } else { ago_us });
                    }
                    Count::Sent { .. } => {}
                }
            }
        }
        self.left.hash(into);
        self.history.hash(into);
        self.broken.hash(into);
    }
}

/// Same situation, and not same numbers.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let hash = |state: &Self| {
            let mut hasher = DefaultHasher::new();
            state.hash(&mut hasher);
            hasher.finish()
        };
        hash(self) == hash(other)
    }
}
