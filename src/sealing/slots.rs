//! The keys of a vault's values, in a file of their own that is written in place.
//!
//! redb writes beside what was there and frees it later, so that old values lie in its file for
//! long: used keys of MLS, and what somebody has deleted. So each value that must be able to
//! vanish has a key of its own. The key lies here, wrapped by the vault's, in a slot that is
//! overwritten: then what is left of the value opens for nobody.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::cipher::{KEY_BYTES, Key, NoRandom, OVERHEAD};
use crate::disk;
use crate::planted::{Bug, planted};

/// A wrapped key, and room up to a round number.
const SLOT_BYTES: usize = 64;

pub(crate) type Slot = u32;

pub(crate) struct Slots {
    file: File,
    wrapping: Key,
    used: BTreeSet<Slot>,
    /// Above every slot that was ever used.
    end: Slot,
}

impl Slots {
    /// Opens the file. Slots that are not `used` are overwritten: a process may have ended
    /// between its last transaction and that.
    pub fn open(path: &Path, wrapping: Key, used: BTreeSet<Slot>) -> io::Result<Self> {
        let file = disk::open(path, true)?;
        let end = Slot::try_from(file.metadata()?.len().div_ceil(SLOT_BYTES as u64));
        let end = end.map_err(|_| io::ErrorKind::InvalidData)?;
        let slots = Self { file, wrapping, used, end };
        let mut content = [0; SLOT_BYTES];
        let mut is_wiped = false;
        for slot in (0..end).filter(|slot| !slots.used.contains(slot)) {
            let read = slots.file.read_exact_at(&mut content, offset(slot));
            if read.is_err() || content != [0; SLOT_BYTES] {
                slots.wipe(slot)?;
                is_wiped = true;
            }
        }
        if is_wiped {
            disk::sync(&slots.file)?;
        }
        Ok(slots)
    }

    /// A fresh key in a free slot. It is durable after `sync`.
    pub fn draw(&mut self) -> io::Result<(Slot, Key)> {
        let key = Key::random().map_err(|NoRandom| io::Error::other(NoRandom))?;
        let slot = (0..=self.end).find(|slot| !self.used.contains(slot));
        let slot = slot.expect("the last one is free");
        let wrapped = self.wrapping.seal(&slot.to_le_bytes(), &key.0[..]);
        let mut content = wrapped.map_err(|NoRandom| io::Error::other(NoRandom))?;
        content.resize(SLOT_BYTES, 0);
        disk::write_at(&self.file, &content, offset(slot))?;
        self.used.insert(slot);
        self.end = self.end.max(slot + 1);
        Ok((slot, key))
    }

    /// The key in a slot; `None` where it was overwritten or damaged.
    pub fn key(&self, slot: Slot) -> Option<Key> {
        let mut content = [0; SLOT_BYTES];
        self.file.read_exact_at(&mut content, offset(slot)).ok()?;
        let key = self.wrapping.open(&slot.to_le_bytes(), &content[..KEY_BYTES + OVERHEAD])?;
        let key: [u8; KEY_BYTES] = key[..].try_into().ok()?;
        Some(Key(zeroize::Zeroizing::new(key)))
    }

    /// Overwrites keys whose values are gone. They are gone for ever after `sync`.
    pub fn free(&mut self, slots: &[Slot]) -> io::Result<()> {
        for slot in slots {
            if !planted(Bug::DeletedKeyKept) {
                self.wipe(*slot)?;
            }
            self.used.remove(slot);
        }
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        disk::sync(&self.file)
    }

    fn wipe(&self, slot: Slot) -> io::Result<()> {
        disk::write_at(&self.file, &[0; SLOT_BYTES], offset(slot))
    }
}

fn offset(slot: Slot) -> u64 {
    u64::from(slot) * SLOT_BYTES as u64
}
