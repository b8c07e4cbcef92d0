//! What a store does, good and bad: it loses what was not synced, stalls, fails, is found torn,
//! flipped, old or empty. The rules are those of `src/storage`, without its bytes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use demes_protocol::event::{Persist, Ready, Recovered};
use demes_protocol::log::Checkpoint;
use demes_protocol::types::{
    Boot, Entry, Incarnation, Index, Number, Payload, Position, Term, VoterSet,
};

pub use super::image::Image;

/// Checkpoints that a store keeps: an older one stays, in case the newest is lost.
const CHECKPOINTS_KEPT: usize = 2;

/// A record of the store whose bytes are wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Record {
    /// Term and vote, commit index, the batch, or anything else of which there is one.
    State,
    Outbox,
    Entry(Index),
}

/// What was given to the storage thread.
pub struct Pending {
    pub ready: Ready,
    /// When, by the world's clock, in microseconds.
    pub since: u64,
}

/// Everything that an old copy of the file brings back.
#[derive(Clone)]
struct Store {
    image: Image,
    checkpoints: VecDeque<Arc<Checkpoint>>,
    /// Where the batch before the last one ends: only what follows can be torn (R37).
    previous_end: Index,
    /// The end of a batch that was cut; 0 when there is no doubt.
    doubt: Index,
    bad: BTreeSet<Record>,
}

fn voters_of(entries: &[Arc<Entry>]) -> VoterSet {
    let mut sets = entries.iter().rev().filter_map(|entry| match &entry.payload {
        Payload::VoterChange(voters) => Some(voters.clone()),
        _ => None,
    });
    sets.next().unwrap_or_else(|| {
        let founder = entries.first();
        VoterSet(founder.map(|entry| (entry.author, entry.incarnation)).into_iter().collect())
    })
}

/// One peer's store of the chat.
pub struct Disk {
    store: Store,
    copy: Option<Store>,
    pub pending: VecDeque<Pending>,
    /// How many of them, from the first one, are being written.
    pub writing: usize,
    /// Counts the writes.
    pub write_number: u64,
    /// Until then no write returns.
    pub stalled_until: u64,
    /// The next write fails.
    pub fails: bool,
    /// An old copy was put back, and the peer has not come that far again: what it had been.
    old: Option<Past>,
    /// Something that was durable in this incarnation is not there any more.
    pub has_lost: bool,
}

/// How far a store had come.
#[derive(Clone, Copy)]
struct Past {
    boot: Boot,
    term: Term,
    last: Position,
}

impl Past {
    /// Whether nothing of the other is missing: its log has entries of the term of the other's
    /// last vote, so that this vote cannot be given again to anybody who matters.
    fn covers(&self, other: &Past) -> bool {
        self.boot >= other.boot && self.last >= other.last && self.last.term >= other.term
    }
}

impl Image {
    fn past(&self) -> Past {
        let last = self.entries.last();
        Past {
            boot: self.boot,
            term: self.hard_state.term,
            last: last.map_or(Position::default(), |last| Position {
                term: last.term,
                index: last.index,
            }),
        }
    }
}

/// What a start finds.
pub enum Found {
    Sound(Box<Recovered>),
    Damaged,
}

impl Disk {
    /// A new store in a new incarnation; a founder's has the founding entry, committed.
    pub fn new(incarnation: Incarnation, entries: Vec<Arc<Entry>>) -> Self {
        let store = Store {
            previous_end: entries.len() as Index,
            image: Image::new(incarnation, entries),
            checkpoints: VecDeque::new(),
            doubt: 0,
            bad: BTreeSet::new(),
        };
        Self {
            store,
            copy: None,
            pending: VecDeque::new(),
            writing: 0,
            write_number: 0,
            stalled_until: 0,
            fails: false,
            old: None,
            has_lost: false,
        }
    }

