//! Invitations: for whom, until when, how often, and to where.

use std::time::{Duration, SystemTime};

use demes::crypto::Identity;
use demes::protocol::types::{Membership, Payload};
use demes::wire::pb;
use futures_util::future::join_all;
use tonic::Code;

use crate::peer::{LUNCH, Peer, assert_refused, lunch_of, reason, three, until};
use crate::raw::{Calls, Speaker};

fn join(speaker: &Speaker, signature: [u8; 64]) -> pb::JoinRequest {
    pb::JoinRequest {
        header: speaker.header(),
        name: "Mallory".to_owned(),
        address: "127.0.0.1:9".to_owned(),
        created_at: Some(SystemTime::now().into()),
        decline: false,
        signature: signature.to_vec(),
        proof: None,
    }
}

fn joined() -> Payload {
    let (name, address) = ("Mallory".to_owned(), "127.0.0.1:9".to_owned());
    Payload::Membership(Membership::Joined { name, address, proof: None })
}

/// How often somebody joined, by the feed of `peer`.
async fn joins_at(peer: &Peer, id: &str) -> usize {
    let is_join = |event: &pb::Event| {
        let change = match &event.kind {
            Some(pb::event::Kind::Member(member)) => member.change(),
            _ => return false,
        };
        change == pb::MemberChange::Joined && event.author_peer_id == id
    };
    peer.feed().await.iter().filter(|event| is_join(event)).count()
}

