//! Chats in which nothing fails and everything gets slower: ways that get longer from one moment to
//! the next, and syncs that are slow at all peers. What counts is for how long nothing is
//! confirmed, how many terms that costs, and how often another hosts.

use demes_protocol::event::Notice;
use demes_protocol::prng::Prng;

use super::network::Condition;
use super::number;
use super::plan::{Action, Plan};
use super::run::run;
use super::workload;
use super::world::{MS, SECOND, World};

/// Seeds of each case in the normal run.
const SEEDS: u64 = 10;
/// When a chat has grown up and everything gets slower.
const STEP_AT: u64 = 30 * SECOND;
/// For how long people talk after that.
const TALK_US: u64 = 30 * SECOND;
/// Between two words, each of another member.
const WORDS_US: u64 = 100 * MS;

/// What became of a chat since the moment that is looked at.
#[derive(Clone, Default)]
pub struct Course {
    /// Its seed and, as the last digit, how many members it has.
    name: u64,
    since: Option<u64>,
    confirmed_at: u64,
    /// The longest time without a confirmation.
    pub gap_us: u64,
    /// Terms in which somebody stood.
    pub terms: u64,
    /// How often a host began to serve.
    pub hosts: u64,
    pub pauses: u64,
    last_term: u64,
}

impl Course {
    fn begin(&mut self, now: u64) {
        *self = Self { since: Some(now), confirmed_at: now, ..Self::default() };
    }

    /// Nobody says anything any more.
    fn end(&mut self, now: u64) {
        if self.since.take().is_some() {
            self.gap_us = self.gap_us.max(now - self.confirmed_at);
        }
    }

    pub fn note(&mut self, now: u64, notice: &Notice) {
        if self.since.is_none() {
            return;
        }
        match notice {
            Notice::Confirmed { .. } => {
                self.gap_us = self.gap_us.max(now - self.confirmed_at);
                self.confirmed_at = now;
            }
            Notice::Standing { term } if *term > self.last_term => {
                self.last_term = *term;
                self.terms += 1;
            }
            Notice::Serving { .. } => self.hosts += 1,
            Notice::Paused { paused: true } => self.pauses += 1,
            _ => {}
        }
    }
}

/// How ways get longer.
struct Longer {
    name: &'static str,
    from_ms: u64,
    /// Between which delays each way lies afterwards, and how far each message differs from that.
    to_ms: (u64, u64),
    jitter_ms: u64,
}

impl Longer {
    fn action(&self, seed: u64, members: usize) -> Action {
        let (least, most) = self.to_ms;
        let jitter_us = self.jitter_ms * MS;
        let mut prng = Prng::new(seed ^ 0xd157);
        let mut distances = vec![vec![0; members]; members];
        for (from, to) in (0..members).flat_map(|from| (0..from).map(move |to| (from, to))) {
            let one_way_us = (least + prng.below(most - least + 1)) * MS - jitter_us;
            (distances[from][to], distances[to][from]) = (one_way_us, one_way_us);
        }
        Action::new(self.name.to_owned(), move |world| {
            world.network.move_to(distances.clone());
            if jitter_us > 0 {
                world.network.begin(Condition::Delay { us_max: 2 * jitter_us });
            }
        })
    }
}

const LONGER: [Longer; 12] = [
    Longer { name: "0 to 50 ms", from_ms: 0, to_ms: (50, 50), jitter_ms: 0 },
    Longer { name: "0 to 100 ms", from_ms: 0, to_ms: (100, 100), jitter_ms: 0 },
    Longer { name: "0 to 200 ms", from_ms: 0, to_ms: (200, 200), jitter_ms: 0 },
    Longer { name: "0 to 300 ± 60 ms", from_ms: 0, to_ms: (300, 300), jitter_ms: 60 },
    Longer { name: "0 to 300 ± 150 ms", from_ms: 0, to_ms: (300, 300), jitter_ms: 150 },
    Longer { name: "0 to 100–400 ms", from_ms: 0, to_ms: (100, 400), jitter_ms: 0 },
    Longer { name: "50 to 200 ± 100 ms", from_ms: 50, to_ms: (200, 200), jitter_ms: 100 },
    Longer { name: "50 to 100–400 ± 50 ms", from_ms: 50, to_ms: (100, 400), jitter_ms: 50 },
    Longer { name: "0 to 400 ms", from_ms: 0, to_ms: (400, 400), jitter_ms: 0 },
    Longer { name: "0 to 400 ± 100 ms", from_ms: 0, to_ms: (400, 400), jitter_ms: 100 },
    Longer { name: "0 to 400 ± 200 ms", from_ms: 0, to_ms: (400, 400), jitter_ms: 200 },
    Longer { name: "50 to 400 ± 100 ms", from_ms: 50, to_ms: (400, 400), jitter_ms: 100 },
];

