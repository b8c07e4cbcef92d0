//! What can go wrong with a disk, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

/// The name of the peer's own store.
pub(super) const PEER_FILE: &str = "peer.redb";

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
    #[error("the store {path} is damaged ({what}): {}", remedy(path))]
    Damaged { path: PathBuf, what: String },
    /// An older copy was put back, or the disk has lost what it said was durable (R9).
    #[error("the store {path} is older than what was written to it: {}", remedy(path))]
    Older { path: PathBuf },
    #[error("the disk of {path} is full: make room and start again")]
    Full { path: PathBuf },
    #[error(
        "no right to write to {path} ({source}): give this user that right, or choose another \
         directory with --data-dir"
    )]
    NotWritable { path: PathBuf, source: io::Error },
    #[error(
        "others of this machine have rights to {path} (mode {mode:03o}), and they cannot be taken \
         back: give it to this user and run `chmod 700 {path}`, or choose another directory with \
         --data-dir"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("cannot {doing} {path}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the store {path} took no more writes after an earlier one had failed")]
    Failed { path: PathBuf },
    #[error("the store {path} is closed here")]
    Closed { path: PathBuf },
    #[error("there is a store at {path} already")]
    AlreadyThere { path: PathBuf },
    #[error("the store {path} is gone: {}", remedy(path))]
    NotThere { path: PathBuf },
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

impl StorageError {
    /// Whether the file must be set aside and its content fetched anew: it is bad, gone, or not the
    /// newest. Everything else may be well again at the next start.
    pub fn needs_repair(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Older { .. } | Self::NotThere { .. })
    }

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

/// What repairs the file at `path`.
fn remedy(path: &Path) -> &'static str {
    if path.file_name().is_some_and(|name| name == PEER_FILE) {
        "put it back from a backup if there is one, or start with `demes up --repair`, which goes \
         on without it; open invitations are lost then, chats are not"
    } else {
        "the chat is fetched anew from the other members once one of them is reached, and the file \
         is kept aside"
    }
}
