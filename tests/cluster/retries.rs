//! Requests that are repeated by their ids while a chat is repaired, begins anew or is recovered
//! (R9, R30, R37): each stands in the chat once, at the place that every answer names, and what its
//! author said first stands first.

use std::fs;
use std::time::Duration;

use demes::cli::demo::check::lines_of;
use demes::cli::demo::cluster::say;
use demes::cli::demo::peer::until;
use demes::wire::pb;
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;

use crate::damage::{Files, MIDDLE, cut_in_half, spoil, three};
use crate::harness::{Chat, STEP, story};
use crate::recovery::{recovered, stop};

/// Requests of each kind: those that were confirmed before, those that wait, and newer ones.
const MANY: usize = 40;
/// How long a program waits for an answer before it repeats its request.
const CALL: Duration = Duration::from_secs(1);

/// A program that repeats a request until it is confirmed, whatever it is told meanwhile.
fn repeats(chat: &Chat, peer: usize, id: &str) -> JoinHandle<(String, u64)> {
    let (client, chat, id) = (chat.peers[peer].client(), chat.chat.clone(), id.to_owned());
    tokio::spawn(async move {
        let text = format!("text of {id}");
        let confirmed = until(STEP, "a confirmation", || async {
            let call = say(client.clone(), &chat, &text, &id);
            tokio::time::timeout(CALL, call).await.ok()?.ok()
        });
        let sequence = confirmed.await.unwrap_or_else(|error| panic!("{id}: {error}"));
        (id, sequence)
    })
}

/// A program that says one thing after the other: each once the one before was said to be queued,
/// and all again until they are confirmed.
fn says_in_order(chat: &Chat, peer: usize, ids: Vec<String>) -> JoinHandle<()> {
    let (client, chat) = (chat.peers[peer].client(), chat.chat.clone());
    tokio::spawn(async move {
        for id in ids {
            let queued = until(STEP, "a place in the outbox", || async {
                let request = pb::SendMessageRequest {
                    chat: chat.clone(),
                    text: format!("text of {id}"),
                    request_id: id.clone(),
                    wait: pb::Wait::Queued.into(),
                };
                let mut client = client.clone();
                let call = client.send_message(request);
                tokio::time::timeout(CALL, call).await.ok()?.ok()
            });
            queued.await.unwrap_or_else(|error| panic!("{id}: {error}"));
        }
    })
}

fn newer(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("newer-{number}")).collect()
}

/// Repeats everything at once while newer things are said, and again when all is quiet.
async fn repeat_all(chat: &mut Chat, peer: usize, before: &[String]) {
    let newer = newer(MANY);
    let saying = says_in_order(chat, peer, newer.clone());
    let calls: Vec<_> = before.iter().map(|id| repeats(chat, peer, id)).collect();
    for call in calls {
        let (id, sequence) = call.await.unwrap();
        chat.note(peer, &id, sequence);
    }
    saying.await.unwrap();
    for id in before.iter().chain(&newer) {
        let (id, sequence) = repeats(chat, peer, id).await.unwrap();
        chat.note(peer, &id, sequence);
    }
}

/// Asserts that these requests of the peer stand in the chat once each, in this order.
async fn stand_in_order(chat: &Chat, peer: usize, ids: &[String]) {
    let lines = lines_of(chat.peers[peer].client(), &chat.chat).await.unwrap();
    let begins = format!("{}/", &chat.peers[peer].id[..8]);
    let said = lines.iter().filter_map(|line| line.message.as_deref()?.strip_prefix(&begins));
    let said: Vec<&str> = said.filter(|id| ids.iter().any(|known| known == id)).collect();
    assert_eq!(said, ids, "each once, in the order in which they were said");
}

/// What waits in the store when its peer comes back.
#[derive(Clone, Copy, PartialEq)]
enum Waiting {
    /// It can be read, and is sent by itself: what is newer stands behind it.
    Lands,
    /// It is lost with the store, until its program sends it again.
    IsRepeated,
}