    /// The same store on another disk, without what was not synced.
    pub fn again(&self) -> Self {
        let mut disk = Self::new(self.incarnation(), Vec::new());
        disk.store = self.store.clone();
        disk
    }

    pub fn image(&self) -> &Image {
        &self.store.image
    }

    pub fn incarnation(&self) -> Incarnation {
        self.store.image.incarnation
    }

    /// Whether it holds everything that it was ever told to keep.
    pub fn is_sound(&self) -> bool {
        self.store.bad.is_empty() && self.store.doubt == 0 && self.old.is_none()
    }

    /// The voter set that is in force in the stored log (R5).
    pub fn voters(&self) -> VoterSet {
        voters_of(&self.store.image.entries)
    }

    // ---- writing ----

    /// What the storage thread takes into its next sync: everything that waits, up to a cut of the
    /// log, which begins a sync of its own.
    pub fn begin_write(&mut self) {
        let cuts = |pending: &Pending| pending.ready.persist.truncate_from.is_some();
        let next_cut = self.pending.iter().skip(1).position(cuts);
        self.writing = next_cut.map_or(self.pending.len(), |position| position + 1);
    }

    /// The next that waits, if there is nothing to write of it.
    pub fn take_unwritten(&mut self) -> Option<Ready> {
        let next = self.pending.pop_front_if(|pending| pending.ready.persist.is_empty());
        next.map(|pending| pending.ready)
    }

    /// Makes the oldest `count` durable as one batch and gives them back.
    pub fn write(&mut self, count: usize) -> Vec<Ready> {
        let written: Vec<_> = self.pending.drain(..count).map(|pending| pending.ready).collect();
        let end = self.store.image.entries.len() as Index;
        let cut = written.iter().filter_map(|ready| ready.persist.truncate_from).min();
        if written.iter().any(|ready| !ready.persist.is_empty()) {
            self.store.previous_end = cut.map_or(end, |from| end.min(from - 1));
        }
        for ready in &written {
            self.apply(&ready.persist);
        }
        self.writing = 0;
        self.write_number += 1;
        written
    }

    fn apply(&mut self, persist: &Persist) {
        let store = &mut self.store;
        if let Some(from) = persist.truncate_from {
            store.bad.retain(|record| !matches!(record, Record::Entry(index) if *index >= from));
        }
        store.image.apply(persist);
        if let Some(checkpoint) = &persist.checkpoint {
            store.checkpoints.push_back(Arc::clone(checkpoint));
            if store.checkpoints.len() > CHECKPOINTS_KEPT {
                store.checkpoints.pop_front();
            }
        }
        if store.image.commit >= store.doubt {
            store.doubt = 0;
        }
        if self.old.is_some_and(|old| store.image.past().covers(&old)) {
            self.old = None;
        }
    }

    /// Whether an old copy was put back that has not caught up.
    pub fn is_old(&self) -> bool {
        self.old.is_some()
    }

    // ---- going wrong ----

    /// The process ends. Of what was being written, the first `count` have become durable without
    /// anyone knowing.
    pub fn crash(&mut self, count: usize) -> Vec<Ready> {
        let count = count.min(self.pending.len());
        let written = self.write(count);
        self.pending.clear();
        self.fails = false;
        written
    }

    /// The entry at `index` as it stands in the store, or is on its way there.
    pub fn entry(&self, index: Index) -> Option<&Arc<Entry>> {
        let waiting = self.pending.iter().rev().flat_map(|pending| &pending.ready.persist.entries);
        let mut waiting = waiting.filter(|entry| entry.index == index);
        waiting.next().or_else(|| self.store.image.entries.get(index as usize - 1))
    }

    /// The disk lied about its last batch: a part of it is not there after all. `pick` chooses
    /// which. Says whether there was anything to lose.
    pub fn tear(&mut self, pick: u64) -> bool {
        let end = self.store.image.entries.len() as Index;
        let lost = end - self.store.previous_end.min(end);
        if lost > 0 {
            let from = self.store.previous_end + 1 + pick % lost;
            self.store.bad.extend((from..=end).map(Record::Entry));
        }
        lost > 0
    }

