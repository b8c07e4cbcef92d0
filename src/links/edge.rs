//! What every message from another peer passes before the core sees it: signatures and hashes.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::crypto::verify;
use crate::planted::{Mistake, planted};
use crate::protocol::founding::chat_id;
use crate::protocol::message::{Body, Message};
use crate::protocol::sign::{self, signed_submission};
use crate::protocol::types::{ChatId, Course, Entry, Membership, Past, Payload};
use crate::telemetry::metrics::rejected;

/// Whether all that the message carries is signed and hashed as it must be (R41). What is not is
/// dropped and counted; the sender is at fault.
pub fn is_genuine(chat: ChatId, message: &Message) -> bool {
    let course = Course { chat, generation: message.generation };
    let genuine = match &message.body {
        Body::Append(append) => {
            let mut entries = append.entries.iter().chain(&append.reign);
            is_own_past(course, message, append.past.as_ref())
                && entries.all(|entry| is_genuine_entry(chat, entry))
        }
        Body::Heartbeat(heartbeat) => heartbeat
            .pasts
            .iter()
            .all(|(peer, incarnation, past)| verify::verify_past(course, peer, *incarnation, past)),
        Body::ReportDelays(report) => {
            let (from, incarnation) = (&message.from, message.from_incarnation);
            let past = report.past.as_ref();
            past.is_none_or(|past| verify::verify_past(course, from, incarnation, past))
        }
        Body::Announce(announce) => {
            announce.reign.iter().all(|reign| is_genuine_entry(chat, reign))
        }
        Body::FetchLogAnswer(answer) => {
            answer.entries.iter().all(|entry| is_genuine_entry(chat, entry))
        }
        Body::Submit(submit) => submit.submissions.iter().all(|submission| {
            // R35: what comes through another member has no channel that proves its author.
            let needed = submit.author.is_some();
            let own = (message.from, message.from_incarnation);
            let (author, incarnation) = submit.author.unwrap_or(own);
            (submission.signature.is_some() || !needed)
                && verify::verify_submission(course, &author, incarnation, submission)
        }),
        Body::Join(join) => {
            let payload = Payload::Membership(if join.decline {
                Membership::Declined
            } else {
                let (name, address) = (join.name.clone(), join.address.clone());
                Membership::Joined { name, address, proof: join.proof }
            });
            let (from, incarnation) = (message.from, message.from_incarnation);
            let signed = signed_submission(course, from, incarnation, 0, &payload);
            verify::verify(&from, &signed, &join.signature)
                && join.proof.is_none_or(|p| verify::verify_proof(chat, from, incarnation, &p))
        }
        Body::HandOver(hand_over) => verify::verify_hand_over(course, hand_over),
        Body::RequestVote(request) => {
            let hand_over = request.hand_over.as_ref();
            is_own_past(course, message, request.past.as_ref())
                && hand_over.is_none_or(|hand_over| verify::verify_hand_over(course, hand_over))
        }
        Body::Vote(vote) => vote.granted.is_none_or(|granted| {
            verify::verify_claim(&sign::vote_claim(chat, message, vote, &granted))
        }),
        _ => true,
    };
    // L1: what bears a message out stands by itself.
    let is_shown = |word| verify::verify_word(chat, word) || planted(Mistake::WordUnsigned);
    let genuine = genuine && message.words.iter().all(|word| is_shown(word));
    if !genuine {
        rejected("NOT_GENUINE");
        tracing::warn!(?chat, from = ?message.from, "dropped a message that is not genuine: \
            if it goes on, that member's peer is broken or lies; remove it");
    }
    genuine
}

// L5: what a peer has forgotten, only its own word shows it.
/// Whether the addressee has said that of itself.
fn is_own_past(course: Course, message: &Message, past: Option<&Past>) -> bool {
    let (me, incarnation) = (&message.to, message.to_incarnation);
    past.is_none_or(|past| verify::verify_past(course, me, incarnation, past))
        || planted(Mistake::PastUnsigned)
}

