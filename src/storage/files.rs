//! Every file that the stores open for writing, and every name that they change. They stand in one
//! place so that the tests can let each of them fail, or end there as a crash would (`faults`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError};

use super::error::StorageError;
#[cfg(test)]
use super::faults;
use super::rights::{open_private, write_private};

/// Makes a redb file, or opens an empty one.
pub fn create(builder: &Builder, path: &Path) -> Result<Database, DatabaseError> {
    #[cfg(test)]
    if let Some(backend) = faults::backend(path, true)? {
        return builder.create_with_backend(backend);
    }
    let file = open_private(path, OpenOptions::new().create(true).truncate(false))?;
    builder.create_with_backend(FileBackend::new(file)?)
}

/// Opens a redb file that is there.
pub fn open(builder: &Builder, path: &Path) -> Result<Database, DatabaseError> {
    #[cfg(test)]
    if let Some(backend) = faults::backend(path, false)? {
        return builder.create_with_backend(backend);
    }
    builder.open(path)
}

/// Writes at the beginning of an open file.
pub fn write_first(file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    touch(path, "write")?;
    file.write_all_at(bytes, 0)
}

/// Writes a small file whole.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    touch(path, "write")?;
    write_private(path, text)
}

/// Gives the file at `from` the name `to`, in place of any other file.
pub fn rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    let named = touch(to, "name").and_then(|()| fs::rename(from, to));
    named.map_err(|error| StorageError::io("name", to, error))
}

/// Deletes the file at `path`, if there is one.
pub fn remove_if_there(path: &Path) -> Result<(), StorageError> {
    match touch(path, "delete").and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(StorageError::io("delete", path, error))
        }
        _ => Ok(()),
    }
}

/// Makes names in `dir` durable.
pub fn sync_directory(dir: &Path) -> Result<(), StorageError> {
    let sync = || {
        touch(dir, "sync")?;
        File::open(dir)?.sync_all()
    };
    sync().map_err(|error| StorageError::io("sync", dir, error))
}

/// Gives a file a second name. Not every file system knows that: there it becomes a copy, of which
/// nothing is left when it does not come to its end.
pub fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    let linked = touch(to, "link").and_then(|()| fs::hard_link(from, to));
    match linked {
        Err(error) if !matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
            copy(from, to)
        }
        done => done,
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = open_private(to, OpenOptions::new().create_new(true))?;
    let copied = touch(to, "copy")
        .and_then(|()| io::copy(&mut source, &mut target))
        .and_then(|_| target.sync_all());
    if copied.is_err() {
        // On a full disk half a copy would take the room that the next attempt needs.
        let _ = fs::remove_file(to);
    }
    copied
}

/// Whether both are names of one file.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    place(one).is_some_and(|one| place(other) == Some(one))
}

/// Before something is changed: the tests look, and say whether it fails.
fn touch(path: &Path, doing: &'static str) -> io::Result<()> {
    #[cfg(test)]
    faults::before(path, doing)?;
    let _ = (path, doing);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_copy_that_does_not_come_to_its_end_nothing_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "a store").expect("it is writable");
        let watch = faults::watch(dir.path(), |_, doing| match doing {
            "link" => Err(ErrorKind::Unsupported.into()),
            "copy" => Err(ErrorKind::StorageFull.into()),
            _ => Ok(()),
        });
        let error = link_or_copy(&from, &to).expect_err("the disk is full");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert!(!to.exists(), "half a copy would take the room");
        drop(watch);
        let _watch = faults::watch(dir.path(), |_, doing| match doing {
            "link" => Err(ErrorKind::Unsupported.into()),
            _ => Ok(()),
        });
        link_or_copy(&from, &to).expect("a copy");
        assert_eq!(fs::read(&to).expect("it is there"), b"a store");
        assert!(!is_same(&from, &to));
        let error = link_or_copy(&from, &to).expect_err("it is there already");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(to.exists(), "another one's is not touched");
    }
}
