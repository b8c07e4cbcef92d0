//! Voters follow the people, and the chat moves to where it is best placed.

use demes::wire::pb;
use nix::sys::signal::Signal;

use crate::harness::{Chat, STEP, story};

/// A chat of peers with these settings.
async fn chat_with(delays_ms: &[u64], peers: usize, settings: &[(&str, &str)]) -> Chat {
    let mut chat = Chat::prepared(peers, delays_ms);
    for peer in &mut chat.peers {
        for (variable, value) in settings {
            peer.set(variable, value);
        }
    }
    chat.start_all().await.unwrap();
    chat.found("Friday").await.unwrap();
    chat
}

/// Stops two members gracefully that do not host. The host, and the others.
async fn two_stop(chat: &mut Chat) -> (usize, Vec<usize>) {
    let host = chat.host().await.unwrap();
    let others = chat.others(&[host]);
    chat.sees(host, "five voters", |chat| voters(chat) == 5).await;
    for peer in &others[..2] {
        chat.signal(*peer, Signal::SIGTERM);
        chat.peers[*peer].ended(STEP).await.unwrap();
    }
    (host, others)
}

fn voters(chat: &pb::Chat) -> usize {
    chat.members.iter().filter(|member| member.voter).count()
}

// R26, R27, R28: with five voters, the loss of three would end it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_go_home_a_third_is_lost_and_the_other_two_go_on() {
    story(async {
        let mut chat = chat_with(&[], 5, &[("DEMES__TIMERS__BACK_MS", "1000")]).await;
        let (host, others) = two_stop(&mut chat).await;
        chat.sees(host, "three voters", |chat| voters(chat) == 3).await;
        let gone = chat.peers[others[0]].id.clone();
        chat.sees(host, "why one is away", |chat| {
            let ranking = chat.ranking.clone().unwrap_or_default();
            let candidate = ranking.candidates.into_iter().find(|one| one.peer_id == gone);
            candidate.is_some_and(|candidate| candidate.absence() == pb::Absence::Goodbye)
        })
        .await;
        chat.peers[others[2]].kill().unwrap();
        chat.says(host).await;
        chat.says(others[3]).await;

        chat.start_all().await.unwrap();
        chat.sees(others[3], "five voters again", |chat| voters(chat) == 5).await;
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_keeps_its_seat_while_it_restarts() {
    story(async {
        let mut chat = chat_with(&[], 5, &[("DEMES__PEER__ON_STOP", "keep-seat")]).await;
        let (host, others) = two_stop(&mut chat).await;
        // Some heartbeats and confirmed messages later, they vote still.
        chat.says(host).await;
        for _ in 0..10 {
            let confirmed = chat.says(others[3]).await;
            chat.sees(host, "the message", |chat| chat.committed >= confirmed).await;
        }
        assert_eq!(voters(&chat.chat_at(host).await.unwrap()), 5);
        chat.finish().await;
    })
    .await;
}

// R23: the founder is far from the others, who are near each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chat_moves_to_a_member_that_is_better_placed() {
    story(async {
        let settings = [
            ("DEMES__TIMERS__TENURE_MS", "2000"),
            ("DEMES__TIMERS__MOVE_AFTER_MS", "2000"),
            ("DEMES__TIMERS__PUBLISH_MS", "500"),
        ];
        let mut chat = chat_with(&[60, 5, 5], 3, &settings).await;
        let far = chat.peers[0].id.clone();
        chat.all_see("another host than the founder", |chat| {
            chat.serving && !chat.host_peer_id.is_empty() && chat.host_peer_id != far
        })
        .await
        .unwrap();
        chat.says(0).await;
        chat.finish().await;
    })
    .await;
}

async fn comes_in(chat: &Chat, peer: usize) {
    let address = chat.peers[peer].address().to_string();
    let request =
        pb::InviteMemberRequest { chat: chat.chat.clone(), address, ..Default::default() };
    chat.peers[0].client().invite_member(request).await.unwrap();
    chat.accept(peer).await.unwrap();
}

// R7: two of the three who are left have joined while the third was frozen, and it is needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_follows_a_host_whose_joining_it_has_not_read_yet() {
    story(async {
        let mut chat = Chat::prepared(5, &[]);
        for peer in &mut chat.peers {
            peer.set("DEMES__TIMERS__SILENT_CRITICAL_MS", "60000");
        }
        chat.start_all().await.unwrap();
        let request = pb::CreateChatRequest { name: "Friday".into(), ..Default::default() };
        let answer = chat.peers[0].client().create_chat(request).await.unwrap().into_inner();
        chat.chat = answer.chat.expect("CreateChat answers with the chat").chat_id;
        comes_in(&chat, 1).await;
        comes_in(&chat, 2).await;
        chat.sees(0, "three voters", |chat| chat.serving && voters(chat) == 3).await;
        let behind = chat.says(2).await;

        chat.signal(2, Signal::SIGSTOP);
        comes_in(&chat, 3).await;
        comes_in(&chat, 4).await;
        chat.sees(0, "five voters", |chat| voters(chat) == 5).await;
        let last = chat.says(3).await;
        for peer in [3, 4] {
            chat.sees(peer, "what was said", |chat| chat.committed >= last).await;
        }
        chat.peers[0].kill().unwrap();
        chat.peers[1].kill().unwrap();
        chat.signal(2, Signal::SIGCONT);

        chat.says(4).await;
        chat.sees(2, "its new host", |chat| chat.serving && chat.committed > behind).await;
        chat.start_all().await.unwrap();
        chat.settled().await.unwrap();
        chat.finish().await;
    })
    .await;
}
