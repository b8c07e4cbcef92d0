//! Disks that fail, for tests: each write, sync and change of a name below a directory is counted,
//! may be told before it happens, and may fail. Nothing of this is in a build but the tests'.

use std::fs::OpenOptions;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// What is told of a change before it happens, and says whether that fails.
type Watcher = Box<dyn FnMut(&Path, &'static str) -> io::Result<()> + Send>;

static WATCHED: Mutex<Vec<(PathBuf, Arc<Mutex<Watcher>>)>> = Mutex::new(Vec::new());

/// Below this directory, a watcher is told of every change. Ends when it is dropped.
pub struct Watch(PathBuf);

/// Lets `watcher` see every change below `dir`.
pub fn watch(
    dir: &Path,
    watcher: impl FnMut(&Path, &'static str) -> io::Result<()> + Send + 'static,
) -> Watch {
    let dir = dir.to_owned();
    lock().push((dir.clone(), Arc::new(Mutex::new(Box::new(watcher)))));
    Watch(dir)
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock().retain(|(dir, _)| *dir != self.0);
    }
}

/// A change is about to happen.
pub fn before(path: &Path, doing: &'static str) -> io::Result<()> {
    let watcher = watcher_of(path);
    match watcher {
        Some(watcher) => watcher.lock().unwrap_or_else(PoisonError::into_inner)(path, doing),
        None => Ok(()),
    }
}

/// What redb writes the file at `path` through, where somebody watches.
pub fn backend(path: &Path, create: bool) -> Result<Option<Watched>, DatabaseError> {
    if watcher_of(path).is_none() {
        return Ok(None);
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false);
    let backend = FileBackend::new(options.open(path)?)?;
    Ok(Some(Watched { path: path.to_owned(), backend }))
}

fn watcher_of(path: &Path) -> Option<Arc<Mutex<Watcher>>> {
    let watched = lock();
    let found = watched.iter().find(|(dir, _)| path.starts_with(dir));
    found.map(|(_, watcher)| Arc::clone(watcher))
}

fn lock() -> MutexGuard<'static, Vec<(PathBuf, Arc<Mutex<Watcher>>)>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file whose changes are told.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    backend: FileBackend,
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        before(&self.path, "set the length of")?;
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        before(&self.path, "sync")?;
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        before(&self.path, "write")?;
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}
