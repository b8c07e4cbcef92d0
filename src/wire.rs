//! The words on the wire: the translation of the generated code to and from the core's words.
//!
//! What arrives is parsed here, whole: every id, limit and enum is checked before a value of the
//! core's types exists, and nothing that a peer sends can panic. `wire/entry.rs` has the records of
//! the log, `wire/message.rs`, `wire/vote.rs` and `wire/join.rs` what peers say to each other under
//! a `wire/header.rs`,
//! `wire/view.rs` what people's programs are shown, `wire/link.rs` the text of an invite link,
//! `wire/reason.rs` the reasons of errors.

pub mod address;
pub mod entry;
mod header;
mod heartbeat;
mod join;
pub mod link;
pub mod message;
mod ranking;
pub mod reason;
pub mod view;
mod vote;

/// The generated messages and stubs, a package of their own in `src/api`.
pub use demes_api::{FILE_DESCRIPTOR_SET, feed, v1 as pb};

pub use self::address::check_address;
use crate::protocol::traceparent::from_traceparent;
use crate::protocol::types::{NAME_CHARS_MAX, PeerId, Signature, TraceContext};

/// Why bytes from outside are not a value of the core's types. Names the field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is not valid")]
    Invalid(&'static str),
    #[error("{0} is too long")]
    TooLong(&'static str),
}

/// Bytes as lower-case hexadecimal text: the one form of ids and hashes on the wire.
pub fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// A peer id from its text.
pub fn peer_id(text: &str, field: &'static str) -> Result<PeerId, WireError> {
    text.parse().map_err(|_| WireError::Invalid(field))
}

/// A peer id where empty text means none.
pub fn optional_peer_id(text: &str, field: &'static str) -> Result<Option<PeerId>, WireError> {
    if text.is_empty() { Ok(None) } else { peer_id(text, field).map(Some) }
}

/// A wall clock in milliseconds since 1970 as a protobuf timestamp.
pub fn timestamp(ms: u64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(ms / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms % 1_000).expect("below a thousand") * 1_000_000,
    }
}

/// The milliseconds of a timestamp, which must not lie before 1970.
pub fn milliseconds(
    timestamp: Option<prost_types::Timestamp>,
    field: &'static str,
) -> Result<u64, WireError> {
    let timestamp = timestamp.ok_or(WireError::Missing(field))?;
    let seconds = u64::try_from(timestamp.seconds).map_err(|_| WireError::Invalid(field))?;
    let nanos = u64::try_from(timestamp.nanos).map_err(|_| WireError::Invalid(field))?;
    seconds
        .checked_mul(1_000)
        .and_then(|ms| ms.checked_add(nanos / 1_000_000))
        .ok_or(WireError::Invalid(field))
}

/// The context of the call that made an entry. Empty text is none.
fn trace_context(text: &str) -> Result<TraceContext, WireError> {
    from_traceparent(text).map_err(|_| WireError::Invalid("traceparent"))
}

/// Checks a person's or chat's name: 1 to 64 characters, none of them a control character.
pub fn check_name(name: &str, field: &'static str) -> Result<(), WireError> {
    if name.chars().count() > NAME_CHARS_MAX {
        return Err(WireError::TooLong(field));
    }
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        return Err(WireError::Invalid(field));
    }
    Ok(())
}

fn signature(bytes: &[u8]) -> Result<Option<Signature>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    bytes.try_into().map(Some).map_err(|_| WireError::Invalid("signature"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_limits() {
        assert_eq!(check_name("Zoë", "name"), Ok(()));
        assert!(check_name("", "name").is_err());
        assert!(check_name(&"x".repeat(65), "name").is_err());
    }

    #[test]
    fn foreign_times_do_not_overflow() {
        let time =
            |seconds, nanos| milliseconds(Some(prost_types::Timestamp { seconds, nanos }), "t");
        assert_eq!(time(1, 5_000_000), Ok(1_005));
        assert!(time(-1, 0).is_err());
        assert!(time(0, -1).is_err());
        assert!(time(i64::MAX, 0).is_err());
    }
}
