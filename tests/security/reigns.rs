//! L1, L3, L5: who has no votes hosts nothing, whatever it says of itself, and what nobody has
//! voted for enters no log and no term, whoever shows it.

use std::time::Instant;

use demes::protocol::reign::ballot_of;
use demes::protocol::sign::signed_vote;
use demes::protocol::types::{Entry, Hash, Payload, PeerId, Reign, SignedVote};
use demes::wire::entry::to_entry;
use demes::wire::pb;

use crate::liar::{Frame, Liar, Lies, Script};
use crate::peer::{LUNCH, Peer, four, three, until};
use crate::raw::{Calls, Speaker};

/// The first entry of a reign of the speaker, after `before`, with these votes beside its own.
fn start(speaker: &Speaker, term: u64, before: &Entry, votes: &[(PeerId, SignedVote)]) -> Entry {
    let mut entry = Entry {
        index: before.index + 1,
        term,
        author: speaker.identity.peer_id(),
        incarnation: speaker.incarnation,
        number: 0,
        generation: 0,
        created_at_ms: 1,
        trace: None,
        payload: Payload::TermStart(Reign::default()),
        signature: None,
        previous: before.hash,
        hash: Hash::default(),
    };
    let mut reign = Reign { last_term: before.term, votes: votes.iter().copied().collect() };
    let ballot = ballot_of(&entry, &reign);
    let signed = signed_vote(speaker.chat, &ballot, entry.author, entry.incarnation);
    let own =
        SignedVote { incarnation: speaker.incarnation, signature: speaker.identity.sign(&signed) };
    reign.votes.insert(entry.author, own);
    entry.payload = Payload::TermStart(reign);
    entry.hash = entry.computed_hash();
    entry
}

