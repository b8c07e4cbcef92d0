//! What a participant keeps readable of one chat: a redb file, and a file of keys beside it.
//!
//! Every value is encrypted and bound to its place. Secrets of MLS each have a key of their own
//! (`slots`), contents one for 256 entries: deleting a content gives the others of its segment a
//! new key. A transaction first makes new keys durable, then the values, and then overwrites the
//! keys of what was replaced; a process that ends between is finished by the next `open`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use demes_protocol::types::{ChatId, Index, PeerId};
use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    ReadableTableMetadata as _, TableDefinition, WriteTransaction,
};
use zeroize::Zeroizing;

use crate::cipher::{Key, NoRandom};
use crate::disk;
use crate::memory::Secret;
use crate::slots::{Slot, Slots};
use crate::vault_key::VaultKey;

/// Small facts in plain: the format, and what tells keys apart.
const PLAIN: TableDefinition<&str, &[u8]> = TableDefinition::new("plain");
/// Secrets by name: the slot of the key, and the encrypted value.
const SECRETS: TableDefinition<&str, &[u8]> = TableDefinition::new("secrets");
/// The slots of the segments' keys.
const SEGMENTS: TableDefinition<u64, u32> = TableDefinition::new("segments");
/// Opened contents by the index of their entry, encrypted.
const CONTENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("contents");

const FORMAT: &[u8] = b"1";
/// How many entries share the key of a segment.
const SEGMENT: u64 = 256;
/// What redb may hold in memory for one vault.
const CACHE_BYTES: usize = 1 << 20;

/// Why the vault did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the vault {path} belongs to another key: put the right vault key back")]
    OtherKey { path: PathBuf },
    #[error("the vault {path} is of another peer or chat")]
    OtherOwner { path: PathBuf },
    #[error("the vault {path} has a format that this version of demes does not read")]
    Version { path: PathBuf },
    #[error("the vault {path} is damaged ({what})")]
    Damaged { path: PathBuf, what: String },
    #[error("the vault {path} took no more writes after an earlier one had failed")]
    Failed { path: PathBuf },
    #[error("cannot write the vault {path}: {what}")]
    Io { path: PathBuf, what: String },
    #[error(transparent)]
    Random(#[from] NoRandom),
}

/// One change of the vault: all of it or nothing.
#[derive(Default)]
pub(crate) struct Batch {
    /// Secrets by name; `None` deletes.
    pub secrets: BTreeMap<String, Option<Secret>>,
    pub contents: BTreeMap<Index, Secret>,
    pub deleted: BTreeSet<Index>,
}

/// The vault of one chat. Calls block; a failed write ends it.
pub(crate) struct Vault {
    path: PathBuf,
    database: Database,
    slots: Slots,
    chat: ChatId,
    key: Key,
    has_failed: bool,
}

/// Of the two files, the one with the values.
pub(crate) fn path_of(dir: &Path, chat: ChatId) -> PathBuf {
    dir.join(format!("{chat}.vault"))
}

impl Vault {
    /// Opens the vault of a chat, or makes it. `owner` is the peer whose it is.
    pub fn open(
        dir: &Path,
        vault_key: &VaultKey,
        chat: ChatId,
        owner: PeerId,
    ) -> Result<Self, VaultError> {
        let path = path_of(dir, chat);
        let io =
            |what: &dyn ToString| VaultError::Io { path: path.clone(), what: what.to_string() };
        let key = vault_key.0.derive(&[b"demes/v1/vault\0".as_slice(), &chat.0].concat());
        let key_name = key.derive(b"name").0.to_vec();
        let backend = disk::backend(&path).map_err(|error| io(&error))?;
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(|error| io(&error))?;
        let begin = database.begin_write().map_err(|error| io(&error))?;
        let is_new = {
            let mut plain = begin.open_table(PLAIN).map_err(|error| io(&error))?;
            let expected = [("format", FORMAT), ("key", &key_name[..]), ("owner", &owner.0[..])];
            let is_new = plain.is_empty().map_err(|error| io(&error))?;
            for (name, value) in expected {
                if is_new {
                    plain.insert(name, value).map_err(|error| io(&error))?;
                }
                let found = plain.get(name).map_err(|error| io(&error))?;
                if found.is_none_or(|found| found.value() != value) {
                    return Err(match name {
                        "format" => VaultError::Version { path },
                        "key" => VaultError::OtherKey { path },
                        _ => VaultError::OtherOwner { path },
                    });
                }
            }
            is_new
        };
        begin.open_table(SECRETS).map_err(|error| io(&error))?;
        begin.open_table(SEGMENTS).map_err(|error| io(&error))?;
        begin.open_table(CONTENTS).map_err(|error| io(&error))?;
        if is_new {
            begin.commit().map_err(|error| io(&error))?;
        } else {
            begin.abort().map_err(|error| io(&error))?;
        }
        let used = Self::used_slots(&database).map_err(|what| damaged(&path, &what))?;
        let slots = Slots::open(&path.with_extension("keys"), key.derive(b"slots"), used);
        let slots = slots.map_err(|error| io(&error))?;
        Ok(Self { path, database, slots, chat, key, has_failed: false })
    }

