//! The steps of a chat's life on a disk that fails. Each is done once, and before every write, sync
//! and change of a name the directory is remembered as a crash there would leave it. Every such
//! directory is started again, as it is, and once more without the chat's file, or with a bad one.
//! Then each step is done with every one of its changes failing.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::super::kept::{Found, Kept, TakenOn};
use crate::peer::people::invites::{IncomingInvite, InviteAnswer, Invites};
use crate::peer::records::{self, ChatRecord};
use crate::protocol::event::Persist;
use crate::protocol::founding::founding_entry;
use crate::protocol::types::{
    ChatId, Generation, HardState, Incarnation, Payload, PeerId, Submission,
};
use crate::runtime::handle::NewChat;
use crate::storage::{ChatStore, DataDir, PeerStore, StorageError, faults};

const CHAT: ChatId = ChatId([7; 16]);
const ME: PeerId = PeerId([1; 32]);
const OTHER: PeerId = PeerId([2; 32]);
const GENERATION: Generation = 5;
/// The incarnation of the file that is there at first, and that of an answer.
const OLD: Incarnation = 10;
const ANSWER: Incarnation = 20;
const QUEUED: u64 = 3;
/// In which a running chat has voted.
const TERM: u64 = 9;

/// A peer's directory, open.
struct Peer {
    dir: DataDir,
    store: PeerStore,
    invites: Mutex<Invites>,
}

impl Peer {
    fn open(path: &Path) -> Result<Self, StorageError> {
        let dir = DataDir::open(path)?;
        let store = dir.peer_store()?;
        let invites = Mutex::new(Invites::load(&store)?);
        Ok(Self { dir, store, invites })
    }

    fn kept(&self) -> Kept<'_> {
        Kept { dir: &self.dir, store: &self.store, invites: &self.invites }
    }

    fn invite(&self) {
        let invite = IncomingInvite {
            chat_name: "Friday".into(),
            inviter: OTHER,
            inviter_name: "Ben".into(),
            inviter_address: "127.0.0.1:1".into(),
            expires_at_ms: u64::MAX,
            answer: Some(InviteAnswer { accept: true, incarnation: ANSWER }),
            link: String::new(),
            from: None,
        };
        self.invites.lock().unwrap().put_incoming(&self.store, CHAT, invite).unwrap();
    }

    fn record(&self) -> ChatRecord {
        records::get(&self.store, CHAT).unwrap().unwrap_or_default()
    }

    /// A chat with a vote and with messages that wait.
    fn queue(&self, removed_by: Option<PeerId>) {
        let mut store = self.dir.follow(CHAT, OLD, GENERATION).unwrap().store;
        let members = [(OTHER.to_string(), "127.0.0.1:1".to_owned())].into();
        let (incarnation, generation) = (OLD, GENERATION);
        let record = ChatRecord { members, generation, incarnation, ..ChatRecord::default() };
        records::put(&self.store, CHAT, &record).unwrap();
        swear(&mut store).unwrap();
        let outbox_put = (1..=QUEUED).map(queued).collect();
        store.persist(&Persist { outbox_put, removed_by, ..Persist::default() }).unwrap();
    }
}

