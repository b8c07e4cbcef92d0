//! A vote goes only to a log at least as far as the voter's own (R2).
//!
//! A majority that has an entry then elects nobody without it. Nominations look at the logs as well
//! (R17), so that a voter that did not would seldom do harm, and the harm would be the greater.

use std::collections::BTreeMap;

use demes_protocol::message::Body;
use demes_protocol::types::{Incarnation, PeerId, Position, Term};

use super::{Invariant, Sent, Step};

#[derive(Default)]
pub struct VotesGoToFullLogs {
    /// Where the log of each candidate ended when it asked for votes.
    candidacies: BTreeMap<(PeerId, Incarnation, Term), Position>,
    /// Where the log of each peer ended before the step: within one, it may vote and then be given
    /// more.
    before: BTreeMap<usize, Position>,
}

impl Invariant for VotesGoToFullLogs {
    fn name(&self) -> &'static str {
        "votes go to logs that are as far"
    }

    fn on_sent(&mut self, sent: &Sent) -> Result<(), String> {
        let message = sent.message;
        if let Body::RequestVote(request) = &message.body {
            let candidacy = (message.from, message.from_incarnation, request.term);
            self.candidacies.insert(candidacy, request.end.last);
        }
        Ok(())
    }

    fn after_step(&mut self, step: &Step) -> Result<(), String> {
        let after = step.replica.log().last();
        let own = self.before.insert(step.peer, after).map_or(after, |before| before.min(after));
        for message in step.ready.messages.iter().chain(&step.ready.early) {
            let Body::Vote(vote) = &message.body else { continue };
            let last = self.candidacies.get(&(message.to, message.to_incarnation, vote.term));
            if let Some(last) = last.filter(|last| vote.granted.is_some() && **last < own) {
                let (voter, candidate) = (step.peer + 1, message.to.0[0]);
                return Err(format!("{voter} at {own:?} votes for {candidate} at {last:?}"));
            }
        }
        Ok(())
    }
}
