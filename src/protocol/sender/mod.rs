//! Who is speaking, and what its messages say of it beside what they ask.
//!
//! `strangers` and `removal` turn away who is no member and who was one; `hearsay` learns of the
//! sender's incarnation and term by the way, `past` compares what peers remember of each other,
//! `blame` follows from a proven fault, and `added` counts how much an author adds.
//!
//! What other rooms call is `pub(crate)`: `refuse_stranger` and its like before a message is looked
//! at, `blame` and `may_add` afterwards.

mod added;
mod blame;
mod hearsay;
mod past;
mod removal;
mod strangers;

pub(crate) use added::Added;
pub(crate) use past::GATHER_US;
pub(crate) use strangers::{SHOWN_US, ShownByLink};
