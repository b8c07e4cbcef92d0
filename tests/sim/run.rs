//! One run from its plan to its end, and many of them on all cores.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::thread;
use std::time::Instant;

use super::counts::Counts;
use super::failover::Failover;
use super::invariants::Broken;
use super::liveness::Liveness;
use super::plan::Plan;
use super::steps::Course;
use super::world::World;

/// Between lines that say how far a long run is.
const PROGRESS_SECONDS: u64 = 10;

/// What came out of one run.
pub struct Outcome {
    pub broken: Option<Broken>,
    pub counts: Counts,
    /// Over all that was told and said.
    pub digest: u64,
    /// From the healing to the agreement.
    pub agreed_us: u64,
    pub failover: Failover,
    pub liveness: Liveness,
    pub course: Course,
}

/// Runs a plan to its end, or to the first invariant that does not hold. A replica's own
/// assertions are invariants like the others.
pub fn run(plan: Plan, is_verbose: bool) -> Outcome {
    quiet_panics();
    CAUGHT.with_borrow_mut(|caught| *caught = Some(String::new()));
    let mut world = World::new(plan, is_verbose);
    let finished = panic::catch_unwind(AssertUnwindSafe(|| {
        let faults_until = world.plan.faults_until;
        world.run_until(faults_until);
        world.heal_and_agree()
    }));
    let message = CAUGHT.with_borrow_mut(Option::take).unwrap_or_default();
    let (broken, agreed_us) = match finished {
        Ok(agreed_us) => (world.broken, agreed_us),
        Err(_) => (Some(Broken { invariant: "no assertion fails", what: message }), 0),
    };
    let World { counts, digest, failover, liveness, course, .. } = world;
    Outcome { broken, counts, digest, agreed_us, failover, liveness, course }
}

/// Lets something happen to what has begun. An assertion that fails is an invariant that breaks.
pub fn catching<T>(begin: impl FnOnce() -> T, happen: impl FnOnce(&mut T)) -> (T, Option<Broken>) {
    quiet_panics();
    let mut it = begin();
    CAUGHT.with_borrow_mut(|caught| *caught = Some(String::new()));
    let finished = panic::catch_unwind(AssertUnwindSafe(|| happen(&mut it)));
    let what = CAUGHT.with_borrow_mut(Option::take).unwrap_or_default();
    (it, finished.err().map(|_| Broken { invariant: "no assertion fails", what }))
}

thread_local! {
    /// The message of a panic in this thread, where one is expected.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What panics within a run is a finding, and is shown with its seed and not before.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let show = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_caught = CAUGHT.with_borrow_mut(|caught| {
                let is_caught = caught.is_some();
                if let Some(caught) = caught {
                    *caught = info.to_string();
                }
                is_caught
            });
            if !is_caught {
                show(info);
            }
        }));
    });
}

/// What came out of many runs.
#[derive(Default)]
pub struct Summary {
    pub counts: Counts,
    pub seeds: u64,
    /// The failing seeds with what broke, in order.
    pub failures: Vec<(u64, Broken)>,
    /// From the healing to the agreement, in microseconds, in ascending order.
    pub agreed_us: Vec<u64>,
    /// The longest time of each run without a confirmation, likewise, and the seed.
    pub waited_us: Vec<(u64, u64)>,
    pub seconds: f64,
}

impl Summary {
    /// What a share of all runs did not exceed, in milliseconds.
    pub fn agreed_ms(&self, percent: usize) -> u64 {
        let position = (self.agreed_us.len() * percent / 100).min(self.agreed_us.len() - 1);
        self.agreed_us.get(position).copied().unwrap_or(0) / 1_000
    }
}

/// Runs seeds on all cores. Ends early after so many failures.
pub fn run_many(first: u64, count: u64, threads: usize, failures_max: usize) -> Summary {
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let summary = Mutex::new(Summary::default());
    let told = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = summary.lock().expect("no run ends it").failures.len();
                    if seed >= first + count || enough >= failures_max {
                        return;
                    }
                    let outcome = run(Plan::new(seed, None), false);
                    let mut summary = summary.lock().expect("no run ends it");
                    summary.add(seed, outcome);
                    let seconds = started.elapsed().as_secs();
                    if seconds / PROGRESS_SECONDS > told.load(Ordering::Relaxed) {
                        told.store(seconds / PROGRESS_SECONDS, Ordering::Relaxed);
                        let (done, failed) = (summary.seeds, summary.failures.len());
                        let rate = done as f64 / started.elapsed().as_secs_f64();
                        println!("{done} of {count} seeds, {failed} failed, {rate:.0} a second");
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().expect("no run ends it");
    summary.seconds = started.elapsed().as_secs_f64();
    summary.failures.sort_by_key(|(seed, _)| *seed);
    summary.agreed_us.sort_unstable();
    summary.waited_us.sort_unstable();
    summary
}

impl Summary {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.counts.merge(&outcome.counts);
        self.waited_us.push((outcome.liveness.worst_us, seed));
        match outcome.broken {
            Some(broken) => {
                let what = broken.what.lines().next().unwrap_or_default();
                println!("seed {seed}: {}: {what}", broken.invariant);
                self.failures.push((seed, broken));
            }
            None => self.agreed_us.push(outcome.agreed_us),
        }
    }
}
