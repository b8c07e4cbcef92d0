//! Who should sit in the group, as the committed log says (S1), and what follows from it: pure
//! functions, alike at every participant.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use demes_protocol::types::{ChatId, Generation, PeerId};
use sha2::{Digest as _, Sha256};

use crate::credential::Seat;
use crate::group::GROUP_ID_BYTES;
use crate::planted::{Bug, planted};

const GROUP_TAG: &[u8] = b"demes/v1/group\0";

/// A key package as others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaf {
    pub seat: Seat,
    /// MLS's reference of the key package: a Welcome names it.
    pub reference: Bytes,
}

/// What a Commit does to one leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Add(Seat),
    Remove(Seat),
}

/// A participant as the log has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Participant {
    pub leaf: Leaf,
    pub package: Bytes,
    /// Whether a Welcome in the log names its key package, or the group was founded with it.
    pub is_welcomed: bool,
}

/// The participants of a chat: a fold over the committed log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Roster {
    participants: BTreeMap<PeerId, Participant>,
    /// How many groups the chat has had in this generation (S11).
    founded: u64,
}

/// What brings the group to the roster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    pub add: Vec<PeerId>,
    pub remove: Vec<Seat>,
}

impl Difference {
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

impl Roster {
    // S1: the newest key package of each active participant.
    /// A participant has joined, come back without its old state, or asks for a new seat (S16).
    pub fn seat(&mut self, leaf: Leaf, package: Bytes) {
        let participant = Participant { leaf, package, is_welcomed: false };
        self.participants.insert(participant.leaf.seat.peer, participant);
    }

    /// A participant has left or was removed.
    pub fn leave(&mut self, peer: &PeerId) {
        self.participants.remove(peer);
    }

    /// A Keying in the log has a Welcome for these key packages. Whether it is in force only
    /// those in the group know.
    pub fn welcome(&mut self, references: &[Bytes]) {
        for participant in self.participants.values_mut() {
            if references.contains(&participant.leaf.reference) {
                participant.is_welcomed = true;
            }
        }
    }

    /// A group was founded by this participant (S11): nobody else sits in it yet.
    pub fn found(&mut self, founder: &PeerId) {
        self.founded += 1;
        for (peer, participant) in &mut self.participants {
            participant.is_welcomed = peer == founder;
        }
    }

    pub fn participants(&self) -> &BTreeMap<PeerId, Participant> {
        &self.participants
    }