impl Plan {
    /// A chat in which people talk, and at one moment `slower` happens.
    fn of_slowing(seed: u64, members: usize, from_us: u64, slower: Action) -> Self {
        let mut plan = Self::of_some(seed, members, from_us.max(50));
        plan.steps.clear();
        for peer in 1..members {
            plan.add(100 * MS, workload::join(peer));
        }
        plan.faults_until = STEP_AT + TALK_US + 20 * SECOND;
        let start = STEP_AT - 10 * SECOND;
        for (count, at) in (start..STEP_AT + TALK_US).step_by(WORDS_US as usize).enumerate() {
            plan.add(at, workload::say(count % members, 1));
        }
        let begin = |world: &mut World| world.course.begin(world.now);
        let end = |world: &mut World| world.course.end(world.now);
        // At any moment between two heartbeats and two measurements.
        let at = STEP_AT + Prng::new(seed ^ 0x57e9).below(SECOND);
        plan.add(at, Action::new("from now on it counts".to_owned(), begin));
        plan.add(at, slower);
        plan.add(STEP_AT + TALK_US, Action::new("up to here".to_owned(), end));
        plan.steps.sort_by_key(|step| step.at);
        plan
    }
}

/// The courses of chats of three and five, by seeds.
fn courses(from_us: u64, slower: impl Fn(u64, usize) -> Action) -> Vec<Course> {
    let seeds = number("STEP_SEEDS").unwrap_or(SEEDS);
    let first = number("FIRST_SEED").unwrap_or(1);
    let mut courses = Vec::new();
    for (seed, members) in (first..first + seeds).flat_map(|seed| [(seed, 3), (seed, 5)]) {
        let plan = Plan::of_slowing(seed, members, from_us, slower(seed, members));
        let outcome = run(plan, number("STEP_SHOW") == Some(seed * 10 + members as u64));
        assert!(outcome.broken.is_none(), "seed {seed}, {members} members: {:?}", outcome.broken);
        courses.push(Course { name: seed * 10 + members as u64, ..outcome.course });
    }
    courses
}

/// The worst of them, after a line that shows how they were.
fn worst(name: &str, courses: &[Course]) -> Course {
    let mut gaps: Vec<_> = courses.iter().map(|course| (course.gap_us / MS, course.name)).collect();
    gaps.sort();
    let [half, most] = [50, 90].map(|percent| gaps[(gaps.len() - 1) * percent / 100].0);
    let (last, seed) = gaps[gaps.len() - 1];
    let max = |of: fn(&Course) -> u64| courses.iter().map(of).max().unwrap_or(0);
    let worst = Course {
        gap_us: last * MS,
        terms: max(|course| course.terms),
        hosts: max(|course| course.hosts),
        pauses: max(|course| course.pauses),
        ..Course::default()
    };
    let sum = |of: fn(&Course) -> u64| courses.iter().map(of).sum::<u64>();
    println!(
        "{name}: without a confirmation for p50 {half} ms, p90 {most} ms, at most {last} ms \
         ({seed}); \
         terms {} at most, {} in all; hosts {} at most, {} in all; pauses {} at most",
        worst.terms,
        sum(|course| course.terms),
        worst.hosts,
        sum(|course| course.hosts),
        worst.pauses,
    );
    worst
}

/// D: whoever takes a laptop from the cable to a phone waits for some seconds, once.
#[test]
fn ways_that_get_longer_cost_seconds_and_few_terms() {
    let mut failed = Vec::new();
    for longer in LONGER {
        let courses = courses(longer.from_ms * MS, |seed, members| longer.action(seed, members));
        let worst = worst(longer.name, &courses);
        // Where single messages take three times as long as others, chance may lose the host.
        let gap_max_us = if longer.jitter_ms < 200 { 3 * SECOND } else { 5 * SECOND };
        if worst.gap_us > gap_max_us || worst.terms > 3 {
            failed.push(longer.name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// E: slow disks make a chat slow, and nothing else.
#[test]
fn syncs_that_are_slow_at_all_peers_change_no_host() {
    let mut failed = Vec::new();
    for sync_ms in [50, 150, 200, 400, 490, 700, 1_000, 1_500] {
        let name = format!("syncs of {sync_ms} ms");
        let courses = courses(0, |_, _| {
            Action::new(name.clone(), move |world| {
                world.plan.sync_us_min = sync_ms * MS;
                world.plan.sync_us_max = sync_ms * MS / 50;
            })
        });
        let worst = worst(&name, &courses);
        if worst.hosts > 0 || worst.gap_us > 4 * sync_ms * MS + SECOND {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
