//! One state of the chat: the peers with their disks, what is under way, what may still go wrong.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use demes_protocol::situation::Count;

use crate::history::{Broken, History, Sights};
use crate::key::Key;
use crate::peer::{PEERS, Parcel, Peer};

#[derive(Clone)]
pub struct State {
    pub peers: [Arc<Peer>; PEERS],
    /// What comes next, in this order: messages arrive, disks sync.
    pub due: VecDeque<Item>,
    /// Messages that are late, by their keys. They arrive at any time, or never.
    pub held: Vec<Arc<Parcel>>,
    /// How far each disk is with its oldest `Ready`.
    pub disks: [Sync; PEERS],
    /// This peer is parted from the others: what they send each other is lost.
    pub cut: Option<usize>,
    pub left: Left,
    pub history: Arc<History>,
    /// What the last step showed. No part of the state.
    pub sights: Sights,
    /// The property that the last step broke.
    pub broken: Option<Broken>,
}

/// Something that is about to happen.
#[derive(Clone)]
pub enum Item {
    Arrive(Arc<Parcel>),
    Sync(usize),
}

/// What a disk does with its oldest `Ready`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sync {
    /// There is none.
    Idle,
    Due,
    /// It takes longer, for as long as it may.
    Held,
}

/// How often something may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Left {
    pub crashes: u8,
    pub doubles: u8,
    /// Peers that are parted from the others.
    pub cuts: u8,
    /// Messages that members write.
    pub says: u8,
    pub hand_overs: u8,
    /// Graceful stops.
    pub stops: u8,
    pub leaves: u8,
    /// Disks that are lost.
    pub wipes: u8,
    /// Old copies of disks that are put back.
    pub copies: u8,
    /// Clocks that jump over a lease.
    pub sleeps: u8,
    /// Lies that are told.
    pub lies: u8,
}

impl State {
    pub fn are_parted(&self, p: usize, q: usize) -> bool {
        self.cut.is_some_and(|cut| cut == p || cut == q)
    }

    /// How much is held.
    pub fn held(&self) -> usize {
        self.held.len() + self.disks.iter().filter(|sync| **sync == Sync::Held).count()
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        let peers = self.peers.iter().map(|peer| &peer.key);
        let due = self.due.iter().filter_map(|item| match item {
            Item::Arrive(parcel) => Some(&parcel.key),
            Item::Sync(_) => None,
        });
        peers.chain(due).chain(self.held.iter().map(|parcel| &parcel.key))
    }
}

/// Of attaches and fetches only the order matters, of heartbeats only when they were sent.
impl Hash for State {
    fn hash<H: Hasher>(&self, into: &mut H) {
        let mut named: Vec<_> = Vec::with_capacity(16);
        let mut sent: Vec<_> = Vec::with_capacity(8);
        for count in self.keys().flat_map(|key| &key.counts) {
            match *count {
                Count::Attach { member, number } => named.push((true, member.0[0], number)),
                Count::Fetch { member, number } => named.push((false, member.0[0], number)),
                Count::Sent { term, number, .. } => sent.push((term, number, *count)),
                Count::Heartbeat { .. } => {}
            }
        }
        named.sort_unstable();
        named.dedup();
        let place = |kind: bool, member: u8, number: u64| {
            let before = |number| named.partition_point(|one| *one < (kind, member, number));
            (before(number) - before(0)) as u8
        };
        for key in self.keys() {
            key.hash.hash(into);
            for count in &key.counts {
                match *count {
                    Count::Attach { member, number } => {
                        into.write_u8(place(true, member.0[0], number));
                    }
                    Count::Fetch { member, number } => {
                        into.write_u8(place(false, member.0[0], number));
                    }
                    Count::Heartbeat { number: 0, .. } => into.write_u8(0),
                    Count::Heartbeat { term, number } => {
                        // One that is listed stands for those before it that are not.
                        let known = sent.iter().find(|(t, n, _)| *t == term && *n >= number);
                        if let Some((.., Count::Sent { ago_us, commit, .. })) = known {
                            (1_u8, ago_us, commit).hash(into);
                        }
                    }
                    Count::Sent { .. } => {}
                }
            }
        }
        for (place, item) in self.due.iter().enumerate() {
            if let Item::Sync(p) = item {
                (place, p).hash(into);
            }
        }
        (self.due.len(), self.disks, self.cut, self.left).hash(into);
        self.history.hash(into);
        self.broken.hash(into);
    }
}

/// Same situation, not same numbers.
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
