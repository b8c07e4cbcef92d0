//! What the committed log says of the chat: who belongs to it, who votes, what it is called.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::submissions::Submissions;
use super::types::{
    Entry, Hash, Incarnation, Index, MEMBERS_MAX, Member, MemberState, Membership, Payload, PeerId,
    VoterSet,
};

/// The chat at one index of its log. It follows from the entries alone, so that every member has
/// the same; an entry that makes no sense where it stands (a second invitation, say) changes
/// nothing, and changes nothing everywhere.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ChatState {
    /// The last entry that is in here.
    pub index: Index,
    pub hash: Hash,
    pub chat_name: String,
    /// Shared, because it is shown often and changes seldom.
    pub members: Arc<BTreeMap<PeerId, Member>>,
    /// The voters as of `index`, and the entry that said so.
    pub voters: VoterSet,
    pub voters_index: Index,
    pub submissions: Submissions,
}

impl ChatState {
    /// Goes on to the next entry.
    pub fn apply(&mut self, entry: &Entry) {
        assert!(entry.index == self.index + 1, "entries are applied in order, without gaps");
        self.index = entry.index;
        self.hash = entry.hash;
        self.submissions.apply(entry);
        match &entry.payload {
            Payload::Membership(change) => self.apply_membership(entry, change),
            // R29: who votes changes nobody's membership, keys or rights.
            Payload::VoterChange(voters) => {
                self.voters = voters.clone();
                self.voters_index = entry.index;
            }
            Payload::Policy(policy) => self.chat_name.clone_from(&policy.chat_name),
            Payload::TermStart | Payload::Message { .. } => {}
        }
    }

    /// Whether `peer` is active in this incarnation, or was and is on its way out.
    pub fn is_present(&self, peer: PeerId, incarnation: Incarnation) -> bool {
        self.members.get(&peer).is_some_and(|member| {
            member.incarnation == incarnation && member.state != MemberState::Invited
        })
    }

    /// The members that may vote: active ones, each with its incarnation.
    pub fn active(&self) -> impl Iterator<Item = (PeerId, Incarnation)> {
        self.members
            .iter()
            .filter(|(_, member)| member.state == MemberState::Active)
            .map(|(peer, member)| (*peer, member.incarnation))
    }

    fn apply_membership(&mut self, entry: &Entry, change: &Membership) {
        let author = entry.author;
        let present = self.is_present(author, entry.session);
        let members = Arc::make_mut(&mut self.members);
        match change {
            Membership::Founded { chat_name, name, address } if entry.index == 1 => {
                self.chat_name.clone_from(chat_name);
                members.insert(author, joined(entry, name, address));
                self.voters = VoterSet([(author, entry.session)].into());
                self.voters_index = entry.index;
            }
            Membership::Founded { .. } => {}
            Membership::Invited { peer, address } => {
                if present && members.len() < MEMBERS_MAX {
                    members.entry(*peer).or_insert_with(|| Member {
                        name: String::new(),
                        address: address.clone(),
                        incarnation: 0,
                        state: MemberState::Invited,
                        since: entry.index,
                    });
                }
            }
            Membership::Joined { name, address } => {
                if let Some(member) = members.get_mut(&author) {
                    *member = joined(entry, name, address);
                    // R9: a new incarnation is the goodbye of the old one.
                    self.submissions.retain_session(author, entry.session);
                }
            }
            Membership::Declined => {
                if members.get(&author).is_some_and(|m| m.state == MemberState::Invited) {
                    members.remove(&author);
                }
            }
            Membership::Leaving => {
                if let Some(member) = members.get_mut(&author)
                    && present
                {
                    member.state = MemberState::Leaving;
                    member.since = entry.index;
                }
            }
            Membership::Removed { peer } => {
                members.remove(peer);
            }
        }
    }
}

fn joined(entry: &Entry, name: &str, address: &str) -> Member {
    Member {
        name: name.to_owned(),
        address: address.to_owned(),
        incarnation: entry.session,
        state: MemberState::Active,
        since: entry.index,
    }
}
