//! One redb file, and how its failures are taken (R38).
//!
//! redb is a library of other people: it may panic on a file that was changed under it. A panic, or
//! any damage that is found, leaves a marker file beside the store, and a store with a marker is
//! not opened again. Some files let redb panic once more while the first panic unwinds, which Rust
//! answers by aborting: the process's panic hook must know of that (`take_panic`).

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{
    Builder, Database as Redb, Durability, ReadOnlyDatabase, ReadTransaction,
    ReadableDatabase as _, WriteTransaction,
};

use super::error::StorageError;
use super::files;
use super::schema::FORMAT;
use super::unverified::open_unverified;
use crate::planted::{Mistake, planted};

/// An open file.
pub struct Database {
    path: PathBuf,
    /// There until `drop` takes it.
    opened: Option<Opened>,
    /// A write has failed: whether it reached the disk is unknown, so there are no more.
    failed: AtomicBool,
    damaged: AtomicBool,
}

enum Opened {
    Sound(Redb),
    /// Of a damaged file, which is only read.
    Unverified(ReadOnlyDatabase),
}

thread_local! {
    /// The calls of redb that this thread is in, the innermost last.
    static GUARDED: RefCell<Vec<Guarded>> = const { RefCell::new(Vec::new()) };
    /// Whether it reads what is left of a damaged file.
    static SALVAGING: Cell<bool> = const { Cell::new(false) };
}

/// A call of redb.
struct Guarded {
    path: PathBuf,
    /// It is unwinding.
    has_panicked: bool,
}

/// What a panic means for the process.
#[derive(Debug)]
pub enum Panic {
    /// It is not the storage library's.
    Other,
    /// It is caught where the library was called, and told as damage.
    Caught,
    /// Nothing can catch it. The store is marked: the next start knows of it.
    Ends(StorageError),
}

/// Sorts the panic of this thread that is being told at this moment. For the process's panic hook,
/// which must let pass what is caught, and end the process with a word for what cannot be.
pub fn take_panic() -> Panic {
    GUARDED.with_borrow_mut(|calls| match calls.last_mut() {
        None => Panic::Other,
        Some(call) if call.has_panicked => {
            match reason_of(&call.path).filter(|_| SALVAGING.get()) {
                Some(reason) => mark(&call.path, &format!("{reason}\n{SALVAGE_ENDED}")),
                None => mark(&call.path, PANICKED),
            }
            Panic::Ends(StorageError::Damaged { path: call.path.clone(), what: PANICKED.into() })
        }
        Some(call) => {
            call.has_panicked = true;
            Panic::Caught
        }
    })
}

const PANICKED: &str = "the storage library panicked";
/// The format in which this version of redb writes.
const REDB_FORMAT: u8 = 3;
/// Lines of a marker, below the reason.
const SALVAGE_BEGUN: &str = "reading what is left of it has begun";
const SALVAGE_ENDED: &str = "reading what is left of it ended the process";
/// A process may end while it reads what is left for reasons of its own, once.
const SALVAGES_MAX: usize = 2;

/// Runs `read`, which takes what is left of the file at `path`. `None` without running it where
/// that seems to be what has ended the process before: otherwise every start would end there.
pub fn salvage<T>(path: &Path, read: impl FnOnce() -> T) -> Option<T> {
    let marked = fs::read_to_string(marker_of(path)).ok();
    let lines = || marked.iter().flat_map(|text| text.lines());
    let begun = lines().filter(|line| *line == SALVAGE_BEGUN).count();
    if begun >= SALVAGES_MAX || lines().any(|line| line == SALVAGE_ENDED) {
        return None;
    }
    if let Some(text) = &marked {
        mark(path, &format!("{}\n{SALVAGE_BEGUN}", text.trim_end()));
    }
    SALVAGING.set(true);
    let left = read();
    SALVAGING.set(false);
    if let Some(reason) = marked.as_ref().and_then(|text| text.lines().next()) {
        mark(path, reason);
    }
    Some(left)
}

