//! What is sealed, and what opens (S5, S7, S8).

use bytes::Bytes;
use demes_content::Binding;

use super::world::{CHAT, Entry, chat, settle, text};
use crate::{Duty, NotSealed, Shown, Suite, Unreadable};

const NOT_AUTHENTIC: Option<Unreadable> = Some(Unreadable::NotAuthentic);

// S5: own words are kept by who said them.
#[test]
fn an_own_message_is_shown_from_the_outbox() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let ana = &mut sides[0];
    let said = ana.say(&mut log, "mine").unwrap();
    ana.read(&log).unwrap();
    assert_eq!(ana.saw(said), Ok("mine"));
    ana.flush().unwrap();
    ana.restart().unwrap();
    let content = ana.sealer().content(said).unwrap().unwrap();
    assert_eq!(content[..], text("mine").encode().unwrap()[..]);
}

// S5: another number, author or chat is another place.
#[test]
fn nothing_sealed_can_be_moved() {
    let (mut log, mut sides) = chat(&[1, 2, 3], Suite::X25519);
    let [ana, ben, cleo] = &mut sides[..] else { unreachable!() };
    let sealed = ana.sealer().seal(1, &text("here")).unwrap();
    let good = ana.entry(1, &sealed);
    let moved = [ana.entry(2, &sealed), cleo.entry(1, &sealed)];
    for entry in moved {
        let index = log.add(entry);
        ben.read(&log).unwrap();
        assert_eq!(ben.saw(index), Err(NOT_AUTHENTIC));
    }
    let index = log.add(good.clone());
    let again = log.add(good);
    ben.read(&log).unwrap();
    assert_eq!(ben.saw(index), Ok("here"));
    assert_eq!(ben.saw(again), Err(NOT_AUTHENTIC), "a key opens once");
}

// S5, S13: who seals is who the entry says.
#[test]
fn a_member_speaks_in_no_other_name() {
    let (mut log, mut sides) = chat(&[1, 2, 3], Suite::X25519);
    let [ana, ben, mallory] = &mut sides[..] else { unreachable!() };
    let (author, incarnation) = (ana.me(), ana.place.incarnation);
    let binding = Binding { chat: CHAT, generation: 0, author, incarnation, number: 1 };
    let group = mallory.sealer().group.as_mut().unwrap().group_mut();
    let forged = group.seal(&text("I am Ana").encode().unwrap(), &binding.digest()).unwrap().0;
    let index = log.add(Entry::Sealed { author, incarnation, number: 1, sealed: forged });
    ben.read(&log).unwrap();
    assert_eq!(ben.saw(index), Err(NOT_AUTHENTIC));
    let said = mallory.say(&mut log, "I am Mallory").unwrap();
    ben.read(&log).unwrap();
    assert_eq!(ben.saw(said), Ok("I am Mallory"));
}

// S7: what a host or member makes of a message does not use up the true one's key.
#[test]
fn a_forged_message_burns_no_key() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    for round in 0..3 {
        ana.say(&mut log, &format!("before {round}")).unwrap();
    }
    let bens = ben.say(&mut log, "meanwhile").unwrap();
    let number = ana.said + 1;
    let sealed = ana.sealer().seal(number, &text("true")).unwrap();
    let mut spoilt = sealed.clone();
    let mut bytes = spoilt.sealed.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    spoilt.sealed = bytes.into();
    let forged = log.add(ana.entry(number, &spoilt));
    let genuine = log.add(ana.entry(number, &sealed));
    ben.read(&log).unwrap();
    assert_eq!(ben.saw(forged), Err(NOT_AUTHENTIC));
    assert_eq!(ben.saw(genuine), Ok("true"));
    assert_eq!(ben.saw(bens), Ok("meanwhile"));
    // Going back has not given Ben his own used keys again.
    ben.say(&mut log, "once more").unwrap();
    ana.read(&log).unwrap();
    let last = log.0.len() as u64;
    assert_eq!(ana.saw(last), Ok("once more"));
}

