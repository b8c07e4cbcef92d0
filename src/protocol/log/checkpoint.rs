//! The canonical form of checkpoints, in bytes. See `codec.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::codec::{Reader, Writer};
use super::entries::{Checkpoint, TermTable};
use super::invite_link::{InviteLink, InviteLinks};
use super::membership::{ChatState, Outlived};
use super::signed::{Shown, ShownOf, SignedChange};
use super::submissions::{Author, Submissions};
use crate::types::{FormerMember, Hash, Member, MemberState};

impl Checkpoint {
    /// The canonical form, for the store.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let state = &self.state;
        writer.number(state.index);
        writer.fixed(&state.hash.0);
        writer.number(state.generation);
        writer.bytes(state.chat_name.as_bytes());
        writer.quota(state.quota);
        writer.number(state.members.len() as u64);
        for (peer, member) in state.members.iter() {
            writer.fixed(&peer.0);
            writer.bytes(member.name.as_bytes());
            writer.bytes(member.address.as_bytes());
            writer.number(member.incarnation);
            writer.byte(match member.state {
                MemberState::Invited => 1,
                MemberState::Active => 2,
                MemberState::Leaving if member.removed_by.is_none() => 3,
                MemberState::Leaving => 4,
            });
            writer.number(member.since);
            if let Some(removed_by) = &member.removed_by {
                writer.fixed(&removed_by.0);
            }
        }
        writer.voters(&state.voters);
        writer.number(state.voters_index);
        writer.fixed(&state.host.0.0);
        writer.number(state.host.1);
        writer.number(state.submissions.0.len() as u64);
        for ((peer, incarnation), author) in &state.submissions.0 {
            writer.fixed(&peer.0);
            writer.number(*incarnation);
            writer.number(author.last);
            writer.number(author.recent.len() as u64);
            for index in &author.recent {
                writer.number(*index);
            }
        }
        writer.number(self.terms.0.len() as u64);
        for (term, index) in &self.terms.0 {
            writer.number(*term);
            writer.number(*index);
        }
        writer.links_and_former_members(state);
        writer.number(state.outlived.0.len() as u64);
        for (peer, incarnation) in state.outlived.0.iter() {
            writer.fixed(&peer.0);
            writer.number(*incarnation);
        }
        writer.shown(&state.shown);
        writer.0
    }

    /// Reads the canonical form.
    pub fn decode(bytes: &[u8]) -> Option<Checkpoint> {
        let mut reader = Reader(bytes);
        let mut state = ChatState {
            index: reader.number()?,
            hash: reader.fixed().map(Hash)?,
            generation: reader.number()?,
            chat_name: reader.text()?,
            quota: reader.quota()?,
            ..ChatState::default()
        };
        let mut members = BTreeMap::new();
        for _ in 0..reader.number()? {
            members.insert(reader.peer()?, reader.member()?);
        }
        state.members = Arc::new(members);
        state.voters = reader.voters()?;
        state.voters_index = reader.number()?;
        state.host = (reader.peer()?, reader.number()?);
        let mut submissions = Submissions::default();
        for _ in 0..reader.number()? {
            let key = (reader.peer()?, reader.number()?);
            let mut author = Author { last: reader.number()?, ..Author::default() };
            for _ in 0..reader.number()? {
                author.recent.push_back(reader.number()?);
            }
            submissions.0.insert(key, author);
        }
        state.submissions = submissions;
        let mut terms = TermTable::default();
        for _ in 0..reader.number()? {
            terms.0.push((reader.number()?, reader.number()?));
        }
        reader.links_and_former_members(&mut state)?;
        let mut outlived = VecDeque::new();
        for _ in 0..reader.number()? {
            outlived.push_back((reader.peer()?, reader.number()?));
        }
        state.outlived = Outlived(Arc::new(outlived));
        state.shown = reader.shown()?;
        reader.finish(Checkpoint { state, terms })
    }
}

impl Writer {
    fn links_and_former_members(&mut self, state: &ChatState) {
        self.number(state.invite_links.0.len() as u64);
        for (id, link) in state.invite_links.iter() {
            self.fixed(&id.0);
            self.fixed(&link.created_by.0);
            self.number(link.created);
            self.number(u64::from(link.uses_max));
            self.number(u64::from(link.uses_left));
            self.number(link.expires_at_ms);
            self.byte(u8::from(link.revoked));
        }
        self.number(state.former_members.len() as u64);
        for (peer, former) in state.former_members.iter() {
            self.fixed(&peer.0);
            self.number(former.incarnation);
            self.optional(former.removed_by.as_ref().map(|by| by.0.as_slice()));
            self.number(former.index);
        }
    }
}

impl Writer {
    fn shown(&mut self, shown: &Shown) {
        self.number(shown.peers.len() as u64);
        for (peer, shown) in shown.peers.iter() {
            self.fixed(&peer.0);
            for word in [&shown.let_in, &shown.joined, &shown.ended] {
                self.byte(u8::from(word.is_some()));
                word.iter().for_each(|word| self.word(word));
            }
        }
        self.number(shown.links.len() as u64);
        for (link, made) in shown.links.iter() {
            self.fixed(&link.0);
            self.word(made);
        }
    }

    fn word(&mut self, word: &SignedChange) {
        self.fixed(&word.author.0);
        self.number(word.incarnation);
        self.number(word.number);
        self.number(word.generation);
        self.membership(&word.change);
        self.optional(word.signature.as_ref().map(<[u8; 64]>::as_slice));
    }
}

