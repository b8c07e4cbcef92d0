//! Beginning anew where a file can no longer be used (R9, R37).

use demes::protocol::evidence::{Evidence, Offence};
use demes::protocol::types::{Past, Pasts, Position};

use super::*;

const FOUND: Evidence = Evidence { term: 3, what: Offence::TwoEntries };

/// A chat with a log, a vote, a reading position and three submissions that wait.
fn busy_chat(data: &DataDir) {
    let (mut store, _) = data.create_chat(CHAT, INCARNATION, &[]).unwrap();
    let entries = messages(None, 9, 1);
    let hard_state = Some(HardState { term: 4, vote: Some(PeerId([9; 32])) });
    let outbox_put = (1..=5).map(submission).collect();
    store.persist(&Persist { hard_state, outbox_put, ..append(&entries) }).unwrap();
    let outbox_remove_through = Some(2);
    let pasts = Some(Arc::new([((PeerId([8; 32]), 5), Past::default())].into()));
    let generation = Some(3);
    let evidence = Some(Arc::new([(PeerId([8; 32]), FOUND)].into()));
    let persist =
        Persist { read: Some(7), outbox_remove_through, pasts, evidence, generation, ..commit(9) };
    store.persist(&persist).unwrap();
}

fn begin(data: &DataDir, incarnation: u64) -> (ChatStore, Recovered, Option<PathBuf>) {
    let anew = data.begin_anew(CHAT, incarnation).unwrap();
    (anew.store, anew.recovered, anew.kept_at)
}

#[test]
fn what_only_this_peer_had_is_taken_along_and_the_old_file_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    busy_chat(&data);
    let path = dir.path().join("chats").join(format!("{CHAT}.redb"));
    damage(&path, text(4).as_bytes());
    assert!(is_damaged(data.open_chat(CHAT)));

    let (store, recovered, kept_at) = begin(&data, 78);
    let known: Pasts = [((PeerId([8; 32]), 5), Past::default())].into();
    let expected = Recovered {
        incarnation: 78,
        boot: 1,
        generation: 3,
        hard_state: HardState { term: 4, vote: Some(PeerId([9; 32])) },
        checkpoint: Checkpoint::default(),
        entries: vec![],
        commit: 0,
        outbox: vec![],
        last_number: 0,
        read: 7,
        removed_by: None,
        pasts: known,
        furthest: Position::default(),
        evidence: [(PeerId([8; 32]), FOUND)].into(),
        tail_in_doubt: false,
    };
    assert_eq!(recovered, expected);
    assert_eq!(store.carried().unwrap(), [3, 4, 5].map(submission));
    let kept_at = kept_at.unwrap();
    assert!(kept_at.to_str().unwrap().ends_with(".redb.damaged-1"), "{kept_at:?}");
    assert!(kept_at.exists());
    drop(store);
    assert_eq!(data.chats().unwrap(), [CHAT], "what is kept is no chat");

    // It opens like any other, and once more from the beginning: what is carried goes along.
    let (mut store, recovered) = data.open_chat(CHAT).unwrap();
    assert_eq!(recovered, Recovered { boot: 2, ..expected });
    store.persist(&Persist { outbox_put: vec![submission(1)], ..Persist::default() }).unwrap();
    drop(store);
    let (mut store, _, kept_at) = begin(&data, 79);
    assert!(kept_at.unwrap().to_str().unwrap().ends_with(".redb.damaged-2"));
    assert_eq!(store.carried().unwrap(), [3, 4, 5, 1].map(submission));
    store
        .persist_with(
            &Persist::default(),
            &Carry { put: vec![submission(9), submission(7)], ends: false },
        )
        .unwrap();
    assert_eq!(store.carried().unwrap(), [3, 4, 5, 1, 9, 7].map(submission));
    drop(store);
    let (mut store, _) = data.open_chat(CHAT).unwrap();
    assert_eq!(store.carried().unwrap(), [3, 4, 5, 1, 9, 7].map(submission));
    let outbox = Persist { outbox_put: (1..=4).map(submission).collect(), ..Persist::default() };
    store.persist_with(&outbox, &Carry { put: vec![submission(8)], ends: true }).unwrap();
    assert_eq!(store.carried().unwrap(), []);
    drop(store);
    let (store, recovered) = data.open_chat(CHAT).unwrap();
    assert_eq!((store.carried().unwrap().len(), recovered.outbox.len()), (0, 4));
}