/// With so many signatures at the most a message is checked where it arrives.
const SIGNATURES_INLINE: usize = 16;
/// So many messages with more are checked at one time; others wait, which slows their senders.
static CHECKS: Semaphore = Semaphore::const_new(2);

/// The same, away from the threads that serve all connections where it takes long.
pub async fn checked(chat: ChatId, message: Message) -> Option<Message> {
    if signatures(&message) <= SIGNATURES_INLINE {
        return is_genuine(chat, &message).then_some(message);
    }
    let _turn = CHECKS.acquire().await.expect("nobody closes this semaphore");
    let check = move || is_genuine(chat, &message).then_some(message);
    spawn_blocking(check).await.unwrap_or(None)
}

/// How many signatures there may be to check.
fn signatures(message: &Message) -> usize {
    let of = |entry: &Arc<Entry>| match &entry.payload {
        Payload::TermStart(start) => 1 + start.votes.len(),
        _ => 1,
    };
    let carried = match &message.body {
        Body::Append(append) => append.entries.iter().chain(&append.reign).map(of).sum(),
        Body::Announce(announce) => announce.reign.iter().map(of).sum(),
        Body::FetchLogAnswer(answer) => answer.entries.iter().map(of).sum(),
        Body::Submit(submit) => submit.submissions.len(),
        Body::Heartbeat(heartbeat) => heartbeat.pasts.len(),
        _ => 1,
    };
    carried + message.words.len()
}

fn is_genuine_entry(chat: ChatId, entry: &Entry) -> bool {
    (planted(Mistake::EntryHashUnchecked) || entry.verify_hash())
        && (planted(Mistake::EntryUnsigned) || verify::verify_entry(chat, entry))
        && (entry.index != 1 || chat_id(entry) == chat)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crypto::Identity;
    use crate::protocol::message::{Refused, RefusedReason, RequestVote};
    use crate::protocol::sign::signed_past;
    use crate::protocol::signed::SignedChange;
    use crate::protocol::types::{End, PeerId};

    const CHAT: ChatId = ChatId([1; 16]);

    #[test]
    fn l1_l5_what_bears_a_message_out_is_signed() {
        let (alice, bob) =
            (Identity::generate().expect("a key"), Identity::generate().expect("one"));
        let (me, to) = (alice.peer_id(), bob.peer_id());
        let message = |body| Message {
            from: me,
            from_incarnation: 7,
            from_boot: 1,
            to,
            to_incarnation: 8,
            generation: 0,
            call: 0,
            words: Vec::new(),
            body,
        };
        let reason = RefusedReason::Removed { by: Some(me) };
        let refusal = message(Body::Refused(Refused { term: 1, reason }));
        let change = Membership::Removing { peer: to };
        let payload = Payload::Membership(change.clone());
        let signed = signed_submission(Course::founded(CHAT), me, 7, 3, &payload);
        let with = |author: PeerId, signature| {
            let change = change.clone();
            let word = SignedChange {
                author,
                incarnation: 7,
                number: 3,
                generation: 0,
                change,
                signature,
            };
            Message { words: vec![Arc::new(word)], ..refusal.clone() }
        };
        assert!(is_genuine(CHAT, &with(me, Some(alice.sign(&signed)))));
        assert!(!is_genuine(CHAT, &with(me, Some(bob.sign(&signed)))));
        assert!(!is_genuine(CHAT, &with(me, None)));

        let past = Past { boot: 2, ..Past::default() };
        let request = |signature| {
            let past = Some(Past { signature, ..past });
            let (term, end) = (1, End::default());
            message(Body::RequestVote(RequestVote { term, end, hand_over: None, past }))
        };
        let signed = signed_past(Course::founded(CHAT), to, 8, &past);
        assert!(is_genuine(CHAT, &request(Some(bob.sign(&signed)))));
        assert!(!is_genuine(CHAT, &request(Some(alice.sign(&signed)))), "its own word alone");
        assert!(!is_genuine(CHAT, &request(None)));
    }
}
