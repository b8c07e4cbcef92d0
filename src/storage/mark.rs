//! A witness beside a chat's file: how many writes it has seen.
//!
//! redb keeps the state before the last commit, and goes back to it when the newest one does not
//! verify. That is right where the newest commit was never finished, and silent loss where it was:
//! a vote or a confirmed message would be forgotten. So every write counts, in the file and here.
//! The mark is written after the sync and never synced itself. It can therefore be behind the file,
//! after a power failure, but ahead of it only if the file has lost something (R9, R37).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::error::StorageError;
use super::files;
use super::rights::open_private;
use crate::protocol::types::Incarnation;

const LEN: usize = 20;

/// What a mark says: the file's incarnation, and the number of its last durable write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub incarnation: Incarnation,
    pub writes: u64,
}

/// The open mark of one chat's file.
pub struct Mark {
    path: PathBuf,
    file: File,
}

/// The mark that belongs to the chat's file at `path`.
pub fn mark_of(path: &Path) -> PathBuf {
    path.with_extension("mark")
}

impl Mark {
    /// Opens the mark of the file at `path`, or makes an empty one.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let path = mark_of(path);
        let file = open_private(&path, OpenOptions::new().create(true).truncate(false));
        let file = file.map_err(|error| StorageError::io("open", &path, error))?;
        Ok(Self { path, file })
    }

    /// What it says; `None` for one that is empty or unreadable, which is no witness of anything.
    pub fn read(&self) -> Option<Seen> {
        let mut bytes = [0; LEN];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let number = |at: usize| Some(u64::from_be_bytes(bytes[at..at + 8].try_into().ok()?));
        let seen = Seen { incarnation: number(0)?, writes: number(8)? };
        (bytes == encode(seen)).then_some(seen)
    }

    /// Notes a write that is durable. Where that fails, the mark stays behind, which is allowed.
    pub fn note(&self, seen: Seen) {
        let _ = files::write_first(&self.file, &self.path, &encode(seen));
    }
}

fn encode(seen: Seen) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..8].copy_from_slice(&seen.incarnation.to_be_bytes());
    bytes[8..16].copy_from_slice(&seen.writes.to_be_bytes());
    let checksum = crc32fast::hash(&bytes[..16]);
    bytes[16..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_what_was_noted_last_or_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("chat.redb");
        let mark = Mark::open(&path).expect("it opens");
        assert_eq!(mark.read(), None);
        mark.note(Seen { incarnation: 7, writes: 1 });
        mark.note(Seen { incarnation: 7, writes: 2 });
        let seen = Mark::open(&path).expect("it opens").read();
        assert_eq!(seen, Some(Seen { incarnation: 7, writes: 2 }));
        let mut bytes = std::fs::read(mark_of(&path)).expect("it is there");
        for place in 0..bytes.len() {
            bytes[place] ^= 1;
            std::fs::write(mark_of(&path), &bytes).expect("it is writable");
            assert_eq!(Mark::open(&path).expect("it opens").read(), None);
            bytes[place] ^= 1;
        }
    }
}