/// Why the file at `path` is known to be damaged.
pub fn reason_of(path: &Path) -> Option<String> {
    let marked = fs::read_to_string(marker_of(path)).ok()?;
    Some(marked.lines().next().unwrap_or_default().to_owned())
}

/// Why a transaction did not succeed.
pub enum Problem {
    Redb(redb::Error),
    /// What is wrong with the content.
    Damaged(String),
    /// The format that the file has instead of ours.
    Version(u32),
}

macro_rules! problem_from {
    ($($error:ty),*) => {
        $(impl From<$error> for Problem {
            fn from(error: $error) -> Self {
                Self::Redb(error.into())
            }
        })*
    };
}

problem_from!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError
);

impl Problem {
    pub fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }
}

impl Database {
    /// Makes a file, or opens an empty one. `cache_bytes` bounds the memory that redb holds.
    pub fn create(path: &Path, cache_bytes: usize) -> Result<Self, StorageError> {
        Self::start(path, |builder| files::create(builder, path), cache_bytes)
    }

    /// Opens a file that is there and has no marker.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StorageError> {
        if !path.try_exists().map_err(|error| StorageError::io("look for", path, error))? {
            return Err(StorageError::NotThere { path: path.to_owned() });
        }
        Self::start(path, |builder| files::open(builder, path), cache_bytes)
    }

    /// Opens a file whatever is known of it, to read what it still gives. It takes no writes.
    pub fn open_damaged(path: &Path, cache_bytes: usize) -> Result<Self, StorageError> {
        let open = |builder: &Builder| files::open(builder, path);
        let opened = match Self::start_unmarked(path, open, cache_bytes) {
            Err(StorageError::Damaged { .. }) => {
                let unverified = guarded(path, "open", || Ok(open_unverified(path, cache_bytes)?))?;
                Self::of(path, Opened::Unverified(unverified))
            }
            opened => opened?,
        };
        opened.failed.store(true, Ordering::Relaxed);
        Ok(opened)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether damage was found since the file was opened.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Runs `work` on a snapshot of the file.
    pub fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, Problem>,
    ) -> Result<T, StorageError> {
        let result = guarded(&self.path, "read", || match self.opened() {
            Opened::Sound(redb) => work(&redb.begin_read()?),
            Opened::Unverified(redb) => work(&redb.begin_read()?),
        });
        self.note_damage(&result);
        result
    }

    /// Runs `work` and makes all that it did durable, or nothing of it. The first error is the last
    /// write of this store.
    ///
    /// `quick_repair` costs a second sync, and saves a scan of the whole file (about a second for
    /// a million entries) when this is the last write before a crash.
    pub fn write<T>(
        &self,
        quick_repair: bool,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Problem>,
    ) -> Result<T, StorageError> {
        let failed = self.failed.load(Ordering::Relaxed) && !planted(Mistake::FailedSyncRetried);
        let redb = match self.opened() {
            Opened::Sound(redb) if !failed => redb,
            _ => return Err(StorageError::Failed { path: self.path.clone() }),
        };
        let result = guarded(&self.path, "write", || {
            let mut transaction = redb.begin_write()?;
            transaction.set_durability(match planted(Mistake::SyncSkipped) {
                false => Durability::Immediate,
                true => Durability::None,
            })?;
            transaction.set_quick_repair(quick_repair);
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        });
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        self.note_damage(&result);
        result
    }

    fn opened(&self) -> &Opened {
        self.opened.as_ref().expect("only `drop` takes it")
    }

    fn note_damage<T>(&self, result: &Result<T, StorageError>) {
        if matches!(result, Err(StorageError::Damaged { .. })) {
            self.damaged.store(true, Ordering::Relaxed);
        }
    }

    fn start(
        path: &Path,
        start: impl FnOnce(&Builder) -> Result<Redb, redb::DatabaseError>,
        cache_bytes: usize,
    ) -> Result<Self, StorageError> {
        if let Some(reason) = reason_of(path) {
            let what = format!("found before: {reason}");
            return Err(StorageError::Damaged { path: path.to_owned(), what });
        }
        // redb would make a new store of an empty file without a word.
        if fs::metadata(path).is_ok_and(|file| file.len() == 0) {
            return Err(damaged(path, "the file is empty".to_owned()));
        }
        Self::start_unmarked(path, start, cache_bytes)
    }

    fn start_unmarked(
        path: &Path,
        start: impl FnOnce(&Builder) -> Result<Redb, redb::DatabaseError>,
        cache_bytes: usize,
    ) -> Result<Self, StorageError> {
        let redb = guarded(path, "open", || {
            let mut builder = Builder::new();
            builder.set_cache_size(cache_bytes);
            Ok(start(&builder)?)
        })?;
        Ok(Self::of(path, Opened::Sound(redb)))
    }

    fn of(path: &Path, opened: Opened) -> Self {
        Self {
            path: path.to_owned(),
            opened: Some(opened),
            failed: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // redb writes when it closes, and may find damage, or panic, even then.
        let opened = self.opened.take();
        let _ = guarded(&self.path, "close", || {
            drop(opened);
            Ok(())
        });
    }
}

