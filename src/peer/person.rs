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
use crate::runtime::handle::{ChatShared, Granted, Unable, Wait, Wish};
use crate::wire::hex;

/// A change that is committed is shown here by then, or else the next call may not see it yet.
const SHOWN_MAX: Duration = Duration::from_secs(1);
const REPAIRED: &str = "the chat begins anew here: try again in a moment";

impl Node {
    /// Proposes and waits, at most until the caller's deadline.
    pub async fn propose(
        &self,
        chat: &ChatShared,
        wish: Wish,
        deadline: Option<Instant>,
        request_id: &str,
    ) -> Result<Granted, Refusal> {
        let is_message = matches!(wish.payload, Payload::Message { .. });
        let granted = self.ask(chat, wish, deadline, request_id).await?;
        let granted = granted.map_err(|error| self.refused(chat, error))?;
        if let (Some(index), false) = (granted.index, is_message) {
            await_shown(chat, index).await;
        }
        Ok(granted)
    }

    /// The same for a message whose request may be a repeat: where it stands, if it is committed.
    pub async fn propose_once(
        &self,
        mut chat: Arc<ChatShared>,
        wish: Wish,
        deadline: Option<Instant>,
        request_id: &str,
    ) -> Result<Option<Index>, Refusal> {
        let sealed = match &wish.payload {
            Payload::Message { sealed, .. } => sealed.clone(),
            _ => Bytes::new(),
        };
        loop {
            let looked = Some(chat.looked());
            if let Some(index) = self.lookup.index_of(&chat, request_id, &sealed).await? {
                return Ok(Some(index));
            }
            let wish = Wish { looked, ..wish.clone() };
            match self.ask(&chat, wish, deadline, request_id).await? {
                Ok(granted) => return Ok(granted.index),
                // The chat may run in another incarnation by now.
                Err(Unable::LookAgain) => chat = resolve_chat(self, &hex(&chat.id.0))?,
                Err(error) => return Err(self.refused(&chat, error)),
            }
        }
    }

    async fn ask(
        &self,
        chat: &ChatShared,
        wish: Wish,
        deadline: Option<Instant>,
        request_id: &str,
    ) -> Result<Result<Granted, Unable>, Refusal> {
        let proposing = self.handle.propose(chat.id, wish);
        let waiting = async {
            tokio::select! {
                granted = proposing => Ok(granted),
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

    /// Why a wish was not taken. Whoever was removed is told by whom, and of a chat that has ended
    /// to come back, what it waits for.
    fn refused(&self, chat: &ChatShared, error: Unable) -> Refusal {
        match (error, chat.view.borrow().status.removed_by) {
            (Unable::Propose(ProposeError::NotMember), Some(by)) => refusal::removed(by),
            (Unable::NoChat, _) if chat.is_away() => {
                let ailing = self.lives.ailing().get(&chat.id).cloned();
                ailing.map_or_else(|| refusal::storage_damaged(REPAIRED), |ailing| ailing.refusal())
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

/// A wish of this moment, which no request repeats.
pub fn wish(payload: Payload, wait: Wait) -> Wish {
    Wish { request_id: None, looked: None, payload, created_at_ms: now_ms(), trace: None, wait }
}
