//! A fuzzer of the core alone: honest peers, and every order of single messages, writes and timers,
//! with loss, doubling, crashes, cuts, hand-overs, and members that come, go and are wiped. Here
//! time costs nothing and says nothing, unlike in the rest of the simulation, in which messages
//! take the time that distances and disks take.
//!
//! ```text
//! cargo test --release -p demes-protocol --test sim fuzz -- --nocapture
//!     FUZZ_SEEDS=100000    so many seeds, from FUZZ_FIRST (1) on
//!     FUZZ_SEED=17         one seed, cut down to the steps that are enough
//! ```

mod calm;
mod chat;
mod draw;
mod step;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use demes_protocol::config::Config;
use demes_protocol::prng::Prng;

use super::invariants::Broken;
use super::run::catching;
use super::world::{MS, SECOND};
use chat::Chat;
use draw::Temper;
use step::Deed;

/// Steps of one run.
const STEPS: [u64; 3] = [300, 800, 2_000];
/// Runs that may be spent on making one schedule shorter.
const TRIES_MAX: u64 = 3_000;

/// What one run begins with, and how it ends; its steps are drawn one by one.
struct Frame {
    seed: u64,
    members: usize,
    newcomers: usize,
    config: Config,
    distance_us: u64,
    /// Before anything goes wrong.
    calm_us: u64,
    steps: u64,
    stays_cut: Option<(usize, usize)>,
}

impl Frame {
    fn new(prng: &mut Prng, seed: u64) -> Self {
        let mut any = |list: &[u64]| list[prng.below(list.len() as u64) as usize];
        let members = any(&[2, 3, 3, 3, 4, 5, 5]);
        let is_cut = members >= 3 && any(&[0, 0, 1]) == 1;
        let (a, b) = (any(&[0, 1, 2]), any(&[0, 1, 2]));
        let config = Config {
            append_bytes_max: any(&[1, 1, 1 << 20]) as usize,
            unacknowledged_bytes_max: any(&[1, 4 << 20]) as usize,
            ..Config::default()
        };
        Self {
            seed,
            members: members as usize,
            newcomers: any(&[0, 1]) as usize,
            config,
            distance_us: any(&[100, MS, 20 * MS, 200 * MS, 900 * MS]),
            calm_us: any(&[0, SECOND, 3 * SECOND]),
            steps: STEPS[any(&[0, 1, 2]) as usize],
            stays_cut: (is_cut && a != b).then_some((a.min(b) as usize, a.max(b) as usize)),
        }
    }

    fn begin(&self) -> Chat {
        let config = self.config.clone();
        let (seed, distance_us) = (self.seed, self.distance_us);
        let mut chat = Chat::grown(config, seed, distance_us, self.members, self.newcomers);
        chat.run_until(self.calm_us);
        chat
    }
}

/// What came out of a run: its steps, and what broke.
struct Outcome {
    deeds: Vec<Deed>,
    broken: Option<Broken>,
    seen: Vec<(&'static str, u64)>,
}

/// Draws a schedule while it happens.
fn explore(seed: u64) -> Outcome {
    let mut prng = Prng::new(seed ^ 0xf022);
    let frame = Frame::new(&mut prng, seed);
    let mut temper = Temper::draw(&mut prng);
    let mut deeds = Vec::new();
    let (chat, panicked) = catching(
        || frame.begin(),
        |chat| {
            while deeds.len() < frame.steps as usize && chat.broken.is_none() {
                let deed = temper.next(&mut prng, chat);
                deeds.push(deed);
                chat.take_step(deed);
            }
            if chat.broken.is_none() {
                chat.settle(frame.stays_cut);
            }
        },
    );
    Outcome { deeds, broken: panicked.or(chat.broken), seen: chat.seen.into_iter().collect() }
}

/// Plays a schedule again, or a part of it.
fn play(seed: u64, deeds: &[Deed], is_verbose: bool) -> Option<Broken> {
    let frame = Frame::new(&mut Prng::new(seed ^ 0xf022), seed);
    let (chat, panicked) = catching(
        || frame.begin(),
        |chat| {
            chat.is_verbose = is_verbose;
            for deed in deeds {
                if chat.broken.is_some() {
                    return;
                }
                chat.take_step(*deed);
            }
            if chat.broken.is_none() {
                chat.settle(frame.stays_cut);
            }
        },
    );
    panicked.or(chat.broken)
}

/// Leaves steps out as long as the same invariant breaks.
fn shrink(seed: u64, deeds: Vec<Deed>, invariant: &str) -> Vec<Deed> {
    let mut best = deeds;
    let mut tries = 0;
    let mut chunk = best.len().div_ceil(2);
    while chunk > 0 && tries < TRIES_MAX {
        let (mut start, mut is_shorter) = (0, false);
        while start < best.len() && tries < TRIES_MAX {
            let end = (start + chunk).min(best.len());
            let shorter = [&best[..start], &best[end..]].concat();
            tries += 1;
            match play(seed, &shorter, false) {
                Some(broken) if broken.invariant == invariant => {
                    best = shorter;
                    is_shorter = true;
                }
                _ => start = end,
            }
        }
        if chunk > 1 || !is_shorter {
            chunk /= 2;
        }
    }
    best
}

/// Shows what is enough for a seed to fail.
pub fn explain(seed: u64) -> Option<Broken> {
    let outcome = explore(seed);
    let broken = outcome.broken?;
    println!("seed {seed} breaks «{}»: {}", broken.invariant, broken.what);
    let deeds = shrink(seed, outcome.deeds, broken.invariant);
    play(seed, &deeds, true);
    println!("\n{} steps are enough:", deeds.len());
    deeds.iter().for_each(|deed| println!("  {deed}"));
    Some(broken)
}

/// Runs so many seeds. The failing ones with what broke, in order, and how often what was seen.
pub fn run_many(first: u64, count: u64, threads: usize, failures_max: usize) -> Summary {
    let next = AtomicU64::new(first);
    let summary = Mutex::new(Summary::default());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = summary.lock().expect("no run ends it").failures.len();
                    if seed >= first + count || enough >= failures_max {
                        return;
                    }
                    let outcome = explore(seed);
                    let mut summary = summary.lock().expect("no run ends it");
                    for (what, count) in outcome.seen {
                        *summary.seen.entry(what).or_insert(0) += count;
                    }
                    summary.failures.extend(outcome.broken.map(|broken| (seed, broken)));
                }
            });
        }
    });
    let mut summary = summary.into_inner().expect("no run ends it");
    summary.failures.sort_by_key(|(seed, _)| *seed);
    summary
}

/// What came out of many runs.
#[derive(Default)]
pub struct Summary {
    pub failures: Vec<(u64, Broken)>,
    pub seen: std::collections::BTreeMap<&'static str, u64>,
}