/// The file that says that the store at `path` is damaged.
pub fn marker_of(path: &Path) -> PathBuf {
    let mut marker = path.as_os_str().to_owned();
    marker.push(".damaged");
    marker.into()
}

/// Runs something that calls redb, and sorts what goes wrong.
fn guarded<T>(
    path: &Path,
    doing: &'static str,
    work: impl FnOnce() -> Result<T, Problem>,
) -> Result<T, StorageError> {
    let call = Guarded { path: path.to_owned(), has_panicked: false };
    GUARDED.with_borrow_mut(|calls| calls.push(call));
    // Whatever a panic leaves behind is not used: reads begin anew, and writes have ended.
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.with_borrow_mut(|calls| calls.pop());
    let problem = match done {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(problem)) => problem,
        Err(_) => Problem::damaged(PANICKED),
    };
    Err(sorted(path, doing, problem))
}

/// What a problem means for whoever called. Damage is what the content of the file shows, and
/// nothing else: a damaged store is given up, and one that another version of redb wrote, or that
/// this program used wrongly, has all that it had.
fn sorted(path: &Path, doing: &'static str, problem: Problem) -> StorageError {
    use redb::Error as R;
    let path_buf = path.to_owned();
    match problem {
        Problem::Damaged(what) => damaged(path, what),
        Problem::Version(found) => {
            StorageError::Version { path: path_buf, found, expected: FORMAT }
        }
        Problem::Redb(R::Io(error))
            if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            damaged(path, error.to_string())
        }
        Problem::Redb(R::Io(error)) => StorageError::io(doing, path, error),
        Problem::Redb(R::DatabaseAlreadyOpen | R::LockProtocolMismatch) => {
            StorageError::InUse { path: path_buf, process: None }
        }
        Problem::Redb(R::PreviousIo) => StorageError::Failed { path: path_buf },
        Problem::Redb(error @ (R::Corrupted(_) | R::UpgradeRequired(_))) => {
            match foreign_format(path) {
                Some(found) => {
                    StorageError::Version { path: path_buf, found, expected: REDB_FORMAT.into() }
                }
                None => damaged(path, error.to_string()),
            }
        }
        Problem::Redb(
            error @ (R::TableTypeMismatch { .. }
            | R::TableIsMultimap(_)
            | R::TableIsNotMultimap(_)
            | R::TypeDefinitionChanged { .. }
            | R::TableDoesNotExist(_)),
        ) => damaged(path, error.to_string()),
        // A panic in another call has left it so.
        Problem::Redb(R::LockPoisoned(_)) => damaged(path, PANICKED.to_owned()),
        Problem::Redb(error) => StorageError::io(doing, path, io::Error::other(error.to_string())),
    }
}

