//! What the committed log says of the chat: who belongs to it, who votes, what it is called.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::invite_link::{InviteLink, InviteLinks};
use super::reign::host_of;
use super::signed::{Shown, ShownOf};
use super::submissions::Submissions;
use crate::message::RefusedReason;
use crate::planted::{Bug, planted};
use crate::quota::Quota;
use crate::types::{
    Entry, FORMER_MEMBERS_MAX, FormerMember, Generation, Hash, INVITED_BY_ONE_MAX, Incarnation,
    Index, InviteLinkId, LINKS_BY_ONE_MAX, MEMBERS_MAX, Member, MemberState, Membership,
    OUTLIVED_MAX, Payload, PeerId, VoterSet,
};

/// The chat at one index of its log. It follows from the entries alone, so that every member has
/// the same; an entry that makes no sense where it stands (a second invitation, say) changes
/// nothing, and changes nothing everywhere.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ChatState {
    /// The last entry that is in here.
    pub index: Index,
    pub hash: Hash,
    /// The newest recovery in the log; 0 without one (R30).
    pub generation: Generation,
    pub chat_name: String,
    /// How much an author may add in a day, where the members have agreed on that (L8).
    pub quota: Option<Quota>,
    /// Shared, because it is shown often and changes seldom.
    pub members: Arc<BTreeMap<PeerId, Member>>,
    /// The voters as of `index`, and the entry that said so.
    pub voters: VoterSet,
    pub voters_index: Index,
    /// Who hosts, or hosted, in the last term.
    pub host: (PeerId, Incarnation),
    pub submissions: Submissions,
    pub invite_links: InviteLinks,
    /// Those who have gone last; shared like the members.
    pub former_members: Arc<BTreeMap<PeerId, FormerMember>>,
    pub outlived: Outlived,
    /// The words behind the memberships.
    pub shown: Shown,
}

/// The incarnations that have ended last, by a successor, by a refusal or with the membership. What
/// they have said of joining may still be on its way, and counts no more (R9, R41).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Outlived(pub(super) Arc<VecDeque<(PeerId, Incarnation)>>);

impl Outlived {
    /// Whether that incarnation of the peer has ended.
    pub fn contains(&self, peer: PeerId, incarnation: Incarnation) -> bool {
        self.0.contains(&(peer, incarnation)) && !planted(Bug::OutlivedComesBack)
    }

    fn add(&mut self, peer: PeerId, incarnation: Incarnation) {
        if self.0.contains(&(peer, incarnation)) {
            return;
        }
        let outlived = Arc::make_mut(&mut self.0);
        outlived.push_back((peer, incarnation));
        if outlived.len() > OUTLIVED_MAX {
            outlived.pop_front();
        }
    }
}

