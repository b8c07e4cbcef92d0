//! Going on without a majority that is lost for ever (R30).
//!
//! One survivor, the one with the most advanced log, appends a `Recovered` entry to its own store
//! while its peer does not run. The entry draws a new *generation* and makes its author the only
//! voter. Every message names the generation of its sender's log, and nothing of one generation is
//! taken in another: should those who were given up come back, the chat goes on twice, and both
//! sides see it. Whoever takes part in a recovery begins with an empty log, as a new incarnation.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::event::{Notice, Persist, Recovered};
use super::log::Log;
use super::log::sign::signed_submission;
use super::message::{Message, RefusedReason};
use super::replica::Replica;
use super::time::{Micros, SECOND};
use super::types::{
    ChatId, Course, Entry, Generation, HardState, Hash, MEMBERS_MAX, MemberState, Membership,
    Payload, PeerId, Position, Signature, Submission,
};

/// A majority that was away for so long may be lost: people are told of the last resort.
const LOST_US: Micros = 600 * SECOND;

/// How far one member's log is: what survivors compare. Its text form is `TERM/INDEX/HASH`, and
/// `TERM/INDEX/HASH/GENERATION` in a chat that was recovered before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEnd {
    pub last: Position,
    pub hash: Hash,
    pub generation: Generation,
}

/// Why two ends do not belong to the same course of a chat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incomparable {
    /// One of them was recovered meanwhile.
    Generation,
    /// Two different entries have the same term and index, which no correct peers make.
    Contradiction,
}

impl LogEnd {
    /// Where the log of this store ends.
    pub fn of(recovered: &Recovered) -> Self {
        let log = log_of(recovered);
        Self { last: log.last(), hash: log.last_hash(), generation: recovered.generation }
    }

    /// Whether `other` is further than this one.
    ///
    /// # Errors
    /// When the two do not belong to the same course of a chat.
    pub fn is_behind(&self, other: &Self) -> Result<bool, Incomparable> {
        if self.generation != other.generation {
            return Err(Incomparable::Generation);
        }
        if self.last == other.last && self.hash != other.hash {
            return Err(Incomparable::Contradiction);
        }
        Ok(other.last > self.last)
    }
}

impl fmt::Display for LogEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.last.term, self.last.index, self.hash)?;
        match self.generation {
            0 => Ok(()),
            generation => write!(f, "/{}", generation_text(generation)),
        }
    }
}

/// A text is not the end of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotALogEnd;

impl FromStr for LogEnd {
    type Err = NotALogEnd;
    fn from_str(text: &str) -> Result<Self, NotALogEnd> {
        let mut parts = text.split('/');
        let mut next = || parts.next().ok_or(NotALogEnd);
        let number = |text: &str| text.parse::<u64>().map_err(|_| NotALogEnd);
        let last = Position { term: number(next()?)?, index: number(next()?)? };
        let hash = next()?.parse().map_err(|_| NotALogEnd)?;
        let generation = match next() {
            Ok(text) => parse_generation(text).ok_or(NotALogEnd)?,
            Err(_) => 0,
        };
        if next().is_ok() { Err(NotALogEnd) } else { Ok(Self { last, hash, generation }) }
    }
}

/// Makes the generation of a recovery from a random number. Its last four digits are a check on the
/// others: people type it on other machines, which cannot ask anybody (R30).
pub fn new_generation(random: u64) -> Generation {
    let random = (random >> CHECK_BITS).max(1) << CHECK_BITS;
    random | check_of(random)
}

/// Whether a recovery has drawn this generation, and nobody has mistyped it since.
pub fn is_drawn(generation: Generation) -> bool {
    generation != 0 && check_of(generation) == generation & CHECK_MASK
}

const CHECK_BITS: u32 = 16;
const CHECK_MASK: u64 = (1 << CHECK_BITS) - 1;

/// CRC-16 (CCITT) over all but the last 16 bits: it finds every wrong digit, every two that were
/// exchanged with their neighbour, and all but one in 65,536 of other mistakes.
fn check_of(generation: Generation) -> u64 {
    (CHECK_BITS..u64::BITS).rev().fold(CHECK_MASK, |crc, bit| {
        let top = (crc >> (CHECK_BITS - 1)) ^ (generation >> bit);
        let shifted = (crc << 1) & CHECK_MASK;
        if top & 1 == 1 { shifted ^ 0x1021 } else { shifted }
    })
}

/// A generation as people see it: 16 lower-case hex digits.
pub fn generation_text(generation: Generation) -> String {
    format!("{generation:016x}")
}

