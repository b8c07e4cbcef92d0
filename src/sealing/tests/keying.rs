//! Who gets keys, when, and by whom (S1 to S4, S9, S11, S13, S16).

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};

use super::world::{CHAT, Entry, Log, Side, chat, settle};
use crate::group::{Group, NewSeat, Processed};
use crate::memory::Memory;
use crate::{Duty, Keying, NotSealed, Shown, Suite, Unreadable};

// S1, S9, S11: founding, joining and talking; a newcomer opens nothing from before.
#[test]
fn who_joins_reads_from_there_on_in_both_suites() {
    for suite in [Suite::Hybrid, Suite::X25519] {
        let (mut log, mut sides) = chat(&[1, 2], suite);
        let [ana, ben] = &mut sides[..] else { unreachable!() };
        let before = ana.say(&mut log, "before").unwrap();
        ben.read(&log).unwrap();
        assert_eq!(ben.saw(before), Ok("before"));
        let mut cleo = Side::new(3, suite);
        settle(&mut log, &mut [ana, ben, &mut cleo]);
        let after = ben.say(&mut log, "after").unwrap();
        for side in [&mut *ana, &mut *ben, &mut cleo] {
            side.read(&log).unwrap();
            assert_eq!(side.saw(after), Ok("after"));
        }
        assert_eq!(cleo.saw(before), Err(Some(Unreadable::BeforeJoining)));
        let authenticators = [ana, ben, &mut cleo]
            .map(|side| side.sealer().group().unwrap().authenticator().unwrap());
        assert!(authenticators.iter().all(|other| *other == authenticators[0]));
    }
}

// S4: nothing is sealed for one that the log has sent away, and it opens nothing said after.
#[test]
fn nothing_is_sealed_while_a_removed_member_holds_keys() {
    let (mut log, mut sides) = chat(&[1, 2, 3], Suite::X25519);
    let [ana, ben, cleo] = &mut sides[..] else { unreachable!() };
    log.add(Entry::Left(cleo.me()));
    ana.read(&log).unwrap();
    let gate = ana.say(&mut log, "secret").unwrap_err();
    assert!(matches!(gate, NotSealed::Gate), "{gate}");
    settle(&mut log, &mut [ana, ben]);
    let secret = ana.say(&mut log, "secret").unwrap();
    for side in [&mut *ben, &mut *cleo] {
        side.read(&log).unwrap();
    }
    assert_eq!(ben.saw(secret), Ok("secret"));
    assert_eq!(cleo.saw(secret), Err(Some(Unreadable::BeforeJoining)));
    assert!(cleo.shown.values().any(|shown| *shown == Shown::LeftGroup));
}

// S1: a lost disk is a new incarnation: its old leaf goes, its new one comes.
#[test]
fn a_lost_disk_gets_a_new_leaf() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    let mut again = Side::new(2, Suite::X25519);
    again.place.incarnation = 99;
    again.restart().unwrap();
    again.read(&log).unwrap();
    again.publish(&mut log).unwrap();
    settle(&mut log, &mut [ana, &mut again]);
    assert_eq!(ana.sealer().group().unwrap().leaves().len(), 2);
    let said = again.say(&mut log, "back").unwrap();
    for side in [&mut *ana, &mut *ben] {
        side.read(&log).unwrap();
    }
    assert_eq!(ana.saw(said), Ok("back"));
    assert!(ben.saw(said).is_err(), "whoever has the old disk reads nothing any more");
}