    fn used_slots(database: &Database) -> Result<BTreeSet<Slot>, redb::Error> {
        let read = database.begin_read()?;
        let mut used = BTreeSet::new();
        for record in read.open_table(SECRETS)?.iter()? {
            used.extend(split(record?.1.value()).map(|(slot, _)| slot));
        }
        for record in read.open_table(SEGMENTS)?.iter()? {
            used.insert(record?.1.value());
        }
        Ok(used)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A secret by its name.
    pub fn secret(&self, name: &str) -> Result<Option<Secret>, VaultError> {
        let found = self.read(|read| {
            let table = read.open_table(SECRETS)?;
            Ok(table.get(name)?.map(|value| value.value().to_vec()))
        })?;
        found.map(|value| self.open_secret(name, &value)).transpose()
    }

    /// All secrets whose names begin with `prefix`, by what follows.
    pub fn secrets(&self, prefix: &str) -> Result<BTreeMap<String, Secret>, VaultError> {
        let found = self.read(|read| {
            let mut found = Vec::new();
            for record in read.open_table(SECRETS)?.range(prefix..)? {
                let (name, value) = record?;
                if !name.value().starts_with(prefix) {
                    break;
                }
                found.push((name.value().to_owned(), value.value().to_vec()));
            }
            Ok(found)
        })?;
        let open = |(name, value): (String, Vec<u8>)| {
            Ok((name[prefix.len()..].to_owned(), self.open_secret(&name, &value)?))
        };
        found.into_iter().map(open).collect()
    }

    fn open_secret(&self, name: &str, value: &[u8]) -> Result<Secret, VaultError> {
        let opened = split(value).and_then(|(slot, sealed)| {
            self.slots.key(slot)?.open(&place("secrets", name.as_bytes()), sealed)
        });
        opened.ok_or_else(|| damaged(&self.path, &format!("the secret {name} does not open")))
    }

    /// The content of an entry; `None` where there is none, or where it was deleted.
    pub fn content(&self, index: Index) -> Result<Option<Secret>, VaultError> {
        let found = self.read(|read| {
            let slot = read.open_table(SEGMENTS)?.get(index / SEGMENT)?.map(|slot| slot.value());
            let sealed = read.open_table(CONTENTS)?.get(index)?.map(|value| value.value().to_vec());
            Ok(slot.zip(sealed))
        })?;
        let Some((slot, sealed)) = found else {
            return Ok(None);
        };
        let key = self.slots.key(slot);
        let opened = key.and_then(|key| key.open(&content_place(index), &sealed));
        let damaged = || damaged(&self.path, &format!("the content of {index} does not open"));
        opened.map(Some).ok_or_else(damaged)
    }

    /// Makes a change. After an error the vault takes no more: what is on the disk is unknown
    /// until it is opened again.
    pub fn write(&mut self, batch: &Batch) -> Result<(), VaultError> {
        if self.has_failed {
            return Err(VaultError::Failed { path: self.path.clone() });
        }
        self.has_failed = true;
        let path = self.path.clone();
        let io = |error: redb::Error| VaultError::Io { path, what: error.to_string() };
        let freed = self.change(batch).map_err(io)?;
        let path = self.path.clone();
        let io = |error: std::io::Error| VaultError::Io { path, what: error.to_string() };
        let free = || {
            self.slots.free(&freed)?;
            // What a person deletes must be gone when it is said to be.
            if batch.deleted.is_empty() { Ok(()) } else { self.slots.sync() }
        };
        let mut free = free;
        free().map_err(io)?;
        self.has_failed = false;
        Ok(())
    }

    /// The transaction. Gives the slots whose values it has replaced.
    fn change(&mut self, batch: &Batch) -> Result<Vec<Slot>, redb::Error> {
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        let mut freed = Vec::new();
        self.put_secrets(&write, batch, &mut freed)?;
        self.put_contents(&write, batch, &mut freed)?;
        // Keys first: values without their keys would be lost.
        self.slots.sync()?;
        write.commit()?;
        Ok(freed)
    }

    fn put_secrets(
        &mut self,
        write: &WriteTransaction,
        batch: &Batch,
        freed: &mut Vec<Slot>,
    ) -> Result<(), redb::Error> {
        let mut table = write.open_table(SECRETS)?;
        for (name, value) in &batch.secrets {
            let old = match value {
                Some(value) => {
                    let (slot, key) = self.slots.draw()?;
                    let mut record = slot.to_le_bytes().to_vec();
                    let sealed = key.seal(&place("secrets", name.as_bytes()), value);
                    record.extend(sealed.map_err(std::io::Error::other)?);
                    let old = table.insert(&name[..], &record[..])?;
                    old.and_then(|old| Some(split(old.value())?.0))
                }
                None => {
                    let old = table.remove(&name[..])?;
                    old.and_then(|old| Some(split(old.value())?.0))
                }
            };
            freed.extend(old);
        }
        Ok(())
    }

    fn put_contents(
        &mut self,
        write: &WriteTransaction,
        batch: &Batch,
        freed: &mut Vec<Slot>,
    ) -> Result<(), redb::Error> {
        let mut segments = write.open_table(SEGMENTS)?;
        let mut contents = write.open_table(CONTENTS)?;
        let mut keys: BTreeMap<u64, Key> = BTreeMap::new();
        let rekeyed: BTreeSet<u64> = batch.deleted.iter().map(|index| index / SEGMENT).collect();
        for segment in rekeyed {
            let Some(old) = segments.get(segment)?.map(|slot| slot.value()) else {
                continue;
            };
            let old_key = self.slots.key(old).ok_or_else(lost_key)?;
            let (slot, key) = self.slots.draw()?;
            let mut kept = Vec::new();
            for record in contents.range(segment * SEGMENT..(segment + 1) * SEGMENT)? {
                let (index, sealed) = record?;
                let index = index.value();
                if !batch.deleted.contains(&index) {
                    let place = content_place(index);
                    let value = old_key.open(&place, sealed.value()).ok_or_else(lost_key)?;
                    let sealed = key.seal(&place, &value).map_err(std::io::Error::other)?;
                    kept.push((index, sealed));
                }
            }
            for (index, sealed) in kept {
                contents.insert(index, &sealed[..])?;
            }
            segments.insert(segment, slot)?;
            freed.push(old);
            keys.insert(segment, key);
        }
        for index in &batch.deleted {
            contents.remove(index)?;
        }
        for (index, value) in &batch.contents {
            let segment = index / SEGMENT;
            let key = match keys.get(&segment) {
                Some(key) => key.clone(),
                None => {
                    let slot = segments.get(segment)?.map(|slot| slot.value());
                    let key = match slot {
                        Some(slot) => self.slots.key(slot).ok_or_else(lost_key)?,
                        None => {
                            let (slot, key) = self.slots.draw()?;
                            segments.insert(segment, slot)?;
                            key
                        }
                    };
                    keys.insert(segment, key.clone());
                    key
                }
            };
            let sealed = key.seal(&content_place(*index), value).map_err(std::io::Error::other)?;
            contents.insert(index, &sealed[..])?;
        }
        Ok(())
    }

    // S5: MLS opens no own message.
    /// A record of an own content, for the outbox: it opens with this vault's key alone.
    pub fn wrap(&self, number: u64, value: &[u8]) -> Result<Vec<u8>, VaultError> {
        Ok(self.key.derive(b"own").seal(&self.own_place(number), value)?)
    }

    /// The record that `wrap` has made for this number.
    pub fn unwrap(&self, number: u64, record: &[u8]) -> Option<Secret> {
        self.key.derive(b"own").open(&self.own_place(number), record)
    }

    fn own_place(&self, number: u64) -> Vec<u8> {
        place("own", &[&self.chat.0[..], &number.to_le_bytes()].concat())
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, VaultError> {
        let begun = self.database.begin_read().map_err(redb::Error::from);
        begun
            .and_then(|transaction| read(&transaction))
            .map_err(|error| damaged(&self.path, &error))
    }
}

/// Bytes that are dropped without a trace.
pub(crate) fn secret(bytes: impl Into<Vec<u8>>) -> Secret {
    Zeroizing::new(bytes.into())
}

fn split(record: &[u8]) -> Option<(Slot, &[u8])> {
    let (slot, sealed) = record.split_first_chunk()?;
    Some((Slot::from_le_bytes(*slot), sealed))
}

fn place(table: &str, key: &[u8]) -> Vec<u8> {
    [table.as_bytes(), b"\0", key].concat()
}

fn content_place(index: Index) -> Vec<u8> {
    place("contents", &index.to_le_bytes())
}

fn lost_key() -> std::io::Error {
    std::io::Error::other("a key is lost")
}

fn damaged(path: &Path, what: &dyn ToString) -> VaultError {
    VaultError::Damaged { path: path.to_owned(), what: what.to_string() }
}
