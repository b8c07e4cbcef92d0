//! Which step comes next, drawn from a seed and from what could happen.

use demes_protocol::prng::Prng;

use super::super::process::Wish;
use super::chat::{Chat, Flying};
use super::step::Deed;

/// Kinds of messages, one or two of which are often late in a run.
const LATE: [&str; 14] = [
    "FetchLogAnswer",
    "FetchLog",
    "Append",
    "Acknowledge",
    "Attach",
    "Vote",
    "RequestVote",
    "Nominate",
    "SolicitAnswer",
    "Submit",
    "SubmitAnswer",
    "Join",
    "HandOver",
    "Refused",
];
/// More on its way than this slows nothing but the fuzzer.
const FLYING_MAX: usize = 60;

/// What a run is mostly about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Theme {
    /// Everything a little.
    Any,
    /// Logs that differ.
    Logs,
    /// Members that come, go, and begin anew.
    People,
    /// Connections.
    Ways,
    /// Torn tails.
    Memory,
    /// Disks that fill up.
    Disks,
}

const THEMES: [Theme; 6] =
    [Theme::Any, Theme::Logs, Theme::People, Theme::Ways, Theme::Memory, Theme::Disks];

/// What is likely in one run. Each run has faults of some kinds only.
pub struct Temper {
    late: Vec<&'static str>,
    /// Of a thousand steps: deliver, sync, look, wake.
    ordered_percent: u64,
    deliver: u64,
    sync: u64,
    wake: u64,
    rest: u64,
    lose_percent: u64,
    double_percent: u64,
    earliest_percent: u64,
    faults: Vec<(u64, Fault)>,
    /// What is said this way is not heard yet.
    held: Vec<(usize, usize)>,
    held_for: u64,
    /// How often a host says what few hear, in percent of all phases.
    diverge_percent: u64,
    /// How often something is held, in percent of all phases.
    hold_percent: u64,
    planned: Vec<Deed>,
}

#[derive(Clone, Copy)]
enum Fault {
    Say,
    Read,
    Crash,
    Start,
    Cut,
    Isolate,
    Mend,
    HandOver,
    Stop,
    Leave,
    Remove,
    Invite,
    Join,
    Decline,
    Tear,
    Wipe,
    Disk,
    Pass,
}

