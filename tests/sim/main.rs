//! Whole chats from a seed: replicas, disks, a network and people; then faults, then healing, then
//! agreement. `docs/verification.md` says what that shows and what it does not.
//!
//! ```text
//! cargo test --release -p demes-protocol --test sim -- --nocapture
//!     SEEDS=100000    so many seeds, from FIRST_SEED (1) on, on THREADS (all) threads
//!     SEED=17         one seed, with its transcript
//!     KEEP=3,17,21    and only these steps of its plan, with another LUCK (0) or not
//! ```
//!
//! Read `world` first, then `plan` with `workload` and `faults`, then `invariants`.

mod counts;
mod disk;
mod faults;
mod healing;
#[path = "../common/disk.rs"]
#[allow(dead_code, reason = "the golden scripts use a simpler disk around it")]
mod image;
mod invariants;
mod links;
mod network;
mod oracle;
pub mod plan;
mod process;
mod queue;
mod roll;
pub mod run;
mod shrink;
#[path = "../common/text.rs"]
#[allow(dead_code, reason = "the golden scripts show more")]
mod text;
mod traps;
mod workload;
mod world;

use std::env;
use std::thread;

use plan::Plan;
use run::{run, run_many};

use shrink::{Shrunk, shrink};
use world::Failover;

/// Seeds in the normal run.
const SEEDS: u64 = 500;
/// Failing seeds after which a run ends.
const FAILURES_MAX: usize = 10;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// The steps that `KEEP` names.
fn keep() -> Option<Vec<usize>> {
    let keep = env::var("KEEP").ok()?;
    Some(keep.split(',').map(|step| step.trim().parse().expect("KEEP=3,17,21")).collect())
}

/// What to type to see one run again.
fn command(seed: u64, shrunk: Option<&Shrunk>) -> String {
    let keep = shrunk.map_or(String::new(), |shrunk| {
        let keep: Vec<_> = shrunk.kept.iter().map(usize::to_string).collect();
        format!(" KEEP={} LUCK={}", keep.join(","), shrunk.luck)
    });
    let test = "cargo test --release -p demes-protocol --test sim chats -- --nocapture";
    format!("SEED={seed}{keep} {test}")
}

#[test]
fn chats_survive_faults_and_agree_after_healing() {
    if let Some(seed) = number("SEED") {
        let luck = number("LUCK").unwrap_or(0);
        let outcome = run(Plan { luck, ..Plan::new(seed, keep().as_deref()) }, true);
        println!("{}", outcome.counts.table());
        assert!(outcome.broken.is_none(), "{:?}", outcome.broken);
        return;
    }
    let first = number("FIRST_SEED").unwrap_or(1);
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = number("THREADS").map_or(cores, |threads| threads as usize);
    let summary = run_many(first, seeds, threads, FAILURES_MAX);
    print!("{}", summary.counts.table());
    let rate = summary.seeds as f64 / summary.seconds;
    println!("{} seeds in {:.1} s, {rate:.0} a second", summary.seeds, summary.seconds);
    if !summary.agreed_us.is_empty() {
        let [half, most, all] = [50, 99, 100].map(|percent| summary.agreed_ms(percent));
        println!("agreed after healing: p50 {half} ms, p99 {most} ms, at most {all} ms");
    }
    if let Some((seed, broken)) = summary.failures.first() {
        explain(*seed, broken);
        let seeds: Vec<_> = summary.failures.iter().map(|(seed, _)| seed).collect();
        panic!("seeds {seeds:?} fail");
    }
    let missing = summary.counts.missing();
    assert!(missing.is_empty() || seeds < SEEDS, "never happened: {missing:?}");
}

/// What to know of a failing seed.
fn explain(seed: u64, broken: &invariants::Broken) {
    println!("\nseed {seed} breaks «{}»: {}", broken.invariant, broken.what);
    println!("replay: {}", command(seed, None));
    let shrunk = shrink(seed, broken.invariant);
    let plan = shrunk.plan();
    println!("\nenough for that, of {} peers:", plan.members);
    for step in &plan.steps {
        println!("{step}");
    }
    println!("replay: {}\n", command(seed, Some(&shrunk)));
}

/// R14, R22: leases and contact allow for a round trip.
#[test]
fn peers_that_are_far_apart_have_a_host_that_lasts() {
    for (seed, one_way_ms) in (1..).zip([20, 50, 80, 120, 160, 200]) {
        let outcome = run(Plan::of_far_members(seed, one_way_ms * world::MS), false);
        assert!(outcome.broken.is_none(), "{one_way_ms} ms: {:?}", outcome.broken);
        let [served, paused] =
            ["hosts that served", "hosts that paused"].map(|what| outcome.counts.get(what));
        assert_eq!((served, paused), (2, 0), "{one_way_ms} ms away");
    }
}

/// R15, R17, R20: however far apart they are, whoever is nominated first wins.
#[test]
fn peers_that_are_far_apart_choose_a_host_in_one_election() {
    let seeds = number("FAR_SEEDS").unwrap_or(25);
    let cases = [20, 80, 150, 250].into_iter().flat_map(|far| [(far, 250), (far, 2_000)]);
    let (mut all, mut one_election) = (0, 0);
    for (one_way_ms, lease_ms) in cases {
        let mut failovers: Vec<Failover> = Vec::new();
        for seed in 1..=seeds {
            let plan = Plan::of_far_failover(seed, one_way_ms * world::MS, lease_ms * world::MS);
            let outcome = run(plan, number("SEED") == Some(seed));
            assert!(outcome.broken.is_none(), "{one_way_ms} ms, seed {seed}: {:?}", outcome.broken);
            failovers.push(outcome.failover);
        }
        let more = failovers.iter().filter(|failover| failover.candidacies != 1).count();
        (all, one_election) = (all + failovers.len(), one_election + failovers.len() - more);
        failovers.sort_by_key(|failover| failover.took_us);
        let took_ms = |percent: usize| {
            let took = failovers[(failovers.len() - 1) * percent / 100].took_us;
            took.expect("it was before the healing") / world::MS
        };
        let most = failovers.iter().map(|failover| failover.candidacies).max();
        println!(
            "{one_way_ms} ms one way, lease {lease_ms} ms: p50 {} ms, p99 {} ms, at most {} ms; \
             {more} of {seeds} took several candidacies, at most {}",
            took_ms(50),
            took_ms(99),
            took_ms(100),
            most.unwrap_or(0)
        );
    }
    assert!(one_election * 100 >= all * 99, "{one_election} of {all} took one election");
}

#[test]
fn same_seed_same_transcript() {
    for seed in [3, 7, 11, 19, 23, 42] {
        let digest = || run(Plan::new(seed, None), false).digest;
        assert_eq!(digest(), digest(), "seed {seed}");
    }
}
