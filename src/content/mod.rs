//! What participants say: the plain side of what a chat's log holds sealed.
//!
//! Pure: no input, output or clock. `kinds` has the words and their limits, `encoding` their bytes,
//! `binding` what ties sealed bytes to their place in a log, `head` what each author says of the
//! log (S12). The schema is `proto/demes/content/v1/content.proto`.
//!
//! Bytes that come here were opened by MLS, so that a member made them; that makes them genuine and
//! not sound. Decoding fails with a reason or gives a value within the limits, whatever comes.

#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod binding;
mod encoding;
mod head;
mod kinds;

pub use binding::Binding;
pub use encoding::{CONTENT_BYTES_MAX, ContentError};
pub use head::{Head, HeadCheck};
pub use kinds::{Content, Kind};
