//! Invitations, as this peer keeps them: those that arrived here, those sent from here, and the
//! secrets of links that were made here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::protocol::types::{ChatId, Incarnation, InviteLinkId, PeerId};
use crate::storage::{PeerStore, StorageError};

const INCOMING: &str = "invite-in";
const OUTGOING: &str = "invite-out";
const LINKS: &str = "invite-link";

/// An invitation that arrived here, or a link that the person wants to join by; the chat's id is
/// its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncomingInvite {
    pub chat_name: String,
    /// The key that brought it.
    #[serde(with = "text")]
    pub inviter: PeerId,
    pub inviter_name: String,
    pub inviter_address: String,
    pub expires_at_ms: u64,
    /// What the person said; the chat's host has not heard it yet.
    pub answer: Option<InviteAnswer>,
    /// The text of the link; empty for an invitation by address.
    #[serde(default)]
    pub link: String,
}

/// A person's answer, with the incarnation that it was signed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InviteAnswer {
    pub accept: bool,
    pub incarnation: Incarnation,
}

/// An invitation sent from here; chat and address are its key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OutgoingInvite {
    #[serde(with = "text")]
    pub chat: ChatId,
    pub address: String,
    /// The key that must answer there, if the person knows it.
    pub expected: Option<String>,
    /// The key that answered.
    pub reached: Option<String>,
    /// The name that came with the answer.
    pub name: String,
    pub expires_at_ms: u64,
    /// Whether the chat's log has had it: only then one who is no member has declined.
    #[serde(default)]
    pub noted: bool,
}

/// A link that was made here; its id is its key. Nobody but its maker keeps the secret, so that it
/// can be shown again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnLink {
    #[serde(with = "text")]
    pub chat: ChatId,
    pub seed: [u8; 16],
    pub uses_max: u32,
    pub expires_at_ms: u64,
}

/// All of them, in memory and in the peer's store. Each write is durable when it returns.
pub struct Invites {
    incoming: BTreeMap<ChatId, IncomingInvite>,
    outgoing: BTreeMap<String, OutgoingInvite>,
    links: BTreeMap<InviteLinkId, OwnLink>,
}

/// What an invitation by address is kept under.
pub fn outgoing_key(chat: ChatId, address: &str) -> String {
    format!("{chat}/{address}")
}

impl Invites {
    /// Reads them from the store. A record of another version's form is passed over.
    pub fn load(store: &PeerStore) -> Result<Self, StorageError> {
        let incoming = store.list(INCOMING)?.into_iter().filter_map(|(key, bytes)| {
            Some((key.parse().ok()?, serde_json::from_slice(&bytes).ok()?))
        });
        let outgoing = store.list(OUTGOING)?.into_iter();
        let outgoing =
            outgoing.filter_map(|(key, bytes)| Some((key, serde_json::from_slice(&bytes).ok()?)));
        let links = store.list(LINKS)?.into_iter().filter_map(|(key, bytes)| {
            Some((key.parse().ok()?, serde_json::from_slice(&bytes).ok()?))
        });
        Ok(Self {
            incoming: incoming.collect(),
            outgoing: outgoing.collect(),
            links: links.collect(),
        })
    }

    pub fn incoming(&self) -> &BTreeMap<ChatId, IncomingInvite> {
        &self.incoming
    }

    pub fn outgoing(&self) -> impl Iterator<Item = &OutgoingInvite> {
        self.outgoing.values()
    }

    /// The one to that address, by `outgoing_key`.
    pub fn outgoing_to(&self, key: &str) -> Option<&OutgoingInvite> {
        self.outgoing.get(key)
    }

    pub fn links(&self) -> &BTreeMap<InviteLinkId, OwnLink> {
        &self.links
    }

    pub fn put_incoming(
        &mut self,
        store: &PeerStore,
        chat: ChatId,
        invite: IncomingInvite,
    ) -> Result<(), StorageError> {
        store.put(INCOMING, &chat.to_string(), &to_json(&invite))?;
        self.incoming.insert(chat, invite);
        Ok(())
    }

    pub fn remove_incoming(&mut self, store: &PeerStore, chat: ChatId) -> Result<(), StorageError> {
        self.incoming.remove(&chat);
        store.remove(INCOMING, &chat.to_string())
    }

    pub fn put_outgoing(
        &mut self,
        store: &PeerStore,
        invite: OutgoingInvite,
    ) -> Result<(), StorageError> {
        let key = outgoing_key(invite.chat, &invite.address);
        store.put(OUTGOING, &key, &to_json(&invite))?;
        self.outgoing.insert(key, invite);
        Ok(())
    }

    pub fn remove_outgoing(&mut self, store: &PeerStore, key: &str) -> Result<(), StorageError> {
        self.outgoing.remove(key);
        store.remove(OUTGOING, key)
    }

    /// Forgets the secrets of links that have expired.
    pub fn remove_expired_links(
        &mut self,
        store: &PeerStore,
        now_ms: u64,
    ) -> Result<(), StorageError> {
        let expired = self.links.iter().filter(|(_, link)| link.expires_at_ms <= now_ms);
        for id in expired.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove_link(store, &id)?;
        }
        Ok(())
    }

    pub fn put_link(
        &mut self,
        store: &PeerStore,
        id: InviteLinkId,
        link: OwnLink,
    ) -> Result<(), StorageError> {
        store.put(LINKS, &id.to_string(), &to_json(&link))?;
        self.links.insert(id, link);
        Ok(())
    }

    pub fn remove_link(
        &mut self,
        store: &PeerStore,
        id: &InviteLinkId,
    ) -> Result<(), StorageError> {
        self.links.remove(id);
        store.remove(LINKS, &id.to_string())
    }

    /// Forgets what was sent, and the links that were made, for a chat that is no longer here.
    pub fn remove_all_of(&mut self, store: &PeerStore, chat: ChatId) -> Result<(), StorageError> {
        let of_chat = self.outgoing.iter().filter(|(_, invite)| invite.chat == chat);
        for key in of_chat.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.remove_outgoing(store, &key)?;
        }
        let of_chat = self.links.iter().filter(|(_, link)| link.chat == chat);
        for id in of_chat.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove_link(store, &id)?;
        }
        Ok(())
    }
}

/// A record as JSON.
pub fn to_json<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have text keys only")
}

/// Ids as their text.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<T: Display, S: Serializer>(id: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
