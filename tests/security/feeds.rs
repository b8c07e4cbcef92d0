//! Readers that do not read (R44).

use std::time::Duration;

use demes::serve::Limits;
use demes::wire::pb;
use demes::wire::pb::client_service_client::ClientServiceClient;
use demes::wire::pb::event::Kind;
use futures_util::future::join_all;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_types::StatusExt as _;

use crate::peer::{LUNCH, PATIENCE, Peer, reason};

/// Several MiB of the longest texts.
async fn says_much(ann: &Peer) {
    let text = "🦀".repeat(2_048);
    for _ in 0..12 {
        join_all((0..32).map(|_| ann.says(LUNCH, &text))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stalls_is_ended_with_the_cursor_to_go_on_from() {
    let limits = Limits { feed_stall: Duration::from_secs(1), ..Limits::default() };
    let ann = Peer::with_limits("Ann", limits).await;
    ann.create(LUNCH, Vec::new()).await.expect("a chat");
    ann.says(LUNCH, "begin").await;
    let address = ann.running.as_ref().expect("it runs").client_address();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    // Small windows: little is on its way to a reader that takes nothing.
    let endpoint = endpoint.initial_stream_window_size(65_535);
    let channel = endpoint.connect().await.expect("it listens");
    let mut stalled = ClientServiceClient::new(channel).max_decoding_message_size(16 << 20);
    let cursors = vec![pb::FeedCursor { chat: LUNCH.to_owned(), after: 0 }];
    let mut feed =
        stalled.feed(pb::FeedRequest { cursors: cursors.clone() }).await.expect("a feed");
    let mut after = 0;
    let mut note = |frame: pb::FeedResponse| {
        for event in frame.events.iter().filter(|event| event.sequence != 0) {
            assert_eq!(event.sequence, after + 1, "no gaps");
            after = event.sequence;
        }
        frame.events.iter().any(|event| matches!(event.kind, Some(Kind::CaughtUp(_))))
    };
    while !note(feed.get_mut().message().await.expect("a frame").expect("no end")) {}
    // Another reader is not held up meanwhile, and sees longer than the limit pass.
    says_much(&ann).await;
    let last = ann.says(LUNCH, "much was said").await;
    assert_eq!(ann.feed().await.len() as u64, last);
    timeout(Duration::from_millis(1_500), std::future::pending::<()>()).await.unwrap_err();
    // What was on its way comes, and then the end: without anything new that would call for it.
    let end = loop {
        match timeout(PATIENCE, feed.get_mut().message()).await.expect("in time") {
            Ok(frame) => drop(note(frame.expect("it ends with a status"))),
            Err(status) => break status,
        }
    };
    assert_eq!((end.code(), reason(&end)), (Code::ResourceExhausted, "SLOW_CONSUMER".to_owned()));
    let info = end.get_details_error_info().expect("details");
    assert_eq!(info.metadata["after"], after.to_string(), "nothing is lost in between");
    assert!(after < last, "it was behind: {after} of {last}");
    // It goes on from there.
    let cursors = vec![pb::FeedCursor { chat: LUNCH.to_owned(), after }];
    let mut feed = stalled.feed(pb::FeedRequest { cursors }).await.expect("a feed");
    let frame = feed.get_mut().message().await.expect("a frame").expect("no end");
    assert_eq!(frame.events[0].sequence, after + 1);
}
