//! A peer in one incarnation votes for one candidate per term, itself included (R1).
//!
//! The votes that leave are what counts, not what the store says: a store that forgot a vote would
//! agree with itself.

use std::collections::BTreeMap;

use demes_protocol::message::Body;
use demes_protocol::types::{Incarnation, PeerId, Term};

use super::{Invariant, Sent};

#[derive(Default)]
pub struct OneVotePerTerm(BTreeMap<(PeerId, Incarnation, Term), PeerId>);

impl Invariant for OneVotePerTerm {
    fn name(&self) -> &'static str {
        "one vote per term"
    }

    fn on_sent(&mut self, sent: &Sent) -> Result<(), String> {
        let message = sent.message;
        let (term, vote) = match &message.body {
            Body::Vote(vote) if vote.granted.is_some() => (vote.term, message.to),
            Body::RequestVote(request) => (request.term, message.from),
            _ => return Ok(()),
        };
        let voter = (message.from, message.from_incarnation, term);
        let first = *self.0.entry(voter).or_insert(vote);
        if first != vote {
            let (voter, one, other) = (message.from.0[0], first.0[0], vote.0[0]);
            return Err(format!("{voter} votes for {one} and for {other} in term {term}"));
        }
        Ok(())
    }
}
