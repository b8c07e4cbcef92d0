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
fn an_attempt_to_join_goes_on_only_within_one_generation() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let chat = ChatId([5; 16]);
    let (store, _) = data.join_chat(chat, 6, 7).unwrap();
    drop(store);
    let (store, same) = data.join_or_reopen(chat, 8, 7).unwrap();
    assert_eq!((same.incarnation, same.generation), (6, 7), "the store is gone on with");
    drop(store);
    let (_store, other) = data.join_or_reopen(chat, 9, 11).unwrap();
    assert_eq!((other.incarnation, other.generation), (9, 11), "a new one takes its place");
    let kept = fs::read_dir(dir.path().join("chats")).unwrap().flatten();
    let names: Vec<_> = kept.map(|it| it.file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.ends_with(".damaged-1")), "it is kept: {names:?}");
}

#[test]
fn a_check_reads_a_chat_and_changes_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let chat = ChatId([5; 16]);
    drop(data.join_chat(chat, 6, 7).unwrap());
    data.check_peer_store().unwrap();
    for _ in 0..3 {
        data.check_chat(chat).unwrap();
    }
    let (_, recovered) = data.open_chat(chat).unwrap();
    assert_eq!(recovered.boot, 2, "only opening it counts as a boot");
    fs::write(dir.path().join(format!("chats/{chat}.redb")), b"no store").unwrap();
    assert!(data.check_chat(chat).unwrap_err().needs_repair());
}
