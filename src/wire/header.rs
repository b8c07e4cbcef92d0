//! What messages of every kind have on the wire, and what several of them name: positions, pasts.

use super::entry::{from_words, to_words};
use super::{WireError, hex, pb, signature};
use crate::protocol::message::{Body, Message};
use crate::protocol::signed::Words;
use crate::protocol::types::{
    Boot, ChatId, Generation, Incarnation, Past, PeerId, Position, TERM_MAX,
};

/// The chat, its generation and the incarnations that a message names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub chat: ChatId,
    pub from_incarnation: Incarnation,
    pub from_boot: Boot,
    pub to_incarnation: Incarnation,
    pub generation: Generation,
    pub words: Words,
}

impl Header {
    /// Checks what holds for messages of every kind.
    pub fn check(&self, body: &Body) -> Result<(), WireError> {
        if body.term() > TERM_MAX { Err(WireError::Invalid("term")) } else { Ok(()) }
    }

    /// The message that `from` sent to `to` under this header. Nobody waits for an answer yet.
    pub fn message(&self, from: PeerId, to: PeerId, body: Body) -> Message {
        Message {
            from,
            from_incarnation: self.from_incarnation,
            from_boot: self.from_boot,
            to,
            to_incarnation: self.to_incarnation,
            generation: self.generation,
            call: 0,
            words: self.words.clone(),
            body,
        }
    }
}

pub fn to_header(chat: ChatId, message: &Message) -> Option<pb::Header> {
    Some(pb::Header {
        chat_id: hex(&chat.0),
        from_incarnation: message.from_incarnation,
        from_boot: message.from_boot,
        to_incarnation: message.to_incarnation,
        generation: message.generation,
        words: to_words(&message.words),
    })
}

pub fn from_header(header: Option<pb::Header>) -> Result<Header, WireError> {
    let header = header.ok_or(WireError::Missing("header"))?;
    Ok(Header {
        chat: header.chat_id.parse().map_err(|_| WireError::Invalid("chat_id"))?,
        from_incarnation: header.from_incarnation,
        from_boot: header.from_boot,
        to_incarnation: header.to_incarnation,
        generation: header.generation,
        words: from_words(header.words)?,
    })
}

/// The chat that a header names, whatever else is wrong with it.
pub fn chat_of(header: Option<&pb::Header>) -> Option<ChatId> {
    header.and_then(|header| header.chat_id.parse().ok())
}

pub(super) fn to_optional_peer(peer: Option<PeerId>) -> String {
    peer.map_or_else(String::new, |peer| hex(&peer.0))
}

pub(super) fn to_position(position: Position) -> pb::Position {
    pb::Position { term: position.term, index: position.index }
}

/// An absent position is the one before the first entry.
pub(super) fn from_position(position: Option<pb::Position>) -> Position {
    position.map_or_else(Position::default, |p| Position { term: p.term, index: p.index })
}

pub(super) fn to_past(past: &Past) -> pb::Past {
    let acknowledged = Some(to_position(past.acknowledged));
    let signature = past.signature.map(|s| s.to_vec()).unwrap_or_default();
    pb::Past { boot: past.boot, term: past.term, acknowledged, signature }
}

pub(super) fn from_past(past: pb::Past) -> Result<Past, WireError> {
    let acknowledged = from_position(past.acknowledged);
    let signature = signature(&past.signature)?;
    Ok(Past { boot: past.boot, term: past.term, acknowledged, signature })
}
