//! What a member that lies may try: signatures, replays, numbers, and calling without end.

use demes::protocol::sign::signed_submission;
use demes::protocol::types::{ChatId, Course, Membership, Payload, Policy};
use demes::serve::Limits;
use demes::wire::pb;
use demes::wire::pb::SubmitProblem;
use tonic::{Code, Status};

use crate::peer::{LUNCH, Peer, assert_refused, lunch_of, reason, three};
use crate::raw::{Calls, Speaker, text};

fn renamed(name: &str) -> Payload {
    Payload::Policy(Policy::named(name))
}

// R41: entries that change the chat are their author's, and nobody can make or move one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_holds_for_its_entry_and_for_nothing_else() {
    let [ann, ben, eva] = three().await;
    let term = ann.lunch().await.term;
    let other = Speaker::stranger(&ann.lunch().await);
    let eva = Speaker::in_place_of(eva).await;
    let me = eva.identity.peer_id();
    let payload = renamed("supper");
    let good = eva.sign(1, &payload);
    let sign = |course, incarnation, number, payload: &Payload| {
        eva.identity.sign(&signed_submission(course, me, incarnation, number, payload))
    };
    let (chat, incarnation) = (Course::founded(eva.chat), eva.incarnation);
    // The identity point as commitment, and S = 0: a loose check takes it for keys of small order.
    let mut small = [0; 64];
    small[0] = 1;
    let mut malleable = good;
    malleable[63] |= 0x80;
    let unsigned_tag = [&b"demes/v1/hand-over\0"[..], &eva.chat.0, &me.0].concat();
    let denied = [
        ("none", Vec::new()),
        ("another's", other.sign(1, &payload).to_vec()),
        ("of small order", small.to_vec()),
        ("zeros", vec![0; 64]),
        ("flipped", malleable.to_vec()),
        (
            "for another chat",
            sign(Course::founded(ChatId([7; 16])), incarnation, 1, &payload).to_vec(),
        ),
        (
            "for another generation",
            sign(Course { generation: 1, ..chat }, incarnation, 1, &payload).to_vec(),
        ),
        ("for another incarnation", sign(chat, incarnation ^ 1, 1, &payload).to_vec()),
        ("for another number", sign(chat, incarnation, 2, &payload).to_vec()),
        ("for another name", sign(chat, incarnation, 1, &renamed("Supper")).to_vec()),
        (
            "for another kind",
            sign(chat, incarnation, 1, &Payload::Membership(Membership::Leaving)).to_vec(),
        ),
        ("with another tag", eva.identity.sign(&unsigned_tag).to_vec()),
    ];
    let mut calls = Calls::to(&eva.identity, &ann.address()).await;
    let mut request = eva.submission(term, 1, payload, Some(good));
    for (what, signature) in denied {
        request.submissions[0].signature = signature.into();
        let answer = calls.submit(request.clone()).await;
        let status = answer.expect_err(what);
        assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status:?}");
    }
    for length in [1, 63, 65, 4_096] {
        request.submissions[0].signature = vec![1; length].into();
        assert_refused(
            calls.submit(request.clone()).await,
            Code::InvalidArgument,
            "REQUEST_INVALID",
        );
    }
    ben.says(LUNCH, "still lunch").await;
    assert_eq!(ann.lunch().await.name, LUNCH);

    // The right one is taken once, and a replay of it finds the entry that it has made.
    request.submissions[0].signature = good.to_vec().into();
    let first = calls.submit(request.clone()).await.expect("taken").accepted;
    let again = calls.submit(request.clone()).await.expect("known").accepted;
    assert_eq!((first.len(), first[0].index), (1, again[0].index));
    let look = || async { ben.chat("supper").await.ok() };
    crate::peer::until("the new name at Ben", look).await;
    // In another chat the same bytes are worth nothing.
    let second = ann.create("second", Vec::new()).await.expect("a chat");
    request.header.as_mut().expect("one").chat_id = second.chat_id;
    assert_refused(calls.submit(request).await, Code::PermissionDenied, "NOT_GENUINE");
    assert_eq!(ann.chat("second").await.expect("a chat").name, "second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_taken_in_order_and_once() {
    let [ann, ben, eva] = three().await;
    let term = ann.lunch().await.term;
    let mut eva = Speaker::in_place_of(eva).await;
    let mut calls = Calls::to(&eva.identity, &ann.address()).await;
    let zero = calls.submit(eva.submission(term, 0, text("zero"), None)).await;
    assert_refused(zero, Code::InvalidArgument, "REQUEST_INVALID");
    for gap in [2, 1_000, u64::MAX] {
        let answer = calls.submit(eva.submission(term, gap, text("gap"), None)).await.expect("one");
        assert_eq!((answer.problem(), answer.last_number), (SubmitProblem::Gap, 0));
        assert!(answer.accepted.is_empty());
    }
    let mut indices = Vec::new();
    for number in [1, 2, 3] {
        let said = eva.submission(term, number, text(&format!("{number}")), None);
        indices.push(calls.submit(said).await.expect("taken").accepted[0].index);
    }
    // Reused, rolled back: the answer is where the first one stands.
    for (number, index) in [(1, indices[0]), (3, indices[2]), (2, indices[1])] {
        let said = eva.submission(term, number, text("changed"), None);
        let answer = calls.submit(said).await.expect("known");
        assert_eq!((answer.accepted[0].number, answer.accepted[0].index), (number, index));
    }
    // An incarnation that never joined has no part in the chat, and a term that is over neither.
    eva.incarnation ^= 1;
    let answer = calls.submit(eva.submission(term, 1, text("who"), None)).await.expect("one");
    assert_eq!(answer.problem(), SubmitProblem::NotMember);
    eva.incarnation ^= 1;
    let mut wrong = eva.submission(term, 4, text("whom"), None);
    wrong.header.as_mut().expect("one").to_incarnation = 12_345;
    let refused = calls.submit(wrong).await.expect("an answer").refused.expect("refused");
    assert_eq!(refused.reason(), pb::RefusedReason::WrongIncarnation);
    ben.says(LUNCH, "end").await;
    assert_eq!(ann.texts().await, ["1", "2", "3", "end"]);
    assert_eq!(ben.texts().await, ["1", "2", "3", "end"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_in_requests_is_refused_with_its_name() {
    let [ann, ben, eva] = three().await;
    let term = ann.lunch().await.term;
    let eva = Speaker::in_place_of(eva).await;
    let mut calls = Calls::to(&eva.identity, &ann.address()).await;
    for delay_us in [u64::MAX, u64::MAX / 2, demes::protocol::types::DELAY_US_MAX + 1] {
        let delays = vec![pb::PeerDelay { peer_id: ben.id(), delay_us }];
        let request = pb::ReportDelaysRequest {
            header: eva.header(),
            term,
            delays,
            host_weight: 100,
            ..Default::default()
        };
        let answer = calls.host.report_delays(request).await;
        assert_refused(answer, Code::InvalidArgument, "REQUEST_INVALID");
    }
    let sealed = Payload::Message { request_id: String::new(), sealed: vec![0; 20_000].into() };
    let long = calls.submit(eva.submission(term, 1, sealed, None)).await;
    assert_refused(long, Code::InvalidArgument, "REQUEST_INVALID");
    let id = Payload::Message { request_id: "x".repeat(65), sealed: vec![0].into() };
    let long = calls.submit(eva.submission(term, 1, id, None)).await;
    assert_refused(long, Code::InvalidArgument, "REQUEST_INVALID");
    // What a host makes by itself, nobody submits: it has no form on the wire.
    let start = Payload::TermStart(Default::default());
    let empty = calls.submit(eva.submission(term, 1, start, None)).await;
    assert_refused(empty, Code::InvalidArgument, "REQUEST_INVALID");
    let removed = Payload::Membership(Membership::Removed { peer: eva.identity.peer_id() });
    let signature = eva.sign(1, &removed);
    let answer = calls.submit(eva.submission(term, 1, removed, Some(signature))).await;
    assert_eq!(answer.expect("an answer").problem(), SubmitProblem::NotMember);
    let headless = calls.host.goodbye(pb::GoodbyeRequest { header: None }).await;
    assert_refused(headless, Code::InvalidArgument, "REQUEST_INVALID");
    // A text that is no text is kept as it is, and shown as nothing.
    let bytes = Payload::Message { request_id: String::new(), sealed: vec![0, 0xff, 0xfe].into() };
    calls.submit(eva.submission(term, 1, bytes, None)).await.expect("sealed bytes are not read");
    ben.says(LUNCH, "after").await;
    assert_eq!(ben.texts().await, ["", "after"]);
}

// R44: a bucket of calls for each peer; one that uses up its own takes nothing from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_calls_too_often_is_refused_and_the_others_are_not() {
    let limits = Limits { calls_per_second_peer: 300, ..Limits::default() };
    let ann = Peer::with_limits("Ann", limits).await;
    let (ben, eva) = (Peer::start("Ben").await, Peer::start("Eva").await);
    lunch_of(&[&ann, &ben, &eva], 3).await;
    let term = ann.lunch().await.term;
    let eva = Speaker::in_place_of(eva).await;
    let mut calls = Calls::to(&eva.identity, &ann.address()).await;
    let mut refused: Vec<Status> = Vec::new();
    for _ in 0..100_000 {
        refused.extend(calls.election.ping(pb::PingRequest {}).await.err());
        if refused.len() > 20 {
            break;
        }
    }
    let limited = |status: &Status| {
        status.code() == Code::ResourceExhausted && reason(status) == "RATE_LIMITED"
    };
    assert!(refused.len() > 20 && refused.iter().all(limited), "{:?}", refused.first());
    // Messages of a stream count like calls; the one too many ends the stream.
    let flood = vec![eva.submission(term, 9, text("gap"), None); 5_000];
    let mut answers =
        calls.host.submit(tokio_stream::iter(flood)).await.expect("open").into_inner();
    let end = loop {
        match answers.message().await {
            Ok(answer) => drop(answer.expect("it ends with a status")),
            Err(status) => break status,
        }
    };
    assert!(limited(&end), "{end:?}");
    ben.says(LUNCH, "as ever").await;
    assert_eq!(ann.texts().await, ["as ever"]);
}
