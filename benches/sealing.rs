//! What sealing costs, in chats of 2, 10 and 100, with the suite that is the default.
//!
//! ```text
//! cargo bench -p demes-sealing --bench sealing
//! ```
//!
//! One participant seals, keys and keeps its vault, another one opens; the rest have seats and no
//! process. Times are medians.

use std::time::{Duration, Instant};

use bytes::Bytes;
use demes_content::{Content, Kind};
use demes_protocol::types::{ChatId, Hash, Index, Number, PeerId, Signature};
use demes_sealing::{Keying, Logged, NewSeat, Place, Sealer, Shown, Suite, VaultKey};
use ed25519_dalek::{Signer as _, SigningKey};
use tempfile::TempDir;

const CHAT: ChatId = ChatId([7; 16]);
const MESSAGES: Number = 5_000;
/// How many join one after the other, and how often a leaf is renewed.
const ROUNDS: usize = 9;
/// Messages that are opened between two transactions.
const BATCH: Number = 500;

/// A participant with its vault.
struct Side {
    key: SigningKey,
    place: Place,
    sealer: Sealer,
    _dir: TempDir,
}

fn key_of(seed: u16) -> SigningKey {
    let mut bytes = [9; 32];
    bytes[..2].copy_from_slice(&seed.to_le_bytes());
    SigningKey::from_bytes(&bytes)
}

fn certify(key: &SigningKey) -> impl Fn(&[u8]) -> Signature + '_ {
    |signed| key.sign(signed).to_bytes()
}

impl Side {
    fn new(seed: u16) -> Self {
        let key = key_of(seed);
        let me = PeerId(key.verifying_key().to_bytes());
        let place = Place { chat: CHAT, me, incarnation: 1, suite: Suite::Hybrid };
        let dir = tempfile::tempdir().expect("a directory for the vault");
        let vault_key = VaultKey::random().expect("the system has random numbers");
        let sealer = Sealer::open(dir.path(), &vault_key, place).expect("a new vault");
        Self { key, place, sealer, _dir: dir }
    }

    fn package(&mut self) -> Bytes {
        self.sealer.publish_seat(&certify(&self.key)).expect("a key package")
    }

    /// Takes the next entry, and says how long that took.
    fn take(&mut self, entry: &Logged<'_>) -> (Shown, Duration) {
        let index: Index = self.sealer.position() + 1;
        let begun = Instant::now();
        let shown = self.sealer.take(index, Hash([1; 32]), 1_000, entry).expect("it is taken");
        (shown, begun.elapsed())
    }

    fn flush(&mut self) -> Duration {
        let begun = Instant::now();
        self.sealer.flush(0, 1_000).expect("the vault is written");
        begun.elapsed()
    }

    /// Makes a Commit, which the vault has when this returns, and says how long that took.
    fn keying(&mut self) -> (Keying, Duration) {
        let begun = Instant::now();
        let keying = self.sealer.key().expect("a Commit").expect("there is something to do");
        (keying, begun.elapsed())
    }
}

