//! What the records of a chat's file look like.
//!
//! The value of every record is a CRC-32 and a payload. The checksum covers the table and the key
//! as well, so that a sound record in a wrong place fails like a damaged one. Numbers are
//! big-endian.

use redb::TableDefinition;

use crate::protocol::evidence::{Evidence, Findings, Offence};
use crate::protocol::types::{Boot, HardState, Incarnation, Index, Past, Pasts, PeerId, Position};

/// Written by every version that this one can read. Another number: another format.
pub const FORMAT: u32 = 8;

/// The log: an entry's canonical form by its index.
pub const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
/// Small facts, each a record of its own, by the names in `state`. Every one of them is always
/// there, so that one whose name was spoiled is missed.
pub const STATE: TableDefinition<&str, &[u8]> = TableDefinition::new("state");
/// Submissions' canonical forms by their number.
pub const OUTBOX: TableDefinition<u64, &[u8]> = TableDefinition::new("outbox");
/// The index that an own request id has got.
pub const REQUESTS: TableDefinition<&str, &[u8]> = TableDefinition::new("requests");
/// The last checkpoints' canonical forms by their index.
pub const CHECKPOINTS: TableDefinition<u64, &[u8]> = TableDefinition::new("checkpoints");

/// Submissions of an earlier incarnation, in their order: what its outbox held when its file was
/// set aside, and the log may have or not.
pub const CARRIED: TableDefinition<u64, &[u8]> = TableDefinition::new("carried");

/// The names of the records in `STATE`.
pub mod state {
    /// `FORMAT`.
    pub const FORMAT: &str = "format";
    /// The chat's id.
    pub const CHAT: &str = "chat";
    /// `VoterState`.
    pub const VOTER_STATE: &str = "voter_state";
    /// The generation of the chat that this file takes part in (R30).
    pub const GENERATION: &str = "generation";
    /// The commit index.
    pub const COMMIT: &str = "commit";
    /// The highest number that this incarnation gave away.
    pub const LAST_NUMBER: &str = "last_number";
    /// Submissions up to this number have left the outbox.
    pub const OUTBOX_REMOVED: &str = "outbox_removed";
    /// How many request ids there are.
    pub const REQUEST_COUNT: &str = "request_count";
    /// How many submissions are carried.
    pub const CARRIED_COUNT: &str = "carried_count";
    /// How many writes there were; see `mark.rs`.
    pub const WRITES: &str = "writes";
    /// The person's reading position.
    pub const READ: &str = "read";
    /// What is remembered of other peers, as `encode_pasts` writes it.
    pub const PASTS: &str = "pasts";
    /// What was found of other peers, as `encode_evidence` writes it.
    pub const EVIDENCE: &str = "evidence";
    /// `Batch`.
    pub const BATCH: &str = "batch";
    /// The end of a batch that was cut; 0 when there is no doubt (R37).
    pub const DOUBT: &str = "doubt";
    /// Who removed this peer from the chat; empty where nobody has.
    pub const REMOVED_BY: &str = "removed_by";
}

/// A record's table, as its checksum sees it.
#[derive(Clone, Copy)]
pub enum Table {
    Entries = 1,
    State = 2,
    Outbox = 3,
    Requests = 4,
    Checkpoints = 5,
    Peer = 6,
    Carried = 7,
}

const CHECKSUM_LEN: usize = 4;
const PAST_LEN: usize = 136;
const EVIDENCE_LEN: usize = 41;

/// The checksum of a record.
pub fn checksum(table: Table, key: &[u8], payload: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[table as u8]);
    crc.update(&(key.len() as u64).to_be_bytes());
    crc.update(key);
    crc.update(payload);
    crc.finalize().to_be_bytes()
}

/// The value to store for `payload`.
pub fn value(table: Table, key: &[u8], payload: &[u8]) -> Vec<u8> {
    [&checksum(table, key, payload), payload].concat()
}

/// The payload of a stored value; `None` if its checksum is wrong.
pub fn payload<'a>(table: Table, key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (stored, payload) = value.split_first_chunk::<CHECKSUM_LEN>()?;
    (*stored == checksum(table, key, payload)).then_some(payload)
}

/// The payload of a stored number.
pub fn number(payload: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(payload.try_into().ok()?))
}

/// What a voter must never forget, in one record (R1, R9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VoterState {
    pub incarnation: Incarnation,
    pub boot: Boot,
    pub hard_state: HardState,
    /// The furthest that the log has been where it was cut since.
    pub furthest: Position,
}

impl VoterState {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(72);
        let Position { term, index } = self.furthest;
        for number in [self.incarnation, self.boot, self.hard_state.term, term, index] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        if let Some(vote) = &self.hard_state.vote {
            bytes.extend_from_slice(&vote.0);
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, vote) = bytes.split_first_chunk::<40>()?;
        let vote = match vote {
            [] => None,
            key => Some(PeerId(key.try_into().ok()?)),
        };
        let mut numbers = numbers.chunks_exact(8).map(number);
        let mut next = || numbers.next().flatten();
        Some(Self {
            incarnation: next()?,
            boot: next()?,
            hard_state: HardState { term: next()?, vote },
            furthest: Position { term: next()?, index: next()? },
        })
    }
}

