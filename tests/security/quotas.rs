//! L8: what members have agreed on that each may add, hosts enforce, and those that follow them
//! count along, so that the next host does the same. Over real connections.

use std::process::Stdio;
use std::time::Instant;

use demes::crypto::Identity;
use demes::protocol::types::{Membership, Payload, Policy};
use demes::wire::pb;
use tokio::process::Command;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::peer::{LUNCH, PATIENCE, Peer, assert_refused, reason, three, until};
use crate::raw::{Calls, Speaker, text};

const LEAST: pb::Quota = pb::Quota { bytes_per_day: 1 << 20, changes_per_day: 16 };

async fn update(peer: &Peer, name: &str, quota: Option<pb::Quota>) -> Result<(), Status> {
    let (chat, name) = (LUNCH.to_owned(), name.to_owned());
    let request = pb::UpdateChatRequest { chat, name, quota, ..Default::default() };
    peer.client.clone().update_chat(request).await.map(drop)
}

/// Says something as long as may be, without waiting for its confirmation.
async fn say_much(peer: &Peer) -> Result<pb::SendMessageResponse, Status> {
    let request = pb::SendMessageRequest {
        chat: LUNCH.to_owned(),
        text: "🦀".repeat(2_048),
        request_id: String::new(),
        wait: pb::Wait::Queued.into(),
    };
    Ok(peer.client.clone().send_message(request).await?.into_inner())
}

/// What `demes status` says of a peer.
async fn status_of(peer: &Peer, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demes"));
    command.args(["status", LUNCH]).args(arguments).arg("--data-dir").arg(peer.dir.path());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("in time").expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lowered_quota_is_enforced_by_every_host_until_it_is_raised() {
    let [mut ann, ben, eva] = three().await;
    for (bytes_per_day, changes_per_day) in [(0, 16), (1 << 20, 15), ((1 << 40) + 1, 16)] {
        let refused = update(&ben, "", Some(pb::Quota { bytes_per_day, changes_per_day })).await;
        assert_eq!(refused.expect_err("no quota").code(), Code::InvalidArgument);
    }
    update(&ben, "", Some(LEAST)).await.expect("agreed on");
    for peer in [&ann, &ben, &eva] {
        peer.sees("the quota", |chat| chat.quota == Some(LEAST)).await;
        assert!(status_of(peer, &[]).await.contains("each member may add 1 MiB and 16 changes"));
    }
    // 128 of 8 KiB are a MiB; the host refuses the rest, and then her own peer does.
    let look = || async {
        match say_much(&eva).await {
            Err(status) if reason(&status) == "QUOTA_EXCEEDED" => Some(status),
            said => said.map(|_| None).expect("nothing else is wrong"),
        }
    };
    let refused = until("Eva to have said enough", look).await;
    assert_refused::<()>(Err(refused), Code::ResourceExhausted, "QUOTA_EXCEEDED");
    let chat = eva.sees("that she has", |chat| chat.over_quota && chat.queued > 0).await;
    let text = status_of(&eva, &[]).await;
    assert!(text.contains("as much as you may"), "{text}");
    assert!(status_of(&eva, &["--json"]).await.contains("\"over_quota\":true"));
    let of_eva = async |peer: &Peer| {
        let texts = peer.texts().await;
        texts.iter().filter(|text| text.starts_with('🦀')).map(String::len).sum::<usize>()
    };
    ben.sees("what she has added", |seen| seen.committed >= chat.committed).await;
    let added = of_eva(&ben).await;
    assert!((1 << 19..=1 << 20).contains(&added), "{added} bytes");
    // The others are heard as ever.
    ann.says(LUNCH, "go on").await;
    ben.says(LUNCH, "yes").await;
    // The next host has counted along.
    let first = ann.id();
    drop(ann.running.take());
    ben.sees("another host", |chat| chat.serving && chat.host_peer_id != first).await;
    ben.says(LUNCH, "without Ann").await;
    eva.sees("the same", |chat| chat.over_quota && chat.queued > 0).await;
    assert_eq!(of_eva(&ben).await, added);
    // More is allowed: all that waits is said.
    let quota = pb::Quota { bytes_per_day: 2 << 20, changes_per_day: 1_000 };
    update(&ben, "", Some(quota)).await.expect("agreed on");
    eva.sees("that all is said", |chat| !chat.over_quota && chat.queued == 0).await;
    ben.sees("more of her", |chat| chat.quota == Some(quota)).await;
    assert!(of_eva(&ben).await > added);
}

// L8: who are invited by one member, and do not answer, are so many at the most: others find room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_invitations_of_one_member_leave_room_for_those_of_others() {
    let [ann, ben, eva] = three().await;
    let term = ann.lunch().await.term;
    let eva = Speaker::in_place_of(eva).await;
    let invitation = |number: u64| {
        let peer = Identity::generate().expect("a key").peer_id();
        let address = "127.0.0.1:9".to_owned();
        let payload = Payload::Membership(Membership::Invited { peer, address });
        let signature = Some(eva.sign(number, &payload));
        eva.submission(term, number, payload, signature).submissions.remove(0)
    };
    let mut calls = Calls::to(&eva.identity, &ann.address()).await;
    let mut request = eva.submission(term, 1, text(""), None);
    request.submissions = (1..=300).map(invitation).collect();
    let answer = calls.submit(request).await.expect("read");
    let last = answer.accepted.last().expect("taken").index;
    let chat = ben.sees("all of them", |chat| chat.committed >= last).await;
    assert_eq!(chat.members.len(), 3 + 128);
    let guest = Peer::start("Guest").await;
    let (chat, address) = (LUNCH.to_owned(), guest.address());
    let request = pb::InviteMemberRequest { chat, address, ..Default::default() };
    ben.client.clone().invite_member(request).await.expect("there is room");
    guest.accept(LUNCH).await;
    guest.sees("the chat", |chat| chat.serving).await;
    guest.says(LUNCH, "here I am").await;
    assert_eq!(ann.lunch().await.members.len(), 3 + 128 + 1);
}

// L7: thousands of signatures that are right take turns away from the threads that serve others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_signatures_hold_up_nobody() {
    let [ann, ben, eva] = three().await;
    let term = ann.lunch().await.term;
    let eva = Speaker::in_place_of(eva).await;
    // Under numbers that leave a gap, so that they cost nothing but their checks.
    let named = |number: u64| {
        let payload = Payload::Policy(Policy::named("x"));
        let signature = Some(eva.sign(number, &payload));
        eva.submission(term, number, payload, signature).submissions.remove(0)
    };
    let mut request = eva.submission(term, 1, text(""), None);
    request.submissions = (2..=11_001).map(named).collect();
    let mut floods = Vec::new();
    for _ in 0..4 {
        let mut calls = Calls::to(&eva.identity, &ann.address()).await;
        let request = request.clone();
        floods.push(tokio::spawn(async move {
            loop {
                let answer = calls.submit(request.clone()).await.expect("an answer");
                assert!(answer.accepted.is_empty());
            }
        }));
    }
    let mut took = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        ben.says(LUNCH, "beside them").await;
        took.push(begun.elapsed());
    }
    took.sort();
    eprintln!(
        "confirmed beside 4 x 11,000 signatures: median {:?}, slowest {:?}",
        took[10], took[19]
    );
    assert!(floods.iter().all(|flood| !flood.is_finished()), "they go on");
    floods.iter().for_each(tokio::task::JoinHandle::abort);
    let chat = ann.lunch().await;
    assert_eq!((chat.term, &chat.name[..]), (term, LUNCH), "no other host, and nothing changed");
}
