//! Whole chats from a seed: replicas, disks, a network and people; then faults, then healing, then
//! agreement. `docs/verification.md` says what that shows and what it does not.
//!
//! ```text
//! cargo test --release -p demes-protocol --test sim -- --nocapture
//!     SEEDS=100000    so many seeds, from FIRST_SEED (1) on, on THREADS (all) threads, until
//!                     FAILURES (10) of them have failed
//!     SEED=17         one seed, with its transcript
//!     KEEP=3,17,21    and only these steps of its plan, with another LUCK (0) or not
//! ```
//!
//! Read `world` first, then `plan` with `workload` and `faults`, then `invariants`.

mod counts;
mod disk;
mod failover;
#[path = "../common/false_reign.rs"]
mod false_reign;
mod faults;
mod fuzzer;
mod healing;
#[path = "../common/disk.rs"]
#[allow(dead_code, reason = "the golden scripts use a simpler disk around it")]
mod image;
mod invariants;
mod liars;
mod links;
mod liveness;
mod network;
mod oracle;
mod peer;
pub mod plan;
mod process;
mod queue;
mod roll;
pub mod run;
mod scenes;
mod shrink;
#[path = "../common/signing.rs"]
mod signing;
mod steps;
#[path = "../common/text.rs"]
#[allow(dead_code, reason = "the golden scripts show more")]
mod text;
mod traps;
mod workload;
mod world;

use std::env;
use std::thread;

use failover::Failover;
use liars::Lie;
use plan::Plan;
use run::{run, run_many};
use shrink::{Shrunk, shrink};

/// Seeds in the normal run.
const SEEDS: u64 = 500;
/// Failovers at each distance and lease in the normal run.
const FAR_SEEDS: u64 = 100;
/// Schedules of single messages in the normal run.
const FUZZ_SEEDS: u64 = 500;
/// Failing seeds after which a run ends.
const FAILURES_MAX: usize = 10;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

fn threads() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    number("THREADS").map_or(cores, |threads| threads as usize)
}

