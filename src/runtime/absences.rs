//! Since when members are away, by this machine's clock: people ask for it, the rules do not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use crate::protocol::event::{LinkState, Status};
use crate::protocol::types::{MemberState, PeerId};

/// When each member that is away was first seen so.
pub type AwaySince = BTreeMap<PeerId, SystemTime>;

/// What one chat remembers of it. A start begins anew.
pub(super) struct Absences {
    me: PeerId,
    since: AwaySince,
}

impl Absences {
    pub fn new(me: PeerId) -> Self {
        Self { me, since: BTreeMap::new() }
    }

    /// Takes note of who has gone and who has come back, and gives those who are away.
    pub fn look(&mut self, status: &Status) -> AwaySince {
        let candidates = status.ranking.candidates.iter();
        let absent: BTreeSet<&PeerId> =
            candidates.filter(|it| it.absence.is_some()).map(|it| &it.peer).collect();
        let is_away = |peer: &PeerId| {
            let is_linked = status.links.get(peer) == Some(&LinkState::Up);
            *peer != self.me && (!is_linked || absent.contains(peer))
        };
        let active = status.members.iter().filter(|(_, it)| it.state == MemberState::Active);
        let away = active.map(|(peer, _)| *peer).filter(|peer| is_away(peer));
        let now = SystemTime::now();
        let since = away.map(|peer| (peer, self.since.get(&peer).copied().unwrap_or(now)));
        self.since = since.collect();
        self.since.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::message::{Absence, Candidate, Ranking};
    use crate::protocol::types::Member;

    #[test]
    fn who_is_away_stays_so_from_the_first_look_until_it_is_back() {
        let [me, linked, silent, gone, invited] = [1, 2, 3, 4, 5].map(|byte| PeerId([byte; 32]));
        let member = |state| Member {
            name: "Somebody".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            incarnation: 1,
            state,
            since: 1,
            removed_by: None,
        };
        let active = [me, linked, silent, gone].map(|peer| (peer, member(MemberState::Active)));
        let mut members = BTreeMap::from(active);
        members.insert(invited, member(MemberState::Invited));
        let up = [linked, silent].map(|peer| (peer, LinkState::Up));
        let absence = Some(Absence::Silent);
        let candidate = Candidate { peer: silent, farness_us: None, absence };
        let ranking = Ranking { candidates: vec![candidate], ..Ranking::default() };
        let mut status = Status {
            members: Arc::new(members),
            links: BTreeMap::from(up),
            ranking: Arc::new(ranking),
            ..Status::default()
        };
        let mut absences = Absences::new(me);
        let first = absences.look(&status);
        assert_eq!(first.keys().copied().collect::<Vec<_>>(), [silent, gone]);
        assert_eq!(absences.look(&status), first, "the first look counts");
        status.links.insert(gone, LinkState::Up);
        assert_eq!(absences.look(&status).keys().copied().collect::<Vec<_>>(), [silent]);
    }
}
