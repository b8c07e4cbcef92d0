//! The store from outside: what it gives back, what it refuses, what damage does, and how a chat
//! begins anew (R9, R37, R38).

mod anew;
mod content;
mod damage;
mod directory;
mod measure;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use demes::protocol::event::{Persist, Recovered};
use demes::protocol::log::{Checkpoint, Log};
use demes::protocol::types::{
    ChatId, Entry, HardState, Hash, Index, Membership, Payload, PeerId, Reign, Submission, Term,
};
use demes::storage::peer::{INVITES_RECEIVED, INVITES_SENT};
use demes::storage::{
    Carry, ChatStore, DataDir, PeerStore, StorageError, free_bytes, new_incarnation,
};

const CHAT: ChatId = ChatId([0xc4; 16]);
const INCARNATION: u64 = 77;

fn message(index: Index, term: Term, text: &str, previous: Hash) -> Arc<Entry> {
    let sealed = Bytes::copy_from_slice(text.as_bytes());
    entry(index, term, Payload::Message { request_id: format!("r{index}"), sealed }, previous)
}

fn entry(index: Index, term: Term, payload: Payload, previous: Hash) -> Arc<Entry> {
    let mut entry = Entry {
        index,
        term,
        author: PeerId([1; 32]),
        incarnation: INCARNATION,
        number: index,
        generation: 0,
        created_at_ms: 1_700_000_000_000 + index,
        trace: Some([3; 25]),
        payload,
        signature: None,
        previous,
        hash: Hash::default(),
    };
    entry.hash = entry.computed_hash();
    Arc::new(entry)
}

/// The text by which a test finds the message at `index` in the file.
fn text(index: Index) -> String {
    format!("<<the message at {index:09}>>")
}

/// `count` chained messages after `previous`.
fn messages(previous: Option<&Arc<Entry>>, count: u64, term: Term) -> Vec<Arc<Entry>> {
    let (mut index, mut hash) = previous.map_or((0, Hash::default()), |e| (e.index, e.hash));
    let mut made = Vec::new();
    for _ in 0..count {
        index += 1;
        let message = message(index, term, &text(index), hash);
        hash = message.hash;
        made.push(message);
    }
    made
}

fn submission(number: u64) -> Submission {
    let sealed = Bytes::from_static(b"waiting");
    let payload = Payload::Message { request_id: format!("s{number}"), sealed };
    Submission { number, created_at_ms: number, trace: None, payload, signature: None }
}

fn append(entries: &[Arc<Entry>]) -> Persist {
    Persist { entries: entries.to_vec(), ..Persist::default() }
}

fn commit(index: Index) -> Persist {
    Persist { commit: Some(index), ..Persist::default() }
}

fn checkpoint_of(entries: &[Arc<Entry>]) -> Arc<Checkpoint> {
    let last = entries.last().map_or(0, |entry| entry.index);
    let mut log = Log::new(Checkpoint::default(), entries.to_vec(), 0);
    log.commit_to(last);
    Arc::new(log.checkpoint())
}

fn new_store(dir: &Path) -> ChatStore {
    ChatStore::create(dir, CHAT, INCARNATION, &[]).unwrap().0
}

fn file(dir: &Path) -> PathBuf {
    dir.join(format!("{CHAT}.redb"))
}

fn reopen(store: ChatStore, dir: &Path) -> (ChatStore, Recovered) {
    drop(store);
    ChatStore::open(&file(dir)).unwrap()
}

/// Flips one bit of every copy of `pattern` in the file, as a bad disk would.
fn damage(path: &Path, pattern: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let places: Vec<usize> = bytes
        .windows(pattern.len())
        .enumerate()
        .filter_map(|(place, window)| (window == pattern).then_some(place))
        .collect();
    assert!(!places.is_empty(), "the pattern is not in the file");
    for place in places {
        bytes[place + pattern.len() / 2] ^= 1;
    }
    fs::write(path, bytes).unwrap();
}

fn is_damaged<T>(result: Result<T, StorageError>) -> bool {
    match result {
        Err(error @ StorageError::Damaged { .. }) => {
            assert!(error.to_string().contains(" is damaged ("), "{error}");
            assert!(error.needs_repair());
            true
        }
        _ => false,
    }
}
