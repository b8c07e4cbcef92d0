//! Proposals of this peer's programs on their way into the outbox, and what is said to who waits.

use tokio::sync::oneshot;

use super::chat::Chat;
use super::driver::Io;
use super::handle::{Looked, ProposalRequest, ProposalResult, Unable, Wait};
use super::requests::Digest;
use crate::protocol::event::Proposal;
use crate::protocol::time::Instant;
use crate::protocol::types::{Index, Number};

/// Somebody who waits for a proposal.
pub(super) struct Waiting {
    pub wait: Wait,
    pub reply: oneshot::Sender<Result<ProposalResult, Unable>>,
}

impl Chat {
    /// Puts a proposal into the outbox, or joins it to the one that it repeats.
    pub fn propose(
        &mut self,
        now: Instant,
        proposal: ProposalRequest,
        reply: oneshot::Sender<Result<ProposalResult, Unable>>,
        io: &Io,
    ) {
        let said = Digest::of(&proposal.payload);
        if proposal.request_id.as_deref().is_some_and(|id| self.requests.is_other(id, said)) {
            let _ = reply.send(Err(Unable::RequestReused));
            return;
        }
        if let Some(known) = proposal.request_id.as_deref().and_then(|id| self.requests.get(id)) {
            let enough = known.index.is_some()
                || (proposal.wait == Wait::Queued && known.number <= self.queued_through);
            if enough {
                let _ = reply.send(Ok(known));
            } else {
                let waiting = Waiting { wait: proposal.wait, reply };
                self.waiting.entry(known.number).or_default().push(waiting);
            }
            return;
        }
        let Some(reply) = self.repeat_carried(&proposal, reply) else { return };
        if proposal.looked.is_some_and(|looked| !self.is_fresh(looked)) {
            let _ = reply.send(Err(Unable::LookAgain));
            return;
        }
        if !self.is_settled() {
            self.carry(proposal, reply);
            return;
        }
        if let Err(error) = self.replica.can_propose(&proposal.payload) {
            let _ = reply.send(Err(Unable::Propose(error)));
            return;
        }
        let number = self.replica.next_number();
        if let Some(id) = proposal.request_id {
            self.requests.add(id, said, number);
        }
        self.waiting.entry(number).or_default().push(Waiting { wait: proposal.wait, reply });
        let trace = self.spans.as_mut().and_then(|spans| spans.send(number, proposal.trace));
        let (payload, created_at_ms) = (proposal.payload, proposal.created_at_ms);
        self.put(now, Proposal { payload, created_at_ms, trace, signature: None }, io);
    }

    /// Whether everything that is not in memory was in the store at that look.
    fn is_fresh(&self, looked: Looked) -> bool {
        looked == self.shared.looked()
    }

    /// Tells those who wait for a proposal that it is durable here or, with an index, committed.
    pub fn reply(&mut self, number: Number, index: Option<Index>) {
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        let result = ProposalResult { number, index };
        let is_enough = |waiting: &mut Waiting| index.is_some() || waiting.wait == Wait::Queued;
        for done in waiting.extract_if(.., is_enough) {
            let _ = done.reply.send(Ok(result));
        }
        if waiting.is_empty() {
            self.waiting.remove(&number);
        }
    }
}
