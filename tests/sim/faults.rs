//! What goes wrong, and how it is mended.

use demes_protocol::event::{Event, LinkState, Role};

use super::world::{FAULTS_UNTIL, SECOND, What, World};

impl World {
    pub(super) fn fault(&mut self) {
        if self.now >= FAULTS_UNTIL {
            return;
        }
        let count = self.peers.len() as u64;
        let peer = self.prng.below(count) as usize;
        match self.prng.below(8) {
            0 | 1 => self.crash(peer),
            2 => {
                let host = self.peers.iter().position(|peer| {
                    peer.replica.as_ref().is_some_and(|r| r.status().role == Role::Host)
                });
                self.crash(host.unwrap_or(peer));
            }
            3 => {
                for peer in 0..self.peers.len() {
                    self.crash(peer);
                }
            }
            4 => {
                // A random half is parted from the rest, in both directions or in one.
                let one_way = self.prng.below(3) == 0;
                let side: Vec<bool> = (0..count).map(|_| self.prng.below(2) == 0).collect();
                for a in 0..self.peers.len() {
                    for b in 0..self.peers.len() {
                        if side[a] && !side[b] {
                            self.network.cut.insert((a, b));
                            if !one_way {
                                self.network.cut.insert((b, a));
                            }
                        }
                    }
                }
                self.heal_later();
            }
            5 => {
                self.network.loss_percent = self.prng.below(30);
                self.network.duplicate_percent = self.prng.below(30);
                self.heal_later();
            }
            6 => {
                self.network.delay_us_max = 1_000 + self.prng.below(300_000);
                self.heal_later();
            }
            _ => {
                let target = self.peers[self.prng.below(count) as usize].id;
                self.event(peer, Event::HandOver { target: Some(target) });
            }
        }
        let delay = 100_000 + self.prng.below(4 * SECOND);
        self.at(delay, What::Fault);
    }

    fn heal_later(&mut self) {
        self.generation += 1;
        let generation = self.generation;
        let delay = self.prng.below(5 * SECOND);
        self.at(delay, What::Heal { generation });
    }

    pub(super) fn heal_network(&mut self) {
        let cut = std::mem::take(&mut self.network.cut);
        self.network.loss_percent = 0;
        self.network.duplicate_percent = 0;
        self.network.delay_us_max = 2_000;
        // Connections over a link that was cut have broken, and come up again.
        for (peer, other) in cut {
            for (peer, other) in [(peer, other), (other, peer)] {
                self.at(1_000, What::Link { peer, other, state: LinkState::Down });
                self.at(5_000, What::Link { peer, other, state: LinkState::Up });
            }
        }
    }

    pub(super) fn heal_everything(&mut self) {
        self.heal_network();
        for peer in 0..self.peers.len() {
            if self.peers[peer].replica.is_none() && self.peers[peer].joined {
                self.start(peer);
            }
        }
    }
}
