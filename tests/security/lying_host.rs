//! A host that lies: the member that is attached to it follows it no more in that term where the
//! lie can be proven, keeps what it had, and goes on as soon as there is an honest host; from the
//! rest it takes no harm.

use std::time::Duration;

use demes::crypto::Identity;
use demes::protocol::types::{Entry, Hash, Payload, Policy};
use demes::wire::pb;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::Request;

use crate::liar::{Frame, Liar, Lies, Script};
use crate::peer::{LUNCH, Peer, lunch_of, three, until};
use crate::raw::{Calls, Speaker, text};

/// Ben, whose host Ann has turned into a liar after both had said something; a chat of his own, the
/// liar, and what is left of the honest Ann.
struct LiedTo {
    ben: Peer,
    liar: Liar,
    serving: JoinHandle<()>,
    ann: TempDir,
    address: String,
}

async fn lied_to(script: Script) -> LiedTo {
    let (ann, ben) = (Peer::start("Ann").await, Peer::start("Ben").await);
    lunch_of(&[&ann, &ben], 2).await;
    ben.create("diary", Vec::new()).await.expect("a chat");
    ben.says(LUNCH, "one").await;
    ann.says(LUNCH, "two").await;
    let last = ann.lunch().await.committed;
    let seen = ben.sees("both texts", |chat| chat.committed >= last).await;
    let address = ann.address();
    assert_eq!(seen.host_peer_id, ann.id());
    let mut speaker = Speaker::in_place_of(ann).await;
    let ann = speaker.dir.take().expect("her directory");
    let liar = Liar::new(speaker, seen.term, Lies::Log(script));
    let serving = liar.clone().serve(&address).await;
    LiedTo { ben, liar, serving, ann, address }
}

/// Ben notices, says so, keeps what he has, and goes on elsewhere; and here as well once Ann is
/// honest again.
async fn is_found_out(script: Script, what: &str) {
    let LiedTo { ben, liar, serving, ann, address } = lied_to(script).await;
    let chat = ben.sees("the lie", |chat| !chat.evidence.is_empty()).await;
    assert!(chat.evidence[0].what.contains(what), "{:?}", chat.evidence);
    assert_eq!(chat.fault, "", "only he himself could stop him");
    assert_eq!(ben.texts().await, ["one", "two"], "he keeps what is true");
    ben.says("diary", "she lies").await;
    serving.abort();
    liar.hang_up();
    let ann = Peer::again("Ann", ann, &address).await;
    ben.says(LUNCH, "three").await;
    let look = || async { (ann.texts().await == ["one", "two", "three"]).then_some(()) };
    until("all that was said", look).await;
}

