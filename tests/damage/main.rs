//! Damaged stores (R37, R38): bytes flipped, files cut, emptied, deleted, replaced by older copies.
//!
//! Each case is opened as `demes up` opens it, and must end in one of these ways: the content is
//! what was synced; the last batch is cut and the tail in doubt; or a clear error, which says that
//! the chat must be fetched anew. Never other content, never a panic, and a second start says the
//! same as the first. `docs/verification.md` tells how to run more than the usual number.

mod sample;
mod verdict;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Once;
use std::thread;

use sample::{Sample, chat_file, temporary};
use verdict::{Verdict, examine, examine_peer};

/// Flips, of all files together, in an ordinary run.
const FLIPS: usize = 2_000;
/// Cuts of each file.
const CUTS: usize = 200;

/// Random enough, and the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) as usize % bound
    }
}

/// One byte changed in an image.
#[derive(Clone, Copy, Debug)]
struct Flip {
    place: usize,
    mask: u8,
}

/// Seeded flips of bytes that are not zero: `DEMES_FLIPS` of them, or `all`, which changes each
/// such byte once.
fn flips(image: &[u8], usual: usize) -> Vec<Flip> {
    let places: Vec<usize> = (0..image.len()).filter(|place| image[*place] != 0).collect();
    let mut random = Random(1);
    let mut flip = |place| Flip { place, mask: 1 + random.below(255) as u8 };
    match std::env::var("DEMES_FLIPS").as_deref() {
        Ok("all") => places.into_iter().map(&mut flip).collect(),
        given => {
            let count = given.map_or(usual, |text| text.parse().expect("a number, or `all`"));
            let mut places_drawn = Random(2);
            let drawn = (0..count).map(|_| places[places_drawn.below(places.len())]);
            drawn.map(&mut flip).collect()
        }
    }
}

/// The storage library's own panics are told as damage; like the program, this prints only others.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let show = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !demes::storage::is_panic_caught() {
                show(panic);
            }
        }));
    });
}

/// Runs every case on some threads, each in a directory of its own, and counts how they end.
fn run<C: Copy + std::fmt::Debug + Sync>(
    what: &str,
    cases: &[C],
    examine: impl Fn(&Path, C) -> Verdict + Sync,
) -> BTreeMap<Verdict, usize> {
    quiet_panics();
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let share = cases.len().div_ceil(threads).max(1);
    let counts: Vec<BTreeMap<Verdict, usize>> = thread::scope(|scope| {
        let examine = &examine;
        let workers = cases.chunks(share).map(|cases| {
            scope.spawn(move || {
                let mut counts = BTreeMap::new();
                for case in cases {
                    let dir = temporary();
                    let examined = || examine(dir.path(), *case);
                    let examined = std::panic::AssertUnwindSafe(examined);
                    let verdict = std::panic::catch_unwind(examined)
                        .unwrap_or_else(|_| panic!("the case was {case:?}"));
                    *counts.entry(verdict).or_default() += 1;
                }
                counts
            })
        });
        let workers: Vec<_> = workers.collect();
        workers.into_iter().map(|worker| worker.join().expect("every case is sound")).collect()
    });
    let mut all = BTreeMap::new();
    for (verdict, count) in counts.into_iter().flatten() {
        *all.entry(verdict).or_default() += count;
    }
    println!("{what}: {} cases {all:?}", cases.len());
    all
}

#[test]
fn every_flipped_byte_is_harmless_cut_off_or_told() {
    let sample = Sample::new();
    for (what, image) in [("closed", &sample.closed), ("crashed", &sample.crashed)] {
        let cases = flips(&image.chat, FLIPS / 2);
        let counts = run(&format!("flips, {what}"), &cases, |dir, flip| {
            let mut image = image.clone();
            image.chat[flip.place] ^= flip.mask;
            image.write(dir);
            examine(dir, &sample.truth)
        });
        for verdict in [Verdict::Intact, Verdict::Damaged] {
            assert!(counts.contains_key(&verdict), "the flips do not reach anything: {counts:?}");
        }
    }
}

#[test]
fn a_file_that_is_cut_short_is_told() {
    let sample = Sample::new();
    for (what, image) in [("closed", &sample.closed), ("crashed", &sample.crashed)] {
        let mut random = Random(3);
        let cuts: Vec<usize> = (0..CUTS).map(|_| random.below(image.chat.len())).collect();
        let counts = run(&format!("cuts, {what}"), &cuts, |dir, length| {
            let mut image = image.clone();
            image.chat.truncate(length);
            image.write(dir);
            examine(dir, &sample.truth)
        });
        assert!(!counts.contains_key(&Verdict::Intact) || what == "crashed", "{counts:?}");
    }
}

#[test]
fn a_file_that_is_emptied_or_deleted_is_told() {
    let sample = Sample::new();
    let cases = [Some(0), Some(4_096), Some(sample.closed.chat.len()), None];
    let counts = run("emptied or deleted", &cases, |dir, zeros| {
        sample.closed.write(dir);
        match zeros {
            Some(zeros) => fs::write(chat_file(dir), vec![0; zeros]).expect("it is writable"),
            None => fs::remove_file(chat_file(dir)).expect("it is there"),
        }
        examine(dir, &sample.truth)
    });
    assert_eq!(counts, [(Verdict::Damaged, 3), (Verdict::Gone, 1)].into());
}

#[test]
fn an_older_copy_is_told_from_the_newest() {
    let sample = Sample::new();
    let cases: Vec<usize> = (0..sample.earlier.len()).collect();
    let counts = run("older copy of the file", &cases, |dir, place| {
        sample.closed.write(dir);
        fs::write(chat_file(dir), &sample.earlier[place].image.chat).expect("it is writable");
        examine(dir, &sample.truth)
    });
    assert_eq!(counts, [(Verdict::Older, cases.len())].into());
    // A copy of everything cannot be told by itself: it says what was true then, as a whole. The
    // others' memory finds it out (R9, `old_copy_restored` in tests/golden).
    let counts = run("older copy of the directory", &cases, |dir, place| {
        let earlier = &sample.earlier[place];
        earlier.image.write(dir);
        examine(dir, &earlier.truth)
    });
    assert_eq!(counts, [(Verdict::Intact, cases.len())].into());
}

#[test]
fn a_bad_mark_is_no_witness_against_a_good_file() {
    let sample = Sample::new();
    let cases: Vec<usize> = (0..sample.closed.mark.len()).collect();
    let counts = run("flips, mark", &cases, |dir, place| {
        let mut image = sample.closed.clone();
        image.mark[place] ^= 1;
        image.write(dir);
        examine(dir, &sample.truth)
    });
    assert_eq!(counts, [(Verdict::Intact, cases.len())].into());
}

#[test]
fn the_peers_own_store_is_intact_or_refused() {
    let sample = Sample::new();
    let peer = &sample.peer;
    let cases = flips(&peer.chat, FLIPS / 4);
    let counts = run("flips, peer store", &cases, |dir, flip| {
        let mut peer = peer.clone();
        peer.chat[flip.place] ^= flip.mask;
        peer.write_as_peer(dir);
        examine_peer(dir)
    });
    assert!(counts.contains_key(&Verdict::Damaged), "{counts:?}");
    let mut random = Random(4);
    let cuts: Vec<usize> = (0..CUTS).map(|_| random.below(peer.chat.len())).collect();
    run("cuts, peer store", &cuts, |dir, length| {
        let mut peer = peer.clone();
        peer.chat.truncate(length);
        peer.write_as_peer(dir);
        examine_peer(dir)
    });
}