/// Reads what [`generation_text`] gave.
pub fn parse_generation(text: &str) -> Option<Generation> {
    let generation = Generation::from_str_radix(text, 16).ok()?;
    (generation_text(generation) == text).then_some(generation)
}

/// Why a chat cannot be recovered from a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unrecoverable {
    /// The log says that this peer, in this incarnation, does not take part.
    NotMember,
    /// The log has not been fetched as far as the recovery that this peer takes part in.
    Incomplete,
    /// This peer is the only voter: there is no majority to be lost.
    OnlyVoter,
}

/// What the whole log of this store says, as if all of it were committed.
pub fn outlook(recovered: &Recovered) -> Log {
    let mut log = log_of(recovered);
    log.commit_to(log.last().index);
    log
}

/// Makes the change of `me`'s store that recovers the chat in `generation`, which is not 0. All
/// that the log has is committed by it. It must be persisted while nobody else uses the store.
/// `sign` signs with this peer's key.
///
/// # Errors
/// When the chat cannot, or need not, be recovered from this store.
pub fn recovery(
    chat: ChatId,
    me: PeerId,
    recovered: &Recovered,
    generation: Generation,
    created_at_ms: u64,
    sign: impl Fn(&[u8]) -> Signature,
) -> Result<Persist, Unrecoverable> {
    let log = outlook(recovered);
    let state = log.state();
    let incarnation = recovered.incarnation;
    if state.generation != recovered.generation {
        return Err(Unrecoverable::Incomplete);
    }
    let active = state.members.get(&me).is_some_and(|member| {
        member.state == MemberState::Active && member.incarnation == incarnation
    });
    if !active || recovered.removed_by.is_some() {
        return Err(Unrecoverable::NotMember);
    }
    if state.voters.len() == 1 && state.voters.0.get(&me) == Some(&incarnation) {
        return Err(Unrecoverable::OnlyVoter);
    }
    let payload = Payload::Membership(Membership::Recovered { generation });
    let course = Course { chat, generation };
    let signature = sign(&signed_submission(course, me, incarnation, 0, &payload));
    let term = log.last().term.max(recovered.hard_state.term) + 1;
    let mut entry = Entry {
        index: log.last().index + 1,
        term,
        author: me,
        incarnation,
        number: 0,
        generation,
        created_at_ms,
        trace: None,
        payload,
        signature: Some(signature),
        previous: log.last_hash(),
        hash: Hash::default(),
    };
    entry.hash = entry.computed_hash();
    // What is committed by this is found when it is repeated, like everything else of this peer's.
    let committed = recovered.entries.iter().filter(|entry| entry.index > recovered.commit);
    let request_ids = committed.filter_map(|entry| match &entry.payload {
        Payload::Message { request_id, .. } if entry.author == me => {
            Some((request_id.clone(), entry.index))
        }
        _ => None,
    });
    // What still waits is said in the new course of the chat, and has to be signed for it.
    let signed = recovered.outbox.iter().filter(|submission| submission.signature.is_some());
    let outbox_put = signed.map(|submission| {
        let (number, payload) = (submission.number, &submission.payload);
        let signature = sign(&signed_submission(course, me, incarnation, number, payload));
        Submission { signature: Some(signature), ..submission.clone() }
    });
    Ok(Persist {
        outbox_put: outbox_put.collect(),
        // What others have said of themselves, and what was found of them, counts where it was so.
        pasts: Some(Arc::default()),
        evidence: Some(Arc::default()),
        request_ids: request_ids.collect(),
        // R1: nobody else hosts in this term of the new generation.
        hard_state: Some(HardState { term, vote: Some(me) }),
        commit: Some(entry.index),
        entries: vec![Arc::new(entry)],
        generation: Some(generation),
        ..Persist::default()
    })
}

impl Replica {
    /// Takes note of a message of another generation, and refuses it if it is a request.
    pub(super) fn on_other_generation(&mut self, message: &Message) {
        let (from, generation) = (message.from, message.generation);
        let members = &self.log.state().members;
        let has_room = self.world.other_generations.len() < MEMBERS_MAX;
        let has_joined =
            members.get(&from).is_some_and(|member| member.state != MemberState::Invited);
        let matters = has_joined || (members.is_empty() && has_room);
        // Told once until the peer is heard in this generation again: it could say another each
        // time.
        if matters && self.world.other_generations.insert(from, generation).is_none() {
            self.ready.notices.push(Notice::OtherGeneration { peer: from, generation });
            self.watch_majority();
        }
        self.refuse(message, RefusedReason::OtherGeneration);
    }

