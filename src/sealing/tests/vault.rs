//! What lies on the disk, and for whom it opens.

use std::fs;

use demes_protocol::types::{Hash, PeerId};
use redb::{Database, ReadableTable as _, TableDefinition};

use super::world::{CHAT, chat, hash, settle};
use crate::vault::{Batch, Vault, VaultError, secret};
use crate::{Duty, NotSealed, Sealer, SealingError, Suite, VaultKey, VaultKeyError};

const ME: PeerId = PeerId([5; 32]);

fn vault(dir: &std::path::Path, key: &VaultKey) -> Vault {
    Vault::open(dir, key, CHAT, ME).unwrap()
}

fn contents(of: &[(u64, &str)]) -> Batch {
    let contents = of.iter().map(|(index, text)| (*index, secret(text.as_bytes())));
    Batch { contents: contents.collect(), ..Batch::default() }
}

#[test]
fn a_vault_belongs_to_one_key_peer_and_chat() {
    let dir = tempfile::tempdir().unwrap();
    let key = VaultKey::random().unwrap();
    vault(dir.path(), &key).write(&contents(&[(1, "one")])).unwrap();
    let error = |key: &VaultKey, owner| Vault::open(dir.path(), key, CHAT, owner).err();
    let other = VaultKey::random().unwrap();
    assert!(matches!(error(&other, ME), Some(VaultError::OtherKey { .. })));
    assert!(matches!(error(&key, PeerId([6; 32])), Some(VaultError::OtherOwner { .. })));
    assert_eq!(vault(dir.path(), &key).content(1).unwrap().unwrap()[..], b"one"[..]);
}

#[test]
fn a_value_in_another_place_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let key = VaultKey::random().unwrap();
    vault(dir.path(), &key).write(&contents(&[(1, "yes"), (2, "no")])).unwrap();
    let table: TableDefinition<u64, &[u8]> = TableDefinition::new("contents");
    let database = Database::open(dir.path().join(format!("{CHAT}.vault"))).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut table = write.open_table(table).unwrap();
        let one = table.get(1).unwrap().unwrap().value().to_vec();
        table.insert(2, &one[..]).unwrap();
    }
    write.commit().unwrap();
    drop(database);
    let vault = vault(dir.path(), &key);
    assert!(matches!(vault.content(2), Err(VaultError::Damaged { .. })));
    assert_eq!(vault.content(1).unwrap().unwrap()[..], b"yes"[..]);
}

// What somebody deletes does not come back from what redb has freed, nor from an old copy of it.
#[test]
fn what_is_deleted_opens_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let key = VaultKey::random().unwrap();
    let mut open = vault(dir.path(), &key);
    open.write(&contents(&[(1, "kept"), (2, "deleted"), (300, "elsewhere")])).unwrap();
    drop(open);
    let path = dir.path().join(format!("{CHAT}.vault"));
    let before = fs::read(&path).unwrap();
    let mut open = vault(dir.path(), &key);
    open.write(&Batch { deleted: [2].into(), ..Batch::default() }).unwrap();
    assert!(open.content(2).unwrap().is_none());
    assert_eq!(open.content(1).unwrap().unwrap()[..], b"kept"[..]);
    assert_eq!(open.content(300).unwrap().unwrap()[..], b"elsewhere"[..]);
    drop(open);
    fs::write(&path, before).unwrap();
    let old = vault(dir.path(), &key);
    assert!(old.content(2).is_err(), "its key is gone");
}

