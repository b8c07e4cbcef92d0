//! A chat's life at one peer: what happens where joining, leaving, being removed, repairing,
//! recovering, stopping and starting meet. Nothing that was queued is lost by it, and no chat is
//! here twice.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use demes::cli::demo::check::lines_of;
use demes::cli::demo::peer::until;
use demes::protocol::event::Recovered;
use demes::protocol::types::ChatId;
use demes::storage::DataDir;
use demes::wire::pb;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tonic::{Request, Status};

use crate::harness::{Chat, STEP, story};

/// For how long something that must not happen is looked for.
const NEVER: Duration = Duration::from_secs(3);

/// Looks into the directory of a peer that does not run.
fn opened(chat: &Chat, peer: usize) -> (DataDir, ChatId) {
    (DataDir::open(&chat.peers[peer].data_dir()).unwrap(), chat.chat.parse().unwrap())
}

/// What its file says.
fn recovered(chat: &Chat, peer: usize) -> Recovered {
    let (dir, id) = opened(chat, peer);
    dir.open_chat(id).unwrap().1
}

/// Leaves an invitation behind, as a crash does, or one that came while the chat was repaired.
fn leave_invitation(chat: &Chat, peer: usize, answer: Value) {
    let (dir, _) = opened(chat, peer);
    let invite = json!({
        "chat_name": "Friday",
        "inviter": chat.peers[0].id,
        "inviter_name": "Ada",
        "inviter_address": chat.peers[0].address().to_string(),
        "expires_at_ms": now_ms() + 600_000,
        "answer": answer,
        "link": "",
    });
    let invite = serde_json::to_vec(&invite).unwrap();
    dir.peer_store().unwrap().put("invite-in", &chat.chat, &invite).unwrap();
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

async fn down(chat: &mut Chat, peers: &[usize]) {
    for peer in peers {
        chat.peers[*peer].kill().unwrap();
        chat.peers[*peer].gone().await.unwrap();
    }
}

async fn stop(chat: &mut Chat, peer: usize) {
    chat.signal(peer, Signal::SIGTERM);
    chat.peers[peer].ended(STEP).await.unwrap();
}

/// Everybody else is down, and this peer has messages that wait.
async fn alone_with_messages(chat: &mut Chat, peer: usize) -> Vec<String> {
    let others = chat.others(&[peer]);
    down(chat, &others).await;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(chat.queues(peer).await);
    }
    waiting
}

/// What waited is in the chat, each once, and nothing waits any more.
async fn landed(chat: &mut Chat, peer: usize, waiting: &[String]) {
    chat.start_all().await.unwrap();
    chat.settled().await.unwrap();
    let (host, id) = (chat.others(&[peer])[0], chat.chat.clone());
    until(STEP, "what waited", || async {
        let lines = lines_of(chat.peers[host].client(), &id).await.ok()?;
        let said: Vec<_> = lines.into_iter().filter_map(|line| line.message).collect();
        let once = |wanted: &String| said.iter().filter(|text| text.ends_with(wanted)).count() == 1;
        waiting.iter().all(once).then_some(())
    })
    .await
    .unwrap();
}

async fn accept(chat: &Chat, peer: usize) -> Result<(), Status> {
    let request = pb::AcceptInviteRequest { chat: chat.chat.clone(), link: String::new() };
    let mut request = Request::new(request);
    request.set_timeout(STEP / 2);
    chat.peers[peer].client().accept_invite(request).await.map(drop)
}

async fn leave(chat: &Chat, peer: usize) {
    let request = pb::LeaveChatRequest { chat: chat.chat[..8].to_owned(), ..Default::default() };
    chat.peers[peer].client().leave_chat(request).await.unwrap();
}

async fn remove(chat: &Chat, by: usize, peer: usize) {
    let (id, peer) = (chat.chat.clone(), chat.peers[peer].id.clone());
    let mut request =
        Request::new(pb::RemoveMemberRequest { chat: id, peer, ..Default::default() });
    request.set_timeout(STEP);
    chat.peers[by].client().remove_member(request).await.unwrap();
}

async fn invite(chat: &Chat, by: usize, peer: usize) {
    let address = chat.peers[peer].address().to_string();
    let request = pb::InviteMemberRequest {
        chat: chat.chat.clone(),
        address,
        timeout_s: 0,
        ..Default::default()
    };
    chat.peers[by].client().invite_member(request).await.unwrap();
}

/// How often the chat is listed, and whether it runs.
async fn listed(chat: &Chat, peer: usize) -> Vec<pb::Chat> {
    let request = pb::ListChatsRequest {};
    let listed = chat.peers[peer].client().list_chats(request).await.unwrap().into_inner().chats;
    listed.into_iter().filter(|one| one.chat_id == chat.chat).collect()
}

async fn ails(chat: &Chat, peer: usize, word: &str) {
    let ails = until(STEP, word, || async {
        let listed = listed(chat, peer).await;
        listed.iter().any(|one| one.fault.contains(word)).then_some(())
    });
    if let Err(error) = ails.await {
        panic!("{error}: {:?}", listed(chat, peer).await);
    }
}

/// The chat does not come back by itself.
async fn stays_away(chat: &Chat, peer: usize) {
    let back =
        until(NEVER, "the chat", || async { (!listed(chat, peer).await.is_empty()).then_some(()) });
    assert!(back.await.is_err(), "it was left, and is back");
}

fn file(chat: &Chat, peer: usize) -> std::path::PathBuf {
    chat.peers[peer].data_dir().join("chats").join(format!("{}.redb", chat.chat))
}

