//! Too few are there: nothing is confirmed, nothing is lost, and it goes on when they are back.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::{Chat, STEP, story};

/// Longer than the longest lease: whoever would wrongly confirm has had the time to.
const LONG_ENOUGH: Duration = Duration::from_millis(3_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_with_a_minority_confirms_nothing_until_a_majority_is_back() {
    story(async {
        let mut chat = Chat::of(5, &[]).await;
        let host = chat.host().await.unwrap();
        let others = chat.others(&[host]);
        chat.says(others[0]).await;
        for place in &others[1..] {
            chat.peers[*place].kill().unwrap();
        }
        let mut by_host = chat.send(host);
        let mut by_member = chat.send(others[0]);
        chat.stays_unconfirmed(&mut by_host, LONG_ENOUGH).await;
        chat.stays_unconfirmed(&mut by_member, Duration::ZERO).await;
        chat.sees(host, "the host to say that it waits for a majority", |chat| {
            !chat.serving && chat.voters_in_contact == 2 && chat.majority == 3
        })
        .await;
        chat.peers[others[1]].start().await.unwrap();
        chat.confirm(by_host).await;
        chat.confirm(by_member).await;
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_goes_on_without_a_frozen_minority_that_had_the_host() {
    story(async {
        let mut chat = Chat::of(5, &[]).await;
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let others = chat.others(&[host]);
        let (with_host, majority) = (others[0], &others[1..]);
        chat.says(with_host).await;
        chat.signal(host, Signal::SIGSTOP);
        chat.signal(with_host, Signal::SIGSTOP);
        for speaker in majority {
            chat.says(*speaker).await;
        }
        let in_minority = chat.chat_at(majority[0]).await.unwrap();
        assert!(in_minority.term > term);
        chat.signal(host, Signal::SIGCONT);
        chat.signal(with_host, Signal::SIGCONT);
        chat.says(host).await;
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_without_a_host_elects_nobody() {
    story(async {
        let mut chat = Chat::of(5, &[]).await;
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let others = chat.others(&[host]);
        let (lost, left) = (&others[..2], &others[2..]);
        chat.says(left[0]).await;
        for place in lost.iter().chain([&host]) {
            chat.peers[*place].kill().unwrap();
        }
        let mut waiting = chat.send(left[0]);
        chat.stays_unconfirmed(&mut waiting, LONG_ENOUGH).await;
        for place in left {
            let view = chat.chat_at(*place).await.unwrap();
            assert!(!view.serving && view.term == term, "a nomination raises no term: {view:?}");
        }
        chat.peers[lost[0]].start().await.unwrap();
        chat.confirm(waiting).await;
        chat.finish().await;
    })
    .await;
}
