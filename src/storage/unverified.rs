//! Reading a redb file that redb refuses to open, for what is still good in it (R37).
//!
//! After a crash redb verifies every page before it gives anything: one bad page of the log, and
//! the outbox beside it could not be read either. Readers beside a living writer verify nothing,
//! since recovery is the writer's task; so the file is read as if a writer had it open, which redb
//! tells by a lock ("Lock bytes" in its `docs/design.md`). Our records have checksums of their
//! own. What redb itself makes of a bad page is another matter: see `database::salvage`.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use redb::{
    BackendError, Builder, ConcurrencyMode, DatabaseError, ReadOnlyDatabase, StorageBackend,
    StorageError,
};

/// Opens the file without a look at its pages. It is never written.
pub fn open_unverified(path: &Path, cache_bytes: usize) -> Result<ReadOnlyDatabase, DatabaseError> {
    let file = File::open(path).map_err(StorageError::from)?;
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes).set_concurrency_mode(ConcurrencyMode::SingleWriter);
    builder.open_read_only_with_backend(BesideWriter(file))
}

/// A file that seems to be open in a process that writes it.
#[derive(Debug)]
struct BesideWriter(File);

/// The "consistent byte": a writer that has finished its recovery holds it.
const CONSISTENT: Bound<u64> = Bound::Included((1 << 62) + 4);

impl StorageBackend for BesideWriter {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    /// What is not there, or cannot be read, is zeros: after an error redb would read nothing more.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.0.read_exact_at(out, offset).is_err() {
            out.fill(0);
        }
        Ok(())
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        Ok((start, end) == (CONSISTENT, CONSISTENT))
    }

    // Locks are given and mean nothing: `open_damaged` has looked whether anybody has the file.

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }

    // A read-only database does none of these.

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}
