//! The bytes of a content: one byte that names the format, and a protobuf message.
//!
//! Protobuf and not the log's canonical form: nothing hashes or signs these bytes by themselves,
//! and what they say must grow without a new version for each field. They are not padded here; MLS
//! pads what it seals.

use bytes::Bytes;
use demes_protocol::types::{Hash, SEALED_BYTES_MAX};
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};

use super::head::Head;
use super::kinds::{Content, Kind};

/// The generated messages of `proto/demes/content/v1`.
#[allow(clippy::all, clippy::pedantic)]
mod pb {
    include!(concat!(env!("OUT_DIR"), "/demes.content.v1.rs"));
}

/// The longest content in bytes. Sealing pads by up to a quarter and adds a frame with a signature,
/// and the whole must fit into an entry.
pub const CONTENT_BYTES_MAX: usize = SEALED_BYTES_MAX * 3 / 4 - 512;
/// The format byte of what is written here.
const FORMAT: u8 = 1;
/// The fields of a content from this number on are kinds.
const FIRST_KIND: u32 = 16;

/// Why bytes are no content, or a content cannot be said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ContentError {
    #[error("the content has a format that this version of demes does not know ({0})")]
    UnknownFormat(u8),
    #[error("the content is malformed")]
    Malformed,
    #[error("the content says nothing")]
    Empty,
    #[error("{0} is not valid")]
    Invalid(&'static str),
    #[error("{0} is too long")]
    TooLong(&'static str),
}

impl Content {
    /// The bytes to be sealed. Fails on what `check` refuses, and on a content that is too long.
    pub fn encode(&self) -> Result<Bytes, ContentError> {
        self.check()?;
        if let Kind::Unknown { encoded, .. } = &self.kind {
            return Ok(encoded.clone());
        }
        let message = pb::Content {
            created_at_ms: self.created_at_ms,
            head: self.head.map(|head| pb::Head { index: head.index, hash: head.hash.0.to_vec() }),
            request_id: self.request_id.clone(),
            kind: match &self.kind {
                Kind::Text(text) => Some(pb::content::Kind::Text(pb::Text { text: text.clone() })),
                Kind::Profile { name } => {
                    Some(pb::content::Kind::Profile(pb::Profile { name: name.clone() }))
                }
                Kind::Rename { name } => {
                    Some(pb::content::Kind::Rename(pb::Rename { name: name.clone() }))
                }
                Kind::Unknown { .. } => None,
            },
        };
        let mut encoded = Vec::with_capacity(1 + message.encoded_len());
        encoded.push(FORMAT);
        message.encode(&mut encoded).expect("a Vec grows");
        if encoded.len() > CONTENT_BYTES_MAX {
            return Err(ContentError::TooLong("content"));
        }
        Ok(encoded.into())
    }

    /// Reads what was opened. Never panics, and allocates no more than a few times what is there.
    pub fn decode(encoded: &Bytes) -> Result<Self, ContentError> {
        if encoded.len() > CONTENT_BYTES_MAX {
            return Err(ContentError::TooLong("content"));
        }
        let body = match encoded.first() {
            None => return Err(ContentError::Empty),
            Some(&FORMAT) => encoded.slice(1..),
            Some(&format) => return Err(ContentError::UnknownFormat(format)),
        };
        let message = pb::Content::decode(body.clone()).map_err(|_| ContentError::Malformed)?;
        let kind = match message.kind {
            Some(pb::content::Kind::Text(text)) => Kind::Text(text.text),
            Some(pb::content::Kind::Profile(profile)) => Kind::Profile { name: profile.name },
            Some(pb::content::Kind::Rename(rename)) => Kind::Rename { name: rename.name },
            None => {
                let number = unknown_kind(body)?.ok_or(ContentError::Empty)?;
                Kind::Unknown { number, encoded: encoded.clone() }
            }
        };
        let head = match message.head {
            Some(head) => {
                let hash = head.hash.as_slice().try_into();
                let hash = hash.map_err(|_| ContentError::Invalid("head"))?;
                Some(Head { index: head.index, hash: Hash(hash) })
            }
            None => None,
        };
        let content = Self {
            created_at_ms: message.created_at_ms,
            head,
            request_id: message.request_id,
            kind,
        };
        content.check_foreign()?;
        Ok(content)
    }
}

/// The last field of the message that is a kind, as protobuf decides where there are several.
fn unknown_kind(mut body: Bytes) -> Result<Option<u32>, ContentError> {
    let mut found = None;
    while !body.is_empty() {
        let (number, wire_type) = decode_key(&mut body).map_err(|_| ContentError::Malformed)?;
        skip_field(wire_type, number, &mut body, DecodeContext::default())
            .map_err(|_| ContentError::Malformed)?;
        if number >= FIRST_KIND && wire_type == WireType::LengthDelimited {
            found = Some(number);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use demes_protocol::types::TEXT_CHARS_MAX;
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Content {
        Content {
            created_at_ms: 7,
            head: Some(Head { index: 3, hash: Hash([9; 32]) }),
            request_id: "r".to_owned(),
            kind: Kind::Text(text.to_owned()),
        }
    }

    fn contents() -> impl Strategy<Value = Content> {
        let kinds = prop_oneof![
            "\\PC{1,200}".prop_map(Kind::Text),
            "[a-zé日🏡]{1,64}".prop_map(|name| Kind::Profile { name }),
            "[a-zé日🏡]{1,64}".prop_map(|name| Kind::Rename { name }),
        ];
        let heads = proptest::option::of((1_u64.., any::<[u8; 32]>()));
        (any::<u64>(), heads, "[ -~]{0,64}", kinds).prop_map(|(created_at_ms, head, id, kind)| {
            let head = head.map(|(index, hash)| Head { index, hash: Hash(hash) });
            Content { created_at_ms, head, request_id: id, kind }
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(content in contents()) {
            prop_assert_eq!(Content::decode(&content.encode().unwrap()), Ok(content));
        }

        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Content::decode(&Bytes::from(bytes.clone()));
            // Most of what is drawn has another format; let the message be reached, too.
            bytes.insert(0, FORMAT);
            let bytes = Bytes::from(bytes);
            if let Ok(content) = Content::decode(&bytes) {
                prop_assert!(content.check_foreign().is_ok());
            }
        }

        #[test]
        fn any_change_of_good_bytes_is_survived(
            content in contents(), place in any::<prop::sample::Index>(), byte in any::<u8>()
        ) {
            let mut bytes = content.encode().unwrap().to_vec();
            let place = place.index(bytes.len());
            bytes[place] = byte;
            let _ = Content::decode(&bytes.into());
        }
    }

    // S5: more kinds can follow, and a peer that does not know one keeps what it cannot show.
    #[test]
    fn a_kind_of_a_newer_demes_is_kept_whole() {
        let mut newer = vec![FORMAT];
        // created_at_ms = 5; field 40, of 3 bytes.
        newer.extend([0x08, 5, 0xc2, 0x02, 3, 1, 2, 3]);
        let newer = Bytes::from(newer);
        let content = Content::decode(&newer).unwrap();
        assert_eq!(content.created_at_ms, 5);
        assert_eq!(content.kind, Kind::Unknown { number: 40, encoded: newer.clone() });
        assert_eq!(content.encode(), Ok(newer));
    }

    #[test]
    fn a_field_of_a_newer_demes_does_not_hide_the_kind() {
        let mut newer = text("hello").encode().unwrap().to_vec();
        newer.extend([0x50, 1]); // field 10, a number
        assert_eq!(Content::decode(&newer.into()), Ok(text("hello")));
    }

    #[test]
    fn what_is_no_content_has_a_reason() {
        let decode = |bytes: &[u8]| Content::decode(&Bytes::copy_from_slice(bytes)).unwrap_err();
        assert_eq!(decode(&[]), ContentError::Empty);
        assert_eq!(decode(&[FORMAT]), ContentError::Empty);
        assert_eq!(decode(&[2, 1]), ContentError::UnknownFormat(2));
        assert_eq!(decode(&[FORMAT, 0xff]), ContentError::Malformed);
        // A head with a hash of one byte, and one of no entry.
        assert_eq!(
            decode(&[FORMAT, 0x12, 5, 8, 1, 0x12, 1, 0, 0x82, 1, 0]),
            ContentError::Invalid("head")
        );
        let none = Content { head: Some(Head { index: 0, hash: Hash([0; 32]) }), ..text("x") };
        assert_eq!(none.encode(), Err(ContentError::Invalid("head")));
        // A profile without a name, and one with a line break.
        assert_eq!(decode(&[FORMAT, 0x8a, 1, 0]), ContentError::Invalid("name"));
        assert_eq!(decode(&[FORMAT, 0x8a, 1, 3, 0x0a, 1, b'\n']), ContentError::Invalid("name"));
    }

    #[test]
    fn limits_hold_both_ways() {
        let longest = text(&"🏡".repeat(TEXT_CHARS_MAX));
        assert_eq!(Content::decode(&longest.encode().unwrap()), Ok(longest));
        let too_long = ContentError::TooLong("text");
        assert_eq!(text(&"x".repeat(TEXT_CHARS_MAX + 1)).encode(), Err(too_long));
        assert_eq!(text("").encode(), Err(ContentError::Invalid("text")));
        let long_id = Content { request_id: "r".repeat(65), ..text("x") };
        assert_eq!(long_id.encode(), Err(ContentError::TooLong("request_id")));
        for name in [String::new(), " ".to_owned(), "a\tb".to_owned(), "x".repeat(65)] {
            let profile = Content { kind: Kind::Profile { name: name.clone() }, ..text("x") };
            assert!(profile.encode().is_err(), "{name}");
            let rename = Content { kind: Kind::Rename { name: name.clone() }, ..text("x") };
            assert!(rename.encode().is_err(), "{name}");
        }
        let mut huge = vec![FORMAT];
        huge.resize(CONTENT_BYTES_MAX + 1, 0);
        assert_eq!(Content::decode(&huge.into()), Err(ContentError::TooLong("content")));
    }
}
