//! What a person's programs may and may not ask of their peer, over gRPC.

use demes::cli::demo::peer::until;
use demes::wire::pb;
use demes::wire::pb::event::Kind;
use tonic::Code;

use crate::harness::{Chat, STEP, assert_refused, story};

fn message(chat: &str, text: &str, request_id: &str) -> pb::SendMessageRequest {
    pb::SendMessageRequest {
        chat: chat.into(),
        text: text.into(),
        request_id: request_id.into(),
        wait: pb::Wait::Committed.into(),
    }
}

fn pages(chat: &str, page_size: i32, token: &str) -> pb::ListMessagesRequest {
    pb::ListMessagesRequest { chat: chat.into(), page_size, page_token: token.into(), from: None }
}

// R44: what is too long, too much or malformed is refused before anything is made of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_with_code_and_reason_and_changes_nothing() {
    story(async {
        let mut chat = Chat::of(1, &[]).await;
        let (id, mut client) = (chat.chat.clone(), chat.peers[0].client());
        let before = chat.says(0).await;
        let invalid = Code::InvalidArgument;

        let long = client.send_message(message(&id, &"x".repeat(2_049), "")).await;
        assert_refused(long, invalid, "TEXT_TOO_LONG");
        let long = client.send_message(message(&id, &"🦀".repeat(2_049), "")).await;
        assert_refused(long, invalid, "TEXT_TOO_LONG");
        let huge = client.send_message(message(&id, &"x".repeat(40_000), "")).await;
        assert_refused(huge, invalid, "TEXT_TOO_LONG");
        assert_refused(client.send_message(message(&id, "", "")).await, invalid, "TEXT_EMPTY");
        for bad in ["white space", "ünï", &"x".repeat(65)] {
            let answer = client.send_message(message(&id, "hello", bad)).await;
            assert_refused(answer, invalid, "REQUEST_ID_INVALID");
        }
        for unknown in ["nothing of the kind", "", &"0".repeat(32)] {
            let answer = client.send_message(message(unknown, "hello", "")).await;
            assert_refused(answer, Code::NotFound, "CHAT_NOT_FOUND");
        }
        let negative = client.list_messages(pages(&id, -1, "")).await;
        assert_refused(negative, invalid, "PAGE_SIZE_INVALID");
        let token = client.list_messages(pages(&id, 10, "not a token")).await;
        assert_refused(token, invalid, "PAGE_TOKEN_INVALID");
        for (name, address, reason) in [
            ("", "127.0.0.1:1", "NAME_INVALID"),
            (&*"x".repeat(65), "127.0.0.1:1", "NAME_INVALID"),
            ("Trip", "no port", "ADDRESS_INVALID"),
            ("Trip", "abc@127.0.0.1:1", "ADDRESS_INVALID"),
            ("Trip", "::1:7443", "ADDRESS_INVALID"),
        ] {
            let request = pb::CreateChatRequest {
                name: name.into(),
                addresses: vec![address.into()],
                invite_timeout_s: 0,
                ..Default::default()
            };
            assert_refused(client.create_chat(request).await, invalid, reason);
        }
        let invite = pb::AcceptInviteRequest { chat: "nobody's".into(), link: String::new() };
        let answer = client.accept_invite(invite).await;
        assert_refused(answer, Code::NotFound, "INVITE_NOT_FOUND");
        let cursors = vec![pb::FeedCursor { chat: id.clone(), after: 1_000_000 }];
        let ahead = match client.feed(pb::FeedRequest { cursors }).await {
            Ok(stream) => stream.into_inner().message().await,
            Err(status) => Err(status),
        };
        assert_refused(ahead, Code::OutOfRange, "CURSOR_AHEAD");

        assert_eq!(chat.says(0).await, before + 1, "nothing of it reached the chat");
        chat.finish().await;
    })
    .await;
}

