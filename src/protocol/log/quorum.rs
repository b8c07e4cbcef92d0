//! Majorities.

use crate::types::{Incarnation, Index, PeerId, VoterSet};

/// R3: the highest index that a majority of `voters` has made durable, given what each has.
pub fn majority_index(voters: &VoterSet, durable: impl Fn(&PeerId) -> Index) -> Index {
    let mut indices: Vec<_> = voters.peers().map(durable).collect();
    indices.sort_unstable_by(|a, b| b.cmp(a));
    indices.get(voters.majority() - 1).copied().unwrap_or(0)
}

/// Whether the voters for whom `says_yes` holds are a majority (R7: only those in the set count).
pub fn is_majority(voters: &VoterSet, says_yes: impl Fn(&PeerId, &Incarnation) -> bool) -> bool {
    let yes = voters.0.iter().filter(|(peer, incarnation)| says_yes(peer, incarnation)).count();
    yes >= voters.majority()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(n: u8) -> VoterSet {
        VoterSet((0..n).map(|i| (PeerId([i; 32]), 1)).collect())
    }

    #[test]
    fn r3_a_majority_of_the_voters_decides_and_learners_do_not_count() {
        let durable = |peer: &PeerId| [9, 4, 7, 2, 5, 99][usize::from(peer.0[0])];
        assert_eq!(majority_index(&voters(1), durable), 9);
        assert_eq!(majority_index(&voters(2), durable), 4);
        assert_eq!(majority_index(&voters(3), durable), 7);
        assert_eq!(majority_index(&voters(4), durable), 4);
        assert_eq!(majority_index(&voters(5), durable), 5);
    }

    #[test]
    fn r7_only_voters_make_a_majority() {
        let outsiders = |peer: &PeerId, _: &Incarnation| peer.0[0] >= 1;
        assert!(is_majority(&voters(3), outsiders));
        assert!(!is_majority(&voters(2), outsiders));
        assert!(!is_majority(&VoterSet::default(), outsiders), "no voters, no majority");
    }
}
