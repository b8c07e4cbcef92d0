//! The nouns of the protocol: ids, log entries, members and voters.
//!
//! Terms are Raft's (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm",
//! 2014): an *entry* stands at an *index* and carries the *term* of the host that appended it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::planted::{Bug, planted};
use super::quota::Quota;

/// A host's reign. Terms only grow; there is at most one host in a term.
pub type Term = u64;
/// A position in the log, from 1. The feed's sequence number is the same number.
pub type Index = u64;
/// The author's own count of its submissions in one incarnation, from 1. 0 stands outside the
/// count.
pub type Number = u64;
/// Drawn at random when a state directory is made (R9).
pub type Incarnation = u64;
/// How often this incarnation has been started (R9).
pub type Boot = u64;
/// Which course of the chat a log belongs to: 0 as founded, drawn at random by each recovery (R30).
pub type Generation = u64;
/// Names one inbound request, so that its answer finds the way back. 0: nobody waits.
pub type CallId = u64;

/// The longest text of a message, in Unicode scalar values.
pub const TEXT_CHARS_MAX: usize = 2_048;
/// The longest name of a person or chat, in Unicode scalar values.
pub const NAME_CHARS_MAX: usize = 64;
/// The longest address (`host:port`), in bytes.
pub const ADDRESS_BYTES_MAX: usize = 260;
/// The largest sealed message, in bytes: 2,048 characters of 4 bytes, and room for the seal.
pub const SEALED_BYTES_MAX: usize = 16 * 1_024;
/// The longest request id that a program may choose, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// The most members of one chat, invited ones included.
pub const MEMBERS_MAX: usize = 256;
/// The most former members that a chat remembers; the first to have gone is forgotten.
pub const FORMER_MEMBERS_MAX: usize = 256;
/// The most incarnations that have ended and that a chat remembers; the first is forgotten.
pub const OUTLIVED_MAX: usize = 1_024;
/// The most invite links of one chat that have not ended.
pub const INVITE_LINKS_MAX: usize = 64;
/// The most that wait for an answer whom one member has invited.
pub const INVITED_BY_ONE_MAX: usize = MEMBERS_MAX / 2;
/// The most links of one member that have not ended.
pub const LINKS_BY_ONE_MAX: usize = INVITE_LINKS_MAX / 2;
/// The most votes that prove a reign: more than the most voters that can be configured.
pub const VOTES_MAX: usize = 16;
/// The most peers that one invite link lets in.
pub const INVITE_LINK_USES_MAX: u32 = 256;
/// The highest term that another peer is believed. No chat gets there by honest elections, and
/// from there on terms can still be counted up for ever without coming to the end of the numbers.
pub const TERM_MAX: Term = 1 << 62;
/// The longest delay that a member may report, in microseconds: an hour. Sums of such delays over
/// all members, in percent too, stay within the numbers.
pub const DELAY_US_MAX: u64 = 3_600_000_000;
/// The most delays that a ranking shows beside its candidates: of 64 members all of them. Those of
/// 256 members would not fit into one message.
pub const DELAYS_SHOWN_MAX: usize = 4_096;

/// A peer's Ed25519 public key. It is the peer's name everywhere, as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PeerId(pub [u8; 32]);

/// The first 16 bytes of the founding entry's hash, as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChatId(pub [u8; 16]);

/// An invite link's Ed25519 public key, as 64 lower-case hex digits. Whoever has the link can make
/// the private key that belongs to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct InviteLinkId(pub [u8; 32]);

/// The SHA-256 of an entry's canonical form, which includes the hash of the entry before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash(pub [u8; 32]);

/// An Ed25519 signature over a domain tag, the chat and its generation, the signer's incarnation
/// and a canonical form.
pub type Signature = [u8; 64];

/// One course of a chat, from its founding or a recovery on (R30). What is signed for one says
/// nothing in another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Course {
    pub chat: ChatId,
    pub generation: Generation,
}

impl Course {
    /// The chat as it was founded.
    pub fn founded(chat: ChatId) -> Self {
        Self { chat, generation: 0 }
    }
}

/// W3C trace context of the call that made an entry: trace id, span id and flags, 25 bytes; absent
/// when the call was not sampled.
pub type TraceContext = Option<[u8; 25]>;

