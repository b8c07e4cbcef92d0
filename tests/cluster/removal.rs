//! Removing people, and taking invitations back.

use std::time::Duration;

use demes::cli::demo::peer::until;
use demes::wire::link::LinkText;
use demes::wire::pb;
use nix::sys::signal::Signal;
use tokio::time::timeout;
use tonic::{Code, Request};

use crate::harness::{Chat, STEP, assert_refused, story};

async fn remove(chat: &Chat, by: usize, peer: usize) {
    let request = pb::RemoveMemberRequest {
        chat: chat.chat.clone(),
        peer: chat.peers[peer].id.clone(),
        ..Default::default()
    };
    let mut request = Request::new(request);
    request.set_timeout(STEP);
    chat.peers[by].client().remove_member(request).await.unwrap();
}

/// Waits until these see each other as the only members, served by one host.
async fn remain(chat: &Chat, peers: &[usize]) {
    for peer in peers {
        chat.sees(*peer, "only those who remain", |seen| {
            let ids = seen.members.iter().map(|member| &member.peer_id);
            seen.serving && ids.eq(sorted(chat, peers).iter())
        })
        .await;
    }
}

fn sorted(chat: &Chat, peers: &[usize]) -> Vec<String> {
    let mut ids: Vec<_> = peers.iter().map(|peer| chat.peers[*peer].id.clone()).collect();
    ids.sort();
    ids
}

/// Waits until the peer knows by whom it was removed.
async fn knows_its_removal(chat: &Chat, peer: usize, by: usize) {
    let by = chat.peers[by].id.clone();
    chat.sees(peer, "who removed it", |seen| seen.removed_by_peer_id == by).await;
}

/// What one who was removed may not do, and what is left.
async fn is_out(chat: &Chat, peer: usize, last: u64) {
    let mut client = chat.peers[peer].client();
    let request = pb::SendMessageRequest {
        chat: chat.chat.clone(),
        text: "me too".into(),
        ..Default::default()
    };
    assert_refused(client.send_message(request).await, Code::PermissionDenied, "NOT_MEMBER");
    let link = pb::CreateInviteLinkRequest { chat: chat.chat.clone(), ..Default::default() };
    assert_refused(client.create_invite_link(link).await, Code::PermissionDenied, "NOT_MEMBER");
    let request = pb::ListMessagesRequest { chat: chat.chat.clone(), ..Default::default() };
    let messages = client.list_messages(request).await.unwrap().into_inner().messages;
    assert_eq!(messages.last().map(|message| message.sequence), Some(last), "history stays");
}

/// The link as another member would have made it: its maker answers for the chat no more.
fn with_address_of(chat: &Chat, text: &str, peer: usize) -> String {
    let mut link = LinkText::parse(text).unwrap();
    link.inviter = chat.peers[peer].id.parse().unwrap();
    link.address = chat.peers[peer].address().to_string();
    link.encode().unwrap()
}

