//! A small chat in a real store, as images of its files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use demes::protocol::event::{Persist, Recovered};
use demes::protocol::evidence::{Evidence, Findings, Offence};
use demes::protocol::log::{Checkpoint, Log};
use demes::protocol::types::{
    ChatId, Entry, HardState, Hash, Index, Past, Pasts, Payload, PeerId, Submission,
};
use demes::storage::DataDir;
use tempfile::TempDir;

pub const CHAT: ChatId = ChatId([0xc4; 16]);
pub const ME: PeerId = PeerId([1; 32]);
const INCARNATION: u64 = 77;
/// Entries of one write, and writes.
const BATCH: u64 = 6;
const BATCHES: u64 = 10;

/// The content of a chat's two files (or of the peer's).
#[derive(Clone)]
pub struct Image {
    pub chat: Vec<u8>,
    pub mark: Vec<u8>,
}

/// What a store must give back.
#[derive(Clone)]
pub struct Truth {
    pub recovered: Recovered,
    pub entries: Vec<Arc<Entry>>,
    /// The index of each request id.
    pub requests: Vec<(String, Index)>,
}

/// A moment in the chat's life.
pub struct Earlier {
    pub image: Image,
    pub truth: Truth,
}

/// The store after its last write, and before.
pub struct Sample {
    /// Closed in order.
    pub closed: Image,
    /// As `kill -9` leaves it.
    pub crashed: Image,
    pub truth: Truth,
    /// After each of the writes but the last, closed in order.
    pub earlier: Vec<Earlier>,
    /// The peer's own store, closed.
    pub peer: Image,
}

/// What the peer's own store holds, by table and key.
pub fn peer_records() -> Vec<(String, String, Vec<u8>)> {
    let record =
        |n: usize| (format!("table{}", n % 3), format!("key{n:02}"), vec![n as u8 + 1; 90]);
    (0..30).map(record).collect()
}

/// A directory in memory where there is one: these tests sync thousands of times.
pub fn temporary() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a directory")
}

pub fn chat_file(dir: &Path) -> PathBuf {
    dir.join("chats").join(format!("{CHAT}.redb"))
}

impl Image {
    fn read(path: &Path) -> Self {
        let read = |path: PathBuf| fs::read(path).expect("it is there");
        Self { chat: read(path.to_owned()), mark: read(path.with_extension("mark")) }
    }

    /// Puts the chat into a data directory.
    pub fn write(&self, dir: &Path) {
        fs::create_dir_all(dir.join("chats")).expect("a directory");
        self.write_at(&chat_file(dir));
    }

    /// Puts the peer's own store there.
    pub fn write_as_peer(&self, dir: &Path) {
        self.write_at(&dir.join("peer.redb"));
    }

    fn write_at(&self, path: &Path) {
        fs::write(path, &self.chat).expect("it is writable");
        fs::write(path.with_extension("mark"), &self.mark).expect("it is writable");
    }
}

impl Sample {
    pub fn new() -> Self {
        let dir = temporary();
        let data = DataDir::open(dir.path()).expect("a data directory");
        let (store, recovered) = data.create_chat(CHAT, INCARNATION, &[]).expect("a store");
        drop(store);
        let entries = chain(None, BATCH * BATCHES);
        let mut truth = Truth { recovered, entries: Vec::new(), requests: Vec::new() };
        let mut log = Log::new(Checkpoint::default(), Vec::new(), 0);
        let mut earlier = Vec::new();
        let mut crashed = None;
        for (write, batch) in (1..).zip(entries.chunks(BATCH as usize)) {
            let (mut store, recovered) = data.open_chat(CHAT).expect("it opens");
            truth.recovered = recovered;
            let persist = write_of(write, batch, &mut log);
            truth.apply(&persist);
            store.persist(&persist).expect("it is writable");
            crashed = Some(Image::read(&chat_file(dir.path())));
            drop(store);
            earlier
                .push(Earlier { image: Image::read(&chat_file(dir.path())), truth: truth.clone() });
        }
        let Earlier { image: closed, truth } = earlier.pop().expect("there were writes");
        let peer = data.peer_store().expect("a store");
        for (table, key, bytes) in peer_records() {
            peer.put(&table, &key, &bytes).expect("it is writable");
        }
        drop(peer);
        let peer = Image::read(&dir.path().join("peer.redb"));
        Self { closed, crashed: crashed.expect("there were writes"), truth, earlier, peer }
    }
}