/// Why a text is not an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an id: expected lower-case hex digits of the right length")
    }
}

impl std::error::Error for NotAnId {}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    use fmt::Write;
    for byte in bytes {
        f.write_char(HEX_DIGITS[usize::from(byte >> 4)] as char)?;
        f.write_char(HEX_DIGITS[usize::from(byte & 15)] as char)?;
    }
    Ok(())
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], NotAnId> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(NotAnId);
    }
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(NotAnId),
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(bytes)
}

macro_rules! hex_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0[..4])
            }
        }
        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                parse_hex(text).map(Self)
            }
        }
    };
}

hex_text!(PeerId);
hex_text!(ChatId);
hex_text!(InviteLinkId);
hex_text!(Hash);

impl PeerId {
    /// The first 8 digits, for people to read.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

/// One record of the log. Immutable once made; `hash` chains it to everything before it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    pub index: Index,
    pub term: Term,
    /// Whose doing the entry is: the sender of a message; the host for its own entries.
    pub author: PeerId,
    /// The author's incarnation.
    pub incarnation: Incarnation,
    /// The author's count (R31), 0 for entries that the host makes itself and for joins.
    pub number: Number,
    /// The course of the chat that it was said in (R30): that of the log up to it, and of a
    /// recovery the one that it begins.
    pub generation: Generation,
    /// The author's wall clock in milliseconds since 1970. It is shown and never sorted by.
    pub created_at_ms: u64,
    pub trace: TraceContext,
    pub payload: Payload,
    /// Present where R41 asks for it: on policies, on changes of voters, and on all changes of
    /// membership but `Removed`.
    pub signature: Option<Signature>,
    /// The hash of the entry before; zeros before the first.
    pub previous: Hash,
    pub hash: Hash,
}

/// What an entry does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Payload {
    /// A new host's first entry (R4), with the proof that it was elected (L3).
    TermStart(Reign),
    /// A message of a participant. Only `crypto/seal.rs` looks inside `sealed`.
    Message {
        request_id: String,
        sealed: Bytes,
    },
    Membership(Membership),
    /// The voter set from here on, whole (R5). It differs from the one before by one voter (R6).
    VoterChange(VoterSet),
    Policy(Policy),
}

/// The proof of a reign (L3): the votes that its host has won. The term, the host, and the end of
/// the log that it was voted for with, are those of the entry that this stands in.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Reign {
    /// The term of the entry before.
    pub last_term: Term,
    /// Of each voter, the host included.
    pub votes: BTreeMap<PeerId, SignedVote>,
}

/// What a voter has given a candidate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SignedVote {
    /// The voter's.
    pub incarnation: Incarnation,
    /// Over the chat and its generation, both peers in their incarnations, the term, and the end of
    /// the candidate's log with its hash.
    pub signature: Signature,
}

/// What a vote is given for (L3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ballot {
    pub generation: Generation,
    pub term: Term,
    pub candidate: PeerId,
    pub incarnation: Incarnation,
    /// The end of the candidate's log.
    pub end: End,
}

/// Where a log ends, and what it is up to there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct End {
    pub last: Position,
    pub hash: Hash,
}

/// A change of who belongs to the chat.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Membership {
    /// The first entry of every log: its author is the first member and the only voter.
    Founded { chat_name: String, name: String, address: String },
    /// The author invites `peer`: a participant who is inactive until they answer.
    Invited { peer: PeerId, address: String },
    /// The author, invited or active, takes part with this name, address and incarnation, which
    /// is the entry's. A new incarnation is the goodbye of the old one (R9). A proof lets in one
    /// whom nobody has invited (R43).
    Joined { name: String, address: String, proof: Option<InviteLinkProof> },
    /// The author does not want to take part.
    Declined,
    /// The author wants to go. It stays, without a vote, until `Removed` follows.
    Leaving,
    /// The author wants `peer` to go, who then leaves as if it had said so itself. One that has not
    /// answered its invitation is gone at once.
    Removing { peer: PeerId },
    /// The end of a membership. The host appends it once a leaving member has no vote.
    Removed { peer: PeerId },
    /// The majority is lost for ever: the author goes on as the only voter, in another generation
    /// of the chat (R30). It is written while the author's peer does not run, and never submitted.
    Recovered { generation: Generation },
    /// The author takes an invitation back, unless `peer` has joined by then.
    InviteRevoked { peer: PeerId },
    /// The author lets in up to `uses_max` peers who can sign with the link's key. The host's clock
    /// says when it has expired.
    InviteLinkCreated { link: InviteLinkId, uses_max: u32, expires_at_ms: u64 },
    /// The author ends a link.
    InviteLinkRevoked { link: InviteLinkId },
}

