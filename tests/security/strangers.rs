//! R39: who is no member gets nothing and changes nothing, whatever it asks.

use demes::protocol::types::TERM_MAX;
use demes::wire::pb;
use demes::wire::pb::RefusedReason;
use tonic::{Code, Status};

use crate::peer::{LUNCH, Peer, assert_refused, four, guest_of, three, until};
use crate::raw::{Calls, Speaker, text};

/// What a peer answers to each kind of call of `speaker` that would raise the term to `term`.
async fn every_call(
    calls: &mut Calls,
    speaker: &Speaker,
    term: u64,
) -> Vec<(&'static str, Result<Option<pb::Refused>, Status>)> {
    let header = speaker.header();
    let last = Some(pb::Position { term, index: 0 });
    let hand_over = pb::SignedHandOver {
        host_peer_id: speaker.identity.peer_id().to_string(),
        host_incarnation: speaker.incarnation,
        term,
        target_peer_id: speaker.identity.peer_id().to_string(),
        signature: vec![1; 64],
    };
    let header = || header.clone();
    let refused = |response: Option<pb::Refused>| response;
    let mut answers = Vec::new();
    let request = pb::AnnounceRequest { header: header(), term, reign: None };
    let answer = calls.election.announce(request).await;
    answers.push(("Announce", answer.map(|answer| refused(answer.into_inner().refused))));
    let request = pb::NominateRequest { header: header(), term, last };
    let answer = calls.election.nominate(request).await;
    answers.push(("Nominate", answer.map(|answer| answer.into_inner().refused)));
    // R7: only one whose log is ahead may be a voter that the other has not read of yet.
    let behind = Some(pb::Position::default());
    let request = pb::SolicitRequest { header: header(), term, last: behind };
    let answer = calls.election.solicit(request).await;
    answers.push(("Solicit", answer.map(|answer| answer.into_inner().refused)));
    let request = pb::RequestVoteRequest {
        header: header(),
        term,
        last: behind,
        last_hash: vec![0; 32],
        ..Default::default()
    };
    let answer = calls.election.request_vote(request).await;
    answers.push(("RequestVote", answer.map(|answer| answer.into_inner().refused)));
    let request = pb::WithdrawRequest {
        header: header(),
        term,
        reason: pb::WithdrawReason::NoMajority.into(),
    };
    let answer = calls.election.withdraw(request).await;
    answers.push(("Withdraw", answer.map(|answer| answer.into_inner().refused)));
    let request = pb::FetchLogRequest { header: header(), term, fetch: 1, look: last };
    let answer = calls.election.fetch_log(request).await;
    answers.push(("FetchLog", answer.map(|answer| answer.into_inner().refused)));
    let request =
        pb::ElectionServiceHandOverRequest { header: header(), hand_over: Some(hand_over) };
    let answer = calls.election.hand_over(request).await;
    answers.push(("HandOver", answer.map(|answer| answer.into_inner().refused)));
    let answer = calls.host.goodbye(pb::GoodbyeRequest { header: header() }).await;
    answers.push(("Goodbye", answer.map(|answer| answer.into_inner().refused)));
    let request = pb::ReportDelaysRequest { header: header(), term, ..Default::default() };
    let answer = calls.host.report_delays(request).await;
    answers.push(("ReportDelays", answer.map(|answer| answer.into_inner().refused)));
    let request = pb::AcknowledgeRequest { header: header(), term, ..Default::default() };
    answers.push(("Acknowledge", calls.acknowledge(request).await.map(|answer| answer.refused)));
    let answer = calls.submit(speaker.submission(term, 1, text("from outside"), None)).await;
    answers.push(("Submit", answer.map(|answer| answer.refused)));
    let request = pb::ReplicateRequest {
        header: header(),
        term,
        attach: 1,
        look: last,
        ..Default::default()
    };
    let answer = calls.replicate(request).await.map(|answer| match answer.content {
        Some(pb::replicate_response::Content::Refused(refused)) => Some(refused),
        _ => None,
    });
    answers.push(("Replicate", answer));
    answers
}

/// Calls that only tell something. Their answer does not wait for a sync that is under way, and a
/// refusal does, so that it may be missing.
const NOTICES: [&str; 5] = ["Announce", "Withdraw", "HandOver", "Goodbye", "ReportDelays"];

fn is_refused(
    call: &str,
    answer: &Result<Option<pb::Refused>, Status>,
    why: RefusedReason,
) -> bool {
    match answer {
        // What it signed is looked at first.
        Err(status) => call == "HandOver" && status.code() == Code::PermissionDenied,
        Ok(Some(refused)) => refused.reason() == why,
        Ok(None) => NOTICES.contains(&call),
    }
}

