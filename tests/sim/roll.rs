//! Who belongs to the chat, made from the committed entries alone. It knows the rules of
//! membership and shares no code with those that it checks.

use std::collections::BTreeMap;

use demes_protocol::types::{
    Entry, Incarnation, Index, InviteLinkId, Membership as Change, PeerId,
};

/// When somebody belonged to the chat.
#[derive(Clone, Copy, Debug)]
pub struct Membership {
    pub incarnation: Incarnation,
    /// The entry that ended it.
    pub through: Option<Index>,
}

/// How far somebody has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Invited { at: Index },
    Active,
    Leaving { removed: bool },
}

/// A link that lets people in (R43).
struct Link {
    created: Index,
    uses_left: u32,
}

#[derive(Default)]
pub struct Roll {
    states: BTreeMap<PeerId, State>,
    memberships: BTreeMap<PeerId, Vec<Membership>>,
    links: BTreeMap<InviteLinkId, Link>,
    /// Where those are who were removed by others, and not asked back since.
    removed: BTreeMap<PeerId, Index>,
}

impl Roll {
    /// Goes on to the next committed entry that changes who belongs.
    pub fn apply(&mut self, entry: &Entry, change: &Change) {
        let author = entry.author;
        let is_active = self.states.get(&author) == Some(&State::Active);
        match change {
            Change::Founded { .. } => self.arrive(entry),
            Change::Invited { peer, .. } => {
                self.states.entry(*peer).or_insert(State::Invited { at: entry.index });
            }
            Change::Joined { proof, .. } => {
                let is_let_in = match self.states.get(&author) {
                    Some(State::Leaving { .. }) => false,
                    Some(State::Invited { .. } | State::Active) => true,
                    None => proof.is_some_and(|proof| self.use_link(&proof.link, author)),
                };
                if is_let_in {
                    self.arrive(entry);
                }
            }
            Change::Declined => self.forget_invited(author),
            Change::InviteRevoked { peer } if is_active => self.forget_invited(*peer),
            Change::Leaving => self.leave(author, false),
            Change::Removing { peer } if is_active => {
                self.forget_invited(*peer);
                self.leave(*peer, *peer != author);
            }
            Change::Removed { peer } => self.depart(*peer, entry.index),
            Change::InviteLinkCreated { link, uses_max, .. } if is_active => {
                let link_made = Link { created: entry.index, uses_left: *uses_max };
                self.links.entry(*link).or_insert(link_made);
            }
            Change::InviteLinkRevoked { link } if is_active => {
                if let Some(link) = self.links.get_mut(link) {
                    link.uses_left = 0;
                }
            }
            // Who takes no part changes nothing, and nobody recovers a chat here.
            Change::InviteRevoked { .. }
            | Change::Removing { .. }
            | Change::InviteLinkCreated { .. }
            | Change::InviteLinkRevoked { .. }
            | Change::Recovered { .. } => {}
        }
    }

    fn use_link(&mut self, link: &InviteLinkId, peer: PeerId) -> bool {
        let removed_at = self.removed.get(&peer).copied().unwrap_or(0);
        let link = self.links.get_mut(link);
        let Some(link) = link.filter(|link| link.uses_left > 0 && link.created >= removed_at)
        else {
            return false;
        };
        link.uses_left -= 1;
        true
    }

    fn arrive(&mut self, entry: &Entry) {
        self.states.insert(entry.author, State::Active);
        let all = self.memberships.entry(entry.author).or_default();
        // A new incarnation is the goodbye of the old one (R9).
        if let Some(last) = all.last_mut() {
            last.through.get_or_insert(entry.index);
        }
        all.push(Membership { incarnation: entry.incarnation, through: None });
    }

    fn forget_invited(&mut self, peer: PeerId) {
        if self.invited_at(peer).is_some() {
            self.states.remove(&peer);
        }
    }

    fn leave(&mut self, peer: PeerId, removed: bool) {
        if let Some(state) = self.states.get_mut(&peer).filter(|state| **state == State::Active) {
            *state = State::Leaving { removed };
        }
    }

    fn depart(&mut self, peer: PeerId, at: Index) {
        let Some(State::Leaving { removed }) = self.states.get(&peer) else { return };
        if *removed {
            self.removed.insert(peer, at);
        } else {
            self.removed.remove(&peer);
        }
        self.states.remove(&peer);
        if let Some(last) = self.memberships.get_mut(&peer).and_then(|all| all.last_mut()) {
            last.through.get_or_insert(at);
        }
    }

    /// The invitation that waits for that peer's answer.
    pub fn invited_at(&self, peer: PeerId) -> Option<Index> {
        match self.states.get(&peer) {
            Some(State::Invited { at }) => Some(*at),
            _ => None,
        }
    }

    /// Whether a Join in that incarnation would bring back one that has ended.
    pub fn would_return(&self, peer: PeerId, incarnation: Incarnation) -> bool {
        let is_let_in =
            matches!(self.states.get(&peer), Some(State::Invited { .. } | State::Active));
        let mut all = self.memberships.get(&peer).into_iter().flatten();
        is_let_in && all.any(|one| one.incarnation == incarnation && one.through.is_some())
    }

    /// The membership of that peer in that incarnation; the latest where it is 0, unknown.
    pub fn membership(&self, peer: PeerId, incarnation: Incarnation) -> Option<&Membership> {
        let mut all = self.memberships.get(&peer)?.iter();
        all.rfind(|one| incarnation == 0 || one.incarnation == incarnation)
    }

    /// Whether that peer takes part in that incarnation, and has not said that it goes.
    pub fn takes_part(&self, peer: PeerId, incarnation: Incarnation) -> bool {
        let latest = self.memberships.get(&peer).and_then(|all| all.last());
        let is_there =
            latest.is_some_and(|it| it.incarnation == incarnation && it.through.is_none());
        is_there && self.states.get(&peer) == Some(&State::Active)
    }

    /// Whether all have left, or said that they go.
    pub fn is_over(&self) -> bool {
        self.states.values().all(|state| *state != State::Active)
    }

    /// Whether that peer has ever been a member.
    pub fn was_member(&self, peer: PeerId) -> bool {
        self.memberships.contains_key(&peer)
    }
}
