//! Chats of five in which one thing changes that `steps` does not have, and what comes of it.

use super::liveness::Liveness;
use super::network::Condition;
use super::plan::{Action, Plan};
use super::queue::What;
use super::run::{Outcome, run};
use super::world::{MS, SECOND, World};
use super::{number, workload};

/// When it changes, and when the looking ends.
const CHANGE: u64 = 40 * SECOND;
const END: u64 = 100 * SECOND;
const FOR_EVER: u64 = 1_000 * SECOND;
/// Seeds of each scene in the normal run.
const SEEDS: u64 = 1;

fn seeds() -> u64 {
    number("SCENE_SEEDS").unwrap_or(SEEDS)
}

/// Five members in one room who talk every `gap_us`, until something changes.
fn scene(
    seed: u64,
    gap_us: u64,
    words: String,
    change: impl Fn(&mut World) + Send + Sync + 'static,
) -> Plan {
    let mut plan = Plan { steps: Vec::new(), ..Plan::of_five(seed, 100) };
    plan.confirmed_within_us = FOR_EVER;
    plan.faults_until = END + SECOND;
    (1..plan.members).for_each(|peer| plan.add(100 * MS, workload::join(peer)));
    for (turn, at) in (20 * SECOND..END).step_by(gap_us as usize).enumerate() {
        plan.add(at, workload::say(turn % 5, 1));
    }
    let at = CHANGE + seed * 37 * MS;
    plan.add(
        at,
        Action::new(words, move |world| {
            world.count_terms();
            change(world);
        }),
    );
    plan.add(
        END,
        Action::new("the looking ends".into(), |world| {
            world.liveness.is_over = true;
        }),
    );
    plan.steps.sort_by_key(|step| step.at);
    plan
}

/// Runs one, and says what came of it.
fn show(plan: Plan, words: &str) -> Liveness {
    let seed = plan.seed;
    let Outcome { broken, liveness, .. } = run(plan, number("VERBOSE").is_some());
    assert!(broken.is_none(), "{words}, seed {seed}: {broken:?}");
    println!(
        "{words}, seed {seed}: at most {} ms without a confirmation, {} terms, {} other hosts",
        liveness.worst_us / MS,
        liveness.stood.len(),
        liveness.served.len()
    );
    liveness
}

/// R22: a quiet chat keeps its host on narrow lines, and so does one that has more to say than the
/// lines carry: that one is slow.
#[test]
fn narrow_lines_change_no_host() {
    let mut failed = Vec::new();
    for (kbit, gap_ms, still_s) in [(64, 25_000, 3), (64, 1_000, 3), (128, 100, 5), (256, 50, 5)] {
        for seed in 1..=seeds() {
            let words = format!("{kbit} kbit/s each, a word every {gap_ms} ms");
            let condition = Condition::Narrow { bytes_per_second: kbit * 125 };
            let change = move |world: &mut World| world.begin(condition.clone(), FOR_EVER);
            let seen = show(scene(seed, gap_ms * MS, words.clone(), change), &words);
            if !seen.served.is_empty() || seen.worst_us > still_s * SECOND {
                failed.push(format!("{words}, seed {seed}"));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// R9: an old copy is put back after another hosts, where nobody can see it, and goes on with the
/// numbers that it had. Nobody is told that its new words are confirmed in the place of others.
#[test]
fn an_old_copy_that_meets_another_host_confirms_no_other_words() {
    for seed in 1..=seeds() {
        let mut plan = scene(seed, 500 * MS, "another hosts".into(), |world| {
            let host = world.host();
            if let Some(host) = host {
                world.kill(host, 20 * SECOND, false);
            }
        });
        let at = |ms: u64| 30 * SECOND + ms * MS;
        let quiet = at(0)..at(40_000);
        plan.steps.retain(|step| {
            !quiet.contains(&step.at) || (CHANGE..CHANGE + SECOND).contains(&step.at)
        });
        let mut then = |ms: u64, what: &str, happen: fn(&mut World, usize)| {
            plan.add(
                at(ms),
                Action::new(what.into(), move |world| {
                    if let Some(peer) = world.marked {
                        happen(world, peer);
                    }
                }),
            );
        };
        then(100, "its store is copied", |world, peer| world.peers[peer].disk.make_copy());
        then(500, "it says three things", |world, peer| (0..3).for_each(|_| world.say(peer)));
        then(2_000, "it is killed", |world, peer| world.kill(peer, 40 * SECOND, false));
        then(15_000, "the copy is put back, apart", |world, peer| {
            world.peers[peer].disk.put_copy_back();
            world.part(&[peer], false, 5 * SECOND);
            world.start(peer);
            world.at(2 * SECOND, What::Say { peer, count: 2 });
        });
        plan.add(
            at(0),
            Action::new("somebody is chosen".into(), |world| {
                world.marked = (0..5).find(|peer| !world.hosts(*peer));
            }),
        );
        plan.steps.sort_by_key(|step| step.at);
        show(plan, "an old copy and another host");
    }
}

/// R28: who comes back has kept up, and votes again, however much is said meanwhile.
#[test]
fn who_comes_back_to_a_busy_chat_votes_again() {
    for (seed, sync_ms) in (1..=seeds()).flat_map(|seed| [2, 150, 450].map(|ms| (seed, ms))) {
        let words = format!("two come back while all talk, with syncs of {sync_ms} ms");
        let mut plan = scene(seed, 10 * MS, words.clone(), move |world| {
            world.plan.sync_us_min = sync_ms * MS;
            world.plan.sync_us_max = sync_ms * MS / 10;
            let host = world.host();
            let others: Vec<_> = (0..5).filter(|peer| Some(*peer) != host).take(2).collect();
            others.iter().for_each(|peer| world.kill(*peer, 15 * SECOND, false));
        });
        let voters = Action::new("all vote".into(), |world| {
            let votes = world.host().map_or(0, |host| world.voters_at(host).len());
            assert_eq!(votes, 5, "all keep up, and have done so for long");
        });
        plan.add(END - SECOND, voters);
        plan.steps.sort_by_key(|step| step.at);
        show(plan, &words);
    }
}
