//! A majority that is lost for ever: a survivor recovers the chat (R30), offline and explicitly.

use std::process::Output;

use demes::cli::demo::check::lines_of;
use demes::wire::pb;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Chat, STEP, binary, story};

/// Runs `demes recover` for the chat on a peer's data directory.
async fn recover(chat: &Chat, peer: usize, flags: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("--data-dir").arg(chat.peers[peer].data_dir());
    command
        .args(["recover", chat.chat.get(..8).unwrap_or(&chat.chat)])
        .args(flags)
        .kill_on_drop(true);
    tokio::time::timeout(STEP, command.output()).await.expect("it ends by itself").unwrap()
}

/// What it says to a program.
pub async fn recovered(chat: &Chat, peer: usize, flags: &[&str]) -> Value {
    let output = recover(chat, peer, &[flags, &["--json"]].concat()).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("it writes JSON")
}

/// How it refuses.
async fn refused(chat: &Chat, peer: usize, flags: &[&str]) -> String {
    let output = recover(chat, peer, flags).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

pub async fn stop(chat: &mut Chat, peer: usize) {
    chat.signal(peer, Signal::SIGTERM);
    chat.peers[peer].ended(STEP).await.unwrap();
}

/// The texts of a member's messages so far.
async fn texts(chat: &Chat, peer: usize) -> Vec<Box<str>> {
    let lines = lines_of(chat.peers[peer].client(), &chat.chat).await.unwrap();
    lines.into_iter().filter_map(|line| line.message).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_recovers_a_chat_whose_majority_is_lost() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        for peer in 0..3 {
            chat.says(peer).await;
        }
        let running = refused(&chat, 2, &[]).await;
        assert!(running.contains("while the peer is stopped"), "{running}");
        let host = chat.host().await.unwrap();
        let [survivor, lost] = chat.others(&[host])[..] else { panic!("three peers") };
        chat.all_see("everything", |chat| chat.committed == chat.last).await.unwrap();
        chat.peers[host].kill().unwrap();
        chat.peers[lost].kill().unwrap();
        let queued = chat.queues(survivor).await;
        chat.peers[survivor].kill().unwrap();
        for peer in [host, lost, survivor] {
            chat.peers[peer].gone().await.unwrap();
        }

        // Looking changes nothing, and who is behind another survivor is told.
        let mut other = recovered(&chat, lost, &[]).await;
        let shown = recovered(&chat, survivor, &[]).await;
        assert_eq!(shown, recovered(&chat, survivor, &[]).await);
        assert_eq!(shown["members"].as_array().map(Vec::len), Some(3));
        assert_eq!(shown["survivor"], other["survivor"], "both had everything");
        let further = shown["survivor"].as_str().unwrap().replacen('/', "9/", 1);
        let behind = refused(&chat, survivor, &["--confirm", "--survivor", &further]).await;
        assert!(behind.contains("is further than this machine"), "{behind}");
        let other = other["survivor"].take();
        let flags = ["--confirm", "--survivor", other.as_str().unwrap()];
        let done = recovered(&chat, survivor, &flags).await;
        let generation = done["generation"].as_str().unwrap().to_owned();
        let again = refused(&chat, survivor, &["--confirm"]).await;
        assert!(again.contains("only voter"), "{again}");

        // Alone, it hosts and confirms, what was queued too.
        chat.peers[survivor].start().await.unwrap();
        chat.sees(survivor, "a recovered chat", |chat| {
            chat.serving && chat.queued == 0 && chat.generation == generation
        })
        .await;
        chat.says(survivor).await;
        let recovered_texts = texts(&chat, survivor).await;
        assert!(recovered_texts.iter().any(|text| text.ends_with(&queued)), "{recovered_texts:?}");

        // The two who were given up come back, and go on as before. Nothing crosses.
        for peer in [host, lost] {
            chat.peers[peer].start().await.unwrap();
        }
        for peer in [host, lost] {
            chat.sees(peer, "a host of the old course, and the recovery", |chat| {
                let told = |member: &pb::Member| member.other_generation == generation;
                chat.serving && chat.members.iter().filter(|member| told(member)).count() == 1
            })
            .await;
        }
        chat.sees(survivor, "that others go on without the recovery", |chat| {
            chat.members.iter().filter(|it| !it.other_generation.is_empty()).count() == 2
        })
        .await;
        let apart = chat.send(lost);
        let request_id = apart.request_id.clone();
        chat.confirm_apart(apart).await;
        let (old, new) = (texts(&chat, lost).await, texts(&chat, survivor).await);
        assert!(old.iter().any(|text| text.ends_with(&request_id)), "{old:?}");
        assert_eq!(new, recovered_texts, "nothing comes over");
        assert!(!old.iter().any(|text| text.ends_with(&queued)), "{old:?}");

        // They take part in the recovery after all, and get everything.
        for peer in [host, lost] {
            stop(&mut chat, peer).await;
            let followed = recovered(&chat, peer, &["--follow", &generation]).await;
            assert!(followed["kept_at"].is_string(), "{followed}");
            let again = refused(&chat, peer, &["--follow", &generation]).await;
            assert!(again.contains("already"), "{again}");
        }
        for peer in [host, lost] {
            chat.peers[peer].start().await.unwrap();
            chat.sees(peer, "the recovered chat", |chat| {
                chat.serving && chat.generation == generation
            })
            .await;
        }
        chat.all_see("three voters", |chat| {
            let voters = chat.members.iter().filter(|member| member.voter);
            voters.count() == 3 && chat.members.iter().all(|it| it.other_generation.is_empty())
        })
        .await
        .unwrap();
        chat.finish().await;
    })
    .await;
}

