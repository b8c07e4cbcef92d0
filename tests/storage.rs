//! The store from outside: what it gives back, what it refuses, and what damage does (R9, R37, R38).

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
    ChatId, Entry, HardState, Hash, Index, Payload, PeerId, Submission, Term,
};
use demes::storage::peer::{INVITES_RECEIVED, INVITES_SENT};
use demes::storage::{ChatStore, DataDir, PeerStore, StorageError, free_bytes, new_incarnation};

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
        session: INCARNATION,
        number: index,
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
            assert!(error.to_string().contains("move it away"), "{error}");
            true
        }
        _ => false,
    }
}

#[test]
fn every_field_of_persist_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let entries = messages(None, 10, 1);
    let hard_state = HardState { term: 4, vote: Some(PeerId([9; 32])) };
    store
        .persist(&Persist {
            hard_state: Some(hard_state),
            truncate_from: None,
            entries: entries.clone(),
            outbox_put: (1..=5).map(submission).collect(),
            outbox_remove_through: Some(2),
            commit: Some(8),
            request_ids: vec![("mine".into(), 6)],
            checkpoint: Some(checkpoint_of(&entries[..4])),
            read: Some(3),
        })
        .unwrap();
    let (store, recovered) = reopen(store, dir.path());
    assert_eq!(
        recovered,
        Recovered {
            incarnation: INCARNATION,
            boot: 2,
            hard_state,
            checkpoint: Checkpoint::clone(&checkpoint_of(&entries[..4])),
            entries: entries[4..].to_vec(),
            commit: 8,
            outbox: (3..=5).map(submission).collect(),
            last_number: 5,
            read: 3,
            tail_in_doubt: false,
        }
    );
    assert_eq!(store.reader().index_of_request("mine").unwrap(), Some(6));
    assert_eq!(store.reader().index_of_request("other").unwrap(), None);
    assert_eq!((store.chat(), store.incarnation()), (CHAT, INCARNATION));

    // R9: every start counts, and changes nothing else.
    let (mut store, again) = reopen(store, dir.path());
    assert_eq!(again, Recovered { boot: 3, ..recovered });

    // The number never falls, even with an empty outbox.
    let empty = Persist { outbox_remove_through: Some(9), ..Persist::default() };
    store.persist(&empty).unwrap();
    let (_, recovered) = reopen(store, dir.path());
    assert_eq!((recovered.outbox, recovered.last_number), (vec![], 5));
}

#[test]
fn a_founder_begins_with_a_committed_entry_and_a_joiner_with_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = messages(None, 1, 0);
    let (_store, recovered) = ChatStore::create(dir.path(), CHAT, INCARNATION, &first).unwrap();
    assert_eq!((recovered.boot, recovered.commit), (1, 1));
    assert_eq!(recovered.entries, first);
    let again = ChatStore::create(dir.path(), CHAT, INCARNATION, &first);
    assert!(matches!(again, Err(StorageError::AlreadyThere { .. })));

    let other = ChatId([5; 16]);
    let (_store, recovered) = ChatStore::create(dir.path(), other, INCARNATION, &[]).unwrap();
    assert_eq!((recovered.boot, recovered.commit, recovered.entries), (1, 0, vec![]));
    assert_ne!(new_incarnation().unwrap(), new_incarnation().unwrap());
}

#[test]
fn a_cut_and_its_replacement_are_one_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let old = messages(None, 9, 1);
    store.persist(&append(&old)).unwrap();
    let new = messages(Some(&old[3]), 2, 2);
    let replace = Persist { truncate_from: Some(5), ..append(&new) };
    store.persist(&replace).unwrap();
    let kept: Vec<_> = old[..4].iter().chain(&new).cloned().collect();
    assert_eq!(store.reader().entries(1, 99, usize::MAX).unwrap(), kept);
    let (mut store, recovered) = reopen(store, dir.path());
    assert_eq!(recovered.entries, kept);
    store.persist(&append(&messages(kept.last(), 3, 2))).unwrap();
    assert_eq!(reopen(store, dir.path()).1.entries.len(), 9);
}

