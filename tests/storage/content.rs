//! What is written comes back (R9, R37).

use demes::protocol::evidence::{Evidence, Findings, Offence};
use demes::protocol::types::{Past, Pasts, Position};

use super::*;

#[test]
fn every_field_of_persist_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let entries = messages(None, 10, 1);
    let hard_state = HardState { term: 4, vote: Some(PeerId([9; 32])) };
    let past = |boot| {
        let acknowledged = Position { term: 3, index: 7 };
        Past { boot, term: 4, acknowledged, signature: Some([7; 64]) }
    };
    let pasts: Pasts = [((PeerId([8; 32]), 5), past(1)), ((PeerId([9; 32]), 6), past(2))].into();
    let pasts = Arc::new(pasts);
    let found = Evidence { term: 3, what: Offence::TwoEntries };
    let evidence = Findings::from([(PeerId([8; 32]), found)]);
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
            removed_by: Some(PeerId([7; 32])),
            pasts: Some(Arc::clone(&pasts)),
            evidence: Some(Arc::new(evidence.clone())),
            furthest: Some(Position { term: 6, index: 12 }),
            generation: Some(5),
        })
        .unwrap();
    let (store, recovered) = reopen(store, dir.path());
    assert_eq!(
        recovered,
        Recovered {
            incarnation: INCARNATION,
            boot: 2,
            generation: 5,
            hard_state,
            checkpoint: Checkpoint::clone(&checkpoint_of(&entries[..4])),
            entries: entries[4..].to_vec(),
            commit: 8,
            outbox: (3..=5).map(submission).collect(),
            last_number: 5,
            read: 3,
            removed_by: Some(PeerId([7; 32])),
            pasts: Pasts::clone(&pasts),
            evidence,
            furthest: Position { term: 6, index: 12 },
            tail_in_doubt: false,
        }
    );
    // What the file had before this start is known once it has been read through.
    let reader = store.reader();
    assert!(!reader.lacks_request("mine") && !reader.lacks_request("other"));
    reader.check().unwrap();
    assert!(!reader.lacks_request("mine") && reader.lacks_request("other"));
    drop(reader);
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

// What the file has at that moment is what a process that is killed leaves.
#[test]
fn what_is_persisted_is_in_the_file_at_once() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut store = new_store(dir.path());
    let entries = messages(None, 10, 1);
    for batch in entries.chunks(3) {
        store.persist(&append(batch)).unwrap();
        fs::copy(file(dir.path()), file(other.path())).unwrap();
        let (_, recovered) = ChatStore::open(&file(other.path())).unwrap();
        assert_eq!(recovered.entries.last(), batch.last());
        fs::remove_file(file(other.path())).unwrap();
    }
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
fn readers_work_beside_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let entries = messages(None, 2_000, 1);
    let reader = store.reader();
    let beside = thread::spawn(move || {
        let mut seen = 0;
        while seen < 2_000 {
            let found = reader.entries(1, 2_000, usize::MAX).unwrap();
            assert!(found.len() >= seen && found.len().is_multiple_of(50), "a batch is one write");
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
        entries.push(entry(last.index + 1, 1, Payload::TermStart(Reign::default()), last.hash));
    }
    entries.extend(messages(entries.last(), 2, 1));
    for batch in entries.chunks(4_000) {
        store.persist(&append(batch)).unwrap();
    }
    let reader = store.reader();
    let indexes = |messages: &[Arc<Entry>]| messages.iter().map(|e| e.index).collect::<Vec<_>>();

    let page = reader.messages_before(Index::MAX, 2).unwrap();
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
