//! The data directory: one process at a time, and what lies where.
//!
//! ```text
//! lock              held by the running process
//! identity.pem …    the peer's key (see `crypto`)
//! client.token …    what programs show, and where they come in (see `serve/client_door.rs`)
//! up.toml           what flags of `demes up` said (see `config`)
//! peer.redb         what belongs to the peer as a whole
//! chats/ID.redb     one chat
//! *.mark            how many writes the file of that name has seen (see `mark`)
//! *.redb.damaged    what is wrong with the file of that name
//! *.redb.damaged-1  one that was set aside
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::anew::{self, Anew};
use super::apart::apart;
use super::chat::{ChatStore, NEW};
use super::database::{marker_of, reason_of};
use super::error::{PEER_FILE, StorageError};
use super::files::{remove_if_there, sync_directory};
use super::mark::mark_of;
use super::names::chat_path;
use super::peer::PeerStore;
use super::recover;
use super::rights::{make_private_dir, open_private, tighten_dir, tighten_files};
use crate::protocol::event::Recovered;
use crate::protocol::types::{ChatId, Entry, Generation, Incarnation};

/// What the names of a peer's own files begin with. Others may lie beside them. The token of
/// programs is not among them, as the key is not: one that others could read is made anew by who
/// reads it.
const OURS: [&str; 5] = ["lock", "client.addr", "certificate.pem", "up.toml", PEER_FILE];

/// An own, locked data directory. Dropping it gives the lock back.
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Takes the directory at `path` for this process, and makes it if it is not there. From then
    /// on nobody else may look into it.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let chats = path.join("chats");
        make_private_dir(path).map_err(|error| StorageError::io("create", path, error))?;
        tighten_dir(path)?;
        make_private_dir(&chats).map_err(|error| StorageError::io("create", &chats, error))?;
        let lock = take_lock(path)?;
        tighten_dir(&chats)?;
        tighten_files(path, |name| OURS.iter().any(|ours| name.starts_with(ours)))?;
        tighten_files(&chats, |_| true)?;
        remove_unfinished(&chats);
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the peer's own store, or makes it.
    pub fn peer_store(&self) -> Result<PeerStore, StorageError> {
        PeerStore::open(&self.path.join(PEER_FILE))
    }

    /// Goes on without what is wrong with the peer's own store: an older copy is taken for the
    /// newest, and a damaged one is kept aside. Gives where.
    pub fn repair_peer_store(&self) -> Result<Option<PathBuf>, StorageError> {
        let path = self.path.join(PEER_FILE);
        let kept_at = match PeerStore::open(&path) {
            Ok(_) => return Ok(None),
            Err(StorageError::Older { .. } | StorageError::NotThere { .. }) => None,
            Err(StorageError::Damaged { .. }) => {
                let kept_at = anew::keep_aside(&path)?;
                remove_if_there(&path)?;
                kept_at
            }
            Err(error) => return Err(error),
        };
        remove_if_there(&mark_of(&path))?;
        remove_if_there(&marker_of(&path))?;
        sync_directory(&self.path)?;
        Ok(kept_at)
    }

    /// The chats that have a file here, damaged ones included.
    pub fn chats(&self) -> Result<Vec<ChatId>, StorageError> {
        let dir = self.chats_dir();
        let list = || -> std::io::Result<Vec<ChatId>> {
            let mut chats = Vec::new();
            for item in fs::read_dir(&dir)? {
                let name = item?.file_name();
                let id = name.to_str().and_then(|name| name.strip_suffix(".redb"));
                chats.extend(id.and_then(|id| id.parse::<ChatId>().ok()));
            }
            chats.sort_unstable();
            Ok(chats)
        };
        list().map_err(|error| StorageError::io("list", &dir, error))
    }

    /// The files that were kept aside, in their order, with the chat of each.
    pub fn kept_aside(&self) -> Result<Vec<(ChatId, PathBuf)>, StorageError> {
        let dir = self.chats_dir();
        let list = || -> std::io::Result<Vec<(ChatId, u32, PathBuf)>> {
            let mut kept = Vec::new();
            for item in fs::read_dir(&dir)? {
                let path = item?.path();
                let name = path.file_name().and_then(|name| name.to_str());
                let parts = name.and_then(|name| name.split_once(".redb.damaged-"));
                if let Some((id, number)) = parts
                    && let Ok(chat) = id.parse()
                    && let Ok(number) = number.parse::<u32>()
                {
                    kept.push((chat, number, path));
                }
            }
            kept.sort_unstable();
            Ok(kept)
        };
        let kept = list().map_err(|error| StorageError::io("list", &dir, error))?;
        Ok(kept.into_iter().map(|(chat, _, path)| (chat, path)).collect())
    }

    /// See `ChatStore::create`.
    pub fn create_chat(
        &self,
        chat: ChatId,
        incarnation: Incarnation,
        entries: &[Arc<Entry>],
    ) -> Result<(ChatStore, Recovered), StorageError> {
        apart(|| ChatStore::create(&self.chats_dir(), chat, incarnation, entries))
    }

    /// See `ChatStore::open`.
    pub fn open_chat(&self, chat: ChatId) -> Result<(ChatStore, Recovered), StorageError> {
        let path = chat_path(&self.chats_dir(), chat);
        let (store, recovered) = apart(|| ChatStore::open(&path))?;
        if store.chat() != chat {
            let what = format!("it holds the chat {}", store.chat());
            return Err(StorageError::Damaged { path, what });
        }
        Ok((store, recovered))
    }

    /// Reads and verifies all of a chat's file, and changes nothing of what it says: not even its
    /// boot number. It takes about a second for a million entries.
    pub fn check_chat(&self, chat: ChatId) -> Result<(), StorageError> {
        recover::check(&chat_path(&self.chats_dir(), chat))
    }

    /// Reads and verifies the peer's own store, where there is one.
    pub fn check_peer_store(&self) -> Result<(), StorageError> {
        let path = self.path.join(PEER_FILE);
        if !path.exists() && !mark_of(&path).exists() {
            return Ok(());
        }
        PeerStore::open(&path).map(drop)
    }

    /// What is known to be wrong with a chat's file.
    pub fn damage_of(&self, chat: ChatId) -> Option<String> {
        apart(|| reason_of(&chat_path(&self.chats_dir(), chat)))
    }

    /// Takes a chat's file for the newest one, and lets it be looked at afresh.
    pub fn trust_chat(&self, chat: ChatId) -> Result<(), StorageError> {
        let path = chat_path(&self.chats_dir(), chat);
        apart(|| {
            remove_if_there(&mark_of(&path))?;
            remove_if_there(&marker_of(&path))
        })
    }

    /// Keeps a chat's file aside, where there is one, and puts a new one in its place that begins
    /// anew in `incarnation`. What the old one had of the person's own is taken along as far as it
    /// can be read; see `ChatStore::carried`.
    ///
    /// The old file must have been closed: `StorageError::InUse`. A crash at any point leaves the
    /// old file in its place, or the new one.
    pub fn begin_anew(&self, chat: ChatId, incarnation: Incarnation) -> Result<Anew, StorageError> {
        apart(|| anew::begin_anew(&self.chats_dir(), chat, incarnation, None))
    }

    /// The same, to take part in this generation of the chat, whatever the old file did (R30): for
    /// one who joins, whether there is an old file or not.
    pub fn follow(
        &self,
        chat: ChatId,
        incarnation: Incarnation,
        generation: Generation,
    ) -> Result<Anew, StorageError> {
        apart(|| anew::begin_anew(&self.chats_dir(), chat, incarnation, Some(generation)))
    }

    /// Makes room for a chat that is no longer here. Its file is deleted, unless something waits in
    /// it that nobody else has: then it is kept aside. Gives where.
    ///
    /// The file must have been closed: `StorageError::InUse`.
    pub fn discard(&self, chat: ChatId) -> Result<Option<PathBuf>, StorageError> {
        let kept_at = anew::keep_what_waits(&chat_path(&self.chats_dir(), chat), chat)?;
        self.remove_chat(chat).map(|()| kept_at)
    }

    /// Keeps a chat's file aside, where there is one, so that the chat is no longer here.
    pub fn keep_aside(&self, chat: ChatId) -> Result<Option<PathBuf>, StorageError> {
        let kept_at = apart(|| anew::keep_aside(&chat_path(&self.chats_dir(), chat)))?;
        self.remove_chat(chat).map(|()| kept_at)
    }

    /// Deletes a chat's file, if it is there, after its store and readers are gone.
    pub fn remove_chat(&self, chat: ChatId) -> Result<(), StorageError> {
        let dir = self.chats_dir();
        let path = chat_path(&dir, chat);
        apart(|| {
            for file in [&path, &mark_of(&path), &marker_of(&path)] {
                remove_if_there(file)?;
            }
            sync_directory(&dir)
        })
    }

    fn chats_dir(&self) -> PathBuf {
        self.path.join("chats")
    }
}