/// A seat for which nobody runs.
fn seat(seed: u16) -> (PeerId, Bytes) {
    let key = key_of(seed);
    let peer = PeerId(key.verifying_key().to_bytes());
    let new = NewSeat::draw(CHAT, Suite::Hybrid, peer, 1, &certify(&key)).expect("a key package");
    (peer, new.package)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// A chat of `n`, and what each thing costs in it.
fn measure(n: u16) {
    let (mut first, mut second) = (Side::new(1), Side::new(2));
    // Who is first by peer id founds.
    if second.place.me < first.place.me {
        std::mem::swap(&mut first, &mut second);
    }
    let (mut ana, mut ben) = (first, second);
    let (anas, bens) = (ana.package(), ben.package());
    let (anas_id, bens_id) = (ana.place.me, ben.place.me);
    for side in [&mut ana, &mut ben] {
        side.take(&Logged::Seat { peer: anas_id, incarnation: 1, package: &anas });
    }
    let (keying, _) = ana.keying();
    for side in [&mut ana, &mut ben] {
        side.take(&Logged::Keying { author: anas_id, keying: &keying });
        side.take(&Logged::Seat { peer: bens_id, incarnation: 1, package: &bens });
    }
    for seed in 3..=n {
        let (peer, package) = seat(seed);
        for side in [&mut ana, &mut ben] {
            side.take(&Logged::Seat { peer, incarnation: 1, package: &package });
        }
    }
    let (keying, _) = ana.keying();
    for side in [&mut ana, &mut ben] {
        side.take(&Logged::Keying { author: anas_id, keying: &keying });
        side.flush();
    }
    assert_eq!(ben.sealer.group().expect("he has joined").leaves().len(), usize::from(n));
    messages(n, &mut ana, &mut ben);
    keyings(&mut ana, &mut ben);
}

/// Sealing and opening 300 characters.
fn messages(n: u16, ana: &mut Side, ben: &mut Side) {
    let kind = Kind::Text("x".repeat(300));
    let content = Content { created_at_ms: 1, head: None, request_id: String::new(), kind };
    let author = ana.place.me;
    let (mut seals, mut opens, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bytes, mut spent) = (0, Duration::ZERO);
    for number in 1..=MESSAGES {
        let begun = Instant::now();
        let sealed = ana.sealer.seal(number, &content).expect("it is sealed");
        seals.push(begun.elapsed());
        bytes = sealed.sealed.len();
        let own = Some(&sealed.own);
        let entry =
            |own| Logged::Sealed { author, incarnation: 1, number, sealed: &sealed.sealed, own };
        ana.take(&entry(own));
        let (shown, took) = ben.take(&entry(None));
        assert!(matches!(shown, Shown::Content(_)), "{shown:?}");
        opens.push(took);
        spent += took;
        if number % BATCH == 0 {
            ana.flush();
            flushes.push(ben.flush());
        }
    }
    spent += flushes.iter().sum::<Duration>();
    let rate = MESSAGES as f64 / spent.as_secs_f64();
    println!(
        "{n:>4} | seal {:>5.1} us, open {:>5.1} us, {bytes} bytes | {BATCH} to the vault \
         {:>6.0} us | opened and kept {rate:>6.0}/s",
        median(seals),
        median(opens),
        median(flushes),
    );
}

/// Adding one, and renewing a leaf.
fn keyings(ana: &mut Side, ben: &mut Side) {
    let author = ana.place.me;
    let mut times: [Vec<Duration>; 8] = Default::default();
    let mut sizes = [0; 3];
    for round in 0..ROUNDS {
        let mut cleo = Side::new(1_000 + round as u16);
        let package = cleo.package();
        let peer = cleo.place.me;
        // She has read the log up to here, which costs nothing to do with keys.
        let mut taken = [Duration::ZERO; 2];
        for (side, taken) in [&mut *ana, &mut *ben].into_iter().zip(&mut taken) {
            *taken = side.take(&Logged::Seat { peer, incarnation: 1, package: &package }).1;
        }
        times[0].push(taken[1]);
        cleo.take(&Logged::Seat { peer, incarnation: 1, package: &package });
        let (keying, took) = ana.keying();
        times[1].push(took);
        sizes[0] = keying.commit.len();
        sizes[1] = keying.welcome.len();
        let entry = Logged::Keying { author, keying: &keying };
        ana.take(&entry);
        times[2].push(ben.take(&entry).1);
        let (shown, took) = cleo.take(&entry);
        assert!(matches!(shown, Shown::Joined { .. }), "{shown:?}");
        times[3].push(took);
        let (keying, took) = ana.keying();
        times[4].push(took);
        sizes[2] = keying.commit.len();
        let entry = Logged::Keying { author, keying: &keying };
        times[5].push(ana.take(&entry).1);
        let (shown, took) = ben.take(&entry);
        assert!(matches!(shown, Shown::Keyed { .. }), "{shown:?}");
        times[6].push(took);
        ana.flush();
        times[7].push(ben.flush());
        // She goes, so that the chat stays as large as it is said to be.
        for side in [&mut *ana, &mut *ben] {
            side.take(&Logged::Left { peer });
        }
        let (keying, _) = ana.keying();
        for side in [&mut *ana, &mut *ben] {
            side.take(&Logged::Keying { author, keying: &keying });
            side.flush();
        }
    }
    let [seat, commit, other, join, refresh, own, followed, state] = times.map(median);
    println!(
        "     | add: package {seat:>5.0} us, commit {commit:>6.0} us, others {other:>5.0} us, \
         newcomer {join:>6.0} us, {} + {} bytes",
        sizes[0], sizes[1],
    );
    println!(
        "     | renew: commit {refresh:>6.0} us, own {own:>5.0} us, others {followed:>5.0} us, \
         {} bytes | state to the vault {state:>6.0} us",
        sizes[2],
    );
}

fn main() {
    for n in [2, 10, 100] {
        measure(n);
    }
}
