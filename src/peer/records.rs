//! What this peer knows of its chats without their files: who else is in them, and where. It is
//! what a chat is repaired from when its file is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::life;
use super::node::Node;
use crate::peer::people::invites::to_json;
use crate::protocol::types::{ChatId, Generation, Incarnation, MemberState, PeerId};
use crate::runtime::handle::ChatView;
use crate::storage::{PeerStore, StorageError};

const CHATS: &str = "chats";
/// Of more generations that members were heard in, the least are forgotten.
const HEARD_MAX: usize = 16;

/// One chat's record; the chat's id is its key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChatRecord {
    pub name: String,
    /// The other members that have joined, with their addresses.
    pub members: BTreeMap<String, String>,
    /// The course of the chat that this peer takes part in (R30).
    #[serde(default)]
    pub generation: Generation,
    /// The newest incarnation in which a file of the chat was made, or was about to be; 0 where an
    /// earlier version of this program has not said.
    #[serde(default)]
    pub incarnation: Incarnation,
    /// The file of that incarnation is about to be made: any other one is older.
    #[serde(default)]
    pub is_claimed: bool,
    /// Those that members have been heard in: what a person may choose to follow.
    #[serde(default)]
    pub heard: BTreeSet<Generation>,
    /// When the chat began anew here for the last time; 0 if it never did.
    pub renewed_at_ms: u64,
}

impl ChatRecord {
    /// Takes note of the generations that members are in.
    pub fn hear(&mut self, generations: impl IntoIterator<Item = Generation>) {
        self.heard.extend(generations);
        while self.heard.len() > HEARD_MAX {
            self.heard.pop_first();
        }
    }

    /// The other members.
    pub fn contacts(&self) -> Vec<(PeerId, String)> {
        let members = self.members.iter();
        members.filter_map(|(peer, address)| Some((peer.parse().ok()?, address.clone()))).collect()
    }
}

/// The record of `chat`, if there is one. One that cannot be read is passed over.
pub fn get(store: &PeerStore, chat: ChatId) -> Result<Option<ChatRecord>, StorageError> {
    let record = store.get(CHATS, &chat.to_string())?;
    Ok(record.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Writes the record of `chat`, durably, if it says something new.
pub fn put(store: &PeerStore, chat: ChatId, record: &ChatRecord) -> Result<(), StorageError> {
    if get(store, chat)?.as_ref() == Some(record) {
        return Ok(());
    }
    store.put(CHATS, &chat.to_string(), &to_json(record))
}

/// Forgets `chat`.
pub fn remove(store: &PeerStore, chat: ChatId) -> Result<(), StorageError> {
    store.remove(CHATS, &chat.to_string())
}

/// The chats that have a record.
pub fn chats(store: &PeerStore) -> Result<Vec<ChatId>, StorageError> {
    let records = store.list(CHATS)?;
    Ok(records.iter().filter_map(|(chat, _)| chat.parse().ok()).collect())
}

/// Keeps the records as the chats are: whenever the peers to be connected to change, and at first.
pub async fn keep(node: Arc<Node>) {
    let mut roster = node.handle.roster();
    loop {
        roster.mark_unchanged();
        for chat in node.handle.chats() {
            if let Err(error) = life::keep_record(&node, chat.id).await {
                tracing::error!(%error, "cannot keep who is in a chat: see to the disk");
            }
        }
        tokio::select! {
            changed = roster.changed() => if changed.is_err() { return },
            () = node.stop.cancelled() => return,
        }
    }
}

/// Writes what the running chat says of itself.
pub fn renew(
    store: &PeerStore,
    chat: ChatId,
    me: PeerId,
    incarnation: Incarnation,
    view: &ChatView,
) -> Result<(), StorageError> {
    let others = view.status.members.iter();
    let others = others.filter(|(peer, m)| **peer != me && m.state != MemberState::Invited);
    let members = others.map(|(peer, m)| (peer.to_string(), m.address.clone())).collect();
    let is_known = view.status.members.contains_key(&me);
    let before = get(store, chat)?.unwrap_or_default();
    // A log that is still coming in does not say yet who is there.
    if is_known {
        let (name, generation) = (view.status.chat_name.clone(), view.status.generation);
        let is_claimed = false;
        let mut record =
            ChatRecord { name, members, generation, incarnation, is_claimed, ..before };
        record.hear(view.status.other_generations.values().copied());
        put(store, chat, &record)?;
    }
    Ok(())
}
