//! What goes into a sealer, and what comes out for people.

use bytes::Bytes;
use demes_content::Content;
use demes_protocol::types::{Generation, Incarnation, Number, PeerId};

/// A Commit and the Welcome for those whom it adds: what a `Keying` entry carries (S2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keying {
    pub commit: Bytes,
    /// Empty where nobody is added.
    pub welcome: Bytes,
}

/// A committed entry, as far as sealing is concerned.
#[derive(Clone, Copy, Debug)]
pub enum Logged<'a> {
    /// A participant takes part with this key package: it has joined, has come back in a new
    /// incarnation, or asks for a new seat (S16).
    Seat {
        peer: PeerId,
        incarnation: Incarnation,
        package: &'a Bytes,
    },
    /// A participant is one no more: from when it says that it leaves, or is to go.
    Left {
        peer: PeerId,
    },
    Keying {
        author: PeerId,
        keying: &'a Keying,
    },
    Sealed {
        author: PeerId,
        incarnation: Incarnation,
        number: Number,
        sealed: &'a Bytes,
        /// What `Sealer::seal` gave for the outbox, where the message is this peer's own.
        own: Option<&'a Bytes>,
    },
    /// The chat goes on in another generation (R30).
    Recovered {
        generation: Generation,
    },
    /// Anything else.
    Other,
}

/// What an entry has come to.
#[derive(Clone, PartialEq, Debug)]
pub enum Shown {
    Nothing,
    Content(Box<Content>),
    Unreadable(Unreadable),
    /// The keys have changed.
    Keyed {
        epoch: u64,
    },
    /// This participant reads from here on (S9).
    Joined {
        epoch: u64,
    },
    /// A Keying that changes nothing (S2).
    KeyingVoid,
    /// A key package that seats nobody.
    SeatInvalid,
    /// The keys have changed, and not for this participant: it needs a new seat (S16).
    LockedOut,
    /// This participant's leaf was taken out.
    LeftGroup,
}

/// Why a sealed message is not shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// It was said before this participant had keys (S9).
    BeforeJoining,
    /// Its keys are gone, or its author's seat is (S8).
    EpochGone,
    /// It is not its author's, or not of this place.
    NotAuthentic,
    /// It opens, and this version of demes does not know what it is.
    UnknownContent,
    /// This peer said it, and its disk does not know any more what.
    OwnLost,
}
