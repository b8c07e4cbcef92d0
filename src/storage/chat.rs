//! The writer of one chat's file. `persist` is the hot path: everything that a replica wants
//! durable goes through it, thousands of times a second.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{ReadableTableMetadata as _, Table, WriteTransaction};

use super::database::{Database, Problem, marker_of};
use super::error::StorageError;
use super::files::remove_if_there;
use super::known::KnownRequests;
use super::mark::{Mark, Seen};
use super::names::chat_path;
use super::reader::ChatReader;
use super::records::read_submissions;
use super::schema::{
    self, Batch, CARRIED, CHECKPOINTS, ENTRIES, OUTBOX, REQUESTS, STATE, Table as Tag, VoterState,
    state,
};
use crate::protocol::event::Persist;
use crate::protocol::evidence::Findings;
use crate::protocol::types::{
    ChatId, Entry, Generation, HardState, Incarnation, Index, Number, Pasts, Position, Submission,
};

/// The memory that redb may hold for one chat.
pub(super) const CACHE_BYTES: usize = 16 << 20;
/// How the name of a file ends that is not complete yet.
pub(super) const NEW: &str = "redb.new";
/// An older checkpoint stays, in case the newest is lost with a torn batch.
const CHECKPOINTS_KEPT: u64 = 2;

/// One chat's file, open for writing. Dropping it, and all its readers, closes the file.
pub struct ChatStore {
    pub(super) database: Arc<Database>,
    pub(super) mark: Mark,
    pub(super) chat: ChatId,
    pub(super) voter_state: VoterState,
    pub(super) batch: Batch,
    pub(super) counts: Counts,
    pub(super) known_requests: Arc<KnownRequests>,
    /// The end of a batch that was cut; voting is in doubt until the commit index reaches it.
    pub(super) doubt_through: Option<Index>,
}

/// What tells how much must be in the tables, so that a record that is gone is missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    /// The highest number that this incarnation gave away.
    pub last_number: Number,
    /// The outbox holds the numbers after this one.
    pub outbox_removed: Number,
    pub requests: u64,
    pub carried: u64,
    /// Writes of this file; see `mark.rs`.
    pub writes: u64,
}

/// What becomes of the submissions that are carried: `put` joins them, and then all of them are
/// carried no more if it `ends`, because the same write puts them into the outbox.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Carry {
    pub put: Vec<Submission>,
    pub ends: bool,
}

