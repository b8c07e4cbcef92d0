//! Hosts die; the chat goes on.

use nix::sys::signal::Signal;

use crate::harness::{Chat, STEP, story};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_host_is_killed_the_next_one_goes_on() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let others = chat.others(&[host]);
        chat.says(host).await;
        chat.says(others[0]).await;
        chat.peers[host].kill().unwrap();
        let first = chat.says(others[0]).await;
        assert!(chat.says(others[1]).await > first);
        let (next, next_term) = chat.host_above(term, STEP).await.unwrap();
        assert!(next != host && next_term > term);
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_host_and_the_next_one_are_killed_the_third_goes_on() {
    story(async {
        let mut chat = Chat::of(5, &[]).await;
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let ranked = |chat: &demes::wire::pb::Chat| {
            chat.ranking.as_ref().is_some_and(|ranking| ranking.candidates.len() == 5)
        };
        chat.all_see("five ranked candidates", ranked).await.unwrap();
        let ranking = chat.chat_at(host).await.unwrap().ranking.unwrap();
        let places = ranking.candidates.iter().filter_map(|one| chat.place_of(&one.peer_id));
        let next = places.into_iter().find(|place| *place != host).unwrap();
        let others = chat.others(&[host, next]);
        chat.says(others[0]).await;
        chat.peers[host].kill().unwrap();
        chat.peers[next].kill().unwrap();
        for speaker in &others {
            chat.says(*speaker).await;
        }
        let (third, third_term) = chat.host_above(term, STEP).await.unwrap();
        assert!(others.contains(&third) && third_term > term);
        chat.finish().await;
    })
    .await;
}

/// Nobody can be nominated from a list that has not been published yet: everyone asks everyone
/// (R20).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_before_it_has_ranked_anyone_is_followed_all_the_same() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        chat.peers[host].kill().unwrap();
        let others = chat.others(&[host]);
        chat.says(others[0]).await;
        chat.host_above(term, STEP).await.unwrap();
        chat.finish().await;
    })
    .await;
}

/// Messages keep coming from two peers while one host after the other is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_under_way_survive_three_hosts_in_a_row() {
    story(async {
        let mut chat = Chat::of(5, &[]).await;
        for _ in 0..3 {
            let (host, term) = chat.host_above(0, STEP).await.unwrap();
            let others = chat.others(&[host]);
            let mut under_way: Vec<_> = (0..60).map(|n| chat.send(others[n % 2])).collect();
            let last_before = under_way.remove(29);
            chat.confirm(last_before).await;
            chat.peers[host].kill().unwrap();
            under_way.extend((0..60).map(|n| chat.send(others[n % 2])).collect::<Vec<_>>());
            for message in under_way {
                chat.confirm(message).await;
            }
            chat.host_above(term, STEP).await.unwrap();
            chat.start_all().await.unwrap();
            chat.settled().await.unwrap();
        }
        chat.finish().await;
    })
    .await;
}

/// The followers are frozen, so that the host can accept a message but not commit it; then it dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_accepted_by_a_host_that_dies_before_it_commits_lands_once() {
    story(async {
        let mut chat = Chat::of(5, &[]).await;
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let others = chat.others(&[host]);
        let (sender, frozen) = (others[0], &others[1..]);
        chat.says(sender).await;
        for place in frozen {
            chat.signal(*place, Signal::SIGSTOP);
        }
        let by_member = chat.send(sender);
        let by_host = chat.queues(host).await;
        chat.sees(host, "both messages in the host's log", |chat| chat.last >= chat.committed + 2)
            .await;
        chat.peers[host].kill().unwrap();
        for place in frozen {
            chat.signal(*place, Signal::SIGCONT);
        }
        chat.confirm(by_member).await;
        chat.host_above(term, STEP).await.unwrap();

        chat.peers[host].start().await.unwrap();
        let repeated = chat.send_as(host, by_host);
        chat.confirm(repeated).await;
        chat.finish().await;
    })
    .await;
}

/// A frozen host is silent, and its connections stay open; when it wakes it has been followed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_host_steps_down_when_it_wakes_and_its_messages_land_once() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let others = chat.others(&[host]);
        chat.says(host).await;
        let under_way: Vec<_> = (0..20).map(|_| chat.send(host)).collect();
        chat.signal(host, Signal::SIGSTOP);
        chat.says(others[0]).await;
        let (next, next_term) = chat.host_above(term, STEP).await.unwrap_or_else(|error| {
            panic!("{error:#}");
        });
        assert_ne!(next, host);
        chat.signal(host, Signal::SIGCONT);
        let next_id = chat.peers[next].id.clone();
        chat.sees(host, "the frozen host to follow", |chat| {
            chat.term >= next_term && chat.host_peer_id == next_id
        })
        .await;
        for message in under_way {
            chat.confirm(message).await;
        }
        chat.finish().await;
    })
    .await;
}
