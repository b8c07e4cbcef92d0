//! How often other peers may call: keys that nobody knows, and members (R44); and how often this
//! peer dials for the sake of a check.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, Weak};

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::Limits;
use crate::planted::{Mistake, planted};
use crate::protocol::types::PeerId;

/// Keys are forgotten, once their buckets are full again, when there are more than this.
const KEYS_MAX: usize = 4_096;
/// So many machines use up the calls of all.
const MACHINES: u32 = 2;
/// How often one member may have itself dialled in a minute, and how many dials are under way.
const DIAL_BACKS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(12).expect("it is not 0");
const DIAL_BACKS_AT_ONCE: usize = 8;

/// `Submit` streams of one peer at one time: each may have a message of 2 MiB in the making.
const SUBMITS_AT_ONCE: usize = 4;

/// What one peer may do, over all its connections; taking a token takes no lock.
pub type Bucket = Arc<Share>;

/// See [`Bucket`].
pub struct Share {
    calls: DefaultDirectRateLimiter,
    submits: Arc<Semaphore>,
}

impl Share {
    /// Takes a token for a call, or for a message of a stream; says whether there was one.
    pub fn takes_call(&self) -> bool {
        self.calls.check().is_ok()
    }

    /// Lets a `Submit` stream begin, for as long as the result is kept; none where too many are
    /// open.
    pub fn submit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.submits).try_acquire_owned().ok()
    }
}

/// Who is at the other end of an inbound connection; proven by the handshake.
#[derive(Clone)]
pub struct Caller {
    pub peer: PeerId,
    /// From which machine; only strangers are told apart by it.
    pub ip: IpAddr,
    /// What is left of its calls (R44).
    pub bucket: Bucket,
}

/// Token buckets: for first contact one for each key and one for all; for calls of any kind one
/// for each peer that is connected.
pub struct Gate {
    all: DefaultDirectRateLimiter,
    each: RateLimiter<PeerId, HashMapStateStore<PeerId>, DefaultClock>,
    machines: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>,
    calls: Quota,
    connected: Mutex<HashMap<PeerId, Weak<Share>>>,
    dial_backs: RateLimiter<PeerId, HashMapStateStore<PeerId>, DefaultClock>,
    dialling_back: Arc<Semaphore>,
    checking: Arc<Semaphore>,
}

impl Gate {
    pub fn new(limits: &Limits) -> Self {
        let rate = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let each = Quota::per_minute(rate(limits.first_contact_per_minute_peer));
        Self {
            all: RateLimiter::direct(Quota::per_minute(rate(limits.first_contact_per_minute))),
            each: RateLimiter::hashmap(each),
            machines: RateLimiter::hashmap(Quota::per_minute(rate(
                limits.first_contact_per_minute / MACHINES,
            ))),
            calls: Quota::per_second(rate(limits.calls_per_second_peer)),
            connected: Mutex::default(),
            dial_backs: RateLimiter::hashmap(Quota::per_minute(DIAL_BACKS_PER_MINUTE)),
            dialling_back: Arc::new(Semaphore::new(DIAL_BACKS_AT_ONCE)),
            checking: Arc::new(Semaphore::new(1)),
        }
    }

    /// Lets a member have itself dialled, for as long as the result is kept; none where it has done
    /// so too often, or too many others do at this moment.
    pub fn dial_back(&self, peer: PeerId) -> Option<OwnedSemaphorePermit> {
        if self.dial_backs.len() > KEYS_MAX {
            self.dial_backs.retain_recent();
        }
        self.dial_backs.check_key(&peer).ok()?;
        Arc::clone(&self.dialling_back).try_acquire_owned().ok()
    }

    /// Lets the person's programs check all members, for as long as the result is kept; none while
    /// another check is under way.
    pub fn check_members(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.checking).try_acquire_owned().ok()
    }

    /// Takes one token of first contact; says whether there was one.
    // L2: keys cost nothing, so that what one machine has is bounded too.
    pub fn admits(&self, peer: PeerId, ip: IpAddr) -> bool {
        if self.each.len() > KEYS_MAX {
            self.each.retain_recent();
        }
        if self.machines.len() > KEYS_MAX {
            self.machines.retain_recent();
        }
        let machine = machine_of(ip);
        self.each.check_key(&peer).is_ok()
            && (self.machines.check_key(&machine).is_ok() || planted(Mistake::KeysUnbounded))
            && self.all.check().is_ok()
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
        let submits = Arc::new(Semaphore::new(SUBMITS_AT_ONCE));
        let bucket = Arc::new(Share { calls: RateLimiter::direct(self.calls), submits });
        connected.insert(peer, Arc::downgrade(&bucket));
        bucket
    }
}

/// A machine has a whole IPv6 network of 64 bits.
fn machine_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => ip.into(),
            None => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn l2_keys_of_one_machine_share_what_it_may() {
        let gate = Gate::new(&Limits {
            first_contact_per_minute_peer: 3,
            first_contact_per_minute: 8,
            ..Limits::default()
        });
        let key = |number: u8| PeerId([number; 32]);
        assert_eq!((0..9).filter(|number| gate.admits(key(*number), HERE)).count(), 4);
        let there = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host]);
        let count = (0..9).filter(|number| gate.admits(key(*number), there((*number).into())));
        assert_eq!(count.count(), 4, "another machine has as much, however many addresses it has");
    }

    #[test]
    fn one_key_cannot_use_up_everybodys_calls() {
        let gate = Gate::new(&Limits {
            first_contact_per_minute_peer: 3,
            first_contact_per_minute: 10,
            ..Limits::default()
        });
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        assert_eq!((0..9).filter(|_| gate.admits(a, HERE)).count(), 3);
        assert_eq!((0..9).filter(|_| gate.admits(b, HERE)).count(), 2);
    }

    #[test]
    fn connections_of_one_peer_share_a_bucket() {
        let gate = Gate::new(&Limits { calls_per_second_peer: 3, ..Limits::default() });
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let (one, other, another) = (gate.bucket(a), gate.bucket(a), gate.bucket(b));
        assert!(Arc::ptr_eq(&one, &other) && !Arc::ptr_eq(&one, &another));
        for _ in 0..3 {
            assert!(one.takes_call());
        }
        assert!(!other.takes_call() && another.takes_call());
        let open: Vec<_> = (0..9).filter_map(|_| one.submit()).collect();
        assert_eq!(open.len(), SUBMITS_AT_ONCE);
        assert!(other.submit().is_none() && another.submit().is_some());
    }

    #[test]
    fn a_member_has_itself_dialled_only_so_often_and_nobody_else_pays_for_it() {
        let gate = Gate::new(&Limits::default());
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        assert_eq!((0..20).filter(|_| gate.dial_back(a).is_some()).count(), 12);
        let under_way: Vec<_> = (0..12).filter_map(|_| gate.dial_back(b)).collect();
        assert_eq!(under_way.len(), DIAL_BACKS_AT_ONCE);
        assert!(gate.dial_back(PeerId([3; 32])).is_none(), "as many as may are under way");
        drop(under_way);
        assert!(gate.dial_back(PeerId([3; 32])).is_some());
    }
}
