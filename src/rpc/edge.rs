//! What every message from another peer passes before the core sees it: signatures and hashes.

use crate::crypto::verify;
use crate::planted::{Mistake, planted};
use crate::protocol::founding::chat_id;
use crate::protocol::message::{Body, Message};
use crate::protocol::sign::{self, signed_submission};
use crate::protocol::types::{ChatId, Entry, Membership, Payload};
use crate::telemetry::metrics::rejected;

/// Whether all that the message carries is signed and hashed as it must be (R41). What is not is
/// dropped and counted; the sender is at fault.
pub fn is_genuine(chat: ChatId, message: &Message) -> bool {
    let genuine = match &message.body {
        Body::Append(append) => {
            append.entries.iter().chain(&append.reign).all(|entry| is_genuine_entry(chat, entry))
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
            let (author, session) = submit.author.unwrap_or(own);
            (submission.signature.is_some() || !needed)
                && verify::verify_submission(chat, &author, session, submission)
        }),
        Body::Join(join) => {
            let payload = Payload::Membership(if join.decline {
                Membership::Declined
            } else {
                let (name, address) = (join.name.clone(), join.address.clone());
                Membership::Joined { name, address, proof: join.proof }
            });
            let (from, session) = (message.from, message.from_incarnation);
            let signed = signed_submission(chat, from, session, 0, &payload);
            verify::verify(&from, &signed, &join.signature)
                && join.proof.is_none_or(|p| verify::verify_proof(chat, from, session, &p))
        }
        Body::HandOver(hand_over) => verify::verify_hand_over(chat, hand_over),
        Body::RequestVote(request) => {
            let hand_over = request.hand_over.as_ref();
            hand_over.is_none_or(|hand_over| verify::verify_hand_over(chat, hand_over))
        }
        Body::Vote(vote) => vote.granted.is_none_or(|granted| {
            verify::verify_claim(&sign::vote_claim(chat, message, vote, &granted))
        }),
        _ => true,
    };
    if !genuine {
        rejected("NOT_GENUINE");
        tracing::warn!(?chat, from = ?message.from, "dropped a message that is not genuine: \
            if it goes on, that member's peer is broken or lies; remove it");
    }
    genuine
}

fn is_genuine_entry(chat: ChatId, entry: &Entry) -> bool {
    (planted(Mistake::EntryHashUnchecked) || entry.verify_hash())
        && (planted(Mistake::EntryUnsigned) || verify::verify_entry(chat, entry))
        && (entry.index != 1 || chat_id(entry) == chat)
}
