//! Who opens what with everything that it has: its whole state at every moment, and the whole log
//! (S1, S4, S9).

use demes_content::Binding;

use super::world::{CHAT, Entry, Log, Side, chat, settle};
use crate::Suite;
use crate::group::Group;

/// The states of one participant's group, each as it was at some time. It keeps what an honest
/// one deletes, and obeys no rule.
#[derive(Default)]
struct Hoard(Vec<Group>);

impl Hoard {
    fn keep(&mut self, side: &mut Side) {
        self.0.extend(side.sealer().group().cloned());
    }

    /// Takes every Commit of the log in every state, whatever the roster says.
    fn follow(&mut self, log: &Log) {
        for entry in &log.0 {
            let Entry::Keying { keying, .. } = entry else { continue };
            for place in 0..self.0.len() {
                let mut next = self.0[place].clone();
                let epoch = next.epoch();
                next.process(&keying.commit, |_| true);
                if next.epoch() != epoch {
                    self.0.push(next);
                }
            }
        }
    }

    /// Whether any state opens what stands at `index` in the log.
    fn opens(&self, log: &Log, index: u64) -> bool {
        let Entry::Sealed { author, incarnation, number, sealed } = &log.0[index as usize - 1]
        else {
            panic!("{index} is no message")
        };
        let (author, incarnation, number) = (*author, *incarnation, *number);
        let binding = Binding { chat: CHAT, generation: 0, author, incarnation, number };
        self.0.iter().any(|group| group.clone().open(sealed, &binding.digest()).is_ok())
    }
}

// S9: a newcomer opens nothing from before, with all of its states and everyone's log.
#[test]
fn a_newcomer_opens_nothing_from_before() {
    for suite in [Suite::Hybrid, Suite::X25519] {
        let (mut log, mut sides) = chat(&[1, 2], suite);
        let [ana, ben] = &mut sides[..] else { unreachable!() };
        let (mut bens, mut cleos) = (Hoard::default(), Hoard::default());
        bens.keep(ben);
        let mut before = vec![ana.say(&mut log, "in the first epoch").unwrap()];
        let author = ben.me();
        let keying = ben.sealer().key().unwrap().unwrap();
        log.add(Entry::Keying { author, keying });
        ana.read(&log).unwrap();
        ben.read(&log).unwrap();
        bens.keep(ben);
        before.push(ana.say(&mut log, "in the second").unwrap());
        let mut cleo = Side::new(3, suite);
        cleo.read(&log).unwrap();
        cleo.publish(&mut log).unwrap();
        before.push(ana.say(&mut log, "while she waits").unwrap());
        settle(&mut log, &mut [ana, ben, &mut cleo]);
        cleos.keep(&mut cleo);
        let after = ana.say(&mut log, "and she is here").unwrap();
        cleos.follow(&log);
        assert!(cleos.opens(&log, after), "she can open something");
        for index in before {
            assert!(bens.opens(&log, index), "a member of then can open {index}");
            assert!(!cleos.opens(&log, index), "she opens {index}");
        }
    }
}

// S1, S4: a removed member opens nothing after, with all of its states and everyone's log.
#[test]
fn a_removed_member_opens_nothing_after() {
    for suite in [Suite::Hybrid, Suite::X25519] {
        let (mut log, mut sides) = chat(&[1, 2, 3], suite);
        let [ana, ben, cleo] = &mut sides[..] else { unreachable!() };
        let (mut bens, mut cleos) = (Hoard::default(), Hoard::default());
        cleos.keep(cleo);
        let before = ana.say(&mut log, "before").unwrap();
        log.add(Entry::Left(cleo.me()));
        // One who has not read yet that she goes: the stated exception.
        let unknowing = ben.say(&mut log, "unknowing").unwrap();
        settle(&mut log, &mut [ana, ben]);
        bens.keep(ben);
        let mut after = vec![ana.say(&mut log, "after").unwrap()];
        let author = ben.me();
        let keying = ben.sealer().key().unwrap().unwrap();
        log.add(Entry::Keying { author, keying });
        settle(&mut log, &mut [ana, ben]);
        bens.keep(ben);
        after.push(ana.say(&mut log, "an epoch later").unwrap());
        // A newcomer's Commit has no path: it must not let her in again.
        let mut dan = Side::new(4, suite);
        settle(&mut log, &mut [ana, ben, &mut dan]);
        bens.keep(ben);
        after.push(ana.say(&mut log, "with another one").unwrap());
        cleos.follow(&log);
        assert!(cleos.opens(&log, before) && cleos.opens(&log, unknowing));
        for index in after {
            assert!(bens.opens(&log, index), "a member can open {index}");
            assert!(!cleos.opens(&log, index), "she opens {index}");
        }
    }
}

// S1: whoever has the lost disk of a member that has come back opens nothing after.
#[test]
fn a_lost_disk_opens_nothing_after() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::Hybrid);
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    let mut lost = Hoard::default();
    lost.keep(ben);
    let before = ana.say(&mut log, "before").unwrap();
    let mut again = Side::new(2, Suite::Hybrid);
    again.place.incarnation = 99;
    again.restart().unwrap();
    settle(&mut log, &mut [ana, &mut again]);
    let after = ana.say(&mut log, "after").unwrap();
    again.read(&log).unwrap();
    lost.follow(&log);
    assert_eq!(again.saw(after), Ok("after"));
    assert!(lost.opens(&log, before) && !lost.opens(&log, after));
}
