//! What a signature is worth (R41). All checks are strict: a signature or key that could belong to
//! more than one message or person does not count.

use ed25519_dalek::VerifyingKey;

use crate::planted::{Mistake, planted};
use crate::protocol::message::HandOver;
use crate::protocol::sign::{self, Claim};
use crate::protocol::signed::SignedChange;
use crate::protocol::types::{
    ChatId, Course, Entry, Incarnation, InviteLinkProof, Membership, Past, Payload, PeerId,
    Signature, Submission,
};

/// Whether `signature` over `message` was made with the key of `peer`.
pub fn verify(peer: &PeerId, message: &[u8], signature: &Signature) -> bool {
    let signature = ed25519_dalek::Signature::from_bytes(signature);
    VerifyingKey::from_bytes(&peer.0).is_ok_and(|key| match planted(Mistake::LooseVerify) {
        false => key.verify_strict(message, &signature).is_ok(),
        true => ed25519_dalek::Verifier::verify(&key, message, &signature).is_ok(),
    })
}

/// Whether a submission by `author` in `incarnation` carries the signature that its kind needs, and
/// any signature that it carries is right.
pub fn verify_submission(
    course: Course,
    author: &PeerId,
    incarnation: Incarnation,
    submission: &Submission,
) -> bool {
    match &submission.signature {
        None => !sign::needs_signature(&submission.payload),
        Some(signature) => {
            let (number, payload) = (submission.number, &submission.payload);
            let signed = sign::signed_submission(course, *author, incarnation, number, payload);
            verify(author, &signed, signature)
        }
    }
}

/// Whether `peer`, in this incarnation, has the link that the proof names (R43).
pub fn verify_proof(
    chat: ChatId,
    peer: PeerId,
    incarnation: Incarnation,
    proof: &InviteLinkProof,
) -> bool {
    let signed = sign::signed_invite_link(chat, peer, incarnation);
    verify(&PeerId(proof.link.0), &signed, &proof.signature)
}

/// Whether an entry of `chat`'s log carries the signature that its kind needs, and any signature,
/// proof and vote that it carries are right. The founding entry is signed for the chat of all
/// zeros, because its own hash makes the chat's id.
pub fn verify_entry(chat: ChatId, entry: &Entry) -> bool {
    if let Payload::Membership(Membership::Joined { proof: Some(proof), .. }) = &entry.payload
        && !verify_proof(chat, entry.author, entry.incarnation, proof)
    {
        return false;
    }
    let claims = sign::entry_claims(chat, entry);
    if !claims.iter().all(verify_claim) {
        return false;
    }
    match &entry.signature {
        None => !sign::needs_signature(&entry.payload),
        Some(signature) => verify(&entry.author, &sign::signed_entry(chat, entry), signature),
    }
}

/// Whether the author of a word has signed it, and any proof that it carries is right.
pub fn verify_word(chat: ChatId, word: &SignedChange) -> bool {
    let (author, incarnation) = (word.author, word.incarnation);
    if let Membership::Joined { proof: Some(proof), .. } = &word.change
        && !verify_proof(chat, author, incarnation, proof)
    {
        return false;
    }
    word.signature.as_ref().is_some_and(|signature| {
        let payload = Payload::Membership(word.change.clone());
        let course = Course { chat, generation: word.generation };
        let signed = sign::signed_submission(course, author, incarnation, word.number, &payload);
        verify(&author, &signed, signature)
    })
}

/// Whether `peer` has said that of itself, in this incarnation (L5).
pub fn verify_past(course: Course, peer: &PeerId, incarnation: Incarnation, past: &Past) -> bool {
    past.signature.as_ref().is_some_and(|signature| {
        verify(peer, &sign::signed_past(course, *peer, incarnation, past), signature)
    })
}

/// Whether that was signed by whom it says (L3).
pub fn verify_claim(claim: &Claim) -> bool {
    verify(&claim.signer, &claim.signed, &claim.signature) || planted(Mistake::VotesUnchecked)
}

