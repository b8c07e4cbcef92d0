//! How the files of the stores are called, and how a complete one gets its name.

use std::path::{Path, PathBuf};

use super::database::marker_of;
use super::error::StorageError;
use super::files::{self, remove_if_there, sync_directory};
use super::mark::mark_of;
use crate::protocol::types::ChatId;

/// The file of `chat` in `dir`.
pub(super) fn chat_path(dir: &Path, chat: ChatId) -> PathBuf {
    dir.join(format!("{chat}.redb"))
}

/// Gives a complete new file its name, in place of any other. What an earlier file of the name has
/// left beside it goes afterwards: a crash in between leaves a file that is replaced once more.
pub(super) fn put_in_place(new: &Path, path: &Path) -> Result<(), StorageError> {
    files::rename(new, path)?;
    sync_directory(path.parent().unwrap_or(path))?;
    remove_if_there(&mark_of(path))?;
    remove_if_there(&marker_of(path))
}
