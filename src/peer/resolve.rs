//! What a person calls a chat or a member: an id, its beginning, or a name.

use std::sync::Arc;

use super::life::Ailing;
use super::node::Node;
use super::refusal::{self, Refusal};
use crate::protocol::event::Status as ChatStatus;
use crate::protocol::types::{ChatId, PeerId};
use crate::runtime::handle::ChatShared;
use crate::wire::hex;

/// A chat that a person has named.
pub enum Named {
    Running(Arc<ChatShared>),
    /// It does not run at the moment.
    Ailing(ChatId, Ailing),
}

/// The chat of that id, name, or beginning of an id; in this order, and only if it is one.
pub fn resolve_chat(node: &Node, text: &str) -> Result<Arc<ChatShared>, Refusal> {
    match resolve_any(node, text)? {
        Named::Running(chat) => Ok(chat),
        Named::Ailing(_, ailing) => Err(ailing.refusal()),
    }
}

/// The same among all chats, those that do not run included.
pub fn resolve_any(node: &Node, text: &str) -> Result<Named, Refusal> {
    if let Ok(id) = text.parse::<ChatId>() {
        let ailing = node.lives.ailing().get(&id).cloned();
        let ailing = ailing.map(|ailing| Named::Ailing(id, ailing));
        let found = ailing.or_else(|| node.handle.chat(id).map(Named::Running));
        return found.ok_or_else(refusal::chat_not_found);
    }
    let ailing = node.lives.ailing().clone();
    let running = node.handle.chats().into_iter().filter(|chat| !ailing.contains_key(&chat.id));
    let running = running.map(|chat| {
        let name = chat.view.borrow().status.chat_name.clone();
        (chat.id, name, Named::Running(chat))
    });
    let mut chats: Vec<_> = running.collect();
    chats.extend(
        ailing.into_iter().map(|(id, chat)| (id, chat.name.clone(), Named::Ailing(id, chat))),
    );
    if text.is_empty() {
        return Err(refusal::chat_not_found());
    }
    let mut found: Vec<_> = chats.extract_if(.., |(_, name, _)| name == text).collect();
    if found.is_empty() {
        found = chats.extract_if(.., |(id, ..)| hex(&id.0).starts_with(text)).collect();
    }
    match found.len() {
        0 => Err(refusal::chat_not_found()),
        1 => Ok(found.remove(0).2),
        _ => Err(refusal::chat_ambiguous(found.iter().map(|(id, ..)| hex(&id.0)).collect())),
    }
}

/// The member of that id, name, or beginning of an id.
pub fn resolve_peer(status: &ChatStatus, text: &str) -> Result<PeerId, Refusal> {
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
        [] => Err(refusal::peer_not_found()),
        [peer] => Ok(peer),
        _ => Err(refusal::peer_ambiguous(found.iter().map(|peer| hex(&peer.0)).collect())),
    }
}
