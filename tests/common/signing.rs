//! Keys for peers that have none: what stands for a signature is a hash of the peer's id and of
//! what it signs, which nobody makes in another's name.

use demes_protocol::message::{Body, Message};
use demes_protocol::sign::{Claim, Signer, entry_claims, signed_entry, vote_claim};
use demes_protocol::types::{ChatId, Entry, Payload, PeerId, Signature};
use sha2::{Digest, Sha256};

pub fn sign(peer: PeerId, bytes: &[u8]) -> Signature {
    let half: [u8; 32] = Sha256::new().chain_update(peer.0).chain_update(bytes).finalize().into();
    std::array::from_fn(|at| half[at % half.len()])
}

pub fn signer(peer: PeerId) -> Signer {
    Signer::new(ChatId::default(), move |bytes| sign(peer, bytes))
}

fn holds(claim: &Claim) -> bool {
    sign(claim.signer, &claim.signed) == claim.signature
}

/// Whether the entry's votes, or its host's signature, are right.
pub fn is_genuine_entry(entry: &Entry) -> bool {
    let chat = ChatId::default();
    let signed = match &entry.payload {
        Payload::VoterChange(_) => Some(sign(entry.author, &signed_entry(chat, entry))),
        // The rest is signed by the runtime, which is not here.
        _ => entry.signature,
    };
    signed == entry.signature && entry_claims(chat, entry).iter().all(holds)
}

/// What the edge looks at before a message reaches the rules.
pub fn is_genuine(message: &Message) -> bool {
    match &message.body {
        Body::Append(append) => {
            append.entries.iter().chain(&append.reign).all(|entry| is_genuine_entry(entry))
        }
        Body::Announce(announce) => announce.reign.iter().all(|reign| is_genuine_entry(reign)),
        Body::FetchLogAnswer(answer) => answer.entries.iter().all(|entry| is_genuine_entry(entry)),
        Body::Vote(vote) => vote
            .granted
            .is_none_or(|granted| holds(&vote_claim(ChatId::default(), message, vote, &granted))),
        _ => true,
    }
}
