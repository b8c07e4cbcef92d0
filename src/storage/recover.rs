//! Opening a chat's file: what is sound, what is torn, what is damaged (R37).
//!
//! The last batch that was written may be torn, if the disk lost part of it with the power: from
//! its first bad record on, it is cut, and the tail is in doubt until the commit index has come
//! that far again. Anything else that is bad is damage, and so is a file that has seen more writes
//! than it shows: such a file is never written again, and `anew.rs` makes another.

use std::path::Path;
use std::sync::Arc;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable as _};

use super::chat::{Beginning, CACHE_BYTES, ChatStore, Counts, put_state, truncate, write_new};
use super::database::{Database, Problem};
use super::error::StorageError;
use super::known::KnownRequests;
use super::mark::{Mark, Seen};
use super::names::{chat_path, put_in_place};
use super::reader::ChatReader;
use super::records::{decode_entry, get_state, read_submissions};
use super::schema::{
    self, Batch, CHECKPOINTS, ENTRIES, OUTBOX, STATE, Table as Tag, VoterState, state,
};
use crate::planted::{Mistake, planted};
use crate::protocol::event::Recovered;
use crate::protocol::evidence::Findings;
use crate::protocol::log::Checkpoint;
use crate::protocol::types::{
    ChatId, Entry, Generation, Hash, Incarnation, Index, Pasts, PeerId, Submission,
};

impl ChatStore {
    /// Makes the file of a chat that is new here, in its first boot. A founder gives the founding
    /// entry, which is committed by that; one who joins gives none (see `DataDir::follow`).
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
        if path.exists() {
            return Err(StorageError::AlreadyThere { path });
        }
        let beginning = Beginning { incarnation, entries, ..Beginning::default() };
        let new = write_new(dir, chat, &beginning)?;
        put_in_place(&new, &path)?;
        Self::open(&path)
    }

    /// Opens a chat's file, checks it (R37) and raises its boot number durably (R9).
    pub fn open(path: &Path) -> Result<(Self, Recovered), StorageError> {
        let database = Database::open(path, CACHE_BYTES)?;
        let mark = Mark::open(path)?;
        let mut found = database.read(read)?;
        if !is_newest(&mark, &found) {
            return Err(StorageError::Older { path: path.to_owned() });
        }
        found.voter_state.boot += u64::from(!planted(Mistake::BootNotRaised));
        found.counts.writes += 1;
        let last = found.entries.last().map_or(found.checkpoint.index(), |entry| entry.index);
        let cut = last < found.batch.end;
        if cut {
            found.doubt = found.doubt.max(found.batch.end);
            found.batch = Batch { previous_end: last, end: last };
            found.commit = found.commit.min(last);
        }
        database.write(true, |transaction| {
            let mut table = transaction.open_table(STATE)?;
            put_state(&mut table, state::VOTER_STATE, &found.voter_state.encode())?;
            put_state(&mut table, state::WRITES, &found.counts.writes.to_be_bytes())?;
            if cut {
                truncate(&mut transaction.open_table(ENTRIES)?, last + 1)?;
                put_state(&mut table, state::BATCH, &found.batch.encode())?;
                put_state(&mut table, state::COMMIT, &found.commit.to_be_bytes())?;
                put_state(&mut table, state::DOUBT, &found.doubt.to_be_bytes())?;
            }
            Ok(())
        })?;
        mark.note(Seen { incarnation: found.voter_state.incarnation, writes: found.counts.writes });
        let known_requests = KnownRequests::default();
        if found.counts.requests == 0 {
            known_requests.complete();
        }
        let in_doubt = found.doubt > found.commit && !planted(Mistake::TornTailTrusted);
        let doubt_through = in_doubt.then_some(found.doubt);
        let store = ChatStore {
            database: Arc::new(database),
            mark,
            chat: found.chat,
            voter_state: found.voter_state,
            batch: found.batch,
            counts: found.counts,
            known_requests: known_requests.into(),
            doubt_through,
        };
        let recovered = Recovered {
            incarnation: found.voter_state.incarnation,
            boot: found.voter_state.boot,
            generation: found.generation,
            hard_state: found.voter_state.hard_state,
            checkpoint: found.checkpoint,
            entries: found.entries,
            commit: found.commit,
            outbox: found.outbox,
            last_number: found.counts.last_number,
            read: found.read,
            removed_by: found.removed_by,
            pasts: found.pasts,
            evidence: found.evidence,
            furthest: found.voter_state.furthest,
            tail_in_doubt: doubt_through.is_some(),
        };
        Ok((store, recovered))
    }
}