#[test]
fn the_last_two_checkpoints_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let entries = messages(None, 30, 1);
    store.persist(&append(&entries)).unwrap();
    for end in [10, 20, 30] {
        let checkpoint = Some(checkpoint_of(&entries[..end]));
        let commit = Some(end as Index);
        store.persist(&Persist { checkpoint, commit, ..Persist::default() }).unwrap();
    }
    let (store, recovered) = reopen(store, dir.path());
    assert_eq!((recovered.checkpoint.index(), recovered.entries), (30, vec![]));
    drop(store);
    // The newest one goes bad: the one before it serves, with the entries since.
    damage(&file(dir.path()), &entries[29].hash.0[..]);
    let opened = ChatStore::open(&file(dir.path()));
    assert!(is_damaged(opened), "entry 30 is bad as well and was synced long ago");
}

#[test]
fn damage_in_the_middle_closes_the_chat_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let entries = messages(None, 20, 1);
    store.persist(&append(&entries[..15])).unwrap();
    store.persist(&append(&entries[15..])).unwrap();
    drop(store);
    damage(&file(dir.path()), text(8).as_bytes());
    assert!(is_damaged(ChatStore::open(&file(dir.path()))));
    assert!(is_damaged(ChatStore::open(&file(dir.path()))), "and it stays closed");
    let other = ChatId([5; 16]);
    assert!(ChatStore::create(dir.path(), other, INCARNATION, &[]).is_ok());
    // The repair that the message names: moved away, the chat begins anew.
    fs::rename(file(dir.path()), dir.path().join("away")).unwrap();
    assert!(ChatStore::create(dir.path(), CHAT, INCARNATION + 1, &[]).is_ok());
}

#[test]
fn a_torn_last_batch_is_cut_and_leaves_the_tail_in_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let entries = messages(None, 20, 1);
    store.persist(&append(&entries[..15])).unwrap();
    store.persist(&Persist { commit: Some(19), ..append(&entries[15..]) }).unwrap();
    drop(store);
    damage(&file(dir.path()), text(18).as_bytes());
    let (store, recovered) = ChatStore::open(&file(dir.path())).unwrap();
    assert!(recovered.tail_in_doubt);
    assert_eq!((recovered.entries.len(), recovered.commit), (17, 17));
    // The doubt outlives restarts, until the commit index has come as far as the cut batch went.
    let (mut store, recovered) = reopen(store, dir.path());
    assert!(recovered.tail_in_doubt);
    store.persist(&Persist { commit: Some(19), ..append(&entries[17..]) }).unwrap();
    let (mut store, recovered) = reopen(store, dir.path());
    assert!(recovered.tail_in_doubt);
    store.persist(&commit(20)).unwrap();
    let (_, recovered) = reopen(store, dir.path());
    assert_eq!((recovered.tail_in_doubt, recovered.commit), (false, 20));
}

#[test]
fn a_write_without_entries_vouches_for_the_batch_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let entries = messages(None, 5, 1);
    store.persist(&append(&entries)).unwrap();
    store.persist(&commit(2)).unwrap();
    drop(store);
    damage(&file(dir.path()), text(5).as_bytes());
    assert!(is_damaged(ChatStore::open(&file(dir.path()))));
}

#[test]
fn an_entry_that_does_not_follow_the_one_before_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let good = messages(None, 5, 1);
    let strayed = message(6, 1, "not chained", Hash([1; 32]));
    store.persist(&append(&good)).unwrap();
    store.persist(&append(&[strayed])).unwrap();
    let (mut store, recovered) = reopen(store, dir.path());
    assert!(recovered.tail_in_doubt, "the last batch is cut");
    assert_eq!(recovered.entries, good);
    store.persist(&append(&[message(6, 1, "not chained", Hash([1; 32]))])).unwrap();
    store.persist(&commit(5)).unwrap();
    drop(store);
    assert!(is_damaged(ChatStore::open(&file(dir.path()))));
}

