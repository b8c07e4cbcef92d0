//! Draws what a plan leaves open.

use std::time::Duration;

use demes::protocol::prng::Prng;

use crate::plan::{Harm, Scene, Step};
use crate::switch::Line;

/// What there is, and what chooses.
pub struct Draw<'a> {
    pub scene: &'a Scene,
    pub prng: &'a mut Prng,
}

impl Draw<'_> {
    pub fn number(&mut self, least: u64, most: u64) -> u64 {
        least + self.prng.below(most - least + 1)
    }

    pub fn between_ms(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.number(least, most))
    }

    pub fn one_of(&mut self, peers: &[usize]) -> Option<usize> {
        let place = self.prng.below(peers.len().max(1) as u64);
        peers.get(usize::try_from(place).expect("there are few")).copied()
    }

    /// Anyone but the host.
    pub fn member(&mut self) -> Option<usize> {
        let host = self.scene.host;
        self.one_of(&(0..self.scene.peers).filter(|peer| *peer != host).collect::<Vec<_>>())
    }

    /// A member whose chat has not begun anew at it: that happens once in ten minutes at most.
    pub fn member_to_renew(&mut self) -> Option<usize> {
        let unspent = self.unspent();
        self.one_of(
            &unspent.into_iter().filter(|peer| *peer != self.scene.host).collect::<Vec<_>>(),
        )
    }

    /// The host, on the same condition.
    pub fn host_to_renew(&self) -> Option<usize> {
        self.unspent().into_iter().find(|peer| *peer == self.scene.host)
    }

    /// Nor is a store lost without which no majority has what was confirmed, such as that of the
    /// sole voter soon after a recovery.
    fn unspent(&self) -> Vec<usize> {
        let scene = self.scene;
        let may = |peer: &usize| {
            !scene.renewed.contains(peer) && scene.has_majority(&[Harm::Lose(*peer)])
        };
        (0..scene.peers).filter(may).collect()
    }

    /// Lines on which packets take so long from peer to peer, and change by so much.
    pub fn far_apart(&self, one_way_ms: u64, jitter_ms: u64) -> Vec<Line> {
        let line = Line { delay_ms: one_way_ms / 2, jitter_ms: jitter_ms / 2, ..Line::default() };
        vec![line; self.scene.peers]
    }

    /// A step to long delays, such as that from a network at home to a phone's.
    pub fn step_up(&mut self) -> Vec<Line> {
        let (delay, jitter) = [(200, 0), (300, 60), (300, 150), (400, 60), (200, 100)]
            [usize::try_from(self.number(0, 4)).expect("there are few")];
        self.far_apart(delay, jitter)
    }

    /// Every line another one, from peer to peer 100 to 400 ms.
    pub fn mixed(&mut self) -> Vec<Line> {
        let line = |draw: &mut Self| Line {
            delay_ms: draw.number(50, 200),
            jitter_ms: draw.number(0, 40),
            ..Line::default()
        };
        (0..self.scene.peers).map(|_| line(self)).collect()
    }

    pub fn voting_member(&mut self) -> Option<usize> {
        let host = self.scene.host;
        let voters = self.scene.voters.iter().copied();
        self.one_of(&voters.filter(|peer| *peer != host).collect::<Vec<_>>())
    }

    pub fn ways_of_host(&self) -> Vec<(usize, usize)> {
        let host = self.scene.host;
        (0..self.scene.peers).filter(|peer| *peer != host).map(|peer| (host, peer)).collect()
    }

    fn shuffled(&mut self) -> Vec<usize> {
        let mut peers: Vec<usize> = (0..self.scene.peers).collect();
        shuffle(self.prng, &mut peers);
        peers
    }

    /// A minority is split off, with or without the host.
    pub fn split_off(&mut self, host: usize, with_host: bool) -> Option<Harm> {
        let mut others: Vec<usize> =
            self.shuffled().into_iter().filter(|peer| *peer != host).collect();
        let minority = (self.scene.peers - 1) / 2;
        let split = minority.checked_sub(usize::from(with_host))?;
        let mut away = others.split_off(others.len() - split);
        if with_host {
            away.push(host);
        } else {
            others.push(host);
        }
        Some(Harm::Cut(between(&[away, others])))
    }

    /// Two equal parts; of an odd number, the one who is left is alone.
    pub fn equal_parts(&mut self) -> Harm {
        let peers = self.shuffled();
        let half = peers.len() / 2;
        let (one, rest) = peers.split_at(half);
        let (other, alone) = rest.split_at(half);
        Harm::Cut(between(&[one.to_vec(), other.to_vec(), alone.to_vec()]))
    }

    /// Two halves that only one member reaches both of.
    pub fn bridge(&mut self) -> Option<Harm> {
        let mut peers = self.shuffled();
        peers.pop().filter(|_| peers.len() >= 2)?;
        let half = peers.len() / 2;
        Some(Harm::Cut(between(&[peers[..half].to_vec(), peers[half..].to_vec()])))
    }

    /// Some harms at random times, some of them undone before others are done. No peer has two.
    pub fn storm(&mut self) -> Vec<(Duration, Step)> {
        let mut steps = Vec::new();
        let mut done: Vec<(usize, Harm)> = Vec::new();
        for _ in 0..self.number(4, 9) {
            let pause = self.between_ms(0, 900);
            if !done.is_empty() && self.prng.below(3) == 0 {
                let place = self.prng.below(done.len() as u64);
                let (_, harm) = done.swap_remove(usize::try_from(place).expect("there are few"));
                steps.push((pause, Step::Undo(harm)));
                continue;
            }
            let peer = self.number(0, self.scene.peers as u64 - 1);
            let peer = usize::try_from(peer).expect("there are few");
            if done.iter().any(|(harmed, _)| *harmed == peer) {
                continue;
            }
            let harm = match self.prng.below(5) {
                0 | 1 => Harm::Kill(peer),
                2 => Harm::Freeze(peer),
                3 => Harm::Stop(peer),
                _ => Harm::Unplug(peer),
            };
            steps.push((pause, Step::Do(harm.clone())));
            done.push((peer, harm));
        }
        steps
    }
}

/// All pairs of peers in different parts, both ways.
fn between(parts: &[Vec<usize>]) -> Vec<(usize, usize)> {
    let part_of = |peer: usize| parts.iter().position(|part| part.contains(&peer));
    let peers: Vec<usize> = parts.iter().flatten().copied().collect();
    let pairs = peers.iter().flat_map(|from| peers.iter().map(|to| (*from, *to)));
    pairs.filter(|(from, to)| part_of(*from) != part_of(*to)).collect()
}

pub fn shuffle<T>(prng: &mut Prng, items: &mut [T]) {
    for end in (1..items.len()).rev() {
        let place = prng.below(end as u64 + 1);
        items.swap(end, usize::try_from(place).expect("it is at most the end"));
    }
}
