//! Messages are lost, doubled and late, and peers are parted from each other.

use std::collections::BTreeSet;

use super::super::network::{Condition, Way};
use super::super::plan::{Action, Draw, ms};
use super::super::queue::What;
use super::super::world::{MS, SECOND, World};
use super::{numbers, span};

/// A share of all messages is lost, and streams break.
pub fn loss(draw: &mut Draw, rest_us: u64) -> Action {
    let (percent, for_us) = (1 + draw.below(30), span(draw, rest_us));
    Action::new(format!("{percent} % of all messages are lost for {}", ms(for_us)), move |world| {
        world.begin(Condition::Loss { percent }, for_us);
    })
}

/// A share of all calls arrives twice.
pub fn duplicates(draw: &mut Draw, rest_us: u64) -> Action {
    let (percent, for_us) = (5 + draw.below(40), span(draw, rest_us));
    Action::new(format!("{percent} % of all calls are doubled for {}", ms(for_us)), move |world| {
        world.begin(Condition::Duplicates { percent }, for_us);
    })
}

/// Messages are late, each by another time, and overtake each other.
pub fn delay(draw: &mut Draw, rest_us: u64) -> Action {
    let (us_max, for_us) = (draw.span(MS, 500 * MS), span(draw, rest_us));
    let words = format!("messages are up to {} late for {}", ms(us_max), ms(for_us));
    Action::new(words, move |world| world.begin(Condition::Delay { us_max }, for_us))
}

/// All are far from each other from one moment to the next, as when a machine changes networks.
pub fn far(draw: &mut Draw, rest_us: u64) -> Action {
    let (us, jitter_us) = (draw.span(50 * MS, 400 * MS), draw.below(150 * MS));
    let for_us = draw.span(SECOND, 40 * SECOND).min(rest_us);
    let words =
        format!("all are {} and up to {} away for {}", ms(us), ms(us + jitter_us), ms(for_us));
    Action::new(words, move |world| world.begin(Condition::Far { us, jitter_us }, for_us))
}

/// Everybody's line carries little.
pub fn narrow(draw: &mut Draw, rest_us: u64) -> Action {
    let least = draw.span(8_000, 64_000);
    let bytes_per_second = if draw.chance(50) { least } else { 4 * least };
    let for_us = draw.span(SECOND, 20 * SECOND).min(rest_us);
    let words = format!("lines carry {bytes_per_second} bytes a second for {}", ms(for_us));
    Action::new(words, move |world| {
        world.begin(Condition::Narrow { bytes_per_second }, for_us);
    })
}

/// Nothing arrives one way, to somebody or to anybody.
pub fn one_way_cut(draw: &mut Draw, rest_us: u64) -> Action {
    let (from, for_us) = (draw.who(), span(draw, rest_us));
    let to = draw.chance(60).then(|| draw.peer());
    let whom = to.map_or("anybody".into(), |to| (to + 1).to_string());
    let words = format!("nothing of {from} arrives at {whom} for {}", ms(for_us));
    Action::new(words, move |world| {
        let Some(from) = world.find(from) else { return };
        let all = 0..world.peers.len();
        let to = all.filter(|other| *other != from && to.is_none_or(|to| to == *other));
        world.cut(to.map(|to| (from, to)).collect(), false, for_us);
    })
}

/// One peer is cut off, for good or so that TCP sends again what was under way.
pub fn isolation(draw: &mut Draw, rest_us: u64) -> Action {
    let (who, is_held, for_us) = (draw.who(), draw.chance(40), span(draw, rest_us));
    let words = format!("{who} is cut off for {}{}", ms(for_us), held(is_held));
    Action::new(words, move |world| {
        if let Some(peer) = world.find(who) {
            world.part(&[peer], is_held, for_us);
        }
    })
}

/// Some peers are parted from all others.
pub fn split(draw: &mut Draw, rest_us: u64) -> Action {
    let (side, is_held, for_us) = (draw.side(), draw.chance(40), span(draw, rest_us));
    let words =
        format!("{} and the rest are parted for {}{}", numbers(&side), ms(for_us), held(is_held));
    Action::new(words, move |world| world.part(&side, is_held, for_us))
}

/// Two halves of the same size, if there can be.
pub fn even_split(draw: &mut Draw, rest_us: u64) -> Action {
    let (first, for_us) = (draw.peer(), span(draw, rest_us));
    let side: Vec<_> =
        (0..draw.members / 2).map(|offset| (first + offset) % draw.members).collect();
    let words = format!("{} and the other half are parted for {}", numbers(&side), ms(for_us));
    Action::new(words, move |world| world.part(&side, false, for_us))
}

