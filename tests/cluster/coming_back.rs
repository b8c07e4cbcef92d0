//! Everything survives everyone having been away, and two people may begin at the same moment.

use std::time::Duration;

use demes::cli::demo::check::lines_of;
use demes::cli::demo::peer::until;
use demes::wire::pb;
use tonic::Code;

use crate::harness::{Chat, STEP, assert_refused, story};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_offline_and_back_keeps_the_log_and_the_identities() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        for n in 0..30 {
            chat.says(n % 3).await;
        }
        let last = chat.says(0).await;
        let before = chat.feeds(last).await.unwrap();
        let ids: Vec<_> = chat.peers.iter().map(|peer| peer.id.clone()).collect();
        for peer in &mut chat.peers {
            peer.kill().unwrap();
        }
        chat.start_all().await.unwrap();
        let ids_now: Vec<_> = chat.peers.iter().map(|peer| peer.id.clone()).collect();
        assert_eq!(ids, ids_now, "a second start keeps the identity");
        let last = chat.says(2).await;
        let after = chat.feeds(last).await.unwrap();
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            assert_eq!(after[..before.len()], before[..], "{name} has kept its log");
        }
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_queued_before_everyone_was_killed_is_sent_after_the_restart() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let host = chat.host().await.unwrap();
        let others = chat.others(&[host]);
        chat.peers[host].kill().unwrap();
        chat.peers[others[1]].kill().unwrap();
        let queued = chat.queues(others[0]).await;
        chat.peers[others[0]].kill().unwrap();
        chat.start_all().await.unwrap();
        chat.sees(others[0], "an empty outbox", |chat| chat.queued == 0).await;
        let lines = lines_of(chat.peers[others[1]].client(), &chat.chat).await.unwrap();
        let landed = lines
            .iter()
            .filter(|line| line.message.as_ref().is_some_and(|message| message.ends_with(&queued)));
        assert!(landed.count() <= 1, "at most once so far at another member");
        let repeated = chat.send_as(others[0], queued);
        chat.confirm(repeated).await;
        chat.finish().await;
    })
    .await;
}

/// Over such a long link a peer is dialled in the midst of its own dial.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_start_at_the_same_moment_connect_over_a_long_link() {
    story(async {
        let mut chat = Chat::of(2, &[0, 0]).await;
        for _ in 0..3 {
            for peer in &mut chat.peers {
                peer.set_delay(Duration::from_millis(150));
                peer.kill().unwrap();
            }
            for peer in &mut chat.peers {
                peer.gone().await.unwrap();
            }
            chat.start_all().await.unwrap();
            for peer in 0..2 {
                chat.sees(peer, "the other one", |chat| chat.voters_in_contact == 2).await;
            }
        }
        for peer in &chat.peers {
            peer.set_delay(Duration::ZERO);
        }
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_who_found_at_the_same_moment_get_two_chats() {
    story(async {
        let mut one = Chat::prepared(2, &[]);
        one.start_all().await.unwrap();
        let clients = [0, 1].map(|place: usize| one.peers[place].client());
        let founded = [(0, 1), (1, 0)].map(|(founder, guest): (usize, usize)| {
            let mut client = clients[founder].clone();
            let addresses = vec![one.peers[guest].address().to_string()];
            async move {
                let request = pb::CreateChatRequest {
                    name: "Same".into(),
                    addresses,
                    invite_timeout_s: 0,
                    ..Default::default()
                };
                client.create_chat(request).await.unwrap().into_inner().chat.unwrap().chat_id
            }
        });
        let [first, second] = founded;
        let (first, second) = tokio::join!(first, second);
        assert_ne!(first, second);
        for (guest, chat) in [(1, &first), (0, &second)] {
            let request = pb::AcceptInviteRequest { chat: chat.clone(), link: String::new() };
            until(STEP, "the other's invitation", || async {
                clients[guest].clone().accept_invite(request.clone()).await.ok()
            })
            .await
            .unwrap();
        }
        for chat in [second, first] {
            one.chat = chat;
            one.settled().await.unwrap();
            let here = one.says(0).await;
            let there = one.says(1).await;
            assert!(there > here);
            one.check().await;
        }
        let by_name = pb::GetChatRequest { chat: "Same".into() };
        let ambiguous = until(STEP, "both names to be known", || async {
            clients[0].clone().get_chat(by_name.clone()).await.err()
        });
        let ambiguous: Result<(), _> = Err(ambiguous.await.unwrap());
        assert_refused(ambiguous, Code::FailedPrecondition, "CHAT_AMBIGUOUS");
    })
    .await;
}
