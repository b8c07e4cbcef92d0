//! Every peer's own connections to the others, as `src/links/peers.rs` keeps them: dialled again
//! when they close, measured while they stand.

use demes_protocol::event::{Event, LinkState, Role};
use demes_protocol::message::{Body, Message};

use super::liars::Lie;
use super::network::Fate;
use super::queue::What;
use super::text;
use super::world::{MS, SECOND, World};

/// Pings in quick succession when a connection is new.
const PING_BURST: usize = 3;
/// Until a ping without an answer closes a connection.
const SILENCE_US_MIN: u64 = SECOND;
const SILENCE_US_MAX: u64 = 6 * SECOND;
/// Until a closed connection is dialled again.
const REDIAL_US_MAX: u64 = 2 * SECOND;

/// One peer's own connection to another one.
#[derive(Clone, Copy)]
struct Link {
    /// What the peer was told last.
    told: LinkState,
    /// The two ends when it was made: the peer's network epoch and the other's.
    ends: (u64, u64),
    /// When it is measured next, and the shortest ping so far.
    ping_at: u64,
    shortest_us: u64,
}

const NEW: Link = Link { told: LinkState::Down, ends: (0, 0), ping_at: 0, shortest_us: u64::MAX };

/// All of them.
pub struct Links(Vec<Vec<Link>>);

impl Links {
    pub fn new(count: usize) -> Self {
        Self(vec![vec![NEW; count]; count])
    }

    /// A new process begins without connections.
    pub fn forget(&mut self, peer: usize) {
        for link in &mut self.0[peer] {
            *link = NEW;
        }
    }
}

impl World {
    /// Whether what `peer` sends over its own connection to `other`, or is answered over it, goes
    /// on its way.
    pub fn is_connected(&self, peer: usize, other: usize) -> bool {
        if self.peers[peer].replica.is_none() {
            // A newcomer dials for one call.
            return self.network.can_dial(peer, other);
        }
        let link = self.links.0[peer][other];
        link.told == LinkState::Up && link.ends == self.ends(peer, other)
    }

    fn ends(&self, peer: usize, other: usize) -> (u64, u64) {
        (self.peers[peer].network_epoch, self.peers[other].network_epoch)
    }

    /// What a peer finds that looks at its connection now.
    fn found(&self, peer: usize, other: usize) -> LinkState {
        let there = &self.peers[other];
        if !self.network.can_dial(peer, other) {
            return LinkState::Down;
        }
        match (&there.replica, there.vanished) {
            (Some(_), _) if there.frozen => LinkState::Down,
            (Some(_), _) => LinkState::Up,
            (None, false) => LinkState::Refused,
            (None, true) => LinkState::Down,
        }
    }

    /// Something has changed: everybody whose connection is not what it was told notices, sooner
    /// or later.
    pub fn look_at_all_links(&mut self) {
        for peer in 0..self.peers.len() {
            for other in 0..self.peers.len() {
                if peer != other && self.peers[peer].replica.is_some() {
                    self.look_at_link_later(peer, other);
                }
            }
        }
    }

    fn look_at_link_later(&mut self, peer: usize, other: usize) {
        let link = self.links.0[peer][other];
        let found = self.found(peer, other);
        let is_broken = link.told == LinkState::Up && link.ends != self.ends(peer, other);
        if found == link.told && !is_broken {
            return;
        }
        let is_closed = self.network.can_dial(peer, other)
            && !self.peers[other].vanished
            && !self.peers[other].frozen;
        let delay = match (link.told, found) {
            // The other end is closed, which says so, after everything that it sent before.
            (LinkState::Up, _) if is_closed => {
                self.network.delay_max(other, peer) + self.prng.below(2 * MS)
            }
            (LinkState::Up, _) => SILENCE_US_MIN + self.prng.below(SILENCE_US_MAX - SILENCE_US_MIN),
            (_, LinkState::Up) => {
                let wait_max = [20 * MS, 200 * MS, REDIAL_US_MAX][self.prng.below(3) as usize];
                MS + self.prng.below(wait_max)
            }
            _ => self.prng.below(REDIAL_US_MAX),
        };
        self.at(delay, What::Link { peer, other });
    }

