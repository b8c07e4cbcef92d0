//! How a host puts submissions in order (R32), and makes entries.

use std::sync::Arc;

use crate::event::DiskState;
use crate::log::submissions::{Verdict, is_submittable};
use crate::message::{Accepted, Body, Message, Submit, SubmitAnswer, SubmitProblem};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::types::{
    Entry, Hash, Incarnation, Index, MemberState, Membership, Number, Payload, PeerId, Signature,
    Submission, TraceContext,
};

/// What an entry says, before it has a place.
pub(super) struct Draft {
    pub author: PeerId,
    pub incarnation: Incarnation,
    pub number: Number,
    pub created_at_ms: u64,
    pub trace: TraceContext,
    pub payload: Payload,
    pub signature: Option<Signature>,
}

impl Replica {
    pub(crate) fn on_submit(&mut self, message: &Message, submit: &Submit) {
        if !matches!(self.part, Part::Host(_)) {
            self.on_submit_elsewhere(message, submit);
            return;
        }
        let (author, incarnation) =
            submit.author.unwrap_or((message.from, message.from_incarnation));
        let mut accepted = Vec::with_capacity(submit.submissions.len());
        let mut problem = None;
        for submission in &submit.submissions {
            match self.accept(author, incarnation, submission) {
                Ok(place) => accepted.extend(place),
                Err(why) => {
                    problem = Some(why);
                    break;
                }
            }
        }
        if submit.author.is_some() {
            // What becomes of a relayed submission, its author sees in the log.
            problem = None;
        }
        let term = self.hard_state.term;
        self.answer(message, Body::SubmitAnswer(SubmitAnswer { term, accepted, problem }));
    }

    /// Puts one submission into the log, or finds it there.
    fn accept(
        &mut self,
        author: PeerId,
        incarnation: Incarnation,
        submission: &Submission,
    ) -> Result<Option<Accepted>, SubmitProblem> {
        let member = self.log.state().members.get(&author);
        let active = member.is_some_and(|member| {
            member.state == MemberState::Active && member.incarnation == incarnation
        });
        let backlog = self.log.last().index - self.log.commit();
        let Part::Host(hosting) = &self.part else { return Err(SubmitProblem::NotServing) };
        let is_going = hosting.hand_over.is_some() && !planted(Bug::AcceptsWhileHandingOver);
        if !hosting.serving || is_going || self.stopping.is_some() {
            return Err(SubmitProblem::NotServing);
        }
        if !active || !is_submittable(&submission.payload) {
            return Err(SubmitProblem::NotMember);
        }
        // R9: one whose successor's Join is on its way has come to its end.
        if hosting.joined.get(&author).is_some_and(|joined| *joined != incarnation) {
            return Err(SubmitProblem::NotServing);
        }
        let number = submission.number;
        match hosting.submissions.verdict(author, incarnation, number) {
            Verdict::Gap { last } => Err(SubmitProblem::Gap { last }),
            Verdict::Duplicate(index) => Ok(index.map(|index| Accepted {
                number,
                index,
                term: self.log.term_at(index).unwrap_or(0),
                committed: index <= self.log.commit(),
            })),
            Verdict::Next if self.disk == DiskState::Full && !planted(Bug::FullDiskAccepts) => {
                Err(SubmitProblem::StorageFull)
            }
            Verdict::Next if backlog >= self.config.uncommitted_max => {
                Err(SubmitProblem::NotServing)
            }
            Verdict::Next if !self.may_add(author, &submission.payload, submission.size()) => {
                Err(SubmitProblem::OverQuota)
            }
            Verdict::Next => {
                let index = self.append_draft(Draft {
                    author,
                    incarnation,
                    number,
                    created_at_ms: submission.created_at_ms,
                    trace: submission.trace,
                    payload: submission.payload.clone(),
                    signature: submission.signature,
                });
                let term = self.hard_state.term;
                Ok(Some(Accepted { number, index, term, committed: false }))
            }
        }
    }

    /// The host's own submissions go the same way as everybody's, once they are durable.
    pub(super) fn accept_own(&mut self) {
        let (me, incarnation) = (self.me, self.incarnation);
        let Part::Host(hosting) = &self.part else { return };
        if self.outbox.len() == 0 || !hosting.serving {
            return;
        }
        let last = hosting.submissions.last(me, incarnation);
        let waiting: Vec<_> = self.outbox.durable_after(last).cloned().collect();
        for submission in waiting {
            let accepted = self.accept(me, incarnation, &submission);
            self.is_over_quota = accepted == Err(SubmitProblem::OverQuota);
            if accepted.is_err() {
                break;
            }
        }
    }

    pub(super) fn append_own(&mut self, payload: Payload) {
        self.append_draft(Draft {
            author: self.me,
            incarnation: self.incarnation,
            number: 0,
            created_at_ms: 0,
            trace: None,
            payload,
            signature: None,
        });
    }

    pub(super) fn append_draft(&mut self, draft: Draft) -> Index {
        let mut entry = Entry {
            index: self.log.last().index + 1,
            term: self.hard_state.term,
            author: draft.author,
            incarnation: draft.incarnation,
            number: draft.number,
            generation: self.log.generation(),
            created_at_ms: draft.created_at_ms,
            trace: draft.trace,
            payload: draft.payload,
            signature: draft.signature,
            previous: self.log.last_hash(),
            hash: Hash::default(),
        };
        if let Payload::VoterChange(voters) = &entry.payload {
            entry.signature = Some(self.signer.voters(&entry, voters));
        }
        entry.hash = entry.computed_hash();
        let index = entry.index;
        let is_message = matches!(entry.payload, Payload::Message { .. });
        let interval = self.config.heartbeat_us;
        if let Part::Host(hosting) = &mut self.part {
            hosting.submissions.apply(&entry);
            if let Payload::Membership(Membership::Joined { .. }) = &entry.payload {
                hosting.joined.insert(entry.author, entry.incarnation);
            }
            if is_message {
                hosting.active_at = self.now;
                hosting.heartbeat_at = hosting.heartbeat_at.min(self.now + interval);
            }
        }
        self.count_added(&entry);
        self.append(Arc::new(entry));
        index
    }
}
