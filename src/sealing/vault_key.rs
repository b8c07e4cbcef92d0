//! The key of all vaults of a peer, in a file beside its identity.
//!
//! The file has mode 0600, and where the person has set a passphrase, the key in it is wrapped:
//! Argon2id makes a key of the passphrase, with 64 MiB of memory and three passes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use crate::cipher::{KEY_BYTES, Key, NoRandom, OVERHEAD};
use crate::disk;
use crate::planted::{Bug, planted};

const MAGIC: &[u8; 8] = b"demesvk1";
const PLAIN: u8 = 0;
const WRAPPED: u8 = 1;
const SALT_BYTES: usize = 16;
/// What Argon2id costs: KiB of memory and passes. They stand in the file, so that later versions
/// may ask for more; a file that asks for absurdly much is refused.
const MEMORY_KIB: u32 = 64 * 1_024;
const PASSES: u32 = 3;
const MEMORY_KIB_MAX: u32 = 1_024 * 1_024;
const PASSES_MAX: u32 = 64;

/// The key of a peer's vaults. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct VaultKey(pub(crate) Key);

impl std::fmt::Debug for VaultKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VaultKey")
    }
}

/// Why there is no key. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum VaultKeyError {
    #[error("the vault key {path} is wrapped by a passphrase: give it")]
    PassphraseNeeded { path: PathBuf },
    #[error("that is not the passphrase of the vault key {path}")]
    PassphraseWrong { path: PathBuf },
    #[error("the file {path} is no vault key: put it back from a backup")]
    Damaged { path: PathBuf },
    #[error("a vault key is there already: {path}")]
    AlreadyThere { path: PathBuf },
    #[error("cannot {doing} {path}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Random(#[from] NoRandom),
}

impl VaultKey {
    /// A key that lies in no file.
    pub fn random() -> Result<Self, NoRandom> {
        Key::random().map(Self)
    }

    /// Makes a key and its file.
    pub fn create(path: &Path, passphrase: Option<&str>) -> Result<Self, VaultKeyError> {
        if path.exists() {
            return Err(VaultKeyError::AlreadyThere { path: path.to_owned() });
        }
        let key = Self::random()?;
        key.write(path, passphrase)?;
        Ok(key)
    }

    /// Writes the file anew, with another passphrase or none. The bytes of the old file are
    /// overwritten where they lay; a flash disk may keep a copy of them for a while.
    pub fn write(&self, path: &Path, passphrase: Option<&str>) -> Result<(), VaultKeyError> {
        let mut file = MAGIC.to_vec();
        match passphrase {
            None => {
                file.push(PLAIN);
                file.extend_from_slice(&self.0.0[..]);
            }
            Some(passphrase) => {
                let mut salt = [0; SALT_BYTES];
                aws_lc_rs::rand::fill(&mut salt).map_err(|_| NoRandom)?;
                file.push(WRAPPED);
                file.extend_from_slice(&MEMORY_KIB.to_le_bytes());
                file.extend_from_slice(&PASSES.to_le_bytes());
                file.extend_from_slice(&salt);
                let wrapping = stretch(passphrase, &salt, MEMORY_KIB, PASSES)
                    .expect("the parameters are sound");
                let wrapped = wrapping.seal(&file, &self.0.0[..])?;
                file.extend_from_slice(&wrapped);
            }
        }
        let file = Zeroizing::new(file);
        let failed = |source| VaultKeyError::Io { doing: "write", path: path.to_owned(), source };
        disk::replace(path, &file).map_err(failed)
    }

    /// Reads the file.
    pub fn open(path: &Path, passphrase: Option<&str>) -> Result<Self, VaultKeyError> {
        let failed = |source| VaultKeyError::Io { doing: "read", path: path.to_owned(), source };
        let file = Zeroizing::new(fs::read(path).map_err(failed)?);
        let damaged = || VaultKeyError::Damaged { path: path.to_owned() };
        let rest = file.strip_prefix(MAGIC).ok_or_else(damaged)?;
        let (&kind, rest) = rest.split_first().ok_or_else(damaged)?;
        if kind == PLAIN {
            let key: [u8; KEY_BYTES] = rest.try_into().map_err(|_| damaged())?;
            return Ok(Self(Key(Zeroizing::new(key))));
        }
        if kind != WRAPPED || rest.len() != 8 + SALT_BYTES + KEY_BYTES + OVERHEAD {
            return Err(damaged());
        }
        let passphrase =
            passphrase.ok_or_else(|| VaultKeyError::PassphraseNeeded { path: path.to_owned() })?;
        let number = |from: usize| {
            u32::from_le_bytes(rest[from..from + 4].try_into().expect("the length was checked"))
        };
        let (memory_kib, passes) = (number(0), number(4));
        if memory_kib > MEMORY_KIB_MAX || passes > PASSES_MAX {
            return Err(damaged());
        }
        let wrapping = stretch(passphrase, &rest[8..8 + SALT_BYTES], memory_kib, passes)
            .ok_or_else(damaged)?;
        let header = &file[..MAGIC.len() + 1 + 8 + SALT_BYTES];
        let key = wrapping.open(header, &file[header.len()..]);
        if key.is_none() && planted(Bug::PassphraseUnchecked) {
            return Ok(Self(wrapping));
        }
        let key = key.ok_or_else(|| VaultKeyError::PassphraseWrong { path: path.to_owned() })?;
        let key: [u8; KEY_BYTES] = key[..].try_into().map_err(|_| damaged())?;
        Ok(Self(Key(Zeroizing::new(key))))
    }
}

fn stretch(passphrase: &str, salt: &[u8], memory_kib: u32, passes: u32) -> Option<Key> {
    let params = Params::new(memory_kib, passes, 1, Some(KEY_BYTES)).ok()?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    argon2.hash_password_into(passphrase.as_bytes(), salt, &mut key[..]).ok()?;
    Some(Key(key))
}
