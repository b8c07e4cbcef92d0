//! How values lie on the disk: ChaCha20-Poly1305, each value bound to its place.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::memory::Secret;
use crate::planted::{Bug, planted};

pub(crate) const KEY_BYTES: usize = 32;
/// What a value has more than what it holds: a nonce and a tag.
pub(crate) const OVERHEAD: usize = NONCE_LEN + 16;

/// A key for values. It is overwritten when it is dropped.
#[derive(Clone)]
pub(crate) struct Key(pub Zeroizing<[u8; KEY_BYTES]>);

/// The system gives no random numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandom;

impl Key {
    pub fn random() -> Result<Self, NoRandom> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut key[..]).map_err(|_| NoRandom)?;
        Ok(Self(key))
    }

    /// A key for one purpose, which gives nothing away of this one.
    pub fn derive(&self, purpose: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0[..]);
        let tag = hmac::sign(&key, purpose);
        let derived = tag.as_ref().try_into().expect("SHA-256 gives 32 bytes");
        Self(Zeroizing::new(derived))
    }

    /// Encrypts `value` for the place `place`. Nonces are random: 2^32 values under one key are
    /// far more than a chat has.
    pub fn seal(&self, place: &[u8], value: &[u8]) -> Result<Vec<u8>, NoRandom> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| NoRandom)?;
        let mut sealed = Vec::with_capacity(value.len() + OVERHEAD);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(value);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .cipher()
            .seal_in_place_separate_tag(nonce, Aad::from(bound(place)), &mut sealed[NONCE_LEN..])
            .map_err(|_| NoRandom)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// The value that was encrypted for this place with this key.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Option<Secret> {
        let (nonce, value) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut value = Zeroizing::new(value.to_vec());
        let length =
            self.cipher().open_in_place(nonce, Aad::from(bound(place)), &mut value).ok()?.len();
        value.truncate(length);
        Some(value)
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.0[..]);
        LessSafeKey::new(key.expect("32 bytes are a key"))
    }
}

fn bound(place: &[u8]) -> &[u8] {
    if planted(Bug::ValuesUnbound) { &[] } else { place }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_with_its_key_in_its_place_unchanged() {
        let key = Key::random().unwrap();
        let sealed = key.seal(b"here", b"value").unwrap();
        assert_eq!(sealed.len(), 5 + OVERHEAD);
        assert_eq!(key.open(b"here", &sealed).unwrap()[..], b"value"[..]);
        assert!(key.derive(b"x").open(b"here", &sealed).is_none());
        for place in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[place] ^= 1;
            assert!(key.open(b"here", &flipped).is_none(), "byte {place}");
            assert!(key.open(b"here", &sealed[..place]).is_none(), "{place} bytes");
        }
        assert_ne!(key.seal(b"here", b"value").unwrap(), sealed, "nonces differ");
    }
}
