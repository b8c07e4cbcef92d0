//! Accepting an invitation or a link, and waiting until the chat's host has taken this peer on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::joining::Joining;
use crate::peer::node::{Node, now_ms};
use crate::peer::refusal::{self, Refusal};
use crate::protocol::types::{ChatId, MemberState, PeerId};
use crate::wire::hex;
use crate::wire::link::LinkText;

/// How long an accepted invitation is waited for, where the caller sets no deadline.
pub const JOIN_MAX: Duration = Duration::from_secs(60);

impl Node {
    /// Accepts the invitation to the chat of that name or id, and waits.
    pub async fn accept(self: &Arc<Self>, text: &str, until: Instant) -> Result<ChatId, Refusal> {
        let (chat, inviter) = self.resolve_invite(text)?;
        let joining = self.answer(chat, inviter, true)?;
        self.joined(chat, joining, until).await
    }

    /// Joins by a link, and waits. Whoever takes part already need not join.
    pub async fn accept_link(
        self: &Arc<Self>,
        text: &str,
        until: Instant,
    ) -> Result<ChatId, Refusal> {
        let text: String = text.split_whitespace().collect();
        let link = LinkText::parse(&text).map_err(refusal::link_text)?;
        if self.takes_part(link.chat) {
            if self.is_leaving(link.chat).await {
                return Err(refusal::leaving());
            }
            return Ok(link.chat);
        }
        let joining = self.join_by_link(&text, &link)?;
        self.joined(link.chat, joining, until).await
    }

    /// The open invitation to the chat of that name or id. Anybody may invite to a chat whose id
    /// they know: where several do, `CHAT@INVITER` says whose is meant, by the beginning of a key.
    pub fn resolve_invite(&self, text: &str) -> Result<(ChatId, PeerId), Refusal> {
        let mut found = self.named(text, "");
        if found.is_empty()
            && let Some((chat, inviter)) = text.rsplit_once('@')
        {
            found = self.named(chat, inviter);
        }
        match found[..] {
            [] => Err(refusal::invite_not_found()),
            [one] => Ok(one),
            _ if found.iter().all(|(chat, _)| *chat == found[0].0) => {
                let text = |(chat, inviter): &(ChatId, PeerId)| {
                    format!("{}@{}", hex(&chat.0), hex(&inviter.0))
                };
                Err(refusal::inviter_ambiguous(found.iter().map(text).collect()))
            }
            _ => Err(refusal::chat_ambiguous(found.iter().map(|(chat, _)| hex(&chat.0)).collect())),
        }
    }

    fn named(&self, text: &str, by: &str) -> Vec<(ChatId, PeerId)> {
        let now = now_ms();
        let invites = self.lock_invites();
        let open = invites.incoming().filter(|(_, invite)| invite.expires_at_ms > now);
        let named = open.filter(|(chat, invite)| {
            let is_named = invite.chat_name == text || hex(&chat.0).starts_with(text);
            !text.is_empty() && is_named && hex(&invite.inviter.0).starts_with(by)
        });
        named.map(|(chat, invite)| (chat, invite.inviter)).collect()
    }

    /// Waits until the chat runs here. Past the deadline, the reason of the last attempt is told;
    /// the attempts go on.
    async fn joined(
        &self,
        chat: ChatId,
        mut joining: watch::Receiver<Joining>,
        until: Instant,
    ) -> Result<ChatId, Refusal> {
        let ended = joining.wait_for(|joining| !matches!(joining, Joining::Trying(_)));
        let ended = timeout_at(until, ended).await.map(|ended| ended.map(|ended| ended.clone()));
        match ended {
            Ok(Ok(Joining::Failed(status))) => return Err(status),
            Ok(Ok(_)) => {}
            // The task ended without a word: with the peer, or because it panicked.
            Ok(Err(_)) if self.stop.is_cancelled() => return Err(refusal::stopping()),
            Ok(Err(_)) => return Err(refusal::internal("bringing the answer was interrupted")),
            Err(_) => {
                let shown = joining.borrow();
                return Err(match &*shown {
                    Joining::Trying(Some(problem)) | Joining::Failed(problem) => problem.clone(),
                    Joining::Trying(None) | Joining::Done => refusal::no_host(),
                });
            }
        }
        if let Some(chat) = self.handle.chat(chat) {
            // The log brings the name and this membership, without which nothing can be said.
            let (me, mut shown) = (self.identity.peer_id(), chat.view.clone());
            let known = shown.wait_for(|view| {
                let member = view.status.members.get(&me);
                member.is_some_and(|member| member.state == MemberState::Active)
            });
            // Late or not, the person takes part.
            let _ = timeout_at(until, known).await;
        }
        Ok(chat)
    }
}
