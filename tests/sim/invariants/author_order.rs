//! What an author submits in one incarnation stands in the log once, and in the author's order
//! (R32).
//!
//! Nothing doubled and nothing skipped, however often it was sent again and to how many hosts.

use std::collections::BTreeMap;

use demes_protocol::types::{Incarnation, Number, PeerId};

use super::{Invariant, Step};

#[derive(Default)]
pub struct AuthorOrder(BTreeMap<(PeerId, Incarnation), Number>);

impl Invariant for AuthorOrder {
    fn name(&self) -> &'static str {
        "each author's submissions once and in order"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        let new = step.ready.committed.iter().filter(|entry| entry.index > step.oracle.last());
        for entry in new.filter(|entry| entry.number > 0) {
            let known = || step.oracle.committed_through(entry.author, entry.incarnation);
            let last = self.0.entry((entry.author, entry.incarnation)).or_insert_with(known);
            if entry.number != *last + 1 {
                let (author, number) = (entry.author.0[0], entry.number);
                return Err(format!("{author}'s {number} follows its {last} in the log"));
            }
            *last = entry.number;
        }
        Ok(())
    }
}
