//! From measured delays to ranked candidates (R12): a directed graph, Floyd–Warshall over it
//! (Floyd, "Algorithm 97: Shortest Path", 1962; Warshall, "A Theorem on Boolean Matrices", 1962),
//! and closeness centrality in both directions. Integers only, so that everybody who computes the
//! same graph gets the same list.

use std::collections::{BTreeMap, BTreeSet};

use crate::message::{Candidate, ReportDelays};
use crate::time::Micros;
use crate::types::{DELAY_US_MAX, DELAYS_SHOWN_MAX, PeerId, VoterSet};

/// What each member has reported: its delays, its order of preference, its weight.
pub type Reports = BTreeMap<PeerId, ReportDelays>;

impl ReportDelays {
    /// Whether it names the same members, whatever their delays.
    pub(crate) fn reaches_as(&self, other: &Self) -> bool {
        let reached =
            |report: &Self| -> BTreeSet<_> { report.row.iter().map(|(peer, _)| *peer).collect() };
        self.host_weight == other.host_weight && reached(self) == reached(other)
    }

    /// Whether no delay differs by more than a quarter and `quantum_us`.
    pub(crate) fn is_like(&self, other: &Self, quantum_us: Micros) -> bool {
        let known: BTreeMap<_, _> = self.row.iter().copied().collect();
        other.row.iter().all(|(peer, delay)| {
            known.get(peer).is_some_and(|before| {
                before.abs_diff(*delay) <= quantum_us.max(*before.min(delay) / 4)
            })
        })
    }
}

/// No path.
const UNREACHABLE: Micros = Micros::MAX;

/// The ranked candidates among `members`, best first.
///
/// Farness of a member is the sum of its shortest delays to and from every other one; closeness is
/// its reciprocal. It is scaled by 100 / `host_weight` and rounded to `quantum_us`. Equal ones are
/// ordered by a Borda count over the members' preferences, then by peer id. A member without
/// direct links both ways to a majority of the voters, or of weight 0, stands last.
pub fn rank(
    members: &[PeerId],
    voters: &VoterSet,
    reports: &Reports,
    quantum_us: Micros,
) -> Vec<Candidate> {
    let shortest = shortest_paths(members, reports);
    let points = borda_points(members, reports);
    let linked: Vec<bool> =
        members.iter().map(|peer| well_linked(*peer, voters, reports)).collect();
    let mut scored: Vec<_> = members
        .iter()
        .enumerate()
        .map(|(i, peer)| {
            let weight = reports.get(peer).map_or(100, |report| u64::from(report.host_weight));
            let farness = farness(&shortest, &linked, i).map(|sum| {
                let scaled = sum.saturating_mul(100) / weight.max(1);
                scaled.saturating_add(quantum_us / 2) / quantum_us * quantum_us
            });
            let last = weight == 0 || farness.is_none();
            let points = points.get(peer).copied().unwrap_or(0);
            let order = (last, farness.unwrap_or(UNREACHABLE), u64::MAX - points, *peer);
            (order, Candidate { peer: *peer, farness_us: farness, absence: None })
        })
        .collect();
    scored.sort_by_key(|(order, _)| *order);
    scored.into_iter().map(|(_, candidate)| candidate).collect()
}

/// All reported edges between `members`: whatever somebody says, one from each to each other, and
/// none longer than `DELAY_US_MAX`.
fn edges(members: &[PeerId], reports: &Reports) -> Vec<(PeerId, PeerId, Micros)> {
    let mut edges = Vec::new();
    for from in members {
        let mut unnamed = others(members, *from);
        for (to, delay) in reports.get(from).map_or(&[][..], |report| &report.row) {
            if unnamed.remove(to) {
                edges.push((*from, *to, (*delay).min(DELAY_US_MAX)));
            }
        }
    }
    edges
}

/// The same for showing; none where they would be too many.
pub fn shown_edges(members: &[PeerId], reports: &Reports) -> Vec<(PeerId, PeerId, Micros)> {
    let mut edges = edges(members, reports);
    if edges.len() > DELAYS_SHOWN_MAX {
        edges.clear();
    }
    edges
}

fn others(members: &[PeerId], peer: PeerId) -> BTreeSet<PeerId> {
    members.iter().copied().filter(|member| *member != peer).collect()
}