    /// Whether `peer` is linked, and was not last heard of in another generation.
    pub(super) fn is_within_reach(&self, peer: &PeerId) -> bool {
        self.is_linked(*peer) && !self.world.other_generations.contains_key(peer)
    }

    /// Takes note of whether a majority of the voters is linked to this peer.
    pub(super) fn watch_majority(&mut self) {
        let linked = self.voters_linked() >= self.log.voters().majority();
        self.world.apart_since =
            if linked { None } else { self.world.apart_since.or(Some(self.now)) };
    }

    /// Whether there has been none for so long that it may be lost for ever.
    pub(super) fn is_majority_lost(&self) -> bool {
        let apart = self.world.apart_since.is_some_and(|since| self.now.since(since) >= LOST_US);
        apart && self.voters_linked() < self.log.voters().majority()
    }
}

fn log_of(recovered: &Recovered) -> Log {
    Log::new(recovered.checkpoint.clone(), recovered.entries.clone(), recovered.commit)
}

#[cfg(test)]
mod tests {
    use super::super::log::Checkpoint;
    use super::super::log::founding::founding_entry;
    use super::super::types::{Pasts, VoterSet};
    use super::*;

    const ME: PeerId = PeerId([1; 32]);

    /// A store of two voters with a committed founding entry, and what made the second one a voter,
    /// which is not.
    fn store() -> (ChatId, Recovered) {
        let text = String::from("t");
        let founded = founding_entry(ME, 11, text.clone(), text.clone(), text, 0, |_| [0; 64]);
        let (chat, first) = founded;
        let other = PeerId([2; 32]);
        let (name, address) = (String::from("t"), String::from("t"));
        let joined = Membership::Joined { name, address: address.clone(), proof: None };
        let voters = VoterSet([(ME, 11), (other, 11)].into());
        let mut entries = vec![Arc::new(first)];
        for (author, payload) in [
            (ME, Payload::Membership(Membership::Invited { peer: other, address })),
            (other, Payload::Membership(joined)),
            (ME, Payload::VoterChange(voters)),
        ] {
            let before = entries.last().expect("the founding entry");
            let (index, term, previous) = (before.index + 1, 4, before.hash);
            let signature = None;
            let draft =
                Entry { index, term, author, payload, signature, previous, ..(**before).clone() };
            entries.push(Arc::new(Entry { hash: draft.computed_hash(), ..draft }));
        }
        let recovered = Recovered {
            incarnation: 11,
            boot: 1,
            generation: 0,
            hard_state: HardState { term: 6, vote: None },
            checkpoint: Checkpoint::default(),
            entries,
            commit: 1,
            outbox: Vec::new(),
            last_number: 0,
            read: 0,
            removed_by: None,
            pasts: Pasts::new(),
            evidence: Default::default(),
            furthest: Position::default(),
            tail_in_doubt: false,
        };
        (chat, recovered)
    }

    fn recover(recovered: &Recovered) -> Result<Persist, Unrecoverable> {
        recovery(ChatId::default(), ME, recovered, 77, 5, |_| [3; 64])
    }

    #[test]
    fn r30_a_recovery_commits_the_whole_log_and_leaves_one_voter() {
        let (_, mut recovered) = store();
        let persist = recover(&recovered).expect("it can be recovered");
        assert_eq!(persist.commit, Some(5));
        assert_eq!(persist.hard_state, Some(HardState { term: 7, vote: Some(ME) }));
        let entry = &persist.entries[0];
        assert_eq!((entry.term, entry.index, entry.signature), (7, 5, Some([3; 64])));
        recovered.entries.extend(persist.entries);
        let log = outlook(&recovered);
        assert_eq!(log.voters().0, [(ME, 11)].into());
        assert_eq!(log.state().generation, 77);
        assert_eq!(log.state().members.len(), 2);
    }

    #[test]
    fn r30_what_still_waits_is_signed_for_the_new_generation() {
        let (_, mut recovered) = store();
        let waiting = |number, payload, signature| Submission {
            number,
            created_at_ms: 0,
            trace: None,
            payload,
            signature,
        };
        let message = Payload::Message { request_id: "r".into(), sealed: bytes::Bytes::new() };
        let leaving = Payload::Membership(Membership::Leaving);
        recovered.outbox = vec![waiting(1, message, None), waiting(2, leaving, Some([9; 64]))];
        let persist = recover(&recovered).expect("it can be recovered");
        let put: Vec<_> = persist.outbox_put.iter().map(|it| (it.number, it.signature)).collect();
        assert_eq!(put, [(2, Some([3; 64]))], "a message carries no signature");
        assert_eq!(persist.pasts, Some(Arc::default()), "they were signed for the one before");
        assert_eq!(persist.evidence, Some(Arc::default()), "terms do not cross");
    }

