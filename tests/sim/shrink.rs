//! Makes a failing run small: steps of its plan are left out as long as the same invariant still
//! breaks (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002).
//!
//! Leaving a step out changes everything that is drawn after it, so that a run often succeeds by
//! mere chance. So each shorter plan is tried with several kinds of luck.

use super::plan::Plan;
use super::run::run;

/// Runs that may be spent on one seed.
const TRIES_MAX: u64 = 3_000;
/// Kinds of luck that a shorter plan is tried with, besides the one that broke the last one.
const LUCKS: u64 = 4;

/// What is enough to break the invariant again.
pub struct Shrunk {
    pub seed: u64,
    /// Numbers of steps in the seed's plan.
    pub kept: Vec<usize>,
    pub luck: u64,
}

impl Shrunk {
    pub fn plan(&self) -> Plan {
        Plan { luck: self.luck, ..Plan::new(self.seed, Some(&self.kept)) }
    }
}

/// A shorter plan for `seed` that breaks `invariant` too.
pub fn shrink(seed: u64, invariant: &str) -> Shrunk {
    let kept: Vec<usize> = (0..Plan::new(seed, None).steps.len()).collect();
    let mut best = Shrunk { seed, kept, luck: 0 };
    let mut tries = 0;
    let mut chunk = best.kept.len().div_ceil(2);
    while chunk > 0 {
        let mut start = 0;
        let mut is_shorter = false;
        while start < best.kept.len() {
            let end = (start + chunk).min(best.kept.len());
            let kept = [&best.kept[..start], &best.kept[end..]].concat();
            match with_some_luck(&best, kept, invariant, &mut tries) {
                Some(shorter) => {
                    best = shorter;
                    is_shorter = true;
                }
                None => start = end,
            }
            if tries >= TRIES_MAX {
                return best;
            }
        }
        // As long as single steps go, others may go as well.
        if chunk > 1 || !is_shorter {
            chunk /= 2;
        }
    }
    best
}

fn with_some_luck(
    best: &Shrunk,
    kept: Vec<usize>,
    invariant: &str,
    tries: &mut u64,
) -> Option<Shrunk> {
    let mut shorter = Shrunk { seed: best.seed, kept, luck: best.luck };
    for luck in 0..=LUCKS {
        // New kinds every time.
        shorter.luck = if luck == 0 { best.luck } else { *tries };
        *tries += 1;
        let broken = run(shorter.plan(), false).broken;
        if broken.is_some_and(|broken| broken.invariant == invariant) {
            return Some(shorter);
        }
    }
    None
}