/// Two halves that see each other only through one member.
pub fn bridge(draw: &mut Draw, rest_us: u64) -> Action {
    let (bridge, side, for_us) = (draw.who(), draw.side(), span(draw, rest_us));
    let words = format!("{} see the rest only through {bridge} for {}", numbers(&side), ms(for_us));
    Action::new(words, move |world| {
        let bridge = world.find(bridge);
        let is_cut = |(a, b): &Way| {
            side.contains(a) != side.contains(b) && Some(*a) != bridge && Some(*b) != bridge
        };
        world.cut(world.ways().filter(is_cut).collect(), false, for_us);
    })
}

/// Two members that see only one other.
pub fn two_leaves(draw: &mut Draw, rest_us: u64) -> Action {
    let (hub, leaves, for_us) = (draw.who(), [draw.peer(), draw.peer()], span(draw, rest_us));
    let words = format!("{} see nobody but {hub} for {}", numbers(&leaves), ms(for_us));
    Action::new(words, move |world| {
        let hub = world.find(hub);
        let is_leaf = |peer: usize| leaves.contains(&peer) && Some(peer) != hub;
        let is_cut =
            |(a, b): &Way| (is_leaf(*a) && Some(*b) != hub) || (is_leaf(*b) && Some(*a) != hub);
        world.cut(world.ways().filter(is_cut).collect(), false, for_us);
    })
}

/// Half of what a peer sends is lost.
pub fn lossy_outbound(draw: &mut Draw, rest_us: u64) -> Action {
    let (who, for_us) = (draw.who(), span(draw, rest_us));
    Action::new(format!("half of what {who} sends is lost for {}", ms(for_us)), move |world| {
        if let Some(peer) = world.find(who) {
            world.begin(Condition::LossyOutbound { peer, percent: 50 }, for_us);
        }
    })
}

/// A link goes up and down.
pub fn flapping(draw: &mut Draw, rest_us: u64) -> Action {
    let (a, b) = (draw.who(), draw.peer());
    let (times, period_us) = (2 + draw.below(8), draw.span(20 * MS, 3_000 * MS));
    let times = times.min(rest_us / period_us);
    let words = format!("the link of {a} and {} goes down {times} times", b + 1);
    Action::new(words, move |world| {
        if let Some(a) = world.find(a).filter(|a| *a != b) {
            world.flap(a, b, period_us, times);
        }
    })
}

/// A member reads its stream of entries slowly.
pub fn slow_reader(draw: &mut Draw, rest_us: u64) -> Action {
    let (who, for_us) = (draw.who(), span(draw, rest_us));
    Action::new(format!("{who} reads slowly for {}", ms(for_us)), move |world| {
        if let Some(peer) = world.find(who) {
            world.begin(Condition::SlowReader { peer }, for_us);
        }
    })
}

/// Nobody can open a connection to a peer, which can open them to all (R25).
pub fn cannot_be_dialled(draw: &mut Draw, rest_us: u64) -> Action {
    let (who, for_us) = (draw.who(), span(draw, rest_us));
    Action::new(format!("nobody can dial {who} for {}", ms(for_us)), move |world| {
        if let Some(peer) = world.find(who) {
            let ways = world.ways().filter(|(_, to)| *to == peer).collect();
            world.begin(Condition::NoDial { ways }, for_us);
        }
    })
}

fn held(is_held: bool) -> &'static str {
    if is_held { ", and what was sent arrives then" } else { "" }
}

impl World {
    /// Something goes wrong for a while.
    pub fn begin(&mut self, condition: Condition, for_us: u64) {
        let condition = self.network.begin(condition);
        self.at(for_us, What::EndCondition(condition));
        self.look_at_all_links();
    }

    fn cut(&mut self, ways: BTreeSet<Way>, is_held: bool, for_us: u64) {
        let held_until = is_held.then_some(self.now + for_us);
        self.begin(Condition::Cut { ways, held_until }, for_us);
    }

    /// Nothing passes between these peers and all others.
    pub fn part(&mut self, side: &[usize], is_held: bool, for_us: u64) {
        let is_cut = |(a, b): &Way| side.contains(a) != side.contains(b);
        self.cut(self.ways().filter(is_cut).collect(), is_held, for_us);
    }

    /// All directed ways.
    pub fn ways(&self) -> impl Iterator<Item = Way> + use<> {
        let count = self.peers.len();
        (0..count).flat_map(move |a| (0..count).filter(move |b| *b != a).map(move |b| (a, b)))
    }

    /// A link goes down for half a period, and then up for the other half.
    pub fn flap(&mut self, a: usize, b: usize, period_us: u64, left: u64) {
        if left == 0 || self.is_healing {
            return;
        }
        self.counts.add("links that flapped");
        self.cut([(a, b), (b, a)].into(), false, period_us / 2);
        self.break_link(a, b);
        self.at(period_us, What::Flap { a, b, period_us, left: left - 1 });
    }
}
