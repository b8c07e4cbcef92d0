//! Places at a listener: who holds one, and who gives way.
//!
//! A connection is let in at once and takes a place of its kind. Where its kind, its address or its
//! key holds as many as it may, one of them gives way: one that has never called, else the one that
//! has been silent longest. So nobody keeps others out by being connected, and members have places
//! that no stranger takes. Whoever does not greet in time, or asks nothing for too long, is closed.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::planted::{Mistake, planted};
use crate::protocol::types::PeerId;
use crate::telemetry::metrics::rejected;

/// How long a connection may take for the preface of HTTP/2.
const GREETING_MAX: Duration = Duration::from_secs(5);
/// The bytes of that preface.
const GREETING_BYTES: u64 = 24;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a place is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// It has not shown a key yet.
    Unproven,
    /// Its key is in no chat here.
    Stranger,
    /// Its key is a member's.
    Member,
    /// A listener where nobody shows keys.
    Plain,
}

/// How many places of a kind there are.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub kind: Kind,
    pub all: usize,
    pub of_address: usize,
    pub of_key: usize,
    /// Whether one whose call is under way gives way too.
    pub busy_give_way: bool,
    /// Who asks nothing for so long is closed.
    pub idle_max: Duration,
}

/// The places of one listener.
pub struct Places {
    rooms: Vec<Room>,
    held: Mutex<BTreeMap<u64, Held>>,
    next: AtomicU64,
    freed: Notify,
}

/// A place that is taken.
struct Held {
    kind: Kind,
    address: IpAddr,
    key: Option<PeerId>,
    /// Whether it came as a stranger, and may do no more than one.
    narrow: bool,
    holder: Arc<Holder>,
}

/// What a connection does with its place.
pub struct Holder {
    opened: Instant,
    /// When a call of it began or ended last, in milliseconds since it was opened; 0 if none did.
    used_ms: AtomicU64,
    /// Calls under way.
    calls: AtomicUsize,
    /// What it has said, up to its greeting.
    read: AtomicU64,
    /// Cancelled when it must close.
    pub closed: CancellationToken,
}

/// A connection's place, for as long as it is kept.
pub struct Place {
    places: Arc<Places>,
    id: u64,
    pub holder: Arc<Holder>,
}

/// A call under way, for as long as it is kept.
pub struct Call(Arc<Holder>);

impl Holder {
    fn new(closed: CancellationToken) -> Self {
        let (used_ms, read) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { opened: Instant::now(), used_ms, calls: AtomicUsize::new(0), read, closed }
    }

