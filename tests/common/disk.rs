//! A disk that keeps what was synced, and loses the rest when its peer crashes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use demes_protocol::event::{Persist, Ready, Recovered};
use demes_protocol::evidence::Findings;
use demes_protocol::log::Checkpoint;
use demes_protocol::types::{
    Entry, Generation, HardState, Incarnation, Index, Number, Pasts, PeerId, Position, Submission,
};

/// What a restart finds.
#[derive(Clone)]
pub struct Image {
    pub incarnation: Incarnation,
    pub boot: u64,
    pub generation: Generation,
    pub hard_state: HardState,
    pub entries: Vec<Arc<Entry>>,
    pub outbox: BTreeMap<Number, Submission>,
    pub last_number: Number,
    pub commit: Index,
    pub read: Index,
    pub removed_by: Option<PeerId>,
    pub furthest: Position,
    pub pasts: Pasts,
    pub evidence: Findings,
    checkpoint: Option<Arc<Checkpoint>>,
}

/// The image, and the `Ready`s whose sync has not returned.
#[derive(Clone)]
pub struct Disk {
    pub image: Image,
    pub pending: VecDeque<Ready>,
}

impl Disk {
    pub fn new(incarnation: Incarnation, entries: Vec<Arc<Entry>>) -> Self {
        Self { image: Image::new(incarnation, entries), pending: VecDeque::new() }
    }

    /// Makes the oldest pending `Ready` durable and gives it back.
    pub fn sync_one(&mut self) -> Option<Ready> {
        let ready = self.pending.pop_front()?;
        self.image.apply(&ready.persist);
        Some(ready)
    }

    pub fn recover(&mut self) -> Recovered {
        let checkpoint = self.image.checkpoint.as_deref().cloned().unwrap_or_default();
        // Every recovery also exercises the canonical form.
        let checkpoint = Checkpoint::decode(&checkpoint.encode()).expect("it reads back");
        self.image.recover(checkpoint, false)
    }
}

impl Image {
    /// A store that is new; a founder's has the founding entry, committed.
    pub fn new(incarnation: Incarnation, entries: Vec<Arc<Entry>>) -> Self {
        Self {
            incarnation,
            boot: 0,
            generation: 0,
            hard_state: HardState::default(),
            commit: entries.len() as Index,
            entries,
            outbox: BTreeMap::new(),
            last_number: 0,
            read: 0,
            removed_by: None,
            pasts: Pasts::new(),
            evidence: Findings::new(),
            furthest: Position::default(),
            checkpoint: None,
        }
    }

    /// What a start finds; it raises the boot number.
    pub fn recover(&mut self, checkpoint: Checkpoint, tail_in_doubt: bool) -> Recovered {
        self.boot += 1;
        // A checkpoint is made of committed entries, and may know more than the written index.
        self.commit = self.commit.max(checkpoint.index());
        self.found(checkpoint, tail_in_doubt)
    }

    /// What one who looks offline finds.
    pub fn recovered(&self) -> Recovered {
        self.found(self.checkpoint.as_deref().cloned().unwrap_or_default(), false)
    }

    fn found(&self, checkpoint: Checkpoint, tail_in_doubt: bool) -> Recovered {
        Recovered {
            incarnation: self.incarnation,
            boot: self.boot,
            generation: self.generation,
            hard_state: self.hard_state,
            entries: self.entries[checkpoint.index() as usize..].to_vec(),
            checkpoint,
            commit: self.commit,
            outbox: self.outbox.values().cloned().collect(),
            last_number: self.last_number,
            read: self.read,
            removed_by: self.removed_by,
            pasts: self.pasts.clone(),
            evidence: self.evidence.clone(),
            furthest: self.furthest,
            tail_in_doubt,
        }
    }

    /// A torn batch is cut from this index on.
    pub fn cut(&mut self, from: Index) {
        self.entries.truncate(from as usize - 1);
        self.commit = self.commit.min(from - 1);
    }

    /// Makes a change of the store durable.
    pub fn apply(&mut self, persist: &Persist) {
        if let Some(from) = persist.truncate_from {
            self.entries.truncate(from as usize - 1);
        }
        for entry in &persist.entries {
            assert_eq!(entry.index, self.entries.len() as Index + 1, "the store has no gaps");
            self.entries.push(Arc::clone(entry));
        }
        if let Some(hard_state) = persist.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "the durable term goes back");
            self.hard_state = hard_state;
        }
        for submission in &persist.outbox_put {
            self.last_number = self.last_number.max(submission.number);
            self.outbox.insert(submission.number, submission.clone());
        }
        if let Some(number) = persist.outbox_remove_through {
            self.outbox.retain(|n, _| *n > number);
        }
        if let Some(commit) = persist.commit {
            assert!(commit >= self.commit && commit <= self.entries.len() as Index);
            self.commit = commit;
        }
        if let Some(checkpoint) = &persist.checkpoint {
            self.checkpoint = Some(Arc::clone(checkpoint));
        }
        if let Some(pasts) = &persist.pasts {
            self.pasts = (**pasts).clone();
        }
        if let Some(evidence) = &persist.evidence {
            self.evidence = (**evidence).clone();
        }
        self.removed_by = persist.removed_by.or(self.removed_by);
        self.furthest = persist.furthest.unwrap_or(self.furthest);
        self.generation = persist.generation.unwrap_or(self.generation);
        if let Some(read) = persist.read {
            self.read = read;
        }
    }

    pub fn has(&self, entry: &Entry) -> bool {
        self.entries.get(entry.index as usize - 1).is_some_and(|own| own.hash == entry.hash)
    }
}
