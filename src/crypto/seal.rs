//! Where a message's text becomes the sealed bytes of an entry, and back.
//!
//! **Nothing is encrypted here yet.** A sealed message is one byte that names the seal, 0 for
//! "plain UTF-8", and the text. The peers of all members, whoever hosts, and their disks see every
//! text; only the connections between peers are encrypted. MLS (RFC 9420) will take this place as
//! another version byte; entries sealed with version 0 stay readable.

use bytes::Bytes;

/// The version byte of a plain text.
const PLAIN: u8 = 0;

/// Why sealed bytes give no text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the message is sealed in a way that this version of demes does not know ({0})")]
    UnknownVersion(u8),
    #[error("the message is empty where its seal should be")]
    Empty,
    #[error("the message is not UTF-8 text")]
    NotText,
}

/// Seals `text`. Its length was checked before.
pub fn seal(text: &str) -> Bytes {
    let mut sealed = Vec::with_capacity(1 + text.len());
    sealed.push(PLAIN);
    sealed.extend_from_slice(text.as_bytes());
    sealed.into()
}

/// The text of a sealed message.
pub fn open(sealed: &Bytes) -> Result<String, OpenError> {
    match sealed.split_first() {
        Some((&PLAIN, text)) => {
            std::str::from_utf8(text).map(str::to_owned).map_err(|_| OpenError::NotText)
        }
        Some((&version, _)) => Err(OpenError::UnknownVersion(version)),
        None => Err(OpenError::Empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens() {
        for text in ["", "hello", "日本語 🏡"] {
            assert_eq!(open(&seal(text)), Ok(text.to_owned()));
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert_eq!(open(&Bytes::new()), Err(OpenError::Empty));
        assert_eq!(open(&Bytes::from_static(b"\x01x")), Err(OpenError::UnknownVersion(1)));
        assert_eq!(open(&Bytes::from_static(b"\x00\xff")), Err(OpenError::NotText));
    }
}
