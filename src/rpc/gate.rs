//! How often other peers may call: keys that nobody knows, and members (R44).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, Weak};

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::options::Limits;
use crate::protocol::types::PeerId;

/// Keys are forgotten, once their buckets are full again, when there are more than this.
const KEYS_MAX: usize = 4_096;

/// The bucket of one peer, shared by its connections; taking a token takes no lock.
pub type Bucket = Arc<DefaultDirectRateLimiter>;

/// Token buckets: for first contact one for each key and one for all; for calls of any kind one
/// for each peer that is connected.
pub struct Gate {
    all: DefaultDirectRateLimiter,
    each: RateLimiter<PeerId, HashMapStateStore<PeerId>, DefaultClock>,
    calls: Quota,
    connected: Mutex<HashMap<PeerId, Weak<DefaultDirectRateLimiter>>>,
}

impl Gate {
    pub fn new(limits: &Limits) -> Self {
        let rate = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let each = Quota::per_minute(rate(limits.first_contact_per_minute_peer));
        Self {
            all: RateLimiter::direct(Quota::per_minute(rate(limits.first_contact_per_minute))),
            each: RateLimiter::hashmap(each),
            calls: Quota::per_second(rate(limits.calls_per_second_peer)),
            connected: Mutex::default(),
        }
    }

    /// Takes one token of first contact; says whether there was one.
    pub fn admits(&self, peer: PeerId) -> bool {
        if self.each.len() > KEYS_MAX {
            self.each.retain_recent();
        }
        self.each.check_key(&peer).is_ok() && self.all.check().is_ok()
    }

    /// The bucket for the calls of a peer that has connected. It is full again when the peer comes
    /// back after its last connection has closed; a handshake costs more than what that gives.
    pub fn bucket(&self, peer: PeerId) -> Bucket {
        let mut connected = self.connected.lock().expect("nothing panics while it holds this lock");
        if let Some(bucket) = connected.get(&peer).and_then(Weak::upgrade) {
            return bucket;
        }
        if connected.len() > KEYS_MAX {
            connected.retain(|_, bucket| bucket.strong_count() > 0);
        }
        let bucket = Arc::new(RateLimiter::direct(self.calls));
        connected.insert(peer, Arc::downgrade(&bucket));
        bucket
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

    #[test]
    fn connections_of_one_peer_share_a_bucket() {
        let gate = Gate::new(&Limits { calls_per_second_peer: 3, ..Limits::default() });
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let (one, other, another) = (gate.bucket(a), gate.bucket(a), gate.bucket(b));
        assert!(Arc::ptr_eq(&one, &other) && !Arc::ptr_eq(&one, &another));
        for _ in 0..3 {
            assert!(one.check().is_ok());
        }
        assert!(other.check().is_err() && another.check().is_ok());
    }
}
