//! Whole chats from a seed: replicas, disks that lose what was not synced, and a network that
//! loses, doubles, delays and parts. First faults, then healing, then everything must agree.
//!
//! `SEEDS=1000 cargo test --release --test sim -- --nocapture` runs that many;
//! `SEED=17` replays one and prints its transcript.

mod check;
#[path = "../common/disk.rs"]
mod disk;
mod faults;
mod network;
mod world;

use std::env;

use world::World;

/// Seeds in the normal run.
const SEEDS: u64 = 200;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

#[test]
fn chats_survive_faults_and_agree_after_healing() {
    if let Some(seed) = number("SEED") {
        let mut world = World::new(seed, true);
        world.run();
        return;
    }
    let first = number("FIRST_SEED").unwrap_or(1);
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let (mut confirmed, mut terms, mut crashes) = (0, 0, 0);
    for seed in first..first + seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed, false);
            world.run();
            world
        });
        let Ok(world) = outcome else {
            panic!(
                "seed {seed} fails; replay: \
                 SEED={seed} cargo test --release --test sim -- --nocapture"
            )
        };
        confirmed += world.check.confirmed_count();
        terms += world.check.terms();
        crashes += world.crashes;
    }
    println!("{seeds} seeds: {confirmed} messages confirmed, {terms} terms, {crashes} crashes");
    // A run in which nothing happens proves nothing.
    assert!(confirmed > 20 * seeds && terms > 2 * seeds && crashes > seeds);
}

#[test]
fn same_seed_same_transcript() {
    for seed in [3, 7] {
        let transcript = || {
            let mut world = World::new(seed, false);
            world.run();
            world.digest
        };
        assert_eq!(transcript(), transcript());
    }
}