/// The format that another version of redb has given the file. Its header names it twice, and one
/// that only one of the two names is a bad byte.
fn foreign_format(path: &Path) -> Option<u32> {
    const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
    const FORMATS_AT: [usize; 2] = [64, 192];
    let mut header = [0; 320];
    fs::File::open(path).ok()?.read_exact(&mut header).ok()?;
    let [one, other] = FORMATS_AT.map(|at| header[at]);
    let is_foreign = header.starts_with(MAGIC) && one == other && one != REDB_FORMAT;
    is_foreign.then_some(one.into())
}

fn damaged(path: &Path, what: String) -> StorageError {
    // What else is found while the rest is taken along changes nothing.
    if !SALVAGING.get() {
        mark(path, &what);
    }
    StorageError::Damaged { path: path.to_owned(), what }
}

fn mark(path: &Path, what: &str) {
    // Where even this cannot be written, the error that follows still stops the chat.
    let _ = files::write(&marker_of(path), &format!("{what}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a disk fails in the middle of a write.
    fn fail(database: &Database) -> Result<(), StorageError> {
        let error = io::Error::other("the disk fails");
        database.write(false, |_| Err(Problem::Redb(redb::Error::Io(error))))
    }

    #[test]
    fn what_ends_the_process_while_it_is_salvaged_is_not_tried_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(salvage(&path, || 1), Some(1));
        assert_eq!(reason_of(&path), None, "a sound file is not marked");
        mark(&path, "page 7 is bad");
        for _ in 0..3 {
            assert_eq!(salvage(&path, || 1), Some(1), "it came to its end before");
        }
        for tried in [Some(1), Some(1), None] {
            let begun = salvage(&path, || fs::read_to_string(marker_of(&path)).unwrap());
            assert_eq!(begun.as_ref().map(|_| 1), tried);
            // The process ends in the middle: the marker stays as it is then.
            begun.into_iter().for_each(|marker| fs::write(marker_of(&path), marker).unwrap());
            assert_eq!(reason_of(&path).as_deref(), Some("page 7 is bad"));
        }
        mark(&path, &format!("page 7 is bad\n{SALVAGE_ENDED}"));
        assert_eq!(salvage(&path, || 1), None);
    }

    // A downgrade must not give up stores that the newer version reads.
    #[test]
    fn a_file_of_another_version_of_the_library_is_not_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        drop(Database::create(&path, 1 << 20).unwrap());
        let sound = fs::read(&path).unwrap();
        for (format, both) in [(2, true), (4, true), (2, false), (4, false)] {
            let mut bytes = sound.clone();
            bytes[64] = format;
            bytes[192] = if both { format } else { bytes[192] };
            fs::write(&path, &bytes).unwrap();
            let opened = Database::open(&path, 1 << 20).err().unwrap();
            match both {
                true => {
                    let found = u32::from(format);
                    let is_version =
                        matches!(opened, StorageError::Version { found: it, .. } if it == found);
                    assert!(is_version && !opened.needs_repair(), "{opened}");
                    assert_eq!(reason_of(&path), None, "it is left alone");
                    assert_eq!(fs::read(&path).unwrap(), bytes);
                }
                false => assert!(opened.needs_repair(), "a bad byte: {opened}"),
            }
            let _ = fs::remove_file(marker_of(&path));
        }
    }

    // R38: whether it reached the disk is unknown, and a second one might succeed on top of that.
    #[test]
    fn a_write_that_failed_is_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::create(&dir.path().join("file"), 1 << 20).unwrap();
        database.write(false, |_| Ok(())).unwrap();
        assert!(matches!(fail(&database), Err(StorageError::Io { .. })));
        let again = database.write(false, |_| Ok(()));
        assert!(matches!(again, Err(StorageError::Failed { .. })));
    }
}