fn spoil(chat: &Chat, peer: usize) {
    fs::write(file(chat, peer), b"this is no store any more".repeat(1_000)).unwrap();
}

/// A crash between adding the chat and removing the invitation, or a write of the peer's own store
/// that failed there. In a chat of two, the file is needed for every vote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leftover_invitation_takes_nothing_from_the_chat_that_runs() {
    for peers in [2, 3] {
        story(async {
            let mut chat = Chat::of(peers, &[]).await;
            let guest = peers - 1;
            chat.says(guest).await;
            let waiting = alone_with_messages(&mut chat, guest).await;
            down(&mut chat, &[guest]).await;
            let before = recovered(&chat, guest);
            let answer = json!({"accept": true, "incarnation": before.incarnation});
            leave_invitation(&chat, guest, answer);
            landed(&mut chat, guest, &waiting).await;
            let invites = chat.peers[guest].client().list_invites(pb::ListInvitesRequest {}).await;
            assert!(invites.unwrap().into_inner().invites.is_empty(), "it is dropped");
            stop(&mut chat, guest).await;
            let after = recovered(&chat, guest);
            assert!(after.boot > before.boot, "it is the same file: {after:?}");
            chat.finish().await;
        })
        .await;
    }
}

/// The file is lost as well: what it had sworn is not forgotten in the name of its incarnation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incarnation_is_not_used_for_a_second_file() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        chat.says(2).await;
        down(&mut chat, &[2]).await;
        let before = recovered(&chat, 2).incarnation;
        leave_invitation(&chat, 2, json!({"accept": true, "incarnation": before}));
        fs::remove_file(file(&chat, 2)).unwrap();
        chat.peers[2].start().await.unwrap();
        chat.settled().await.unwrap();
        chat.says(2).await;
        stop(&mut chat, 2).await;
        assert_ne!(recovered(&chat, 2).incarnation, before, "it is another voter");
        chat.finish().await;
    })
    .await;
}

/// An invitation that came while the chat was repaired is accepted afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_part_and_accepts_an_invitation_loses_nothing() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        chat.says(2).await;
        down(&mut chat, &[2]).await;
        let before = recovered(&chat, 2).incarnation;
        leave_invitation(&chat, 2, Value::Null);
        chat.peers[2].start().await.unwrap();
        chat.settled().await.unwrap();
        let waiting = alone_with_messages(&mut chat, 2).await;
        // It is dropped by itself, or when it is accepted; nobody need be asked for that.
        let _ = accept(&chat, 2).await;
        landed(&mut chat, 2, &waiting).await;
        let invites = chat.peers[2].client().list_invites(pb::ListInvitesRequest {}).await;
        assert!(invites.unwrap().into_inner().invites.is_empty());
        stop(&mut chat, 2).await;
        assert_eq!(recovered(&chat, 2).incarnation, before, "it is the same file as before");
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_a_faulty_chat_ends_its_repair() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        chat.says(2).await;
        down(&mut chat, &[2]).await;
        spoil(&chat, 2);
        // Those who are asked answer late: the repair is in the midst of a question.
        for other in [0, 1] {
            chat.signal(other, Signal::SIGSTOP);
        }
        chat.peers[2].start().await.unwrap();
        ails(&chat, 2, "damaged").await;
        leave(&chat, 2).await;
        for other in [0, 1] {
            chat.signal(other, Signal::SIGCONT);
        }
        stays_away(&chat, 2).await;
        assert!(!file(&chat, 2).exists(), "its file is kept aside");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_again_while_the_chat_is_repaired_is_in_it_once() {
    for is_lost in [false, true] {
        story(async {
            let mut chat = Chat::of(3, &[]).await;
            chat.says(2).await;
            down(&mut chat, &[2]).await;
            match is_lost {
                true => fs::remove_file(file(&chat, 2)).unwrap(),
                false => spoil(&chat, 2),
            }
            remove(&chat, 0, 2).await;
            chat.peers[2].start().await.unwrap();
            ails(&chat, 2, "ask to be invited again").await;
            // One who is still on its way out cannot be invited.
            until(STEP, "the end of the membership", || async {
                let members = &listed(&chat, 1).await[0].members;
                (members.len() == 2).then_some(())
            })
            .await
            .unwrap();
            invite(&chat, 1, 2).await;
            until(STEP, "the invitation", || async { accept(&chat, 2).await.ok() }).await.unwrap();
            chat.settled().await.unwrap();
            chat.says(2).await;
            let listed = listed(&chat, 2).await;
            assert!(listed.len() == 1 && listed[0].fault.is_empty(), "{listed:?}");
            leave(&chat, 2).await;
            until(STEP, "the end", || async { (!file(&chat, 2).exists()).then_some(()) })
                .await
                .unwrap();
            stays_away(&chat, 2).await;
        })
        .await;
    }
}

/// A clock that was a year ahead when the chat was repaired for the last time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_in_the_future_forbids_none_now() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        chat.says(2).await;
        stop(&mut chat, 2).await;
        let (dir, _) = opened(&chat, 2);
        let store = dir.peer_store().unwrap();
        let record = store.get("chats", &chat.chat).unwrap().unwrap();
        let mut record: Value = serde_json::from_slice(&record).unwrap();
        record["renewed_at_ms"] = (now_ms() + 365 * 24 * 3_600 * 1_000).into();
        store.put("chats", &chat.chat, &serde_json::to_vec(&record).unwrap()).unwrap();
        drop((store, dir));
        fs::remove_file(file(&chat, 2)).unwrap();
        chat.peers[2].start().await.unwrap();
        chat.settled().await.unwrap();
        chat.finish().await;
    })
    .await;
}
