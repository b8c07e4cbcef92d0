//! Opening a chat's file: what is sound, what is torn, what is damaged (R37).
//!
//! The last batch that was written may be torn, if the disk lost part of it with the power: from
//! its first bad record on, it is cut, and the tail is in doubt until the commit index has come
//! that far again. Anything else that is bad is damage, and the chat stays closed.

use std::path::Path;
use std::sync::Arc;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable as _};

use super::chat::{CACHE_BYTES, ChatStore, put_state, truncate};
use super::database::{Database, Problem};
use super::error::StorageError;
use super::schema::{self, Batch, CHECKPOINTS, ENTRIES, OUTBOX, STATE, Table as Tag, Vows, state};
use crate::protocol::event::Recovered;
use crate::protocol::log::Checkpoint;
use crate::protocol::types::{ChatId, Entry, Hash, Index, Number, Pasts, Submission};

/// See `ChatStore::open`.
pub fn open(path: &Path) -> Result<(ChatStore, Recovered), StorageError> {
    let database = Database::open(path, CACHE_BYTES)?;
    let mut found = database.read(read)?;
    found.vows.boot += 1;
    let last = found.entries.last().map_or(found.checkpoint.index(), |entry| entry.index);
    let cut = last < found.batch.end;
    if cut {
        found.doubt = found.doubt.max(found.batch.end);
        found.batch = Batch { previous_end: last, end: last };
        found.commit = found.commit.min(last);
    }
    database.write(true, |transaction| {
        let mut table = transaction.open_table(STATE)?;
        put_state(&mut table, state::VOWS, &found.vows.encode())?;
        if cut {
            truncate(&mut transaction.open_table(ENTRIES)?, last + 1)?;
            put_state(&mut table, state::BATCH, &found.batch.encode())?;
            put_state(&mut table, state::COMMIT, &found.commit.to_be_bytes())?;
            put_state(&mut table, state::DOUBT, &found.doubt.to_be_bytes())?;
        }
        Ok(())
    })?;
    let doubt_through = (found.doubt > found.commit).then_some(found.doubt);
    let store = ChatStore {
        database: Arc::new(database),
        chat: found.chat,
        vows: found.vows,
        batch: found.batch,
        last_number: found.last_number,
        doubt_through,
    };
    let recovered = Recovered {
        incarnation: found.vows.incarnation,
        boot: found.vows.boot,
        hard_state: found.vows.hard_state,
        checkpoint: found.checkpoint,
        entries: found.entries,
        commit: found.commit,
        outbox: found.outbox,
        last_number: found.last_number,
        read: found.read,
        pasts: found.pasts,
        tail_in_doubt: doubt_through.is_some(),
    };
    Ok((store, recovered))
}

/// What stands in a file. `entries` end before the first bad record of the last batch.
struct Found {
    chat: ChatId,
    vows: Vows,
    batch: Batch,
    checkpoint: Checkpoint,
    entries: Vec<Arc<Entry>>,
    commit: Index,
    outbox: Vec<Submission>,
    last_number: Number,
    read: Index,
    pasts: Pasts,
    doubt: Index,
}

fn read(transaction: &ReadTransaction) -> Result<Found, Problem> {
    let table = transaction.open_table(STATE)?;
    let format = get_state(&table, state::FORMAT, |payload| payload.try_into().ok())?;
    let format = u32::from_be_bytes(format);
    if format != schema::FORMAT {
        return Err(Problem::Version(format));
    }
    let chat = get_state(&table, state::CHAT, |payload| Some(ChatId(payload.try_into().ok()?)))?;
    let vows = get_state(&table, state::VOWS, Vows::decode)?;
    let batch = get_state(&table, state::BATCH, Batch::decode)?;
    let [commit, last_number, read, doubt] =
        [state::COMMIT, state::LAST_NUMBER, state::READ, state::DOUBT]
            .map(|name| get_state(&table, name, schema::number));
    let (commit, last_number, read, doubt) = (commit?, last_number?, read?, doubt?);

    // Written for the first time when something is known of others.
    let pasts = match table.get(state::PASTS)? {
        Some(_) => get_state(&table, state::PASTS, schema::decode_pasts)?,
        None => Pasts::new(),
    };

    let log = transaction.open_table(ENTRIES)?;
    let last = log.last()?.map_or(0, |(key, _)| key.value());
    if last > batch.end {
        return Err(Problem::damaged(format!("entry {last} stands behind the log's end")));
    }
    let checkpoint = read_checkpoint(transaction, &log, batch)?;
    let entries = read_log(&log, &checkpoint, batch)?;
    if commit > batch.end {
        return Err(Problem::damaged(format!("the log ends before its commit index {commit}")));
    }
    // A checkpoint is made of committed entries, so it may know more than the last written index.
    let commit = commit.max(checkpoint.index());
    let outbox = read_outbox(transaction)?;
    Ok(Found {
        chat,
        vows,
        batch,
        checkpoint,
        entries,
        commit,
        outbox,
        last_number,
        read,
        pasts,
        doubt,
    })
}

