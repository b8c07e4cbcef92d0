//! Invite links (R43): who has one comes in, as often and as long as it says.

use std::process::Stdio;
use std::time::Duration;

use demes::cli::demo::peer::until;
use demes::wire::link::LinkText;
use demes::wire::pb;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Response, Status};

use crate::harness::{Chat, STEP, assert_refused, binary, story};

/// A link of one peer.
async fn link(chat: &Chat, peer: usize, uses_max: u32, valid_s: u32) -> pb::InviteLink {
    let request = pb::CreateInviteLinkRequest {
        chat: chat.chat.clone(),
        uses_max,
        valid_s,
        ..Default::default()
    };
    let answer = chat.peers[peer].client().create_invite_link(request).await.unwrap();
    answer.into_inner().link.expect("CreateInviteLink answers with the link")
}

async fn join(chat: &Chat, peer: usize, text: &str, limit: Duration) -> Result<String, Status> {
    let request = pb::AcceptInviteRequest { chat: String::new(), link: text.into() };
    let mut request = Request::new(request);
    request.set_timeout(limit);
    let answer = chat.peers[peer].client().accept_invite(request).await?;
    Ok(answer.into_inner().chat_id)
}

/// Begins to join, and waits until what hinders that is shown.
async fn hindered(chat: &Chat, peer: usize, text: String, problem: &str) -> Joining {
    let accept = pb::AcceptInviteRequest { chat: String::new(), link: text };
    let mut client = chat.peers[peer].client();
    let joining = tokio::spawn(async move { client.accept_invite(accept).await });
    let shown = until(STEP, problem, || async {
        let list = chat.peers[peer].client().list_invites(pb::ListInvitesRequest {}).await;
        let mut invites = list.unwrap().into_inner().invites.into_iter();
        invites.find(|invite| invite.by_link && invite.problem == problem)
    });
    let shown = shown.await.unwrap();
    assert_eq!((shown.state(), shown.incoming), (pb::InviteState::Joining, true));
    joining
}

type Joining = JoinHandle<Result<Response<pb::AcceptInviteResponse>, Status>>;

/// The same, until the person gives up.
async fn assert_hindered(chat: &Chat, peer: usize, text: String, problem: &str) {
    let joins = LinkText::parse(&text).unwrap().chat.to_string();
    let joining = hindered(chat, peer, text, problem).await;
    let given_up = pb::DeclineInviteRequest { chat: joins };
    chat.peers[peer].client().decline_invite(given_up).await.unwrap();
    let answer = tokio::time::timeout(STEP, joining).await.expect("it ends").unwrap();
    assert_refused(answer, Code::NotFound, "INVITE_NOT_FOUND");
}

/// The link as that peer sees it now.
async fn seen(chat: &Chat, peer: usize, link_id: &str) -> Option<pb::InviteLink> {
    let list = chat.peers[peer].client().list_invites(pb::ListInvitesRequest {}).await.unwrap();
    list.into_inner().links.into_iter().find(|link| link.link_id == link_id)
}

/// Waits until that peer sees the link in that state.
async fn until_state(chat: &Chat, peer: usize, link_id: &str, state: pb::InviteLinkState) {
    let looked = until(STEP, "the link's state", || async {
        seen(chat, peer, link_id).await.filter(|link| link.state() == state)
    });
    looked.await.unwrap();
}

/// Runs a command of one person and gives what it wrote to stdout and stderr.
async fn demes(chat: &Chat, peer: usize, arguments: &[&str]) -> (String, String, Option<i32>) {
    demes_reads(chat, peer, arguments, "").await
}

/// The same for a command that reads this from stdin.
async fn demes_reads(
    chat: &Chat,
    peer: usize,
    arguments: &[&str],
    input: &str,
) -> (String, String, Option<i32>) {
    let mut command = Command::new(binary());
    command.args(arguments).arg("--data-dir").arg(chat.peers[peer].data_dir());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut stdin = child.stdin.take().expect("piped");
    // A command that needs no input may have ended.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = tokio::time::timeout(STEP, child.wait_with_output()).await;
    let output = output.expect("it ends").unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr), output.status.code())
}

