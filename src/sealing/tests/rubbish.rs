//! Whatever stands in a log, a sealer takes it and goes on (S2, S5, S7).

use bytes::Bytes;
use demes_protocol::prng::Prng;

use super::world::{Entry, Side, chat, settle, text};
use crate::{Keying, Shown, Suite, Unreadable};

/// One to four changes of good bytes, which are not what they were.
fn spoil(good: &Bytes, prng: &mut Prng) -> Bytes {
    loop {
        let mut bytes = good.to_vec();
        for _ in 0..1 + prng.below(4) {
            let place = prng.below(bytes.len().max(1) as u64) as usize;
            match prng.below(5) {
                0 if !bytes.is_empty() => bytes[place] ^= 1 << prng.below(8),
                1 if !bytes.is_empty() => bytes[place] = prng.next_u64() as u8,
                2 => bytes.insert(place, prng.next_u64() as u8),
                3 if !bytes.is_empty() => drop(bytes.remove(place)),
                _ => bytes.truncate(place),
            }
        }
        if bytes != good[..] {
            return bytes.into();
        }
    }
}

// S2, S5, S7: changed messages, Commits, Welcomes and key packages change nothing and hold up
// nobody; the true ones are in force afterwards.
#[test]
fn changed_bytes_mean_nothing_and_harm_nobody() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    let mut cleo = Side::new(3, Suite::X25519);
    cleo.read(&log).unwrap();
    cleo.publish(&mut log).unwrap();
    let Some(Entry::Seat { package, .. }) = log.0.last().cloned() else { panic!("a seat") };
    ana.read(&log).unwrap();
    let sealed = ana.sealer().seal(1, &text("true")).unwrap();
    let keying = ana.sealer().key().unwrap().unwrap();
    let (author, peer) = (ana.me(), cleo.me());
    let mut prng = Prng::new(1);
    ben.read(&log).unwrap();
    let epoch = ben.epoch();
    for _ in 0..1_500 {
        let entry = match prng.below(4) {
            0 => {
                let mut sealed = sealed.clone();
                sealed.sealed = spoil(&sealed.sealed, &mut prng);
                ana.entry(1, &sealed)
            }
            1 => {
                let commit = spoil(&keying.commit, &mut prng);
                Entry::Keying { author, keying: Keying { commit, ..keying.clone() } }
            }
            2 => {
                let welcome = spoil(&keying.welcome, &mut prng);
                let commit = spoil(&keying.commit, &mut prng);
                Entry::Keying { author, keying: Keying { commit, welcome } }
            }
            _ => {
                let package = spoil(&package, &mut prng);
                Entry::Seat { peer, incarnation: cleo.place.incarnation, package }
            }
        };
        let index = log.add(entry);
        ben.read(&log).unwrap();
        match &ben.shown[&index] {
            Shown::KeyingVoid | Shown::SeatInvalid => {}
            // A changed number of the epoch, which nobody can tell from a true one of then.
            Shown::Unreadable(Unreadable::NotAuthentic | Unreadable::BeforeJoining) => {}
            Shown::Unreadable(Unreadable::EpochGone) => {}
            other => panic!("{index}: {other:?}"),
        }
        assert_eq!(ben.epoch(), epoch);
    }
    let said = log.add(ana.entry(1, &sealed));
    let seat = Entry::Seat { peer, incarnation: cleo.place.incarnation, package };
    log.add(seat);
    let keyed = log.add(Entry::Keying { author, keying });
    ben.read(&log).unwrap();
    assert_eq!(ben.saw(said), Ok("true"));
    assert!(matches!(ben.shown[&keyed], Shown::Keyed { .. }), "{:?}", ben.shown[&keyed]);
    ana.outbox.insert(1, sealed);
    ana.said = 1;
    settle(&mut log, &mut [ana, ben, &mut cleo]);
    let said = cleo.say(&mut log, "all of that passed").unwrap();
    ben.read(&log).unwrap();
    assert_eq!(ben.saw(said), Ok("all of that passed"));
}
