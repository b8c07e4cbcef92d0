//! L1: words by which a peer would stop, leave or begin anew count only where they stand by
//! themselves, whoever says them and whatever they answer.

use std::sync::Arc;

use demes::crypto::Identity;
use demes::protocol::sign::{signed_past, signed_submission};
use demes::protocol::signed::SignedChange;
use demes::protocol::types::{Course, Membership, Past, Payload, PeerId, Position};
use demes::wire::entry::to_words;
use demes::wire::pb;
use futures_util::FutureExt as _;
use tokio::net::TcpListener;
use tonic::Code;

use crate::liar::{Liar, Lies, Refusal};
use crate::peer::{LUNCH, Peer, assert_refused, three, until};
use crate::raw::{Calls, Speaker};

/// A word of `author`, signed by `identity`, which may be another's.
fn word(
    speaker: &Speaker,
    identity: &Identity,
    author: PeerId,
    incarnation: u64,
    number: u64,
    change: Membership,
) -> pb::SignedChange {
    let payload = Payload::Membership(change.clone());
    let signed =
        signed_submission(Course::founded(speaker.chat), author, incarnation, number, &payload);
    let signature = Some(identity.sign(&signed));
    let word =
        Arc::new(SignedChange { author, incarnation, number, generation: 0, change, signature });
    to_words(&vec![word]).remove(0)
}

fn refused(reason: pb::RefusedReason, by: &str) -> pb::Refused {
    let by = by.to_owned();
    pb::Refused { reason: reason.into(), removed_by_peer_id: by, ..Default::default() }
}