    #[test]
    fn r30_who_has_no_part_or_no_whole_log_recovers_nothing() {
        let (_, recovered) = store();
        let changed = |change: fn(&mut Recovered)| {
            let mut recovered = recovered.clone();
            change(&mut recovered);
            recover(&recovered).map(|_| ())
        };
        assert_eq!(changed(|it| it.incarnation = 12), Err(Unrecoverable::NotMember));
        assert_eq!(changed(|it| it.removed_by = Some(ME)), Err(Unrecoverable::NotMember));
        assert_eq!(changed(|it| it.generation = 9), Err(Unrecoverable::Incomplete));
        assert_eq!(changed(|it| drop(it.entries.pop())), Err(Unrecoverable::OnlyVoter));
    }

    #[test]
    fn r30_the_end_of_a_log_is_one_word_that_reads_back() {
        let (_, mut recovered) = store();
        let end = LogEnd::of(&recovered);
        assert_eq!(end.last, Position { term: 4, index: 4 });
        assert_eq!(end.to_string().parse(), Ok(end));
        recovered.generation = 0xab;
        let again = LogEnd::of(&recovered);
        assert_eq!(again.to_string(), format!("{end}/00000000000000ab"));
        assert_eq!(again.to_string().parse(), Ok(again));
        for bad in ["", "1/2", "1/2/3", &format!("{end}/"), &format!("{end}/ab"), "a/b/c"] {
            assert_eq!(bad.parse::<LogEnd>(), Err(NotALogEnd), "{bad}");
        }
    }

    #[test]
    fn r30_a_mistyped_generation_is_noticed() {
        for random in [0, 1, 77, u64::MAX, 0x1234_5678_9abc_def0] {
            let generation = new_generation(random);
            assert!(is_drawn(generation), "{generation:016x}");
            let text = generation_text(generation).into_bytes();
            for place in 0..text.len() {
                for digit in b"0123456789abcdef" {
                    let mut wrong = text.clone();
                    wrong[place] = *digit;
                    let wrong = parse_generation(str::from_utf8(&wrong).unwrap()).unwrap();
                    assert_eq!(is_drawn(wrong), wrong == generation, "{wrong:016x}");
                }
            }
            for place in 1..text.len() {
                let mut wrong = text.clone();
                wrong.swap(place - 1, place);
                let wrong = parse_generation(str::from_utf8(&wrong).unwrap()).unwrap();
                assert_eq!(is_drawn(wrong), wrong == generation, "{wrong:016x}");
            }
        }
        assert!(!is_drawn(0), "that is how a chat is founded");
    }

    #[test]
    fn r30_what_the_recovery_commits_is_found_when_it_is_repeated() {
        let (_, mut recovered) = store();
        let last = recovered.entries.last().expect("there are two");
        let message = |author, number, id: &str, previous: &Entry| {
            let sealed = bytes::Bytes::from_static(b"x");
            let payload = Payload::Message { request_id: id.into(), sealed };
            let mut entry = Entry {
                index: previous.index + 1,
                author,
                number,
                payload,
                previous: previous.hash,
                ..previous.clone()
            };
            entry.hash = entry.computed_hash();
            Arc::new(entry)
        };
        let third = message(ME, 1, "mine", last);
        let fourth = message(PeerId([2; 32]), 1, "another's", &third);
        recovered.entries.extend([third, fourth]);
        let persist = recover(&recovered).expect("it can be recovered");
        assert_eq!(persist.request_ids, [("mine".to_owned(), 5)]);
    }

    #[test]
    fn r30_the_later_term_is_further_and_only_of_the_same_course() {
        let (_, recovered) = store();
        let end = LogEnd::of(&recovered);
        let further = LogEnd { last: Position { term: 5, index: 1 }, ..end };
        assert_eq!((end.is_behind(&further), further.is_behind(&end)), (Ok(true), Ok(false)));
        assert_eq!(end.is_behind(&end), Ok(false));
        let other = LogEnd { hash: Hash([9; 32]), ..end };
        assert_eq!(end.is_behind(&other), Err(Incomparable::Contradiction));
        let other = LogEnd { generation: 1, ..further };
        assert_eq!(end.is_behind(&other), Err(Incomparable::Generation));
    }
}