/// What other peers have said of themselves (R9, L5): 136 bytes each.
pub fn encode_pasts(pasts: &Pasts) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pasts.len() * PAST_LEN);
    for ((peer, incarnation), past) in pasts {
        bytes.extend_from_slice(&peer.0);
        let acknowledged = past.acknowledged;
        for number in [*incarnation, past.boot, past.term, acknowledged.term, acknowledged.index] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        // None is without, as nothing but a test's is.
        bytes.extend_from_slice(&past.signature.unwrap_or([0; 64]));
    }
    bytes
}

pub fn decode_pasts(bytes: &[u8]) -> Option<Pasts> {
    let records = bytes.chunks_exact(PAST_LEN);
    if !records.remainder().is_empty() {
        return None;
    }
    let past = |record: &[u8]| {
        let (key, rest) = record.split_first_chunk::<32>()?;
        let (numbers, signature) = rest.split_last_chunk::<64>()?;
        let signature = Some(*signature).filter(|signature| *signature != [0; 64]);
        let mut numbers = numbers.chunks_exact(8).map(number);
        let mut next = || numbers.next().flatten();
        let incarnation = next()?;
        let (boot, term) = (next()?, next()?);
        let acknowledged = Position { term: next()?, index: next()? };
        Some(((PeerId(*key), incarnation), Past { boot, term, acknowledged, signature }))
    };
    records.map(past).collect()
}

/// What was found of other peers (L6): 41 bytes each.
pub fn encode_evidence(findings: &Findings) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(findings.len() * EVIDENCE_LEN);
    for (peer, evidence) in findings {
        bytes.extend_from_slice(&peer.0);
        bytes.extend_from_slice(&evidence.term.to_be_bytes());
        bytes.push(evidence.what.code());
    }
    bytes
}

pub fn decode_evidence(bytes: &[u8]) -> Option<Findings> {
    let records = bytes.chunks_exact(EVIDENCE_LEN);
    if !records.remainder().is_empty() {
        return None;
    }
    let evidence = |record: &[u8]| {
        let (key, rest) = record.split_first_chunk::<32>()?;
        let (term, what) = rest.split_at_checked(8)?;
        let what = Offence::from_code(*what.first()?)?;
        Some((PeerId(*key), Evidence { term: number(term)?, what }))
    };
    records.map(evidence).collect()
}

/// The last batch that was written: the entries after `previous_end`, through `end`. Everything up
/// to `previous_end` was synced before, so only what is after it can be torn (R37).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    pub previous_end: Index,
    pub end: Index,
}

impl Batch {
    pub fn encode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.previous_end.to_be_bytes());
        bytes[8..].copy_from_slice(&self.end.to_be_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (previous_end, end) = bytes.split_at_checked(8)?;
        Some(Self { previous_end: number(previous_end)?, end: number(end)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_binds_table_key_and_payload() {
        let stored = value(Table::Entries, &7_u64.to_be_bytes(), b"payload");
        assert_eq!(payload(Table::Entries, &7_u64.to_be_bytes(), &stored), Some(&b"payload"[..]));
        assert_eq!(payload(Table::Entries, &8_u64.to_be_bytes(), &stored), None);
        assert_eq!(payload(Table::Outbox, &7_u64.to_be_bytes(), &stored), None);
        for position in 0..stored.len() {
            let mut flipped = stored.clone();
            flipped[position] ^= 4;
            assert_eq!(payload(Table::Entries, &7_u64.to_be_bytes(), &flipped), None);
            let cut = &stored[..position];
            assert_eq!(payload(Table::Entries, &7_u64.to_be_bytes(), cut), None);
        }
        // The border between key and payload counts, too.
        let stored = value(Table::Requests, b"ab", b"c");
        assert_eq!(payload(Table::Requests, b"a", &stored), None);
    }

    #[test]
    fn fixed_records_read_back() {
        for vote in [None, Some(PeerId([3; 32]))] {
            let hard_state = HardState { term: 5, vote };
            let furthest = Position { term: 4, index: 9 };
            let voter_state = VoterState { incarnation: 1, boot: 2, hard_state, furthest };
            assert_eq!(VoterState::decode(&voter_state.encode()), Some(voter_state));
            assert_eq!(VoterState::decode(&voter_state.encode()[1..]), None);
        }
        let batch = Batch { previous_end: 4, end: 9 };
        assert_eq!(Batch::decode(&batch.encode()), Some(batch));
        assert_eq!(Batch::decode(&batch.encode()[..15]), None);
        assert_eq!(Batch::decode(b""), None);
        let evidence = Evidence { term: 7, what: Offence::TwoEntries };
        let findings = Findings::from([1, 2].map(|peer| (PeerId([peer; 32]), evidence)));
        let bytes = encode_evidence(&findings);
        assert_eq!(decode_evidence(&bytes).as_ref(), Some(&findings));
        assert_eq!(decode_evidence(&bytes[1..]), None);
        assert_eq!(decode_evidence(&[&bytes[..81], &[0]].concat()), None, "no such offence");
        for code in 0..=u8::MAX {
            let offence = Offence::from_code(code);
            assert!(offence.is_none_or(|offence| offence.code() == code));
        }
    }
}