#[test]
fn a_reader_that_finds_damage_closes_the_chat_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let entries = messages(None, 10, 1);
    let checkpoint = Some(checkpoint_of(&entries));
    store.persist(&Persist { commit: Some(10), ..append(&entries) }).unwrap();
    store.persist(&Persist { checkpoint, ..Persist::default() }).unwrap();
    drop(store);
    // Before the checkpoint, so that opening does not read it.
    damage(&file(dir.path()), text(4).as_bytes());
    let (store, _) = ChatStore::open(&file(dir.path())).unwrap();
    let reader = store.reader();
    assert_eq!(reader.entries(5, 10, usize::MAX).unwrap(), entries[4..]);
    assert!(is_damaged(reader.entries(1, 10, usize::MAX)));
    assert!(is_damaged(reader.messages_before(11, 10)));
    drop((store, reader));
    assert!(is_damaged(ChatStore::open(&file(dir.path()))));
}

#[test]
fn a_damaged_record_of_any_other_kind_closes_the_chat() {
    for pattern in [INCARNATION.to_be_bytes().as_slice(), b"waiting", &CHAT.0] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = new_store(dir.path());
        let put = Persist { outbox_put: vec![submission(1)], ..Persist::default() };
        store.persist(&put).unwrap();
        drop(store);
        damage(&file(dir.path()), pattern);
        assert!(is_damaged(ChatStore::open(&file(dir.path()))));
    }
}

#[test]
fn a_file_that_is_no_store_is_damaged_or_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let missing = ChatStore::open(&file(dir.path()));
    assert!(matches!(missing, Err(StorageError::NotThere { .. })));
    for content in [b"not a store".repeat(1_000), vec![0; 100_000]] {
        fs::write(file(dir.path()), content).unwrap();
        assert!(is_damaged(ChatStore::open(&file(dir.path()))));
        fs::remove_file(file(dir.path()).with_extension("redb.damaged")).unwrap();
    }
    // Cut short in the middle: whether redb says so or panics, the result is the same.
    fs::remove_file(file(dir.path())).unwrap();
    let mut store = new_store(dir.path());
    store.persist(&append(&messages(None, 2_000, 1))).unwrap();
    drop(store);
    let length = fs::metadata(file(dir.path())).unwrap().len();
    let cut = fs::OpenOptions::new().write(true).open(file(dir.path())).unwrap();
    cut.set_len(length / 2).unwrap();
    assert!(is_damaged(ChatStore::open(&file(dir.path()))));
}

#[test]
fn a_store_of_another_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(new_store(dir.path()));
    let path = file(dir.path());
    let table = redb::TableDefinition::<&str, &[u8]>::new("state");
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut value = 2_u32.to_be_bytes().to_vec();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[2]);
    crc.update(&6_u64.to_be_bytes());
    crc.update(b"format");
    crc.update(&value);
    value.splice(0..0, crc.finalize().to_be_bytes());
    transaction.open_table(table).unwrap().insert("format", value.as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = ChatStore::open(&path).err().unwrap();
    assert!(matches!(error, StorageError::Version { found: 2, expected: 1, .. }), "{error}");
    assert!(!path.with_extension("redb.damaged").exists());
}

#[test]
fn readers_work_beside_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let entries = messages(None, 2_000, 1);
    let reader = store.reader();
    let beside = thread::spawn(move || {
        let mut seen = 0;
        while seen < 2_000 {
            let found = reader.entries(1, 2_000, usize::MAX).unwrap();
            assert!(found.len() >= seen && found.len() % 50 == 0, "a batch is one write");
            seen = found.len();
        }
    });
    for batch in entries.chunks(50) {
        store.persist(&append(batch)).unwrap();
    }
    beside.join().unwrap();
}

#[test]
fn a_range_of_entries_ends_with_its_bytes_but_is_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let entries = messages(None, 100, 1);
    store.persist(&append(&entries)).unwrap();
    let reader = store.reader();
    assert_eq!(reader.entries(41, 60, usize::MAX).unwrap(), entries[40..60]);
    assert_eq!(reader.entries(41, 60, 0).unwrap(), entries[40..41]);
    let some = reader.entries(41, 60, 1_500).unwrap();
    assert!((2..20).contains(&some.len()) && some == entries[40..40 + some.len()]);
    assert!(reader.entries(101, 200, 1_000).unwrap().is_empty());
    assert!(reader.entries(2, 1, 1_000).unwrap().is_empty());
}

