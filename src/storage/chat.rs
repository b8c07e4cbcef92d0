//! The writer of one chat's file. `persist` is the hot path: everything that a replica wants
//! durable goes through it, thousands of times a second.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{ReadableTableMetadata as _, Table, WriteTransaction};

use super::database::{Database, Problem, marker_of};
use super::directory::{chat_path, sync_directory};
use super::error::StorageError;
use super::reader::ChatReader;
use super::recover;
use super::schema::{
    self, Batch, CHECKPOINTS, ENTRIES, OUTBOX, REQUESTS, STATE, Table as Tag, Vows, state,
};
use crate::protocol::event::{Persist, Recovered};
use crate::protocol::types::{ChatId, Entry, HardState, Incarnation, Index, Number, Submission};

/// The memory that redb may hold for one chat.
pub(super) const CACHE_BYTES: usize = 16 << 20;
/// An older checkpoint stays, in case the newest is lost with a torn batch.
const CHECKPOINTS_KEPT: u64 = 2;

/// One chat's file, open for writing. Dropping it, and all its readers, closes the file.
pub struct ChatStore {
    pub(super) database: Arc<Database>,
    pub(super) chat: ChatId,
    pub(super) vows: Vows,
    pub(super) batch: Batch,
    pub(super) last_number: Number,
    /// The end of a batch that was cut; voting is in doubt until the commit index reaches it.
    pub(super) doubt_through: Option<Index>,
}

/// Draws an incarnation for a new store (R9). It is not 0, which stands for "unknown".
pub fn new_incarnation() -> Result<Incarnation, StorageError> {
    loop {
        let incarnation = getrandom::u64().map_err(StorageError::Random)?;
        if incarnation != 0 {
            return Ok(incarnation);
        }
    }
}

impl ChatStore {
    /// Makes the file of a chat that is new here, in its first boot. A founder gives the founding
    /// entry, which is committed by that; one who joins gives none.
    ///
    /// The file appears under its name only when it is complete. One that is there is not touched:
    /// `StorageError::AlreadyThere`.
    pub fn create(
        dir: &Path,
        chat: ChatId,
        incarnation: Incarnation,
        entries: &[Arc<Entry>],
    ) -> Result<(Self, Recovered), StorageError> {
        let path = chat_path(dir, chat);
        let new = path.with_extension("redb.new");
        if path.exists() {
            return Err(StorageError::AlreadyThere { path });
        }
        let io = |doing| move |error| StorageError::io(doing, dir, error);
        // What an earlier attempt left, or the marker of a store that was moved away.
        for leftover in [&new, &marker_of(&path)] {
            if leftover.exists() {
                fs::remove_file(leftover).map_err(io("clean up in"))?;
            }
        }
        let database = Database::create(&new, CACHE_BYTES)?;
        let end = entries.last().map_or(0, |entry| entry.index);
        // `recover::open` raises the boot number to 1.
        let vows = Vows { incarnation, boot: 0, hard_state: HardState::default() };
        database.write(true, |transaction| {
            append(&mut transaction.open_table(ENTRIES)?, entries)?;
            transaction.open_table(OUTBOX)?;
            transaction.open_table(REQUESTS)?;
            transaction.open_table(CHECKPOINTS)?;
            let mut table = transaction.open_table(STATE)?;
            put_state(&mut table, state::FORMAT, &schema::FORMAT.to_be_bytes())?;
            put_state(&mut table, state::CHAT, &chat.0)?;
            put_state(&mut table, state::VOWS, &vows.encode())?;
            put_state(&mut table, state::BATCH, &Batch { previous_end: end, end }.encode())?;
            for name in [state::LAST_NUMBER, state::READ, state::DOUBT] {
                put_state(&mut table, name, &0_u64.to_be_bytes())?;
            }
            put_state(&mut table, state::COMMIT, &end.to_be_bytes())
        })?;
        drop(database);
        fs::rename(&new, &path).map_err(io("name a store in"))?;
        sync_directory(dir)?;
        recover::open(&path)
    }

    /// Opens a chat's file, checks it (R37) and raises its boot number durably (R9).
    pub fn open(path: &Path) -> Result<(Self, Recovered), StorageError> {
        recover::open(path)
    }

