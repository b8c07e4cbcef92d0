//! What a person wants said in a chat: it is proposed, and waited for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::node::{Node, now_ms};
use super::refusal::{self, Refusal, unable};
use super::resolve::resolve_chat;
use crate::protocol::event::ProposeError;
use crate::protocol::types::{Index, Payload};
use crate::runtime::handle::{ChatShared, ProposalRequest, ProposalResult, Unable, Wait};
use crate::wire::hex;

/// A change that is committed is shown here by then, or else the next call may not see it yet.
const SHOWN_MAX: Duration = Duration::from_secs(1);
const REPAIRED: &str = "the chat begins anew here: try again in a moment";

impl Node {
    /// Proposes and waits, at most until the caller's deadline.
    pub async fn propose(
        &self,
        chat: &ChatShared,
        proposal: ProposalRequest,
        deadline: Option<Instant>,
        request_id: &str,
    ) -> Result<ProposalResult, Refusal> {
        let is_message = matches!(proposal.payload, Payload::Message { .. });
        let result = self.ask(chat, proposal, deadline, request_id).await?;
        let result = result.map_err(|error| self.refused(chat, error))?;
        if let (Some(index), false) = (result.index, is_message) {
            await_shown(chat, index).await;
        }
        Ok(result)
    }

    /// The same for a message whose request may be a repeat: where it stands, if it is committed.
    pub async fn propose_once(
        &self,
        mut chat: Arc<ChatShared>,
        proposal: ProposalRequest,
        deadline: Option<Instant>,
        request_id: &str,
    ) -> Result<Option<Index>, Refusal> {
        let sealed = match &proposal.payload {
            Payload::Message { sealed, .. } => sealed.clone(),
            _ => Bytes::new(),
        };
        loop {
            let looked = Some(chat.looked());
            if let Some(index) = self.lookup.index_of(&chat, request_id, &sealed).await? {
                return Ok(Some(index));
            }
            let proposal = ProposalRequest { looked, ..proposal.clone() };
            match self.ask(&chat, proposal, deadline, request_id).await? {
                Ok(result) => return Ok(result.index),
                // The chat may run in another incarnation by now.
                Err(Unable::LookAgain) => chat = resolve_chat(self, &hex(&chat.id.0))?,
                Err(error) => return Err(self.refused(&chat, error)),
            }
        }
    }

    async fn ask(
        &self,
        chat: &ChatShared,
        proposal: ProposalRequest,
        deadline: Option<Instant>,
        request_id: &str,
    ) -> Result<Result<ProposalResult, Unable>, Refusal> {
        let proposing = self.handle.propose(chat.id, proposal);
        let waiting = async {
            tokio::select! {
                result = proposing => Ok(result),
                () = self.stop.cancelled() => Err(refusal::stopping()),
            }
        };
        match deadline {
            Some(deadline) => timeout_at(deadline, waiting)
                .await
                .unwrap_or_else(|_| Err(refusal::not_confirmed(request_id))),
            None => waiting.await,
        }
    }

    /// Why a proposal was not taken. Whoever was removed is told by whom, and of a chat that has
    /// ended to come back, what it waits for.
    fn refused(&self, chat: &ChatShared, error: Unable) -> Refusal {
        match (error, chat.view.borrow().status.removed_by) {
            (Unable::Propose(ProposeError::NotMember), Some(by)) => refusal::removed(by),
            (Unable::NoChat, _) if chat.is_away() => {
                let faulty = self.lives.faulty().get(&chat.id).cloned();
                faulty.map_or_else(|| refusal::storage_damaged(REPAIRED), |faulty| faulty.refusal())
            }
            _ => unable(error),
        }
    }
}

/// Waits until this peer shows what is committed at `index`: whoever was told that a chat has a new
/// name can use it in the next call. The host may know it a moment before this peer does.
async fn await_shown(chat: &ChatShared, index: Index) {
    let mut shown = chat.view.clone();
    let wait = shown.wait_for(|view| view.status.commit >= index);
    let _ = timeout_at(Instant::now() + SHOWN_MAX, wait).await;
}

/// A proposal of this moment, which no request repeats.
pub fn proposal(payload: Payload, wait: Wait) -> ProposalRequest {
    ProposalRequest {
        request_id: None,
        looked: None,
        payload,
        created_at_ms: now_ms(),
        trace: None,
        wait,
    }
}