/// What a new file begins with.
#[derive(Default)]
pub(super) struct Beginning<'a> {
    pub incarnation: Incarnation,
    /// A founder's first entry, which is committed by that.
    pub entries: &'a [Arc<Entry>],
    pub hard_state: HardState,
    pub generation: Generation,
    pub read: Index,
    pub pasts: Pasts,
    pub evidence: Findings,
    pub carried: &'a [Submission],
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
    /// Makes `persist` durable, all of it or nothing, and says how long that took.
    ///
    /// Its entries must continue the log. An error is final: nothing is tried again, and later
    /// calls fail at once.
    pub fn persist(&mut self, persist: &Persist) -> Result<Duration, StorageError> {
        self.persist_with(persist, &Carry::default())
    }

    /// The same with a change of what is carried, in one write.
    pub fn persist_with(
        &mut self,
        persist: &Persist,
        carry: &Carry,
    ) -> Result<Duration, StorageError> {
        self.write(persist, carry)
    }

    fn write(&mut self, persist: &Persist, carry: &Carry) -> Result<Duration, StorageError> {
        let started = Instant::now();
        let voter_state = VoterState {
            hard_state: persist.hard_state.unwrap_or(self.voter_state.hard_state),
            furthest: persist.furthest.unwrap_or(self.voter_state.furthest),
            ..self.voter_state
        };
        let batch = self.next_batch(persist);
        let mut counts = self.next_counts(persist, carry);
        let doubt_ends = match (self.doubt_through, persist.commit) {
            (Some(through), Some(commit)) => commit >= through,
            _ => false,
        };
        // Somebody waits for entries, votes and the outbox, and nobody for the rest. The replica
        // writes the rest by itself when a chat falls silent, so that a crash in a quiet hour
        // leaves a file that opens at once.
        let awaited = persist.hard_state.is_some()
            || !persist.entries.is_empty()
            || persist.truncate_from.is_some()
            || !persist.outbox_put.is_empty()
            || !carry.put.is_empty()
            || persist.evidence.is_some()
            || persist.removed_by.is_some();
        for (id, _) in &persist.request_ids {
            self.known_requests.add(id);
        }
        counts.requests = self.database.write(!awaited, |transaction| {
            write_log(transaction, persist)?;
            write_outbox(transaction, persist)?;
            write_checkpoint(transaction, persist)?;
            write_carried(transaction, self.counts.carried, carry)?;
            let requests = counts.requests + write_requests(transaction, persist)?;
            let mut table = transaction.open_table(STATE)?;
            if voter_state != self.voter_state {
                put_state(&mut table, state::VOTER_STATE, &voter_state.encode())?;
            }
            if let Some(pasts) = &persist.pasts {
                put_state(&mut table, state::PASTS, &schema::encode_pasts(pasts))?;
            }
            if batch != self.batch {
                put_state(&mut table, state::BATCH, &batch.encode())?;
            }
            if let Some(evidence) = &persist.evidence {
                let evidence = schema::encode_evidence(evidence);
                put_state(&mut table, state::EVIDENCE, &evidence)?;
            }
            let before = &self.counts;
            let changed = |now: u64, before: u64| (now != before).then_some(now);
            let numbers = [
                (state::COMMIT, persist.commit),
                (state::GENERATION, persist.generation),
                (state::READ, persist.read),
                (state::DOUBT, doubt_ends.then_some(0)),
                (state::LAST_NUMBER, changed(counts.last_number, before.last_number)),
                (state::OUTBOX_REMOVED, changed(counts.outbox_removed, before.outbox_removed)),
                (state::REQUEST_COUNT, changed(requests, before.requests)),
                (state::CARRIED_COUNT, changed(counts.carried, before.carried)),
                (state::WRITES, Some(counts.writes)),
            ];
            if let Some(removed_by) = &persist.removed_by {
                put_state(&mut table, state::REMOVED_BY, &removed_by.0)?;
            }
            for (name, number) in numbers {
                if let Some(number) = number {
                    put_state(&mut table, name, &number.to_be_bytes())?;
                }
            }
            Ok(requests)
        })?;
        self.voter_state = voter_state;
        self.batch = batch;
        self.counts = counts;
        self.mark.note(Seen { incarnation: self.voter_state.incarnation, writes: counts.writes });
        if doubt_ends {
            self.doubt_through = None;
        }
        Ok(started.elapsed())
    }

    /// Submissions of an earlier incarnation that may have to be made again, in their order.
    pub fn carried(&self) -> Result<Vec<Submission>, StorageError> {
        self.database.read(|transaction| {
            read_submissions(
                &transaction.open_table(CARRIED)?,
                Tag::Carried,
                1..=self.counts.carried,
            )
        })
    }

    /// A reader for other threads.
    pub fn reader(&self) -> ChatReader {
        ChatReader::new(self.database.clone(), self.known_requests.clone())
    }

    pub fn chat(&self) -> ChatId {
        self.chat
    }

    pub fn incarnation(&self) -> Incarnation {
        self.voter_state.incarnation
    }

    pub fn path(&self) -> PathBuf {
        self.database.path().to_owned()
    }

    fn next_counts(&self, persist: &Persist, carry: &Carry) -> Counts {
        let before = self.counts;
        let put = persist.outbox_put.iter().map(|submission| submission.number).max();
        Counts {
            last_number: before.last_number.max(put.unwrap_or(0)),
            outbox_removed: before.outbox_removed.max(persist.outbox_remove_through.unwrap_or(0)),
            requests: before.requests,
            carried: if carry.ends { 0 } else { before.carried + carry.put.len() as u64 },
            writes: before.writes + 1,
        }
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

/// Writes a complete new file beside the place where the chat's file belongs, and gives its path.
/// What does not come to its end, because the disk is full, say, is gone again.
pub(super) fn write_new(
    dir: &Path,
    chat: ChatId,
    beginning: &Beginning,
) -> Result<PathBuf, StorageError> {
    let new = chat_path(dir, chat).with_extension(NEW);
    // What an earlier attempt left.
    remove_if_there(&new)?;
    remove_if_there(&marker_of(&new))?;
    let written = write_beginning(&new, chat, beginning);
    if written.is_err() {
        let _ = remove_if_there(&new);
    }
    written.map(|()| new)
}

fn write_beginning(new: &Path, chat: ChatId, beginning: &Beginning) -> Result<(), StorageError> {
    let database = Database::create(new, CACHE_BYTES)?;
    let end = beginning.entries.last().map_or(0, |entry| entry.index);
    // `ChatStore::open` raises the boot number to 1.
    let Beginning { incarnation, hard_state, .. } = *beginning;
    let voter_state =
        VoterState { incarnation, boot: 0, hard_state, furthest: Position::default() };
    database.write(true, |transaction| {
        append(&mut transaction.open_table(ENTRIES)?, beginning.entries)?;
        transaction.open_table(OUTBOX)?;
        transaction.open_table(REQUESTS)?;
        transaction.open_table(CHECKPOINTS)?;
        let mut table = transaction.open_table(CARRIED)?;
        for (place, submission) in (1..).zip(beginning.carried) {
            put(&mut table, Tag::Carried, place, &Submission::encode(submission))?;
        }
        let mut table = transaction.open_table(STATE)?;
        put_state(&mut table, state::FORMAT, &schema::FORMAT.to_be_bytes())?;
        put_state(&mut table, state::CHAT, &chat.0)?;
        put_state(&mut table, state::VOTER_STATE, &voter_state.encode())?;
        put_state(&mut table, state::BATCH, &Batch { previous_end: end, end }.encode())?;
        put_state(&mut table, state::PASTS, &schema::encode_pasts(&beginning.pasts))?;
        let evidence = schema::encode_evidence(&beginning.evidence);
        put_state(&mut table, state::EVIDENCE, &evidence)?;
        put_state(&mut table, state::REMOVED_BY, &[])?;
        let numbers = [
            (state::COMMIT, end),
            (state::GENERATION, beginning.generation),
            (state::READ, beginning.read),
            (state::CARRIED_COUNT, beginning.carried.len() as u64),
            (state::LAST_NUMBER, 0),
            (state::OUTBOX_REMOVED, 0),
            (state::REQUEST_COUNT, 0),
            (state::WRITES, 0),
            (state::DOUBT, 0),
        ];
        for (name, number) in numbers {
            put_state(&mut table, name, &number.to_be_bytes())?;
        }
        Ok(())
    })
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

fn write_carried(
    transaction: &WriteTransaction,
    before: u64,
    carry: &Carry,
) -> Result<(), Problem> {
    if *carry == Carry::default() {
        return Ok(());
    }
    let mut table = transaction.open_table(CARRIED)?;
    if carry.ends {
        return Ok(table.retain(|_, _| false)?);
    }
    for (place, submission) in (before + 1..).zip(&carry.put) {
        put(&mut table, Tag::Carried, place, &Submission::encode(submission))?;
    }
    Ok(())
}

/// Gives how many ids are new.
fn write_requests(transaction: &WriteTransaction, persist: &Persist) -> Result<u64, Problem> {
    if persist.request_ids.is_empty() {
        return Ok(0);
    }
    let mut table = transaction.open_table(REQUESTS)?;
    let mut new = 0;
    for (id, index) in &persist.request_ids {
        let value = schema::value(Tag::Requests, id.as_bytes(), &index.to_be_bytes());
        new += u64::from(table.insert(id.as_str(), value.as_slice())?.is_none());
    }
    Ok(new)
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

#[cfg(test)]
impl ChatStore {
    /// Lets a write fail, as a disk does, so that all later ones do.
    pub(crate) fn fail_writes(&self) {
        let error = std::io::Error::other("the disk fails");
        let failed: Result<(), _> =
            self.database.write(false, |_| Err(Problem::Redb(redb::Error::Io(error))));
        assert!(failed.is_err());
    }
}
