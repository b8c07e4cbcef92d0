//! What hashes and signatures cover. Every one begins with a tag of its own, so that none can be
//! taken for another (R41).

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::codec::Writer;
use super::reign::ballot_of;
use crate::message::{Granted, HandOver, Message, Vote};
use crate::types::{
    Ballot, ChatId, Course, Entry, Generation, Hash, Incarnation, Membership, Number, Past,
    Payload, PeerId, Signature, SignedVote, VoterSet,
};

const ENTRY: &[u8] = b"demes/v1/entry\0";
const SUBMISSION: &[u8] = b"demes/v1/submission\0";
const HAND_OVER: &[u8] = b"demes/v1/hand-over\0";
const INVITE_LINK: &[u8] = b"demes/v1/invite-link\0";
const PAST: &[u8] = b"demes/v1/past\0";
const VOTE: &[u8] = b"demes/v1/vote\0";
const VOTERS: &[u8] = b"demes/v1/voters\0";

/// From bytes to their signature.
type Sign = dyn Fn(&[u8]) -> Signature + Send + Sync;

/// Signs with this peer's key in one chat. What comes out depends on what goes in and on nothing
/// else, so that the rules stay a pure function: a vote must be in the log that it elects a host
/// of, and cannot wait for somebody outside to sign it.
#[derive(Clone)]
pub struct Signer {
    chat: ChatId,
    sign: Arc<Sign>,
}

impl Signer {
    pub fn new(chat: ChatId, sign: impl Fn(&[u8]) -> Signature + Send + Sync + 'static) -> Self {
        Self { chat, sign: Arc::new(sign) }
    }

    /// This peer's own vote.
    pub(crate) fn vote(
        &self,
        ballot: &Ballot,
        voter: PeerId,
        incarnation: Incarnation,
    ) -> SignedVote {
        let signed = signed_vote(self.chat, ballot, voter, incarnation);
        SignedVote { incarnation, signature: (self.sign)(&signed) }
    }

    /// For a change of voters by this peer, which hosts.
    pub(crate) fn voters(&self, entry: &Entry, voters: &VoterSet) -> Signature {
        (self.sign)(&signed_voters(self.chat, entry, voters))
    }

    /// For a permission of this peer, which hosts.
    pub(crate) fn hand_over(&self, generation: Generation, hand_over: &HandOver) -> Signature {
        let course = Course { chat: self.chat, generation };
        (self.sign)(&signed_hand_over(course, hand_over))
    }
}

// A peer's key is its name, and a replica is of one chat.
impl PartialEq for Signer {
    fn eq(&self, other: &Self) -> bool {
        self.chat == other.chat
    }
}

impl Eq for Signer {}

impl std::hash::Hash for Signer {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.chat.hash(state);
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

/// The hash of an entry's canonical form without the hash itself.
pub(super) fn entry_hash(head: &[u8]) -> Hash {
    let mut digest = Sha256::new();
    digest.update(ENTRY);
    digest.update(head);
    Hash(digest.finalize().into())
}

/// What the author of a submission signs: chat, generation, author, incarnation, number and
/// payload. For the founding entry, which makes the chat's id, the chat is all zeros.
pub fn signed_submission(
    course: Course,
    author: PeerId,
    incarnation: Incarnation,
    number: Number,
    payload: &Payload,
) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.fixed(SUBMISSION);
    writer.course(course);
    writer.fixed(&author.0);
    writer.number(incarnation);
    writer.number(number);
    writer.payload(payload);
    writer.0
}

/// What a joining peer signs with an invite link's key (R43). It holds for that peer and
/// incarnation alone, so that nobody who sees it can use the link.
pub fn signed_invite_link(chat: ChatId, peer: PeerId, incarnation: Incarnation) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.fixed(INVITE_LINK);
    writer.fixed(&chat.0);
    writer.fixed(&peer.0);
    writer.number(incarnation);
    writer.0
}

/// What a peer signs of itself, so that others can show it what it has forgotten (L5).
pub fn signed_past(course: Course, peer: PeerId, incarnation: Incarnation, past: &Past) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.fixed(PAST);
    writer.course(course);
    writer.fixed(&peer.0);
    writer.number(incarnation);
    writer.number(past.boot);
    writer.number(past.term);
    writer.number(past.acknowledged.term);
    writer.number(past.acknowledged.index);
    writer.0
}