/// How many bytes this user may still write to the file system of `path` (R38).
pub fn free_bytes(path: &Path) -> Result<u64, StorageError> {
    let status = rustix::fs::statvfs(path)
        .map_err(|error| StorageError::io("ask for the free space of", path, error.into()))?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

/// Deletes files that a crash has left before they were complete. They would only take up room.
fn remove_unfinished(chats: &Path) {
    let items = fs::read_dir(chats).into_iter().flatten().flatten();
    let ends = [format!(".{NEW}"), format!(".{NEW}.damaged")];
    let is_unfinished = |name: &str| ends.iter().any(|end| name.ends_with(end));
    let unfinished = items.filter(|item| item.file_name().to_str().is_some_and(is_unfinished));
    for item in unfinished {
        let _ = fs::remove_file(item.path());
    }
}

/// The process that runs on the directory at `path`, if one does.
///
/// # Errors
/// When it cannot be told: the directory belongs to somebody else, or the disk fails.
pub fn process_on(path: &Path) -> Result<Option<u32>, StorageError> {
    let path = path.join("lock");
    let io = |doing| {
        let path = path.clone();
        move |error| StorageError::io(doing, &path, error)
    };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("open")(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(io("read"))?;
            Ok(text.trim().parse().ok())
        }
        Err(TryLockError::Error(error)) => Err(io("lock")(error)),
    }
}

/// The lock goes with the process, however that ends. The file says which one has it.
fn take_lock(dir: &Path) -> Result<File, StorageError> {
    let path = dir.join("lock");
    let io = |doing| {
        let path = path.clone();
        move |error| StorageError::io(doing, &path, error)
    };
    let options = &mut OpenOptions::new();
    let mut file = open_private(&path, options.create(true).truncate(false)).map_err(io("open"))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).map_err(io("write"))?;
            writeln!(file, "{}", std::process::id()).map_err(io("write"))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let process =
                file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            Err(StorageError::InUse { path: dir.to_owned(), process })
        }
        Err(TryLockError::Error(error)) => Err(io("lock")(error)),
    }
}
