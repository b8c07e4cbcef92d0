//! Bringing an invitation to the invited peer: again and again, with growing pauses, until it
//! arrives or ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tonic::Status;

use super::dial::dial;
use super::invites::OutgoingInvite;
use super::node::{Node, begin, now_ms};
use crate::protocol::types::{Membership, Payload, PeerId};
use crate::runtime::handle::{Wait, Wish};
use crate::wire::pb::peer_service_client::PeerServiceClient;
use crate::wire::{pb, timestamp};

const RESEND_MIN: Duration = Duration::from_secs(1);
const RESEND_MAX: Duration = Duration::from_secs(60);
const CALL_MAX: Duration = Duration::from_secs(5);

/// Starts the task, unless it runs.
pub fn start(node: &Arc<Node>, invite: OutgoingInvite) {
    let Some(busy) = begin(node, format!("out/{}/{}", invite.chat, invite.address)) else { return };
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let _busy = busy;
        tokio::select! {
            () = send(&node, invite) => {}
            () = node.stop.cancelled() => {}
        }
    });
}

async fn send(node: &Node, mut invite: OutgoingInvite) {
    let mut wait = RESEND_MIN;
    while now_ms() < invite.expires_at_ms && node.handle.chat(invite.chat).is_some() {
        match attempt(node, &invite).await {
            Ok((peer, name)) => {
                invite.reached = Some(peer.to_string());
                invite.name = name;
                if let Err(error) = node.lock_invites().put_outgoing(&node.store, invite) {
                    tracing::error!(%error, "cannot keep an invitation");
                }
                return;
            }
            Err(status) => tracing::debug!(code = ?status.code(), "an invitation did not arrive"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RESEND_MAX);
    }
}

/// Brings it once, and notes it in the log. Gives whom it has reached.
async fn attempt(node: &Node, invite: &OutgoingInvite) -> Result<(PeerId, String), Status> {
    let unreachable = |error: &dyn std::fmt::Display| Status::unavailable(error.to_string());
    let expected = invite.expected.as_deref().and_then(|peer| peer.parse().ok());
    let connection =
        dial(&node.identity, &invite.address, expected).await.map_err(|e| unreachable(&e))?;
    let peer = connection.peer;
    if peer == node.identity.peer_id() {
        return Err(Status::invalid_argument("the address is this peer's own"));
    }
    let chat = node.handle.chat(invite.chat).ok_or_else(super::status::chat_not_found)?;
    let request = pb::InviteRequest {
        chat_id: invite.chat.to_string(),
        chat_name: chat.view.borrow().status.chat_name.clone(),
        inviter_name: node.name.clone(),
        inviter_address: node.address.clone(),
        expires_at: Some(timestamp(invite.expires_at_ms)),
    };
    let mut client = PeerServiceClient::new(connection.channel);
    let response = timeout(CALL_MAX, client.invite(request))
        .await
        .map_err(|_| Status::deadline_exceeded("no answer"))??
        .into_inner();
    if !chat.view.borrow().status.members.contains_key(&peer) {
        let payload =
            Payload::Membership(Membership::Invited { peer, address: invite.address.clone() });
        let wish = Wish {
            request_id: None,
            payload,
            created_at_ms: now_ms(),
            trace: None,
            wait: Wait::Queued,
        };
        node.handle.propose(invite.chat, wish).await.map_err(super::status::unable)?;
    }
    Ok((peer, response.name.chars().take(64).collect()))
}