#[test]
fn a_passphrase_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vault.key");
    let key = VaultKey::create(&path, None).unwrap();
    assert!(VaultKey::open(&path, None).is_ok());
    assert!(matches!(VaultKey::create(&path, None), Err(VaultKeyError::AlreadyThere { .. })));
    key.write(&path, Some("correct horse")).unwrap();
    let open = |passphrase| VaultKey::open(&path, passphrase);
    assert!(matches!(open(None), Err(VaultKeyError::PassphraseNeeded { .. })));
    assert!(matches!(open(Some("wrong")), Err(VaultKeyError::PassphraseWrong { .. })));
    let again = open(Some("correct horse")).unwrap();
    vault(dir.path(), &key).write(&contents(&[(1, "one")])).unwrap();
    assert_eq!(vault(dir.path(), &again).content(1).unwrap().unwrap()[..], b"one"[..]);
    let file = fs::read(&path).unwrap();
    assert!(!file.windows(32).any(|window| window == &key.0.0[..]), "the key is wrapped");
    for length in [0, 8, 9, file.len() - 1] {
        fs::write(&path, &file[..length]).unwrap();
        assert!(matches!(open(Some("correct horse")), Err(VaultKeyError::Damaged { .. })));
    }
}

// R9's sibling: a vault of another copy of the chat is not used.
#[test]
fn a_vault_ahead_of_its_log_or_of_another_history_is_refused() {
    let (log, mut sides) = chat(&[1, 2], Suite::X25519);
    let ana = &mut sides[0];
    let end = log.0.len() as u64;
    ana.flush().unwrap();
    ana.restart().unwrap();
    let sealer = ana.sealer();
    assert!(sealer.check_log(end, |index| Some(hash(index))).is_ok());
    assert!(sealer.check_log(end + 5, |index| Some(hash(index))).is_ok(), "behind its log");
    let ahead = sealer.check_log(end - 1, |index| Some(hash(index)));
    assert!(matches!(ahead, Err(SealingError::AheadOfLog)));
    let other = sealer.check_log(end, |_| Some(Hash([99; 32])));
    assert!(matches!(other, Err(SealingError::OtherHistory)));
}

// S6: an old copy of the vault, put back alone, seals nothing with the keys that it has.
#[test]
fn an_old_copy_of_a_vault_asks_for_a_new_seat() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let ana = &mut sides[0];
    ana.flush().unwrap();
    ana.sealer = None;
    let files = |name: &str| ana.dir.path().join(format!("{CHAT}.{name}"));
    let old = ["vault", "keys"].map(|name| (files(name), fs::read(files(name)).unwrap()));
    ana.restart().unwrap();
    ana.say(&mut log, "sealed with a reserved key").unwrap();
    ana.sealer = None;
    for (path, content) in old {
        fs::write(path, content).unwrap();
    }
    let said = ana.said;
    let own = ana.outbox[&said].own.clone();
    ana.restart().unwrap();
    // The message waits in the outbox still, or it is in the log already.
    ana.sealer().check_own(said, &own);
    assert!(matches!(ana.say(&mut log, "again"), Err(NotSealed::SeatNeeded)));
    ana.restart().unwrap();
    ana.read(&log).unwrap();
    assert!(matches!(ana.say(&mut log, "again"), Err(NotSealed::SeatNeeded)));
    assert_eq!(ana.duty(), Duty::Seat);
    // With its new seat it goes on.
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    settle(&mut log, &mut [ana, ben]);
    let said = ana.say(&mut log, "again").unwrap();
    ben.read(&log).unwrap();
    assert_eq!(ben.saw(said), Ok("again"));
}

#[test]
fn nothing_readable_lies_on_the_disk() {
    let (mut log, mut sides) = chat(&[1, 2], Suite::X25519);
    let [ana, ben] = &mut sides[..] else { unreachable!() };
    ana.say(&mut log, "canary-of-the-text").unwrap();
    for side in [ana, ben] {
        side.read(&log).unwrap();
        side.flush().unwrap();
        let mut seen = 0;
        for file in fs::read_dir(side.path()).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            seen += bytes.len();
            assert!(!bytes.windows(6).any(|window| window == b"canary"));
        }
        assert!(seen > 4_096, "there is something");
        let none = Sealer::open(side.path(), &VaultKey::random().unwrap(), side.place);
        assert!(none.is_err());
    }
}