impl Temper {
    pub fn draw(prng: &mut Prng) -> Self {
        let mut any = |list: &[u64]| list[prng.below(list.len() as u64) as usize];
        let theme = THEMES[any(&[0, 1, 2, 3, 4, 5]) as usize];
        let mut one_of = |theme_of_it: Theme, often: &[u64], seldom: &[u64]| {
            let list = if theme == theme_of_it { often } else { seldom };
            list[prng.below(list.len() as u64) as usize]
        };
        let mut faults = vec![
            (one_of(Theme::Logs, &[30, 60], &[10, 30, 60]), Fault::Say),
            (one_of(Theme::Any, &[0, 5, 10], &[0, 5]), Fault::Read),
            (one_of(Theme::Logs, &[3, 8], &[0, 3, 8, 15]), Fault::Crash),
            (one_of(Theme::Any, &[10, 20, 40], &[20]), Fault::Start),
            (one_of(Theme::Ways, &[5, 15], &[0, 3, 8]), Fault::Cut),
            (one_of(Theme::Ways, &[0, 5], &[0, 2, 5]), Fault::Isolate),
            (one_of(Theme::Ways, &[5, 10], &[5, 10, 30]), Fault::Mend),
            (one_of(Theme::Any, &[0, 3, 10], &[0, 0, 3]), Fault::HandOver),
            (one_of(Theme::Any, &[0, 2], &[0, 0, 1]), Fault::Stop),
            (one_of(Theme::Any, &[0, 3], &[0, 0, 3]), Fault::Pass),
            (one_of(Theme::People, &[1, 3], &[0, 0, 0, 1]), Fault::Leave),
            (one_of(Theme::People, &[0, 2], &[0, 0, 0, 1]), Fault::Remove),
            (one_of(Theme::People, &[3, 10], &[0, 0, 0, 2]), Fault::Wipe),
            (one_of(Theme::Memory, &[3, 8], &[0, 0, 0, 2]), Fault::Tear),
            (one_of(Theme::Disks, &[5, 15], &[0, 0, 0, 3]), Fault::Disk),
            (one_of(Theme::People, &[10, 20], &[2, 5]), Fault::Invite),
            (one_of(Theme::People, &[40, 80], &[10, 20]), Fault::Join),
            (one_of(Theme::People, &[0, 20], &[0, 0, 20]), Fault::Decline),
        ];
        let diverge_percent = one_of(Theme::Logs, &[50, 80], &[0, 0, 30]);
        let hold_percent = one_of(Theme::Logs, &[60, 90], &[0, 60, 90]);
        let double_percent = one_of(Theme::People, &[10, 30], &[0, 2, 10]);
        let mut any = |list: &[u64]| list[prng.below(list.len() as u64) as usize];
        let late = match theme {
            Theme::Logs => vec![any(&[0, 0, 1, 2])],
            Theme::People => vec![11],
            _ => (0..any(&[0, 1, 2]))
                .map(|_| any(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]))
                .collect(),
        };
        faults.retain(|(weight, _)| *weight > 0);
        Self {
            late: late.into_iter().map(|kind| LATE[kind as usize]).collect(),
            ordered_percent: any(&[50, 80, 95]),
            deliver: any(&[300, 500, 800]),
            sync: any(&[100, 200, 400]),
            wake: any(&[40, 80, 150, 300]),
            rest: any(&[0, 0, 2, 10]),
            lose_percent: any(&[0, 2, 10, 30]),
            double_percent,
            diverge_percent,
            earliest_percent: any(&[0, 30, 80]),
            faults,
            held: Vec::new(),
            held_for: 0,
            hold_percent,
            planned: Vec::new(),
        }
    }

    /// Some ways are slow for a while, and what was said there is lost then, or heard at last.
    fn change_phase(&mut self, prng: &mut Prng, chat: &Chat) {
        self.held_for = 20 + prng.below(100);
        if prng.below(2) == 0 {
            let held = chat.flying.iter().filter(|flying| self.is_held(flying));
            let lost = held.filter(|_| prng.below(3) > 0);
            let lost: Vec<_> = lost.map(|flying| Deed::Lose(flying.key)).collect();
            self.planned = lost;
        }
        let host = chat.host();
        let count = chat.peers.len();
        if let Some(host) = host.filter(|_| prng.below(100) < self.diverge_percent) {
            // What it says is heard by one at most, and then it is gone, or not.
            let ear = prng.below(2 * count as u64) as usize;
            self.held = (0..count).filter(|b| *b != ear).map(|b| (host, b)).collect();
            let words = prng.below(3);
            let crash = (prng.below(2) == 0).then_some(Deed::Crash(host, 2));
            self.planned.splice(0..0, crash);
            for _ in 0..words {
                self.planned.extend([Deed::Sync(host), Deed::Sync(host), Deed::Say(host)]);
            }
            return;
        }
        let ways = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        let bits = prng.next_u64();
        let is_in = |peer: usize| bits >> peer & 1 == 1;
        self.held = match prng.below(100) < self.hold_percent {
            false => Vec::new(),
            true => match prng.below(4) {
                0 => ways.filter(|(a, b)| Some(*a) == host || Some(*b) == host).collect(),
                1 => ways.filter(|(a, b)| is_in(*a) != is_in(*b)).collect(),
                2 => ways.filter(|(a, b)| Some(*a) == host && is_in(*b)).collect(),
                _ => ways.filter(|(a, b)| bits >> (8 + 6 * a + b) & 1 == 1).collect(),
            },
        };
    }

    fn is_held(&self, flying: &Flying) -> bool {
        self.held.contains(&(flying.key.from, flying.key.to))
    }

    fn is_late(&self, flying: &Flying) -> bool {
        let is_slow = self.late.contains(&flying.key.kind);
        self.is_held(flying) || (is_slow && !flying.key.count.is_multiple_of(3))
    }

    pub fn next(&mut self, prng: &mut Prng, chat: &Chat) -> Deed {
        if self.held_for == 0 {
            self.change_phase(prng, chat);
        }
        self.held_for -= 1;
        if let Some(deed) = self.planned.pop() {
            return deed;
        }
        let quiet = |flying: &&Flying| {
            matches!(flying.key.kind, "Heartbeat" | "ReportDelays" | "Acknowledge" | "FindHost")
        };
        if chat.flying.len() > FLYING_MAX
            && let Some(flying) = chat.flying.iter().find(quiet)
        {
            return Deed::Lose(flying.key);
        }
        let count = chat.peers.len();
        let peer = prng.below(count as u64) as usize;
        let other = prng.below(count as u64) as usize;
        let stale: Vec<_> = (0..count)
            .flat_map(|a| (0..count).map(move |b| (a, b)))
            .filter(|(a, b)| chat.is_stale(*a, *b))
            .collect();
        let waiting: Vec<_> =
            (0..count).filter(|peer| !chat.peers[*peer].disk.pending.is_empty()).collect();
        let deliver = if chat.flying.is_empty() { 0 } else { self.deliver };
        let look = if stale.is_empty() { 0 } else { 100 };
        let sync = if waiting.is_empty() { 0 } else { self.sync };
        let mut pick = |end: u64| prng.below(end);
        let faults: u64 = self.faults.iter().map(|(weight, _)| weight).sum();
        let mut drawn = pick(deliver + look + sync + self.wake + self.rest + faults);
        let mut is_in = |weight: u64| {
            let is_in = drawn < weight;
            drawn = drawn.wrapping_sub(weight);
            is_in
        };
        if is_in(deliver) {
            return self.message(&mut pick, chat);
        }
        if is_in(look) {
            let (a, b) = stale[pick(stale.len() as u64) as usize];
            return Deed::Look(a, b);
        }
        if is_in(sync) {
            return Deed::Sync(waiting[pick(waiting.len() as u64) as usize]);
        }
        if is_in(self.wake) {
            let due = |peer: &usize| {
                let replica = chat.peers[*peer].replica.as_ref();
                replica.and_then(|replica| replica.poll_timeout())
            };
            let earliest = (0..count).filter(|peer| due(peer).is_some()).min_by_key(due);
            let is_earliest = pick(100) < self.earliest_percent;
            return Deed::Wake(earliest.filter(|_| is_earliest).unwrap_or(peer));
        }
        if is_in(self.rest) {
            return Deed::Rest;
        }
        let fault = self.faults.iter().find(|(weight, _)| is_in(*weight));
        let fault = fault.map_or(Fault::Pass, |(_, fault)| *fault);
        self.fault(&mut pick, chat, fault, peer, other)
    }

    fn message(&self, pick: &mut impl FnMut(u64) -> u64, chat: &Chat) -> Deed {
        let timely = || chat.flying.iter().filter(|flying| !self.is_late(flying));
        let is_ordered = pick(100) < self.ordered_percent;
        let any = pick(100);
        let chosen = match () {
            () if is_ordered => timely().next(),
            () if any < 90 => timely().nth(pick(1 + timely().count() as u64) as usize),
            () => None,
        };
        let chosen = chosen.or_else(|| {
            let late = || chat.flying.iter().filter(|f| self.is_late(f) && !self.is_held(f));
            // What is late waits for the right moment.
            let is_time = any >= 90 || pick(20) == 0;
            late().nth(pick(1 + late().count() as u64) as usize).filter(|_| is_time)
        });
        let Some(key) = chosen.map(|flying| flying.key) else { return Deed::Pass(10) };
        let luck = pick(100);
        match () {
            () if luck < self.lose_percent => Deed::Lose(key),
            () if luck < self.lose_percent + self.double_percent => Deed::Double(key),
            () => Deed::Deliver(key),
        }
    }

    fn fault(
        &self,
        pick: &mut impl FnMut(u64) -> u64,
        chat: &Chat,
        fault: Fault,
        peer: usize,
        other: usize,
    ) -> Deed {
        let host = chat.host();
        // Whoever hosts is the most interesting.
        let target = host.filter(|_| pick(3) == 0).unwrap_or(peer);
        match fault {
            Fault::Say => Deed::Say(target),
            Fault::Read => Deed::Read(peer),
            Fault::Crash => Deed::Crash(target, pick(3) as usize),
            Fault::Start => {
                let down = (0..chat.peers.len()).find(|peer| {
                    let state = &chat.peers[*peer];
                    state.joined && state.replica.is_none()
                });
                let state = &chat.peers[peer];
                match down {
                    Some(down) if state.replica.is_some() || !state.joined => Deed::Start(down),
                    _ => Deed::Start(peer),
                }
            }
            Fault::Cut if target != other => Deed::Cut(target, other),
            Fault::Isolate => Deed::Isolate(target),
            Fault::Mend if pick(4) == 0 => Deed::MendAll,
            Fault::Mend => {
                let count = chat.cuts.len() as u64;
                let cut = (count > 0).then(|| chat.cuts.iter().nth(pick(count) as usize));
                cut.flatten().map_or(Deed::Pass(10), |(a, b)| Deed::Mend(*a, *b))
            }
            Fault::HandOver => Deed::HandOver((pick(2) == 0).then_some(peer)),
            Fault::Stop => Deed::Stop(target),
            Fault::Leave => Deed::Leave(peer),
            Fault::Remove if peer != other => Deed::Remove(peer, other),
            Fault::Invite => {
                let outside = (0..chat.peers.len()).find(|peer| !chat.peers[*peer].joined);
                outside.map_or(Deed::Pass(10), |outside| Deed::Invite(peer, outside))
            }
            Fault::Join | Fault::Decline => {
                let outside = (0..chat.peers.len()).find(|peer| !chat.peers[*peer].joined);
                let (Some(outside), Some(host)) = (outside, host) else { return Deed::Pass(10) };
                match fault {
                    Fault::Decline if chat.peers[outside].wish != Wish::Join || pick(3) == 0 => {
                        Deed::Decline(outside, host)
                    }
                    _ => Deed::Join(outside, host),
                }
            }
            Fault::Tear => Deed::Tear(peer, pick(1_000)),
            Fault::Wipe => Deed::Wipe(peer),
            Fault::Disk => Deed::Disk(target, pick(2) == 0),
            _ => Deed::Pass([100, 10_000, 300_000, 3_000_000][pick(4) as usize]),
        }
    }
}
