//! What a sealer knows of the log up to its position, as the vault stores it.

use bytes::Bytes;
use demes_protocol::types::{Generation, Hash, Incarnation, Index, PeerId};
use prost::Message as _;

use crate::credential::Seat;
use crate::memory::Secret;
use crate::roster::{Leaf, Participant, Roster};
use crate::timing::PastEpoch;
use crate::vault::secret;

/// The state beside the group's. All of it follows from the log and from when it was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ledger {
    /// Entries up to here were taken (S7).
    pub position: Index,
    /// The hash of the entry there: another log has another one.
    pub hash: Hash,
    pub generation: Generation,
    pub roster: Roster,
    /// The group that is held: its id, and since which epoch.
    pub group: Option<Held>,
    pub past: Vec<PastEpoch>,
    /// A Commit of others did not open here: a new seat is needed (S16).
    pub is_locked_out: bool,
    /// The log has what this vault does not know to have sealed: it is an old copy (S6).
    pub is_stale: bool,
    /// Own contents since the leaf was renewed, and when that was (S10).
    pub own_messages: u64,
    pub renewed_at_ms: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    pub id: Vec<u8>,
    pub since_epoch: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LedgerRecord {
    #[prost(uint64, tag = "1")]
    position: u64,
    #[prost(bytes = "vec", tag = "2")]
    hash: Vec<u8>,
    #[prost(uint64, tag = "3")]
    generation: u64,
    #[prost(message, repeated, tag = "4")]
    participants: Vec<ParticipantRecord>,
    #[prost(uint64, tag = "5")]
    founded: u64,
    #[prost(bytes = "vec", optional, tag = "6")]
    group: Option<Vec<u8>>,
    #[prost(uint64, tag = "7")]
    since_epoch: u64,
    #[prost(message, repeated, tag = "8")]
    past: Vec<PastRecord>,
    #[prost(bool, tag = "9")]
    is_locked_out: bool,
    #[prost(bool, tag = "10")]
    is_stale: bool,
    #[prost(uint64, tag = "11")]
    own_messages: u64,
    #[prost(uint64, tag = "12")]
    renewed_at_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ParticipantRecord {
    #[prost(message, optional, tag = "1")]
    seat: Option<SeatRecord>,
    #[prost(bytes = "bytes", tag = "2")]
    reference: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    package: Bytes,
    #[prost(bool, tag = "4")]
    is_welcomed: bool,
}

/// A seat as a record.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SeatRecord {
    #[prost(bytes = "vec", tag = "1")]
    peer: Vec<u8>,
    #[prost(uint64, tag = "2")]
    incarnation: u64,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PastRecord {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    ended_at: u64,
    #[prost(uint64, tag = "3")]
    ended_at_ms: u64,
}

impl SeatRecord {
    pub fn of(seat: &Seat) -> Self {
        Self { peer: seat.peer.0.to_vec(), incarnation: seat.incarnation, key: seat.key.to_vec() }
    }

    pub fn seat(&self) -> Option<Seat> {
        Some(Seat {
            peer: PeerId(self.peer[..].try_into().ok()?),
            incarnation: self.incarnation as Incarnation,
            key: self.key[..].try_into().ok()?,
        })
    }
}

impl Ledger {
    pub fn encode(&self) -> Secret {
        let participant = |participant: &Participant| ParticipantRecord {
            seat: Some(SeatRecord::of(&participant.leaf.seat)),
            reference: participant.leaf.reference.clone(),
            package: participant.package.clone(),
            is_welcomed: participant.is_welcomed,
        };
        let past = |past: &PastEpoch| PastRecord {
            epoch: past.epoch,
            ended_at: past.ended_at,
            ended_at_ms: past.ended_at_ms,
        };
        let record = LedgerRecord {
            position: self.position,
            hash: self.hash.0.to_vec(),
            generation: self.generation,
            participants: self.roster.participants().values().map(participant).collect(),
            founded: self.roster.founded(),
            group: self.group.as_ref().map(|held| held.id.clone()),
            since_epoch: self.group.as_ref().map_or(0, |held| held.since_epoch),
            past: self.past.iter().map(past).collect(),
            is_locked_out: self.is_locked_out,
            is_stale: self.is_stale,
            own_messages: self.own_messages,
            renewed_at_ms: self.renewed_at_ms,
        };
        secret(record.encode_to_vec())
    }

    /// Reads what `encode` has written. The vault has checked that nobody else wrote it.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let record = LedgerRecord::decode(bytes).ok()?;
        let participant = |participant: ParticipantRecord| {
            Some(Participant {
                leaf: Leaf { seat: participant.seat?.seat()?, reference: participant.reference },
                package: participant.package,
                is_welcomed: participant.is_welcomed,
            })
        };
        let participants: Option<Vec<_>> =
            record.participants.into_iter().map(participant).collect();
        let past = |past: PastRecord| PastEpoch {
            epoch: past.epoch,
            ended_at: past.ended_at,
            ended_at_ms: past.ended_at_ms,
        };
        let since_epoch = record.since_epoch;
        Some(Self {
            position: record.position,
            hash: Hash(record.hash[..].try_into().ok()?),
            generation: record.generation,
            roster: Roster::restore(record.founded, participants?),
            group: record.group.map(|id| Held { id, since_epoch }),
            past: record.past.into_iter().map(past).collect(),
            is_locked_out: record.is_locked_out,
            is_stale: record.is_stale,
            own_messages: record.own_messages,
            renewed_at_ms: record.renewed_at_ms,
        })
    }
}
