//! Beginning a chat anew where its file can no longer be used (R9, R37): the file is kept aside,
//! and another takes its place, in another incarnation and without a log.
//!
//! Whatever the file held of votes and acknowledged entries, this peer can no longer vouch for. A
//! new incarnation is another voter, which starts without either. What only this peer had is taken
//! along as far as it can be read: the term and vote, how far the person had read, and the
//! submissions that wait. Those may be in the log already; the runtime sorts that out once it has
//! the log (`runtime/carry.rs`).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use redb::ReadTransaction;

use super::chat::{Beginning, CACHE_BYTES, ChatStore, write_new};
use super::database::{Database, Problem, marker_of, salvage};
use super::error::StorageError;
use super::files::{self, sync_directory};
use super::names::{chat_path, put_in_place};
use super::records::{decode_submission, get_state};
use super::schema::{self, CARRIED, OUTBOX, STATE, Table as Tag, VoterState, state};
use crate::protocol::event::Recovered;
use crate::protocol::evidence::{Findings, Offence};
use crate::protocol::types::{
    ChatId, Generation, HardState, Incarnation, Index, Membership, Pasts, Payload, Submission,
};

/// A chat that begins anew.
pub struct Anew {
    pub store: ChatStore,
    pub recovered: Recovered,
    /// Where the old file is kept; `None` where there was none.
    pub kept_at: Option<PathBuf>,
}

/// What could be read of an old file. Each part stands alone.
#[derive(Default)]
struct Remains {
    /// All that waits in it could be read.
    is_complete: bool,
    /// Somebody has removed this peer from the chat.
    was_removed: bool,
    hard_state: HardState,
    generation: Generation,
    read: Index,
    pasts: Pasts,
    evidence: Findings,
    submissions: Vec<Submission>,
}

/// See `DataDir::begin_anew` and `DataDir::follow`. Without a `generation` it is the old file's; of
/// a file that does not tell, it is the one in which the chat was founded, and members of another
/// refuse this peer until it follows them.
pub(super) fn begin_anew(
    dir: &Path,
    chat: ChatId,
    incarnation: Incarnation,
    generation: Option<Generation>,
) -> Result<Anew, StorageError> {
    let path = chat_path(dir, chat);
    let remains = salvage(&path, || read_remains(&path, chat)).transpose()?.unwrap_or_default();
    // R35: what waited when this peer was removed is never sent. Only its old file has it then, and
    // the rest of that comes back with the log.
    let has_nothing_else = remains.was_removed && !remains.waits();
    let carried: &[Submission] = if remains.was_removed { &[] } else { &remains.submissions };
    let generation = generation.unwrap_or(remains.generation);
    // R30: terms do not cross, nor does what others had acknowledged in another course, or were
    // found out for in one of its terms.
    let (hard_state, pasts, evidence) = match generation == remains.generation {
        true => (remains.hard_state, remains.pasts, kept_evidence(remains.evidence)),
        false => Default::default(),
    };
    let beginning = Beginning {
        incarnation,
        entries: &[],
        hard_state,
        generation,
        read: remains.read,
        pasts,
        evidence,
        carried,
    };
    let new = write_new(dir, chat, &beginning)?;
    let kept_at = if has_nothing_else { None } else { keep_aside(&path)? };
    put_in_place(&new, &path)?;
    let (store, recovered) = ChatStore::open(&path)?;
    Ok(Anew { store, recovered, kept_at })
}

/// A store that has forgotten what its peer said (R9) takes those words for another's: what it
/// holds against who showed them is void once its peer begins anew.
fn kept_evidence(mut evidence: Findings) -> Findings {
    evidence.retain(|_, found| found.what != Offence::ForeignWords);
    evidence
}

/// Makes room for a chat that is no longer here: its file is kept aside if anything waits in it, or
/// may wait, that nobody else has; else there is nothing to lose.
pub(super) fn keep_what_waits(path: &Path, chat: ChatId) -> Result<Option<PathBuf>, StorageError> {
    let remains = salvage(path, || read_remains(path, chat)).transpose()?;
    if remains.is_some_and(|remains| !remains.waits()) { Ok(None) } else { keep_aside(path) }
}

