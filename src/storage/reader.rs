//! Reading a chat's log beside its writer. Every record that is read is verified (R37).

use std::sync::Arc;

use redb::{ReadOnlyTable, ReadTransaction};

use super::database::{Database, Problem};
use super::error::StorageError;
use super::recover::decode_entry;
use super::schema::{self, ENTRIES, REQUESTS, Table as Tag};
use crate::protocol::types::{Entry, Index, Payload};

/// The most records that one page looks at, so that a call stays short in a log without messages.
const PAGE_SCAN_MAX: usize = 4_096;

/// Reads one chat's file; cheap to clone, and used from any thread. A call sees the file as it is
/// at one moment, uncommitted entries included: who calls knows the commit index.
#[derive(Clone)]
pub struct ChatReader {
    database: Arc<Database>,
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
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    /// The entries `from..=through`, or as many of them as the log has and `bytes_max` allows, but
    /// at least one if there is one.
    pub fn entries(
        &self,
        from: Index,
        through: Index,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, StorageError> {
        self.database.read(|transaction| {
            let table = transaction.open_table(ENTRIES)?;
            let mut entries = Vec::new();
            let mut bytes = 0;
            for (index, record) in (from..=through).zip(table.range(from..=through)?) {
                let (key, value) = record?;
                bytes += value.value().len();
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(sound(key.value(), Some(index), value.value())?);
            }
            Ok(entries)
        })
    }

    /// Up to `count` messages before the index `before`, the nearest ones.
    pub fn messages_before(&self, before: Index, count: usize) -> Result<Page, StorageError> {
        self.database.read(|transaction| {
            let table = open_log(transaction)?;
            let mut page = Page::default();
            let mut last = before;
            for (seen, record) in table.range(..before)?.rev().enumerate() {
                if seen == PAGE_SCAN_MAX || page.messages.len() >= count {
                    page.next = Some(last);
                    break;
                }
                let (key, value) = record?;
                last = key.value();
                collect(&mut page, sound(last, None, value.value())?);
            }
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
        self.database.read(|transaction| {
            let table = open_log(transaction)?;
            let mut page = Page::default();
            let mut last = after;
            for (seen, record) in table.range(after.saturating_add(1)..=through)?.enumerate() {
                if seen == PAGE_SCAN_MAX || page.messages.len() >= count {
                    page.next = Some(last);
                    break;
                }
                let (key, value) = record?;
                last = key.value();
                collect(&mut page, sound(last, None, value.value())?);
            }
            Ok(page)
        })
    }

    /// Where the request that this peer named `request_id` has got to in the log, if it has.
    pub fn index_of_request(&self, request_id: &str) -> Result<Option<Index>, StorageError> {
        self.database.read(|transaction| {
            let Some(value) = transaction.open_table(REQUESTS)?.get(request_id)? else {
                return Ok(None);
            };
            schema::payload(Tag::Requests, request_id.as_bytes(), value.value())
                .and_then(schema::number)
                .map(Some)
                .ok_or_else(|| Problem::damaged("the record of a request id is bad"))
        })
    }
}

fn open_log(transaction: &ReadTransaction) -> Result<ReadOnlyTable<u64, &'static [u8]>, Problem> {
    Ok(transaction.open_table(ENTRIES)?)
}

/// The entry of a record, which must stand at `expected` where that is known.
fn sound(index: Index, expected: Option<Index>, value: &[u8]) -> Result<Arc<Entry>, Problem> {
    if expected.is_some_and(|expected| expected != index) {
        return Err(Problem::damaged(format!("an entry before {index} is missing")));
    }
    decode_entry(index, value)
        .map(Arc::new)
        .ok_or_else(|| Problem::damaged(format!("entry {index} is bad")))
}

fn collect(page: &mut Page, entry: Arc<Entry>) {
    if matches!(entry.payload, Payload::Message { .. }) {
        page.messages.push(entry);
    }
}