fn get_state<T>(
    table: &ReadOnlyTable<&str, &[u8]>,
    name: &str,
    decode: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, Problem> {
    let value = table.get(name)?;
    value
        .as_ref()
        .and_then(|value| schema::payload(Tag::State, name.as_bytes(), value.value()))
        .and_then(decode)
        .ok_or_else(|| Problem::damaged(format!("the record `{name}` is bad or missing")))
}

/// The latest checkpoint whose entry is sound. An older one is taken where the last batch was torn
/// under the latest, or the latest is bad.
fn read_checkpoint(
    transaction: &ReadTransaction,
    log: &ReadOnlyTable<u64, &[u8]>,
    batch: Batch,
) -> Result<Checkpoint, Problem> {
    let mut bad = None;
    for record in transaction.open_table(CHECKPOINTS)?.iter()?.rev() {
        let (key, value) = record?;
        let index = key.value();
        let checkpoint = schema::payload(Tag::Checkpoints, &index.to_be_bytes(), value.value())
            .and_then(Checkpoint::decode)
            .filter(|checkpoint| checkpoint.index() == index);
        let Some(checkpoint) = checkpoint else {
            bad = Some(index);
            continue;
        };
        let value = log.get(index)?;
        let entry = value.and_then(|value| decode_entry(index, value.value()));
        if entry.is_some_and(|entry| entry.hash == checkpoint.hash()) {
            return Ok(checkpoint);
        }
        if index <= batch.previous_end {
            return Err(Problem::damaged(format!("entry {index} is bad or missing")));
        }
    }
    match bad {
        Some(index) => Err(Problem::damaged(format!("checkpoint {index} is bad"))),
        None => Ok(Checkpoint::default()),
    }
}

/// The entries after the checkpoint, each sound and chained to the one before.
fn read_log(
    log: &ReadOnlyTable<u64, &[u8]>,
    checkpoint: &Checkpoint,
    batch: Batch,
) -> Result<Vec<Arc<Entry>>, Problem> {
    let mut entries = Vec::new();
    let mut previous = checkpoint.hash();
    let mut records = log.range(checkpoint.index() + 1..)?;
    for index in checkpoint.index() + 1..=batch.end {
        let record = records.next().transpose()?;
        let entry = record
            .filter(|(key, _)| key.value() == index)
            .and_then(|(_, value)| decode_entry(index, value.value()))
            .filter(|entry| is_chained(entry, previous));
        match entry {
            Some(entry) => {
                previous = entry.hash;
                entries.push(Arc::new(entry));
            }
            None if index > batch.previous_end => break,
            None => return Err(Problem::damaged(format!("entry {index} is bad or missing"))),
        }
    }
    Ok(entries)
}

fn is_chained(entry: &Entry, previous: Hash) -> bool {
    entry.previous == previous && entry.verify_hash()
}

/// The entry in a record of `ENTRIES`; `None` if its checksum, form or index is wrong.
pub(super) fn decode_entry(index: Index, value: &[u8]) -> Option<Entry> {
    schema::payload(Tag::Entries, &index.to_be_bytes(), value)
        .and_then(Entry::decode)
        .filter(|entry| entry.index == index)
}

fn read_outbox(transaction: &ReadTransaction) -> Result<Vec<Submission>, Problem> {
    let mut outbox = Vec::new();
    for record in transaction.open_table(OUTBOX)?.iter()? {
        let (key, value) = record?;
        let number = key.value();
        let submission = schema::payload(Tag::Outbox, &number.to_be_bytes(), value.value())
            .and_then(Submission::decode)
            .filter(|submission| submission.number == number)
            .ok_or_else(|| Problem::damaged(format!("outbox record {number} is bad")))?;
        outbox.push(submission);
    }
    Ok(outbox)
}