async fn invite_again(chat: &Chat, by: usize, peer: usize) {
    let request = pb::InviteMemberRequest {
        chat: chat.chat.clone(),
        address: chat.peers[peer].address().to_string(),
        timeout_s: 0,
        ..Default::default()
    };
    chat.peers[by].client().invite_member(request).await.unwrap();
    chat.accept(peer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_removed_is_told_keeps_the_history_and_can_be_invited_again() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let host = chat.host().await.unwrap();
        let [by, out] = chat.others(&[host])[..] else { unreachable!("three peers") };
        let link = pb::CreateInviteLinkRequest { chat: chat.chat.clone(), ..Default::default() };
        let link = chat.peers[out].client().create_invite_link(link).await.unwrap().into_inner();
        let last = chat.says(out).await;
        chat.sees(out, "its own message", |seen| seen.committed >= last).await;
        remove(&chat, by, out).await;
        knows_its_removal(&chat, out, by).await;
        remain(&chat, &[host, by]).await;
        let unseen = chat.says(host).await;
        is_out(&chat, out, last).await;
        assert!(chat.chat_at(out).await.unwrap().committed < unseen);

        // Nor does a link that was made before bring it back.
        let link = with_address_of(&chat, &link.link.unwrap().text, host);
        let request = pb::AcceptInviteRequest { chat: String::new(), link };
        let answer = chat.peers[out].client().accept_invite(request).await;
        assert_refused(answer, Code::PermissionDenied, "NOT_MEMBER");

        // Not even a restart changes that.
        chat.peers[out].kill().unwrap();
        chat.start_all().await.unwrap();
        knows_its_removal(&chat, out, by).await;
        is_out(&chat, out, last).await;
        chat.says(by).await;

        invite_again(&chat, host, out).await;
        chat.settled().await.unwrap();
        chat.says(out).await;
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_removed_while_offline_learns_of_it_and_what_was_queued_is_not_sent() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let host = chat.host().await.unwrap();
        let [by, out] = chat.others(&[host])[..] else { unreachable!("three peers") };
        let last = chat.says(out).await;
        chat.sees(out, "its own message", |seen| seen.committed >= last).await;
        // It writes into the void, and is gone before anybody hears it.
        for peer in [host, by] {
            chat.signal(peer, Signal::SIGSTOP);
        }
        chat.queues(out).await;
        chat.peers[out].kill().unwrap();
        for peer in [host, by] {
            chat.signal(peer, Signal::SIGCONT);
        }
        remove(&chat, by, out).await;
        remain(&chat, &[host, by]).await;
        chat.says(host).await;
        chat.peers[out].start().await.unwrap();
        knows_its_removal(&chat, out, by).await;
        is_out(&chat, out, last).await;
        assert_eq!(chat.chat_at(out).await.unwrap().queued, 1);

        // Leaving such a chat deletes what is kept of it, and ends who reads it: it would wait for
        // nothing, also where this peer comes back.
        let cursors = vec![pb::FeedCursor { chat: chat.chat.clone(), after: 0 }];
        let reading = chat.peers[out].client().feed(pb::FeedRequest { cursors }).await;
        let mut reading = reading.unwrap().into_inner();
        let leave = pb::LeaveChatRequest { chat: chat.chat.clone(), ..Default::default() };
        chat.peers[out].client().leave_chat(leave).await.unwrap();
        let mut client = chat.peers[out].client();
        let request = pb::GetChatRequest { chat: chat.chat.clone() };
        assert_refused(client.get_chat(request).await, Code::NotFound, "CHAT_NOT_FOUND");
        let ended = timeout(STEP, async {
            loop {
                match reading.message().await {
                    Ok(frame) => assert!(frame.is_some(), "it does not end without a word"),
                    Err(status) => return status,
                }
            }
        });
        let ended = ended.await.expect("whoever reads is told");
        assert_refused(Err::<(), _>(ended), Code::NotFound, "CHAT_NOT_FOUND");
        invite_again(&chat, by, out).await;
        chat.settled().await.unwrap();
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_can_be_removed_like_anybody() {
    story(async {
        let mut chat = Chat::of(3, &[]).await;
        let (host, term) = chat.host_above(0, STEP).await.unwrap();
        let [by, other] = chat.others(&[host])[..] else { unreachable!("three peers") };
        let mut itself = chat.peers[by].client();
        let request = pb::RemoveMemberRequest {
            chat: chat.chat.clone(),
            peer: chat.peers[by].id.clone(),
            ..Default::default()
        };
        let answer = itself.remove_member(request).await;
        assert_refused(answer, Code::InvalidArgument, "PEER_IS_SELF");
        remove(&chat, by, host).await;
        knows_its_removal(&chat, host, by).await;
        remain(&chat, &[by, other]).await;
        let (next, _) = chat.host_above(term, STEP).await.unwrap();
        assert!(next != host);
        chat.says(by).await;
        invite_again(&chat, by, host).await;
        chat.settled().await.unwrap();
        chat.finish().await;
    })
    .await;
}

/// Waits until the log of peer 0 says that an invitation was taken back.
async fn an_invitation_ends(chat: &Chat) {
    let cursors = vec![pb::FeedCursor { chat: chat.chat.clone(), after: 0 }];
    let request = pb::FeedRequest { cursors };
    let mut feed = chat.peers[0].client().feed(request).await.unwrap().into_inner();
    let ends = async {
        while let Some(frame) = feed.message().await.unwrap() {
            for event in frame.events {
                if let Some(pb::event::Kind::Member(member)) = event.kind
                    && member.change() == pb::MemberChange::InviteRevoked
                {
                    return;
                }
            }
        }
    };
    timeout(STEP, ends).await.expect("the invitation ends");
}

/// Waits until the log of peer 0 has no invited member any more.
async fn nobody_is_invited(chat: &Chat) {
    chat.sees(0, "no open invitation", |seen| {
        seen.members.iter().all(|member| member.state() != pb::MemberState::Invited)
    })
    .await;
}

async fn invite(chat: &Chat, timeout_s: u32) -> pb::Invite {
    let address = chat.peers[1].address().to_string();
    let request = pb::InviteMemberRequest {
        chat: chat.chat.clone(),
        address,
        timeout_s,
        ..Default::default()
    };
    let answer = chat.peers[0].client().invite_member(request).await.unwrap();
    answer.into_inner().invite.expect("InviteMember answers with the invitation")
}

/// Waits until the invitation has arrived, and stands in the log.
async fn is_open(chat: &Chat) {
    chat.sees(0, "the invitation", |seen| seen.members.len() == 2).await;
}

async fn accepting(chat: &Chat, limit: Duration) -> Result<(), tonic::Status> {
    let request = pb::AcceptInviteRequest { chat: chat.chat.clone(), link: String::new() };
    let mut request = Request::new(request);
    request.set_timeout(limit);
    chat.peers[1].client().accept_invite(request).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_that_ran_out_or_was_taken_back_lets_nobody_in() {
    story(async {
        let chat = Chat::founded_by_the_first_of(2).await;
        invite(&chat, 4).await;
        an_invitation_ends(&chat).await;
        nobody_is_invited(&chat).await;
        let answer = until(STEP, "the invitation to end there too", || async {
            accepting(&chat, STEP).await.err()
        });
        let answer: Result<(), _> = Err(answer.await.unwrap());
        assert_refused(answer, Code::NotFound, "INVITE_NOT_FOUND");
        let list = pb::ListInvitesRequest {};
        let list = chat.peers[0].client().list_invites(list).await.unwrap().into_inner();
        assert_eq!(list.invites[0].state(), pb::InviteState::Expired);

        let invited = invite(&chat, 600).await;
        is_open(&chat).await;
        let request = pb::RevokeInviteRequest {
            chat: chat.chat.clone(),
            invite: invited.address.clone(),
            ..Default::default()
        };
        chat.peers[0].client().revoke_invite(request.clone()).await.unwrap();
        nobody_is_invited(&chat).await;
        let answer = chat.peers[0].client().revoke_invite(request).await;
        assert_refused(answer, Code::NotFound, "INVITE_NOT_FOUND");
        // The guest's peer does not know that yet, and tries in vain until it is invited anew.
        let (accepting, shown) = tokio::join!(accepting(&chat, 2 * STEP), async {
            let shown = until(STEP, "the reason", || async {
                let list = chat.peers[1].client().list_invites(pb::ListInvitesRequest {}).await;
                let invites = list.unwrap().into_inner().invites;
                invites.into_iter().find(|invite| invite.problem == "INVITE_NOT_FOUND")
            });
            let shown = shown.await.unwrap();
            invite(&chat, 600).await;
            shown
        });
        assert_eq!(shown.state(), pb::InviteState::Joining);
        accepting.unwrap();
        chat.settled().await.unwrap();
        chat.finish().await;
    })
    .await;
}