/// Every call is refused by every one of these peers, and the chat is as it was.
async fn gets_nothing(peers: &[&Peer], speaker: &Speaker, why: RefusedReason) {
    let before = peers[0].lunch().await;
    for peer in peers {
        let mut calls = Calls::to(&speaker.identity, &peer.address()).await;
        for (call, answer) in every_call(&mut calls, speaker, before.term + 1).await {
            let is_refused = is_refused(call, &answer, why);
            assert!(is_refused, "{call} at {}: {answer:?}", peer.name);
        }
        let request = pb::HeartbeatsRequest { header: speaker.header(), term: before.term };
        let answer = calls.heartbeats(request).await;
        assert_refused(answer.map(drop), Code::PermissionDenied, "NOT_MEMBER");
    }
    peers[peers.len() - 1].says(LUNCH, "we go on").await;
    for peer in peers {
        let chat = peer.sees("the chat served", |chat| chat.serving).await;
        assert_eq!((chat.term, &chat.host_peer_id), (before.term, &before.host_peer_id));
        assert_eq!(chat.members.len(), before.members.len());
        assert!(!peer.texts().await.iter().any(|text| text == "from outside"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outsider_that_knows_the_chat_gets_nothing() {
    let [ann, ben, eva] = three().await;
    let outsider = Speaker::stranger(&ann.lunch().await);
    gets_nothing(&[&ann, &ben, &eva], &outsider, RefusedReason::NotMember).await;
    // To one who asks for the host, the chat might as well not exist.
    let mut calls = Calls::to(&outsider.identity, &ann.address()).await;
    let request = pb::FindHostRequest { chat_id: outsider.chat.to_string(), ..Default::default() };
    assert_refused(calls.peer.find_host(request).await, Code::NotFound, "CHAT_NOT_FOUND");
    let request = pb::FindHostRequest { chat_id: "0".repeat(32), ..Default::default() };
    assert_refused(calls.peer.find_host(request).await, Code::NotFound, "CHAT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_removed_gets_nothing_any_more() {
    let peers = four().await;
    let [ann, ben, dan, eva] = peers;
    // The key and the store are copied while Eva takes part, and used once she has left.
    let leaving = pb::LeaveChatRequest { chat: LUNCH.to_owned(), ..Default::default() };
    let (incarnation, chat) = (Speaker::incarnation_of(&eva).await, eva.lunch().await.chat_id);
    eva.client.clone().leave_chat(leaving).await.expect("durable");
    for peer in [&ann, &ben, &dan] {
        peer.sees("Eva gone", |chat| chat.members.len() == 3 && chat.serving).await;
    }
    let gone = until("Eva's chat to be deleted", || async { eva.chat(LUNCH).await.err() }).await;
    assert_eq!(gone.code(), Code::NotFound);
    let identity = demes::crypto::Identity::load_or_create(eva.dir.path()).expect("a key");
    let eva = Speaker::of(identity, incarnation, chat.parse().expect("an id"));
    gets_nothing(&[&ann, &ben, &dan], &eva, RefusedReason::Removed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_invited_may_join_and_nothing_else() {
    let [ann, ben, eva] = three().await;
    let guest = guest_of(&[&ann, &ben, &eva]).await;
    let identity = demes::crypto::Identity::load_or_create(guest.dir.path()).expect("a key");
    let chat = ann.lunch().await.chat_id.parse().expect("an id");
    drop(guest);
    let invited = Speaker::of(identity, 7, chat);
    let before = ann.lunch().await;
    for peer in [&ann, &ben, &eva] {
        let mut calls = Calls::to(&invited.identity, &peer.address()).await;
        for (call, answer) in every_call(&mut calls, &invited, before.term + 1).await {
            let refused = is_refused(call, &answer, RefusedReason::NotMember);
            assert!(refused, "{call} at {}: {answer:?}", peer.name);
        }
    }
    ben.says(LUNCH, "still here").await;
    assert_eq!(ann.lunch().await.term, before.term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_wins_no_vote_while_the_host_is_heard() {
    let peers = four().await;
    let before = peers[0].lunch().await;
    let (honest, learner) = Speaker::learner_of(peers).await;
    for peer in &honest {
        let mut calls = Calls::to(&learner.identity, &peer.address()).await;
        let request = pb::RequestVoteRequest {
            header: learner.header(),
            term: before.term + 1,
            last: Some(pb::Position { term: before.term + 1, index: u64::MAX }),
            last_hash: vec![0; 32],
            ..Default::default()
        };
        let vote = calls.election.request_vote(request).await.expect("an answer").into_inner();
        let refused = vote.granted.is_none() && vote.host_alive.is_some();
        assert!(refused && vote.term == before.term, "{vote:?}");
        let request = pb::NominateRequest {
            header: learner.header(),
            term: before.term,
            last: Some(pb::Position { term: before.term, index: u64::MAX }),
        };
        let answer = calls.election.nominate(request).await.expect("an answer").into_inner();
        assert!(answer.host_alive.is_some(), "{answer:?}");
    }
    honest[1].says(LUNCH, "no change").await;
    assert_eq!(honest[0].lunch().await.term, before.term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_that_nobody_can_have_reached_is_not_believed() {
    let [ann, ben, eva] = three().await;
    let before = ann.lunch().await;
    let member = Speaker::in_place_of(eva).await;
    for peer in [&ann, &ben] {
        let mut calls = Calls::to(&member.identity, &peer.address()).await;
        for term in [u64::MAX, TERM_MAX + 1] {
            let request = pb::AnnounceRequest { header: member.header(), term, reign: None };
            let answer = calls.election.announce(request).await;
            assert_refused(answer, Code::InvalidArgument, "REQUEST_INVALID");
            let answer = calls.submit(member.submission(term, 1, text("late"), None)).await;
            assert_refused(answer, Code::InvalidArgument, "REQUEST_INVALID");
        }
        // L5: what could be a term is nobody's but the member's own.
        for term in [before.term + 1_025, TERM_MAX] {
            let request = pb::AnnounceRequest { header: member.header(), term, reign: None };
            let answer = calls.election.announce(request).await.expect("an answer").into_inner();
            assert_eq!(answer.refused, None);
        }
    }
    ben.says(LUNCH, "same term").await;
    assert_eq!(ann.lunch().await.term, before.term);
}
