//! What hashes and signatures cover. Every one begins with a tag of its own, so that none can be
//! taken for another (R41).

use sha2::{Digest, Sha256};

use super::codec::Writer;
use super::message::HandOver;
use super::types::{ChatId, Hash, Incarnation, Membership, Number, Past, Payload, PeerId};

const ENTRY: &[u8] = b"demes/v1/entry\0";
const SUBMISSION: &[u8] = b"demes/v1/submission\0";
const HAND_OVER: &[u8] = b"demes/v1/hand-over\0";
const INVITE_LINK: &[u8] = b"demes/v1/invite-link\0";
const PAST: &[u8] = b"demes/v1/past\0";

/// The hash of an entry's canonical form without the hash itself.
pub(super) fn entry_hash(head: &[u8]) -> Hash {
    let mut digest = Sha256::new();
    digest.update(ENTRY);
    digest.update(head);
    Hash(digest.finalize().into())
}

/// What the author of a submission signs: chat, author, session, number and payload. For the
/// founding entry, which makes the chat's id, the chat is all zeros.
pub fn signed_submission(
    chat: ChatId,
    author: PeerId,
    session: Incarnation,
    number: Number,
    payload: &Payload,
) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.fixed(SUBMISSION);
    writer.fixed(&chat.0);
    writer.fixed(&author.0);
    writer.number(session);
    writer.number(number);
    writer.payload(payload);
    writer.0
}

/// What a joining peer signs with an invite link's key (R43). It holds for that peer and
/// incarnation alone, so that nobody who sees it can use the link.
pub fn signed_invite_link(chat: ChatId, peer: PeerId, incarnation: Incarnation) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.fixed(INVITE_LINK);
    writer.fixed(&chat.0);
    writer.fixed(&peer.0);
    writer.number(incarnation);
    writer.0
}

/// What a peer signs of itself, so that others can show it what it has forgotten (L5).
pub fn signed_past(chat: ChatId, peer: PeerId, incarnation: Incarnation, past: &Past) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.fixed(PAST);
    writer.fixed(&chat.0);
    writer.fixed(&peer.0);
    writer.number(incarnation);
    writer.number(past.boot);
    writer.number(past.term);
    writer.number(past.acknowledged.term);
    writer.number(past.acknowledged.index);
    writer.0
}

/// What a host signs to let `target` follow it in its term.
pub fn signed_hand_over(chat: ChatId, hand_over: &HandOver) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.fixed(HAND_OVER);
    writer.fixed(&chat.0);
    writer.fixed(&hand_over.host.0);
    writer.number(hand_over.host_incarnation);
    writer.number(hand_over.term);
    writer.fixed(&hand_over.target.0);
    writer.0
}

/// R41: whether an entry of this kind must carry its author's signature. Messages are proven by
/// the channel they came through; what the host appends by itself follows from other entries.
pub fn needs_signature(payload: &Payload) -> bool {
    match payload {
        Payload::Policy(_) => true,
        Payload::Membership(Membership::Removed { .. }) => false,
        Payload::Membership(_) => true,
        Payload::TermStart | Payload::Message { .. } | Payload::VoterChange(_) => false,
    }
}