/// Whether the host that a hand-over names has signed it (R23).
pub fn verify_hand_over(course: Course, hand_over: &HandOver) -> bool {
    hand_over.signature.as_ref().is_some_and(|signature| {
        verify(&hand_over.host, &sign::signed_hand_over(course, hand_over), signature)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Identity;
    use crate::protocol::founding::founding_entry;
    use crate::protocol::reign::ballot_of;
    use crate::protocol::types::{Hash, Policy, Reign, SignedVote, VoterSet};

    #[test]
    fn a_signature_binds_key_and_message() {
        let (alice, bob) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let signature = alice.sign(b"text");
        assert!(verify(&alice.peer_id(), b"text", &signature));
        assert!(!verify(&bob.peer_id(), b"text", &signature));
        assert!(!verify(&alice.peer_id(), b"Text", &signature));
        let mut flipped = signature;
        flipped[63] ^= 0x80;
        assert!(!verify(&alice.peer_id(), b"text", &flipped));
    }

    #[test]
    fn a_key_of_small_order_proves_nothing() {
        // With the identity point as key and commitment, S = 0 satisfies the loose equation for
        // every message.
        let mut point = [0; 32];
        point[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!verify(&PeerId(point), b"anything", &signature));
    }

    // R41: a signature holds for what was signed, and nothing else.
    #[test]
    fn a_submission_is_signed_for_one_chat_and_incarnation_and_number() {
        let alice = Identity::generate().unwrap();
        let (course, me) = (Course::founded(ChatId([1; 16])), alice.peer_id());
        let payload = Payload::Policy(Policy::named("new"));
        let signature = alice.sign(&sign::signed_submission(course, me, 7, 3, &payload));
        let submission = Submission {
            number: 3,
            created_at_ms: 0,
            trace: None,
            payload,
            signature: Some(signature),
        };
        assert!(verify_submission(course, &me, 7, &submission));
        assert!(!verify_submission(Course::founded(ChatId([2; 16])), &me, 7, &submission));
        assert!(!verify_submission(Course { generation: 1, ..course }, &me, 7, &submission));
        assert!(!verify_submission(course, &me, 8, &submission));
        let renumbered = Submission { number: 4, ..submission.clone() };
        assert!(!verify_submission(course, &me, 7, &renumbered));
        let unsigned = Submission { signature: None, ..submission };
        assert!(!verify_submission(course, &me, 7, &unsigned));
        let plain = Submission {
            payload: Payload::Message { request_id: "r".into(), sealed: Default::default() },
            ..unsigned
        };
        assert!(verify_submission(course, &me, 7, &plain));
    }

    #[test]
    fn l1_a_word_is_its_authors_for_one_chat_and_incarnation_and_number() {
        let alice = Identity::generate().unwrap();
        let (chat, author, peer) = (ChatId([1; 16]), alice.peer_id(), PeerId([9; 32]));
        let change = Membership::Removing { peer };
        let payload = Payload::Membership(change.clone());
        let signature =
            alice.sign(&sign::signed_submission(Course::founded(chat), author, 7, 3, &payload));
        let word = SignedChange {
            author,
            incarnation: 7,
            number: 3,
            generation: 0,
            change,
            signature: None,
        };
        assert!(!verify_word(chat, &word));
        let word = SignedChange { signature: Some(signature), ..word };
        assert!(verify_word(chat, &word));
        assert!(!verify_word(ChatId([2; 16]), &word));
        for other in [
            SignedChange { author: peer, ..word.clone() },
            SignedChange { incarnation: 8, ..word.clone() },
            SignedChange { number: 4, ..word.clone() },
            SignedChange { generation: 1, ..word.clone() },
            SignedChange { change: Membership::Removing { peer: author }, ..word.clone() },
            SignedChange { change: Membership::Leaving, ..word },
        ] {
            assert!(!verify_word(chat, &other), "{other:?}");
        }
    }

    #[test]
    fn l5_a_past_is_the_peers_own_word_for_one_incarnation() {
        let alice = Identity::generate().unwrap();
        let (course, me) = (Course::founded(ChatId([1; 16])), alice.peer_id());
        let past = Past { boot: 2, term: 3, ..Past::default() };
        assert!(!verify_past(course, &me, 7, &past));
        let signature = Some(alice.sign(&sign::signed_past(course, me, 7, &past)));
        let past = Past { signature, ..past };
        assert!(verify_past(course, &me, 7, &past));
        assert!(!verify_past(course, &me, 8, &past));
        assert!(!verify_past(Course { generation: 1, ..course }, &me, 7, &past));
        assert!(!verify_past(course, &PeerId([9; 32]), 7, &past));
        assert!(!verify_past(course, &me, 7, &Past { boot: 3, ..past }));
    }

    #[test]
    fn entries_and_hand_overs_carry_their_makers_signature() {
        let alice = Identity::generate().unwrap();
        let (name, chat_name) = ("alice".to_owned(), "chat".to_owned());
        let (chat, entry) =
            founding_entry(alice.peer_id(), 5, chat_name, name, "a:1".into(), 9, |bytes| {
                alice.sign(bytes)
            });
        assert!(verify_entry(chat, &entry));
        let payload = Payload::Membership(Membership::Leaving);
        assert!(!verify_entry(chat, &Entry { payload, ..entry }));

        let course = Course::founded(chat);
        let mut hand_over = HandOver {
            host: alice.peer_id(),
            host_incarnation: 5,
            term: 2,
            target: PeerId([9; 32]),
            signature: None,
        };
        assert!(!verify_hand_over(course, &hand_over));
        hand_over.signature = Some(alice.sign(&sign::signed_hand_over(course, &hand_over)));
        assert!(verify_hand_over(course, &hand_over));
        assert!(!verify_hand_over(Course { generation: 1, ..course }, &hand_over));
        hand_over.target = PeerId([8; 32]);
        assert!(!verify_hand_over(course, &hand_over));
    }

    // L3: votes hold for one candidate, term and end of one log, and a change of voters for one
    // place.
    #[test]
    fn a_reign_and_its_voters_are_signed_for_one_place_of_one_log() {
        let (alice, bob) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let chat = ChatId([1; 16]);
        let mut entry = Entry {
            index: 8,
            term: 3,
            author: alice.peer_id(),
            incarnation: 7,
            number: 0,
            generation: 0,
            created_at_ms: 0,
            trace: None,
            payload: Payload::TermStart(Reign::default()),
            signature: None,
            previous: Hash([5; 32]),
            hash: Hash::default(),
        };
        let ballot = ballot_of(&entry, &Reign { last_term: 2, ..Reign::default() });
        let vote = |identity: &Identity, incarnation| {
            let voter = identity.peer_id();
            let signed = sign::signed_vote(chat, &ballot, voter, incarnation);
            (voter, SignedVote { incarnation, signature: identity.sign(&signed) })
        };
        let votes = [vote(&alice, 7), vote(&bob, 9)].into();
        entry.payload = Payload::TermStart(Reign { last_term: 2, votes });
        assert!(verify_entry(chat, &entry));
        assert!(!verify_entry(ChatId([2; 16]), &entry));
        for other in [
            Entry { index: 9, ..entry.clone() },
            Entry { term: 4, ..entry.clone() },
            Entry { generation: 1, ..entry.clone() },
            Entry { incarnation: 8, ..entry.clone() },
            Entry { author: bob.peer_id(), ..entry.clone() },
            Entry { previous: Hash([6; 32]), ..entry.clone() },
        ] {
            assert!(!verify_entry(chat, &other), "{other:?}");
        }

        let voters = VoterSet([(bob.peer_id(), 9)].into());
        let mut change = Entry { payload: Payload::VoterChange(voters.clone()), ..entry };
        assert!(!verify_entry(chat, &change), "it needs a signature");
        let signed = sign::signed_voters(chat, &change, &voters);
        change.signature = Some(alice.sign(&signed));
        assert!(verify_entry(chat, &change));
        assert!(!verify_entry(chat, &Entry { previous: Hash([6; 32]), ..change.clone() }));
        assert!(!verify_entry(chat, &Entry { generation: 1, ..change.clone() }));
        assert!(!verify_entry(chat, &Entry { index: 9, ..change }));
    }
}
