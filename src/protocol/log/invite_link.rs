//! Invite links, as the committed log says (R43): who may still come in by which.
//!
//! A link is a key pair. The log has the public key; whoever was given the link can make the
//! private one, and signs with it when joining. Each peer that it lets in uses it up a little, by
//! the very entry that lets the peer in, so that two who race for the last use cannot both have it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::planted::{Bug, planted};
use crate::types::{INVITE_LINKS_MAX, Index, InviteLinkId, PeerId};

/// One link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct InviteLink {
    pub created_by: PeerId,
    /// The entry that made it.
    pub created: Index,
    pub uses_max: u32,
    pub uses_left: u32,
    /// By the clock of whoever decides, the host.
    pub expires_at_ms: u64,
    pub revoked: bool,
}

/// Why a link lets nobody in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InviteLinkProblem {
    /// The log has no such link, or has forgotten it.
    Unknown,
    Expired,
    UsedUp,
    Revoked,
}

/// The links of a chat. Those that have ended are remembered, so that people can be told why,
/// until a new one needs the room.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct InviteLinks(pub(super) Arc<BTreeMap<InviteLinkId, InviteLink>>);

impl InviteLink {
    /// Why it lets nobody in at `now_ms`, the milliseconds since 1970 by the asker's clock.
    pub fn problem(&self, now_ms: u64) -> Option<InviteLinkProblem> {
        if self.revoked {
            return Some(InviteLinkProblem::Revoked);
        }
        if self.uses_left == 0 {
            return Some(InviteLinkProblem::UsedUp);
        }
        let has_expired = self.expires_at_ms <= now_ms && !planted(Bug::LinkNeverExpires);
        has_expired.then_some(InviteLinkProblem::Expired)
    }
}

impl InviteLinks {
    pub fn get(&self, id: &InviteLinkId) -> Option<&InviteLink> {
        self.0.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&InviteLinkId, &InviteLink)> {
        self.0.iter()
    }

    /// Whether one more link finds room at `now_ms`.
    pub fn has_room(&self, now_ms: u64) -> bool {
        self.0.len() < INVITE_LINKS_MAX || self.oldest_ended(now_ms).is_some()
    }

    /// Adds a link, in the place of the oldest ended one where there are too many. Without room, or
    /// where the id is there already, it changes nothing; says whether it did. `now_ms` is the
    /// creator's clock: it stands in the entry, so that all members forget the same link.
    pub(super) fn create(&mut self, id: InviteLinkId, link: InviteLink, now_ms: u64) -> bool {
        if self.0.contains_key(&id) || !self.has_room(now_ms) {
            return false;
        }
        let ended = self.oldest_ended(now_ms).filter(|_| self.0.len() >= INVITE_LINKS_MAX);
        let links = Arc::make_mut(&mut self.0);
        if let Some(ended) = ended {
            links.remove(&ended);
        }
        links.insert(id, link);
        true
    }

    pub(super) fn revoke(&mut self, id: &InviteLinkId) {
        if let Some(link) = Arc::make_mut(&mut self.0).get_mut(id) {
            link.revoked = !planted(Bug::RevokedLinkGood);
        }
    }

    /// Takes one use, if the link has one. Whether it has expired, which is a question of clocks,
    /// was decided before the entry was made.
    pub(super) fn use_up(&mut self, id: &InviteLinkId) -> bool {
        let usable = |link: &&mut InviteLink| !link.revoked && link.uses_left > 0;
        let Some(link) = Arc::make_mut(&mut self.0).get_mut(id).filter(usable) else {
            return false;
        };
        link.uses_left -= 1;
        true
    }

    fn oldest_ended(&self, now_ms: u64) -> Option<InviteLinkId> {
        let ended = self.0.iter().filter(|(_, link)| link.problem(now_ms).is_some());
        ended.min_by_key(|(_, link)| link.created).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(created: Index, expires_at_ms: u64) -> InviteLink {
        let created_by = PeerId([1; 32]);
        InviteLink { created_by, created, uses_max: 2, uses_left: 2, expires_at_ms, revoked: false }
    }

    fn id(number: usize) -> InviteLinkId {
        InviteLinkId([number as u8; 32])
    }

    #[test]
    fn r43_a_link_lets_in_as_many_as_it_has_uses() {
        let mut links = InviteLinks::default();
        links.create(id(1), link(1, 100), 0);
        assert!(links.use_up(&id(1)));
        assert!(links.use_up(&id(1)));
        assert!(!links.use_up(&id(1)), "its uses are gone");
        assert!(!links.use_up(&id(2)), "there is no such link");
        let problem = |links: &InviteLinks, at| links.get(&id(1)).and_then(|l| l.problem(at));
        assert_eq!(problem(&links, 0), Some(InviteLinkProblem::UsedUp));
        links.create(id(3), link(2, 100), 0);
        links.revoke(&id(3));
        assert!(!links.use_up(&id(3)), "it was revoked");
        assert_eq!(link(1, 100).problem(99), None);
        assert_eq!(link(1, 100).problem(100), Some(InviteLinkProblem::Expired));
    }

    #[test]
    fn only_ended_links_make_room_the_oldest_first() {
        let mut links = InviteLinks::default();
        for number in 1..=INVITE_LINKS_MAX {
            links.create(id(number), link(number as u64, 100), 0);
        }
        let full = links.clone();
        links.create(id(65), link(65, 100), 99);
        assert_eq!(links, full, "all of them may still be used");
        links.create(id(65), link(65, 200), 100);
        assert_eq!(links.0.len(), INVITE_LINKS_MAX);
        assert_eq!((links.get(&id(1)), links.get(&id(65))), (None, Some(&link(65, 200))));
        links.revoke(&id(7));
        links.create(id(7), link(66, 300), 0);
        assert!(links.get(&id(7)).is_some_and(|link| link.revoked), "an id stands for one link");
        links.create(id(66), link(66, 300), 0);
        assert_eq!(links.get(&id(7)), None);
    }
}
