//! The first entry of a chat.

use super::sign::signed_submission;
use crate::types::{
    ChatId, Course, Entry, Hash, Incarnation, Membership, Payload, PeerId, Signature,
};

/// Makes the entry that founds a chat: index 1, term 0, its author the first member and the only
/// voter. The chat's id is the beginning of the entry's hash, so that it names its founder,
/// incarnation and moment, and nobody can found the same chat twice. `sign` signs with the
/// author's key. The founder's store begins with this entry, committed.
pub fn founding_entry(
    author: PeerId,
    incarnation: Incarnation,
    chat_name: String,
    name: String,
    address: String,
    created_at_ms: u64,
    sign: impl FnOnce(&[u8]) -> Signature,
) -> (ChatId, Entry) {
    let payload = Payload::Membership(Membership::Founded { chat_name, name, address });
    let signature = sign(&signed_submission(Course::default(), author, incarnation, 0, &payload));
    let mut entry = Entry {
        index: 1,
        term: 0,
        author,
        incarnation,
        number: 0,
        generation: 0,
        created_at_ms,
        trace: None,
        payload,
        signature: Some(signature),
        previous: Hash::default(),
        hash: Hash::default(),
    };
    entry.hash = entry.computed_hash();
    (chat_id(&entry), entry)
}

/// The id of the chat that `first`, the entry at index 1, founds.
pub fn chat_id(first: &Entry) -> ChatId {
    let (id, _) = first.hash.0.split_first_chunk().expect("a hash is longer than a chat id");
    ChatId(*id)
}
