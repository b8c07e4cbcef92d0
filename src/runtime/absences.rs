//! Since when members are away, by this machine's clock: people ask for it, the rules do not.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::protocol::event::{LinkState, Status};
use crate::protocol::types::{MemberState, PeerId};

/// When each member was first seen away, in milliseconds since 1970.
pub type AwaySince = BTreeMap<PeerId, u64>;

/// What one chat remembers of it. A start begins anew.
pub(super) struct Absences {
    me: PeerId,
    pub since: AwaySince,
}

impl Absences {
    pub fn new(me: PeerId) -> Self {
        Self { me, since: BTreeMap::new() }
    }

    /// Takes note of who has gone and who has come back.
    pub fn look(&mut self, status: &Status) {
        let is_away = |peer: &PeerId| {
            let member = status.members.get(peer);
            let takes_part = member.is_some_and(|member| member.state == MemberState::Active);
            let candidate = status.ranking.candidates.iter().find(|one| one.peer == *peer);
            let counts_as_away = candidate.is_some_and(|one| one.absence.is_some());
            let is_linked = status.links.get(peer) == Some(&LinkState::Up);
            takes_part && *peer != self.me && (counts_as_away || !is_linked)
        };
        self.since.retain(|peer, _| is_away(peer));
        for peer in status.members.keys().filter(|peer| is_away(peer)) {
            self.since.entry(*peer).or_insert_with(|| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
            });
        }
    }
}