/// What a host signs to let `target` follow it in its term.
pub fn signed_hand_over(course: Course, hand_over: &HandOver) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.fixed(HAND_OVER);
    writer.course(course);
    writer.fixed(&hand_over.host.0);
    writer.number(hand_over.host_incarnation);
    writer.number(hand_over.term);
    writer.fixed(&hand_over.target.0);
    writer.0
}

/// What a voter signs for a candidate (L3). The hash of the last entry stands for all of the log
/// before it. Position and generation are signed beside it because a voter compares logs by them,
/// and cannot look behind the hash of an entry that it does not have.
pub fn signed_vote(
    chat: ChatId,
    ballot: &Ballot,
    voter: PeerId,
    incarnation: Incarnation,
) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.fixed(VOTE);
    writer.course(Course { chat, generation: ballot.generation });
    writer.fixed(&voter.0);
    writer.number(incarnation);
    writer.number(ballot.term);
    writer.fixed(&ballot.candidate.0);
    writer.number(ballot.incarnation);
    writer.number(ballot.end.last.term);
    writer.number(ballot.end.last.index);
    writer.fixed(&ballot.end.hash.0);
    writer.0
}

impl Writer {
    fn course(&mut self, course: Course) {
        self.fixed(&course.chat.0);
        self.number(course.generation);
    }
}

/// A signature, whose it must be, and what it must cover.
pub struct Claim {
    pub signer: PeerId,
    pub signed: Vec<u8>,
    pub signature: Signature,
}

/// What a vote that is granted in `message` claims.
pub fn vote_claim(chat: ChatId, message: &Message, vote: &Vote, granted: &Granted) -> Claim {
    let (candidate, incarnation) = (message.to, message.to_incarnation);
    let (generation, term) = (message.generation, vote.term);
    let ballot = Ballot { generation, term, candidate, incarnation, end: granted.end };
    let signed = signed_vote(chat, &ballot, message.from, message.from_incarnation);
    Claim { signer: message.from, signed, signature: granted.signature }
}

/// What the entry claims of others than its author: the votes that begin a reign.
pub fn entry_claims(chat: ChatId, entry: &Entry) -> Vec<Claim> {
    let Payload::TermStart(reign) = &entry.payload else { return Vec::new() };
    let ballot = ballot_of(entry, reign);
    let claim = |(voter, vote): (&PeerId, &SignedVote)| Claim {
        signer: *voter,
        signed: signed_vote(chat, &ballot, *voter, vote.incarnation),
        signature: vote.signature,
    };
    reign.votes.iter().map(claim).collect()
}

/// What the signature of the entry's author must cover.
pub fn signed_entry(chat: ChatId, entry: &Entry) -> Vec<u8> {
    if let Payload::VoterChange(voters) = &entry.payload {
        return signed_voters(chat, entry, voters);
    }
    // The founding entry makes the chat's id.
    let chat = if entry.index == 1 { ChatId::default() } else { chat };
    let course = Course { chat, generation: entry.generation };
    signed_submission(course, entry.author, entry.incarnation, entry.number, &entry.payload)
}

/// What a host signs to change the voters (L3). It holds at one place of one log: the next reign
/// is checked against the voters that the log names, which nobody but an elected host may change.
pub fn signed_voters(chat: ChatId, entry: &Entry, voters: &VoterSet) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.fixed(VOTERS);
    writer.course(Course { chat, generation: entry.generation });
    writer.fixed(&entry.author.0);
    writer.number(entry.incarnation);
    writer.number(entry.term);
    writer.number(entry.index);
    writer.fixed(&entry.previous.0);
    writer.voters(voters);
    writer.0
}

/// R41: whether an entry of this kind must carry its author's signature. Messages are proven by
/// the channel they came through, and a reign by the votes in it; a `Removed` follows from other
/// entries.
pub fn needs_signature(payload: &Payload) -> bool {
    match payload {
        Payload::Policy(_) | Payload::VoterChange(_) => true,
        Payload::Membership(Membership::Removed { .. }) => false,
        Payload::Membership(_) => true,
        Payload::TermStart(_) | Payload::Message { .. } => false,
    }
}
