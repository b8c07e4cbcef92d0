//! Which members should vote, and the next step towards them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::message::Candidate;
use crate::planted::{Bug, planted};
use crate::types::{Incarnation, PeerId, VoterSet};

/// In a chat of three or more, voters are never fewer than this, however many are away (R27).
pub const VOTERS_FLOOR: usize = 3;

/// What the choice of voters depends on.
pub struct Seats<'a> {
    /// The members that may vote, each with its incarnation.
    pub active: &'a BTreeMap<PeerId, Incarnation>,
    /// The voters in force.
    pub voters: &'a VoterSet,
    /// It always keeps its vote.
    pub host: PeerId,
    pub ranked: &'a [Candidate],
    /// An odd number.
    pub voters_max: usize,
    /// Voters that are silent or have said goodbye (R26).
    pub away: &'a BTreeSet<PeerId>,
    /// Learners that are caught up and steady, and may be given a vote (R28).
    pub ready: &'a BTreeSet<PeerId>,
    /// Whom the host hears, itself included: a change is for them to commit.
    pub heard: &'a BTreeSet<(PeerId, Incarnation)>,
}

/// The next step from the voters in force towards those there should be, or `None` where there is
/// none to take. R6: one voter is added or removed at a time.
///
/// R27: the goal is the largest odd number of members that are here, up to `voters_max`; of exactly
/// two members, both. A voter that is away keeps its vote where taking it out would only reach an
/// even number, which tolerates no more losses, and where fewer than three would be left. A step
/// that adds comes before one that removes, so that on the way to the goal nothing is tolerated
/// less. Outlived incarnations and members that are not active any more go first.
///
/// A set without a majority in contact could not commit its own entry, and the chat would stop
/// until somebody comes back. So a step that would lead there waits, and another is taken.
pub fn next_voters(seats: &Seats<'_>) -> Option<VoterSet> {
    let voters = seats.voters;
    let is_outlived = |peer: &PeerId| {
        *peer != seats.host
            && seats.active.get(peer) != voters.0.get(peer)
            && !planted(Bug::OutlivedKeepsVote)
    };
    let goal = goal(seats, is_outlived);
    let outlived = voters.peers().filter(|peer| is_outlived(peer));
    let outlived = outlived.map(|peer| without(voters, *peer));
    let added = goal.iter().filter(|peer| !voters.contains(peer)).filter_map(|peer| {
        let mut next = voters.clone();
        next.0.insert(*peer, *seats.active.get(peer)?);
        Some(next)
    });
    let surplus = voters.peers().filter(|peer| !goal.contains(peer) && !is_outlived(peer));
    let mut surplus: Vec<_> = surplus.collect();
    surplus.sort_by_key(|peer| Reverse((seats.away.contains(*peer), seats.place(peer))));
    let removed = surplus.into_iter().map(|peer| without(voters, *peer));
    let can_commit = |next: &VoterSet| {
        let voters = next.0.iter().map(|(peer, incarnation)| (*peer, *incarnation));
        voters.filter(|voter| seats.heard.contains(voter)).count() >= next.majority()
    };
    outlived
        .chain(added)
        .chain(removed)
        .find(|next| planted(Bug::StepStopsChat) || can_commit(next))
}

/// Those who should vote, best first.
fn goal(seats: &Seats<'_>, is_outlived: impl Fn(&PeerId) -> bool) -> Vec<PeerId> {
    let voters = seats.sorted(seats.voters.peers().filter(|peer| !is_outlived(peer)));
    let (away, mut goal): (Vec<_>, Vec<_>) =
        voters.into_iter().partition(|peer| seats.away.contains(peer) && *peer != seats.host);
    goal.extend(seats.sorted(seats.ready.iter().filter(|peer| !seats.voters.contains(peer))));
    goal.truncate(seats.voters_max);
    let floor = if planted(Bug::FloorIgnored) { 1 } else { VOTERS_FLOOR };
    let floor = floor.min(seats.active.len()).min(seats.voters_max);
    let kept = match goal.len() {
        here if here < floor => floor - here,
        here if here.is_multiple_of(2) && here > floor => usize::from(!planted(Bug::EvenVoters)),
        _ => 0,
    };
    goal.extend(away.into_iter().take(kept));
    if goal.len().is_multiple_of(2) && goal.len() > 2 && !planted(Bug::EvenVoters) {
        goal.pop();
    }
    goal
}

fn without(voters: &VoterSet, peer: PeerId) -> VoterSet {
    let mut next = voters.clone();
    next.0.remove(&peer);
    next
}

