//! Positions that a reader was shown before a crash (R36): the commit index is written down a
//! moment later, so that they may lie ahead of what the next run knows to be committed.

use demes::cli::demo::peer::until;
use demes::wire::pb;
use demes::wire::pb::event::Kind;
use tonic::Code;

use crate::harness::{Chat, STEP, assert_refused, story};

/// A crash seldom leaves the commit index written down; so often is enough.
const CRASHES_MAX: usize = 20;

fn feed_after(chat: &Chat, after: u64) -> pb::FeedRequest {
    pb::FeedRequest { cursors: vec![pb::FeedCursor { chat: chat.chat.clone(), after }] }
}

/// Kills everybody just when `peer` was told that its message is confirmed, and starts it alone.
/// Gives the message's sequence, which the peer does not know to be committed now.
async fn crashed_ahead(chat: &mut Chat, peer: usize) -> u64 {
    for _ in 0..CRASHES_MAX {
        chat.start_all().await.unwrap();
        chat.host().await.unwrap();
        let sequence = chat.says(peer).await;
        for one in [&[peer][..], &chat.others(&[peer])].concat() {
            chat.peers[one].kill().unwrap();
        }
        for one in chat.others(&[]) {
            chat.peers[one].gone().await.unwrap();
        }
        chat.peers[peer].start().await.unwrap();
        if chat.chat_at(peer).await.unwrap().committed < sequence {
            return sequence;
        }
    }
    panic!("the commit index was written down {CRASHES_MAX} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r36_a_cursor_at_a_confirmed_message_is_waited_for_after_a_crash() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let host = chat.host().await.unwrap();
        let reader = chat.others(&[host])[0];
        let sequence = crashed_ahead(&mut chat, reader).await;

        // Nobody can say whether it is committed; it was shown, so that it is waited for.
        let client = chat.peers[reader].client();
        let request = feed_after(&chat, sequence);
        let mut feed = client.clone().feed(request).await.expect("it begins").into_inner();
        let (mut marking, id) = (client.clone(), chat.chat.clone());
        let marked = tokio::spawn(async move {
            let request = pb::MarkReadRequest { chat: id, sequence };
            marking.mark_read(request).await.map(drop)
        });
        chat.start_all().await.unwrap();
        marked.await.unwrap().expect("it is known in the end");
        let mut after = sequence;
        let mut caught_up = false;
        let last = chat.says(host).await;
        while after < last {
            let frame = tokio::time::timeout(STEP, feed.message()).await.expect("it goes on");
            for event in frame.unwrap().expect("it has no end").events {
                if let Some(Kind::CaughtUp(_)) = event.kind {
                    assert!(!caught_up, "it is said once");
                    caught_up = true;
                } else if event.sequence > 0 {
                    assert_eq!(event.sequence, after + 1, "every entry, once");
                    after = event.sequence;
                }
            }
        }
        assert!(caught_up);

        // What nobody can have been shown is refused once the peer has what its host has.
        let ahead = until(STEP, "a refusal", || async {
            let mut client = client.clone();
            let feed = match client.feed(feed_after(&chat, last + 1_000)).await {
                Ok(feed) => feed,
                Err(refused) => return Some(refused),
            };
            feed.into_inner().message().await.err()
        });
        let refused: Result<(), _> = Err(ahead.await.unwrap());
        assert_refused(refused, Code::OutOfRange, "CURSOR_AHEAD");
        chat.finish().await;
    })
    .await;
}