    /// Something was read.
    pub fn has_read(&self, bytes: usize) {
        if self.read.load(Ordering::Relaxed) < GREETING_BYTES {
            self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// A call begins.
    pub fn call(self: &Arc<Self>) -> Call {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.use_now();
        Call(Arc::clone(self))
    }

    fn use_now(&self) {
        let ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used_ms.store(ms.max(1), Ordering::Relaxed);
    }

    /// Who gives way before whom: those that have never called, and then by how long they have been
    /// silent.
    fn rank(&self) -> (bool, Instant) {
        (self.used_ms.load(Ordering::Relaxed) > 0, self.used())
    }

    fn used(&self) -> Instant {
        self.opened + Duration::from_millis(self.used_ms.load(Ordering::Relaxed))
    }

    fn is_busy(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }

    /// Why it must close, if it must.
    fn overdue(&self, now: Instant, idle_max: Duration) -> Option<&'static str> {
        let greeted = self.read.load(Ordering::Relaxed) >= GREETING_BYTES;
        let since = |at| now.saturating_duration_since(at);
        let greeted = greeted || planted(Mistake::GreetingForEver);
        if !greeted && since(self.opened) > GREETING_MAX {
            return Some("GREETING_TIMEOUT");
        }
        let silent = !self.is_busy() && since(self.used()) > idle_max;
        (silent && !planted(Mistake::SilenceForEver)).then_some("CONNECTION_IDLE")
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.use_now();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    pub fn new(rooms: impl Into<Vec<Room>>) -> Arc<Self> {
        let (held, next, freed) = (Mutex::default(), AtomicU64::new(0), Notify::new());
        Arc::new(Self { rooms: rooms.into(), held, next, freed })
    }

    /// Takes a place; waits where nobody gives way. It closes with `stop` at the latest.
    pub async fn take(
        self: &Arc<Self>,
        kind: Kind,
        address: IpAddr,
        stop: &CancellationToken,
    ) -> Place {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_take(kind, address, stop) {
                return place;
            }
            // A call that ends frees no place, and makes its connection one that gives way.
            tokio::select! {
                () = freed => {}
                () = sleep(LOOK_EVERY / 20) => {}
            }
        }
    }

    fn try_take(
        self: &Arc<Self>,
        kind: Kind,
        address: IpAddr,
        stop: &CancellationToken,
    ) -> Option<Place> {
        let mut held = self.held();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let holder = Arc::new(Holder::new(stop.child_token()));
        let address = place_of(address);
        held.insert(
            id,
            Held { kind, address, key: None, narrow: false, holder: Arc::clone(&holder) },
        );
        if !self.make_room(&mut held, id) {
            held.remove(&id);
            return None;
        }
        Some(Place { places: Arc::clone(self), id, holder })
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, Held>> {
        self.held.lock().expect("nothing panics while it holds this lock")
    }

    /// Has others give way to a newcomer, until no bound of its kind is exceeded.
    fn make_room(&self, held: &mut BTreeMap<u64, Held>, newcomer: u64) -> bool {
        let Some(Held { kind, address, key, .. }) = held.get(&newcomer) else { return true };
        let (kind, address, key) = (*kind, *address, *key);
        let Some(room) = self.rooms.iter().find(|room| room.kind == kind) else { return true };
        let of_kind = || held.iter().filter(|(_, it)| it.kind == kind);
        let mut crowded = Vec::new();
        let same_key = || of_kind().filter(|(_, it)| key.is_some() && it.key == key);
        let same_address = || of_kind().filter(|(_, it)| it.address == address);
        if same_key().count() > room.of_key && !planted(Mistake::KeyHoldsAll) {
            crowded.extend(same_key().map(|(id, _)| *id));
        } else if same_address().count() > room.of_address {
            crowded.extend(same_address().map(|(id, _)| *id));
        } else if of_kind().count() > room.all {
            // The address that holds most gives way: who comes from elsewhere is kept.
            let mut of_address: HashMap<IpAddr, Vec<u64>> = HashMap::new();
            for (id, it) in of_kind() {
                of_address.entry(it.address).or_default().push(*id);
            }
            let most = of_address.values().map(Vec::len).max().unwrap_or(0);
            crowded.extend(of_address.into_values().filter(|ids| ids.len() == most).flatten());
        } else {
            return true;
        }
        let may = |id: &u64| {
            let holder = held.get(id).map(|it| &it.holder);
            *id != newcomer
                && holder.is_some_and(|it| room.busy_give_way || !it.is_busy())
                && !planted(Mistake::NobodyGivesWay)
        };
        let silent_longest = crowded.into_iter().filter(may);
        let silent_longest =
            silent_longest.min_by_key(|id| (held.get(id).map(|it| it.holder.rank()), *id));
        let Some(gives_way) = silent_longest.and_then(|id| held.remove(&id)) else { return false };
        rejected("CONNECTION_GAVE_WAY");
        gives_way.holder.closed.cancel();
        true
    }

    /// Closes whoever is overdue, and moves those who have become members, or are none any more,
    /// until nobody listens.
    pub async fn keep_order(&self, is_member: impl Fn(&PeerId) -> bool) {
        loop {
            sleep(LOOK_EVERY).await;
            self.look(Instant::now(), &is_member);
        }
    }

    fn look(&self, now: Instant, is_member: &impl Fn(&PeerId) -> bool) {
        let mut held = self.held();
        let mut moved = Vec::new();
        held.retain(|id, it| {
            let room = self.rooms.iter().find(|room| room.kind == it.kind);
            // A handshake has a limit of its own.
            let room = room.filter(|room| room.kind != Kind::Unproven);
            if let Some(why) = room.and_then(|room| it.holder.overdue(now, room.idle_max)) {
                rejected(why);
                it.holder.closed.cancel();
                return false;
            }
            if let Some(key) = &it.key {
                let kind = kind_of(is_member(key));
                if kind != it.kind {
                    it.kind = kind;
                    moved.push(*id);
                }
            }
            // Whoever has become a member comes again at once, and may do more. Nothing of it is
            // under way.
            let comes_again = it.narrow && it.kind == Kind::Member && !it.holder.is_busy();
            if comes_again {
                it.holder.closed.cancel();
            }
            !comes_again
        });
        for id in moved {
            self.make_room(&mut held, id);
        }
        drop(held);
        self.freed.notify_waiters();
    }
}

/// The kind of place for whoever has shown a key.
pub fn kind_of(is_member: bool) -> Kind {
    let is_member = is_member || planted(Mistake::StrangersAmongMembers);
    if is_member { Kind::Member } else { Kind::Stranger }
}

/// Who is at one place: addresses of IPv6 are given out by networks of 64 bits.
fn place_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

impl Place {
    /// The key was shown: it takes a place of another kind.
    pub fn prove(&self, key: PeerId, is_member: bool) {
        let mut held = self.places.held();
        // It may have given way meanwhile.
        let Some(it) = held.get_mut(&self.id) else { return };
        (it.kind, it.key, it.narrow) = (kind_of(is_member), Some(key), !is_member);
        self.places.make_room(&mut held, self.id);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().remove(&self.id);
        self.places.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        kind: Kind::Plain,
        all: 6,
        of_address: 4,
        of_key: 2,
        busy_give_way: true,
        idle_max: Duration::from_secs(10),
    };

    fn at(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    fn take(places: &Arc<Places>, kind: Kind, address: IpAddr) -> Option<Place> {
        places.try_take(kind, address, &CancellationToken::new())
    }

    fn are_open(places: &[Place]) -> Vec<bool> {
        places.iter().map(|place| !place.holder.closed.is_cancelled()).collect()
    }

    #[test]
    fn an_address_gives_way_to_itself_and_then_the_one_that_holds_most() {
        let places = Places::new([ROOM]);
        let mut taken: Vec<_> =
            [1, 1, 1, 1, 1].map(|n| take(&places, Kind::Plain, at(n)).expect("room")).into();
        assert_eq!(are_open(&taken), [false, true, true, true, true]);
        taken.extend([2, 3, 4].map(|n| take(&places, Kind::Plain, at(n)).expect("room")));
        assert_eq!(are_open(&taken), [false, false, true, true, true, true, true, true]);
        let network = |n| IpAddr::from([0x2001, 0xdb8, 0, n, 1, 2, 3, n]);
        assert_eq!(place_of(network(7)), place_of([0x2001, 0xdb8, 0, 7, 9, 9, 9, 9].into()));
        assert_ne!(place_of(network(7)), place_of(network(8)));
        assert_eq!(place_of([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1].into()), at(1));
    }

    #[test]
    fn who_is_silent_longest_gives_way_and_a_call_under_way_is_kept_where_that_is_so() {
        for busy_give_way in [true, false] {
            let places = Places::new([Room { all: 2, busy_give_way, ..ROOM }]);
            let first = take(&places, Kind::Plain, at(1)).expect("room");
            let second = take(&places, Kind::Plain, at(1)).expect("room");
            std::thread::sleep(Duration::from_millis(3));
            let call = first.holder.call();
            let third = take(&places, Kind::Plain, at(1)).expect("room");
            let (first, second) = (&first.holder.closed, &second.holder.closed);
            assert!(!first.is_cancelled() && second.is_cancelled());
            let also = third.holder.call();
            let fourth = take(&places, Kind::Plain, at(1));
            assert_eq!((fourth.is_some(), first.is_cancelled()), (busy_give_way, busy_give_way));
            drop((call, also));
        }
        // Who has asked something is kept before who never did, be it newer.
        let places = Places::new([Room { all: 2, ..ROOM }]);
        let first = take(&places, Kind::Plain, at(1)).expect("room");
        drop(first.holder.call());
        for _ in 0..3 {
            drop(take(&places, Kind::Plain, at(1)).expect("room"));
            let _kept = take(&places, Kind::Plain, at(1)).expect("room");
            let _newest = take(&places, Kind::Plain, at(1)).expect("room");
            assert!(!first.holder.closed.is_cancelled());
        }
    }

    #[test]
    fn strangers_take_no_members_place_and_move_when_they_become_members() {
        let room = |kind| Room { kind, all: 2, ..ROOM };
        let places = Places::new([room(Kind::Stranger), room(Kind::Member)]);
        let key = |n| PeerId([n; 32]);
        let prove = |n, is_member| {
            let place = take(&places, Kind::Unproven, at(n)).expect("room");
            place.prove(key(n), is_member);
            place.holder.has_read(24);
            place
        };
        let mut taken: Vec<Place> = (1..=2).map(|n| prove(n, true)).collect();
        taken.extend((3..=5).map(|n| prove(n, false)));
        assert_eq!(are_open(&taken), [true, true, false, true, true]);
        // The fourth and the fifth become members, and the first is none any more. One that has
        // nothing under way comes again, as a member.
        let under_way = taken[3].holder.call();
        places.look(Instant::now(), &|peer| [key(2), key(4), key(5)].contains(peer));
        assert_eq!(are_open(&taken), [true, true, false, true, false]);
        taken.push(prove(6, false));
        assert_eq!(are_open(&taken), [true, true, false, true, false, true]);
        taken.push(prove(7, false));
        assert_eq!(are_open(&taken), [false, true, false, true, false, true, true]);
        drop(under_way);
    }

    #[test]
    fn one_key_holds_only_so_many() {
        let places = Places::new([Room { kind: Kind::Stranger, ..ROOM }]);
        let prove = |n| {
            let place = take(&places, Kind::Unproven, at(n)).expect("room");
            place.prove(PeerId([1; 32]), false);
            place
        };
        let taken: Vec<_> = (1..=4).map(prove).collect();
        assert_eq!(are_open(&taken), [false, false, true, true]);
    }

    #[test]
    fn who_does_not_greet_or_asks_nothing_is_closed() {
        let places = Places::new([ROOM]);
        let taken: Vec<_> =
            [1, 2, 3].map(|n| take(&places, Kind::Plain, at(n)).expect("room")).into();
        taken[1].holder.has_read(24);
        taken[2].holder.has_read(24);
        let call = taken[2].holder.call();
        let look = |s| places.look(Instant::now() + Duration::from_secs(s), &|_| false);
        look(4);
        assert_eq!(are_open(&taken), [true, true, true]);
        look(6);
        assert_eq!(are_open(&taken), [false, true, true]);
        look(11);
        assert_eq!(are_open(&taken), [false, false, true]);
        drop(call);
        look(11);
        assert_eq!(are_open(&taken), [false, false, false]);
    }
}
