//! Stores that were damaged, emptied, deleted or replaced by older copies while their peer was down
//! (R9, R37, R38): the chat comes back from the others, or the peer says why not.

use std::fs;
use std::path::{Path, PathBuf};

use demes::cli::demo::check::{Line, lines_of};
use demes::cli::demo::peer::until;
use demes::wire::pb;
use nix::sys::signal::Signal;
use tonic::Code;

use crate::harness::{Chat, STEP, assert_refused, story};

/// The files of the chat at one peer: the store, and what stands beside it.
pub struct Files {
    chats: PathBuf,
    pub store: PathBuf,
}

impl Files {
    pub fn of(chat: &Chat, peer: usize) -> Self {
        let chats = chat.peers[peer].data_dir().join("chats");
        let store = chats.join(format!("{}.redb", chat.chat));
        Self { chats, store }
    }

    pub fn mark(&self) -> PathBuf {
        self.store.with_extension("mark")
    }

    /// How many stores were set aside.
    fn kept(&self) -> usize {
        let names = fs::read_dir(&self.chats).unwrap().map(|item| item.unwrap().file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| name.contains(".redb.damaged-") && !name.ends_with(".damaged")).count()
    }

    /// Why the first store was set aside.
    fn reason(&self) -> String {
        let kept = self.store.with_added_extension("damaged-1.damaged");
        fs::read_to_string(kept).unwrap().trim_end().to_owned()
    }

    /// A copy of the store and its mark.
    pub fn copy(&self) -> (Vec<u8>, Vec<u8>) {
        (fs::read(&self.store).unwrap(), fs::read(self.mark()).unwrap())
    }
}

/// Spoils one message somewhere in the store, wherever copies of it stand.
pub fn spoil(store: &Path, text: &str) {
    let mut bytes = fs::read(store).unwrap();
    let found =
        bytes.windows(text.len()).enumerate().filter(|(_, window)| *window == text.as_bytes());
    let places: Vec<usize> = found.map(|(place, _)| place).collect();
    assert!(!places.is_empty(), "the message is in the store");
    for place in places {
        bytes[place] ^= 1;
    }
    fs::write(store, bytes).unwrap();
}