    /// A bit flips in a record that `pick` chooses.
    pub fn flip(&mut self, pick: u64) -> Record {
        let entries = self.store.image.entries.len() as u64;
        let record = match pick % (entries + 2) {
            0 => Record::State,
            1 if !self.store.image.outbox.is_empty() => Record::Outbox,
            1 => Record::State,
            index => Record::Entry(index - 1),
        };
        self.store.bad.insert(record);
        record
    }

    /// Somebody copies the file.
    pub fn make_copy(&mut self) {
        self.copy = Some(self.store.clone());
    }

    /// Whether a peer on the copy would be the only voter. It hosts by itself before anybody who
    /// knows better could tell it so, and no rule could help that.
    pub fn copy_needs_nobody(&self) -> bool {
        let Some(copy) = &self.copy else { return false };
        voters_of(&copy.image.entries).len() == 1
    }

    /// The last number that the store has given away.
    pub fn last_number(&self) -> Number {
        self.store.image.last_number
    }

    /// The copy takes the place of the file. Says whether that forgets anything.
    pub fn put_copy_back(&mut self) -> bool {
        let Some(copy) = self.copy.take() else { return false };
        let (now, then) = (&self.store.image, &copy.image);
        let forgets = then.incarnation == now.incarnation
            && (then.boot, then.hard_state, then.entries.len())
                != (now.boot, now.hard_state, now.entries.len());
        if forgets {
            self.old = Some(now.past());
            self.store = copy;
            self.has_lost = true;
        }
        forgets
    }

    /// Entries for a member that lacks them; `None` if one of them does not read back.
    pub fn read(&self, from: Index, through: Index, count_max: usize) -> Option<Vec<Arc<Entry>>> {
        let entries = &self.store.image.entries;
        let first = from as usize - 1;
        let end = (through as usize).min(entries.len()).min(first + count_max);
        let range = entries.get(first..end).unwrap_or_default();
        let is_bad = |entry: &Arc<Entry>| self.store.bad.contains(&Record::Entry(entry.index));
        (!range.iter().any(is_bad)).then(|| range.to_vec())
    }

    /// Opens the store for a new process, as `src/storage/recover.rs` does.
    pub fn recover(&mut self) -> Found {
        self.fails = false;
        let store = &mut self.store;
        if store.bad.contains(&Record::State) || store.bad.contains(&Record::Outbox) {
            return Found::Damaged;
        }
        let is_bad = |index: Index| store.bad.contains(&Record::Entry(index));
        let previous_end = store.previous_end;
        let mut checkpoint = Checkpoint::default();
        for newest in store.checkpoints.iter().rev() {
            if !is_bad(newest.index()) {
                // Every recovery also exercises the canonical form.
                checkpoint = Checkpoint::decode(&newest.encode()).expect("it reads back");
                break;
            }
            if newest.index() <= previous_end {
                return Found::Damaged;
            }
        }
        let end = store.image.entries.len() as Index;
        let first_bad = (checkpoint.index() + 1..=end).find(|index| is_bad(*index));
        if let Some(bad) = first_bad {
            if bad <= previous_end {
                return Found::Damaged;
            }
            store.doubt = store.doubt.max(end);
            self.has_lost = true;
            store.image.cut(bad);
            store.previous_end = bad - 1;
            store.bad.retain(|record| !matches!(record, Record::Entry(index) if *index >= bad));
            store.checkpoints.retain(|checkpoint| checkpoint.index() < bad);
        }
        let tail_in_doubt = store.doubt > store.image.commit;
        if !tail_in_doubt {
            store.doubt = 0;
        }
        Found::Sound(Box::new(store.image.recover(checkpoint, tail_in_doubt)))
    }
}
