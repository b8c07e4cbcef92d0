//! The files of the vault: every write, sync and change of a name stands here, so that the tests
//! can end the process before each of them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use redb::backends::FileBackend;

/// Opens a file for reading and writing. A new one has mode 0600.
pub(crate) fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}

/// Writes at a place of an open file.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    faults::before_write(bytes.len(), |torn| file.write_all_at(&bytes[..torn], offset))?;
    file.write_all_at(bytes, offset)
}

pub(crate) fn sync(file: &File) -> io::Result<()> {
    before()?;
    // No test cuts the power: what a process has written stays when it ends.
    if cfg!(test) { Ok(()) } else { file.sync_data() }
}

/// Puts a small file in the place of another, as a whole or not at all, and overwrites the old
/// one's bytes where they lie.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let old = open(path, false).ok();
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let beside = path.with_extension("new");
    let file = open(&beside, true)?;
    before()?;
    file.set_len(0)?;
    write_at(&file, bytes, 0)?;
    sync(&file)?;
    before()?;
    fs::rename(&beside, path)?;
    File::open(dir)?.sync_all()?;
    if let Some(old) = old {
        write_at(&old, &vec![0; usize::try_from(old.metadata()?.len()).unwrap_or(0)], 0)?;
        sync(&old)?;
    }
    Ok(())
}

/// What redb writes a file through.
pub(crate) fn backend(path: &Path) -> Result<impl redb::StorageBackend, redb::DatabaseError> {
    let file = FileBackend::new(open(path, true)?)?;
    #[cfg(test)]
    let file = faults::Watched(file);
    Ok(file)
}

/// A change is about to happen.
fn before() -> io::Result<()> {
    #[cfg(test)]
    faults::before()?;
    Ok(())
}

/// A process that dies before one of its writes, for tests.
#[cfg(test)]
pub(crate) mod faults {
    use std::cell::Cell;
    use std::io;
    use std::ops::Bound;

    use redb::backends::FileBackend;
    use redb::{BackendError, StorageBackend};

    thread_local! {
        /// How many changes this thread may still make. The thread is the process.
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
        static IS_DEAD: Cell<bool> = const { Cell::new(false) };
    }

    /// Lets the thread's changes fail from the one after `changes` on; `None`: never.
    pub fn die_after(changes: Option<u64>) {
        LEFT.set(changes);
        IS_DEAD.set(false);
    }

    /// Another process's writes follow: gives what `resume` needs.
    pub fn pause() -> Option<u64> {
        LEFT.replace(None)
    }

    pub fn resume(left: Option<u64>) {
        LEFT.set(left);
    }

    pub fn before() -> io::Result<()> {
        before_write(0, |_| Ok(()))
    }

    /// Before a write of so many bytes. The one in which the process dies writes half of them.
    pub fn before_write(
        bytes: usize,
        torn: impl FnOnce(usize) -> io::Result<()>,
    ) -> io::Result<()> {
        match LEFT.get() {
            Some(0) => {
                if !IS_DEAD.replace(true) {
                    torn(bytes / 2)?;
                }
                return Err(io::Error::other("the process is dead"));
            }
            Some(left) => LEFT.set(Some(left - 1)),
            None => {}
        }
        Ok(())
    }

    /// A file whose changes are counted.
    #[derive(Debug)]
    pub struct Watched(pub FileBackend);

    impl StorageBackend for Watched {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            before()?;
            self.0.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            before()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            before_write(data.len(), |torn| self.0.write(offset, &data[..torn]))?;
            self.0.write(offset, data)
        }
        fn close(&self) -> io::Result<()> {
            self.0.close()
        }
        fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
            self.0.try_lock_range(start, end)
        }
        fn try_lock_shared_range(
            &self,
            start: Bound<u64>,
            end: Bound<u64>,
        ) -> Result<bool, BackendError> {
            self.0.try_lock_shared_range(start, end)
        }
        fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.0.lock_range(start, end)
        }
        fn lock_shared_range(
            &self,
            start: Bound<u64>,
            end: Bound<u64>,
        ) -> Result<(), BackendError> {
            self.0.lock_shared_range(start, end)
        }
        fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
            self.0.unlock_range(start, end)
        }
        fn query_lock_range(
            &self,
            start: Bound<u64>,
            end: Bound<u64>,
        ) -> Result<bool, BackendError> {
            self.0.query_lock_range(start, end)
        }
    }
}