/// That the author of a `Joined` has the link (R43).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct InviteLinkProof {
    pub link: InviteLinkId,
    /// By the link's key, over the chat, the joining peer and its incarnation.
    pub signature: Signature,
}

/// A change of what the group has agreed on about itself. What it leaves out stays as it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Policy {
    pub chat_name: Option<String>,
    /// How much an author may add in a day from here on (L8).
    pub quota: Option<Quota>,
}

impl Policy {
    /// Renames the chat.
    pub fn named(chat_name: impl Into<String>) -> Self {
        Self { chat_name: Some(chat_name.into()), quota: None }
    }
}

/// The voters of a chat, each a peer in one incarnation (R9).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct VoterSet(pub BTreeMap<PeerId, Incarnation>);

impl VoterSet {
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.0.contains_key(peer)
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// How many voters make a majority.
    pub fn majority(&self) -> usize {
        let more_than_half = self.0.len() / 2 + 1;
        if planted(Bug::HalfIsMajority) { self.0.len().div_ceil(2) } else { more_than_half }
    }
    pub fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.0.keys()
    }
}

/// How far a membership has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemberState {
    Invited,
    Active,
    Leaving,
}

/// One who belongs to the chat, as the log says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    pub name: String,
    pub address: String,
    /// 0 until the member has joined.
    pub incarnation: Incarnation,
    pub state: MemberState,
    /// The entry that brought the member to this state.
    pub since: Index,
    /// Who wants the member to go; `None` unless it is leaving, and not by itself.
    pub removed_by: Option<PeerId>,
}

/// One whose membership has ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FormerMember {
    pub incarnation: Incarnation,
    /// `None` where it left by itself.
    pub removed_by: Option<PeerId>,
    /// The entry that ended the membership.
    pub index: Index,
}

/// Something a member wants in the log: numbered by its author and durable in the outbox (R31).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Submission {
    pub number: Number,
    pub created_at_ms: u64,
    pub trace: TraceContext,
    pub payload: Payload,
    pub signature: Option<Signature>,
}

/// The record that is durable before any message that reveals it (R1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HardState {
    pub term: Term,
    pub vote: Option<PeerId>,
}

/// A position in a log by which two logs are compared: the later last term wins, then the index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position {
    pub term: Term,
    pub index: Index,
}

/// What one peer remembers of others, each in one incarnation (R9).
pub type Pasts = BTreeMap<(PeerId, Incarnation), Past>;

/// How far a peer had come by its own word, which others show it when it comes back (R9, L5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Past {
    pub boot: Boot,
    pub term: Term,
    /// The furthest that its log was, durably.
    pub acknowledged: Position,
    /// By the peer's key. The core leaves it out; the runtime signs what leaves and has checked
    /// what arrives.
    pub signature: Option<Signature>,
}

impl Past {
    /// Whether it is nowhere less far than the other.
    pub fn covers(&self, other: &Self) -> bool {
        self.boot >= other.boot
            && self.term >= other.term
            && self.acknowledged >= other.acknowledged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_only_in_its_one_form() {
        let id = PeerId([0xa7; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("A7".repeat(32).parse::<PeerId>(), Err(NotAnId));
        assert_eq!("a7".repeat(31).parse::<PeerId>(), Err(NotAnId));
        assert_eq!("é".repeat(32).parse::<PeerId>(), Err(NotAnId));
    }

    #[test]
    fn logs_compare_by_last_term_then_index() {
        let older = Position { term: 1, index: 9 };
        let newer = Position { term: 2, index: 3 };
        assert!(newer > older);
        assert!(Position { term: 2, index: 4 } > newer);
    }
}