/// `paths[i][j]` is the shortest delay from member i to member j.
fn shortest_paths(members: &[PeerId], reports: &Reports) -> Vec<Vec<Micros>> {
    let n = members.len();
    let position: BTreeMap<_, _> = members.iter().zip(0..n).collect();
    let mut paths = vec![vec![UNREACHABLE; n]; n];
    for (from, to, delay) in edges(members, reports) {
        paths[position[&from]][position[&to]] = delay;
    }
    for (i, row) in paths.iter_mut().enumerate() {
        row[i] = 0;
    }
    for k in 0..n {
        for i in 0..n {
            for j in 0..n {
                let detour = paths[i][k].saturating_add(paths[k][j]);
                paths[i][j] = paths[i][j].min(detour);
            }
        }
    }
    paths
}

fn farness(shortest: &[Vec<Micros>], linked: &[bool], i: usize) -> Option<Micros> {
    if !linked[i] {
        return None;
    }
    (0..shortest.len()).filter(|j| linked[*j]).try_fold(0_u64, |sum, j| {
        let both = shortest[i][j].checked_add(shortest[j][i])?;
        sum.checked_add(both)
    })
}

/// A member earns, from each other one's list, one point for every member that stands behind it
/// there. A name counts where it stands first.
fn borda_points(members: &[PeerId], reports: &Reports) -> BTreeMap<PeerId, u64> {
    let mut points = BTreeMap::new();
    for (voice, report) in members.iter().filter_map(|peer| Some((*peer, reports.get(peer)?))) {
        let mut unnamed = others(members, voice);
        let preferences = report.preferences.iter().filter(|peer| unnamed.remove(*peer));
        let preferences: Vec<_> = preferences.collect();
        for (behind, peer) in (0_u64..).zip(preferences.into_iter().rev()) {
            *points.entry(*peer).or_insert(0) += behind;
        }
    }
    points
}