// S6: a crash takes a peer back into the group before, whose epochs have the same numbers.
#[test]
fn keys_of_two_groups_are_reserved_apart() {
    let (mut log, mut sides) = chat(&[1], Suite::X25519);
    let ana = &mut sides[0];
    ana.flush().unwrap();
    let (old, epoch) = (ana.sealer().group().unwrap().id().to_vec(), ana.epoch());
    ana.sealer().seal(1, &text("in the old group")).unwrap();
    let before = log.0.len();
    ana.publish(&mut log).unwrap();
    settle(&mut log, &mut [ana]);
    assert_eq!(ana.epoch(), epoch);
    ana.sealer().seal(1, &text("in the new group")).unwrap();
    ana.restart().unwrap();
    assert_eq!(ana.sealer().position(), before as u64, "nothing was flushed since");
    let group = ana.sealer().group.as_mut().unwrap().group_mut();
    assert_eq!(group.id(), old);
    assert_eq!(group.next_generation().unwrap(), crate::RESERVED_AHEAD);
    settle(&mut log, &mut [ana]);
    let group = ana.sealer().group.as_mut().unwrap().group_mut();
    assert_ne!(group.id(), old);
    assert_eq!(group.next_generation().unwrap(), crate::RESERVED_AHEAD);
}

// S6: every start skips what was reserved. Receivers follow a sender's keys only so far.
#[test]
fn who_restarts_often_is_still_understood() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    let mut refused = 0;
    for round in 0..12 {
        // Sealed, and lost before it has left.
        match ana.sealer().seal(1, &text("lost")) {
            Ok(_) => {}
            Err(NotSealed::RefreshNeeded) => {
                refused += 1;
                assert_eq!(ana.duty(), Duty::Refresh);
                settle(&mut log, &mut [ana, ben]);
            }
            Err(error) => panic!("{error}"),
        }
        ana.flush().unwrap();
        ana.restart().unwrap();
        if round == 5 {
            ana.flush().unwrap();
            ana.restart().unwrap();
        }
    }
    assert!(refused > 0, "twelve starts are too many");
    settle(&mut log, &mut [ana, ben]);
    let said = ana.say(&mut log, "here I am").unwrap();
    ben.read(&log).unwrap();
    assert_eq!(ben.saw(said), Ok("here I am"));
}

// S7: each gets its reason, and nobody is held up.
#[test]
fn what_does_not_open_says_why() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    let (author, incarnation) = (ana.me(), ana.place.incarnation);
    for rubbish in [Bytes::new(), Bytes::from_static(b"\x00\x01\x00\x02x"), vec![0; 900].into()] {
        let index = log.add(Entry::Sealed { author, incarnation, number: 1, sealed: rubbish });
        ben.read(&log).unwrap();
        assert_eq!(ben.saw(index), Err(NOT_AUTHENTIC));
    }
    let binding = Binding { chat: CHAT, generation: 0, author, incarnation, number: 1 };
    let group = ana.sealer().group.as_mut().unwrap().group_mut();
    let sealed = group.seal(b"\x09of a later demes", &binding.digest()).unwrap().0;
    let index = log.add(Entry::Sealed { author, incarnation, number: 1, sealed });
    ben.read(&log).unwrap();
    assert_eq!(ben.saw(index), Err(Some(Unreadable::UnknownContent)));
    ben.flush().unwrap();
    assert!(ben.sealer().content(index).unwrap().is_some(), "a later demes can read it");
    assert!(ana.say(&mut log, "go on").is_ok());
}

// S8: late messages of an old epoch open, until its keys are forgotten.
#[test]
fn keys_of_past_epochs_are_forgotten() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    let late = [1, 2].map(|number| ana.sealer().seal(number, &text("late")).unwrap());
    let author = ben.me();
    let keying = ben.sealer().key().unwrap().unwrap();
    log.add(Entry::Keying { author, keying });
    let first = log.add(ana.entry(1, &late[0]));
    ben.read(&log).unwrap();
    ben.flush().unwrap();
    assert_eq!(ben.saw(first), Ok("late"));
    ben.restart().unwrap();
    assert!(!ben.sealer().group().unwrap().past_epochs().is_empty());
    let now_ms = ben.now_ms + 25 * 3_600_000;
    ben.sealer().flush(first, now_ms).unwrap();
    assert!(ben.sealer().group().unwrap().past_epochs().is_empty());
    assert!(ben.sealer().vault.secrets("epoch/").unwrap().is_empty());
    let second = log.add(ana.entry(2, &late[1]));
    ben.read(&log).unwrap();
    assert_eq!(ben.saw(second), Err(Some(Unreadable::EpochGone)));
    assert!(ben.shown.values().any(|shown| matches!(shown, Shown::Keyed { .. })));
}
