//! What can go wrong with a disk, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::database::marker_of;
use super::directory::PEER_FILE;

/// Why the store did not do what it was asked.
///
/// After an error of a writing call the store takes no more writes: whether the data reached the
/// disk is unknown, and trying again would hide that (R38). The process stops or gives up the chat.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error(
        "another demes process{} uses the data directory {path}: stop it, or choose another \
         directory with --data-dir",
        process.map(|id| format!(" ({id})")).unwrap_or_default()
    )]
    InUse { path: PathBuf, process: Option<u32> },
    #[error(
        "the store {path} has format {found}, and this demes reads format {expected}: use the \
         version of demes that wrote it"
    )]
    Version { path: PathBuf, found: u32, expected: u32 },
    #[error(
        "the store {path} is damaged ({what}): move it away, with {} if that is there, and start \
         again; {}",
        marker_of(path).display(),
        consequence(path)
    )]
    Damaged { path: PathBuf, what: String },
    #[error("the disk of {path} is full: make room and start again")]
    Full { path: PathBuf },
    #[error(
        "no right to write to {path} ({source}): give this user that right, or choose another \
         directory with --data-dir"
    )]
    NotWritable { path: PathBuf, source: io::Error },
    #[error("cannot {doing} {path}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the store {path} took no more writes after an earlier one had failed")]
    Failed { path: PathBuf },
    #[error("there is a store at {path} already")]
    AlreadyThere { path: PathBuf },
    #[error("there is no store at {path}")]
    NotThere { path: PathBuf },
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

impl StorageError {
    /// Sorts an error of the operating system by what a person can do about it.
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { path, source }
            }
            _ => Self::Io { doing, path, source },
        }
    }
}

/// What follows when the file at `path` is moved away.
fn consequence(path: &Path) -> &'static str {
    if path.file_name().is_some_and(|name| name == PEER_FILE) {
        "open invitations are lost, chats are not"
    } else {
        "the peer then joins the chat anew and fetches everything from the other members"
    }
}