fn well_linked(peer: PeerId, voters: &VoterSet, reports: &Reports) -> bool {
    let sees = |from: &PeerId, to: &PeerId| {
        reports.get(from).is_some_and(|report| report.row.iter().any(|(other, _)| other == to))
    };
    let linked = voters
        .peers()
        .filter(|voter| **voter == peer || (sees(&peer, voter) && sees(voter, &peer)))
        .count();
    linked + usize::from(!voters.contains(&peer)) >= voters.majority()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn reports(edges: &[(u8, u8, Micros)]) -> Reports {
        let mut reports = Reports::new();
        for (from, to, delay) in edges {
            let report = reports.entry(peer(*from)).or_insert_with(|| ReportDelays {
                term: 1,
                row: Vec::new(),
                preferences: Vec::new(),
                host_weight: 100,
                unchanged: false,
                past: None,
            });
            report.row.push((peer(*to), *delay));
        }
        reports
    }

    fn ranked(members: &[u8], reports: &Reports) -> Vec<u8> {
        let members: Vec<_> = members.iter().copied().map(peer).collect();
        let voters = VoterSet(members.iter().map(|member| (*member, 1)).collect());
        rank(&members, &voters, reports, 1_000).iter().map(|c| c.peer.0[0]).collect()
    }

    /// A line 1 – 2 – 3: the shortest way from 1 to 3 leads through 2.
    const LINE: [(u8, u8, Micros); 6] = [
        (1, 2, 5_000),
        (2, 1, 5_000),
        (2, 3, 5_000),
        (3, 2, 5_000),
        (1, 3, 90_000),
        (3, 1, 90_000),
    ];

    #[test]
    fn r12_the_closest_to_all_stands_first_and_detours_count() {
        assert_eq!(ranked(&[1, 2, 3], &reports(&LINE)), [2, 1, 3]);
        let members = [peer(1), peer(2), peer(3)];
        let voters = VoterSet(members.iter().map(|member| (*member, 1)).collect());
        let list = rank(&members, &voters, &reports(&LINE), 1_000);
        assert_eq!(list[1].farness_us, Some(30_000), "1→2, 2→1, and 1→2→3, 3→2→1");
    }

    #[test]
    fn r12_both_directions_count() {
        let edges = [(1, 2, 1_000), (2, 1, 50_000), (1, 3, 1_000), (3, 1, 50_000)];
        let back = [(2, 3, 10_000), (3, 2, 10_000)];
        assert_eq!(ranked(&[1, 2, 3], &reports(&[&edges[..], &back].concat()))[0], 2);
    }

    #[test]
    fn r12_ties_go_by_borda_count_and_then_by_id() {
        let equal: Vec<_> = [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)]
            .map(|(from, to)| (from, to, 5_200))
            .into();
        let mut reports = reports(&equal);
        assert_eq!(ranked(&[1, 2, 3], &reports), [1, 2, 3]);
        reports.get_mut(&peer(1)).unwrap().preferences = vec![peer(3), peer(2)];
        assert_eq!(ranked(&[1, 2, 3], &reports), [3, 1, 2]);
    }

    // A member has one voice, however often it says the same, and about members only.
    #[test]
    fn r12_names_that_come_twice_or_are_no_members_count_for_nothing() {
        let equal = [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)];
        let equal: Vec<_> = equal.map(|(from, to)| (from, to, 5_200)).into();
        let mut reports = reports(&equal);
        for (voice, preferences) in [(1, [2, 3]), (2, [1, 3])] {
            reports.get_mut(&peer(voice)).unwrap().preferences = preferences.map(peer).into();
        }
        let liar = reports.get_mut(&peer(3)).unwrap();
        liar.preferences = vec![peer(3), peer(3), peer(2), peer(2), peer(9), peer(8), peer(1)];
        assert_eq!(ranked(&[1, 2, 3], &reports), [2, 1, 3], "3 prefers 2 to 1, once");
        let liar = reports.get_mut(&peer(3)).unwrap();
        liar.row = vec![(peer(1), 5_200); 9];
        liar.row.extend([(peer(2), u64::MAX), (peer(9), 1), (peer(3), 1), (peer(2), 0)]);
        let edges = edges(&[1, 2, 3].map(peer), &reports);
        let of_liar: Vec<_> = edges.into_iter().filter(|(from, ..)| *from == peer(3)).collect();
        let expected = [(peer(3), peer(1), 5_200), (peer(3), peer(2), DELAY_US_MAX)];
        assert_eq!(of_liar, expected, "one delay to each member, and none beyond the longest");
    }

    #[test]
    fn r12_a_large_chat_is_ranked_by_delays_that_are_not_shown() {
        for (count, shown) in [(64, 64 * 63), (65, 0)] {
            let members: Vec<_> = (1..=count).collect();
            let pairs = members.iter().flat_map(|from| members.iter().map(move |to| (*from, *to)));
            let edges: Vec<_> = pairs.map(|(from, to)| (from, to, 1_000 * u64::from(to))).collect();
            let reports = reports(&edges);
            assert_eq!(ranked(&members, &reports)[0], 1);
            let members: Vec<_> = members.into_iter().map(peer).collect();
            assert_eq!(shown_edges(&members, &reports).len(), shown, "{count} members");
        }
    }

    #[test]
    fn r12_noise_below_the_quantum_does_not_reorder() {
        let noisy = [
            (1, 2, 5_120),
            (2, 1, 5_000),
            (1, 3, 5_000),
            (3, 1, 5_000),
            (2, 3, 5_000),
            (3, 2, 5_000),
        ];
        assert_eq!(ranked(&[1, 2, 3], &reports(&noisy)), [1, 2, 3]);
    }

    #[test]
    fn r12_one_who_is_away_stands_last_and_takes_nobody_elses_farness() {
        let mut edges = LINE.to_vec();
        edges.extend([(1, 4, 1_000), (2, 4, 1_000)]);
        let members = [1, 2, 3, 4].map(peer);
        let voters = VoterSet(members.iter().map(|member| (*member, 1)).collect());
        let list = rank(&members, &voters, &reports(&edges), 1_000);
        let order: Vec<_> = list.iter().map(|candidate| candidate.peer.0[0]).collect();
        assert_eq!(order, [2, 1, 3, 4]);
        assert_eq!(list[0].farness_us, Some(20_000), "as if 4 were not there");
        assert_eq!(list[3].farness_us, None);
    }

    #[test]
    fn r12_weights_scale_and_zero_stands_last() {
        let mut reports = reports(&LINE);
        reports.get_mut(&peer(2)).unwrap().host_weight = 0;
        assert_eq!(ranked(&[1, 2, 3], &reports), [1, 3, 2]);
        reports.get_mut(&peer(3)).unwrap().host_weight = 200;
        assert_eq!(ranked(&[1, 2, 3], &reports), [3, 1, 2]);
    }

    #[test]
    fn r12_one_without_links_both_ways_to_a_majority_stands_last() {
        let mut edges = LINE.to_vec();
        edges.retain(|(from, to, _)| (*from, *to) != (2, 1) && (*from, *to) != (3, 2));
        edges.extend([(4, 1, 1), (1, 4, 1), (4, 3, 1), (3, 4, 1), (2, 4, 1), (4, 2, 1)]);
        let list = ranked(&[1, 2, 3, 4], &reports(&edges));
        assert_eq!(list, [1, 3, 4, 2], "2 has a link both ways only to 4, and to itself");
    }
}