async fn announce(calls: &mut Calls, speaker: &Speaker, term: u64, reign: Option<&Entry>) {
    let request =
        pb::AnnounceRequest { header: speaker.header(), term, reign: reign.map(to_entry) };
    let _ = calls.election.announce(request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_announces_itself_without_votes_is_not_followed() {
    let peers = four().await;
    let before = peers[0].lunch().await;
    let (honest, learner) = Speaker::learner_of(peers).await;
    let last = learner.log.last().expect("there is a log");
    let begun = Instant::now();
    for peer in &honest {
        let mut calls = Calls::to(&learner.identity, &peer.address()).await;
        for round in 0..20 {
            let term = before.term + 1 + 1_000 * round;
            announce(&mut calls, &learner, term, None).await;
            let own = start(&learner, term, last, &[]);
            announce(&mut calls, &learner, term, Some(&own)).await;
        }
    }
    let announced = begun.elapsed();
    let begun = Instant::now();
    honest[1].says(LUNCH, "no change").await;
    eprintln!(
        "{} announcements in {announced:?}, the next message was confirmed after {:?}",
        2 * 20 * honest.len(),
        begun.elapsed()
    );
    for peer in &honest {
        let chat = peer.sees("the message", |chat| chat.serving && chat.fault.is_empty()).await;
        assert_eq!((chat.term, &chat.host_peer_id), (before.term, &before.host_peer_id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vote_that_others_do_not_have_makes_no_host() {
    let [ann, ben, eva] = three().await;
    let before = ben.lunch().await;
    let mut stranger = Speaker::stranger(&before);
    // Both others are away. What the log says, a member may have told.
    let eva = Speaker::in_place_of(eva).await;
    drop(ann);
    ben.sees("nobody", |chat| !chat.serving).await;
    stranger.log.clone_from(&eva.log);
    let last = stranger.log.last().expect("there is a log");
    let mut calls = Calls::to(&stranger.identity, &ben.address()).await;
    let term = ben.lunch().await.term + 1;
    let request = pb::RequestVoteRequest {
        header: stranger.header(),
        term,
        last: Some(pb::Position { term: last.term, index: last.index + 1 }),
        last_hash: last.hash.0.to_vec(),
        ..Default::default()
    };
    let look = || async {
        let mut calls = calls.clone();
        let answer = calls.election.request_vote(request.clone()).await.ok()?.into_inner();
        (answer.host_alive.is_none()).then_some(answer)
    };
    let answer = until("no host", look).await;
    let vote = answer.granted.map(|granted| {
        let signature = granted.signature.try_into().expect("64 bytes");
        let incarnation = answer.header.expect("a header").from_incarnation;
        let ben: PeerId = ben.id().parse().expect("an id");
        (ben, SignedVote { incarnation, signature })
    });
    let votes: Vec<_> = vote.into_iter().collect();
    for term in [term, term + 1] {
        let own = start(&stranger, term, last, &votes);
        announce(&mut calls, &stranger, term, Some(&own)).await;
        announce(&mut calls, &stranger, term, None).await;
    }
    let heartbeats = pb::HeartbeatsRequest { header: stranger.header(), ..Default::default() };
    let _ = calls.heartbeats(heartbeats).await;
    let chat = ben.lunch().await;
    assert_ne!(chat.host_peer_id, stranger.identity.peer_id().to_string());
    assert!(!chat.serving && chat.fault.is_empty());
}

/// So far ahead that nobody can stand in it, or in one after it.
const FAR: u64 = 1 << 62;

// L3, L5, R10: Ben has lost his host, and Eva, a voter, nominates him and says that her log is
// ahead. What she then gives him of it is not taken, and he is in no term that others refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_a_nominator_has_made_up_is_not_adopted() {
    let script: Script = |liar| {
        let last = liar.last();
        let mut message = liar.next(last, liar.own_number() + 1, "never said");
        message.term = FAR;
        message.hash = message.computed_hash();
        let own = |term| start(&liar.0.speaker, term, last, &[]);
        // A vote of each other voter, which she has signed herself.
        let Payload::TermStart(reign) = own(liar.0.term + 1).payload else { unreachable!() };
        let mine = *reign.votes.values().next().expect("her own vote");
        let voters = liar.0.speaker.log.iter().rev().find_map(|entry| match &entry.payload {
            Payload::VoterChange(voters) => Some(voters.0.clone()),
            _ => None,
        });
        let forged = voters.expect("there are three").into_iter();
        let forged = forged.map(|(peer, incarnation)| (peer, SignedVote { incarnation, ..mine }));
        let elected = start(&liar.0.speaker, liar.0.term + 1, last, &forged.collect::<Vec<_>>());
        let entries = [vec![message], vec![own(FAR)], vec![own(liar.0.term + 1)], vec![elected]];
        let frame = |entries| Frame { after: last.index, entries, commit: 0 };
        entries.into_iter().map(frame).collect()
    };
    let [mut ann, ben, eva] = three().await;
    let said = ben.says(LUNCH, "one").await;
    let before = eva.sees("the message", |chat| chat.committed >= said).await;
    let (host, address) = (ann.address(), eva.address());
    let mut eva = Speaker::in_place_of(eva).await;
    let store = eva.dir.take().expect("her directory");
    drop(ann.running.take());
    let last = eva.log.last().expect("there is a log");
    let nomination = pb::NominateRequest {
        header: eva.header(),
        term: before.term,
        last: Some(pb::Position { term: last.term, index: last.index + 1 }),
    };
    let mut calls = Calls::to(&eva.identity, &ben.address()).await;
    let liar = Liar::new(eva, before.term, Lies::Log(script));
    let serving = liar.clone().serve(&address).await;
    let look = || async {
        // He may hear his host still, or be asking already.
        let _ = calls.clone().election.nominate(nomination.clone()).await;
        (liar.attempts() >= 8).then_some(())
    };
    until("every lie to have been told twice", look).await;
    let _ = calls.election.nominate(nomination.clone()).await;
    let chat = ben.lunch().await;
    assert!(!chat.serving && chat.fault.is_empty(), "{chat:?}");
    assert_eq!(ben.texts().await, ["one"]);
    // The honest majority goes on beside her, and with her once she says what is true.
    let ann = Peer::again("Ann", ann.dir, &host).await;
    ben.says(LUNCH, "two").await;
    serving.abort();
    liar.hang_up();
    let eva = Peer::again("Eva", store, &address).await;
    eva.says(LUNCH, "three").await;
    for peer in [&ann, &ben, &eva] {
        let look = || async { (peer.texts().await == ["one", "two", "three"]).then_some(()) };
        until("all that was said", look).await;
        let chat = peer.lunch().await;
        assert!(chat.term < before.term + 1_000, "{}", chat.term);
        assert_eq!(chat.fault, "", "{}", peer.name);
    }
}