// S2: what adds a stranger, or removes a participant, is void, for all alike.
#[test]
fn a_keying_that_leads_the_membership_is_void() {
    let (mut log, mut sides) = chat(&[1, 2, 3], Suite::X25519);
    let [ana, ben, mallory] = &mut sides[..] else { unreachable!() };
    let eve = SigningKey::from_bytes(&[9; 32]);
    let peer = demes_protocol::types::PeerId(eve.verifying_key().to_bytes());
    let certify = |signed: &[u8]| eve.sign(signed).to_bytes();
    let stranger = NewSeat::draw(CHAT, Suite::X25519, peer, 9, &certify).unwrap();
    let author = mallory.me();
    let group = mallory.sealer().group().unwrap().clone();
    let bens = ben.sealer().group().unwrap().own_seat().unwrap();
    let epoch = ana.epoch();
    for committed in [
        group.commit(std::slice::from_ref(&stranger.package), &[]).unwrap(),
        group.commit(&[], &[bens]).unwrap(),
    ] {
        let keying = Keying { commit: committed.commit, welcome: committed.welcome };
        let index = log.add(Entry::Keying { author, keying });
        for side in [&mut *ana, &mut *ben] {
            side.read(&log).unwrap();
            assert_eq!(side.shown[&index], Shown::KeyingVoid);
        }
    }
    let rubbish = Keying { commit: Bytes::from_static(b"x"), welcome: Bytes::from_static(b"y") };
    let large = Keying { commit: Bytes::from(vec![0; 1 << 20]), ..rubbish.clone() };
    for keying in [rubbish, large] {
        log.add(Entry::Keying { author, keying });
    }
    ana.read(&log).unwrap();
    assert_eq!(ana.epoch(), epoch, "nobody can hold up the keys");
    let said = ben.say(&mut log, "still here").unwrap();
    ana.read(&log).unwrap();
    assert_eq!(ana.saw(said), Ok("still here"));
}

// S3: two Commits at once: the log decides, and the other one is dropped.
#[test]
fn who_loses_the_race_drops_its_commit() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    let mut cleo = Side::new(3, Suite::X25519);
    cleo.read(&log).unwrap();
    cleo.publish(&mut log).unwrap();
    ana.read(&log).unwrap();
    ben.read(&log).unwrap();
    let epoch = ana.epoch();
    assert!(matches!(ana.duty(), Duty::Key(_)) && matches!(ben.duty(), Duty::Key(_)));
    let anas = ana.sealer().key().unwrap().unwrap();
    let bens = ben.sealer().key().unwrap().unwrap();
    assert_eq!((ana.epoch(), ben.epoch()), (epoch, epoch), "the log has not taken them yet");
    log.add(Entry::Keying { author: ben.me(), keying: bens });
    ana.read(&log).unwrap();
    assert_eq!(ana.duty(), Duty::Nothing, "her own has lost, and is not offered again");
    log.add(Entry::Keying { author: ana.me(), keying: anas });
    for side in [&mut *ana, &mut *ben, &mut cleo] {
        side.read(&log).unwrap();
        assert_eq!(side.shown[&(log.0.len() as u64)], Shown::KeyingVoid);
        assert_eq!(side.duty(), Duty::Nothing);
        assert_eq!(side.epoch(), epoch.map(|epoch| epoch + 1));
    }
    let said = ana.say(&mut log, "one of us").unwrap();
    cleo.read(&log).unwrap();
    assert_eq!(cleo.saw(said), Ok("one of us"));
}

// S6: the private parts of a key package vanish with its use.
#[test]
fn a_key_package_is_used_once() {
    let (_, mut sides) = chat(&[1, 2], Suite::X25519);
    for side in &mut sides {
        assert_eq!(side.sealer().vault.secrets("seat/").unwrap().len(), 1);
        side.flush().unwrap();
        assert!(side.sealer().vault.secrets("seat/").unwrap().is_empty());
    }
}

