//! Makes a failing run small: steps of its plan are left out as long as the same invariant still
//! breaks (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002).

use crate::plan::Plan;
use crate::run::run;

/// Runs that may be spent on one seed.
const TRIES_MAX: usize = 400;

/// The steps, by their numbers in the plan of `seed`, that are enough to break `invariant`.
pub fn shrink(seed: u64, invariant: &str) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..Plan::new(seed, None).steps.len()).collect();
    let mut tries = 0;
    let mut breaks = |kept: &[usize]| {
        tries += 1;
        let broken = run(Plan::new(seed, Some(kept)), false).broken;
        (broken.is_some_and(|broken| broken.invariant == invariant), tries >= TRIES_MAX)
    };
    let mut chunk = kept.len().div_ceil(2);
    while chunk > 0 {
        let mut start = 0;
        let mut is_shorter = false;
        while start < kept.len() {
            let end = (start + chunk).min(kept.len());
            let without = [&kept[..start], &kept[end..]].concat();
            let (is_enough, is_over) = breaks(&without);
            if is_enough {
                kept = without;
                is_shorter = true;
            } else {
                start = end;
            }
            if is_over {
                return kept;
            }
        }
        // As long as single steps go, others may go as well.
        if chunk > 1 || !is_shorter {
            chunk /= 2;
        }
    }
    kept
}
