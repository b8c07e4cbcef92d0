//! The data directory and the peer's own store.

use super::*;

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
    assert!(data.open_chat(two).err().unwrap().needs_repair());
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
    let error = PeerStore::open(&path).err().unwrap();
    assert!(error.to_string().contains("invitations are lost"), "{error}");
    assert!(is_damaged(PeerStore::open(&path)), "and it stays closed");
}

#[test]
fn a_peer_store_that_is_gone_empty_older_or_damaged_waits_for_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let path = dir.path().join("peer.redb");
    let put = |key: &str| data.peer_store().unwrap().put(INVITES_SENT, key, b"it").unwrap();
    put("first");
    let older = fs::read(&path).unwrap();
    put("second");
    let newest = fs::read(&path).unwrap();
    let mut bad = newest.clone();
    let at = bad.windows(6).position(|window| window == b"second").unwrap();
    bad[at] = b'S';
    type Case<'a> = (&'a str, Option<&'a [u8]>, &'a [&'a str]);
    let cases: [Case<'_>; 4] = [
        ("gone", None, &[]),
        ("empty", Some(b""), &[]),
        ("older", Some(&older), &["first"]),
        ("damaged", Some(&bad), &[]),
    ];
    for (what, content, left) in cases {
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        for _ in 0..2 {
            let error = data.peer_store().err().unwrap_or_else(|| panic!("{what} is accepted"));
            assert!(error.needs_repair() && error.to_string().contains("--repair"), "{error}");
        }
        let kept_at = data.repair_peer_store().unwrap();
        assert_eq!(kept_at.is_some(), matches!(what, "empty" | "damaged"), "{what}");
        if let Some(kept_at) = kept_at {
            assert!(kept_at.exists());
        }
        let store = data.peer_store().unwrap();
        let list = store.list(INVITES_SENT).unwrap();
        assert_eq!(list.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), left, "{what}");
        // As before for the next case.
        drop(store);
        fs::write(&path, &newest).unwrap();
        drop(data.peer_store().unwrap());
    }
    assert_eq!(data.repair_peer_store().unwrap(), None, "there is nothing to repair");
}

// R30: an earlier attempt to join has made a store, and the chat was recovered since.
#[test]
fn who_joins_anew_begins_in_that_generation_and_keeps_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let chat = ChatId([5; 16]);
    drop(data.follow(chat, 6, 7).unwrap().store);
    let other = data.follow(chat, 9, 11).unwrap();
    let recovered = &other.recovered;
    assert_eq!((recovered.incarnation, recovered.generation), (9, 11), "a new one takes its place");
    assert!(other.kept_at.is_some_and(|path| path.ends_with(format!("{chat}.redb.damaged-1"))));
}

#[test]
fn a_chat_that_was_left_goes_with_its_file_unless_something_waits_in_it() {
    let leaving = Submission { payload: Payload::Membership(Membership::Leaving), ..submission(1) };
    for (waiting, removed_by, is_kept) in [
        (vec![], None, false),
        (vec![leaving], None, false),
        (vec![submission(1)], None, true),
        (vec![submission(1)], Some(PeerId([3; 32])), true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let mut store = data.follow(CHAT, 6, 7).unwrap().store;
        let persist = Persist { outbox_put: waiting.clone(), removed_by, ..Persist::default() };
        store.persist(&persist).unwrap();
        let in_use = data.discard(CHAT).unwrap_err();
        assert!(matches!(in_use, StorageError::InUse { .. }), "{in_use}");
        drop(store);
        let kept_at = data.discard(CHAT).unwrap();
        assert_eq!((kept_at.is_some(), data.chats().unwrap()), (is_kept, vec![]), "{waiting:?}");
        let left = fs::read_dir(dir.path().join("chats")).unwrap().count();
        assert_eq!(left, usize::from(is_kept), "nothing else stays");
        if let Some(kept_at) = kept_at {
            fs::rename(kept_at, dir.path().join(format!("chats/{CHAT}.redb"))).unwrap();
            assert_eq!(data.open_chat(CHAT).unwrap().1.outbox, waiting);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    assert_eq!(data.discard(CHAT).unwrap(), None, "it may be gone already");
    // Nobody knows what waits in one that cannot be read.
    fs::write(dir.path().join(format!("chats/{CHAT}.redb")), b"no store").unwrap();
    assert!(data.discard(CHAT).unwrap().is_some());
}

// R35: it is never sent, but neither is it thrown away.
#[test]
fn what_waited_when_a_peer_was_removed_is_kept_and_not_carried() {
    for waiting in [vec![], vec![submission(1)]] {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let mut store = data.follow(CHAT, 6, 7).unwrap().store;
        let (outbox_put, removed_by) = (waiting.clone(), Some(PeerId([3; 32])));
        store.persist(&Persist { outbox_put, removed_by, ..Persist::default() }).unwrap();
        drop(store);
        let anew = data.follow(CHAT, 8, 7).unwrap();
        assert_eq!(anew.store.carried().unwrap(), []);
        assert_eq!(anew.kept_at.is_some(), !waiting.is_empty());
    }
}

#[test]
fn what_a_crash_has_left_unfinished_is_gone_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataDir::open(dir.path()).unwrap().follow(CHAT, 6, 7).unwrap());
    let chats = dir.path().join("chats");
    for end in ["redb.new", "redb.new.damaged"] {
        fs::write(chats.join(format!("{}.{end}", ChatId([5; 16]))), b"half a store").unwrap();
    }
    let data = DataDir::open(dir.path()).unwrap();
    assert_eq!(fs::read_dir(&chats).unwrap().count(), 2, "the store and its mark");
    assert_eq!(data.chats().unwrap(), [CHAT]);
}

#[test]
fn a_check_reads_a_chat_and_changes_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let chat = ChatId([5; 16]);
    drop(data.follow(chat, 6, 7).unwrap());
    data.check_peer_store().unwrap();
    for _ in 0..3 {
        data.check_chat(chat).unwrap();
    }
    let (_, recovered) = data.open_chat(chat).unwrap();
    assert_eq!(recovered.boot, 2, "only opening it counts as a boot");
    fs::write(dir.path().join(format!("chats/{chat}.redb")), b"no store").unwrap();
    assert!(data.check_chat(chat).unwrap_err().needs_repair());
}
