//! Peers that found their chat by themselves, as pods do.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use demes::cli::demo::peer::until;
use demes::wire::pb;

use crate::harness::{Chat, STEP, story};

const TEAM: &str = "team";

/// Writes each peer's configuration into its data directory.
fn configure(chat: &Chat) {
    let members: Vec<_> = chat.peers.iter().map(|peer| peer.address().to_string()).collect();
    for peer in &chat.peers {
        let dir = peer.data_dir();
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        let text = format!("[[bootstrap.chat]]\nname = \"{TEAM}\"\nmembers = {members:?}\n");
        fs::write(dir.join("demes.toml"), text).unwrap();
    }
}

/// The ids of the chats of that name at one peer.
async fn teams(chat: &Chat, peer: usize) -> Vec<String> {
    let answer = chat.peers[peer].client().list_chats(pb::ListChatsRequest {}).await.unwrap();
    let chats = answer.into_inner().chats.into_iter();
    chats.filter(|chat| chat.name == TEAM).map(|chat| chat.chat_id).collect()
}

/// How far one peer is with its invitation to a chat.
async fn invitation(chat: &Chat, peer: usize, id: &str) -> Option<pb::InviteState> {
    let request = pb::ListInvitesRequest::default();
    let answer = chat.peers[peer].client().list_invites(request).await.ok()?;
    let mut invites = answer.into_inner().invites.into_iter();
    invites.find(|invite| invite.chat_id == id).map(|invite| invite.state())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_founder_founds_alone_and_is_brought_back() {
    story(async {
        let mut chat = Chat::prepared(3, &[]);
        configure(&chat);
        chat.start_all().await.unwrap();
        let first = until(STEP, "a founded chat", || async { teams(&chat, 0).await.pop() });
        chat.chat = first.await.unwrap();
        chat.settled().await.unwrap();
        chat.says(1).await;

        let before = chat.peers[0].id.clone();
        chat.peers[0].kill().unwrap();
        chat.peers[0].gone().await.unwrap();
        fs::remove_dir_all(chat.peers[0].data_dir()).unwrap();
        configure(&chat);
        chat.peers[0].start().await.unwrap();
        assert_ne!(chat.peers[0].id, before, "its key was in the directory");
        let second = until(STEP, "a chat that was founded anew", || async {
            teams(&chat, 0).await.into_iter().find(|id| *id != chat.chat)
        });
        let second = second.await.unwrap();
        for member in [1, 2] {
            until(STEP, "the second invitation", || invitation(&chat, member, &second))
                .await
                .unwrap();
        }

        // What docs/operations.md says: the founder leaves what it has founded, and is invited.
        let leave = pb::LeaveChatRequest { chat: second.clone(), ..Default::default() };
        chat.peers[0].client().leave_chat(leave).await.unwrap();
        let invite = pb::InviteMemberRequest {
            chat: chat.chat.clone(),
            address: chat.peers[0].address().to_string(),
            ..Default::default()
        };
        chat.peers[1].client().invite_member(invite).await.unwrap();
        chat.accept(0).await.unwrap();
        let removal =
            pb::RemoveMemberRequest { chat: chat.chat.clone(), peer: before, ..Default::default() };
        chat.peers[1].client().remove_member(removal).await.unwrap();
        chat.check().await;
        for member in [1, 2] {
            let state = invitation(&chat, member, &second).await;
            assert_eq!(state, Some(pb::InviteState::Pending), "nobody has answered it");
            assert_eq!(teams(&chat, member).await, [chat.chat.clone()], "one team, as before");
        }
    })
    .await;
}
