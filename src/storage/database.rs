//! One redb file, and how its failures are taken (R38).
//!
//! redb is a library of other people: it may panic on a file that was changed under it. A panic, or
//! any damage that is found, leaves a marker file beside the store, and a store with a marker is
//! not opened again.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{
    Builder, Database as Redb, Durability, ReadTransaction, ReadableDatabase as _, WriteTransaction,
};

use super::error::StorageError;
use super::schema::FORMAT;

/// An open file.
pub struct Database {
    path: PathBuf,
    redb: Redb,
    /// A write has failed: whether it reached the disk is unknown, so there are no more.
    failed: AtomicBool,
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
        Self::start(path, |builder| builder.create(path), cache_bytes)
    }

    /// Opens a file that is there and has no marker.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StorageError> {
        if !path.try_exists().map_err(|error| StorageError::io("look for", path, error))? {
            return Err(StorageError::NotThere { path: path.to_owned() });
        }
        Self::start(path, |builder| builder.open(path), cache_bytes)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a snapshot of the file.
    pub fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, Problem>,
    ) -> Result<T, StorageError> {
        guarded(&self.path, "read", || work(&self.redb.begin_read()?))
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
        if self.failed.load(Ordering::Relaxed) {
            return Err(StorageError::Failed { path: self.path.clone() });
        }
        let result = guarded(&self.path, "write", || {
            let mut transaction = self.redb.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.set_quick_repair(quick_repair);
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        });
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn start(
        path: &Path,
        start: impl FnOnce(&Builder) -> Result<Redb, redb::DatabaseError>,
        cache_bytes: usize,
    ) -> Result<Self, StorageError> {
        if marker_of(path).exists() {
            let what = "it was found damaged before".to_owned();
            return Err(StorageError::Damaged { path: path.to_owned(), what });
        }
        let redb = guarded(path, "open", || {
            let mut builder = Builder::new();
            builder.set_cache_size(cache_bytes);
            Ok(start(&builder)?)
        })?;
        Ok(Self { path: path.to_owned(), redb, failed: AtomicBool::new(false) })
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
    // Whatever a panic leaves behind is not used: reads begin anew, and writes have ended.
    let problem = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(problem)) => problem,
        Err(_) => Problem::damaged("the storage library panicked"),
    };
    let path_buf = path.to_owned();
    Err(match problem {
        Problem::Damaged(what) => damaged(path, what),
        Problem::Version(found) => {
            StorageError::Version { path: path_buf, found, expected: FORMAT }
        }
        Problem::Redb(redb::Error::Io(error))
            if error.kind() == std::io::ErrorKind::InvalidData =>
        {
            damaged(path, error.to_string())
        }
        Problem::Redb(redb::Error::Io(error)) => StorageError::io(doing, path, error),
        Problem::Redb(redb::Error::DatabaseAlreadyOpen) => {
            StorageError::InUse { path: path_buf, process: None }
        }
        Problem::Redb(redb::Error::PreviousIo) => StorageError::Failed { path: path_buf },
        Problem::Redb(error) => damaged(path, error.to_string()),
    })
}

fn damaged(path: &Path, what: String) -> StorageError {
    // Where even this cannot be written, the error that follows still stops the chat.
    let _ = fs::write(marker_of(path), format!("{what}\n"));
    StorageError::Damaged { path: path.to_owned(), what }
}
