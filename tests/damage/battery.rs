//! What is done to the files, and which ends it must have at least, or at most.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use demes::protocol::prng::Prng;

use super::sample::{Image, Sample, Truth, chat_file};
use super::verdict::{self, Verdict};

/// Flips of each file of a chat in an ordinary run; the peer's own gets half as many.
const FLIPS: usize = 2_000;
/// Cuts of each file.
const CUTS: usize = 200;
/// The names of the records of a chat's `state` table, and those of its tables.
const NAMES: [&str; 20] = [
    "format",
    "chat",
    "voter_state",
    "generation",
    "commit",
    "last_number",
    "outbox_removed",
    "request_count",
    "carried_count",
    "writes",
    "read",
    "pasts",
    "batch",
    "doubt",
    "removed_by",
    "entries",
    "outbox",
    "requests",
    "checkpoints",
    "carried",
];

/// How often each verdict was given.
pub type Counts = BTreeMap<Verdict, usize>;

/// Which file is harmed, and what lies beside it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// A chat that was closed in order.
    Closed,
    /// A chat as `kill -9` leaves it.
    Crashed,
    /// The peer's own store.
    Peer,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
pub enum Harm {
    Flip {
        place: usize,
        mask: u8,
    },
    Cut {
        length: usize,
    },
    /// All of it is this many zeros.
    Zeros {
        length: usize,
    },
    Deleted,
    /// The file of an earlier moment is put back.
    OlderFile {
        moment: usize,
    },
    /// All files of an earlier moment are put back.
    OlderDirectory {
        moment: usize,
    },
    /// A byte of the mark beside it is changed.
    MarkFlip {
        place: usize,
    },
}

/// Cases of one kind.
pub struct Battery {
    pub name: &'static str,
    pub harms: Vec<Harm>,
    victim: Victim,
    /// Whether the counts can be right.
    is_right: fn(&Counts) -> bool,
}

impl Battery {
    /// All of them, always in the same order and with the same cases.
    pub fn all(sample: &Sample) -> Vec<Self> {
        let closed = sample.closed.chat.len();
        let moments = 0..sample.earlier.len();
        vec![
            Self {
                name: "flips, closed",
                victim: Victim::Closed,
                harms: flips(&sample.closed.chat, FLIPS),
                is_right: reaches_something,
            },
            Self {
                name: "flips, crashed",
                victim: Victim::Crashed,
                harms: flips(&sample.crashed.chat, FLIPS),
                is_right: |counts| {
                    // A byte of the log must not cost the outbox; one of the outbox may.
                    let count = |verdict| counts.get(&verdict).copied().unwrap_or_default();
                    reaches_something(counts)
                        && count(Verdict::Damaged) > 9 * count(Verdict::OutboxLost)
                },
            },
            Self {
                name: "flips, peer store",
                victim: Victim::Peer,
                harms: flips(&sample.peer.chat, FLIPS / 2),
                is_right: reaches_something,
            },
            Self {
                name: "names",
                victim: Victim::Closed,
                harms: spoiled_names(&sample.closed.chat),
                is_right: reaches_something,
            },
            Self {
                name: "cuts, closed",
                victim: Victim::Closed,
                harms: cuts(closed, 3),
                is_right: |counts| !counts.contains_key(&Verdict::Intact),
            },
            Self {
                // What a crash leaves may end in room that nothing has used yet.
                name: "cuts, crashed",
                victim: Victim::Crashed,
                harms: cuts(sample.crashed.chat.len(), 4),
                is_right: |counts| counts.contains_key(&Verdict::OutboxLost),
            },
            Self {
                name: "cuts, peer store",
                victim: Victim::Peer,
                harms: cuts(sample.peer.chat.len(), 5),
                is_right: |counts| counts.contains_key(&Verdict::Damaged),
            },
            Self {
                name: "emptied",
                victim: Victim::Closed,
                harms: [0, 4_096, closed].map(|length| Harm::Zeros { length }).to_vec(),
                is_right: only::<{ Verdict::OutboxLost as u8 }>,
            },
            Self {
                name: "deleted",
                victim: Victim::Closed,
                harms: vec![Harm::Deleted],
                is_right: only::<{ Verdict::Gone as u8 }>,
            },
            Self {
                name: "older copy of the file",
                victim: Victim::Closed,
                harms: moments.clone().map(|moment| Harm::OlderFile { moment }).collect(),
                is_right: only::<{ Verdict::Older as u8 }>,
            },
            Self {
                // A copy of everything cannot be told by itself: it says what was true then, as a
                // whole. The others' memory finds it out (R9, `old_copy_restored`).
                name: "older copy of the directory",
                victim: Victim::Closed,
                harms: moments.map(|moment| Harm::OlderDirectory { moment }).collect(),
                is_right: only::<{ Verdict::Intact as u8 }>,
            },
            Self {
                // A bad mark is no witness against a good file.
                name: "flips, mark",
                victim: Victim::Closed,
                harms: (0..sample.closed.mark.len())
                    .map(|place| Harm::MarkFlip { place })
                    .collect(),
                is_right: only::<{ Verdict::Intact as u8 }>,
            },
        ]
    }