// S13: a key package that its peer has not certified seats nobody.
#[test]
fn a_leaf_with_another_peers_name_is_not_taken() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    let mallory = SigningKey::from_bytes(&[9; 32]);
    let certify = |signed: &[u8]| mallory.sign(signed).to_bytes();
    let false_ben = NewSeat::draw(CHAT, Suite::X25519, ben.me(), 77, &certify).unwrap();
    let package = false_ben.package;
    let index = log.add(Entry::Seat { peer: ben.me(), incarnation: 77, package });
    ana.read(&log).unwrap();
    assert_eq!(ana.shown[&index], Shown::SeatInvalid);
    // Nor one that is certified, for somebody else.
    let other = NewSeat::draw(CHAT, Suite::X25519, ana.me(), 1, &|signed| {
        SigningKey::from_bytes(&[1; 32]).sign(signed).to_bytes()
    });
    let package = other.unwrap().package;
    let index = log.add(Entry::Seat { peer: ben.me(), incarnation: 1, package });
    ana.read(&log).unwrap();
    assert_eq!(ana.shown[&index], Shown::SeatInvalid);
}

// S11: all disks are lost; the first of them founds anew.
#[test]
fn where_nobody_holds_the_group_a_new_one_is_founded() {
    let (mut log, sides) = chat(&[1, 2], Suite::X25519);
    drop(sides);
    let mut news: Vec<Side> = [1, 2].map(|seed| Side::new(seed, Suite::X25519)).into();
    for new in &mut news {
        new.place.incarnation += 50;
        new.restart().unwrap();
    }
    let [ana, ben] = &mut news[..] else { unreachable!() };
    settle(&mut log, &mut [ana, ben]);
    let said = ben.say(&mut log, "anew").unwrap();
    ana.read(&log).unwrap();
    assert_eq!(ana.saw(said), Ok("anew"));
}

// S11, S16: those who held the group need new seats, all at once, or the only one.
#[test]
fn where_all_need_new_seats_a_new_group_is_founded() {
    for seeds in [&[1][..], &[1, 2]] {
        let (mut log, mut sides) = chat(seeds, Suite::X25519);
        let old = sides[0].sealer().group().unwrap().id().to_vec();
        for side in &mut sides {
            side.sealer().ledger.is_stale = true;
            assert_eq!(side.duty(), Duty::Seat);
        }
        for side in &mut sides {
            side.publish(&mut log).unwrap();
        }
        let mut all: Vec<&mut Side> = sides.iter_mut().collect();
        settle(&mut log, &mut all);
        let said = sides[0].say(&mut log, "anew").unwrap();
        for side in &mut sides {
            side.read(&log).unwrap();
            assert_eq!(side.saw(said), Ok("anew"));
            assert_ne!(side.sealer().group().unwrap().id(), old);
        }
    }
}

// S11: who is the first by peer id when the log takes the Keying founds, and nobody else.
#[test]
fn who_founds_too_late_founds_nothing() {
    let mut log = Log::default();
    let mut sides = [1, 2].map(|seed| Side::new(seed, Suite::X25519));
    sides.sort_by_key(Side::me);
    let [first, second] = &mut sides;
    second.publish(&mut log).unwrap();
    second.read(&log).unwrap();
    assert_eq!(second.duty(), Duty::Found);
    let keying = second.sealer().key().unwrap().unwrap();
    first.publish(&mut log).unwrap();
    let late = log.add(Entry::Keying { author: second.me(), keying });
    for side in [&mut *first, &mut *second] {
        side.read(&log).unwrap();
        assert_eq!(side.shown[&late], Shown::KeyingVoid);
        assert_eq!(side.epoch(), None);
    }
    settle(&mut log, &mut [first, second]);
    let said = second.say(&mut log, "together").unwrap();
    first.read(&log).unwrap();
    assert_eq!(first.saw(said), Ok("together"));
}

// S10: a leaf that is a week old and its spread is renewed by its own participant, without adds.
#[test]
fn an_old_leaf_is_renewed() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    let epoch = ana.epoch().unwrap();
    assert_eq!((ana.duty(), ben.duty()), (Duty::Nothing, Duty::Nothing));
    ana.now_ms += 10 * 86_400_000;
    assert_eq!(ana.duty(), Duty::Refresh);
    settle(&mut log, &mut [ana, ben]);
    assert_eq!((ana.epoch(), ben.epoch()), (Some(epoch + 1), Some(epoch + 1)));
    assert_eq!(ana.duty(), Duty::Nothing, "it is new again");
    let said = ben.say(&mut log, "fresh").unwrap();
    ana.read(&log).unwrap();
    assert_eq!(ana.saw(said), Ok("fresh"));
}

