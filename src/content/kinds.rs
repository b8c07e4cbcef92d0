//! The kinds of content, and what each may hold.

use bytes::Bytes;
use demes_protocol::types::{NAME_CHARS_MAX, REQUEST_ID_BYTES_MAX, TEXT_CHARS_MAX};

use super::encoding::ContentError;
use super::head::Head;

/// One thing that a participant says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Content {
    /// The author's wall clock in milliseconds since 1970. It is shown and never sorted by.
    pub created_at_ms: u64,
    /// How far the author's log was committed (S12); `None` before its first entry.
    pub head: Option<Head>,
    /// The id that the author's program chose, at most 64 bytes; empty for none.
    pub request_id: String,
    /// What it is.
    pub kind: Kind,
}

/// What a content is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A text for everybody. Of foreign programs it may be longer than 2,048 characters, and is
    /// bounded by the size of a content.
    Text(String),
    /// How the author wants to be called.
    Profile { name: String },
    /// How the chat is called from here on.
    Rename { name: String },
    /// A kind of a newer demes. It is kept whole, and shown as what cannot be shown here.
    Unknown {
        /// The number of the kind's field in the schema.
        number: u32,
        /// The whole content as it came, so that a newer demes reads it later.
        encoded: Bytes,
    },
}

impl Content {
    /// Whether demes' own programs may say this. What others say is bounded by `decode` alone.
    pub fn check(&self) -> Result<(), ContentError> {
        self.check_foreign()?;
        match &self.kind {
            Kind::Text(text) if text.is_empty() => Err(ContentError::Invalid("text")),
            Kind::Text(text) if text.chars().count() > TEXT_CHARS_MAX => {
                Err(ContentError::TooLong("text"))
            }
            _ => Ok(()),
        }
    }

    /// What must hold of whatever is shown, whoever has said it.
    pub(super) fn check_foreign(&self) -> Result<(), ContentError> {
        if self.request_id.len() > REQUEST_ID_BYTES_MAX {
            return Err(ContentError::TooLong("request_id"));
        }
        if self.head.is_some_and(|head| head.index == 0) {
            return Err(ContentError::Invalid("head"));
        }
        match &self.kind {
            Kind::Profile { name } | Kind::Rename { name } => check_name(name),
            Kind::Text(_) | Kind::Unknown { .. } => Ok(()),
        }
    }
}

/// Names stand beside other people's words everywhere: they are one line, and short.
fn check_name(name: &str) -> Result<(), ContentError> {
    if name.chars().count() > NAME_CHARS_MAX {
        return Err(ContentError::TooLong("name"));
    }
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        return Err(ContentError::Invalid("name"));
    }
    Ok(())
}