#[test]
fn history_turns_its_pages_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    // Messages at 1, 12_001 and 12_002; between them, a desert of other entries.
    let mut entries = messages(None, 1, 1);
    while entries.len() < 12_000 {
        let last = entries.last().unwrap();
        entries.push(entry(last.index + 1, 1, Payload::TermStart, last.hash));
    }
    entries.extend(messages(entries.last(), 2, 1));
    for batch in entries.chunks(4_000) {
        store.persist(&append(batch)).unwrap();
    }
    let reader = store.reader();
    let indexes = |messages: &[Arc<Entry>]| messages.iter().map(|e| e.index).collect::<Vec<_>>();

    let page = reader.messages_before(12_003, 2).unwrap();
    assert_eq!((indexes(&page.messages), page.next), (vec![12_001, 12_002], Some(12_001)));
    let (mut found, mut calls, mut next) = (Vec::new(), 0, page.next);
    while let Some(before) = next {
        let page = reader.messages_before(before, 2).unwrap();
        found.extend(indexes(&page.messages));
        (next, calls) = (page.next, calls + 1);
    }
    assert_eq!((found, calls), (vec![1], 3), "each call looks at a bounded number of entries");

    let (mut found, mut after) = (Vec::new(), Some(0));
    while let Some(from) = after {
        let page = reader.messages_after(from, 12_001, 1).unwrap();
        found.extend(indexes(&page.messages));
        after = page.next;
    }
    assert_eq!(found, [1, 12_001], "nothing beyond the given end");
    assert_eq!(reader.messages_after(12_002, 12_002, 5).unwrap().next, None);
    assert_eq!(reader.messages_before(1, 5).unwrap().next, None);
    assert_eq!(reader.messages_before(0, 5).unwrap().next, None);
}

#[test]
fn a_data_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/data");
    let owner = DataDir::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let error = DataDir::open(&path).err().unwrap();
    assert!(matches!(error, StorageError::InUse { process: Some(id), .. }
        if id == std::process::id()));
    assert!(error.to_string().contains("--data-dir"));
    drop(owner);
    assert!(DataDir::open(&path).is_ok());
    assert!(free_bytes(&path).unwrap() > 0);
}

#[test]
fn a_place_without_rights_or_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("file");
    fs::write(&blocked, b"").unwrap();
    let error = DataDir::open(&blocked).err().unwrap();
    assert!(error.to_string().contains(blocked.to_str().unwrap()), "{error}");
    // Root may write anywhere, and then there is nothing to see.
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    match DataDir::open(&closed) {
        Err(error) => assert!(matches!(error, StorageError::NotWritable { .. }), "{error}"),
        Ok(_) => assert!(fs::write(closed.join("probe"), b"").is_ok()),
    }
}

#[test]
fn chats_are_listed_opened_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let (one, two) = (ChatId([1; 16]), ChatId([2; 16]));
    drop(data.create_chat(two, 5, &[]).unwrap());
    drop(data.create_chat(one, 6, &[]).unwrap());
    fs::write(dir.path().join("chats/notes.txt"), b"").unwrap();
    assert_eq!(data.chats().unwrap(), [one, two]);
    assert_eq!(data.open_chat(one).unwrap().1.incarnation, 6);
    // A file under another chat's name is not that chat.
    let chats = dir.path().join("chats");
    fs::copy(chats.join(format!("{one}.redb")), chats.join(format!("{two}.redb"))).unwrap();
    assert!(is_damaged(data.open_chat(two)));
    data.remove_chat(one).unwrap();
    data.remove_chat(two).unwrap();
    assert_eq!(data.chats().unwrap(), []);
}

