//! What people have signed about who belongs to a chat, kept so that it can be shown to others.
//!
//! A peer is told a lot that it cannot read in its own log yet. What somebody else must prove
//! counts only with such words (L1): that a member wanted this peer to go, that it goes on in
//! another incarnation, that one whom its log does not name has joined. Each word stands by itself:
//! its author's signature covers the chat, the author's incarnation, the number and the content.
//! The runtime has checked it before the core sees it, as it checks every other signature.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::invite_link::InviteLinks;
use super::membership::ChatState;
use crate::planted::{Bug, planted};
use crate::types::{
    Entry, Generation, Incarnation, InviteLinkId, MemberState, Membership, Number, Payload, PeerId,
    Signature,
};

/// The most words that one message carries.
pub const WORDS_MAX: usize = 8;
/// One who shows how it came in shows that of so many who let each other in.
const LET_IN_MAX: usize = WORDS_MAX / 2;

/// A change of membership as its author has signed it, without its place in the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SignedChange {
    pub author: PeerId,
    pub incarnation: Incarnation,
    pub number: Number,
    /// The course of the chat that it was said in, and says nothing outside of (R30).
    pub generation: Generation,
    pub change: Membership,
    /// The core passes on what it was given; the runtime lets none through without.
    pub signature: Option<Signature>,
}

/// That a link has let somebody in, as far as words show that and the log does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ByLink {
    pub link: InviteLinkId,
    /// How many it may still let in.
    pub uses: u32,
    pub peer: PeerId,
    pub incarnation: Incarnation,
}

/// What bears out a message.
pub type Words = Vec<Arc<SignedChange>>;

impl SignedChange {
    /// What the entry's author has signed, if that is a change of membership.
    fn of(entry: &Entry) -> Option<Arc<Self>> {
        let Payload::Membership(change) = &entry.payload else { return None };
        Some(Arc::new(Self {
            author: entry.author,
            incarnation: entry.incarnation,
            number: entry.number,
            generation: entry.generation,
            change: change.clone(),
            signature: entry.signature,
        }))
    }

    /// Whether it was said in that course of the chat.
    pub(crate) fn is_of(&self, generation: Generation) -> bool {
        self.generation == generation || planted(Bug::WordOfAnotherCourse)
    }
}

/// The words behind the memberships of a chat; they follow from its log.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Shown {
    pub(super) peers: Arc<BTreeMap<PeerId, ShownOf>>,
    /// By which word each link that the chat remembers was made.
    pub(super) links: Arc<BTreeMap<InviteLinkId, Arc<SignedChange>>>,
}

/// The words behind one peer's membership, or behind the end of its last one.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct ShownOf {
    /// The invitation, or the making of the link, that let it in.
    pub let_in: Option<Arc<SignedChange>>,
    /// Its own joining, in its latest incarnation.
    pub joined: Option<Arc<SignedChange>>,
    /// Its own or another member's word that it goes.
    pub ended: Option<Arc<SignedChange>>,
}

impl Shown {
    fn of_mut(&mut self, peer: PeerId) -> &mut ShownOf {
        Arc::make_mut(&mut self.peers).entry(peer).or_default()
    }

    pub(super) fn invited(&mut self, peer: PeerId, entry: &Entry) {
        self.of_mut(peer).let_in = SignedChange::of(entry);
    }

    pub(super) fn joined(&mut self, entry: &Entry, link: Option<InviteLinkId>) {
        let made = link.and_then(|link| self.links.get(&link).cloned());
        let shown = self.of_mut(entry.author);
        shown.let_in = made.or(shown.let_in.take());
        shown.joined = SignedChange::of(entry);
    }

    pub(super) fn ended(&mut self, peer: PeerId, entry: &Entry) {
        self.of_mut(peer).ended = SignedChange::of(entry);
    }

    /// Its membership is over: what brought it in counts no more.
    pub(super) fn gone(&mut self, peer: PeerId) {
        let shown = self.of_mut(peer);
        *shown = ShownOf { ended: shown.ended.take(), ..ShownOf::default() };
    }

    /// Nothing but how an earlier membership ended is left to say of it, if that is remembered.
    pub(super) fn uninvited(&mut self, peer: &PeerId, is_former: bool) {
        match is_former {
            true => self.gone(*peer),
            false => drop(Arc::make_mut(&mut self.peers).remove(peer)),
        }
    }

    pub(super) fn forget(&mut self, peer: &PeerId) {
        let is_member = self.peers.get(peer).is_some_and(|shown| shown.let_in.is_some());
        if !is_member {
            Arc::make_mut(&mut self.peers).remove(peer);
        }
    }

    /// The links that the chat has forgotten for this one are forgotten here too.
    pub(super) fn link_made(&mut self, link: InviteLinkId, entry: &Entry, known: &InviteLinks) {
        let links = Arc::make_mut(&mut self.links);
        links.extend(SignedChange::of(entry).map(|made| (link, made)));
        links.retain(|link, _| known.get(link).is_some());
    }
}

