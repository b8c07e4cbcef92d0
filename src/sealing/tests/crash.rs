//! A process that is killed before any one of its writes (S6, S7).

use std::collections::BTreeSet;

use demes_content::Binding;

use super::world::{Entry, Log, Side, settle};
use crate::disk::faults;
use crate::{Place, Shown, Suite};

/// What Ana has said that has left her: group, epoch and generation of the key.
type Used = BTreeSet<(Vec<u8>, u64, u32)>;

struct Story {
    log: Log,
    ben: Side,
    ana: Side,
    bens_said: usize,
    used: Used,
}

const ROUNDS: usize = 4;

impl Story {
    fn new() -> Self {
        let (mut log, mut ben) = (Log::default(), Side::new(2, Suite::X25519));
        settle(&mut log, &mut [&mut ben]);
        let ana = Side::new(1, Suite::X25519);
        Self { log, ben, ana, bens_said: 0, used: Used::new() }
    }

    /// Goes on from wherever it is; every step asks what is there already.
    fn go_on(&mut self) -> Result<(), String> {
        let failed = |error: &dyn ToString| error.to_string();
        if self.ana.sealer.is_none() {
            self.ana.restart().map_err(|error| failed(&error))?;
        }
        for round in 0..ROUNDS {
            self.ana.read(&self.log).map_err(|error| failed(&error))?;
            while self.ana.work(&mut self.log).map_err(|error| failed(&error))? {
                self.settle_ben();
                self.ana.read(&self.log).map_err(|error| failed(&error))?;
            }
            self.settle_ben();
            self.ana.read(&self.log).map_err(|error| failed(&error))?;
            if (self.ana.said as usize) <= round {
                self.ana_says(round)?;
            }
            if self.bens_said <= round {
                self.bens_said += 1;
                faults_off(|| self.ben_says(round));
            }
            self.ana.read(&self.log).map_err(|error| failed(&error))?;
            self.ana.flush().map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Seals and sends. What was sealed is on the wire even if the process ends at once. A copy of
    /// Ben's group opens what is there, and says which key it was sealed with.
    fn ana_says(&mut self, round: usize) -> Result<(), String> {
        let said = self.ana.say(&mut self.log, &format!("Ana {round}"));
        said.map_err(|error| error.to_string())?;
        let number = self.ana.said;
        let Place { chat, me: author, incarnation, .. } = self.ana.place;
        let binding = Binding { chat, generation: 0, author, incarnation, number };
        let mut tap = self.ben.sealer().group().expect("Ben founded it").clone();
        let epoch = tap.epoch();
        let wire = &self.ana.outbox[&number].sealed;
        let opened = tap.open(wire, &binding.digest()).expect("no key is used twice");
        let is_new = self.used.insert((tap.id().to_vec(), epoch, opened.key_generation));
        assert!(is_new, "a key is used twice");
        Ok(())
    }

    fn ben_says(&mut self, round: usize) {
        self.ben.say(&mut self.log, &format!("Ben {round}")).unwrap();
        if round == 2 {
            // The epoch changes in the middle.
            let author = self.ben.me();
            let keying = self.ben.sealer().key().unwrap().unwrap();
            self.log.add(Entry::Keying { author, keying });
            self.ben.read(&self.log).unwrap();
        }
    }

    fn settle_ben(&mut self) {
        faults_off(|| settle(&mut self.log, &mut [&mut self.ben]));
    }

    fn check(&mut self) {
        faults::die_after(None);
        self.ben.read(&self.log).unwrap();
        self.ana.restart().unwrap();
        self.ana.read(&self.log).unwrap();
        self.ana.flush().unwrap();
        let (mut bens, mut anas) = (0, 0);
        for (place, entry) in self.log.0.iter().enumerate() {
            let index = place as u64 + 1;
            let Entry::Sealed { author, .. } = entry else { continue };
            let content = self.ana.sealer().content(index).unwrap();
            let content = content.unwrap_or_else(|| panic!("{index} is lost"));
            let content = demes_content::Content::decode(&content.to_vec().into()).unwrap();
            let demes_content::Kind::Text(text) = content.kind else { panic!("a text") };
            if *author == self.ana.me() {
                assert_eq!(text, format!("Ana {anas}"));
                assert_eq!(self.ben.saw(index), Ok(&text[..]), "Ben opens it, too");
                anas += 1;
            } else {
                assert_eq!(text, format!("Ben {bens}"));
                bens += 1;
            }
        }
        assert_eq!((anas, bens), (ROUNDS, ROUNDS));
        // Nothing looks like an old copy that is none: a kill costs nobody a seat.
        let me = self.ana.me();
        let is_hers = |entry: &&Entry| matches!(entry, Entry::Seat { peer, .. } if *peer == me);
        assert_eq!(self.log.0.iter().filter(is_hers).count(), 1, "one seat is enough");
        let locked_out = self.ana.shown.values().any(|shown| *shown == Shown::LockedOut);
        assert!(!locked_out, "its own key package was gone");
    }
}

/// Ben's process is another one.
fn faults_off(run: impl FnOnce()) {
    let left = faults::pause();
    run();
    faults::resume(left);
}

/// A story in which the process dies at its change `first`, and the next one, which goes on, at
/// its change `second`. Gives how often it died.
fn kill(first: u64, second: u64) -> usize {
    let mut story = Story::new();
    faults::die_after(Some(first));
    if story.go_on().is_ok() {
        story.check();
        return 0;
    }
    story.ana.sealer = None;
    faults::die_after(Some(second));
    let mut kills = 1;
    if story.go_on().is_err() {
        kills += 1;
        story.ana.sealer = None;
        faults::die_after(None);
        story.go_on().unwrap();
    }
    story.check();
    kills
}

// S6, S7: kills in each change of the whole story, and second ones in what follows.
#[test]
fn a_kill_at_any_step_uses_no_key_twice_and_loses_nothing() {
    let two_cores = [1, 2].map(|half| {
        std::thread::spawn(move || {
            let mut kills = 0;
            for first in 0_u64.. {
                for place in 0..4 {
                    let died = kill(first, (first * 7 + (2 * place + half) * 5) % 47);
                    if died == 0 {
                        return (first, kills);
                    }
                    kills += died;
                }
            }
            unreachable!("the story ends")
        })
    });
    for half in two_cores {
        let (places, kills) = half.join().unwrap();
        assert!(places > 70 && kills > 500, "{kills} kills at {places} places");
    }
}
