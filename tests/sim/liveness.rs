//! How long something waits for its confirmation while nothing stands against it: a majority of
//! every voter set in force runs, is connected to each other and can write, without a break.
//!
//! Agreement after the healing says nothing of that: a chat may stand still for half a minute after
//! each change of the network and agree in the end.

use std::collections::BTreeSet;

use super::invariants::Broken;
use super::liars::Lie;
use super::queue::What;
use super::world::{MS, SECOND, World};

/// Between looks.
const WATCH_US: u64 = 100 * MS;

/// What was seen so far.
#[derive(Default)]
pub struct Liveness {
    /// Those who are connected, and since when just they are.
    connected: BTreeSet<usize>,
    since: u64,
    /// The last confirmation, and since when something has been waiting for one.
    pub confirmed_at: u64,
    waiting_since: Option<u64>,
    /// The longest time without one, and when it ended.
    pub worst_us: u64,
    pub worst_at: u64,
    /// Nothing more is noted. Until then: the terms in which somebody stood, and in which served.
    pub is_over: bool,
    pub stood: BTreeSet<u64>,
    pub served: BTreeSet<u64>,
}

impl World {
    /// Nothing fails for longer than this without a confirmation while a majority is connected.
    fn confirmed_within_us(&self) -> u64 {
        // With the longest leases, syncs of seconds and lines that are full, all takes its time.
        self.plan.confirmed_within_us
    }

    pub fn watch_liveness(&mut self) {
        self.at(WATCH_US, What::Watch);
        let connected = self.connected_majority();
        let now = self.now;
        if connected != self.liveness.connected {
            self.liveness.since = now;
            self.liveness.connected = connected;
        }
        // Nothing more is taken from one whose membership is known to have ended, though it may not
        // have heard of that from anybody whom it can believe.
        let waits = |peer: &usize| {
            let state = &self.peers[*peer];
            state.status.queued > 0
                && self.is_active(*peer)
                && self.oracle.roll.takes_part(state.id, state.disk.incarnation())
        };
        let is_waiting = self.liveness.connected.iter().any(waits);
        let liveness = &mut self.liveness;
        if !is_waiting {
            liveness.waiting_since = None;
            return;
        }
        let waiting = *liveness.waiting_since.get_or_insert(now);
        let since = waiting.max(liveness.since).max(liveness.confirmed_at);
        if now - since > liveness.worst_us && !liveness.is_over {
            (liveness.worst_us, liveness.worst_at) = (now - since, now);
        }
        if now - since > self.confirmed_within_us() {
            let what = format!("nothing was confirmed for {} ms", (now - since) / MS);
            self.break_off(Broken { invariant: "a connected majority confirms", what });
        }
    }

    /// The largest set that is connected among itself and holds a majority of every voter set in
    /// force; empty where there is none.
    fn connected_majority(&self) -> BTreeSet<usize> {
        let works = |peer: &usize| {
            let state = &self.peers[*peer];
            state.replica.is_some()
                && !state.frozen
                && !state.is_stopped
                && !state.disk_is_full
                && !state.disk.fails
                && state.disk.stalled_until <= self.now
                && state.trap.is_none()
                // A majority that needs one who leads the others astray is none.
                && state.lie != Some(Lie::Reigns)
                && self.is_sound(&state.id, state.disk.incarnation())
        };
        let working: Vec<usize> = (0..self.peers.len()).filter(works).collect();
        let is_linked = |a: usize, b: usize| {
            self.is_connected(a, b) && self.is_connected(b, a) && self.network.is_good(a, b)
        };
        let mut best = BTreeSet::new();
        for first in &working {
            let mut set = BTreeSet::from([*first]);
            for other in &working {
                if set.iter().all(|one| one == other || is_linked(*one, *other)) {
                    set.insert(*other);
                }
            }
            if set.len() > best.len() {
                best = set;
            }
        }
        let is_majority = self.voter_sets().iter().all(|voters| {
            let here = voters.0.iter().filter(|(id, incarnation)| {
                best.iter().any(|peer| {
                    let state = &self.peers[*peer];
                    state.id == **id && state.disk.incarnation() == **incarnation
                })
            });
            here.count() >= voters.majority()
        });
        if is_majority { best } else { BTreeSet::new() }
    }

    /// Begins to look and to count at this moment.
    pub fn count_terms(&mut self) {
        let now = self.now;
        self.liveness = Liveness::default();
        self.liveness.since = now;
        self.liveness.confirmed_at = now;
    }

    /// Takes note of what a peer's runtime is told.
    pub fn note_liveness(&mut self, notice: &demes_protocol::event::Notice) {
        use demes_protocol::event::Notice;
        if self.liveness.is_over {
            return;
        }
        match notice {
            Notice::Confirmed { .. } => self.liveness.confirmed_at = self.now,
            Notice::Standing { term } => {
                self.liveness.stood.insert(*term);
            }
            Notice::Serving { term } => {
                self.liveness.served.insert(*term);
            }
            _ => {}
        }
    }
}

/// The bound where all is as it should be.
pub const CONFIRMED_WITHIN_US: u64 = 10 * SECOND;