// R43: an invitation is for one chat and one key, and is used once, however many try at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_is_used_once_and_only_where_it_is_for() {
    let (ann, ben) = (Peer::start("Ann").await, Peer::start("Ben").await);
    lunch_of(&[&ann, &ben], 2).await;
    let guest = Peer::start("Guest").await;
    let request = pb::InviteMemberRequest {
        chat: LUNCH.to_owned(),
        address: guest.address(),
        timeout_s: 0,
        ..Default::default()
    };
    ann.client.clone().invite_member(request).await.expect("on its way");
    ann.sees("the invitation", |chat| chat.members.len() == 3).await;
    let (id, identity) = (guest.id(), Identity::load_or_create(guest.dir.path()).expect("a key"));
    drop(guest);
    let chat = ann.lunch().await.chat_id.parse().expect("an id");
    let invited = Speaker::of(identity, 7, chat);
    let mut calls = Calls::to(&invited.identity, &ann.address()).await;

    // A key that nobody invited, and the chat of somebody else's invitation.
    let outsider = Speaker::stranger(&ann.lunch().await);
    let mut outside = Calls::to(&outsider.identity, &ann.address()).await;
    let answer = outside.host.join(join(&outsider, outsider.sign(0, &joined()))).await;
    let refused = answer.expect("an answer").into_inner().refused.expect("refused");
    assert_eq!(refused.reason(), pb::RefusedReason::NotMember);
    let second = ann.create("second", Vec::new()).await.expect("a chat");
    let mut elsewhere = join(&invited, invited.sign(0, &joined()));
    elsewhere.header.as_mut().expect("one").chat_id = second.chat_id.clone();
    let answer = calls.host.join(elsewhere).await;
    assert_refused(answer, Code::PermissionDenied, "NOT_GENUINE");
    // A race of the invited key with itself, in one incarnation.
    let request = join(&invited, invited.sign(0, &joined()));
    let race = (0..16).map(|_| {
        let (mut calls, request) = (calls.clone(), request.clone());
        async move { calls.host.join(request).await.expect("an answer").into_inner().refused }
    });
    assert!(join_all(race).await.iter().all(Option::is_none));
    let look = || async { (joins_at(&ben, &id).await == 1).then_some(()) };
    until("the join at Ben", look).await;
    let answer = calls.host.join(request).await.expect("an answer").into_inner();
    assert!(answer.accepted, "a repeat finds its entry");
    ann.says(LUNCH, "welcome").await;
    assert_eq!((joins_at(&ann, &id).await, ann.lunch().await.members.len()), (1, 3));
    assert_eq!(ann.chat("second").await.expect("a chat").members.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invitations_that_have_ended_or_are_too_many_are_refused() {
    let ann = Peer::start("Ann").await;
    let identity = Identity::generate().expect("a key");
    let mut calls = Calls::to(&identity, &ann.address()).await;
    let request = |number: u32, expires_at: SystemTime| pb::InviteRequest {
        chat_id: format!("{number:032x}"),
        chat_name: "party".to_owned(),
        inviter_name: "Mallory".to_owned(),
        inviter_address: "127.0.0.1:9".to_owned(),
        expires_at: Some(expires_at.into()),
    };
    let soon = SystemTime::now() + Duration::from_secs(600);
    let ended = SystemTime::now() - Duration::from_secs(1);
    let answer = calls.peer.invite(request(1, ended)).await;
    assert_refused(answer, Code::FailedPrecondition, "INVITE_EXPIRED");
    let mut bad = request(1, soon);
    bad.chat_name = "x".repeat(65);
    assert_refused(calls.peer.invite(bad).await, Code::InvalidArgument, "REQUEST_INVALID");
    assert!(ann.invites().await.is_empty());
    let mut limited = None;
    for number in 0..1_000 {
        if let Err(status) = calls.peer.invite(request(number, soon)).await {
            limited = Some((number, status));
            break;
        }
    }
    let (arrived, status) = limited.expect("there is a limit");
    let why = (status.code(), reason(&status));
    assert_eq!(why, (Code::ResourceExhausted, "TOO_MANY_INVITES".into()));
    assert_eq!(arrived, 16);
    assert_eq!(ann.invites().await.len(), arrived as usize);
    // Another key has calls of its own.
    let other = Identity::generate().expect("a key");
    let mut others = Calls::to(&other, &ann.address()).await;
    others.peer.invite(request(5_000, soon)).await.expect("one more arrives");
}

// L2: keys cost nothing; those who make them leave room, whatever they invite to and until when.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_cannot_fill_the_invitations_nor_keep_out_who_really_invites() {
    let (ann, ben) = (Peer::start("Ann").await, Peer::start("Ben").await);
    let chat = ann.create(LUNCH, Vec::new()).await.expect("a chat").chat_id;
    let request = |chat_id: String, name: &str, address: &str| pb::InviteRequest {
        chat_id,
        chat_name: name.to_owned(),
        inviter_name: "Ann".to_owned(),
        inviter_address: address.to_owned(),
        // The year 9999.
        expires_at: Some(prost_types::Timestamp { seconds: 253_402_300_799, nanos: 0 }),
    };
    // Whoever knows the chat's id invites to it first.
    let squatter = Identity::generate().expect("a key");
    let mut calls = Calls::to(&squatter, &ben.address()).await;
    let first = request(chat.clone(), LUNCH, "127.0.0.1:9");
    calls.peer.invite(first).await.expect("it arrives");
    for key in 0..4_u32 {
        let identity = Identity::generate().expect("a key");
        let mut calls = Calls::to(&identity, &ben.address()).await;
        for number in 0..70 {
            let id = format!("{:032x}", 1_000 * (key + 1) + number);
            let _ = calls.peer.invite(request(id, "party", "127.0.0.1:9")).await;
        }
    }
    let invited = ben.invites().await;
    eprintln!("281 invitations of five keys: {} wait", invited.len());
    assert!(invited.len() <= 65, "{}", invited.len());
    let days = 91 * 86_400;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("now").as_secs();
    let ends = |invite: &pb::Invite| invite.expires_at.expect("an end").seconds;
    assert!(invited.iter().all(|invite| ends(invite) < (now + days) as i64), "none is for ever");
    // Ann's own arrives all the same, and it is hers that Ben accepts.
    let address = ben.address();
    let invite = pb::InviteMemberRequest {
        chat: LUNCH.to_owned(),
        address,
        timeout_s: 0,
        ..Default::default()
    };
    ann.client.clone().invite_member(invite).await.expect("on its way");
    let by_ann = || async {
        let invites = ben.invites().await;
        invites.into_iter().find(|invite| invite.peer_id == ann.id()).map(drop)
    };
    until("Ann's invitation", by_ann).await;
    let accept = |chat: String| {
        let request = pb::AcceptInviteRequest { chat, link: String::new() };
        async { ben.client.clone().accept_invite(request).await }
    };
    assert_refused(accept(chat.clone()).await, Code::FailedPrecondition, "CHAT_AMBIGUOUS");
    accept(format!("{chat}@{}", &ann.id()[..16])).await.expect("accepted");
    ben.sees("the chat served", |chat| chat.serving).await;
    ben.says(LUNCH, "here I am").await;
    assert_eq!(ann.texts().await, ["here I am"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_invites_their_own_peer() {
    let (ann, ben) = (Peer::start("Ann").await, Peer::start("Ben").await);
    let port = ann.address().rsplit_once(':').expect("a port").1.to_owned();
    let own = [
        ann.address(),
        format!("localhost:{port}"),
        format!("{}@elsewhere.example:7443", ann.id()),
    ];
    for address in &own {
        let answer = ann.create(LUNCH, vec![ben.address(), address.clone()]).await;
        assert_refused(answer, Code::InvalidArgument, "ADDRESS_IS_OWN");
    }
    assert!(ann.chat(LUNCH).await.is_err(), "no chat was made");
    ann.create(LUNCH, Vec::new()).await.expect("a chat");
    let request = pb::InviteMemberRequest {
        chat: LUNCH.to_owned(),
        address: ann.address(),
        timeout_s: 0,
        ..Default::default()
    };
    let answer = ann.client.clone().invite_member(request).await;
    assert_refused(answer, Code::InvalidArgument, "ADDRESS_IS_OWN");
    assert!(ann.invites().await.is_empty());
    let request = pb::InviteMemberRequest {
        chat: LUNCH.to_owned(),
        address: ben.address(),
        timeout_s: 0,
        ..Default::default()
    };
    ann.client.clone().invite_member(request).await.expect("somebody else's");
    ben.accept(LUNCH).await;
}

/// Who leaves is in the chat until the others know. An invitation that arrives before is not lost:
/// whoever brings it is told to come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_leaving_is_invited_again_when_the_others_know() {
    let [ann, ben, eva] = three().await;
    let link = pb::CreateInviteLinkRequest { chat: LUNCH.to_owned(), ..Default::default() };
    let link = ann.client.clone().create_invite_link(link).await.expect("a link").into_inner();
    drop((ann, ben));
    let request = pb::LeaveChatRequest { chat: LUNCH.to_owned(), ..Default::default() };
    eva.client.clone().leave_chat(request).await.expect("it is queued");
    let identity = Identity::generate().expect("a key");
    let mut calls = Calls::to(&identity, &eva.address()).await;
    let chat_id = eva.lunch().await.chat_id;
    let invite = pb::InviteRequest {
        chat_id,
        chat_name: LUNCH.to_owned(),
        inviter_name: "Ann".to_owned(),
        inviter_address: "127.0.0.1:9".to_owned(),
        expires_at: Some((SystemTime::now() + Duration::from_secs(600)).into()),
    };
    assert_refused(calls.peer.invite(invite).await, Code::Unavailable, "LEAVING");
    let request =
        pb::AcceptInviteRequest { chat: String::new(), link: link.link.expect("a link").text };
    let answer = eva.client.clone().accept_invite(request).await;
    assert_refused(answer, Code::Unavailable, "LEAVING");
}