/// Five members: the one with the greatest id recovers the chat while it is apart, the one with the
/// least follows, and the three between go on in the old course, where they are a majority.
/// Contacts are asked in the order of their ids, so that the follower meets the old course first,
/// and the least of those three meets the recovery.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_a_recovery_passes_by_those_who_go_on_without_it() {
    story(async {
        let mut chat = Chat::of(5, &[]).await;
        for peer in 0..5 {
            chat.says(peer).await;
        }
        chat.all_see("everything", |chat| chat.committed == chat.last).await.unwrap();
        let mut by_id = chat.others(&[]);
        by_id.sort_by_key(|peer| chat.peers[*peer].id.clone());
        let [follower, hurt, second, third, survivor] = by_id[..] else { panic!("five peers") };
        stop(&mut chat, survivor).await;
        stop(&mut chat, follower).await;
        chat.all_see("the old course with voters of its own", |chat| {
            chat.serving && chat.members.iter().filter(|member| member.voter).count() == 3
        })
        .await
        .unwrap();
        let done = recovered(&chat, survivor, &["--confirm"]).await;
        let generation = done["generation"].as_str().unwrap().to_owned();
        recovered(&chat, follower, &["--follow", &generation]).await;

        for peer in [survivor, follower] {
            chat.peers[peer].start().await.unwrap();
        }
        for peer in [survivor, follower] {
            chat.sees(peer, "the recovered chat with the follower", |chat| {
                let voters = chat.members.iter().filter(|member| member.voter);
                chat.serving && chat.generation == generation && voters.count() == 2
            })
            .await;
        }

        // One of the old course loses its file, and takes up that course again, not the recovery.
        stop(&mut chat, hurt).await;
        let store = format!("chats/{}.redb", chat.chat);
        std::fs::remove_file(chat.peers[hurt].data_dir().join(store)).unwrap();
        chat.peers[hurt].start().await.unwrap();
        let founded = "0".repeat(generation.len());
        for peer in [hurt, second, third] {
            chat.sees(peer, "the old course", |chat| {
                let voters = chat.members.iter().filter(|member| member.voter);
                chat.serving && chat.generation == founded && voters.count() == 3
            })
            .await;
        }
        let before = texts(&chat, survivor).await;
        let apart = chat.send(hurt);
        chat.confirm_apart(apart).await;
        assert_eq!(texts(&chat, survivor).await, before, "nothing comes over");

        // The others follow as well, one after the other, past those who have not yet.
        for peer in [hurt, second, third] {
            stop(&mut chat, peer).await;
            recovered(&chat, peer, &["--follow", &generation]).await;
            chat.peers[peer].start().await.unwrap();
            chat.sees(peer, "the recovered chat", |chat| {
                chat.serving && chat.generation == generation
            })
            .await;
        }
        chat.finish().await;
    })
    .await;
}