/// Without a majority the log does not have the invitation yet, and so no answer to it either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_that_the_log_does_not_have_yet_is_not_declined() {
    story(async {
        let mut chat = Chat::of(2, &[]).await;
        let guest = Chat::of(1, &[]).await;
        chat.peers[1].kill().unwrap();
        chat.sees(0, "that it is alone", |chat| !chat.serving).await;
        let mut client = chat.peers[0].client();
        let address = guest.peers[0].address().to_string();
        let request = pb::InviteMemberRequest {
            chat: chat.chat.clone(),
            address: address.clone(),
            timeout_s: 0,
            ..Default::default()
        };
        client.invite_member(request).await.unwrap();
        let reached = || async {
            let list = client.clone().list_invites(pb::ListInvitesRequest {}).await.ok()?;
            let invites = list.into_inner().invites;
            let invite = invites.into_iter().find(|one| one.address == address)?;
            (!invite.name.is_empty()).then_some(invite.state())
        };
        let state = until(STEP, "the invitation to arrive", reached).await.unwrap();
        assert_eq!(state, pb::InviteState::Pending);
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_text_arrives_whole_at_everyone() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let (id, text) = (chat.chat.clone(), "🦀".repeat(2_048));
        let sent = chat.peers[1].client().send_message(message(&id, &text, "long")).await;
        let sequence = sent.unwrap().into_inner().sequence;
        chat.note(1, "long", sequence);
        for place in 0..3 {
            chat.sees(place, "the text to be confirmed", |chat| chat.committed >= sequence).await;
            let page = chat.peers[place].client().list_messages(pages(&id, 1, "")).await;
            let page = page.unwrap().into_inner();
            let Some(Kind::Message(read)) = &page.messages[0].kind else { panic!("{page:?}") };
            assert_eq!((page.messages[0].sequence, &read.text), (sequence, &text));
        }
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_gets_the_first_sequence_after_a_host_change_too() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let speaker = chat.others(&[host])[0];
        let once = chat.send_as(speaker, "only-once".into());
        let first = chat.confirm(once).await;
        let again = chat.send_as(speaker, "only-once".into());
        assert_eq!(chat.confirm(again).await, first);
        chat.peers[host].kill().unwrap();
        chat.host_above(term, STEP).await.unwrap();
        let again = chat.send_as(speaker, "only-once".into());
        assert_eq!(chat.confirm(again).await, first);
        chat.peers[speaker].kill().unwrap();
        chat.start_all().await.unwrap();
        let again = chat.send_as(speaker, "only-once".into());
        assert_eq!(chat.confirm(again).await, first, "and after the sender's restart");
        chat.finish().await;
    })
    .await;
}

/// Reads durable events after `after` until `count` of them are there.
async fn read(chat: &Chat, peer: usize, after: u64, count: usize) -> (Vec<u64>, bool) {
    let cursors = vec![pb::FeedCursor { chat: chat.chat.clone(), after }];
    let request = pb::FeedRequest { cursors };
    let mut feed = chat.peers[peer].client().feed(request).await.unwrap().into_inner();
    let (mut sequences, mut caught_up) = (Vec::new(), false);
    while sequences.len() < count {
        let frame = tokio::time::timeout(STEP, feed.message()).await.expect("events come in time");
        for event in frame.unwrap().expect("a feed goes on").events {
            match event.kind {
                Some(Kind::CaughtUp(_)) => caught_up = true,
                Some(Kind::Progress(_)) => {}
                _ => sequences.push(event.sequence),
            }
        }
    }
    (sequences, caught_up)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_goes_on_from_a_cursor_and_through_a_change_of_the_host() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let host = chat.host().await.unwrap();
        let reader = chat.others(&[host])[0];
        let mut last = 0;
        for _ in 0..10 {
            last = chat.says(reader).await;
        }
        let (all, _) = read(&chat, reader, 0, usize::try_from(last).unwrap()).await;
        assert_eq!(all, (1..=last).collect::<Vec<_>>());

        let (more, caught_up) = {
            let reading = read(&chat, reader, last - 3, 8);
            let mut clone = chat.peers[reader].client();
            let id = chat.chat.clone();
            let talking = async {
                for n in 0..5 {
                    let said = message(&id, "live", &format!("live-{n}"));
                    clone.send_message(said).await.unwrap();
                }
            };
            tokio::join!(reading, talking).0
        };
        assert_eq!(more[..8], (last - 2..last + 6).collect::<Vec<_>>());
        assert!(caught_up, "the end of what was missed is told");

        let cursor = last + 5;
        let cursors = vec![pb::FeedCursor { chat: chat.chat.clone(), after: cursor }];
        let request = pb::FeedRequest { cursors };
        let mut feed = chat.peers[reader].client().feed(request).await.unwrap().into_inner();
        chat.peers[host].kill().unwrap();
        let said = chat.says(reader).await;
        let mut next = cursor + 1;
        while next <= said {
            let frame = tokio::time::timeout(STEP, feed.message()).await.expect("in time");
            for event in frame.unwrap().expect("the feed survives the host").events {
                if event.sequence != 0 {
                    assert_eq!(event.sequence, next);
                    next += 1;
                }
            }
        }
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_comes_in_pages_both_ways() {
    story(async {
        use pb::list_messages_request::From;
        let mut chat = Chat::of(1, &[]).await;
        let mut said = Vec::new();
        for _ in 0..25 {
            said.push(chat.says(0).await);
        }
        let mut client = chat.peers[0].client();
        for (from, forwards) in [(From::After(0), true), (From::Before(0), false)] {
            let (mut token, mut read) = (String::new(), Vec::new());
            loop {
                let request =
                    pb::ListMessagesRequest { from: Some(from), ..pages(&chat.chat, 10, &token) };
                let page = client.list_messages(request).await.unwrap().into_inner();
                let sequences: Vec<_> = page.messages.iter().map(|one| one.sequence).collect();
                assert!(sequences.is_sorted() && sequences.len() <= 10);
                if forwards {
                    read.extend(sequences);
                } else {
                    read.splice(0..0, sequences);
                }
                token = page.next_page_token;
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(read, said);
        }
        let cut = client.list_messages(pages(&chat.chat, i32::MAX, "")).await.unwrap();
        assert_eq!(cut.into_inner().messages.len(), 25);
        chat.finish().await;
    })
    .await;
}
