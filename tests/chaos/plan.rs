//! What is done to a chat, and when: the faults, each made of harms, drawn from a seed.

use std::collections::BTreeSet;
use std::time::Duration;

use demes::protocol::prng::Prng;

/// One thing that is done to peers or to the network between them. Each can be undone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Harm {
    /// `kill -9`; undone by a start.
    Kill(usize),
    /// SIGTERM, and what a graceful stop does; undone by a start.
    Stop(usize),
    /// SIGSTOP; undone by SIGCONT.
    Freeze(usize),
    /// The cable is pulled.
    Unplug(usize),
    /// The peer's own interface is off.
    SwitchOff(usize),
    /// What the first sends no longer reaches the second.
    Cut(Vec<(usize, usize)>),
    /// How far each peer is, one way, in milliseconds.
    Move(Vec<u64>),
    /// The host hands over to this peer; not to be undone.
    HandOver(usize),
    /// Less free space than the peer's reserve.
    ShortDisk(usize),
    /// No free space.
    FullDisk(usize),
}

impl Harm {
    /// Whether it counts from when it is done. The others are courses of events that peers take
    /// part in, and count from when they begin.
    pub fn is_done_at_once(&self) -> bool {
        !matches!(self, Self::Stop(_) | Self::HandOver(_) | Self::Move(_))
    }
}

/// The faults of the menu.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    HostKilled,
    MemberKilled,
    HostAndAnotherKilled,
    AllKilled,
    HostStopped,
    MemberStopped,
    HandedOver,
    HostFrozen,
    MemberFrozen,
    HostAndAnotherFrozen,
    HostHiccup,
    HostUnplugged,
    MemberUnplugged,
    HostSwitchedOff,
    HostMute,
    HostDeaf,
    HostToMemberCut,
    HostAndMemberApart,
    HostInMinority,
    HostInMajority,
    EqualParts,
    BridgeMember,
    HostFlapping,
    Moved,
    DiskShort,
    DiskFull,
    Storm,
}

use Fault::*;

/// How often each is in the deck, and what it is called.
const MENU: [(Fault, u8, &str); 27] = [
    (HostKilled, 3, "host killed"),
    (MemberKilled, 1, "member killed"),
    (HostAndAnotherKilled, 2, "host and another killed"),
    (AllKilled, 1, "all killed"),
    (HostStopped, 2, "host stopped (SIGTERM)"),
    (MemberStopped, 1, "member stopped (SIGTERM)"),
    (HandedOver, 1, "host hands over"),
    (HostFrozen, 2, "host frozen"),
    (MemberFrozen, 1, "member frozen"),
    (HostAndAnotherFrozen, 1, "host and another frozen"),
    (HostHiccup, 1, "host frozen < 200 ms"),
    (HostUnplugged, 2, "host unplugged"),
    (MemberUnplugged, 1, "member unplugged"),
    (HostSwitchedOff, 1, "host's interface off"),
    (HostMute, 1, "nothing from the host arrives"),
    (HostDeaf, 1, "nothing arrives at the host"),
    (HostToMemberCut, 1, "host → one member cut"),
    (HostAndMemberApart, 1, "host ↔ one member cut"),
    (HostInMinority, 1, "split, host in the minority"),
    (HostInMajority, 1, "split, host in the majority"),
    (EqualParts, 1, "split into equal parts"),
    (BridgeMember, 1, "two halves, one member sees both"),
    (HostFlapping, 1, "host's cable flaps"),
    (Moved, 1, "delays change"),
    (DiskShort, 1, "host's disk below its reserve"),
    (DiskFull, 1, "host's disk full"),
    (Storm, 2, "several at random"),
];

impl Fault {
    /// What it is called in reports.
    pub fn name(self) -> &'static str {
        let entry = MENU.iter().find(|(fault, ..)| *fault == self);
        entry.expect("the menu has every fault").2
    }

    /// Whether it wants a peer with a small disk.
    pub fn wants_disk(self) -> bool {
        matches!(self, DiskShort | DiskFull)
    }
}

/// The faults in an order drawn from the seed, each as often as the menu says. The host is killed
/// first, so that the shortest run has that.
pub fn deck(prng: &mut Prng, only: &[String]) -> Vec<Fault> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|part| name.contains(part));
    let mut deck: Vec<Fault> = MENU
        .iter()
        .filter(|(.., name)| wanted(name))
        .flat_map(|(fault, count, _)| (0..*count).map(|_| *fault))
        .collect();
    shuffle(prng, &mut deck);
    if let Some(place) = deck.iter().position(|fault| *fault == HostKilled) {
        deck.swap(0, place);
    }
    deck
}

