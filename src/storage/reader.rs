//! Reading a chat's log beside its writer. Every record that is read is verified, and one that must
//! be there and is not counts as damage (R37).

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use redb::{AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable as _};

use super::database::{Database, Problem};
use super::error::StorageError;
use super::known::KnownRequests;
use super::records::{decode_entry, get_state};
use super::schema::{self, Batch, ENTRIES, REQUESTS, STATE, Table as Tag, state};
use crate::protocol::types::{Entry, Hash, Index, Payload};

/// The most records that one page looks at, so that a call stays short in a log without messages.
const PAGE_SCAN_MAX: usize = 4_096;
/// How much of the log a check reads at a time: an open snapshot holds up the reuse of space.
const CHECK_BYTES: usize = 1 << 20;

/// Reads one chat's file; cheap to clone, and used from any thread. A call sees the file as it is
/// at one moment, uncommitted entries included: who calls knows the commit index.
#[derive(Clone)]
pub struct ChatReader(Arc<RwLock<File>>);

enum File {
    Open(Arc<Database>, Arc<KnownRequests>),
    Closed(PathBuf),
}

/// Some messages of the log, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    pub messages: Vec<Arc<Entry>>,
    /// The index to go on with, in the same direction; `None` at the end. It may be there without
    /// any message, where one call looked at as much as it may.
    pub next: Option<Index>,
}

impl ChatReader {
    pub(super) fn new(database: Arc<Database>, known: Arc<KnownRequests>) -> Self {
        Self(Arc::new(RwLock::new(File::Open(database, known))))
    }

    /// Whether damage was found in the file since it was opened, by whomever.
    pub fn is_damaged(&self) -> bool {
        self.database().is_ok_and(|database| database.is_damaged())
    }

    /// Lets go of the file, for this reader and its clones: `StorageError::Closed` from now on.
    /// Without readers, the file is closed when its writer goes.
    pub fn close(&self) {
        let Ok(database) = self.database() else { return };
        let path = database.path().to_owned();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = File::Closed(path);
    }

    fn database(&self) -> Result<Arc<Database>, StorageError> {
        match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            File::Open(database, _) => Ok(Arc::clone(database)),
            File::Closed(path) => Err(StorageError::Closed { path: path.clone() }),
        }
    }

    /// The entries `from..=through`, or as many of them as the log has and `bytes_max` allows, but
    /// at least one if there is one.
    pub fn entries(
        &self,
        from: Index,
        through: Index,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, StorageError> {
        self.database()?.read(|transaction| {
            let through = through.min(end(transaction)?);
            let mut entries = Vec::new();
            let mut bytes = 0;
            if from > through {
                return Ok(entries);
            }
            let log = transaction.open_table(ENTRIES)?;
            let mut records = log.range(from..=through)?;
            for index in from..=through {
                let (entry, size) = sound(records.next(), index)?;
                bytes += size;
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(entry);
            }
            Ok(entries)
        })
    }

    /// Up to `count` messages before the index `before`, the nearest ones.
    pub fn messages_before(&self, before: Index, count: usize) -> Result<Page, StorageError> {
        self.database()?.read(|transaction| {
            let before = before.min(end(transaction)?.saturating_add(1));
            let log = transaction.open_table(ENTRIES)?;
            let mut page = page(log.range(..before)?.rev(), (1..before).rev(), count)?;
            page.messages.reverse();
            Ok(page)
        })
    }

    /// Up to `count` messages after the index `after` and not beyond `through`, the nearest ones.
    pub fn messages_after(
        &self,
        after: Index,
        through: Index,
        count: usize,
    ) -> Result<Page, StorageError> {
        self.database()?.read(|transaction| {
            let through = through.min(end(transaction)?);
            if after >= through {
                return Ok(Page::default());
            }
            let log = transaction.open_table(ENTRIES)?;
            page(log.range(after + 1..=through)?, after + 1..=through, count)
        })
    }

    /// Whether `index_of_request` would surely find nothing. It does not block, and is never true
    /// before `check` has read the file through.
    pub fn lacks_request(&self, request_id: &str) -> bool {
        match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            File::Open(_, known) => known.lacks(request_id),
            File::Closed(_) => false,
        }
    }

    /// Where the request that this peer named `request_id` has got to in the log, if it has.
    pub fn index_of_request(&self, request_id: &str) -> Result<Option<Index>, StorageError> {
        self.database()?.read(|transaction| {
            let Some(value) = transaction.open_table(REQUESTS)?.get(request_id)? else {
                return Ok(None);
            };
            index_of(request_id, value.value()).map(Some)
        })
    }

    /// Reads everything that opening the file does not: the whole committed log, each entry chained
    /// to the one before, and the request ids, none of which may be missing. It takes about a
    /// second for a million entries, and makes damage known while others still have what is lost.
    pub fn check(&self) -> Result<(), StorageError> {
        let commit = self.database()?.read(|transaction| {
            let table = transaction.open_table(STATE)?;
            get_state(&table, state::COMMIT, schema::number)
        })?;
        let (mut next, mut previous) = (1, Hash::default());
        while next <= commit {
            let entries = self.entries(next, commit, CHECK_BYTES)?;
            self.database()?.read(|_| {
                for entry in &entries {
                    if entry.previous != previous || !entry.verify_hash() {
                        return Err(Problem::damaged(format!("entry {} is bad", entry.index)));
                    }
                    previous = entry.hash;
                }
                Ok(())
            })?;
            next += entries.len() as Index;
        }
        let known = match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            File::Open(_, known) => Arc::clone(known),
            File::Closed(path) => return Err(StorageError::Closed { path: path.clone() }),
        };
        self.database()?.read(|transaction| check_requests(transaction, &known))?;
        known.complete();
        Ok(())
    }
}

