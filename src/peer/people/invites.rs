//! Invitations, as this peer keeps them: those that arrived here, those sent from here, and the
//! secrets of links that were made here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::protocol::types::{ChatId, Incarnation, InviteLinkId, PeerId};
use crate::storage::{PeerStore, StorageError};

const INCOMING: &str = "invite-in";
const OUTGOING: &str = "invite-out";
const LINKS: &str = "invite-link";

/// An invitation that arrived here, or a link that the person wants to join by; the chat's id and
/// the inviter are its key: who invites first keeps out nobody else who invites to the same chat.
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
    /// From which machine it was brought; none for a link.
    #[serde(default)]
    pub from: Option<IpAddr>,
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
    incoming: BTreeMap<(ChatId, PeerId), IncomingInvite>,
    outgoing: BTreeMap<String, OutgoingInvite>,
    links: BTreeMap<InviteLinkId, OwnLink>,
}

/// For so long what has ended is kept, so that the person may see that it has.
pub const ENDED_KEPT_MS: u64 = 86_400_000;

/// The longest that an invitation waits here, whatever its inviter says.
pub const INVITE_MAX_MS: u64 = 90 * 86_400_000;
/// The most that wait of one inviter.
const OF_ONE_KEY_MAX: usize = 16;

fn incoming_key(chat: ChatId, inviter: PeerId) -> String {
    format!("{chat}/{inviter}")
}

/// What an invitation by address is kept under.
pub fn outgoing_key(chat: ChatId, address: &str) -> String {
    format!("{chat}/{address}")
}