/// Takes the second half of the store away.
pub fn cut_in_half(store: &Path) {
    let file = fs::OpenOptions::new().write(true).open(store).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Three members with some messages, and the one whose store will be hurt: not the host.
pub async fn three(settings: &[(&str, &str)]) -> (Chat, usize) {
    let mut chat = Chat::prepared(3, &[]);
    for peer in &mut chat.peers {
        for (variable, value) in settings {
            peer.set(variable, value);
        }
    }
    chat.start_all().await.unwrap();
    chat.found("Friday").await.unwrap();
    let host = chat.host().await.unwrap();
    let hurt = chat.others(&[host])[0];
    for speaker in (0..3).cycle().take(30) {
        chat.says(speaker).await;
    }
    (chat, hurt)
}

/// The text of a message in the middle of what `three` has said.
pub const MIDDLE: &str = "text of request-15";

/// Brings the peer down with one message of its own that only waits. The others are killed before,
/// so that it cannot leave: for a process that is merely frozen, its machine would still take it.
/// Gives its request id.
async fn down_with_a_message_that_waits(chat: &mut Chat, hurt: usize, signal: Signal) -> String {
    let others = chat.others(&[hurt]);
    for other in &others {
        chat.peers[*other].kill().unwrap();
        chat.peers[*other].gone().await.unwrap();
    }
    let waiting = chat.queues(hurt).await;
    chat.signal(hurt, signal);
    chat.peers[hurt].ended(STEP).await.unwrap();
    for other in &others {
        chat.peers[*other].start().await.unwrap();
    }
    waiting
}

/// What becomes of the message that waited in the store.
#[derive(Clone, Copy, PartialEq)]
enum Waiting {
    /// It could be read, and is sent by itself.
    Lands,
    /// It is lost with the store, until its program sends it again.
    IsRepeated,
}

/// The others go on, the peer is taken back as a voter, and the message that waited lands once.
async fn comes_back(mut chat: Chat, hurt: usize, kept: usize, id: String, waiting: Waiting) {
    let files = Files::of(&chat, hurt);
    for other in chat.others(&[hurt]) {
        chat.says(other).await;
    }
    until(STEP, "the repair", || async { (files.kept() >= kept).then_some(()) }).await.unwrap();
    chat.settled().await.unwrap();
    if waiting == Waiting::Lands {
        until(STEP, "the message that waited", || async {
            let lines = lines_of(chat.peers[hurt].client(), &chat.chat).await.ok()?;
            let landed = |line: &Line| line.message.as_ref().is_some_and(|m| m.ends_with(&id));
            lines.iter().any(landed).then_some(())
        })
        .await
        .unwrap();
    }
    let repeated = chat.send_as(hurt, id);
    chat.confirm(repeated).await;
    assert_eq!(files.kept(), kept, "what was there is kept, and it is repaired once");
    chat.finish().await;
}

/// A member's store is hurt while it is down, with a message of its own in it that only waits.
async fn hurt_while_down(happens: impl Fn(&Files), kept: usize, waiting: Waiting) {
    let (mut chat, hurt) = three(&[]).await;
    let files = Files::of(&chat, hurt);
    let id = down_with_a_message_that_waits(&mut chat, hurt, Signal::SIGKILL).await;
    happens(&files);
    chat.peers[hurt].start().await.unwrap();
    comes_back(chat, hurt, kept, id, waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_damaged_in_the_middle_is_fetched_from_the_others() {
    story(hurt_while_down(|files| spoil(&files.store, MIDDLE), 1, Waiting::Lands)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_cut_emptied_or_deleted_is_fetched_from_the_others() {
    story(hurt_while_down(|files| cut_in_half(&files.store), 1, Waiting::IsRepeated)).await;
    story(hurt_while_down(|files| fs::write(&files.store, b"").unwrap(), 1, Waiting::IsRepeated))
        .await;
    story(hurt_while_down(|files| fs::remove_file(&files.store).unwrap(), 0, Waiting::IsRepeated))
        .await;
}

/// Of the file alone: the mark beside it tells. Of both: the others' memory does (R9).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_is_fetched_anew_from_the_others() {
    for with_mark in [false, true] {
        story(async {
            let (mut chat, hurt) = three(&[]).await;
            let files = Files::of(&chat, hurt);
            chat.peers[hurt].kill().unwrap();
            chat.peers[hurt].gone().await.unwrap();
            let (store, mark) = files.copy();
            chat.peers[hurt].start().await.unwrap();
            chat.settled().await.unwrap();
            for _ in 0..10 {
                chat.says(hurt).await;
            }
            // The others are not killed: what they remember of it is what tells.
            let id = chat.send(hurt).request_id;
            chat.peers[hurt].kill().unwrap();
            chat.peers[hurt].gone().await.unwrap();
            fs::write(&files.store, store).unwrap();
            if with_mark {
                fs::write(files.mark(), mark).unwrap();
            }
            chat.peers[hurt].start().await.unwrap();
            comes_back(chat, hurt, 1, id, Waiting::IsRepeated).await;
        })
        .await;
    }
}

/// What stands before the checkpoint is not read when a store is opened, but soon afterwards: the
/// chat is repaired while the peer runs on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_is_found_later_is_repaired_while_the_peer_runs() {
    story(async {
        let (mut chat, hurt) = three(&[("DEMES__LIMITS__CHECKPOINT_EVERY", "8")]).await;
        let files = Files::of(&chat, hurt);
        // After a crash redb would look at everything at once.
        let id = down_with_a_message_that_waits(&mut chat, hurt, Signal::SIGTERM).await;
        spoil(&files.store, "text of request-5");
        chat.peers[hurt].start().await.unwrap();
        let pid = chat.peers[hurt].pid();
        let all = pb::FeedRequest { cursors: vec![] };
        let mut feed = chat.peers[hurt].client().feed(all).await.unwrap().into_inner();
        until(STEP, "the repair", || async { (files.kept() == 1).then_some(()) }).await.unwrap();
        comes_back_in_a_feed(&mut chat, hurt, &mut feed).await;
        assert_eq!(chat.peers[hurt].pid(), pid);
        assert!(files.reason().starts_with("entry "), "the reader found it: {}", files.reason());
        comes_back(chat, hurt, 1, id, Waiting::Lands).await;
    })
    .await;
}

/// A feed that was open before the repair goes on after it, without a gap and without a repeat.
async fn comes_back_in_a_feed(
    chat: &mut Chat,
    hurt: usize,
    feed: &mut tonic::Streaming<pb::FeedResponse>,
) {
    let last = chat.says(chat.others(&[hurt])[0]).await;
    let mut after = 0;
    while after < last {
        let frame = tokio::time::timeout(STEP, feed.message()).await.expect("it goes on");
        for event in frame.unwrap().expect("it has no end").events {
            if event.sequence > 0 {
                assert_eq!(event.sequence, after + 1, "every entry, once");
                after = event.sequence;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_has_the_chat_any_more_everybody_says_so_and_nothing_is_touched() {
    story(async {
        let (mut chat, _) = three(&[]).await;
        let mut before = Vec::new();
        for peer in &mut chat.peers {
            peer.kill().unwrap();
            peer.gone().await.unwrap();
        }
        for peer in 0..3 {
            let files = Files::of(&chat, peer);
            before.push(files.copy());
            spoil(&files.store, MIDDLE);
        }
        chat.start_all().await.unwrap();
        for peer in 0..3 {
            let request = || pb::GetChatRequest { chat: "Friday".into() };
            let client = chat.peers[peer].client();
            let told = until(STEP, "a word that nobody has the chat", || async {
                let refused = client.clone().get_chat(request()).await.expect_err("it is refused");
                refused.message().contains("None of the 2 other members").then_some(refused)
            });
            let refused: Result<(), _> = Err(told.await.unwrap());
            assert_refused(refused, Code::DataLoss, "STORAGE_DAMAGED");
            let by_id = pb::GetChatRequest { chat: chat.chat[..8].into() };
            let refused = client.clone().get_chat(by_id).await;
            assert_refused(refused, Code::DataLoss, "STORAGE_DAMAGED");
            let list = client.clone().list_chats(pb::ListChatsRequest {}).await.unwrap();
            let listed = &list.into_inner().chats[0];
            assert!(listed.name == "Friday" && listed.fault.contains("is damaged"), "{listed:?}");
            assert_eq!(Files::of(&chat, peer).kept(), 0, "nothing is set aside");
        }
        // A second start says the same. Then the copies of the files are put back, as they were.
        chat.peers[0].kill().unwrap();
        chat.peers[0].start().await.unwrap();
        for peer in &mut chat.peers {
            peer.kill().unwrap();
            peer.gone().await.unwrap();
        }
        for (peer, (store, mark)) in before.into_iter().enumerate() {
            let files = Files::of(&chat, peer);
            fs::write(&files.store, store).unwrap();
            fs::write(files.mark(), mark).unwrap();
            fs::remove_file(files.store.with_extension("redb.damaged")).unwrap();
        }
        chat.start_all().await.unwrap();
        chat.finish().await;
    })
    .await;
}
