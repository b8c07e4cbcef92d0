//! How often keys that nobody knows may call.

use std::num::NonZeroU32;

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::options::Limits;
use crate::protocol::types::PeerId;

/// Keys are forgotten, once their buckets are full again, when there are more than this.
const KEYS_MAX: usize = 4_096;

/// Token buckets: one for each key, and one for all.
pub struct Gate {
    all: DefaultDirectRateLimiter,
    each: RateLimiter<PeerId, HashMapStateStore<PeerId>, DefaultClock>,
}

impl Gate {
    pub fn new(limits: &Limits) -> Self {
        let quota = |per_minute: u32| {
            Quota::per_minute(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN))
        };
        Self {
            all: RateLimiter::direct(quota(limits.first_contact_per_minute)),
            each: RateLimiter::hashmap(quota(limits.first_contact_per_minute_peer)),
        }
    }

    /// Takes one token; says whether there was one.
    pub fn admits(&self, peer: PeerId) -> bool {
        if self.each.len() > KEYS_MAX {
            self.each.retain_recent();
        }
        self.each.check_key(&peer).is_ok() && self.all.check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_cannot_use_up_everybodys_calls() {
        let gate = Gate::new(&Limits {
            first_contact_per_minute_peer: 3,
            first_contact_per_minute: 5,
            ..Limits::default()
        });
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        assert_eq!((0..9).filter(|_| gate.admits(a)).count(), 3);
        assert_eq!((0..9).filter(|_| gate.admits(b)).count(), 2);
    }
}