    /// # Errors
    /// When what is wrong with the counts.
    pub fn judge(&self, counts: &Counts) -> Result<(), String> {
        let cases: usize = counts.values().sum();
        match cases == self.harms.len() && (self.is_right)(counts) {
            true => Ok(()),
            false => Err(format!("other ends than there must be: {counts:?}")),
        }
    }

    /// Puts the harmed files into `dir` and says how that ends.
    pub fn examine(&self, sample: &Sample, case: usize, dir: &Path) -> Verdict {
        let truth = self.harm(sample, case, dir);
        match self.victim {
            Victim::Peer => verdict::examine_peer(dir),
            _ => verdict::examine(dir, truth),
        }
    }

    /// The same for a start after one that has ended the process.
    pub fn examine_after_end(&self, sample: &Sample, case: usize, dir: &Path) {
        match (self.victim, self.harms[case]) {
            (Victim::Peer, _) => verdict::examine_peer_after_end(dir),
            (_, Harm::OlderDirectory { moment }) => {
                verdict::examine_after_end(dir, &sample.earlier[moment].truth);
            }
            _ => verdict::examine_after_end(dir, &sample.truth),
        }
    }

    /// Writes the harmed files, and gives what they must say.
    fn harm<'a>(&self, sample: &'a Sample, case: usize, dir: &Path) -> &'a Truth {
        let mut image = match self.victim {
            Victim::Closed => sample.closed.clone(),
            Victim::Crashed => sample.crashed.clone(),
            Victim::Peer => sample.peer.clone(),
        };
        let mut truth = &sample.truth;
        match self.harms[case] {
            Harm::Flip { place, mask } => image.chat[place] ^= mask,
            Harm::Cut { length } => image.chat.truncate(length),
            Harm::Zeros { length } => image.chat = vec![0; length],
            Harm::Deleted => {}
            Harm::OlderFile { moment } => {
                image.chat.clone_from(&sample.earlier[moment].image.chat);
            }
            Harm::OlderDirectory { moment } => {
                image.clone_from(&sample.earlier[moment].image);
                truth = &sample.earlier[moment].truth;
            }
            Harm::MarkFlip { place } => image.mark[place] ^= 1,
        }
        self.write(&image, dir);
        if let Harm::Deleted = self.harms[case] {
            fs::remove_file(chat_file(dir)).expect("it is there");
        }
        truth
    }

    fn write(&self, image: &Image, dir: &Path) {
        match self.victim {
            Victim::Peer => image.write_as_peer(dir),
            _ => image.write(dir),
        }
    }
}

/// Some flips are noticed, and some hit what nothing uses.
fn reaches_something(counts: &Counts) -> bool {
    counts.contains_key(&Verdict::Intact) && counts.contains_key(&Verdict::Damaged)
}

/// All cases end in the verdict of this number.
fn only<const VERDICT: u8>(counts: &Counts) -> bool {
    counts.keys().all(|verdict| *verdict as u8 == VERDICT)
}

/// Seeded flips of bytes that are not zero: `DEMES_FLIPS` of them, or `all`, which changes each
/// such byte once.
fn flips(image: &[u8], usual: usize) -> Vec<Harm> {
    let places: Vec<usize> = (0..image.len()).filter(|place| image[*place] != 0).collect();
    let mut masks = Prng::new(1);
    let flip = |place| Harm::Flip { place, mask: 1 + masks.below(255) as u8 };
    match std::env::var("DEMES_FLIPS").as_deref() {
        Ok("all") => places.into_iter().map(flip).collect(),
        given => {
            let count = given.map_or(usual, |text| text.parse().expect("a number, or `all`"));
            let mut drawn = Prng::new(2);
            let drawn = (0..count).map(|_| places[drawn.below(places.len() as u64) as usize]);
            drawn.map(flip).collect()
        }
    }
}

/// One letter changed in every name of a record or table, wherever it stands: what is looked up by
/// a spoiled name is missing, and must be missed.
fn spoiled_names(image: &[u8]) -> Vec<Harm> {
    let mut harms = Vec::new();
    for name in NAMES {
        let found = image.windows(name.len()).enumerate();
        let found = found.filter(|(_, window)| *window == name.as_bytes());
        harms.extend(found.map(|(place, _)| Harm::Flip { place: place + 1, mask: 1 }));
    }
    harms
}

fn cuts(length: usize, seed: u64) -> Vec<Harm> {
    let mut prng = Prng::new(seed);
    (0..CUTS).map(|_| Harm::Cut { length: prng.below(length as u64) as usize }).collect()
}