// S6: one's own Commit in the log that the vault does not know: it is an old copy.
#[test]
fn an_own_commit_that_is_not_known_asks_for_a_new_seat() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    let refresh = ana.sealer().group().unwrap().commit(&[], &[]).unwrap();
    let keying = Keying { commit: refresh.commit, welcome: refresh.welcome };
    log.add(Entry::Keying { author: ana.me(), keying });
    ana.read(&log).unwrap();
    assert_eq!(ana.duty(), Duty::Seat);
    settle(&mut log, &mut [ana, ben]);
    let said = ana.say(&mut log, "again").unwrap();
    ben.read(&log).unwrap();
    assert_eq!(ben.saw(said), Ok("again"));
}

// S16: a Commit whose path does not open here is in force for the others.
#[test]
fn who_is_locked_out_knows_it() {
    let key = |seed: u8| SigningKey::from_bytes(&[seed; 32]);
    let draw = |seed: u8| {
        let peer = demes_protocol::types::PeerId(key(seed).verifying_key().to_bytes());
        let certify = |signed: &[u8]| key(seed).sign(signed).to_bytes();
        NewSeat::draw(CHAT, Suite::X25519, peer, 1, &certify).unwrap()
    };
    let (ana, ben) = (draw(1), draw(2));
    let mut anas = Group::found(CHAT, &ana, &[3; 16]).unwrap();
    let committed = anas.commit(std::slice::from_ref(&ben.package), &[]).unwrap();
    anas.apply_own(&committed.secrets).unwrap();
    let mut bens = Group::join(CHAT, &ben, &committed.welcome).unwrap();
    // Ben's leaf has another private key than others believe.
    let mut state = bens.changed().unwrap().state.unwrap();
    let leaf = &ben.secrets.leaf[..];
    let place = state.windows(leaf.len()).position(|window| window == leaf).unwrap();
    // Not in the lowest three bits, which X25519 does not look at.
    state[place + 1] ^= 1;
    let memory = Memory::of(vec![3; 16], state, Default::default());
    let mut bens = Group::load(CHAT, &[3; 16], memory).unwrap();
    let refresh = anas.commit(&[], &[]).unwrap();
    let epoch = bens.epoch();
    let processed = bens.process(&refresh.commit, |_| true);
    assert!(matches!(processed, Processed::LockedOut(_)), "{processed:?}");
    assert_eq!(bens.epoch(), epoch);
    let mut spoilt = refresh.commit.to_vec();
    *spoilt.last_mut().unwrap() ^= 1;
    assert!(matches!(bens.process(&spoilt, |_| true), Processed::Void(_)));
}

/// A log of one Keying after another must not depend on who reads it when.
#[test]
fn who_was_away_for_many_epochs_reads_on() {
    let (mut log, mut sides) = chat(&[1, 2, 3], Suite::X25519);
    let [ana, ben, cleo] = &mut sides[..] else { unreachable!() };
    cleo.flush().unwrap();
    let mut said = Vec::new();
    for round in 0..12 {
        let author = ana.me();
        let keying = ana.sealer().key().unwrap().unwrap();
        log.add(Entry::Keying { author, keying });
        ana.read(&log).unwrap();
        said.push((ana.say(&mut log, &format!("round {round}")).unwrap(), round));
        ben.read(&log).unwrap();
    }
    cleo.restart().unwrap();
    cleo.read(&log).unwrap();
    for (index, round) in said {
        assert_eq!(cleo.saw(index), Ok(&format!("round {round}")[..]));
    }
}
