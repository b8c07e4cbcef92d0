//! Plays the plans of every fault without any peers, at the beginning of every run: nobody is
//! killed who is down, started who runs, or has files changed under a running process; what lasts
//! can be undone; and a chat begins anew at most once at each peer.

use std::collections::BTreeSet;

use demes::protocol::prng::Prng;

use crate::menu::every;
use crate::plan::{Harm, Plan, Scene, Step, plan};

/// Chats of each size, with as many seeds.
const SEEDS: u64 = 20;

pub fn check_yourself() {
    for (fault, peers) in every().flat_map(|fault| (3..=7).map(move |peers| (fault, peers))) {
        let mut planned = 0;
        for seed in 0..SEEDS {
            let prng = &mut Prng::new(seed);
            let host = usize::try_from(prng.below(peers as u64)).expect("there are few");
            let mut scene = Scene {
                peers,
                host,
                voters: (0..peers - (peers + 1) % 2).collect(),
                disk: Some(peers - 1),
                delays: true,
                renewed: BTreeSet::new(),
            };
            let Some(made) = plan(fault, &scene, prng) else { continue };
            planned += 1;
            play(&made, peers);
            let renewed: Vec<usize> =
                made.steps.iter().flat_map(|(_, step)| renews(step)).collect();
            if renewed.is_empty() {
                continue;
            }
            scene.renewed = (0..peers).collect();
            assert!(plan(fault, &scene, prng).is_none(), "{} twice", fault.name());
        }
        assert!(planned > 0 || peers < 5, "{} fits no chat of {peers}", fault.name());
    }
}

fn renews(step: &Step) -> Vec<usize> {
    match step {
        Step::Do(harm) => harm.renews(),
        Step::Undo(_) => Vec::new(),
    }
}

fn play(plan: &Plan, peers: usize) {
    let mut down = BTreeSet::new();
    let mut done = Vec::new();
    for (_, step) in &plan.steps {
        match step {
            Step::Do(harm) => {
                let is_lawful = match harm {
                    Harm::Kill(peer) | Harm::Stop(peer) => down.insert(*peer),
                    Harm::Freeze(peer) | Harm::Twin(peer) => !down.contains(peer),
                    Harm::Copy(peer) | Harm::PutBack(peer) => down.contains(peer),
                    Harm::Damage(peer) | Harm::Lose(peer) => down.contains(peer),
                    Harm::Recover => down.len() == peers,
                    Harm::Leave(leaving) => leaving.len() < peers,
                    _ => true,
                };
                assert!(is_lawful, "{harm:?} in {plan:?}");
                done.push(harm);
            }
            Step::Undo(harm) => {
                let place = done.iter().position(|one| *one == harm);
                assert!(place.map(|place| done.remove(place)).is_some(), "{harm:?} in {plan:?}");
                if let Harm::Kill(peer) | Harm::Stop(peer) = harm {
                    assert!(down.remove(peer), "{harm:?} in {plan:?}");
                }
            }
        }
    }
    assert_eq!(done, plan.lasting().iter().collect::<Vec<_>>());
}
