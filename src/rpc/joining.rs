//! Bringing a person's answer to an invitation to the chat's host, wherever that is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tonic::Status;

use super::dial::{Connection, dial};
use super::invites::{IncomingInvite, InviteAnswer};
use super::node::{Node, begin, now_ms};
use crate::protocol::message::{Body, Join, Refused, RefusedReason};
use crate::protocol::sign::signed_submission;
use crate::protocol::types::{ChatId, Membership, Payload, PeerId};
use crate::wire::message::{from_join_response, to_join_request};
use crate::wire::pb::host_service_client::HostServiceClient;
use crate::wire::pb::peer_service_client::PeerServiceClient;
use crate::wire::{check_address, hex, pb};

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
const CALL_MAX: Duration = Duration::from_secs(5);
/// The most members that are asked for the host in turn.
const CONTACTS_MAX: usize = 16;
/// An answer is brought for at least this long after the invitation has ended.
const GRACE_MS: u64 = 900_000;

/// Starts the task, unless it runs.
pub fn start(node: &Arc<Node>, chat: ChatId, invite: IncomingInvite) {
    let Some(answer) = invite.answer else { return };
    let Some(busy) = begin(node, format!("in/{chat}")) else { return };
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let _busy = busy;
        tokio::select! {
            () = bring(&node, chat, invite, answer) => {}
            () = node.stop.cancelled() => {}
        }
    });
}

async fn bring(node: &Arc<Node>, chat: ChatId, invite: IncomingInvite, answer: InviteAnswer) {
    let mut contacts = vec![(invite.inviter, invite.inviter_address.clone())];
    let mut wait = RETRY_MIN;
    let mut turn = 0;
    while now_ms() < invite.expires_at_ms.saturating_add(GRACE_MS) {
        let asked = contacts[turn % contacts.len()].clone();
        turn += 1;
        match attempt(node, chat, answer, &asked, &mut contacts).await {
            Ok(()) if answer.accept => {
                match node.joined(chat, answer.incarnation, contacts).await {
                    Ok(()) => tracing::info!(?chat, "this peer has joined a chat"),
                    Err(error) => tracing::error!(error = error.message(), "cannot keep a chat"),
                }
                return;
            }
            Ok(()) => break,
            Err(status) => tracing::debug!(code = ?status.code(), "an answer did not arrive"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
    if let Err(error) = node.lock_invites().remove_incoming(&node.store, chat) {
        tracing::error!(%error, "cannot remove an invitation");
    }
}

/// Asks one member whether the chat has a host. That it answers says that it has the chat, and this
/// peer in it.
pub async fn ask_for_host(
    node: &Node,
    chat: ChatId,
    (peer, address): &(PeerId, String),
) -> Result<bool, Status> {
    let connection = reach(node, *peer, address).await?;
    let found = find_host(&connection, chat).await?;
    Ok(!found.host_peer_id.is_empty())
}

/// Asks one member for the host, and tells the host.
pub async fn attempt(
    node: &Node,
    chat: ChatId,
    answer: InviteAnswer,
    (peer, address): &(PeerId, String),
    contacts: &mut Vec<(PeerId, String)>,
) -> Result<(), Status> {
    let connection = reach(node, *peer, address).await?;
    let found = find_host(&connection, chat).await?;
    for member in &found.members {
        learn(contacts, &member.peer_id, &member.address);
    }
    let host: PeerId = found.host_peer_id.parse().map_err(|_| super::status::no_host())?;
    learn(contacts, &found.host_peer_id, &found.host_address);
    let (connection, incarnation) = if host == *peer {
        (connection, found.incarnation)
    } else {
        (reach(node, host, &found.host_address).await?, 0)
    };
    join(node, chat, answer, &connection, incarnation).await
}

async fn reach(node: &Node, peer: PeerId, address: &str) -> Result<Connection, Status> {
    dial(&node.identity, address, Some(peer))
        .await
        .map_err(|error| super::status::address_unreachable(error.to_string()))
}

fn learn(contacts: &mut Vec<(PeerId, String)>, peer: &str, address: &str) {
    if let Ok(peer) = peer.parse()
        && check_address(address, "address").is_ok()
        && contacts.len() < CONTACTS_MAX
        && contacts.iter().all(|(known, _)| *known != peer)
    {
        contacts.push((peer, address.to_owned()));
    }
}

async fn find_host(connection: &Connection, chat: ChatId) -> Result<pb::FindHostResponse, Status> {
    let mut client = PeerServiceClient::new(connection.channel.clone());
    let request = pb::FindHostRequest { chat_id: hex(&chat.0) };
    let response = timeout(CALL_MAX, client.find_host(request)).await;
    Ok(response.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner())
}

async fn join(
    node: &Node,
    chat: ChatId,
    answer: InviteAnswer,
    connection: &Connection,
    to_incarnation: u64,
) -> Result<(), Status> {
    let (name, address) = (node.name.clone(), node.address.clone());
    let payload = Payload::Membership(if answer.accept {
        Membership::Joined { name: name.clone(), address: address.clone() }
    } else {
        Membership::Declined
    });
    let me = node.identity.peer_id();
    let signed = signed_submission(chat, me, answer.incarnation, 0, &payload);
    let signature = node.identity.sign(&signed);
    let decline = !answer.accept;
    let join = Join { name, address, created_at_ms: now_ms(), decline, signature };
    let header = pb::Header {
        chat_id: hex(&chat.0),
        from_incarnation: answer.incarnation,
        from_boot: 1,
        to_incarnation,
    };
    let mut client = HostServiceClient::new(connection.channel.clone());
    let response = timeout(CALL_MAX, client.join(to_join_request(Some(header), &join))).await;
    let response = response.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner();
    match from_join_response(response).map_err(super::status::invalid)? {
        (_, Body::JoinAnswer(answer)) if answer.accepted => Ok(()),
        (_, Body::Refused(Refused { reason: RefusedReason::NotMember, .. })) => {
            Err(super::status::not_member())
        }
        _ => Err(super::status::no_host()),
    }
}
