//! Who removes whom: any member any other one, under its own name, and nobody else anybody.

use demes::protocol::sign::signed_submission;
use demes::protocol::types::{Course, Membership, Payload, PeerId};
use demes::wire::pb;
use demes::wire::pb::{RefusedReason, SubmitProblem};
use tonic::{Code, Status};

use crate::peer::{LUNCH, Peer, assert_refused, four, guest_of, three};
use crate::raw::{Calls, Speaker};

fn removing(peer: &str) -> Payload {
    let peer: PeerId = peer.parse().expect("an id");
    Payload::Membership(Membership::Removing { peer })
}

async fn remove(by: &Peer, chat: &str, peer: &str) -> Result<u64, Status> {
    let request = pb::RemoveMemberRequest {
        chat: chat.to_owned(),
        peer: peer.to_owned(),
        ..Default::default()
    };
    let answer = by.client.clone().remove_member(request).await?;
    Ok(answer.into_inner().sequence)
}

/// What the host answers to `speaker`, who wants `peer` removed and has signed that.
async fn submits_removal(
    speaker: &Speaker,
    host: &Peer,
    peer: &str,
) -> Result<pb::SubmitResponse, Status> {
    let payload = removing(peer);
    let signature = speaker.sign(1, &payload);
    let term = host.lunch().await.term;
    let mut calls = Calls::to(&speaker.identity, &host.address()).await;
    calls.submit(speaker.submission(term, 1, payload, Some(signature))).await
}

/// Everybody is there as before, and the chat goes on.
async fn all_remain(peers: &[&Peer], members: usize) {
    peers[peers.len() - 1].says(LUNCH, "we go on").await;
    for peer in peers {
        let chat = peer.sees("the chat served", |chat| chat.serving).await;
        assert_eq!(chat.members.len(), members, "at {}", peer.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_member_removes_nobody() {
    let [ann, ben, eva] = three().await;
    let guest = guest_of(&[&ann, &ben, &eva]).await;
    // The guest's own peer does not run the chat, and its key alone is worth nothing.
    let unknown = remove(&guest, LUNCH, &ben.id()).await;
    assert_refused(unknown, Code::NotFound, "CHAT_NOT_FOUND");
    let chat = ann.lunch().await;
    let identity = demes::crypto::Identity::load_or_create(guest.dir.path()).expect("a key");
    let invited = Speaker::of(identity, 7, chat.chat_id.parse().expect("an id"));
    for speaker in [Speaker::stranger(&chat), invited] {
        for target in [ann.id(), ben.id(), guest.id()] {
            let answer = submits_removal(&speaker, &ann, &target).await.expect("an answer");
            let refused = answer.refused.as_ref().map(pb::Refused::reason);
            assert_eq!(refused, Some(RefusedReason::NotMember), "{answer:?}");
            assert!(answer.accepted.is_empty());
        }
    }
    all_remain(&[&ann, &ben, &eva], 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_removed_removes_nobody_in_return() {
    let [ann, ben, eva] = three().await;
    remove(&ben, LUNCH, &eva.id()).await.expect("removed");
    for peer in [&ann, &ben] {
        peer.sees("Eva gone", |chat| chat.members.len() == 2 && chat.serving).await;
    }
    eva.sees("who removed it", |chat| chat.removed_by_peer_id == ben.id()).await;
    for target in [ann.id(), ben.id()] {
        let refused = remove(&eva, LUNCH, &target).await;
        assert_refused(refused, Code::PermissionDenied, "NOT_MEMBER");
    }
    // Nor with calls of its own making.
    let eva = Speaker::in_place_of(eva).await;
    let answer = submits_removal(&eva, &ann, &ben.id()).await.expect("an answer");
    let refused = answer.refused.as_ref().map(pb::Refused::reason);
    assert_eq!(refused, Some(RefusedReason::Removed), "{answer:?}");
    all_remain(&[&ann, &ben], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_removes_in_its_own_name_only() {
    let [ann, ben, eva] = three().await;
    for (chat, peer, code, why) in [
        (LUNCH, eva.id(), Code::InvalidArgument, "PEER_IS_SELF"),
        (LUNCH, "0".repeat(64), Code::NotFound, "PEER_NOT_FOUND"),
        (LUNCH, String::new(), Code::NotFound, "PEER_NOT_FOUND"),
        ("dinner", ben.id(), Code::NotFound, "CHAT_NOT_FOUND"),
    ] {
        assert_refused(remove(&eva, chat, &peer).await, code, why);
    }
    let ben_in_the_log = Speaker::incarnation_of(&ben).await;
    let eva = Speaker::in_place_of(eva).await;
    let term = ann.lunch().await.term;
    let (ben_id, payload): (PeerId, _) = (ben.id().parse().expect("an id"), removing(&ann.id()));
    let author = Some(pb::Author { peer_id: ben.id(), incarnation: ben_in_the_log });
    let as_ben = signed_submission(Course::founded(eva.chat), ben_id, ben_in_the_log, 1, &payload);
    let mut calls = Calls::to(&eva.identity, &ann.address()).await;
    // As Ben: signed as what Ben would have said, and as what Eva says.
    for signature in [eva.identity.sign(&as_ben), eva.sign(1, &payload)] {
        let said = eva.submission(term, 1, payload.clone(), Some(signature));
        let relayed = pb::SubmitRequest { author: author.clone(), ..said };
        assert_refused(calls.submit(relayed).await, Code::PermissionDenied, "NOT_GENUINE");
    }
    // In its own name, without a signature, and with one for another member's removal.
    for signature in [None, Some(eva.sign(1, &removing(&ben.id())))] {
        let said = eva.submission(term, 1, payload.clone(), signature);
        assert_refused(calls.submit(said).await, Code::PermissionDenied, "NOT_GENUINE");
    }
    // The end of a membership is the host's to write.
    let peer = ben_id;
    let removed = Payload::Membership(Membership::Removed { peer });
    let said = eva.submission(term, 1, removed.clone(), Some(eva.sign(1, &removed)));
    let answer = calls.submit(said).await.expect("an answer");
    assert_eq!(answer.problem(), SubmitProblem::NotMember);
    all_remain(&[&ann, &ben], 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_removes_like_any_member_and_a_member_is_removed_once() {
    let peers = four().await;
    let seen = peers[0].lunch().await;
    let learner = seen.members.iter().find(|member| !member.voter).expect("one of four");
    let (learners, voters): (Vec<_>, Vec<_>) =
        peers.iter().partition(|peer| peer.id() == learner.peer_id);
    let mut others = voters.iter().filter(|peer| peer.id() != seen.host_peer_id);
    let target = others.next().expect("two of them").id();
    remove(learners[0], LUNCH, &target).await.expect("removed");
    let remaining: Vec<_> = peers.iter().filter(|peer| peer.id() != target).collect();
    for peer in &remaining {
        peer.sees("one less", |chat| chat.members.len() == 3 && chat.serving).await;
    }
    let again = remove(learners[0], LUNCH, &target).await;
    assert_refused(again, Code::NotFound, "PEER_NOT_FOUND");
    all_remain(&remaining, 3).await;
}