/// Somebody recovers a chat whose majority was not lost: that can be taken back, whatever is left
/// of the store. A generation that nobody has drawn is not taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_a_mistaken_recovery_is_taken_back() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let host = chat.host().await.unwrap();
        let mistaken = chat.others(&[host])[0];
        chat.says(mistaken).await;
        chat.all_see("everything", |chat| chat.committed == chat.last).await.unwrap();
        for peer in 0..3 {
            chat.peers[peer].kill().unwrap();
            chat.peers[peer].gone().await.unwrap();
            chat.peers[peer].gone().await.unwrap();
        }
        let done = recovered(&chat, mistaken, &["--confirm"]).await;
        let generation = done["generation"].as_str().unwrap().to_owned();
        let founded = "0".repeat(generation.len());
        chat.peers[mistaken].start().await.unwrap();
        let others = |chat: &pb::Chat| -> Vec<pb::Candidate> {
            let mut candidates = chat.ranking.clone().unwrap_or_default().candidates;
            candidates.retain(|one| one.peer_id != chat.host_peer_id);
            candidates
        };
        chat.sees(mistaken, "who could host", |chat| chat.serving && others(chat).len() == 2).await;
        for one in others(&chat.chat_at(mistaken).await.unwrap()) {
            assert_eq!(one.absence(), pb::Absence::Silent, "nobody has heard of it since");
        }
        let apart = chat.send(mistaken);
        let said_apart = apart.request_id.clone();
        chat.confirm_apart(apart).await;

        chat.start_all().await.unwrap();
        chat.sees(host, "a recovery that it has no part in", |chat| {
            chat.serving && chat.members.iter().any(|it| it.other_generation == generation)
        })
        .await;
        stop(&mut chat, mistaken).await;
        stop(&mut chat, host).await;
        let last = generation.as_bytes()[generation.len() - 1];
        let mistyped = format!("{}{}", &generation[..15], if last == b'0' { '1' } else { '0' });
        let wrong = refused(&chat, host, &["--follow", &mistyped]).await;
        assert!(wrong.contains("look at its digits") && wrong.contains(&generation), "{wrong}");

        // Its name is enough, even where the store can no longer be read.
        let store = format!("chats/{}.redb", chat.chat);
        std::fs::write(chat.peers[mistaken].data_dir().join(store), b"").unwrap();
        let whole = std::mem::replace(&mut chat.chat, "Friday".into());
        let unusable = recover(&chat, mistaken, &[]).await;
        let error = String::from_utf8_lossy(&unusable.stderr).into_owned();
        assert_eq!(unusable.status.code(), Some(74), "{error}");
        assert!(error.contains("--follow GENERATION"), "{error}");
        let followed = recovered(&chat, mistaken, &["--follow", &founded]).await;
        assert_eq!(followed["generation"], founded);
        chat.chat = whole;
        chat.start_all().await.unwrap();
        chat.all_see("three voters in the course that was founded", |chat| {
            let voters = chat.members.iter().filter(|member| member.voter);
            chat.serving && chat.generation == founded && voters.count() == 3
        })
        .await
        .unwrap();
        let texts = texts(&chat, mistaken).await;
        assert!(!texts.iter().any(|text| text.ends_with(&said_apart)), "nothing comes over");
        chat.finish().await;
    })
    .await;
}
