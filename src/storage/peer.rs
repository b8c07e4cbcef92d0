//! What belongs to the peer as a whole and not to one chat: a small store of named bytes.
//!
//! Nobody else has what stands here. So all of it is verified when it is opened, and a store in
//! which anything is bad, missing or older than it was is refused until a person says what to do.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use redb::{ReadTransaction, ReadableTable as _, TableDefinition};

use super::apart::apart;
use super::database::{Database, Problem, marker_of};
use super::error::StorageError;
use super::files::remove_if_there;
use super::mark::{Mark, Seen};
use super::names::put_in_place;
use super::schema::{self, Table as Tag};

/// Invitations that this peer has got.
pub const INVITES_RECEIVED: &str = "invites_received";
/// Invitations that this peer has made.
pub const INVITES_SENT: &str = "invites_sent";

/// The records by table and key.
const RECORDS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("peer");
const FORMAT_KEY: (&str, &str) = ("store", "format");
/// How many records there are, these included, and how many writes there were.
const COUNTS_KEY: (&str, &str) = ("store", "counts");
const CACHE_BYTES: usize = 1 << 20;

/// The peer's own file. Calls may come from any thread; each write is durable when it returns, and
/// holds up none of the thread's other tasks.
pub struct PeerStore {
    database: Database,
    mark: Mark,
    counts: Mutex<Counts>,
}

#[derive(Clone, Copy)]
struct Counts {
    records: u64,
    writes: u64,
}

impl Counts {
    fn encode(self) -> Vec<u8> {
        [self.records.to_be_bytes(), self.writes.to_be_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (records, writes) = bytes.split_at_checked(8)?;
        Some(Self { records: schema::number(records)?, writes: schema::number(writes)? })
    }

    fn seen(self) -> Seen {
        Seen { incarnation: 0, writes: self.writes }
    }
}

impl PeerStore {
    /// Opens the file at `path`, or makes it where there never was one.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let seen = Mark::open(path)?.read().map_or(0, |seen| seen.writes);
        if !path.exists() {
            if seen > 0 {
                return Err(StorageError::NotThere { path: path.to_owned() });
            }
            write_new(path)?;
        }
        let database = Database::open(path, CACHE_BYTES)?;
        let counts = database.read(check)?;
        let mark = Mark::open(path)?;
        if seen > counts.writes {
            return Err(StorageError::Older { path: path.to_owned() });
        }
        mark.note(counts.seen());
        Ok(Self { database, mark, counts: Mutex::new(counts) })
    }

    /// Sets the record `key` of `table`.
    pub fn put(&self, table: &str, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.change((table, key), Some(value((table, key), bytes)))
    }

    /// The record `key` of `table`.
    pub fn get(&self, table: &str, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        self.read(|transaction| {
            let value = transaction.open_table(RECORDS)?.get((table, key))?;
            value.map(|value| payload((table, key), value.value())).transpose()
        })
    }

    /// Removes the record `key` of `table`, if it is there.
    pub fn remove(&self, table: &str, key: &str) -> Result<(), StorageError> {
        self.change((table, key), None)
    }

    /// All records of `table`, by key.
    pub fn list(&self, table: &str) -> Result<Vec<(String, Vec<u8>)>, StorageError> {
        self.read(|transaction| {
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

    fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, Problem>,
    ) -> Result<T, StorageError> {
        apart(|| self.database.read(read))
    }

    /// Sets or removes a record.
    fn change(&self, key: (&str, &str), record: Option<Vec<u8>>) -> Result<(), StorageError> {
        apart(|| self.change_here(key, record))
    }

    fn change_here(&self, key: (&str, &str), record: Option<Vec<u8>>) -> Result<(), StorageError> {
        let mut counts = self.lock_counts();
        let mut now = Counts { writes: counts.writes + 1, ..*counts };
        self.database.write(true, |transaction| {
            let mut table = transaction.open_table(RECORDS)?;
            let was_there = match &record {
                Some(record) => table.insert(key, record.as_slice())?.is_some(),
                None => table.remove(key)?.is_some(),
            };
            now.records = now.records + u64::from(record.is_some()) - u64::from(was_there);
            table.insert(COUNTS_KEY, value(COUNTS_KEY, &now.encode()).as_slice())?;
            Ok(())
        })?;
        self.mark.note(now.seen());
        *counts = now;
        Ok(())
    }

    fn lock_counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().expect("nothing panics while it holds this lock")
    }
}

/// Makes an empty store, which appears under its name when it is complete.
fn write_new(path: &Path) -> Result<(), StorageError> {
    let new = path.with_extension("redb.new");
    remove_if_there(&new)?;
    remove_if_there(&marker_of(&new))?;
    let database = Database::create(&new, CACHE_BYTES)?;
    database.write(true, |transaction| {
        let mut table = transaction.open_table(RECORDS)?;
        let records = [
            (FORMAT_KEY, schema::FORMAT.to_be_bytes().to_vec()),
            (COUNTS_KEY, Counts { records: 2, writes: 1 }.encode()),
        ];
        for (key, bytes) in records {
            table.insert(key, value(key, &bytes).as_slice())?;
        }
        Ok(())
    })?;
    drop(database);
    put_in_place(&new, path)
}

/// Verifies every record, and that none is missing.
fn check(transaction: &ReadTransaction) -> Result<Counts, Problem> {
    let table = transaction.open_table(RECORDS)?;
    let get = |key: (&str, &str)| {
        let record = table.get(key)?;
        let record =
            record.ok_or_else(|| Problem::damaged(format!("the {} are missing", key.1)))?;
        payload(key, record.value())
    };
    let format = get(FORMAT_KEY)?.try_into().map_err(|_| Problem::damaged("the format is bad"))?;
    let format = u32::from_be_bytes(format);
    if format != schema::FORMAT {
        return Err(Problem::Version(format));
    }
    let counts = get(COUNTS_KEY)?;
    let counts = Counts::decode(&counts).ok_or_else(|| Problem::damaged("the counts are bad"))?;
    let mut records = 0;
    let mut before = (String::new(), String::new());
    for record in table.iter()? {
        let (key, value) = record?;
        let (of, key) = key.value();
        payload((of, key), value.value())?;
        if (of, key) <= (before.0.as_str(), before.1.as_str()) {
            return Err(Problem::damaged("the records are out of order"));
        }
        before = (of.to_owned(), key.to_owned());
        records += 1;
    }
    match records == counts.records {
        true => Ok(counts),
        false => {
            Err(Problem::damaged(format!("of {} records there are {records}", counts.records)))
        }
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
