//! The vault's other records: key packages, Commits that wait for the log, reserved keys, and own
//! contents.

use bytes::Bytes;
use prost::Message as _;

use crate::group::{NewSeat, SeatSecrets};
use crate::ledger::SeatRecord;
use crate::memory::Secret;
use crate::roster::Change;
use crate::suite::Suite;
use crate::vault::secret;

#[derive(Clone, PartialEq, prost::Message)]
struct NewSeatRecord {
    #[prost(message, optional, tag = "1")]
    seat: Option<SeatRecord>,
    #[prost(bytes = "bytes", tag = "2")]
    package: Bytes,
    #[prost(uint32, tag = "3")]
    suite: u32,
    #[prost(bytes = "vec", tag = "4")]
    signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    signer: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    init: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    leaf: Vec<u8>,
}

pub(crate) fn encode_seat(new: &NewSeat) -> Secret {
    let record = NewSeatRecord {
        seat: Some(SeatRecord::of(&new.seat)),
        package: new.package.clone(),
        suite: u32::from(new.secrets.suite.code()),
        signature: new.secrets.signature.to_vec(),
        signer: new.secrets.signer.to_vec(),
        init: new.secrets.init.to_vec(),
        leaf: new.secrets.leaf.to_vec(),
    };
    secret(record.encode_to_vec())
}

pub(crate) fn decode_seat(bytes: &[u8]) -> Option<NewSeat> {
    let record = NewSeatRecord::decode(bytes).ok()?;
    Some(NewSeat {
        seat: record.seat?.seat()?,
        package: record.package,
        secrets: SeatSecrets {
            suite: Suite::from_code(u16::try_from(record.suite).ok()?)?,
            signature: record.signature[..].try_into().ok()?,
            signer: secret(record.signer),
            init: secret(record.init),
            leaf: secret(record.leaf),
        },
    })
}

/// A Commit of this peer that is not in the log yet (S3).
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub commit: Bytes,
    pub welcome: Bytes,
    pub changes: Vec<Change>,
    pub secrets: Secret,
    /// The group that it founds, as it is before the Commit (S11).
    pub founded: Option<Secret>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PendingRecord {
    #[prost(bytes = "bytes", tag = "1")]
    commit: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    welcome: Bytes,
    #[prost(message, repeated, tag = "3")]
    add: Vec<SeatRecord>,
    #[prost(message, repeated, tag = "4")]
    remove: Vec<SeatRecord>,
    #[prost(bytes = "vec", tag = "5")]
    secrets: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "6")]
    founded: Option<Vec<u8>>,
}

impl Pending {
    pub fn encode(&self) -> Secret {
        let mut record = PendingRecord {
            commit: self.commit.clone(),
            welcome: self.welcome.clone(),
            secrets: self.secrets.to_vec(),
            founded: self.founded.as_ref().map(|state| state.to_vec()),
            ..PendingRecord::default()
        };
        for change in &self.changes {
            match change {
                Change::Add(seat) => record.add.push(SeatRecord::of(seat)),
                Change::Remove(seat) => record.remove.push(SeatRecord::of(seat)),
            }
        }
        secret(record.encode_to_vec())
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let record = PendingRecord::decode(bytes).ok()?;
        let add = record.add.iter().map(|seat| seat.seat().map(Change::Add));
        let remove = record.remove.iter().map(|seat| seat.seat().map(Change::Remove));
        let changes: Option<Vec<Change>> = add.chain(remove).collect();
        Some(Self {
            commit: record.commit,
            welcome: record.welcome,
            changes: changes?,
            secrets: secret(record.secrets),
            founded: record.founded.map(secret),
        })
    }
}

/// Which of the sender's keys may have been used (S6).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Reserved {
    #[prost(bytes = "vec", tag = "1")]
    pub group: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Keys of generations below this may have been used.
    #[prost(uint32, tag = "3")]
    pub end: u32,
    /// How many were skipped by starts since others have last seen a message in this epoch.
    #[prost(uint32, tag = "4")]
    pub skipped: u32,
    /// The generation at which the last of those skips ended: a message from there on shows others
    /// that there was a gap.
    #[prost(uint32, tag = "5")]
    pub skipped_to: u32,
}

impl Reserved {
    pub fn record(&self) -> Secret {
        secret(self.encode_to_vec())
    }

    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes).ok()
    }
}

/// What the outbox keeps beside a sealed message: MLS opens no own message (S5).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Own {
    #[prost(bytes = "bytes", tag = "1")]
    pub content: Bytes,
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    #[prost(uint32, tag = "3")]
    pub generation: u32,
    #[prost(bytes = "vec", tag = "4")]
    pub group: Vec<u8>,
}