/// See `DataDir::check_chat`.
pub fn check(path: &Path) -> Result<(), StorageError> {
    let database = Database::open(path, CACHE_BYTES)?;
    let mark = Mark::open(path)?;
    let found = database.read(read)?;
    if !is_newest(&mark, &found) {
        return Err(StorageError::Older { path: path.to_owned() });
    }
    ChatReader::new(Arc::new(database), Arc::default()).check()
}

fn is_newest(mark: &Mark, found: &Found) -> bool {
    mark.read().is_none_or(|seen| {
        planted(Mistake::OlderCopyTaken)
            || seen.incarnation == found.voter_state.incarnation
                && seen.writes <= found.counts.writes
    })
}

/// What stands in a file. `entries` end before the first bad record of the last batch.
struct Found {
    chat: ChatId,
    voter_state: VoterState,
    generation: Generation,
    batch: Batch,
    checkpoint: Checkpoint,
    entries: Vec<Arc<Entry>>,
    commit: Index,
    outbox: Vec<Submission>,
    counts: Counts,
    read: Index,
    removed_by: Option<PeerId>,
    pasts: Pasts,
    evidence: Findings,
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
    let voter_state = get_state(&table, state::VOTER_STATE, VoterState::decode)?;
    let batch = get_state(&table, state::BATCH, Batch::decode)?;
    let number = |name| get_state(&table, name, schema::number);
    let generation = number(state::GENERATION)?;
    let (commit, read, doubt) =
        (number(state::COMMIT)?, number(state::READ)?, number(state::DOUBT)?);
    let counts = Counts {
        last_number: number(state::LAST_NUMBER)?,
        outbox_removed: number(state::OUTBOX_REMOVED)?,
        requests: number(state::REQUEST_COUNT)?,
        carried: number(state::CARRIED_COUNT)?,
        writes: number(state::WRITES)?,
    };
    let removed_by = get_state(&table, state::REMOVED_BY, |payload| match payload {
        [] => Some(None),
        key => Some(Some(PeerId(key.try_into().ok()?))),
    })?;
    let pasts = get_state(&table, state::PASTS, schema::decode_pasts)?;
    let evidence = get_state(&table, state::EVIDENCE, schema::decode_evidence)?;

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
    let outbox = read_submissions(
        &transaction.open_table(OUTBOX)?,
        Tag::Outbox,
        counts.outbox_removed + 1..=counts.last_number,
    )?;
    Ok(Found {
        chat,
        voter_state,
        generation,
        batch,
        checkpoint,
        entries,
        commit,
        outbox,
        counts,
        read,
        removed_by,
        pasts,
        evidence,
        doubt,
    })
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
        let is_of =
            |entry: Entry| entry.hash == checkpoint.hash() || planted(Mistake::CheckpointUnbound);
        if entry.is_some_and(is_of) {
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
            None if index > batch.previous_end || planted(Mistake::CutsAtAnyBadRecord) => break,
            None => return Err(Problem::damaged(format!("entry {index} is bad or missing"))),
        }
    }
    Ok(entries)
}

fn is_chained(entry: &Entry, previous: Hash) -> bool {
    entry.previous == previous && entry.verify_hash()
}