#[test]
fn the_peer_store_keeps_named_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peer.redb");
    let store = PeerStore::open(&path).unwrap();
    store.put(INVITES_SENT, "b", b"2").unwrap();
    store.put(INVITES_SENT, "a", b"1").unwrap();
    store.put(INVITES_RECEIVED, "a", b"received first").unwrap();
    store.put(INVITES_RECEIVED, "a", b"received later").unwrap();
    drop(store);
    let store = PeerStore::open(&path).unwrap();
    assert_eq!(store.get(INVITES_SENT, "a").unwrap(), Some(b"1".to_vec()));
    assert_eq!(store.get(INVITES_SENT, "c").unwrap(), None);
    let sent = store.list(INVITES_SENT).unwrap();
    assert_eq!(sent, [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
    store.remove(INVITES_SENT, "a").unwrap();
    store.remove(INVITES_SENT, "a").unwrap();
    assert_eq!(store.list(INVITES_SENT).unwrap().len(), 1);
    drop(store);
    damage(&path, b"received later");
    let store = PeerStore::open(&path).unwrap();
    let error = store.get(INVITES_RECEIVED, "a").unwrap_err();
    assert!(error.to_string().contains("invitations are lost"), "{error}");
    assert!(is_damaged(store.list(INVITES_RECEIVED)));
}

/// Prints what the store costs; the figures are for people, so nothing depends on them. For a
/// large log: `DEMES_MEASURE_ENTRIES=1000000 cargo test --release --test storage -- --nocapture
/// measure`.
#[test]
fn measure_opening_and_persisting() {
    let count = std::env::var("DEMES_MEASURE_ENTRIES").ok().and_then(|text| text.parse().ok());
    let count: u64 = count.unwrap_or(20_000);
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let padding = "x".repeat(300);
    let mut log = Log::new(Checkpoint::default(), vec![], 0);
    let (mut index, mut hash) = (0, Hash::default());
    let mut batch_of = |size: u64| -> Vec<Arc<Entry>> {
        let batch = (0..size).map(|_| {
            index += 1;
            let message = message(index, 1, &padding, hash);
            hash = message.hash;
            message
        });
        batch.collect()
    };
    for size in [1_u64, 16, 256] {
        let mut spans = Vec::new();
        for _ in 0..(count / size / 4).clamp(8, 2_000) {
            let batch = batch_of(size);
            for entry in &batch {
                log.append(entry.clone());
            }
            let end = batch.last().unwrap().index;
            log.commit_to(end);
            let persist = Persist { commit: Some(end), ..append(&batch) };
            spans.push(store.persist(&persist).unwrap());
        }
        spans.sort_unstable();
        let (p50, p99) = (spans[spans.len() / 2], spans[spans.len() * 99 / 100]);
        println!("persist {size:>4} entries and a commit index: p50 {p50:?} p99 {p99:?}");
    }
    while log.last().index < count {
        let batch = batch_of(1_000);
        for entry in &batch {
            log.append(entry.clone());
        }
        log.commit_to(batch.last().unwrap().index);
        log.shrink_window(8_192, 8 << 20);
        store.persist(&append(&batch)).unwrap();
    }
    let checkpoint = Some(Arc::new(log.checkpoint()));
    store.persist(&Persist { checkpoint, ..Persist::default() }).unwrap();
    store.persist(&append(&batch_of(4_096))).unwrap();
    drop(store);
    let started = Instant::now();
    let (store, recovered) = ChatStore::open(&file(dir.path())).unwrap();
    let spent = started.elapsed();
    println!("open {} entries, {} of them read: {spent:?}", index, recovered.entries.len());
    let started = Instant::now();
    let page = store.reader().messages_before(Index::MAX, 1_000).unwrap();
    println!("newest {} messages: {:?}", page.messages.len(), started.elapsed());
    let started = Instant::now();
    let (mut from, mut seen) = (1, 0);
    while from < count {
        let entries = store.reader().entries(from, Index::MAX, 1 << 20).unwrap();
        seen += entries.len();
        from = entries.last().unwrap().index + 1;
    }
    println!("read {seen} entries by 1 MiB: {:?}", started.elapsed());
    let memory = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines =
        memory.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    println!("{:?}, file {} MiB", lines.collect::<Vec<_>>(), {
        fs::metadata(file(dir.path())).unwrap().len() >> 20
    });
}
