//! What is committed in somebody's name is what that person's peer was given, word for word.
//!
//! No host invents or changes anything, and no store mixes anything up.

use super::{Invariant, Step};

pub struct AsSubmitted;

impl Invariant for AsSubmitted {
    fn name(&self) -> &'static str {
        "entries are as they were submitted"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        let new = step.ready.committed.iter().filter(|entry| entry.index > step.oracle.last());
        for entry in new.filter(|entry| entry.number > 0) {
            let submitted = (entry.author, entry.incarnation, entry.number);
            if !step.oracle.proposed(&submitted).contains(&entry.payload) {
                let (author, number) = (entry.author.0[0], entry.number);
                return Err(format!("{author} never submitted that as its {number}"));
            }
        }
        Ok(())
    }
}
