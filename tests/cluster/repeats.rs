//! Calls that are repeated by their request ids because no answer came: nothing happens twice, and
//! an id that was another request's is refused.

use std::time::Duration;

use demes::wire::pb;
use demes::wire::pb::event::Kind;
use nix::sys::signal::Signal;
use tonic::{Code, Request, Response, Status};

use crate::harness::{Chat, STEP, assert_refused, story};

/// How long a program waits before it repeats its request.
const CALL: Duration = Duration::from_millis(300);
const ATTEMPTS: usize = 5;

fn within<T>(limit: Duration, request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(limit);
    request
}

fn link(chat: &Chat, uses_max: u32) -> pb::CreateInviteLinkRequest {
    let (chat, request_id) = (chat.chat.clone(), "link-1".to_owned());
    pb::CreateInviteLinkRequest { chat, uses_max, valid_s: 60, request_id }
}

fn rename(chat: &Chat) -> pb::UpdateChatRequest {
    let (chat, request_id) = (chat.chat.clone(), "name-1".to_owned());
    pb::UpdateChatRequest { chat, name: "Saturday".into(), quota: None, request_id }
}

fn reason(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_again_and_again_at_a_deadline_happens_once() {
    story(async {
        let chat = Chat::of(3, &[]).await;
        let host = chat.host().await.unwrap();
        let away = chat.others(&[host]);
        let mut client = chat.peers[host].client();
        for peer in &away {
            chat.signal(*peer, Signal::SIGSTOP);
        }
        for _ in 0..ATTEMPTS {
            let made = client.create_invite_link(within(CALL, link(&chat, 2))).await;
            assert_refused(made, Code::DeadlineExceeded, "NO_MAJORITY");
            let renamed = client.update_chat(within(CALL, rename(&chat))).await;
            assert_refused(renamed, Code::DeadlineExceeded, "NO_MAJORITY");
        }
        for peer in &away {
            chat.signal(*peer, Signal::SIGCONT);
        }
        let made = client.create_invite_link(within(STEP, link(&chat, 2))).await.unwrap();
        let again = client.create_invite_link(within(STEP, link(&chat, 2))).await.unwrap();
        let renamed = client.update_chat(within(STEP, rename(&chat))).await.unwrap();
        // By the name that it had, as the first time.
        let renamed_again = client.update_chat(within(STEP, rename(&chat))).await.unwrap();
        assert_eq!(made.get_ref(), again.get_ref());
        assert_eq!(renamed.get_ref(), renamed_again.get_ref());
        let other = client.create_invite_link(link(&chat, 3)).await;
        assert_refused(other, Code::AlreadyExists, "REQUEST_ID_REUSED");
        let links =
            client.list_invites(pb::ListInvitesRequest {}).await.unwrap().into_inner().links;
        assert_eq!(links.len(), 1, "{links:?}");

        let peer = chat.peers[away[0]].id.clone();
        let removal = pb::RemoveMemberRequest {
            chat: chat.chat.clone(),
            peer,
            request_id: "removal-1".into(),
        };
        let removed = client.remove_member(within(STEP, removal.clone())).await.unwrap();
        chat.sees(host, "one member less", |chat| chat.members.len() == 2).await;
        let again = client.remove_member(within(STEP, removal)).await.unwrap();
        assert_eq!(removed.get_ref(), again.get_ref());

        let cursor = pb::FeedCursor { chat: chat.chat.clone(), after: 0 };
        let mut feed =
            client.feed(pb::FeedRequest { cursors: vec![cursor] }).await.unwrap().into_inner();
        let (mut names, mut removals, mut done) = (0, 0, false);
        while !done {
            let events = feed.message().await.unwrap().expect("it goes on").events;
            for event in events {
                match event.kind {
                    Some(Kind::Policy(_)) => names += 1,
                    Some(Kind::Member(member)) => {
                        let is_removal = member.change() == pb::MemberChange::Removing;
                        removals += usize::from(is_removal);
                    }
                    Some(Kind::CaughtUp(_)) => done = true,
                    _ => {}
                }
            }
        }
        assert_eq!((names, removals), (1, 1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_was_another_texts_is_refused_before_and_after_a_restart() {
    story(async {
        let mut chat = Chat::of(1, &[]).await;
        let id = chat.chat.clone();
        let message = |text: &str, wait: i32| pb::SendMessageRequest {
            chat: id.clone(),
            text: text.into(),
            request_id: "message-1".into(),
            wait,
        };
        let committed: i32 = pb::Wait::Committed.into();
        let queued: i32 = pb::Wait::Queued.into();
        let mut client = chat.peers[0].client();
        let unknown = client.send_message(message("yes", 9)).await;
        assert_refused(unknown, Code::InvalidArgument, "REQUEST_INVALID");
        let first = client.send_message(message("yes", queued)).await.unwrap().into_inner();
        assert_eq!(first.request_id, "message-1");
        let other = client.send_message(message("no", queued)).await;
        assert_refused(other, Code::AlreadyExists, "REQUEST_ID_REUSED");
        let first = client.send_message(message("yes", committed)).await.unwrap().into_inner();
        let sequence = |sent: Response<pb::SendMessageResponse>| sent.get_ref().sequence;
        for _ in 0..2 {
            let other = client.send_message(message("no", committed)).await;
            assert_refused(other, Code::AlreadyExists, "REQUEST_ID_REUSED");
            let again = client.send_message(message("yes", committed)).await.unwrap();
            assert_eq!(sequence(again), first.sequence);
            chat.peers[0].kill().unwrap();
            chat.peers[0].gone().await.unwrap();
            chat.peers[0].start().await.unwrap();
            client = chat.peers[0].client();
        }
    })
    .await;
}

/// As those who watch it are told: nothing will come any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feed_of_a_chat_that_was_left_ends_with_a_reason() {
    story(async {
        let mut chat = Chat::of(2, &[]).await;
        let host = chat.host().await.unwrap();
        let leaver = chat.others(&[host])[0];
        chat.says(leaver).await;
        let mut client = chat.peers[leaver].client();
        let cursor = pb::FeedCursor { chat: chat.chat.clone(), after: 0 };
        let request = pb::FeedRequest { cursors: vec![cursor] };
        let mut feed = client.feed(request).await.unwrap().into_inner();
        let watch = pb::WatchChatRequest { chat: chat.chat.clone() };
        let mut watched = client.watch_chat(watch).await.unwrap().into_inner();
        let leave = pb::LeaveChatRequest { chat: chat.chat.clone(), request_id: "leave-1".into() };
        client.leave_chat(leave.clone()).await.unwrap();
        let ended = async {
            loop {
                match feed.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("it ended without a reason"),
                    Err(status) => return status,
                }
            }
        };
        let ended = tokio::time::timeout(STEP, ended).await.expect("the feed ends");
        assert_eq!(reason(&ended), "CHAT_NOT_FOUND", "{ended}");
        let ended = async {
            loop {
                if let Err(status) = watched.message().await {
                    return status;
                }
            }
        };
        let ended = tokio::time::timeout(STEP, ended).await.expect("the watching ends");
        assert_eq!(reason(&ended), "CHAT_NOT_FOUND");
        // The chat is gone, and who repeats the request is told that it was done.
        client.leave_chat(leave).await.unwrap();
    })
    .await;
}
