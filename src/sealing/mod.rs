//! Sealing: only the members of a chat's MLS group read what is said in it.
//!
//! MLS (RFC 9420) lies over the log: the log says who should hold keys, and orders the changes of
//! keys; this package makes the group follow, seals, opens, and keeps what was opened in a vault.
//! Its rules are S1 to S16 of `docs/protocol.md`. It knows no network and no tasks; its calls
//! block for the disk, and one worker per chat makes them.
//!
//! Reading order: `shown` (what goes in and comes out), `roster` and `timing` (pure rules),
//! `credential`, `rules` and `group` (MLS as demes uses it), `sealer` and
//! `taking` (one participant), `vault`
//! with `slots`, `cipher` and `vault_key` (what lies on the disk).

mod cipher;
mod credential;
mod disk;
mod group;
mod ledger;
mod memory;
mod opener;
pub mod planted;
mod records;
mod roster;
mod rules;
mod sealer;
mod shown;
mod slots;
mod suite;
mod taking;
#[cfg(test)]
mod tests;
mod timing;
mod vault;
mod vault_key;

pub use cipher::NoRandom;
pub use credential::{CredentialError, Seat, Seats};
pub use group::{
    Committed, Group, GroupError, NewSeat, OpenError, Opened, Processed, RATCHET_GAP_MAX, place_of,
    read_package, welcomed,
};
pub use roster::{Change, Difference, Leaf, Participant, Roster};
pub use sealer::{Duty, NotSealed, Place, RESERVED_AHEAD, Sealed, Sealer, SealingError};
pub use shown::{Keying, Logged, Shown, Unreadable};
pub use suite::Suite;
pub use timing::{
    PAST_EPOCHS_MAX, PastEpoch, RefreshLimits, RefreshState, Turns, epochs_to_forget,
};
pub use vault::VaultError;
pub use vault_key::{VaultKey, VaultKeyError};

/// The longest Keying in bytes, Commit and Welcome together.
pub const KEYING_BYTES_MAX: usize = 1 << 20;