    /// A peer looks at its own connection to another one, and tells its replica what is new.
    pub fn look_at_link(&mut self, peer: usize, other: usize) {
        if self.peers[peer].replica.is_none() {
            return;
        }
        let link = self.links.0[peer][other];
        let found = self.found(peer, other);
        let ends = self.ends(peer, other);
        let id = self.peers[other].id;
        if link.told == LinkState::Up && (found != LinkState::Up || link.ends != ends) {
            self.links.0[peer][other].told = LinkState::Down;
            self.network.close_stream(other, peer);
            self.event(peer, Event::Link { peer: id, state: LinkState::Down });
            // Dialled again at once: the answer says whether the process is gone.
            let round_trip = self.network.round_trip(&mut self.prng, self.now, peer, other);
            let delay = round_trip + self.prng.below(2 * MS);
            self.at(delay, What::Link { peer, other });
            return;
        }
        if found == link.told {
            return;
        }
        self.links.0[peer][other].told = found;
        self.log(|| format!("{} finds {} {found:?}", peer + 1, other + 1));
        if found == LinkState::Up {
            self.links.0[peer][other].ends = ends;
        }
        self.event(peer, Event::Link { peer: id, state: found });
        for _ in 0..PING_BURST {
            self.ping(peer, other);
        }
    }

    /// The connections between two peers break.
    pub fn break_link(&mut self, a: usize, b: usize) {
        for (peer, other) in [(a, b), (b, a)] {
            self.links.0[peer][other].ends = (0, 0);
            let delay = self.prng.below(2 * MS);
            self.at(delay, What::Link { peer, other });
        }
    }

    /// Pings over every connection, less often where pings wait for something.
    pub fn measure(&mut self, peer: usize) {
        for other in 0..self.peers.len() {
            if self.now >= self.links.0[peer][other].ping_at {
                self.ping(peer, other);
            }
        }
    }

    fn ping(&mut self, peer: usize, other: usize) {
        if peer == other || !self.is_connected(peer, other) || self.peers[other].frozen {
            return;
        }
        let mut rtt_us = self.network.round_trip(&mut self.prng, self.now, peer, other);
        let link = &mut self.links.0[peer][other];
        link.shortest_us = link.shortest_us.min(rtt_us);
        let waited_us = rtt_us - link.shortest_us;
        // Half a second early, since the next look is as exact as the last one.
        link.ping_at = self.now + (8 * waited_us).min(4 * SECOND).saturating_sub(SECOND / 2);
        if self.peers[other].lie == Some(Lie::Anything) {
            rtt_us += self.late_answer();
        }
        let id = self.peers[other].id;
        let epoch = self.peers[peer].epoch;
        let event = Box::new(Event::RoundTrip { peer: id, rtt_us });
        self.at(rtt_us, What::Tell { peer, epoch, event });
    }

    /// Whether somebody hosts who serves.
    pub fn is_served(&self) -> bool {
        let serves = |peer: &super::world::Peer| {
            peer.replica.is_some() && peer.status.role == Role::Host && peer.status.serving
        };
        self.peers.iter().any(serves)
    }

    /// Takes a message to whom it is for, as the network lets it.
    pub fn carry(&mut self, from: usize, to: usize, message: Message) {
        // An answer goes over the connection of the one who asked.
        let caller = if message.body.is_answer() { (to, from) } else { (from, to) };
        let is_quiet = matches!(message.body, Body::Heartbeat(_) | Body::Acknowledge(_));
        if !self.is_connected(caller.0, caller.1) {
            if !is_quiet {
                self.log(|| format!("{} (no connection)", text::message(&message)));
            }
            return;
        }
        let fate = self.network.fate(&mut self.prng, self.now, (from, to), &message.body);
        let network_epoch = self.peers[to].network_epoch;
        let lost = !matches!(fate, Fate::Arrives(..));
        if !is_quiet {
            let what = if lost { " (lost)" } else { "" };
            self.log(|| format!("{}{what}", text::message(&message)));
        }
        match fate {
            Fate::Lost => self.counts.add("messages lost"),
            Fate::Breaks(at) | Fate::CutOff(at) => {
                let slow = matches!(fate, Fate::CutOff(_));
                self.counts.add(if slow { "slow readers cut off" } else { "streams broken" });
                let host = self.peers[from].id;
                self.at(at - self.now, What::Detached { peer: to, network_epoch, host });
            }
            Fate::Arrives(first, second) => {
                if let Some(second) = second {
                    self.counts.add("messages doubled");
                    let message = Box::new(message.clone());
                    self.at(second - self.now, What::Deliver { to, network_epoch, message });
                }
                let message = Box::new(message);
                self.at(first - self.now, What::Deliver { to, network_epoch, message });
            }
        }
    }
}