impl Seats<'_> {
    /// The host first, then by rank.
    fn place(&self, peer: &PeerId) -> (bool, usize, PeerId) {
        let ranked = self.ranked.iter().position(|candidate| candidate.peer == *peer);
        (*peer != self.host, ranked.unwrap_or(usize::MAX), *peer)
    }

    fn sorted<'p>(&self, peers: impl Iterator<Item = &'p PeerId>) -> Vec<PeerId> {
        let mut peers: Vec<_> = peers.copied().collect();
        peers.sort_by_key(|peer| self.place(peer));
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId([number; 32])
    }

    fn peers(numbers: &[u8]) -> BTreeSet<PeerId> {
        numbers.iter().map(|number| peer(*number)).collect()
    }

    /// Every set on the way from `voters` to where there is no further step.
    fn way(
        members: u8,
        voters: &[u8],
        away: &[u8],
        ready: &[u8],
        voters_max: usize,
    ) -> Vec<Vec<u8>> {
        let active = (1..=members).map(|number| (peer(number), 1)).collect();
        let mut set = VoterSet(voters.iter().map(|number| (peer(*number), 1)).collect());
        let mut way = Vec::new();
        loop {
            let seats = Seats {
                active: &active,
                voters: &set,
                host: peer(1),
                ranked: &[],
                voters_max,
                away: &peers(away),
                ready: &peers(ready),
                heard: &(1..=9).filter(|n| !away.contains(n)).map(|n| (peer(n), 1)).collect(),
            };
            let Some(next) = next_voters(&seats) else { return way };
            assert_eq!(next.len().abs_diff(set.len()), 1, "R6: one at a time");
            assert!(next.contains(&peer(1)), "the host keeps its vote");
            way.push(next.peers().map(|peer| peer.0[0]).collect());
            assert!(way.len() < 20, "a way that does not end: {way:?}");
            set = next;
        }
    }

    #[test]
    fn a_growing_chat_has_an_odd_number_of_voters_or_two() {
        assert!(way(1, &[1], &[], &[], 7).is_empty());
        assert_eq!(way(2, &[1], &[], &[2], 7), [[1, 2]]);
        assert_eq!(way(3, &[1, 2], &[], &[3], 7), [[1, 2, 3]]);
        assert!(way(4, &[1, 2, 3], &[], &[4], 7).is_empty(), "a fourth waits for a fifth");
        assert_eq!(way(5, &[1, 2, 3], &[], &[4, 5], 7), [vec![1, 2, 3, 4], vec![1, 2, 3, 4, 5]]);
        assert!(way(9, &[1, 2, 3, 4, 5, 6, 7], &[], &[8, 9], 7).is_empty());
        assert_eq!(way(9, &[1, 2, 3], &[], &[4, 5, 6, 7, 8, 9], 5).last().unwrap().len(), 5);
        assert_eq!(way(3, &[1], &[], &[2], 7), [[1, 2]], "two copies are better than one");
    }

    // The numbers of R27.
    #[test]
    fn r27_voters_that_are_away_go_only_where_that_reaches_an_odd_number() {
        assert!(way(5, &[1, 2, 3, 4, 5], &[5], &[], 7).is_empty());
        assert_eq!(way(5, &[1, 2, 3, 4, 5], &[4, 5], &[], 7).last().unwrap(), &[1, 2, 3]);
        assert_eq!(way(4, &[1, 2, 3, 4], &[4], &[], 7), [[1, 2, 3]]);
        assert_eq!(way(4, &[1, 2, 3, 4], &[3, 4], &[], 7), [[1, 2, 3]]);
        assert!(way(3, &[1, 2, 3], &[3], &[], 7).is_empty());
        assert!(way(3, &[1, 2, 3], &[2, 3], &[], 7).is_empty());
        assert!(way(2, &[1, 2], &[2], &[], 7).is_empty());
        assert_eq!(way(7, &[1, 2, 3, 4, 5, 6, 7], &[5, 6, 7], &[], 7).last().unwrap().len(), 5);
    }

    #[test]
    fn r27_a_learner_takes_the_place_of_one_that_is_away() {
        assert_eq!(way(4, &[1, 2, 3], &[3], &[4], 7), [vec![1, 2, 3, 4], vec![1, 2, 4]]);
        let way = way(9, &[1, 2, 3, 4, 5], &[4, 5], &[8, 9], 5);
        assert_eq!(way.last().unwrap(), &[1, 2, 3, 8, 9]);
        assert!(way.iter().all(|set| set.len() >= 5));
    }

    #[test]
    fn r28_who_is_back_gets_its_vote_again() {
        assert!(way(5, &[1, 2, 3], &[], &[4], 7).is_empty());
        assert_eq!(way(5, &[1, 2, 3], &[], &[4, 5], 7).last().unwrap(), &[1, 2, 3, 4, 5]);
    }

    // Without that, the departure of one that is here stops a chat whose others are away.
    #[test]
    fn no_step_leads_to_a_set_without_a_majority_in_contact() {
        assert_eq!(way(4, &[1, 2, 3, 4, 5], &[3, 4], &[], 7)[0], [1, 2, 3, 5], "not yet 5");
        assert!(way(2, &[1, 2, 3], &[2], &[], 7).is_empty());
    }

    #[test]
    fn who_is_not_active_any_more_goes_first() {
        assert_eq!(way(2, &[1, 2, 3], &[], &[], 7), [[1, 2]]);
        assert_eq!(way(1, &[1, 2], &[], &[], 7), [[1]]);
    }
}