impl Reader<'_> {
    fn shown(&mut self) -> Option<Shown> {
        let mut peers = BTreeMap::new();
        for _ in 0..self.number()? {
            let peer = self.peer()?;
            let (let_in, joined) = (self.optional_word()?, self.optional_word()?);
            peers.insert(peer, ShownOf { let_in, joined, ended: self.optional_word()? });
        }
        let mut links = BTreeMap::new();
        for _ in 0..self.number()? {
            links.insert(self.link()?, self.word()?);
        }
        Some(Shown { peers: Arc::new(peers), links: Arc::new(links) })
    }

    fn optional_word(&mut self) -> Option<Option<Arc<SignedChange>>> {
        match self.byte()? {
            0 => Some(None),
            1 => self.word().map(Some),
            _ => None,
        }
    }

    fn word(&mut self) -> Option<Arc<SignedChange>> {
        Some(Arc::new(SignedChange {
            author: self.peer()?,
            incarnation: self.number()?,
            number: self.number()?,
            generation: self.number()?,
            change: self.membership()?,
            signature: self.optional()?,
        }))
    }

    fn member(&mut self) -> Option<Member> {
        let (name, address) = (self.text()?, self.text()?);
        let incarnation = self.number()?;
        let state = self.byte()?;
        Some(Member {
            name,
            address,
            incarnation,
            since: self.number()?,
            removed_by: if state == 4 { Some(self.peer()?) } else { None },
            state: match state {
                1 => MemberState::Invited,
                2 => MemberState::Active,
                3 | 4 => MemberState::Leaving,
                _ => return None,
            },
        })
    }

    fn former_member(&mut self) -> Option<FormerMember> {
        Some(FormerMember {
            incarnation: self.number()?,
            removed_by: self.optional_peer()?,
            index: self.number()?,
        })
    }

    fn invite_link(&mut self) -> Option<InviteLink> {
        Some(InviteLink {
            created_by: self.peer()?,
            created: self.number()?,
            uses_max: self.number().and_then(|uses| u32::try_from(uses).ok())?,
            uses_left: self.number().and_then(|uses| u32::try_from(uses).ok())?,
            expires_at_ms: self.number()?,
            revoked: match self.byte()? {
                0 => false,
                1 => true,
                _ => return None,
            },
        })
    }

    fn links_and_former_members(&mut self, state: &mut ChatState) -> Option<()> {
        let mut links = BTreeMap::new();
        for _ in 0..self.number()? {
            links.insert(self.link()?, self.invite_link()?);
        }
        state.invite_links = InviteLinks(Arc::new(links));
        let mut former_members = BTreeMap::new();
        for _ in 0..self.number()? {
            former_members.insert(self.peer()?, self.former_member()?);
        }
        state.former_members = Arc::new(former_members);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;
    use crate::types::{Entry, InviteLinkId, Membership, Payload, PeerId, Policy, VoterSet};

    const FOUNDER: PeerId = PeerId([1; 32]);

    /// The checkpoint of a log with these entries, all by the founder.
    fn checkpoint(payloads: Vec<Payload>) -> Checkpoint {
        let mut checkpoint = Checkpoint::default();
        for (index, payload) in (1..).zip(payloads) {
            let entry = Entry {
                index,
                term: index,
                author: FOUNDER,
                incarnation: 9,
                number: index,
                generation: 0,
                created_at_ms: 0,
                trace: None,
                payload,
                signature: None,
                previous: Hash::default(),
                hash: Hash([8; 32]),
            };
            checkpoint.state.apply(&entry);
            checkpoint.terms.push(entry.term, entry.index);
        }
        checkpoint
    }

    fn founded() -> Payload {
        let (name, address) = ("n".to_owned(), "a:1".to_owned());
        Payload::Membership(Membership::Founded { chat_name: "c".into(), name, address })
    }

    #[test]
    fn checkpoints_read_back() {
        let other = PeerId([2; 32]);
        let link = InviteLinkId([5; 32]);
        let invited = Membership::Invited { peer: other, address: "b:2".into() };
        let created = Membership::InviteLinkCreated { link, uses_max: 3, expires_at_ms: 9 };
        let mut whole = checkpoint(vec![
            founded(),
            Payload::Membership(invited),
            Payload::Policy(Policy { chat_name: None, quota: Some(Quota::MOST) }),
            Payload::VoterChange(VoterSet([(other, 11)].into())),
            Payload::Membership(created),
        ]);
        whole.state.outlived = Outlived(Arc::new([(other, 7), (FOUNDER, 8)].into()));
        assert_eq!((whole.state.shown.peers.len(), whole.state.shown.links.len()), (1, 1));
        for removed_by in [None, Some(FOUNDER)] {
            let former = FormerMember { incarnation: 3, removed_by, index: 4 };
            Arc::make_mut(&mut whole.state.former_members).insert(PeerId([3; 32]), former);
            let members = Arc::make_mut(&mut whole.state.members);
            let member = members.get_mut(&FOUNDER).expect("the founder is a member");
            member.state = MemberState::Leaving;
            member.removed_by = removed_by;
            let bytes = whole.encode();
            assert_eq!(Checkpoint::decode(&bytes).as_ref(), Some(&whole));
            assert_eq!(Checkpoint::decode(&bytes[1..]), None);
            assert_eq!(Checkpoint::decode(&bytes[..bytes.len() - 1]), None);
        }
    }
}