    /// The id of the next group that is founded in this chat. All compute the same, so that a
    /// Keying for another one is void.
    pub fn next_group(&self, chat: ChatId, generation: Generation) -> [u8; GROUP_ID_BYTES] {
        let mut hasher = Sha256::new();
        hasher.update(GROUP_TAG);
        hasher.update(chat.0);
        hasher.update(generation.to_le_bytes());
        hasher.update(self.founded.to_le_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        digest[..GROUP_ID_BYTES].try_into().expect("it is shorter")
    }

    /// What the group that holds these leaves lacks to be the roster.
    pub fn difference(&self, held: &[Seat]) -> Difference {
        let remove = held.iter().filter(|seat| !self.wants(seat)).copied().collect();
        let missing = |participant: &Participant| !held.contains(&participant.leaf.seat);
        let missing = self.participants.iter().filter(|(_, participant)| missing(participant));
        Difference { add: missing.map(|(peer, _)| *peer).collect(), remove }
    }

    // S2: towards the roster, or a refresh; never ahead of it.
    /// Whether these changes move a group that holds `held` towards the roster. It need not be the
    /// whole way: who made the Commit may not have read on as far.
    pub fn is_wanted(&self, held: &[Seat], changes: &[Change]) -> bool {
        let difference = self.difference(held);
        changes.iter().all(|change| match change {
            Change::Add(seat) => {
                let wanted = self.participants.get(&seat.peer);
                planted(Bug::UnwantedAdded)
                    || wanted.is_some_and(|wanted| wanted.leaf.seat == *seat)
                        && difference.add.contains(&seat.peer)
            }
            Change::Remove(seat) => difference.remove.contains(seat),
        })
    }

    // S4: the gate.
    /// Whether a participant may seal: nobody in its group holds keys that the log does not want
    /// it to have. A participant that is missing shuts no gate.
    pub fn may_seal(&self, held: &[Seat]) -> bool {
        planted(Bug::GateLeftOut) || held.iter().all(|seat| self.wants(seat))
    }

    fn wants(&self, seat: &Seat) -> bool {
        self.participants.get(&seat.peer).is_some_and(|wanted| wanted.leaf.seat == *seat)
    }

    /// The participants of whom the log says that they hold a group.
    pub fn holders(&self) -> BTreeSet<PeerId> {
        let welcomed = self.participants.iter().filter(|(_, participant)| participant.is_welcomed);
        welcomed.map(|(peer, _)| *peer).collect()
    }

    // S11: no holder left.
    /// Who founds a new group, where nobody holds one: the first participant by peer id.
    pub fn founder(&self) -> Option<PeerId> {
        if !self.holders().is_empty() {
            return None;
        }
        self.participants.keys().next().copied()
    }

    pub(crate) fn founded(&self) -> u64 {
        self.founded
    }

    pub(crate) fn restore(founded: u64, participants: Vec<Participant>) -> Self {
        let by_peer = |participant: Participant| (participant.leaf.seat.peer, participant);
        Self { participants: participants.into_iter().map(by_peer).collect(), founded }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(peer: u8, key: u8) -> Seat {
        Seat { peer: PeerId([peer; 32]), incarnation: 1, key: [key; 32] }
    }

    fn leaf(peer: u8, key: u8) -> Leaf {
        Leaf { seat: seat(peer, key), reference: Bytes::from(vec![key; 4]) }
    }

    fn roster(of: &[(u8, u8)]) -> Roster {
        let mut roster = Roster::default();
        for (peer, key) in of {
            roster.seat(leaf(*peer, *key), Bytes::new());
        }
        roster
    }

    // S1: joining, leaving, a lost disk: one difference.
    #[test]
    fn the_difference_is_who_is_missing_and_who_should_not_be_there() {
        let mut roster = roster(&[(1, 1), (2, 2), (3, 3)]);
        let held = [seat(1, 1), seat(2, 2)];
        assert_eq!(roster.difference(&held).add, [PeerId([3; 32])]);
        roster.leave(&PeerId([2; 32]));
        roster.seat(leaf(1, 9), Bytes::new());
        let difference = roster.difference(&held);
        assert_eq!(difference.remove, [seat(1, 1), seat(2, 2)]);
        assert_eq!(difference.add, [PeerId([1; 32]), PeerId([3; 32])]);
        assert!(roster.difference(&[seat(1, 9), seat(3, 3)]).is_empty());
    }

    // S2: what is in force.
    #[test]
    fn a_keying_moves_towards_the_roster_or_is_void() {
        let roster = roster(&[(1, 1), (2, 2)]);
        let held = [seat(1, 1), seat(7, 7)];
        let wanted = |changes: &[Change]| roster.is_wanted(&held, changes);
        assert!(wanted(&[]), "a refresh");
        assert!(wanted(&[Change::Add(seat(2, 2))]));
        assert!(wanted(&[Change::Remove(seat(7, 7)), Change::Add(seat(2, 2))]));
        for unwanted in [
            Change::Add(seat(8, 8)),    // no participant
            Change::Add(seat(2, 3)),    // an older key package
            Change::Add(seat(1, 1)),    // there already
            Change::Remove(seat(1, 1)), // a participant
            Change::Remove(seat(9, 9)), // not there
        ] {
            assert!(!wanted(&[unwanted]), "{unwanted:?}");
            assert!(!wanted(&[Change::Add(seat(2, 2)), unwanted]), "{unwanted:?}");
        }
    }

    // S4: only whom the log does not want shuts the gate.
    #[test]
    fn the_gate_is_shut_by_who_should_not_read() {
        let mut roster = roster(&[(1, 1), (2, 2), (3, 3)]);
        assert!(roster.may_seal(&[seat(1, 1), seat(2, 2)]));
        roster.leave(&PeerId([2; 32]));
        assert!(!roster.may_seal(&[seat(1, 1), seat(2, 2)]));
        roster.seat(leaf(1, 5), Bytes::new());
        assert!(!roster.may_seal(&[seat(1, 1)]), "a lost disk's seat");
    }

    // S11: the first participant founds anew where nobody holds a group.
    #[test]
    fn a_new_group_is_founded_where_nobody_holds_one() {
        let mut roster = roster(&[(4, 4), (2, 2)]);
        let chat = ChatId([1; 16]);
        assert_eq!(roster.founder(), Some(PeerId([2; 32])));
        let first = roster.next_group(chat, 0);
        roster.found(&PeerId([2; 32]));
        assert_eq!(roster.founder(), None);
        assert_ne!(roster.next_group(chat, 0), first);
        assert_ne!(roster.next_group(chat, 1), roster.next_group(chat, 0));
        roster.welcome(&[Bytes::from(vec![4; 4])]);
        assert_eq!(roster.holders().len(), 2);
        roster.seat(leaf(2, 9), Bytes::new());
        assert_eq!(roster.founder(), None, "another one holds it");
        roster.seat(leaf(4, 8), Bytes::new());
        assert_eq!(roster.founder(), Some(PeerId([2; 32])));
    }
}