    /// Makes `persist` durable, all of it or nothing, and says how long that took.
    ///
    /// Its entries must continue the log. An error is final: nothing is tried again, and later
    /// calls fail at once.
    pub fn persist(&mut self, persist: &Persist) -> Result<Duration, StorageError> {
        let started = Instant::now();
        let vows = persist.hard_state.map(|hard_state| Vows { hard_state, ..self.vows });
        let batch = self.next_batch(persist);
        let last_number = persist.outbox_put.iter().map(|submission| submission.number).max();
        let last_number = last_number.filter(|number| *number > self.last_number);
        let doubt_ends = match (self.doubt_through, persist.commit) {
            (Some(through), Some(commit)) => commit >= through,
            _ => false,
        };
        // Somebody waits for entries, votes and the outbox, and nobody for the rest. The replica
        // writes the rest by itself when a chat falls silent, so that a crash in a quiet hour
        // leaves a file that opens at once.
        let awaited = persist.hard_state.is_some()
            || !persist.entries.is_empty()
            || !persist.outbox_put.is_empty();
        self.database.write(!awaited, |transaction| {
            write_log(transaction, persist)?;
            write_outbox(transaction, persist)?;
            write_requests(transaction, persist)?;
            write_checkpoint(transaction, persist)?;
            let mut table = transaction.open_table(STATE)?;
            if let Some(vows) = &vows {
                put_state(&mut table, state::VOWS, &vows.encode())?;
            }
            if let Some(pasts) = &persist.pasts {
                put_state(&mut table, state::PASTS, &schema::encode_pasts(pasts))?;
            }
            if batch != self.batch {
                put_state(&mut table, state::BATCH, &batch.encode())?;
            }
            let numbers = [
                (state::LAST_NUMBER, last_number),
                (state::COMMIT, persist.commit),
                (state::READ, persist.read),
                (state::DOUBT, doubt_ends.then_some(0)),
            ];
            for (name, number) in numbers {
                if let Some(number) = number {
                    put_state(&mut table, name, &number.to_be_bytes())?;
                }
            }
            Ok(())
        })?;
        self.vows = vows.unwrap_or(self.vows);
        self.batch = batch;
        self.last_number = last_number.unwrap_or(self.last_number);
        if doubt_ends {
            self.doubt_through = None;
        }
        Ok(started.elapsed())
    }

    /// A reader for other threads.
    pub fn reader(&self) -> ChatReader {
        ChatReader::new(self.database.clone())
    }

    pub fn chat(&self) -> ChatId {
        self.chat
    }

    pub fn incarnation(&self) -> Incarnation {
        self.vows.incarnation
    }

    pub fn path(&self) -> PathBuf {
        self.database.path().to_owned()
    }

    /// What this write's batch is. A write without entries has an empty one: it proves that the
    /// batch before it was synced as a whole.
    fn next_batch(&self, persist: &Persist) -> Batch {
        let truncated = persist.truncate_from.map_or(Index::MAX, |from| from.saturating_sub(1));
        let previous_end = self.batch.end.min(truncated);
        let mut end = previous_end;
        for entry in &persist.entries {
            assert_eq!(entry.index, end + 1, "the entries to persist continue the log");
            end = entry.index;
        }
        Batch { previous_end, end }
    }
}

fn write_log(transaction: &WriteTransaction, persist: &Persist) -> Result<(), Problem> {
    if persist.truncate_from.is_none() && persist.entries.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(ENTRIES)?;
    if let Some(from) = persist.truncate_from {
        truncate(&mut table, from)?;
    }
    append(&mut table, &persist.entries)
}

/// Removes the entries from `from` on.
pub(super) fn truncate(table: &mut Table<u64, &[u8]>, from: Index) -> Result<(), Problem> {
    Ok(table.retain_in(from.., |_, _| false)?)
}

fn append(table: &mut Table<u64, &[u8]>, entries: &[Arc<Entry>]) -> Result<(), Problem> {
    for entry in entries {
        put(table, Tag::Entries, entry.index, &entry.encode())?;
    }
    Ok(())
}

fn write_outbox(transaction: &WriteTransaction, persist: &Persist) -> Result<(), Problem> {
    if persist.outbox_put.is_empty() && persist.outbox_remove_through.is_none() {
        return Ok(());
    }
    let mut table = transaction.open_table(OUTBOX)?;
    for submission in &persist.outbox_put {
        put(&mut table, Tag::Outbox, submission.number, &Submission::encode(submission))?;
    }
    if let Some(through) = persist.outbox_remove_through {
        table.retain_in(..=through, |_, _| false)?;
    }
    Ok(())
}

fn write_requests(transaction: &WriteTransaction, persist: &Persist) -> Result<(), Problem> {
    if persist.request_ids.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(REQUESTS)?;
    for (id, index) in &persist.request_ids {
        let value = schema::value(Tag::Requests, id.as_bytes(), &index.to_be_bytes());
        table.insert(id.as_str(), value.as_slice())?;
    }
    Ok(())
}

fn write_checkpoint(transaction: &WriteTransaction, persist: &Persist) -> Result<(), Problem> {
    let Some(checkpoint) = &persist.checkpoint else { return Ok(()) };
    let mut table = transaction.open_table(CHECKPOINTS)?;
    put(&mut table, Tag::Checkpoints, checkpoint.index(), &checkpoint.encode())?;
    while table.len()? > CHECKPOINTS_KEPT {
        table.pop_first()?;
    }
    Ok(())
}

fn put(table: &mut Table<u64, &[u8]>, tag: Tag, key: u64, payload: &[u8]) -> Result<(), Problem> {
    let checksum = schema::checksum(tag, &key.to_be_bytes(), payload);
    let mut value = table.insert_reserve(key, checksum.len() + payload.len())?;
    let (head, tail) = value.as_mut().split_at_mut(checksum.len());
    head.copy_from_slice(&checksum);
    tail.copy_from_slice(payload);
    Ok(())
}

/// Writes one record of `STATE`.
pub(super) fn put_state(
    table: &mut Table<&str, &[u8]>,
    name: &str,
    payload: &[u8],
) -> Result<(), Problem> {
    let value = schema::value(Tag::State, name.as_bytes(), payload);
    table.insert(name, value.as_slice())?;
    Ok(())
}