fn failures_max() -> usize {
    number("FAILURES").map_or(FAILURES_MAX, |most| most as usize)
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
    let summary = run_many(first, seeds, threads(), failures_max());
    print!("{}", summary.counts.table());
    let rate = summary.seeds as f64 / summary.seconds;
    println!("{} seeds in {:.1} s, {rate:.0} a second", summary.seeds, summary.seconds);
    if !summary.agreed_us.is_empty() {
        let [half, most, all] = [50, 99, 100].map(|percent| summary.agreed_ms(percent));
        println!("agreed after healing: p50 {half} ms, p99 {most} ms, at most {all} ms");
    }
    if let Some((longest, seed)) = summary.waited_us.last() {
        let waited =
            |percent: usize| summary.waited_us[(summary.waited_us.len() - 1) * percent / 100].0;
        let [half, most, longest] = [waited(50), waited(99), *longest].map(|us| us / world::MS);
        println!(
            "longest time without a confirmation while a majority was connected: p50 {half} ms, \
             p99 {most} ms, at most {longest} ms in seed {seed}"
        );
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

/// R15, R17, R20: however far apart they are, the first who stands wins nearly always.
#[test]
fn peers_that_are_far_apart_choose_a_host_in_one_candidacy() {
    let seeds = number("FAR_SEEDS").unwrap_or(FAR_SEEDS);
    let (mut all, mut one) = (0, 0);
    for (one_way_ms, lease_ms) in
        [20, 80, 150, 250].into_iter().flat_map(|far| [(far, 250), (far, 2_000)])
    {
        let failovers: Vec<Failover> = (1..=seeds)
            .map(|seed| {
                let plan =
                    Plan::of_far_failover(seed, one_way_ms * world::MS, lease_ms * world::MS);
                let outcome = run(plan, false);
                assert!(outcome.broken.is_none(), "{one_way_ms} ms, seed {seed}");
                outcome.failover
            })
            .filter(Failover::has_happened)
            .collect();
        let mut took_ms: Vec<_> = failovers
            .iter()
            .map(|failover| failover.took_us.expect("somebody serves in the end") / world::MS)
            .collect();
        took_ms.sort();
        let several = failovers.iter().filter(|failover| failover.candidacies != 1).count();
        (all, one) = (all + failovers.len(), one + failovers.len() - several);
        let [half, most, last] =
            [50, 99, 100].map(|percent| took_ms[(took_ms.len() - 1) * percent / 100]);
        println!(
            "{one_way_ms} ms one way, lease {lease_ms} ms: p50 {half} ms, p99 {most} ms, at most \
             {last} ms; {several} of {} took several candidacies",
            failovers.len()
        );
    }
    println!("{one} of {all} failovers took one candidacy");
    assert!(one * 100 >= all * 99, "{one} of {all} failovers took one candidacy");
}

/// R12, R13, R23: who lies about its delays may get to host, as anybody who wants to may, and makes
/// the chat move, or try to, no more often than once in the time after a hand-over. A liar that
/// passes the hosting on doubles that. Everybody's words are confirmed meanwhile.
#[test]
fn a_member_that_lies_about_its_delays_moves_the_chat_seldom() {
    let (moves_max, words) = (60 / 10, 354);
    for (seed, lie) in (1..).zip([Lie::Anything, Lie::Nearest, Lie::TakesNothing]) {
        let outcome = run(Plan::of_a_liar(seed, lie), false);
        assert!(outcome.broken.is_none(), "{lie:?}: {:?}", outcome.broken);
        let count = |what| outcome.counts.get(what);
        let (hosts, hand_overs) = (count("hosts that served"), count("hand-overs sent"));
        println!("{lie:?}: {hosts} hosts, {hand_overs} hand-overs in an hour");
        let hosts_of_liar = count("liars that hosted");
        let wants_to = lie == Lie::Nearest;
        assert_eq!(hosts_of_liar > 0, wants_to, "{lie:?}: it hosted {hosts_of_liar} times");
        assert!(hand_overs <= moves_max + hosts_of_liar, "{lie:?}: {hand_overs} hand-overs");
        assert!(hosts <= 1 + 2 * moves_max, "{lie:?}: {hosts} hosts");
        assert!(count("messages confirmed") >= words, "{lie:?}: some were not confirmed");
        assert!(count("lies told of delays") > 0, "{lie:?}: it did not lie");
    }
}

#[test]
fn same_seed_same_transcript() {
    for seed in [3, 7, 11, 19, 23, 42] {
        let digest = || run(Plan::new(seed, None), false).digest;
        assert_eq!(digest(), digest(), "seed {seed}");
    }
}

/// Every order of single messages, writes and timers.
#[test]
fn fuzzed_chats_agree_and_come_to_rest() {
    if let Some(seed) = number("FUZZ_SEED") {
        assert!(fuzzer::explain(seed).is_none(), "seed {seed} fails");
        return;
    }
    let first = number("FUZZ_FIRST").unwrap_or(1);
    let seeds = number("FUZZ_SEEDS").unwrap_or(FUZZ_SEEDS);
    let started = std::time::Instant::now();
    let summary = fuzzer::run_many(first, seeds, threads(), failures_max());
    for (what, count) in &summary.seen {
        println!("{count:>12} {what}");
    }
    println!("{seeds} seeds in {:.1} s", started.elapsed().as_secs_f64());
    let mut broken = std::collections::BTreeMap::<_, Vec<u64>>::new();
    for (seed, failure) in &summary.failures {
        broken.entry(failure.invariant).or_default().push(*seed);
        if env::var("EACH").is_ok() {
            println!("seed {seed}: {}: {}", failure.invariant, failure.what);
        }
    }
    for (invariant, seeds) in &broken {
        println!("{:>6} {invariant}: first {:?}", seeds.len(), &seeds[..seeds.len().min(5)]);
    }
    if let Some((seed, _)) = summary.failures.first() {
        if env::var("EACH").is_err() {
            fuzzer::explain(*seed);
        }
        panic!("seed {seed} fails: FUZZ_SEED={seed} shows it again");
    }
}
