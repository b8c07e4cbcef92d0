//! Bringing an invitation to the invited peer: again and again, with growing pauses, until it
//! arrives or ends. When its time is over and nobody has answered, it is taken back.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::time::timeout;

use super::invites::{ENDED_KEPT_MS, OutgoingInvite, outgoing_key};
use crate::links::backoff::Backoff;
use crate::links::dial::dial;
use crate::peer::node::{Node, now_ms};
use crate::protocol::types::{ChatId, MemberState, Membership, Payload, PeerId};
use crate::runtime::handle::{ChatView, ProposalRequest, Unable, Wait};
use crate::wire::{pb, timestamp};

const RESEND_MIN: Duration = Duration::from_secs(1);
const RESEND_MAX: Duration = Duration::from_secs(60);
/// Between looks at the wall clock, which may jump.
const LOOK_MAX: Duration = Duration::from_secs(30);
/// The same where it is only about forgetting one that has ended.
const ENDED_LOOK_MAX: Duration = Duration::from_secs(3_600);

/// Starts the task, unless it runs.
pub fn start(node: &Arc<Node>, invite: &OutgoingInvite) {
    let key = outgoing_key(invite.chat, &invite.address);
    if !lock(node).insert(key.clone()) {
        return;
    }
    let node = Arc::clone(node);
    tokio::spawn(async move {
        tokio::select! {
            () = bring(&node, &key) => {}
            () = node.stop.cancelled() => {}
        }
        lock(&node).remove(&key);
        // It may have been sent anew while the old one came to its end.
        if let Some(invite) = current(&node, &key)
            && invite.expires_at_ms > now_ms()
            && node.takes_part(invite.chat)
            && !node.stop.is_cancelled()
        {
            start(&node, &invite);
        }
    });
}

fn lock(node: &Node) -> MutexGuard<'_, BTreeSet<String>> {
    node.inviting.lock().expect("nothing panics while it holds this lock")
}

async fn bring(node: &Node, key: &str) {
    let mut backoff = Backoff::new(RESEND_MIN, RESEND_MAX);
    let mut taken_back = None;
    loop {
        // Looked up each time: the person may have taken it back, or sent it anew.
        let changed = node.invite_changed.notified();
        let Some(mut invite) = current(node, key) else { return };
        if !node.takes_part(invite.chat) {
            return;
        }
        let left = Duration::from_millis(invite.expires_at_ms.saturating_sub(now_ms()));
        if left.is_zero() {
            if taken_back != Some(invite.expires_at_ms) {
                end(node, &invite).await;
                taken_back = Some(invite.expires_at_ms);
            }
            let forgotten_at_ms = invite.expires_at_ms.saturating_add(ENDED_KEPT_MS);
            if now_ms() >= forgotten_at_ms {
                forget(node, key, &invite);
                return;
            }
            let left = Duration::from_millis(forgotten_at_ms.saturating_sub(now_ms()));
            let _ = timeout(left.min(ENDED_LOOK_MAX), changed).await;
            continue;
        }
        if invite.reached.is_some() {
            let look = left.min(LOOK_MAX);
            tokio::select! {
                _ = timeout(look, changed) => {}
                () = is_in_log(node, &invite), if !invite.noted => note(node, key, invite),
            }
            continue;
        }
        match attempt(node, &invite).await {
            Ok((peer, name)) => {
                invite.reached = Some(peer.to_string());
                invite.name = name;
                if current(node, key).is_none() {
                    // Taken back while it was being brought, which the log may not know.
                    take_back(node, invite.chat, peer).await;
                    return;
                }
                let kept = node.lock_invites().put_outgoing(&node.store, invite);
                match kept {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::error!(%error, "cannot keep an invitation: see to the disk")
                    }
                }
            }
            Err(why) => tracing::debug!(why, "an invitation did not arrive"),
        }
        if timeout(backoff.pause().min(left), changed).await.is_ok() {
            backoff.reset();
        }
    }
}

fn current(node: &Node, key: &str) -> Option<OutgoingInvite> {
    node.lock_invites().outgoing_to(key).cloned()
}

