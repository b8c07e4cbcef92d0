//! What belongs to the peer as a whole and not to one chat: a small store of named bytes.

use std::path::Path;

use redb::{ReadableTableMetadata as _, TableDefinition};

use super::database::{Database, Problem};
use super::error::StorageError;
use super::schema::{self, Table as Tag};

/// Invitations that this peer has got.
pub const INVITES_RECEIVED: &str = "invites_received";
/// Invitations that this peer has made.
pub const INVITES_SENT: &str = "invites_sent";

/// The records by table and key.
const RECORDS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("peer");
const FORMAT_KEY: (&str, &str) = ("store", "format");
const CACHE_BYTES: usize = 1 << 20;

/// The peer's own file. Calls may come from any thread; each write is durable when it returns.
pub struct PeerStore {
    database: Database,
}

impl PeerStore {
    /// Opens the file at `path`, or makes it.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let database = Database::create(path, CACHE_BYTES)?;
        let is_new = database.write(true, |transaction| {
            let mut table = transaction.open_table(RECORDS)?;
            let is_new = table.is_empty()?;
            if is_new {
                let format = schema::FORMAT.to_be_bytes();
                table.insert(FORMAT_KEY, value(FORMAT_KEY, &format).as_slice())?;
            }
            Ok(is_new)
        })?;
        let store = Self { database };
        if !is_new {
            store.check_format()?;
        }
        Ok(store)
    }

    /// Sets the record `key` of `table`.
    pub fn put(&self, table: &str, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.database.write(true, |transaction| {
            let value = value((table, key), bytes);
            transaction.open_table(RECORDS)?.insert((table, key), value.as_slice())?;
            Ok(())
        })
    }

    /// The record `key` of `table`.
    pub fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        self.database.read(|transaction| {
            let value = transaction.open_table(RECORDS)?.get((table, key))?;
            value.map(|value| payload((table, key), value.value())).transpose()
        })
    }

    /// Removes the record `key` of `table`, if it is there.
    pub fn remove(&self, table: &str, key: &str) -> Result<(), StorageError> {
        self.database.write(true, |transaction| {
            transaction.open_table(RECORDS)?.remove((table, key))?;
            Ok(())
        })
    }

    /// All records of `table`, by key.
    pub fn list(&self, table: &str) -> Result<Vec<(String, Vec<u8>)>, StorageError> {
        self.database.read(|transaction| {
            let mut list = Vec::new();
            for record in transaction.open_table(RECORDS)?.range((table, "")..)? {
                let (key, value) = record?;
                let (of, key) = key.value();
                if of != table {
                    break;
                }
                list.push((key.to_owned(), payload((table, key), value.value())?));
            }
            Ok(list)
        })
    }

    fn check_format(&self) -> Result<(), StorageError> {
        self.database.read(|transaction| {
            let value = transaction.open_table(RECORDS)?.get(FORMAT_KEY)?;
            let value = value.ok_or_else(|| Problem::damaged("the format is missing"))?;
            let format = payload(FORMAT_KEY, value.value())?;
            let format = format.try_into().map_err(|_| Problem::damaged("the format is bad"))?;
            match u32::from_be_bytes(format) {
                schema::FORMAT => Ok(()),
                other => Err(Problem::Version(other)),
            }
        })
    }
}

fn checksum_key((table, key): (&str, &str)) -> Vec<u8> {
    [table.as_bytes(), &[0], key.as_bytes()].concat()
}

fn value(key: (&str, &str), bytes: &[u8]) -> Vec<u8> {
    schema::value(Tag::Peer, &checksum_key(key), bytes)
}

fn payload(key: (&str, &str), value: &[u8]) -> Result<Vec<u8>, Problem> {
    schema::payload(Tag::Peer, &checksum_key(key), value)
        .map(<[u8]>::to_vec)
        .ok_or_else(|| Problem::damaged(format!("a record of {} is bad", key.0)))
}