impl Invites {
    /// Reads them from the store. A record of another version's form is passed over.
    pub fn load(store: &PeerStore) -> Result<Self, StorageError> {
        let incoming = store.list(INCOMING)?.into_iter().filter_map(|(key, bytes)| {
            let (chat, inviter) = key.split_once('/')?;
            let key = (chat.parse().ok()?, inviter.parse().ok()?);
            Some((key, serde_json::from_slice(&bytes).ok()?))
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

    pub fn incoming(&self) -> impl Iterator<Item = (ChatId, &IncomingInvite)> {
        self.incoming.iter().map(|((chat, _), invite)| (*chat, invite))
    }

    /// Those to one chat.
    pub fn incoming_to(&self, chat: ChatId) -> impl Iterator<Item = &IncomingInvite> {
        self.incoming().filter(move |(to, _)| *to == chat).map(|(_, invite)| invite)
    }

    /// The one by this inviter.
    pub fn incoming_by(&self, chat: ChatId, inviter: PeerId) -> Option<&IncomingInvite> {
        self.incoming.get(&(chat, inviter))
    }

    /// The one that the person has answered; of a chat at most one is.
    pub fn answered(&self, chat: ChatId) -> Option<&IncomingInvite> {
        self.incoming_to(chat).find(|invite| invite.answer.is_some())
    }

    // L2: who makes up keys, or invites to chats that nobody has heard of, leaves room for others.
    /// Whether an invitation by this one finds room, which shares a chat with this peer or not.
    pub fn has_room(&self, invite: &IncomingInvite, is_known: bool, most: usize) -> bool {
        let waiting = || self.incoming.values().filter(|other| other.link.is_empty());
        let of_key = waiting().filter(|other| other.inviter == invite.inviter).count();
        let of_machine = waiting().filter(|other| other.from == invite.from).count();
        let strangers_most = most - most / 4;
        self.incoming.len() < most
            && of_key < OF_ONE_KEY_MAX
            && (is_known || (of_machine < most / 2 && self.incoming.len() < strangers_most))
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
        let inviter = invite.inviter;
        store.put(INCOMING, &incoming_key(chat, inviter), &to_json(&invite))?;
        self.incoming.insert((chat, inviter), invite);
        Ok(())
    }

    /// Notes the person's answer to one of them, which takes the place of another answer.
    pub fn answer(
        &mut self,
        store: &PeerStore,
        chat: ChatId,
        invite: IncomingInvite,
    ) -> Result<(), StorageError> {
        let others = self
            .incoming_to(chat)
            .filter(|other| other.answer.is_some() && other.inviter != invite.inviter);
        for other in others.cloned().collect::<Vec<_>>() {
            match other.link.is_empty() {
                true => self.put_incoming(store, chat, IncomingInvite { answer: None, ..other })?,
                false => self.remove_incoming(store, chat, other.inviter)?,
            }
        }
        self.put_incoming(store, chat, invite)
    }

    /// Forgets what has ended a day ago and, of what has ended, as much as is needed that one more
    /// makes `most` of them. What was answered stays until the answer has arrived or is given up.
    pub fn remove_ended_incoming(
        &mut self,
        store: &PeerStore,
        now_ms: u64,
        most: usize,
    ) -> Result<(), StorageError> {
        let ended = self
            .incoming
            .iter()
            .filter(|(_, invite)| invite.answer.is_none() && invite.expires_at_ms <= now_ms);
        let mut ended: Vec<_> = ended.map(|(key, it)| (it.expires_at_ms, *key)).collect();
        ended.sort_unstable();
        let surplus = (self.incoming.len() + 1).saturating_sub(most);
        for (place, (expires_at_ms, (chat, inviter))) in ended.into_iter().enumerate() {
            if place < surplus || expires_at_ms.saturating_add(ENDED_KEPT_MS) <= now_ms {
                self.remove_incoming(store, chat, inviter)?;
            }
        }
        Ok(())
    }

    pub fn remove_incoming(
        &mut self,
        store: &PeerStore,
        chat: ChatId,
        inviter: PeerId,
    ) -> Result<(), StorageError> {
        self.incoming.remove(&(chat, inviter));
        store.remove(INCOMING, &incoming_key(chat, inviter))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::DataDir;

    fn invite(expires_at_ms: u64, is_answered: bool) -> IncomingInvite {
        let answer = InviteAnswer { accept: true, incarnation: 1 };
        IncomingInvite {
            chat_name: String::new(),
            inviter: PeerId([1; 32]),
            inviter_name: String::new(),
            inviter_address: String::new(),
            expires_at_ms,
            answer: is_answered.then_some(answer),
            link: String::new(),
            from: None,
        }
    }

    #[test]
    fn l2_one_inviter_or_machine_leaves_room_for_others_and_strangers_for_those_who_are_known() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(dir.path()).expect("it opens");
        let store = data.peer_store().expect("it opens");
        let mut invites = Invites::load(&store).expect("it reads");
        let of = |inviter: u8, machine: u8| IncomingInvite {
            inviter: PeerId([inviter; 32]),
            from: Some([127, 0, 0, machine].into()),
            ..invite(1_000, false)
        };
        let mut chats = 0_u8..;
        let mut put = |invites: &mut Invites, invite: IncomingInvite| {
            let chat = ChatId([chats.next().expect("one more"); 16]);
            invites.put_incoming(&store, chat, invite).expect("durable");
        };
        let most = 128;
        for _ in 0..OF_ONE_KEY_MAX {
            assert!(invites.has_room(&of(1, 1), false, most));
            put(&mut invites, of(1, 1));
        }
        assert!(!invites.has_room(&of(1, 1), true, most), "one key has its share");
        for inviter in 2..=4 {
            (0..OF_ONE_KEY_MAX).for_each(|_| put(&mut invites, of(inviter, 1)));
        }
        assert!(!invites.has_room(&of(5, 1), false, most), "so has one machine");
        assert!(invites.has_room(&of(5, 1), true, most), "but for one who is known");
        for inviter in 6..=7 {
            (0..OF_ONE_KEY_MAX).for_each(|_| put(&mut invites, of(inviter, 2)));
        }
        assert!(!invites.has_room(&of(8, 3), false, most), "so have all strangers");
        assert!(invites.has_room(&of(8, 3), true, most));
    }

    #[test]
    fn l2_an_invitation_keeps_out_no_other_to_the_same_chat() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(dir.path()).expect("it opens");
        let store = data.peer_store().expect("it opens");
        let mut invites = Invites::load(&store).expect("it reads");
        let chat = ChatId([1; 16]);
        let by = |inviter: u8, is_answered| IncomingInvite {
            inviter: PeerId([inviter; 32]),
            ..invite(1_000, is_answered)
        };
        invites.put_incoming(&store, chat, by(1, false)).expect("durable");
        invites.put_incoming(&store, chat, by(2, false)).expect("durable");
        invites.answer(&store, chat, by(1, true)).expect("durable");
        invites.answer(&store, chat, by(2, true)).expect("durable");
        let invites = Invites::load(&store).expect("it reads");
        assert_eq!(invites.incoming_to(chat).count(), 2);
        assert_eq!(invites.answered(chat).map(|it| it.inviter), Some(PeerId([2; 32])));
    }

    #[test]
    fn r43_what_has_ended_makes_room_and_goes_after_a_day() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = DataDir::open(dir.path()).expect("it opens");
        let store = data.peer_store().expect("it opens");
        let mut invites = Invites::load(&store).expect("it reads");
        let chat = |number| ChatId([number; 16]);
        let kept =
            |invites: &Invites| invites.incoming().map(|(chat, _)| chat.0[0]).collect::<Vec<_>>();
        let now = 10 * ENDED_KEPT_MS;
        for (number, expires_at_ms, is_answered) in [
            (1, now - 2, false),
            (2, now - 3, false),
            (3, now + 1, false),
            (4, now - ENDED_KEPT_MS, true),
            (5, now - ENDED_KEPT_MS, false),
        ] {
            let invite = invite(expires_at_ms, is_answered);
            invites.put_incoming(&store, chat(number), invite).expect("durable");
        }
        invites.remove_ended_incoming(&store, now, 6).expect("durable");
        assert_eq!(kept(&invites), [1, 2, 3, 4], "a day is over for one");
        invites.remove_ended_incoming(&store, now, 4).expect("durable");
        assert_eq!(kept(&invites), [1, 3, 4], "the one that ended first makes room");
        invites.remove_ended_incoming(&store, now, 1).expect("durable");
        assert_eq!(kept(&invites), [3, 4], "what is open or answered stays");
        assert_eq!(kept(&Invites::load(&store).expect("it reads")), [3, 4]);
    }
}
