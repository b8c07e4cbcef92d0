//! A member that lies about its delays: in its reports to the host, in the list that it publishes
//! when it hosts itself, in the heartbeats that it says it has heard, and by answering pings late.

use std::sync::Arc;

use demes_protocol::event::Event;
use demes_protocol::message::{Body, Candidate, Heartbeat, Ranking, ReportDelays};
use demes_protocol::types::PeerId;

use super::plan::{Action, Draw};
use super::world::{SECOND, World};

/// How late it may answer a ping.
const LATE_US_MAX: u64 = 3 * SECOND;

/// What a liar wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// Confusion: each time it says something else.
    Anything,
    /// To host: nobody is nearer to anybody.
    Nearest,
    /// The same, and then it does not answer a hand-over. That is more than a lie: of two voters,
    /// the one that hosts cannot leave while the other does not take over. So no seed draws it.
    TakesNothing,
}

impl Lie {
    pub fn draw(draw: &mut Draw) -> Self {
        [Lie::Anything, Lie::Nearest][draw.below(2) as usize]
    }
}

/// It does not stop when all else has healed.
pub fn lie_from_now_on(peer: usize, lie: Lie) -> Action {
    let words = format!("{} lies about its delays from now on: {lie:?}", peer + 1);
    Action::new(words, move |world| world.peers[peer].lie = Some(lie))
}

/// A liar that hosts makes another one host.
pub fn pass_it_on() -> Action {
    Action::new("a liar passes the hosting on".into(), |world| {
        if let Some(host) = world.host().filter(|host| world.peers[*host].lie.is_some()) {
            world.tell(host, Event::HandOver { target: None });
        }
    })
}

impl World {
    /// What a liar says in place of that.
    pub fn lie(&mut self, lie: Lie, body: &mut Body) {
        match body {
            Body::ReportDelays(report) if lie == Lie::Anything => self.lie_of_delays(report),
            Body::ReportDelays(report) => {
                report.row.iter_mut().for_each(|(_, delay)| *delay = 0);
                report.host_weight = u32::MAX;
            }
            _ if lie != Lie::Anything => return,
            Body::Heartbeat(Heartbeat { ranking: Some(ranking), .. }) => {
                *ranking = Arc::new(self.false_ranking(ranking));
            }
            Body::Acknowledge(acknowledge) => {
                let heard = acknowledge.heartbeat;
                acknowledge.heartbeat = match self.prng.below(10) {
                    0 => u64::MAX,
                    1 => 0,
                    back => heard.saturating_sub(back / 4),
                };
            }
            _ => return,
        }
        self.counts.add("lies told of delays");
    }

    /// How much later than it could a liar answers a ping.
    pub fn late_answer(&mut self) -> u64 {
        match self.prng.below(4) {
            0 => self.prng.below(LATE_US_MAX),
            _ => 0,
        }
    }

    fn lie_of_delays(&mut self, report: &mut ReportDelays) {
        let peers: Vec<_> = self.peers.iter().map(|peer| peer.id).collect();
        let friend = peers[self.prng.below(peers.len() as u64) as usize];
        report.row = match self.prng.below(6) {
            0 => peers.iter().map(|peer| (*peer, 0)).collect(),
            1 => peers.iter().map(|peer| (*peer, u64::MAX)).collect(),
            2 => peers.iter().map(|peer| (*peer, self.prng.next_u64() >> 20)).collect(),
            3 => Vec::new(),
            4 => {
                peers.iter().map(|peer| (*peer, if *peer == friend { 0 } else { SECOND })).collect()
            }
            // Its friend again and again, each time otherwise, and somebody whom nobody knows.
            _ => (0..99).map(|n| (friend, n)).chain([(PeerId([99; 32]), 0)]).collect(),
        };
        report.preferences = vec![friend; self.prng.below(256) as usize];
        report.host_weight = [0, 1, 100, u32::MAX][self.prng.below(4) as usize];
    }

    /// Anybody in any order, some twice, some missing.
    fn false_ranking(&mut self, ranking: &Ranking) -> Ranking {
        let drawn = |world: &mut World| {
            let peer = world.prng.below(world.peers.len() as u64) as usize;
            let farness_us = [None, Some(0), Some(u64::MAX)][world.prng.below(3) as usize];
            Candidate { peer: world.peers[peer].id, farness_us, absence: None }
        };
        let count = self.prng.below(2 * self.peers.len() as u64);
        let candidates = (0..count).map(|_| drawn(self)).collect();
        Ranking { candidates, delays: Vec::new(), ..ranking.clone() }
    }
}