/// What a plan is made from.
pub struct Scene {
    pub peers: usize,
    pub host: usize,
    pub voters: BTreeSet<usize>,
    /// The peer with the small disk.
    pub disk: Option<usize>,
    /// Whether peers can be moved.
    pub delays: bool,
}

/// One fault, to be played.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Done before, with time to settle: where the host should be.
    pub first_hand_over_to: Option<usize>,
    /// Each after the one before has been for so long.
    pub steps: Vec<(Duration, Step)>,
    /// Whether a majority is left that can go on at once. Otherwise time counts from the healing.
    pub goes_on: bool,
    /// How long it stays as it is, once the chat goes on or from the last step.
    pub hold: Duration,
}

/// A step of a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Do(Harm),
    Undo(Harm),
}

/// A fault with all that is left open filled in; nothing where the chat is too small for it.
pub fn plan(fault: Fault, scene: &Scene, prng: &mut Prng) -> Option<Plan> {
    let mut draw = Draw { scene, prng };
    let host = scene.host;
    let hold = draw.between_ms(0, 1_500);
    let silence = draw.between_ms(300, 5_000);
    let mut plan = Plan { first_hand_over_to: None, steps: vec![], goes_on: true, hold };
    match fault {
        HostKilled => plan.add(Harm::Kill(host)),
        MemberKilled => plan.add(Harm::Kill(draw.member()?)),
        HostAndAnotherKilled => {
            plan.add(Harm::Kill(host));
            plan.add(Harm::Kill(draw.member()?));
        }
        AllKilled => (0..scene.peers).for_each(|peer| plan.add(Harm::Kill(peer))),
        HostStopped => plan.add(Harm::Stop(host)),
        MemberStopped => plan.add(Harm::Stop(draw.member()?)),
        HandedOver => plan.add(Harm::HandOver(draw.voting_member()?)),
        HostFrozen => plan.add(Harm::Freeze(host)),
        MemberFrozen => plan.add(Harm::Freeze(draw.member()?)),
        HostAndAnotherFrozen => {
            plan.add(Harm::Freeze(host));
            plan.add(Harm::Freeze(draw.member()?));
        }
        HostHiccup => {
            plan.add(Harm::Freeze(host));
            plan.steps.push((draw.between_ms(20, 200), Step::Undo(Harm::Freeze(host))));
        }
        HostUnplugged => plan.add(Harm::Unplug(host)),
        MemberUnplugged => plan.add(Harm::Unplug(draw.member()?)),
        HostSwitchedOff => plan.add(Harm::SwitchOff(host)),
        HostMute => plan.add(Harm::Cut(draw.ways_of_host())),
        HostDeaf => plan.add(Harm::Cut(draw.ways_of_host().into_iter().map(turned).collect())),
        HostToMemberCut => plan.add(Harm::Cut(vec![(host, draw.member()?)])),
        HostAndMemberApart => {
            let pair = (host, draw.member()?);
            plan.add(Harm::Cut(vec![pair, turned(pair)]));
        }
        HostInMinority => plan.add(draw.split_off(host, true)?),
        HostInMajority => plan.add(draw.split_off(host, false)?),
        EqualParts => plan.add(draw.equal_parts()),
        BridgeMember => plan.add(draw.bridge()?),
        HostFlapping => {
            for _ in 0..draw.number(2, 6) {
                plan.steps.push((draw.between_ms(100, 700), Step::Do(Harm::Unplug(host))));
                plan.steps.push((draw.between_ms(100, 700), Step::Undo(Harm::Unplug(host))));
            }
        }
        Moved if scene.delays => {
            let delays = (0..scene.peers).map(|_| draw.number(0, 40)).collect();
            plan.add(Harm::Move(delays));
        }
        Moved => return None,
        DiskShort | DiskFull => {
            let disk = scene.disk?;
            let harm = if fault == DiskShort { Harm::ShortDisk } else { Harm::FullDisk };
            plan.first_hand_over_to = Some(disk).filter(|disk| *disk != host);
            plan.add(harm(disk));
        }
        Storm => plan.steps = draw.storm(),
    }
    let silent = matches!(fault, HostFrozen | MemberFrozen | HostAndAnotherFrozen);
    if silent || fault >= HostUnplugged && fault <= BridgeMember {
        plan.hold = silence;
    }
    plan.goes_on = !matches!(fault, Storm | HostFlapping) && scene.majority_survives(&plan);
    let must_go_on = matches!(fault, HostAndAnotherKilled | HostAndAnotherFrozen | HostInMinority);
    (plan.goes_on || !must_go_on).then_some(plan)
}

