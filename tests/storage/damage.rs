//! What damage does (R37): a torn end is cut, anything else closes the chat.

use demes::storage::schema::FORMAT;

use super::*;

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
    damage(&file(dir.path()), &checkpoint_of(&entries).encode()[..40]);
    let (store, recovered) = ChatStore::open(&file(dir.path())).unwrap();
    assert_eq!((recovered.checkpoint.index(), recovered.commit), (20, 30));
    assert_eq!(recovered.entries, entries[20..]);
    drop(store);
    // The one before goes bad, too: now the file cannot be trusted.
    damage(&file(dir.path()), &checkpoint_of(&entries[..20]).encode()[..40]);
    assert!(is_damaged(ChatStore::open(&file(dir.path()))));
}

// A checkpoint says what its log comes to. Beside another log it would be wrong in everything.
#[test]
fn a_checkpoint_of_another_log_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = new_store(dir.path());
    let other = Some(checkpoint_of(&messages(None, 5, 2)));
    store.persist(&Persist { commit: Some(5), ..append(&messages(None, 5, 1)) }).unwrap();
    store.persist(&Persist { checkpoint: other, ..Persist::default() }).unwrap();
    drop(store);
    assert!(is_damaged(ChatStore::open(&file(dir.path()))));
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
    let later = FORMAT + 1;
    let mut value = later.to_be_bytes().to_vec();
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
    let is_version = matches!(error, StorageError::Version { found, .. } if found == later);
    assert!(is_version && !error.needs_repair(), "{error}");
    assert!(!path.with_extension("redb.damaged").exists());
}