/// What the log says to one who wants to join, and may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It takes part already, in this incarnation.
    Done,
    /// It is invited, or a member that comes back as another incarnation.
    Known,
    /// The link lets it in, and so many more.
    ByLink { uses_left: u32 },
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
            Payload::Policy(policy) if self.is_active(entry.author, entry.incarnation) => {
                if let Some(name) = &policy.chat_name {
                    self.chat_name.clone_from(name);
                }
                self.quota = policy.quota.filter(Quota::is_sound).or(self.quota);
            }
            Payload::Policy(_)
            | Payload::VoterChange(_)
            | Payload::TermStart(_)
            | Payload::Message { .. } => {}
        }
        // R29: who votes changes nobody's membership, keys or rights.
        if let Some(voters) = voters_of(entry)
            && self.bears_out(entry)
        {
            self.voters = voters;
            self.voters_index = entry.index;
        }
        if let Some(host) = host_of(entry) {
            self.host = host;
        }
    }

    // L4: a host changes one vote at a time (R6), and gives it to one who takes part.
    /// Whether the entries up to here bear out the set of voters that this one brings.
    pub(super) fn bears_out(&self, entry: &Entry) -> bool {
        let Payload::VoterChange(after) = &entry.payload else { return true };
        let before = &self.voters.0;
        let mut added = after.0.iter().filter(|(peer, it)| before.get(peer) != Some(it));
        let removed = before.iter().filter(|(peer, it)| after.0.get(peer) != Some(it));
        let is_step = added.clone().count() + removed.count() == 1 && !after.is_empty();
        let takes_part = added.all(|(peer, incarnation)| self.is_present(*peer, *incarnation));
        (is_step && takes_part) || planted(Bug::AnyVotersTaken)
    }

    /// Whether `peer` is active in this incarnation, or was and is on its way out.
    pub fn is_present(&self, peer: PeerId, incarnation: Incarnation) -> bool {
        self.members.get(&peer).is_some_and(|member| {
            (planted(Bug::OutlivedServed) || member.incarnation == incarnation)
                && member.state != MemberState::Invited
        })
    }

    fn is_active(&self, peer: PeerId, incarnation: Incarnation) -> bool {
        let is_active = |member: &Member| member.state == MemberState::Active;
        self.is_present(peer, incarnation) && self.members.get(&peer).is_some_and(is_active)
    }

    /// The members that may vote: active ones, each with its incarnation.
    pub fn active(&self) -> impl Iterator<Item = (PeerId, Incarnation)> {
        self.members
            .iter()
            .filter(|(_, member)| member.state == MemberState::Active)
            .map(|(peer, member)| (*peer, member.incarnation))
    }

    /// Whether the committed log lets `peer` join in this incarnation, and why not. `now_ms` is the
    /// wall clock of the host, which decides that; `link` is one that the peer has proven to have.
    pub fn admission(
        &self,
        peer: PeerId,
        incarnation: Incarnation,
        link: Option<InviteLinkId>,
        now_ms: u64,
    ) -> Result<Admission, RefusedReason> {
        if self.outlived.contains(peer, incarnation) {
            return Err(RefusedReason::NotMember);
        }
        if let Some(member) = self.members.get(&peer) {
            return match member.state {
                MemberState::Leaving if planted(Bug::LeavingComesBack) => Ok(Admission::Known),
                MemberState::Leaving => Err(RefusedReason::NotMember),
                MemberState::Active if member.incarnation == incarnation => Ok(Admission::Done),
                MemberState::Active | MemberState::Invited => Ok(Admission::Known),
            };
        }
        let Some(link) = link else { return Err(RefusedReason::NotMember) };
        self.check_link(peer, link, now_ms).map(|uses_left| Admission::ByLink { uses_left })
    }

    // R43: a link that was made before a member was removed does not bring that one back.
    /// Whether the link lets `peer` in, who is no member, and how many uses it has left.
    pub fn check_link(
        &self,
        peer: PeerId,
        link: InviteLinkId,
        now_ms: u64,
    ) -> Result<u32, RefusedReason> {
        let link = self.invite_links.get(&link).ok_or(RefusedReason::LINK_UNKNOWN)?;
        if let Some(former) = self.former_members.get(&peer)
            && former.removed_by.is_some()
            && link.created < former.index
            && !planted(Bug::LinkBringsBackRemoved)
        {
            return Err(RefusedReason::Removed { by: former.removed_by });
        }
        if let Some(problem) = link.problem(now_ms) {
            return Err(RefusedReason::InviteLink(problem));
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(RefusedReason::ChatFull);
        }
        Ok(link.uses_left)
    }

    fn apply_membership(&mut self, entry: &Entry, change: &Membership) {
        let author = entry.author;
        let present = self.is_present(author, entry.incarnation);
        let active = self.is_active(author, entry.incarnation);
        match change {
            Membership::Founded { chat_name, name, address } if entry.index == 1 => {
                self.chat_name.clone_from(chat_name);
                self.members_mut().insert(author, joined(entry, name, address));
            }
            Membership::Founded { .. } => {}
            Membership::Invited { peer, address } if active => {
                let has_room =
                    self.members.len() < MEMBERS_MAX && !self.has_invited_too_many(author);
                if has_room && !self.members.contains_key(peer) {
                    self.members_mut().insert(*peer, invited(entry, address));
                    self.shown.invited(*peer, entry);
                }
            }
            Membership::Joined { name, address, proof } => {
                let link = proof.as_ref().map(|proof| proof.link);
                let was_known = self.members.contains_key(&author);
                if self.lets_in(author, entry.incarnation, link) {
                    self.shown.joined(entry, link.filter(|_| !was_known));
                    let before = self.members_mut().insert(author, joined(entry, name, address));
                    let before = before.map_or(0, |before| before.incarnation);
                    if before != 0 && before != entry.incarnation {
                        self.outlived.add(author, before);
                    }
                    // R9: a new incarnation is the goodbye of the old one.
                    self.submissions.retain_incarnation(author, entry.incarnation);
                }
            }
            // R43: an answer ends the invitation that it was given to, and no later one.
            Membership::Declined if !self.outlived.contains(author, entry.incarnation) => {
                self.outlived.add(author, entry.incarnation);
                self.end_invitation(&author);
            }
            Membership::Declined => {}
            Membership::InviteRevoked { peer } if active => self.end_invitation(peer),
            Membership::Leaving if present => self.begin_to_leave(author, None, entry),
            Membership::Removing { peer } if active => {
                self.end_invitation(peer);
                let by = (*peer != author).then_some(author);
                self.begin_to_leave(*peer, by, entry);
            }
            Membership::Removed { peer } => self.end_membership(peer, entry.index),
            Membership::InviteLinkCreated { link, uses_max, expires_at_ms }
                if active && !self.has_too_many_links(author, entry.created_at_ms) =>
            {
                let created = InviteLink {
                    created_by: author,
                    created: entry.index,
                    uses_max: *uses_max,
                    uses_left: *uses_max,
                    expires_at_ms: *expires_at_ms,
                    revoked: false,
                };
                if self.invite_links.create(*link, created, entry.created_at_ms) {
                    self.shown.link_made(*link, entry, &self.invite_links);
                }
            }
            Membership::Recovered { generation } => self.generation = *generation,
            Membership::InviteLinkRevoked { link } if active => self.invite_links.revoke(link),
            // An author who may not do that changes nothing.
            Membership::Invited { .. }
            | Membership::InviteRevoked { .. }
            | Membership::Leaving
            | Membership::Removing { .. }
            | Membership::InviteLinkCreated { .. }
            | Membership::InviteLinkRevoked { .. } => {}
        }
    }

    // L8: one member does not fill the chat.
    /// Whether so many wait for an answer whom this member has invited that one more is void.
    fn has_invited_too_many(&self, author: PeerId) -> bool {
        let waits = |peer: &PeerId| {
            let member = self.members.get(peer);
            member.is_some_and(|member| member.state == MemberState::Invited)
        };
        let by = |shown: &ShownOf| shown.let_in.as_ref().is_some_and(|it| it.author == author);
        let invited = self.shown.peers.iter().filter(|(peer, shown)| by(shown) && waits(peer));
        invited.count() >= INVITED_BY_ONE_MAX && !planted(Bug::InvitationsUnbounded)
    }

    /// Whether so many links of this member may still be used that one more is void.
    fn has_too_many_links(&self, author: PeerId, now_ms: u64) -> bool {
        let links = self.invite_links.iter().filter(|(_, link)| link.created_by == author);
        links.filter(|(_, link)| link.problem(now_ms).is_none()).count() >= LINKS_BY_ONE_MAX
    }

    fn members_mut(&mut self) -> &mut BTreeMap<PeerId, Member> {
        Arc::make_mut(&mut self.members)
    }

    // R43: a link's use is consumed by the very entry that lets somebody in.
    fn lets_in(
        &mut self,
        peer: PeerId,
        incarnation: Incarnation,
        link: Option<InviteLinkId>,
    ) -> bool {
        let former = self.former_members.get(&peer);
        let has_ended = former.is_some_and(|former| former.incarnation == incarnation);
        if has_ended || self.outlived.contains(peer, incarnation) {
            // R9, R41: its word was long on its way, or a host shows it again.
            return false;
        }
        if let Some(member) = self.members.get(&peer) {
            // One who is to go, goes: it does not come back as another incarnation.
            return member.state != MemberState::Leaving || planted(Bug::LeavingComesBack);
        }
        // The clock was looked at before the entry was made; everybody decides the rest alike.
        link.is_some_and(|link| {
            self.check_link(peer, link, 0).is_ok()
                && (planted(Bug::InviteReusable) || self.invite_links.use_up(&link))
        })
    }

    fn end_invitation(&mut self, peer: &PeerId) {
        let is_invited = |member: &Member| member.state == MemberState::Invited;
        if self.members.get(peer).is_some_and(is_invited) && !planted(Bug::InvitationStands) {
            self.members_mut().remove(peer);
            self.shown.uninvited(peer, self.former_members.contains_key(peer));
        }
    }

    fn begin_to_leave(&mut self, peer: PeerId, removed_by: Option<PeerId>, entry: &Entry) {
        if let Some(member) = self.members_mut().get_mut(&peer)
            && member.state == MemberState::Active
        {
            member.state = MemberState::Leaving;
            member.since = entry.index;
            member.removed_by = removed_by;
            self.shown.ended(peer, entry);
        }
    }

    // R41: only who is to go by its own or a member's signed word can be removed.
    fn end_membership(&mut self, peer: &PeerId, index: Index) {
        let may = |m: &&Member| m.state == MemberState::Leaving || planted(Bug::RemovedByHostAlone);
        let leaving = self.members.get(peer).filter(may);
        let Some(member) = leaving else { return };
        let (incarnation, removed_by) = (member.incarnation, member.removed_by);
        self.members_mut().remove(peer);
        self.shown.gone(*peer);
        let former_members = Arc::make_mut(&mut self.former_members);
        former_members.insert(*peer, FormerMember { incarnation, removed_by, index });
        if former_members.len() > FORMER_MEMBERS_MAX {
            let first = former_members.iter().min_by_key(|(_, former)| former.index);
            let first = first.map(|(peer, _)| *peer);
            former_members.retain(|peer, _| Some(*peer) != first);
            first.inspect(|first| self.shown.forget(first));
        }
    }
}