impl Truth {
    /// What the store must give back after this write.
    pub fn apply(&mut self, persist: &Persist) {
        let recovered = &mut self.recovered;
        self.entries.extend(persist.entries.iter().cloned());
        self.requests.extend(persist.request_ids.iter().cloned());
        recovered.hard_state = persist.hard_state.unwrap_or(recovered.hard_state);
        recovered.commit = persist.commit.unwrap_or(recovered.commit);
        recovered.read = persist.read.unwrap_or(recovered.read);
        recovered.generation = persist.generation.unwrap_or(recovered.generation);
        if let Some(pasts) = &persist.pasts {
            recovered.pasts = Pasts::clone(pasts);
        }
        if let Some(evidence) = &persist.evidence {
            recovered.evidence = Findings::clone(evidence);
        }
        if let Some(checkpoint) = &persist.checkpoint {
            recovered.checkpoint = Checkpoint::clone(checkpoint);
        }
        let removed = persist.outbox_remove_through.unwrap_or(0);
        recovered.outbox.extend(persist.outbox_put.iter().cloned());
        recovered.outbox.retain(|submission| submission.number > removed);
        let last = persist.outbox_put.iter().map(|submission| submission.number).max();
        recovered.last_number = recovered.last_number.max(last.unwrap_or(0));
        let base = recovered.checkpoint.index() as usize;
        recovered.entries = self.entries[base..].to_vec();
    }
}

/// Everything that a write can hold but a cut.
fn write_of(write: u64, batch: &[Arc<Entry>], log: &mut Log) -> Persist {
    for entry in batch {
        log.append(Arc::clone(entry));
    }
    let last = batch.last().expect("a batch has entries");
    log.commit_to(last.index - 1);
    Persist {
        hard_state: Some(HardState { term: last.term, vote: Some(PeerId([9; 32])) }),
        truncate_from: None,
        furthest: None,
        entries: batch.to_vec(),
        outbox_put: (2 * write - 1..=2 * write).map(submission).collect(),
        outbox_remove_through: (2 * write).checked_sub(7),
        commit: Some(last.index - 1),
        request_ids: batch.iter().map(|entry| (format!("r{}", entry.index), entry.index)).collect(),
        checkpoint: write.is_multiple_of(3).then(|| Arc::new(log.checkpoint())),
        read: Some(last.index / 2),
        pasts: Some(Arc::new([((PeerId([8; 32]), write), Past::default())].into())),
        evidence: Some(Arc::new(findings(write))),
        generation: Some(write),
        removed_by: None,
    }
}

fn findings(term: u64) -> Findings {
    [(PeerId([8; 32]), Evidence { term, what: Offence::BrokenChain })].into()
}

/// `count` chained messages after `previous`.
pub fn chain(previous: Option<&Arc<Entry>>, count: u64) -> Vec<Arc<Entry>> {
    let (mut index, mut hash) = previous.map_or((0, Hash::default()), |e| (e.index, e.hash));
    let mut entries = Vec::new();
    for _ in 0..count {
        index += 1;
        let entry = entry(index, hash);
        hash = entry.hash;
        entries.push(entry);
    }
    entries
}

fn entry(index: Index, previous: Hash) -> Arc<Entry> {
    let sealed = Bytes::from(format!("<<the message at {index:09}>>"));
    let mut entry = Entry {
        index,
        term: 1 + index / 20,
        author: ME,
        incarnation: INCARNATION,
        number: index,
        generation: 0,
        created_at_ms: 1_700_000_000_000 + index,
        trace: Some([3; 25]),
        payload: Payload::Message { request_id: format!("r{index}"), sealed },
        signature: None,
        previous,
        hash: Hash::default(),
    };
    entry.hash = entry.computed_hash();
    Arc::new(entry)
}

fn submission(number: u64) -> Submission {
    // Long enough for an outbox of several pages.
    let sealed = Bytes::from(format!("<<waiting {number:04}>>{}", "-".repeat(900)));
    let payload = Payload::Message { request_id: format!("s{number}"), sealed };
    Submission { number, created_at_ms: number, trace: None, payload, signature: None }
}
