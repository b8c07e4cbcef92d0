//! There is at most one host in a term.
//!
//! Everything else rests on this: an entry is named by its term and index, and two hosts of one
//! term would make two entries of one name. It follows from one vote per term (R1) and from two
//! majorities having a voter in common.

use std::collections::BTreeMap;

use demes_protocol::event::Role;
use demes_protocol::types::Term;

use super::{Invariant, Step};

#[derive(Default)]
pub struct OneHostPerTerm(BTreeMap<Term, usize>);

impl Invariant for OneHostPerTerm {
    fn name(&self) -> &'static str {
        "one host per term"
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        if step.status.role != Role::Host || step.before.role == Role::Host {
            return Ok(());
        }
        let host = *self.0.entry(step.status.term).or_insert(step.peer);
        if host != step.peer {
            let (one, other, term) = (host + 1, step.peer + 1, step.status.term);
            return Err(format!("{one} and {other} both host in term {term}"));
        }
        Ok(())
    }
}
