//! One state of the chat: the peers with their disks, what is on its way, what may still go wrong.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use demes_protocol::situation::Count;

use crate::history::{Broken, History, Sights};
use crate::key::Key;
use crate::peer::{PEERS, Parcel, Peer};

#[derive(Clone)]
pub struct State {
    pub peers: [Arc<Peer>; PEERS],
    /// On its way, by keys: the order says nothing.
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

impl State {
    fn keys(&self) -> impl Iterator<Item = &Key> {
        let peers = self.peers.iter().map(|peer| &peer.key);
        peers.chain(self.network.iter().map(|parcel| &parcel.key))
    }
}

/// Of attaches only the order matters, of heartbeats only how long ago they were sent.
impl Hash for State {
    fn hash<H: Hasher>(&self, into: &mut H) {
        let mut attaches: Vec<_> = Vec::with_capacity(16);
        let mut sent: Vec<_> = Vec::with_capacity(8);
        for count in self.keys().flat_map(|key| &key.counts) {
            match *count {
                Count::Attach { member, number } => attaches.push((member.0[0], number)),
                Count::Sent { term, number, ago_us } => sent.push((term, number, ago_us)),
                Count::Heartbeat { .. } => {}
            }
        }
        attaches.sort_unstable();
        attaches.dedup();
        for key in self.keys() {
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
                        let ago_us = known.map_or(u64::MAX - 1, |(_, _, ago_us)| *ago_us);
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
