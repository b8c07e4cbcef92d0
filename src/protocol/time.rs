//! Time as a number, so that a replica has no clock and a checker can hold it still.

use std::ops::{Add, Sub};

/// Microseconds since some fixed moment of this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

/// A length of time in microseconds.
pub type Micros = u64;

/// One millisecond in microseconds.
pub const MS: Micros = 1_000;
/// One second in microseconds.
pub const SECOND: Micros = 1_000_000;

impl Instant {
    /// The time from `earlier` to this moment; 0 if `earlier` is later.
    pub fn since(self, earlier: Instant) -> Micros {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Micros> for Instant {
    type Output = Instant;
    fn add(self, length: Micros) -> Instant {
        Instant(self.0.saturating_add(length))
    }
}

impl Sub<Micros> for Instant {
    type Output = Instant;
    fn sub(self, length: Micros) -> Instant {
        Instant(self.0.saturating_sub(length))
    }
}