/// The voter set that the entry brings, in force from there on (R5).
pub(super) fn voters_of(entry: &Entry) -> Option<VoterSet> {
    match &entry.payload {
        Payload::VoterChange(voters) => Some(voters.clone()),
        Payload::Membership(Membership::Founded { .. }) if entry.index > 1 => None,
        Payload::Membership(Membership::Recovered { .. }) if planted(Bug::LostKeepVotes) => None,
        // R30: who recovers a chat goes on alone, and the others' votes come back one by one.
        Payload::Membership(Membership::Founded { .. } | Membership::Recovered { .. }) => {
            Some(VoterSet([(entry.author, entry.incarnation)].into()))
        }
        _ => None,
    }
}

fn joined(entry: &Entry, name: &str, address: &str) -> Member {
    Member {
        name: name.to_owned(),
        address: address.to_owned(),
        incarnation: entry.incarnation,
        state: MemberState::Active,
        since: entry.index,
        removed_by: None,
    }
}

fn invited(entry: &Entry, address: &str) -> Member {
    Member {
        name: String::new(),
        address: address.to_owned(),
        incarnation: 0,
        state: MemberState::Invited,
        since: entry.index,
        removed_by: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::InviteLinkProof;

    const ANA: PeerId = PeerId([1; 32]);
    const BEN: PeerId = PeerId([2; 32]);
    const CLEO: PeerId = PeerId([3; 32]);
    const LINK: InviteLinkId = InviteLinkId([9; 32]);

    /// A chat that Ana has founded, and Ben has joined.
    fn chat() -> ChatState {
        let mut state = ChatState::default();
        let (name, address) = ("Ana".to_owned(), "a:1".to_owned());
        apply(&mut state, ANA, Membership::Founded { chat_name: "c".into(), name, address });
        apply(&mut state, ANA, Membership::Invited { peer: BEN, address: "b:1".into() });
        apply(&mut state, BEN, joined_by(None));
        assert_eq!(state.members[&BEN].state, MemberState::Active);
        state
    }

    fn joined_by(link: Option<InviteLinkId>) -> Membership {
        let proof = link.map(|link| InviteLinkProof { link, signature: [0; 64] });
        Membership::Joined { name: "x".into(), address: "x:1".into(), proof }
    }

    /// Every peer's incarnation is the byte that its id is made of.
    fn apply(state: &mut ChatState, author: PeerId, change: Membership) {
        state.apply(&entry(state, author, change));
    }

    fn entry(state: &ChatState, author: PeerId, change: Membership) -> Entry {
        Entry {
            index: state.index + 1,
            term: 1,
            author,
            incarnation: author.0[0].into(),
            number: 0,
            generation: 0,
            created_at_ms: 0,
            trace: None,
            payload: Payload::Membership(change),
            signature: None,
            previous: Hash::default(),
            hash: Hash::default(),
        }
    }

    /// Asserts that the entry changes nothing, whatever host has let it into the log.
    fn is_void(state: &ChatState, author: PeerId, change: Membership) {
        let mut after = state.clone();
        apply(&mut after, author, change.clone());
        let after = (after.members, after.invite_links, after.former_members);
        let before = state.clone();
        let before = (before.members, before.invite_links, before.former_members);
        assert_eq!(after, before, "{change:?} by {author:?}");
    }

    #[test]
    fn r41_no_host_can_let_in_or_remove_anybody_by_itself() {
        let state = chat();
        is_void(&state, ANA, Membership::Removed { peer: BEN });
        is_void(&state, CLEO, joined_by(None));
        is_void(&state, CLEO, joined_by(Some(LINK)));
    }

    #[test]
    fn r41_who_does_not_take_part_changes_nothing() {
        let mut state = chat();
        let created =
            Membership::InviteLinkCreated { link: LINK, uses_max: 1, expires_at_ms: 1_000 };
        apply(&mut state, ANA, created.clone());
        apply(
            &mut state,
            ANA,
            Membership::Invited { peer: PeerId([4; 32]), address: "d:1".into() },
        );
        let removing = Membership::Removing { peer: ANA };
        is_void(&state, CLEO, removing.clone());
        apply(&mut state, ANA, Membership::Removing { peer: BEN });
        assert_eq!(state.members[&BEN].removed_by, Some(ANA));
        let other = InviteLinkId([8; 32]);
        for change in [
            removing,
            Membership::Leaving,
            Membership::InviteRevoked { peer: PeerId([4; 32]) },
            Membership::InviteLinkCreated { link: other, uses_max: 1, expires_at_ms: 1_000 },
            Membership::InviteLinkRevoked { link: LINK },
            Membership::Invited { peer: PeerId([5; 32]), address: "e:1".into() },
            joined_by(None),
        ] {
            is_void(&state, BEN, change);
        }
        apply(&mut state, ANA, Membership::Removed { peer: BEN });
        assert_eq!(state.former_members[&BEN].removed_by, Some(ANA));
        is_void(&state, BEN, joined_by(Some(LINK)));
        apply(&mut state, CLEO, joined_by(Some(LINK)));
        assert_eq!(state.members[&CLEO].state, MemberState::Active);
    }

    #[test]
    fn r41_an_old_word_of_one_who_left_lets_it_in_no_more() {
        let mut state = chat();
        let created =
            Membership::InviteLinkCreated { link: LINK, uses_max: 2, expires_at_ms: 1_000 };
        apply(&mut state, ANA, created);
        apply(&mut state, BEN, Membership::Leaving);
        apply(&mut state, ANA, Membership::Removed { peer: BEN });
        is_void(&state, BEN, joined_by(Some(LINK)));
        apply(&mut state, ANA, Membership::Invited { peer: BEN, address: "b:1".into() });
        is_void(&state, BEN, joined_by(None));
    }

    #[test]
    fn r43_of_two_entries_for_a_last_use_the_first_one_counts() {
        let mut state = chat();
        let created =
            Membership::InviteLinkCreated { link: LINK, uses_max: 1, expires_at_ms: 1_000 };
        apply(&mut state, BEN, created);
        apply(&mut state, CLEO, joined_by(Some(LINK)));
        is_void(&state, PeerId([4; 32]), joined_by(Some(LINK)));
        assert_eq!(state.members.len(), 3);
    }

    #[test]
    fn r9_r41_an_outlived_incarnation_is_not_let_in_again() {
        let mut state = chat();
        let join = |state: &mut ChatState, incarnation| {
            let entry = Entry { incarnation, ..entry(state, BEN, joined_by(None)) };
            state.apply(&entry);
        };
        join(&mut state, 20);
        join(&mut state, 30);
        join(&mut state, 20);
        assert_eq!(state.members[&BEN].incarnation, 30);
        assert_eq!(state.admission(BEN, 20, None, 0), Err(RefusedReason::NotMember));
        for incarnation in 100..100 + OUTLIVED_MAX as u64 {
            join(&mut state, incarnation);
        }
        assert_eq!(state.outlived.0.len(), OUTLIVED_MAX);
    }

    #[test]
    fn r43_an_answer_ends_the_invitation_that_it_was_given_to_and_no_later_one() {
        let mut state = chat();
        let invited = Membership::Invited { peer: CLEO, address: "c:1".into() };
        apply(&mut state, ANA, invited.clone());
        apply(&mut state, CLEO, Membership::Declined);
        assert!(!state.members.contains_key(&CLEO));
        apply(&mut state, ANA, invited);
        apply(&mut state, CLEO, Membership::Declined);
        assert!(state.members.contains_key(&CLEO));
    }

    #[test]
    fn a_chat_forgets_who_left_first() {
        let mut state = chat();
        for number in 0..=FORMER_MEMBERS_MAX as u64 {
            let mut id = [7; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            let member = state.members[&BEN].clone();
            state.members_mut().insert(PeerId(id), member);
            let leaving = entry(&state, PeerId(id), Membership::Leaving);
            let leaving = Entry { index: 10 + number, ..leaving };
            state.begin_to_leave(PeerId(id), None, &leaving);
            state.end_membership(&PeerId(id), 10 + number);
        }
        assert_eq!(state.former_members.len(), FORMER_MEMBERS_MAX);
        assert!(state.former_members.values().all(|former| former.index > 10));
    }
}