/// Gives the file at `path` a second name, `….damaged-N`, and its marker with it.
pub(super) fn keep_aside(path: &Path) -> Result<Option<PathBuf>, StorageError> {
    for number in 1_u32.. {
        let aside = numbered(path, number);
        match files::link_or_copy(path, &aside) {
            Ok(()) => {
                let _ = fs::copy(marker_of(path), marker_of(&aside)); // the reason, if it is known
                sync_directory(path.parent().unwrap_or(path))?;
                return Ok(Some(aside));
            }
            // A crash has left it under both names.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if files::is_same(path, &aside) {
                    return Ok(Some(aside));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io("keep aside", path, error)),
        }
    }
    unreachable!("nobody keeps four billion files")
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut aside = marker_of(path).into_os_string();
    aside.push(format!("-{number}"));
    aside.into()
}

/// Reads what can be read. Only that the file is still open elsewhere is an error: what is on its
/// way into it would be missed.
fn read_remains(path: &Path, chat: ChatId) -> Result<Remains, StorageError> {
    let mut remains = Remains::default();
    let database = match Database::open_damaged(path, CACHE_BYTES) {
        Ok(database) => database,
        Err(error @ StorageError::InUse { .. }) => return Err(error),
        Err(_) => return Ok(remains),
    };
    // Each in a transaction of its own, since one may end in a panic and leave the others.
    let is_ours = database.read(|transaction| state_of(transaction, state::CHAT, chat_id));
    if is_ours.ok() != Some(chat) {
        return Ok(remains);
    }
    let read = |name| database.read(|transaction| state_of(transaction, name, owned)).ok();
    let voter_state = read(state::VOTER_STATE).as_deref().and_then(VoterState::decode);
    remains.hard_state = voter_state.map(|voter_state| voter_state.hard_state).unwrap_or_default();
    let generation = read(state::GENERATION).as_deref().and_then(schema::number);
    remains.generation = generation.unwrap_or_default();
    let position = read(state::READ).as_deref().and_then(schema::number);
    remains.read = position.unwrap_or_default();
    let pasts = read(state::PASTS).as_deref().and_then(schema::decode_pasts);
    remains.pasts = pasts.unwrap_or_default();
    let evidence = read(state::EVIDENCE).as_deref().and_then(schema::decode_evidence);
    remains.evidence = evidence.unwrap_or_default();
    let removed_by = read(state::REMOVED_BY);
    remains.was_removed = removed_by.is_some_and(|removed_by| !removed_by.is_empty());
    remains.is_complete = true;
    for tag in [Tag::Carried, Tag::Outbox] {
        // What was collected before something bad came is kept.
        let submissions = &mut remains.submissions;
        let collected =
            database.read(|transaction| collect_submissions(transaction, tag, submissions));
        remains.is_complete &= collected.unwrap_or(false);
    }
    Ok(remains)
}

impl Remains {
    /// Whether something is in it, or may be, that nobody else has. The word that this peer leaves
    /// is of no more use once it has left.
    fn waits(&self) -> bool {
        let leaving = Payload::Membership(Membership::Leaving);
        !self.is_complete || self.submissions.iter().any(|waiting| waiting.payload != leaving)
    }
}

fn chat_id(payload: &[u8]) -> Option<ChatId> {
    Some(ChatId(payload.try_into().ok()?))
}

fn owned(payload: &[u8]) -> Option<Vec<u8>> {
    Some(payload.to_vec())
}

fn state_of<T>(
    transaction: &ReadTransaction,
    name: &str,
    decode: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, Problem> {
    get_state(&transaction.open_table(STATE)?, name, decode)
}

/// Gives whether every record of the table was sound.
fn collect_submissions(
    transaction: &ReadTransaction,
    tag: Tag,
    submissions: &mut Vec<Submission>,
) -> Result<bool, Problem> {
    let definition = if matches!(tag, Tag::Carried) { CARRIED } else { OUTBOX };
    let (mut last, mut is_complete) = (None, true);
    for record in redb::ReadableTable::iter(&transaction.open_table(definition)?)? {
        let (key, value) = record?;
        // A page that is linked in two places would be read twice, and its messages sent twice.
        if last.replace(key.value()) >= Some(key.value()) {
            return Ok(false);
        }
        let submission = decode_submission(tag, key.value(), value.value());
        is_complete &= submission.is_some();
        submissions.extend(submission);
    }
    Ok(is_complete)
}