// After a crash redb verifies the whole file before it gives anything of it.
#[test]
fn a_damaged_log_does_not_take_the_outbox_with_it_after_a_crash_either() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    busy_chat(&data);
    let path = dir.path().join("chats").join(format!("{CHAT}.redb"));
    let (mut store, _) = data.open_chat(CHAT).unwrap();
    store.persist(&Persist { outbox_put: vec![submission(6)], ..Persist::default() }).unwrap();
    let as_a_crash_leaves_it = fs::read(&path).unwrap();
    drop(store);
    fs::write(&path, as_a_crash_leaves_it).unwrap();
    damage(&path, text(4).as_bytes());
    assert!(is_damaged(data.open_chat(CHAT)));

    let damaged = fs::read(&path).unwrap();
    let (store, recovered, kept_at) = begin(&data, 78);
    assert_eq!(store.carried().unwrap(), [3, 4, 5, 6].map(submission));
    assert_eq!((recovered.hard_state.term, recovered.read, recovered.generation), (4, 7, 3));
    let kept_at = kept_at.unwrap();
    assert_eq!(fs::read(&kept_at).unwrap(), damaged, "it is kept as it was");
    let reason = fs::read_to_string(kept_at.with_added_extension("damaged")).unwrap();
    assert!(reason.contains("corrupted"), "{reason}");
}

#[test]
fn a_file_of_which_nothing_can_be_read_or_that_is_gone_begins_anew_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let path = dir.path().join("chats").join(format!("{CHAT}.redb"));
    for content in [Some(vec![]), Some(vec![7; 10_000]), None] {
        busy_chat(&data);
        match &content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        assert!(data.open_chat(CHAT).err().unwrap().needs_repair());
        let (store, recovered, kept_at) = begin(&data, 78);
        assert_eq!(kept_at.is_some(), content.is_some());
        assert_eq!((store.carried().unwrap(), recovered.hard_state.term), (vec![], 0));
        assert_eq!(recovered.generation, 0, "it takes part in no recovery that it does not know");
        drop(store);
        data.remove_chat(CHAT).unwrap();
    }
}

#[test]
fn r30_who_follows_a_recovery_begins_anew_in_its_generation() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    busy_chat(&data);
    let anew = data.follow(CHAT, 80, 9).unwrap();
    assert_eq!((anew.recovered.generation, anew.recovered.incarnation), (9, 80));
    assert_eq!(anew.recovered.hard_state, HardState::default(), "terms do not cross");
    assert_eq!(anew.recovered.pasts, Pasts::new());
    assert!(anew.recovered.evidence.is_empty(), "what was found is of a term of another course");
    assert_eq!(anew.store.carried().unwrap(), [3, 4, 5].map(submission));
    assert!(anew.kept_at.is_some());
    drop(anew.store);
    assert_eq!(data.open_chat(CHAT).unwrap().1.generation, 9);
    // It may be undone, where there is nothing left but what was kept aside as well.
    assert_eq!(data.follow(CHAT, 81, 0).unwrap().recovered.generation, 0);
    data.remove_chat(CHAT).unwrap();
    assert_eq!(data.chats().unwrap(), []);
    let kept: Vec<_> = data.kept_aside().unwrap().into_iter().map(|(chat, _)| chat).collect();
    assert_eq!(kept, [CHAT, CHAT]);
    let anew = data.follow(CHAT, 82, 9).unwrap();
    assert_eq!((anew.recovered.generation, anew.kept_at), (9, None));
    drop(anew.store);
    let joined = data.follow(ChatId([5; 16]), 6, 7).unwrap();
    assert_eq!((joined.recovered.generation, joined.recovered.commit), (7, 0));
    assert!(joined.kept_at.is_none(), "there was none before");
}

#[test]
fn an_older_copy_is_known_as_such_and_an_open_file_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let path = dir.path().join("chats").join(format!("{CHAT}.redb"));
    busy_chat(&data);
    let older = fs::read(&path).unwrap();
    let (mut store, _) = data.open_chat(CHAT).unwrap();
    let in_use = data.begin_anew(CHAT, 78).err().unwrap();
    assert!(matches!(in_use, StorageError::InUse { .. }), "{in_use}");
    store.persist(&commit(9)).unwrap();
    drop(store);
    fs::write(&path, &older).unwrap();
    for _ in 0..2 {
        let error = data.open_chat(CHAT).err().unwrap();
        assert!(matches!(error, StorageError::Older { .. }), "{error}");
    }
    // A file from before a repair is older, however many writes it has seen.
    drop(begin(&data, 78));
    fs::write(&path, &older).unwrap();
    assert!(matches!(data.open_chat(CHAT), Err(StorageError::Older { .. })));
    // Without a witness it is taken for what it says. Others may know better (R9).
    fs::remove_file(path.with_extension("mark")).unwrap();
    assert_eq!(data.open_chat(CHAT).unwrap().1.incarnation, INCARNATION);
}