/// A member's store is hurt while it is down, with messages in it that only wait. Programs repeat
/// them, and what was confirmed before, from the first moment on.
async fn repeated_while_repaired(happens: impl Fn(&Files), waiting: Waiting) {
    let (mut chat, hurt) = three(&[]).await;
    let files = Files::of(&chat, hurt);
    let mut ids = Vec::new();
    for _ in 0..MANY {
        let message = chat.send(hurt);
        ids.push(message.request_id.clone());
        chat.confirm(message).await;
    }
    for other in chat.others(&[hurt]) {
        chat.peers[other].kill().unwrap();
        chat.peers[other].gone().await.unwrap();
    }
    for _ in 0..MANY {
        ids.push(chat.queues(hurt).await);
    }
    chat.peers[hurt].kill().unwrap();
    chat.peers[hurt].gone().await.unwrap();
    happens(&files);
    chat.start_all().await.unwrap();
    repeat_all(&mut chat, hurt, &ids).await;
    if waiting == Waiting::Lands {
        ids.extend(newer(MANY));
        stand_in_order(&chat, hurt, &ids).await;
    }
    chat.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r37_what_is_repeated_while_a_chat_is_repaired_lands_once() {
    story(repeated_while_repaired(|files| spoil(&files.store, MIDDLE), Waiting::Lands)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_what_is_repeated_after_a_store_was_lost_lands_once() {
    let lost = |files: &Files| fs::remove_file(&files.store).unwrap();
    story(repeated_while_repaired(lost, Waiting::IsRepeated)).await;
    story(repeated_while_repaired(|files| cut_in_half(&files.store), Waiting::IsRepeated)).await;
}

/// An old copy that is put back has requests in its outbox which the log has under other numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_what_is_repeated_after_an_old_copy_was_put_back_lands_once() {
    story(async {
        let (mut chat, hurt) = three(&[]).await;
        let files = Files::of(&chat, hurt);
        for other in chat.others(&[hurt]) {
            chat.peers[other].kill().unwrap();
            chat.peers[other].gone().await.unwrap();
        }
        let mut ids = Vec::new();
        for _ in 0..MANY {
            ids.push(chat.queues(hurt).await);
        }
        stop(&mut chat, hurt).await;
        let (store, mark) = files.copy();
        chat.start_all().await.unwrap();
        for id in &ids {
            let (id, sequence) = repeats(&chat, hurt, id).await.unwrap();
            chat.note(hurt, &id, sequence);
        }
        for _ in 0..MANY {
            let message = chat.send(hurt);
            ids.push(message.request_id.clone());
            chat.confirm(message).await;
        }
        // The others stay: what they remember of this peer tells. The store that is repaired first
        // is damaged, so that what waited in the copy has another number in the log afterwards.
        chat.peers[hurt].kill().unwrap();
        chat.peers[hurt].gone().await.unwrap();
        fs::write(&files.store, store).unwrap();
        fs::write(files.mark(), mark).unwrap();
        chat.peers[hurt].start().await.unwrap();
        repeat_all(&mut chat, hurt, &ids).await;
        chat.finish().await;
    })
    .await;
}

/// The host has entries of its own that nobody else has when the chat is recovered there: they are
/// committed by that, and a repeat finds them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_what_the_recovering_host_had_not_confirmed_is_found_when_it_is_repeated() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let host = chat.host().await.unwrap();
        let message = chat.send(host);
        let mut ids = vec![message.request_id.clone()];
        chat.confirm(message).await;
        for other in chat.others(&[host]) {
            chat.signal(other, Signal::SIGSTOP);
        }
        for _ in 0..MANY {
            ids.push(chat.queues(host).await);
        }
        // It may pause before it has taken all of them into its log.
        chat.sees(host, "entries that nobody else has", |chat| chat.last > chat.committed).await;
        for peer in 0..3 {
            chat.peers[peer].kill().unwrap();
            chat.peers[peer].gone().await.unwrap();
        }
        recovered(&chat, host, &["--confirm"]).await;
        for _ in 0..3 {
            chat.peers[host].start().await.unwrap();
            let calls: Vec<_> = ids.iter().map(|id| repeats(&chat, host, id)).collect();
            for call in calls {
                let (id, sequence) = call.await.unwrap();
                chat.note(host, &id, sequence);
            }
            stand_in_order(&chat, host, &ids).await;
            stop(&mut chat, host).await;
        }
    })
    .await;
}

/// Who follows a recovery takes along what waited, and programs repeat it at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_what_is_repeated_while_a_recovery_is_followed_lands_once() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let host = chat.host().await.unwrap();
        let [survivor, follower] = chat.others(&[host])[..] else { panic!("three peers") };
        let mut ids = Vec::new();
        for _ in 0..MANY {
            let message = chat.send(follower);
            ids.push(message.request_id.clone());
            chat.confirm(message).await;
        }
        chat.all_see("everything", |chat| chat.committed == chat.last).await.unwrap();
        for peer in [host, survivor] {
            chat.peers[peer].kill().unwrap();
            chat.peers[peer].gone().await.unwrap();
        }
        for _ in 0..MANY {
            ids.push(chat.queues(follower).await);
        }
        stop(&mut chat, follower).await;
        let done = recovered(&chat, survivor, &["--confirm"]).await;
        let generation = done["generation"].as_str().unwrap().to_owned();
        for peer in [host, follower] {
            recovered(&chat, peer, &["--follow", &generation]).await;
        }
        chat.start_all().await.unwrap();
        repeat_all(&mut chat, follower, &ids).await;
        ids.extend(newer(MANY));
        stand_in_order(&chat, follower, &ids).await;
        chat.finish().await;
    })
    .await;
}

/// Who has left and is invited again finds what it said before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_what_is_repeated_after_joining_again_is_found() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let host = chat.host().await.unwrap();
        let leaver = chat.others(&[host])[0];
        let mut ids = Vec::new();
        for _ in 0..MANY {
            let message = chat.send(leaver);
            ids.push(message.request_id.clone());
            chat.confirm(message).await;
        }
        let request = pb::LeaveChatRequest { chat: chat.chat.clone(), ..Default::default() };
        chat.peers[leaver].client().leave_chat(request).await.unwrap();
        chat.sees(host, "one member less", |chat| chat.members.len() == 2).await;
        let request = pb::InviteMemberRequest {
            chat: chat.chat.clone(),
            address: chat.peers[leaver].address().to_string(),
            timeout_s: 0,
            ..Default::default()
        };
        chat.peers[host].client().invite_member(request).await.unwrap();
        let calls: Vec<_> = ids.iter().map(|id| repeats(&chat, leaver, id)).collect();
        chat.accept(leaver).await.unwrap();
        for call in calls {
            let (id, sequence) = call.await.unwrap();
            chat.note(leaver, &id, sequence);
        }
        chat.settled().await.unwrap();
        stand_in_order(&chat, leaver, &ids).await;
        chat.finish().await;
    })
    .await;
}