/// A directory, in memory where the machine has one for that: a thousand starts sync a lot.
fn scratch() -> tempfile::TempDir {
    let in_memory = Path::new("/dev/shm");
    match in_memory.is_dir() {
        true => tempfile::tempdir_in(in_memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

fn taken() -> TakenOn {
    let contacts = vec![(OTHER, "127.0.0.1:1".to_owned())];
    TakenOn { incarnation: ANSWER, generation: GENERATION, contacts }
}

/// What a running chat does first: its incarnation has voted from then on, and has a log.
fn swear(store: &mut ChatStore) -> Result<(), StorageError> {
    let name = || "Friday".to_owned();
    let (_, entry) = founding_entry(OTHER, 1, name(), name(), name(), 1, |_| [0; 64]);
    let hard_state = Some(HardState { term: TERM, vote: Some(ME) });
    let entries = vec![Arc::new(entry)];
    store.persist(&Persist { hard_state, entries, ..Persist::default() }).map(drop)
}

fn queued(number: u64) -> Submission {
    let sealed = Bytes::from_static(b"waiting");
    let payload = Payload::Message { request_id: format!("queued-{number}"), sealed };
    Submission { number, created_at_ms: number, trace: None, payload, signature: None }
}

fn file(path: &Path) -> PathBuf {
    path.join(format!("chats/{CHAT}.redb"))
}

fn spoil(path: &Path) {
    fs::write(file(path).with_extension("redb.damaged"), "a page is bad\n").unwrap();
}

/// A step of a chat's life, what is there before it, and what it may do with what waits.
struct Story {
    name: &'static str,
    before: fn(&Peer),
    /// After the peer is closed.
    hurt: fn(&Path),
    step: fn(&Peer) -> Result<(), StorageError>,
    /// The person has said that the chat is to go.
    goes: bool,
}

fn stories() -> Vec<Story> {
    let story = |name, before, step| Story { name, before, hurt: |_| (), step, goes: false };
    let joins: fn(&Peer) -> Result<(), StorageError> = |peer| {
        if peer.kept().claim(CHAT, &taken())? {
            runs(peer.kept().begin(CHAT, &taken())?)?;
        }
        peer.kept().drop_invitation(CHAT)
    };
    let repairs: fn(&Peer) -> Result<(), StorageError> = |peer| {
        let new = peer.kept().begin_anew(CHAT, &peer.record())?;
        let begun = (new.recovered.incarnation, new.recovered.generation);
        peer.kept().note_begun(CHAT, begun, 1_700_000_000_000)?;
        runs(new)
    };
    vec![
        story("joins", |peer| peer.invite(), joins),
        Story {
            hurt: spoil,
            ..story(
                "joins while the chat ails",
                |peer| {
                    peer.queue(None);
                    peer.invite();
                },
                joins,
            )
        },
        story(
            "joins again after it was removed",
            |peer| {
                peer.queue(Some(OTHER));
                peer.invite();
            },
            joins,
        ),
        story(
            "joins in place of a repair that has begun",
            |peer| {
                peer.queue(None);
                drop(peer.kept().begin_anew(CHAT, &peer.record()).unwrap());
                peer.invite();
            },
            joins,
        ),
        Story { hurt: spoil, ..story("repairs", |peer| peer.queue(None), repairs) },
        Story {
            hurt: |path| fs::remove_file(file(path)).unwrap(),
            ..story("repairs a file that is gone", |peer| peer.queue(None), repairs)
        },
        Story {
            hurt: spoil,
            goes: true,
            ..story("gives up", |peer| peer.queue(None), |peer| peer.kept().give_up(CHAT))
        },
        Story {
            goes: true,
            ..story("forgets", |peer| peer.queue(None), |peer| peer.kept().forget(CHAT))
        },
        story(
            "follows a recovery",
            |peer| peer.queue(None),
            |peer| peer.dir.follow(CHAT, 30, 6).map(drop),
        ),
        story(
            "starts with a leftover invitation",
            |peer| {
                joins_at_once(peer);
                peer.invite();
            },
            |peer| peer.kept().start(CHAT, false).map(drop),
        ),
    ]
}

fn joins_at_once(peer: &Peer) {
    assert!(peer.kept().claim(CHAT, &taken()).unwrap());
    runs(peer.kept().begin(CHAT, &taken()).unwrap()).unwrap();
}

/// The loop has it for a moment.
fn runs(mut new: NewChat) -> Result<(), StorageError> {
    if new.is_empty() { swear(&mut new.store) } else { Ok(()) }
}

/// Every file of a directory, by its name.
type Image = Vec<(PathBuf, Vec<u8>)>;

fn image_of(path: &Path) -> Image {
    let mut image = Vec::new();
    for dir in [path.to_owned(), path.join("chats")] {
        for item in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if item.path().is_file() {
                let name = item.path().strip_prefix(path).unwrap().to_owned();
                image.push((name, fs::read(item.path()).unwrap()));
            }
        }
    }
    image
}

fn put(image: &Image) -> tempfile::TempDir {
    let dir = scratch();
    fs::create_dir(dir.path().join("chats")).unwrap();
    for (name, bytes) in image {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// What is in whatever files there are.
#[derive(Default)]
struct Holdings {
    incarnations: BTreeSet<Incarnation>,
    /// Those of them that have voted.
    voted: BTreeSet<Incarnation>,
    /// Those that have a log.
    ran: BTreeSet<Incarnation>,
    /// The messages that wait.
    waiting: BTreeSet<String>,
    /// That of the record.
    named: Incarnation,
    is_claimed: bool,
}

fn holdings(path: &Path) -> Holdings {
    let mut held = Holdings::default();
    for item in fs::read_dir(path.join("chats")).unwrap().flatten() {
        let name = item.file_name().into_string().unwrap();
        let is_store = name.ends_with(".redb") || name.contains(".redb.damaged-");
        if !is_store || name.ends_with(".damaged") {
            continue;
        }
        // A copy, since looking writes.
        let copy = scratch();
        let data = DataDir::open(copy.path()).unwrap();
        fs::copy(item.path(), file(copy.path())).unwrap();
        if let Ok((store, recovered)) = data.open_chat(CHAT) {
            held.incarnations.insert(recovered.incarnation);
            if recovered.hard_state.term == TERM {
                held.voted.insert(recovered.incarnation);
            }
            if !recovered.entries.is_empty() {
                held.ran.insert(recovered.incarnation);
            }
            let carried = store.carried().unwrap();
            held.waiting.extend(recovered.outbox.iter().chain(&carried).map(request_id));
        }
    }
    // Once more a copy: this is asked of directories that nobody has open, and of one that is.
    if let Ok(store) = fs::read(path.join("peer.redb")) {
        let copy = scratch();
        fs::write(copy.path().join("peer.redb"), store).unwrap();
        let dir = DataDir::open(copy.path()).unwrap();
        let store = dir.peer_store().unwrap();
        let record = records::get(&store, CHAT).unwrap().unwrap_or_default();
        (held.named, held.is_claimed) = (record.incarnation, record.is_claimed);
    }
    held
}

fn request_id(submission: &Submission) -> String {
    match &submission.payload {
        Payload::Message { request_id, .. } => request_id.clone(),
        _ => String::new(),
    }
}

/// The next start, and what follows where the others say yes to everything. Gives the incarnation
/// in which the chat runs then, and its vote.
fn starts_again(path: &Path) -> Option<(Incarnation, HardState)> {
    let peer = Peer::open(path).unwrap();
    let mut chats = peer.dir.chats().unwrap();
    chats.extend(records::chats(&peer.store).unwrap());
    let found = match chats.contains(&CHAT) {
        true => peer.kept().start(CHAT, false).unwrap(),
        false => Found::Nothing,
    };
    let is_joining = peer.kept().accepted_in(CHAT).is_some();
    let new = match found {
        // One that is only there to be read gives way.
        Found::Sound(new) if !is_joining || new.recovered.removed_by.is_none() => new,
        Found::Sound(_) | Found::Begun(_) | Found::Unusable(_) | Found::Nothing if is_joining => {
            drop(found);
            assert!(peer.kept().claim(CHAT, &taken()).unwrap(), "it is not used up");
            peer.kept().begin(CHAT, &taken()).unwrap()
        }
        Found::Sound(new) | Found::Begun(new) => new,
        Found::Unusable(_) if peer.record().contacts().is_empty() => return None,
        Found::Unusable(_) => peer.kept().begin_anew(CHAT, &peer.record()).unwrap(),
        Found::Nothing => return None,
        Found::Unopenable(error) => panic!("it cannot be opened: {error}"),
    };
    let begun = (new.recovered.incarnation, new.recovered.generation);
    peer.kept().note_begun(CHAT, begun, 1_700_000_000_000).unwrap();
    peer.kept().drop_invitation(CHAT).unwrap();
    Some((begun.0, new.recovered.hard_state))
}

/// What a start must make of a directory that was left so.
fn check(story: &Story, at: &str, image: &Image, owed: &BTreeSet<String>) {
    let what = format!("{}, {at}", story.name);
    let dir = put(image);
    let before = holdings(dir.path());
    assert!(before.waiting.is_superset(owed), "{what}: what waited is in no file any more");
    let running = starts_again(dir.path());
    assert!(story.goes || running.is_some(), "{what}: the chat is gone");
    if let Some((incarnation, vote)) = running {
        let is_outlived = before.named != 0 && before.named != incarnation;
        let is_known = match before.is_claimed {
            true => before.incarnations.contains(&incarnation),
            false => before.ran.contains(&incarnation),
        };
        assert!(!is_outlived || !is_known, "{what}: it was outlived");
        let is_forgotten = before.voted.contains(&incarnation) && vote.term != TERM;
        assert!(!is_forgotten, "{what}: {incarnation} has forgotten its vote");
    }
    let after = holdings(dir.path());
    assert!(after.waiting.is_superset(owed), "{what}: what waited is lost at the next start");
    // From then on it is found as it is.
    if running.is_some() {
        let again = starts_again(dir.path()).map(|(incarnation, _)| incarnation);
        assert_eq!(again, running.map(|(incarnation, _)| incarnation), "{what}: once more");
    }
    // The file is lost as well: what it has sworn is not forgotten in its name.
    let dir = put(image);
    if file(dir.path()).exists() {
        fs::remove_file(file(dir.path())).unwrap();
        if let Some((incarnation, _)) = starts_again(dir.path()) {
            let made = &before.incarnations;
            assert!(!made.contains(&incarnation), "{what}: {incarnation} has a second file");
        }
    }
}

/// The directory before the step.
fn prepared(story: &Story) -> tempfile::TempDir {
    let dir = scratch();
    let peer = Peer::open(dir.path()).unwrap();
    (story.before)(&peer);
    drop(peer);
    (story.hurt)(dir.path());
    dir
}

/// Does the step while `watcher` sees its changes.
fn does(
    story: &Story,
    path: &Path,
    mut watcher: impl FnMut(&Path, &'static str) -> io::Result<()> + Send + 'static,
) -> Result<(), StorageError> {
    let is_at_it = Arc::new(AtomicBool::new(false));
    let looks = Arc::clone(&is_at_it);
    // What is open before is seen as well.
    let _watch = faults::watch(path, move |at, doing| match looks.load(Ordering::SeqCst) {
        true => watcher(at, doing),
        false => Ok(()),
    });
    let peer = Peer::open(path).unwrap();
    is_at_it.store(true, Ordering::SeqCst);
    let done = (story.step)(&peer);
    is_at_it.store(false, Ordering::SeqCst);
    done
}

#[test]
fn a_crash_at_any_write_loses_nothing_and_uses_no_incarnation_twice() {
    for story in stories() {
        let dir = prepared(&story);
        let owed = holdings(dir.path()).waiting;
        let images: Arc<Mutex<Vec<(String, Image)>>> = Arc::default();
        let (seen, path) = (Arc::clone(&images), dir.path().to_owned());
        does(&story, dir.path(), move |at, doing| {
            let name = at.file_name().unwrap_or_default().display().to_string();
            let image = image_of(&path);
            let mut seen = seen.lock().unwrap();
            if seen.last().is_none_or(|(_, last)| *last != image) {
                seen.push((format!("a crash before it can {doing} {name}"), image));
            }
            Ok(())
        })
        .unwrap();
        let images = std::mem::take(&mut *images.lock().unwrap());
        assert!(images.len() > 3, "{}: {} changes were seen", story.name, images.len());
        for (at, image) in &images {
            check(&story, at, image, &owed);
        }
        check(&story, "after it", &image_of(dir.path()), &owed);
    }
}

#[test]
fn a_change_that_fails_loses_nothing_and_uses_no_incarnation_twice() {
    for story in stories() {
        for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
            for failing in 1.. {
                let dir = prepared(&story);
                let owed = holdings(dir.path()).waiting;
                let changes = Arc::new(Mutex::new((0, String::new())));
                let counted = Arc::clone(&changes);
                // It may succeed all the same: a mark may stay behind, a name may become a copy.
                let _ = does(&story, dir.path(), move |at, doing| {
                    let mut changes = counted.lock().unwrap();
                    changes.0 += 1;
                    if changes.0 != failing {
                        return Ok(());
                    }
                    let name = at.file_name().unwrap_or_default().display();
                    changes.1 = format!("where it cannot {doing} {name} ({kind})");
                    Err(kind.into())
                });
                let (count, what) = changes.lock().unwrap().clone();
                if count < failing {
                    assert!(failing > 3, "{}: only {count} changes were seen", story.name);
                    break;
                }
                check(&story, &what, &image_of(dir.path()), &owed);
            }
        }
    }
}

/// Else the next one would have to wait, though the chat has seen nothing of this one.
#[test]
fn a_repair_that_fails_does_not_count() {
    const NOW_MS: u64 = 1_700_000_000_000;
    let dir = scratch();
    let peer = Peer::open(dir.path()).unwrap();
    peer.queue(None);
    spoil(dir.path());
    let is_full = |at: &Path| at.extension().is_some_and(|end| end == "new");
    let watch = faults::watch(dir.path(), move |at, _| match is_full(at) {
        true => Err(io::ErrorKind::StorageFull.into()),
        false => Ok(()),
    });
    let failed = peer.kept().begin_anew(CHAT, &peer.record()).err().unwrap();
    assert!(matches!(failed, StorageError::Full { .. }), "{failed}");
    assert_eq!(peer.record().renewed_at_ms, 0);
    drop(watch);
    let new = peer.kept().begin_anew(CHAT, &peer.record()).unwrap();
    assert_eq!((new.carried.len() as u64, peer.record().renewed_at_ms), (QUEUED, 0));
    let begun = (new.recovered.incarnation, GENERATION);
    peer.kept().note_begun(CHAT, begun, NOW_MS).unwrap();
    peer.kept().note_begun(CHAT, begun, NOW_MS + 1).unwrap();
    assert_eq!(peer.record().renewed_at_ms, NOW_MS, "it is told to the host again and again");
    assert_eq!(peer.record().incarnation, begun.0);
}