/// Eva, a voter, refuses whatever Ann and Ben ask of her, in every way that is made of her own key,
/// a stranger's and old words; nothing comes of it.
async fn refuses_in_vain(refusals: impl FnOnce(&Speaker, &[&Peer; 2]) -> Vec<Refusal>) {
    let [ann, ben, eva] = three().await;
    let (address, term) = (eva.address(), ann.lunch().await.term);
    let eva = Speaker::in_place_of(eva).await;
    let lies = Lies::Refusals(refusals(&eva, &[&ann, &ben]));
    let liar = Liar::new(eva, term, lies);
    let serving = liar.clone().serve(&address).await;
    // Ann, the host, announces herself to Eva again and again.
    let often = || async { (liar.refused() >= 6).then_some(()) };
    until("Eva to have refused often", often).await;
    ann.says(LUNCH, "one").await;
    ben.says(LUNCH, "two").await;
    for peer in [&ann, &ben] {
        let chat = peer.lunch().await;
        assert_eq!((&chat.removed_by_peer_id[..], &chat.fault[..]), ("", ""), "{}", peer.name);
        assert_eq!(chat.members.len(), 3);
    }
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_members_word_sends_nobody_away() {
    refuses_in_vain(|eva, [ann, ben]| {
        let by = ben.id();
        let say = || refused(pb::RefusedReason::Removed, &by);
        let stranger = Identity::generate().expect("a key");
        let target: PeerId = ann.id().parse().expect("an id");
        let removing = || Membership::Removing { peer: target };
        let own = eva.identity.peer_id();
        let other: PeerId = ben.id().parse().expect("an id");
        vec![
            (say(), Vec::new()),
            // Of one who is no member, of a member in another's key, and of oneself about another.
            (say(), vec![word(eva, &stranger, stranger.peer_id(), 7, 1, removing())]),
            (say(), vec![word(eva, &eva.identity, other, eva.incarnation, 1, removing())]),
            (say(), vec![word(eva, &eva.identity, own, eva.incarnation + 1, 1, removing())]),
            (say(), vec![word(eva, &eva.identity, target, 1, 1, Membership::Leaving)]),
        ]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_refusal_stops_a_peer() {
    refuses_in_vain(|_, _| {
        use pb::RefusedReason as Why;
        let all = [Why::Outlived, Why::KeyInUse, Why::NotMember, Why::OtherGeneration];
        let more = [Why::WrongIncarnation, Why::NotHost, Why::ChatFull, Why::StaleTerm];
        all.into_iter().chain(more).map(|why| (refused(why, ""), Vec::new())).collect()
    })
    .await;
}

// L5: what a peer has forgotten, nobody but itself can show it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_members_word_about_anothers_past_stops_nobody() {
    let [ann, ben, eva] = three().await;
    let term = ann.lunch().await.term;
    let incarnations = [Speaker::incarnation_of(&ann).await, Speaker::incarnation_of(&ben).await];
    let eva = Speaker::in_place_of(eva).await;
    for (peer, incarnation) in [&ann, &ben].into_iter().zip(incarnations) {
        let mut calls = Calls::to(&eva.identity, &peer.address()).await;
        let acknowledged = Position { term: 1 << 40, index: 1 << 40 };
        let past = Past { boot: 1 << 60, term: 1 << 40, acknowledged, signature: None };
        let of: PeerId = peer.id().parse().expect("an id");
        let by_eva =
            eva.identity.sign(&signed_past(Course::founded(eva.chat), of, incarnation, &past));
        for signature in [Vec::new(), vec![1; 64], by_eva.to_vec()] {
            let acknowledged = Some(pb::Position { term: 1 << 40, index: 1 << 40 });
            let (boot, signature) = (1 << 60, signature);
            let past = pb::Past { boot, term: 1 << 40, acknowledged, signature };
            let header =
                eva.header().map(|header| pb::Header { to_incarnation: incarnation, ..header });
            let request = pb::RequestVoteRequest {
                header,
                term: term + 1,
                last: Some(pb::Position { term, index: 1 << 30 }),
                last_hash: vec![1; 32],
                past: Some(past),
                ..Default::default()
            };
            let answer = calls.election.request_vote(request).await;
            assert_refused(answer, Code::PermissionDenied, "NOT_GENUINE");
        }
    }
    ben.says(LUNCH, "I know what I said").await;
    for peer in [&ann, &ben] {
        assert_eq!(peer.lunch().await.fault, "", "{}", peer.name);
    }
}

// L2: a log that is said to be ahead lets nobody in, and has nobody dialled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_dials_for_a_stranger() {
    let [ann, ben, eva] = three().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let stranger = Speaker::stranger(&ann.lunch().await);
    let friend = Identity::generate().expect("a key");
    let me = stranger.identity.peer_id();
    let invited = || Membership::Invited { peer: me, address: address.clone() };
    let (name, at) = ("Mallory".to_owned(), address.clone());
    let joined = Membership::Joined { name, address: at, proof: None };
    let joined = word(&stranger, &stranger.identity, me, stranger.incarnation, 0, joined);
    let host: PeerId = ann.id().parse().expect("an id");
    let by_friend = word(&stranger, &friend, friend.peer_id(), 7, 1, invited());
    let as_host = word(&stranger, &friend, host, Speaker::incarnation_of(&ann).await, 1, invited());
    let far = Some(pb::Position { term: 1 << 61, index: 1 << 61 });
    for peer in [&ann, &ben, &eva] {
        let mut calls = Calls::to(&stranger.identity, &peer.address()).await;
        for words in [
            Vec::new(),
            vec![joined.clone()],
            vec![by_friend.clone(), joined.clone()],
            vec![as_host.clone(), joined.clone()],
        ] {
            let header =
                || stranger.header().map(|header| pb::Header { words: words.clone(), ..header });
            let request = pb::SolicitRequest { header: header(), term: 1, last: far };
            let answer = calls.election.solicit(request).await.map(|it| it.into_inner().refused);
            assert!(!matches!(answer, Ok(None)), "{answer:?}");
            let request = pb::RequestVoteRequest {
                header: header(),
                term: 9,
                last: far,
                last_hash: vec![1; 32],
                past: Some(pb::Past { boot: 1 << 60, ..Default::default() }),
                ..Default::default()
            };
            let answer = calls.election.request_vote(request).await;
            let answer = answer.map(|it| it.into_inner().refused);
            assert!(!matches!(answer, Ok(None)), "{answer:?}");
        }
    }
    ben.says(LUNCH, "nobody is there").await;
    for peer in [&ann, &ben, &eva] {
        let chat = peer.lunch().await;
        assert_eq!((chat.members.len(), &chat.fault[..]), (3, ""), "{}", peer.name);
    }
    assert!(listener.accept().now_or_never().is_none(), "nobody was dialled");
}
