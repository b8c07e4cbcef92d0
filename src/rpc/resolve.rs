//! What a person calls a chat or a member: an id, its beginning, or a name.

use std::sync::Arc;

use tonic::Status;

use super::node::Node;
use super::repair::Ailing;
use super::status;
use crate::protocol::event::Status as ChatStatus;
use crate::protocol::types::{ChatId, PeerId};
use crate::runtime::handle::ChatShared;
use crate::wire::hex;

/// The chat of that id, name, or beginning of an id; in this order, and only if it is one.
pub fn resolve_chat(node: &Node, text: &str) -> Result<Arc<ChatShared>, Status> {
    if let Some((_, ailing)) = resolve_ailing(node, text) {
        return Err(ailing.refusal());
    }
    if let Ok(id) = text.parse::<ChatId>() {
        return node.handle.chat(id).ok_or_else(status::chat_not_found);
    }
    let chats = node.handle.chats();
    let named = |chat: &&Arc<ChatShared>| chat.view.borrow().status.chat_name == text;
    let mut found: Vec<_> = chats.iter().filter(named).collect();
    if found.is_empty() && !text.is_empty() {
        found = chats.iter().filter(|chat| hex(&chat.id.0).starts_with(text)).collect();
    }
    match found[..] {
        [] => Err(status::chat_not_found()),
        [chat] => Ok(Arc::clone(chat)),
        _ => Err(status::chat_ambiguous(found.iter().map(|chat| hex(&chat.id.0)).collect())),
    }
}

/// The chat of that id or name that does not run at the moment.
pub fn resolve_ailing(node: &Node, text: &str) -> Option<(ChatId, Ailing)> {
    let ailing = node.repairs.ailing();
    let id = text.parse::<ChatId>();
    let found = ailing.iter().find(|(chat, ailing)| match id {
        Ok(id) => id == **chat,
        Err(_) => !text.is_empty() && ailing.name == text,
    });
    found.map(|(chat, ailing)| (*chat, ailing.clone()))
}

/// The member of that id, name, or beginning of an id.
pub fn resolve_peer(status: &ChatStatus, text: &str) -> Result<PeerId, Status> {
    let members = &status.members;
    if let Some(peer) = text.parse().ok().filter(|peer| members.contains_key(peer)) {
        return Ok(peer);
    }
    let named = members.iter().filter(|(_, member)| member.name == text);
    let mut found: Vec<PeerId> = named.map(|(peer, _)| *peer).collect();
    if found.is_empty() && !text.is_empty() {
        let begins = members.keys().filter(|peer| hex(&peer.0).starts_with(text));
        found = begins.copied().collect();
    }
    match found[..] {
        [] => Err(status::peer_not_found()),
        [peer] => Ok(peer),
        _ => Err(status::peer_ambiguous(found.iter().map(|peer| hex(&peer.0)).collect())),
    }
}