/// Returns when the chat's log has the invitation.
async fn is_in_log(node: &Node, invite: &OutgoingInvite) {
    let peer = invite.reached.as_deref().and_then(|peer| peer.parse::<PeerId>().ok());
    if let (Some(peer), Some(chat)) = (peer, node.handle.chat(invite.chat)) {
        let is_there = |view: &Arc<ChatView>| view.status.members.contains_key(&peer);
        if chat.view.clone().wait_for(is_there).await.is_ok() {
            return;
        }
    }
    std::future::pending().await // the chat has ended here
}

/// The person has had the time to see that it has ended.
fn forget(node: &Node, key: &str, invite: &OutgoingInvite) {
    let mut invites = node.lock_invites();
    // It may have been sent anew meanwhile.
    if invites.outgoing_to(key) == Some(invite)
        && let Err(error) = invites.remove_outgoing(&node.store, key)
    {
        tracing::error!(%error, "cannot remove an invitation: see to the disk");
    }
}

fn note(node: &Node, key: &str, invite: OutgoingInvite) {
    let mut invites = node.lock_invites();
    // It may have been sent anew meanwhile.
    if invites.outgoing_to(key) == Some(&invite) {
        let noted = OutgoingInvite { noted: true, ..invite };
        if let Err(error) = invites.put_outgoing(&node.store, noted) {
            tracing::error!(%error, "cannot keep an invitation: see to the disk");
        }
    }
}

/// Its time is over: who has not answered is invited no more. Returns when the log says so, lest
/// an invitation that follows is taken for this one.
async fn end(node: &Node, invite: &OutgoingInvite) {
    let peer = invite.reached.as_deref().and_then(|peer| peer.parse().ok());
    let Some(chat) = node.handle.chat(invite.chat) else { return };
    if let Some(peer) = peer
        && is_invited(&chat.view.borrow(), &peer)
    {
        take_back(node, invite.chat, peer).await;
        // The chat may end here before that, which is as good.
        let _ = chat.view.clone().wait_for(|view| !is_invited(view, &peer)).await;
    }
}

async fn take_back(node: &Node, chat: ChatId, peer: PeerId) {
    if let Err(error) = propose(node, chat, Membership::InviteRevoked { peer }).await {
        tracing::debug!(%error, "an invitation was not taken back");
    }
}

/// Whether the peer's invitation stands in the log, and is not answered.
fn is_invited(view: &ChatView, peer: &PeerId) -> bool {
    let member = view.status.members.get(peer).map(|member| member.state);
    member == Some(MemberState::Invited)
}

/// Brings it once, and notes it in the log. Gives whom it has reached, or why it reached nobody.
async fn attempt(node: &Node, invite: &OutgoingInvite) -> Result<(PeerId, String), String> {
    let expected = invite.expected.as_deref().and_then(|peer| peer.parse().ok());
    let dialled = dial(&node.identity, &invite.address, expected).await;
    let connection = dialled.map_err(|error| error.to_string())?;
    let peer = connection.peer;
    if peer == node.identity.peer_id() {
        return Err("the address is this peer's own".to_owned());
    }
    let chat = node.handle.chat(invite.chat).ok_or("the chat has ended here")?;
    let request = pb::InviteRequest {
        chat_id: invite.chat.to_string(),
        chat_name: chat.view.borrow().status.chat_name.clone(),
        inviter_name: node.name.clone(),
        inviter_address: node.address.clone(),
        expires_at: Some(timestamp(invite.expires_at_ms)),
    };
    let response = connection.invite(request).await.map_err(|error| error.to_string())?;
    // What was shown last may be some moments old, and still have one who has left since.
    let view = node.handle.view(invite.chat).await.map_err(|error| error.to_string())?;
    if !view.status.members.contains_key(&peer) {
        let address = invite.address.clone();
        let noted = propose(node, invite.chat, Membership::Invited { peer, address }).await;
        noted.map_err(|error| error.to_string())?;
    }
    Ok((peer, response.name.chars().take(64).collect()))
}

async fn propose(node: &Node, chat: ChatId, change: Membership) -> Result<(), Unable> {
    let proposal = ProposalRequest {
        request_id: None,
        looked: None,
        payload: Payload::Membership(change),
        created_at_ms: now_ms(),
        trace: None,
        wait: Wait::Queued,
    };
    node.handle.propose(chat, proposal).await.map(drop)
}