impl ChatState {
    /// The word that ended the peer's last membership, or is about to.
    pub(crate) fn word_of_end(&self, peer: PeerId) -> Words {
        let shown = self.shown.peers.get(&peer);
        shown.and_then(|shown| shown.ended.clone()).into_iter().collect()
    }

    /// The peer's own word that it has joined in its latest incarnation.
    pub(crate) fn word_of_joining(&self, peer: PeerId) -> Words {
        let shown = self.shown.peers.get(&peer);
        shown.and_then(|shown| shown.joined.clone()).into_iter().collect()
    }

    // R7, L2: one whose joining others may not have read yet shows them how it came in.
    /// How the peer came in: who let it in, who had let that one in, and so on, the first at the
    /// front.
    pub(crate) fn words_of_coming_in(&self, peer: PeerId) -> Words {
        let mut words = Words::new();
        let mut next = Some(peer);
        while let Some(shown) = next.and_then(|peer| self.shown.peers.get(&peer)) {
            let (Some(let_in), Some(joined)) = (&shown.let_in, &shown.joined) else { break };
            words.extend([Arc::clone(joined), Arc::clone(let_in)]);
            next = Some(let_in.author).filter(|_| words.len() < 2 * LET_IN_MAX);
        }
        words.reverse();
        words
    }

    /// Whether these words show that the peer has joined in this incarnation and this course of the
    /// chat, let in by one whom this log names as an active member, or whom the words before show
    /// to be one. `None` where they do not; else which links have let in whom.
    pub(crate) fn shows_joining(
        &self,
        (generation, peer, incarnation): (Generation, PeerId, Incarnation),
        words: &[Arc<SignedChange>],
    ) -> Option<Vec<ByLink>> {
        let mut invited = BTreeSet::new();
        let mut links = BTreeMap::new();
        let mut joined = BTreeSet::new();
        let mut by_link = Vec::new();
        // What was said before the own course of the chat began stands in the log already.
        for word in words.iter().filter(|word| word.is_of(generation)) {
            let author = (word.author, word.incarnation);
            let may = self.may_let_in(word) || joined.contains(&author);
            match &word.change {
                Membership::Invited { peer, .. } if may => drop(invited.insert(*peer)),
                // A link that this log knows is what the log says of it.
                Membership::InviteLinkCreated { link, uses_max, .. } if may => {
                    links.insert(*link, *uses_max);
                }
                Membership::Joined { proof, .. } => {
                    let link = proof.as_ref().and_then(|proof| {
                        let uses = match self.invite_links.get(&proof.link) {
                            Some(known) if known.revoked => 0,
                            Some(known) => known.uses_left,
                            None => links.get(&proof.link).copied().unwrap_or_default(),
                        };
                        let (link, (peer, incarnation)) = (proof.link, author);
                        (uses > 0).then_some(ByLink { link, uses, peer, incarnation })
                    });
                    let is_known = self.members.contains_key(&word.author);
                    if invited.contains(&word.author) || is_known {
                        joined.insert(author);
                    } else if let Some(link) = link {
                        by_link.push(link);
                        joined.insert(author);
                    }
                }
                _ => {}
            }
        }
        let is_shown = joined.contains(&(peer, incarnation)) || planted(Bug::JoiningNotShown);
        is_shown.then_some(by_link)
    }

    /// Whether the word's author may let others in, as far as this log has come. It may have come
    /// back as another incarnation since it said so.
    fn may_let_in(&self, word: &SignedChange) -> bool {
        let member = self.members.get(&word.author);
        member.is_some_and(|member| {
            let is_of_now = member.incarnation == word.incarnation;
            member.state == MemberState::Active
                && (is_of_now || self.outlived.contains(word.author, word.incarnation))
        })
    }

    // L1: only a member's own word ends another's membership, and only its own word its own.
    /// Who says with this word that `peer`, in this incarnation, is to go; `Some(None)` where it
    /// says so itself. Another must be one who may say so as far as this log has come, and its word
    /// none that the log has of an earlier membership: an author's numbers are dense.
    pub(crate) fn ends_membership(
        &self,
        (generation, peer, incarnation): (Generation, PeerId, Incarnation),
        word: &SignedChange,
    ) -> Option<Option<PeerId>> {
        if !word.is_of(generation) {
            return None;
        }
        let (author, of_author) = (word.author, word.incarnation);
        // Before the own joining is read, nobody knows which words are of an earlier membership.
        let has_joined = self.members.get(&peer).is_some_and(|it| it.incarnation == incarnation);
        if !has_joined && !planted(Bug::OldRemovalBelieved) {
            return None;
        }
        match &word.change {
            Membership::Leaving if author == peer => (of_author == incarnation).then_some(None),
            Membership::Removing { peer: target } if *target == peer && author != peer => {
                let member = self.members.get(&author)?;
                let may = member.state == MemberState::Active && member.incarnation == of_author;
                let is_new = word.number > self.submissions.last(author, of_author);
                let is_new = is_new || planted(Bug::OldRemovalBelieved);
                (may && is_new).then_some(Some(author))
            }
            _ => None,
        }
    }
}