/// Ben is told `texts` in the end, and nothing is wrong.
async fn does_no_harm(script: Script, texts: &[&str]) {
    let LiedTo { ben, serving, .. } = lied_to(script).await;
    let look = || async { (ben.texts().await == texts).then_some(()) };
    until("what is true in the end", look).await;
    let chat = ben.lunch().await;
    assert!(chat.fault.is_empty() && chat.evidence.is_empty(), "{chat:?}");
    ben.says("diary", "all is well").await;
    assert_eq!(ben.texts().await, texts);
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_chain_is_found_out() {
    let script: Script = |liar| {
        let mut entry = liar.next(liar.last(), liar.own_number() + 1, "never said");
        entry.previous = Hash([7; 32]);
        entry.hash = entry.computed_hash();
        let last = liar.last().index;
        vec![Frame { after: last, entries: vec![entry], commit: last + 1 }]
    };
    is_found_out(script, "chain of hashes is broken").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_entry_where_one_is_committed_is_found_out() {
    let script: Script = |liar| {
        let last = liar.last().index;
        vec![Frame { after: last - 1, entries: vec![liar.changed(last)], commit: last }]
    };
    is_found_out(script, "conflicts with what is committed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_history_that_conflicts_is_found_out() {
    let script: Script = |liar| {
        let last = liar.last().index;
        let mut entry = liar.changed(last);
        entry.term -= 1;
        entry.hash = entry.computed_hash();
        vec![Frame { after: last - 1, entries: vec![entry], commit: last }]
    };
    is_found_out(script, "conflicts with what is committed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_put_into_the_log_twice_is_found_out() {
    let script: Script = |liar| {
        let last = liar.last();
        let again = liar.next(last, liar.own_number(), "two");
        vec![Frame { after: last.index, entries: vec![again], commit: last.index + 1 }]
    };
    is_found_out(script, "a second time").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_hash_or_signature_is_dropped() {
    let script: Script = |liar| {
        let (last, number) = (liar.last(), liar.own_number() + 1);
        let mut wrong_hash = liar.next(last, number, "never said");
        wrong_hash.hash = Hash([9; 32]);
        let mut unsigned = liar.next(last, number, "");
        let name = Policy::named("hers");
        unsigned.payload = Payload::Policy(name);
        unsigned.hash = unsigned.computed_hash();
        // What is true comes only after both lies have been told.
        let first = match liar.attempts() {
            1 => wrong_hash,
            2 => unsigned,
            _ => liar.next(last, number, "three"),
        };
        vec![Frame { after: last.index, entries: vec![first], commit: last.index + 1 }]
    };
    does_no_harm(script, &["one", "two", "three"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_twice_or_out_of_order_is_told_once_and_in_order() {
    let script: Script = |liar| {
        let last = liar.last();
        let three = liar.next(last, liar.own_number() + 1, "three");
        let four = liar.next(&three, liar.own_number() + 2, "four");
        let (before, index) = (last.index - 1, last.index);
        let frame = |after, entries: &[&Entry], commit| Frame {
            after,
            entries: entries.iter().map(|entry| (*entry).clone()).collect(),
            commit,
        };
        vec![
            frame(before, &[last], index),
            frame(index, &[&four], index + 2),
            frame(index, &[&three], index + 1),
            frame(index, &[&three], index + 1),
            frame(index, &[&three, &four], index + 2),
            frame(before, &[last, &three], index + 1),
            frame(index, &[&four, &three], u64::MAX),
        ]
    };
    does_no_harm(script, &["one", "two", "three", "four"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_host_drops_is_never_called_confirmed() {
    let script: Script = |liar| {
        let last = liar.last().index;
        vec![Frame { after: last, entries: Vec::new(), commit: last }]
    };
    let LiedTo { ben, serving, .. } = lied_to(script).await;
    ben.sees("a host", |chat| chat.serving).await;
    let mut request = Request::new(pb::SendMessageRequest {
        chat: LUNCH.to_owned(),
        text: "dropped".to_owned(),
        request_id: "dropped".to_owned(),
        wait: pb::Wait::Committed.into(),
    });
    request.set_timeout(Duration::from_secs(2));
    let told = ben.client.clone().send_message(request).await;
    crate::peer::assert_refused(told, tonic::Code::DeadlineExceeded, "NO_MAJORITY");
    assert_eq!((ben.lunch().await.queued, ben.texts().await.len()), (1, 2));
    serving.abort();
}

// L4: an author's numbers are dense. What a host makes up in a member's name would have that
// member's own words wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_with_a_gap_in_a_members_name_is_found_out() {
    let script: Script = |liar| {
        let last = liar.last();
        let entry = liar.in_the_name_of_another(9, "never said");
        vec![Frame { after: last.index, entries: vec![entry], commit: last.index + 1 }]
    };
    is_found_out(script, "left out what an author said before").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_without_a_number_is_found_out() {
    let script: Script = |liar| {
        let last = liar.last();
        let entry = liar.in_the_name_of_another(0, "never said");
        vec![Frame { after: last.index, entries: vec![entry], commit: last.index + 1 }]
    };
    is_found_out(script, "without its author's number").await;
}

// L4, L6: what a host says under a member's next number, nobody else can tell from its own words.
// The others take it; Ben goes on as another incarnation, and keeps what he knows of his host. Here
// somebody with his key says it, which looks the same to all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_members_next_words_that_the_host_makes_up_are_held_against_it() {
    let [ann, ben, eva] = three().await;
    ben.says(LUNCH, "one").await;
    let chat = ann.lunch().await;
    let identity = Identity::load_or_create(ben.dir.path()).expect("his key");
    let incarnation = Speaker::incarnation_of(&ben).await;
    let forger = Speaker::of(identity, incarnation, chat.chat_id.parse().expect("an id"));
    let mut calls = Calls::to(&forger.identity, &ann.address()).await;
    let forged = forger.submission(chat.term, 2, text("never said"), None);
    let answer = calls.submit(forged).await.expect("taken");
    assert_eq!(answer.accepted.len(), 1, "{answer:?}");
    drop(calls);
    let what = "the host has put words into this peer's mouth";
    let knows = |chat: &pb::Chat| {
        let found: Vec<_> = chat.evidence.iter().map(|it| (&it.peer_id, &it.what[..])).collect();
        found == [(&ann.id(), what)] && chat.serving && chat.fault.is_empty()
    };
    ben.sees("what he knows, and the chat", knows).await;
    assert_ne!(Speaker::incarnation_of(&ben).await, incarnation);
    ben.says(LUNCH, "two").await;
    ann.says(LUNCH, "three").await;
    for peer in [&ann, &ben, &eva] {
        let look = || async {
            (peer.texts().await == ["one", "never said", "two", "three"]).then_some(())
        };
        until("all that was said", look).await;
    }
    assert!(eva.lunch().await.evidence.is_empty(), "she cannot know");
}
