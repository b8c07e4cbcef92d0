//! What ties sealed bytes to their place, so that nobody can move them (S5).

use demes_protocol::types::{ChatId, Generation, Incarnation, Number, PeerId};
use sha2::{Digest as _, Sha256};

const TAG: &[u8] = b"demes/v1/content-binding\0";

/// Where a content belongs: the submission that carries it. A host that puts one author's sealed
/// bytes under another's number, or into another chat, gives them another binding, and they do not
/// open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    pub chat: ChatId,
    pub generation: Generation,
    pub author: PeerId,
    pub incarnation: Incarnation,
    pub number: Number,
}

impl Binding {
    /// The authenticated data of the sealed message: SHA-256 over a tag and the fields in their
    /// order, numbers as 8 bytes in little-endian. The entry has the fields in plain, so that 32
    /// bytes need not be 72.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(TAG);
        hasher.update(self.chat.0);
        hasher.update(self.generation.to_le_bytes());
        hasher.update(self.author.0);
        hasher.update(self.incarnation.to_le_bytes());
        hasher.update(self.number.to_le_bytes());
        hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S5: each field counts, so that nothing sealed can be moved.
    #[test]
    fn every_field_is_bound() {
        let here = Binding {
            chat: ChatId([1; 16]),
            generation: 0,
            author: PeerId([2; 32]),
            incarnation: 3,
            number: 4,
        };
        let elsewhere = [
            Binding { chat: ChatId([9; 16]), ..here },
            Binding { generation: 9, ..here },
            Binding { author: PeerId([9; 32]), ..here },
            Binding { incarnation: 9, ..here },
            Binding { number: 9, ..here },
            Binding { incarnation: 4, number: 3, ..here },
        ];
        for other in elsewhere {
            assert_ne!(other.digest(), here.digest(), "{other:?}");
        }
        assert_eq!(here.digest(), Binding { ..here }.digest());
    }
}