impl Plan {
    fn add(&mut self, harm: Harm) {
        self.steps.push((Duration::ZERO, Step::Do(harm)));
    }

    /// The harms that are done and not undone in the course of it.
    pub fn lasting(&self) -> Vec<Harm> {
        let mut lasting = Vec::new();
        for (_, step) in &self.steps {
            match step {
                Step::Do(harm) => lasting.push(harm.clone()),
                Step::Undo(harm) => lasting.retain(|one| one != harm),
            }
        }
        lasting
    }
}

impl Scene {
    /// Whether some voters that all reach each other are a majority.
    fn majority_survives(&self, plan: &Plan) -> bool {
        let mut gone = BTreeSet::new();
        let mut cut = BTreeSet::new();
        for harm in plan.lasting() {
            match harm {
                Harm::Kill(peer)
                | Harm::Stop(peer)
                | Harm::Freeze(peer)
                | Harm::Unplug(peer)
                | Harm::SwitchOff(peer)
                | Harm::FullDisk(peer) => drop(gone.insert(peer)),
                Harm::Cut(pairs) => cut.extend(pairs),
                Harm::Move(_) | Harm::HandOver(_) | Harm::ShortDisk(_) => {}
            }
        }
        let apart = |a: usize, b: usize| cut.contains(&(a, b)) || cut.contains(&(b, a));
        let left: Vec<usize> = self.voters.difference(&gone).copied().collect();
        // One in the middle who reaches a majority is enough: it can host.
        left.iter().any(|hub| {
            let reached = left.iter().filter(|other| !apart(*hub, **other)).count();
            reached * 2 > self.voters.len()
        })
    }
}

fn turned((from, to): (usize, usize)) -> (usize, usize) {
    (to, from)
}

/// Draws what a plan leaves open.
struct Draw<'a> {
    scene: &'a Scene,
    prng: &'a mut Prng,
}

impl Draw<'_> {
    fn number(&mut self, least: u64, most: u64) -> u64 {
        least + self.prng.below(most - least + 1)
    }

    fn between_ms(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.number(least, most))
    }

    fn one_of(&mut self, peers: &[usize]) -> Option<usize> {
        let place = self.prng.below(peers.len().max(1) as u64);
        peers.get(usize::try_from(place).expect("there are few")).copied()
    }

    /// Anyone but the host.
    fn member(&mut self) -> Option<usize> {
        let host = self.scene.host;
        self.one_of(&(0..self.scene.peers).filter(|peer| *peer != host).collect::<Vec<_>>())
    }

    fn voting_member(&mut self) -> Option<usize> {
        let host = self.scene.host;
        let voters = self.scene.voters.iter().copied();
        self.one_of(&voters.filter(|peer| *peer != host).collect::<Vec<_>>())
    }

    fn ways_of_host(&self) -> Vec<(usize, usize)> {
        let host = self.scene.host;
        (0..self.scene.peers).filter(|peer| *peer != host).map(|peer| (host, peer)).collect()
    }

    fn shuffled(&mut self) -> Vec<usize> {
        let mut peers: Vec<usize> = (0..self.scene.peers).collect();
        shuffle(self.prng, &mut peers);
        peers
    }

    /// A minority is split off, with or without the host.
    fn split_off(&mut self, host: usize, with_host: bool) -> Option<Harm> {
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
    fn equal_parts(&mut self) -> Harm {
        let peers = self.shuffled();
        let half = peers.len() / 2;
        let (one, rest) = peers.split_at(half);
        let (other, alone) = rest.split_at(half);
        Harm::Cut(between(&[one.to_vec(), other.to_vec(), alone.to_vec()]))
    }

    /// Two halves that only one member reaches both of.
    fn bridge(&mut self) -> Option<Harm> {
        let mut peers = self.shuffled();
        peers.pop().filter(|_| peers.len() >= 2)?;
        let half = peers.len() / 2;
        Some(Harm::Cut(between(&[peers[..half].to_vec(), peers[half..].to_vec()])))
    }

    /// Some harms at random times, some of them undone before others are done. No peer has two.
    fn storm(&mut self) -> Vec<(Duration, Step)> {
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

fn shuffle<T>(prng: &mut Prng, items: &mut [T]) {
    for end in (1..items.len()).rev() {
        let place = prng.below(end as u64 + 1);
        items.swap(end, usize::try_from(place).expect("it is at most the end"));
    }
}
