//! A host that has no contact to a majority commits nothing (R22).
//!
//! Whoever talks to it must learn that it is cut off, and not go on as if nothing were the matter.

use super::{Invariant, Step};

pub struct PausedConfirmsNothing;

impl Invariant for PausedConfirmsNothing {
    fn name(&self) -> &'static str {
        "a paused host confirms nothing"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        let was_paused = step.before.paused && step.status.paused;
        if was_paused && step.before.commit != step.status.commit {
            return Err(format!("{} commits while it is paused", step.peer + 1));
        }
        Ok(())
    }
}