/// Nothing that a peer logs has the secret of a link.
fn assert_not_logged(chat: &Chat, link: &pb::InviteLink) {
    let secret = &link.text[70..100];
    for peer in &chat.peers {
        let log = std::fs::read_to_string(peer.dir.join("peer.log")).unwrap();
        assert!(!log.contains(secret), "{}'s log has a link", peer.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_link_comes_in_by_way_of_any_member() {
    story(async {
        let chat = Chat::founded_by_the_first_of(3).await;
        let id = chat.chat.clone();
        let (text, note, code) = demes(&chat, 0, &["invite", &id, "--link", "--uses", "5"]).await;
        assert_eq!(code, Some(0), "{note}");
        assert!(text.starts_with("demes:") && text.trim_end().len() <= 200, "{text}");
        assert_eq!(text.lines().count(), 1, "the link alone is on stdout: {text}");
        assert!(note.contains("5 people") && note.contains("demes revoke"), "{note}");

        // Nobody sees the link among the arguments of processes.
        let (_, empty, code) = demes(&chat, 1, &["accept", "-"]).await;
        assert!(code != Some(0) && empty.contains("stdin is empty"), "{empty}");
        let (said, note, code) = demes_reads(&chat, 1, &["accept", "-"], &text).await;
        assert_eq!(code, Some(0), "{note}");
        assert!(said.contains("you take part"), "{said}");
        chat.sees(0, "the guest", |chat| chat.members.len() == 2).await;

        // The inviter need not be the host.
        let host = chat.host().await.unwrap();
        let inviter = 1 - host;
        let second = link(&chat, inviter, 1, 0).await;
        assert_eq!(join(&chat, 2, &second.text, STEP).await.unwrap(), id);
        chat.settled().await.unwrap();
        let used = seen(&chat, inviter, &second.link_id).await.unwrap();
        assert_eq!((used.state(), used.uses_left), (pb::InviteLinkState::UsedUp, 0));
        let seed = |text: &str| LinkText::parse(text).unwrap().seed;
        assert_eq!(seed(&used.text), seed(&second.text), "its maker can show it again");
        let third = link(&chat, inviter, 1, 0).await;
        let (_, note, code) = demes_reads(&chat, inviter, &["revoke", &id, "-"], &third.text).await;
        assert_eq!(code, Some(0), "{note}");
        until_state(&chat, inviter, &third.link_id, pb::InviteLinkState::Revoked).await;
        let elsewhere = seen(&chat, 2, &second.link_id).await.unwrap();
        assert_eq!(elsewhere.text, "", "and nobody else");
        assert_eq!(elsewhere.created_by_peer_id, chat.peers[inviter].id);
        assert_eq!(join(&chat, 2, &second.text, STEP).await.unwrap(), id, "it is in already");
        assert_not_logged(&chat, &second);
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_race_for_the_last_use_one_comes_in() {
    story(async {
        let chat = Chat::founded_by_the_first_of(3).await;
        let once = link(&chat, 0, 1, 0).await;
        let (one, other) =
            tokio::join!(join(&chat, 1, &once.text, STEP), join(&chat, 2, &once.text, STEP));
        let late = match (&one, &other) {
            (Ok(_), Err(_)) => other,
            (Err(_), Ok(_)) => one,
            _ => panic!("exactly one comes in: {one:?} {other:?}"),
        };
        assert_refused(late, Code::FailedPrecondition, "LINK_USED_UP");
        chat.sees(0, "one guest", |chat| chat.members.len() == 2).await;
        let again = link(&chat, 0, 1, 0).await;
        let members = chat.chat_at(0).await.unwrap().members;
        let late = (1..3).find(|peer| members.iter().all(|m| m.peer_id != chat.peers[*peer].id));
        join(&chat, late.unwrap(), &again.text, STEP).await.unwrap();
        chat.settled().await.unwrap();
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_lets_nobody_in_says_why() {
    story(async {
        let mut chat = Chat::founded_by_the_first_of(2).await;
        let expired = link(&chat, 0, 1, 1).await;
        let revoked = link(&chat, 0, 1, 0).await;
        let (_, note, code) = demes(&chat, 0, &["revoke", &chat.chat, &revoked.link_id[..8]]).await;
        assert_eq!(code, Some(0), "{note}");
        let answer = join(&chat, 1, &revoked.text, STEP).await;
        assert_refused(answer, Code::FailedPrecondition, "LINK_REVOKED");
        until_state(&chat, 0, &expired.link_id, pb::InviteLinkState::Expired).await;
        let answer = join(&chat, 1, &expired.text, STEP).await;
        assert_refused(answer, Code::FailedPrecondition, "LINK_EXPIRED");

        let good = link(&chat, 0, 1, 0).await;
        let invalid = Code::InvalidArgument;
        for cut in [3, 10, 60, good.text.len() - 1] {
            let answer = join(&chat, 1, &good.text[..cut], STEP).await;
            assert_refused(answer, invalid, "LINK_TRUNCATED");
        }
        let (_, said, code) = demes(&chat, 1, &["accept", &good.text[..100]]).await;
        assert!(said.contains("copy it whole") && code == Some(1), "{said}");
        assert_refused(join(&chat, 1, "demes:hello", STEP).await, invalid, "LINK_MALFORMED");

        // A link opens its own chat and no other one of the same inviter.
        let mut other = LinkText::parse(&good.text).unwrap();
        let request = pb::CreateChatRequest { name: "Other".into(), ..Default::default() };
        let answer = chat.peers[0].client().create_chat(request).await.unwrap().into_inner();
        other.chat = answer.chat.unwrap().chat_id.parse().unwrap();
        assert_hindered(&chat, 1, other.encode().unwrap(), "INVITE_NOT_FOUND").await;
        // Nobody listens there.
        let mut away = LinkText::parse(&good.text).unwrap();
        let good_address = away.address.clone();
        away.address = "127.0.0.1:1".into();
        assert_hindered(&chat, 1, away.encode().unwrap(), "ADDRESS_UNREACHABLE").await;
        // A link of another key than the one that answers there.
        away.address = good_address.clone();
        away.inviter = "ab".repeat(32).parse().unwrap();
        assert_hindered(&chat, 1, away.encode().unwrap(), "ADDRESS_UNREACHABLE").await;

        // What is wrong about a link to be made.
        for (uses_max, valid_s, reason) in
            [(257, 0, "USES_INVALID"), (1, 7_776_001, "EXPIRY_INVALID")]
        {
            let request = pb::CreateInviteLinkRequest {
                chat: chat.chat.clone(),
                uses_max,
                valid_s,
                ..Default::default()
            };
            let answer = chat.peers[0].client().create_invite_link(request).await;
            assert_refused(answer, invalid, reason);
        }
        // A newer link takes the place of the one that is being tried.
        let waiting = hindered(&chat, 1, away.encode().unwrap(), "ADDRESS_UNREACHABLE").await;
        join(&chat, 1, &good.text, STEP).await.unwrap();
        let answer = tokio::time::timeout(STEP, waiting).await.expect("it ends").unwrap();
        assert_eq!(answer.unwrap().into_inner().chat_id, chat.chat);
        chat.settled().await.unwrap();
        assert_not_logged(&chat, &good);
        chat.says(1).await;
        chat.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_works_while_its_maker_is_offline() {
    story(async {
        let mut chat = Chat::founded_by_the_first_of(4).await;
        let invited = link(&chat, 0, 2, 0).await;
        for guest in [1, 2] {
            join(&chat, guest, &invited.text, STEP).await.unwrap();
        }
        chat.sees(0, "three voters", |chat| {
            chat.members.iter().filter(|member| member.voter).count() == 3
        })
        .await;
        // Made now, it has the addresses of the others too.
        let made = link(&chat, 0, 1, 0).await;
        chat.peers[0].kill().unwrap();
        join(&chat, 3, &made.text, STEP).await.unwrap();
        chat.says(3).await;
        chat.start_all().await.unwrap();
        chat.settled().await.unwrap();
        chat.finish().await;
    })
    .await;
}