/// Reads all request ids, and adds them to `known`.
fn check_requests(transaction: &ReadTransaction, known: &KnownRequests) -> Result<(), Problem> {
    let table = transaction.open_table(STATE)?;
    let expected = get_state(&table, state::REQUEST_COUNT, schema::number)?;
    let mut count = 0;
    let mut before = String::new();
    for record in transaction.open_table(REQUESTS)?.iter()? {
        let (id, value) = record?;
        index_of(id.value(), value.value())?;
        if id.value() <= before.as_str() {
            return Err(Problem::damaged("the request ids are out of order"));
        }
        known.add(id.value());
        id.value().clone_into(&mut before);
        count += 1;
    }
    match count == expected {
        true => Ok(()),
        false => Err(Problem::damaged(format!("of {expected} request ids there are {count}"))),
    }
}

fn index_of(request_id: &str, value: &[u8]) -> Result<Index, Problem> {
    schema::payload(Tag::Requests, request_id.as_bytes(), value)
        .and_then(schema::number)
        .ok_or_else(|| Problem::damaged("the record of a request id is bad"))
}

/// The end of the log.
fn end(transaction: &ReadTransaction) -> Result<Index, Problem> {
    let table: ReadOnlyTable<&str, &[u8]> = transaction.open_table(STATE)?;
    Ok(get_state(&table, state::BATCH, Batch::decode)?.end)
}

type Record<'a> =
    Result<(AccessGuard<'a, u64>, AccessGuard<'a, &'static [u8]>), redb::StorageError>;

/// The entry of the record that must be the one at `index`, and its size in the file.
fn sound(record: Option<Record>, index: Index) -> Result<(Arc<Entry>, usize), Problem> {
    let bad = || Problem::damaged(format!("entry {index} is bad or missing"));
    let (key, value) = record.transpose()?.ok_or_else(bad)?;
    let entry = decode_entry(index, value.value()).filter(|_| key.value() == index);
    Ok((Arc::new(entry.ok_or_else(bad)?), value.value().len()))
}

/// Collects messages from records that must be the ones at `indexes`.
fn page<'a>(
    mut records: impl Iterator<Item = Record<'a>>,
    indexes: impl Iterator<Item = Index>,
    count: usize,
) -> Result<Page, Problem> {
    let mut page = Page::default();
    let mut last = None;
    for (seen, index) in indexes.enumerate() {
        if seen == PAGE_SCAN_MAX || page.messages.len() >= count {
            page.next = last;
            break;
        }
        last = Some(index);
        let (entry, _) = sound(records.next(), index)?;
        if matches!(entry.payload, Payload::Message { .. }) {
            page.messages.push(entry);
        }
    }
    Ok(page)
}
