//! `DialBack`: a peer dials for members of a chat alone, where the chat says that they listen, and
//! only so often.

use demes::serve::Limits;
use demes::wire::pb;
use demes::wire::pb::Reach;
use tonic::{Code, Status};

use crate::peer::{LUNCH, Peer, assert_refused, guest_of, lunch_of, reason, three};
use crate::raw::{Calls, Speaker};

/// What one member may have dialled in a minute.
const DIALS_PER_MINUTE: usize = 12;

async fn dial_back(calls: &mut Calls, chat_id: String) -> Result<pb::DialBackResponse, Status> {
    let request = pb::DialBackRequest { chat_id };
    calls.peer.dial_back(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_dialled_for_who_is_no_member() {
    let [ann, ben, eva] = three().await;
    let guest = guest_of(&[&ann, &ben, &eva]).await;
    let chat = ann.lunch().await;
    let outsider = Speaker::stranger(&chat);
    let identity = demes::crypto::Identity::load_or_create(guest.dir.path()).expect("a key");
    for identity in [&outsider.identity, &identity] {
        let mut calls = Calls::to(identity, &ann.address()).await;
        // A chat that they are not in is to them as one that does not exist.
        for id in [chat.chat_id.clone(), "0".repeat(32)] {
            assert_refused(dial_back(&mut calls, id).await, Code::NotFound, "CHAT_NOT_FOUND");
        }
        for id in ["", "lunch", &"0".repeat(33), &"G".repeat(32)] {
            let answer = dial_back(&mut calls, id.to_owned()).await;
            assert_refused(answer, Code::InvalidArgument, "REQUEST_INVALID");
        }
    }
    // Who was a member is none either.
    let remove =
        pb::RemoveMemberRequest { chat: LUNCH.to_owned(), peer: eva.id(), ..Default::default() };
    ann.client.clone().remove_member(remove).await.expect("removed");
    ann.sees("Eva gone", |chat| chat.members.len() == 3).await;
    let eva = Speaker::in_place_of(eva).await;
    let mut calls = Calls::to(&eva.identity, &ann.address()).await;
    let answer = dial_back(&mut calls, chat.chat_id.clone()).await;
    assert_refused(answer, Code::NotFound, "CHAT_NOT_FOUND");
    // A member is told of a chat that it is in, and of no other one.
    let ben = Speaker::in_place_of(ben).await;
    let mut calls = Calls::to(&ben.identity, &ann.address()).await;
    let other = ann.create("second", Vec::new()).await.expect("a chat").chat_id;
    for id in [other, "0".repeat(32)] {
        assert_refused(dial_back(&mut calls, id).await, Code::NotFound, "CHAT_NOT_FOUND");
    }
    assert!(dial_back(&mut calls, chat.chat_id).await.is_ok());
}

// R44: asking about chats is first contact, of which each key has only so much.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outsider_asks_only_so_often() {
    let limits = Limits { first_contact_per_minute_peer: 5, ..Limits::default() };
    let ann = Peer::with_limits("Ann", limits).await;
    let (ben, eva) = (Peer::start("Ben").await, Peer::start("Eva").await);
    lunch_of(&[&ann, &ben, &eva], 3).await;
    let chat = ann.lunch().await;
    let outsider = Speaker::stranger(&chat);
    let mut calls = Calls::to(&outsider.identity, &ann.address()).await;
    let mut told = Vec::new();
    for _ in 0..100 {
        let status = dial_back(&mut calls, chat.chat_id.clone()).await.expect_err("refused");
        told.push((status.code(), reason(&status)));
    }
    let not_found = (Code::NotFound, "CHAT_NOT_FOUND".to_owned());
    let too_often = (Code::ResourceExhausted, "RATE_LIMITED".to_owned());
    assert!(told[..5].iter().all(|one| *one == not_found), "{told:?}");
    assert!(told.iter().all(|one| *one == not_found || *one == too_often), "{told:?}");
    assert!(told.contains(&too_often), "{told:?}");
    ben.says(LUNCH, "as ever").await;
    assert_eq!(ann.texts().await, ["as ever"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_dialled_where_the_chat_has_it_and_only_so_often() {
    let [ann, ben, eva] = three().await;
    let chat = ann.lunch().await;
    let address = eva.address();
    let eva = Speaker::in_place_of(eva).await;
    let mut calls = Calls::to(&eva.identity, &ann.address()).await;
    let (mut dialled, mut refused) = (0, Vec::new());
    for _ in 0..100 {
        match dial_back(&mut calls, chat.chat_id.clone()).await {
            Ok(answer) => {
                // Eva's peer runs no more; whoever has its key has nothing else dialled.
                assert_eq!((answer.address.as_str(), answer.reach()), (&*address, Reach::Refused));
                assert_eq!(answer.round_trip_us, 0);
                dialled += 1;
            }
            Err(status) => refused.push((status.code(), reason(&status))),
        }
        if refused.is_empty() {
            continue;
        }
        assert!(dialled >= DIALS_PER_MINUTE, "{dialled}: {refused:?}");
    }
    let too_often = (Code::ResourceExhausted, "RATE_LIMITED".to_owned());
    assert!(!refused.is_empty() && refused.iter().all(|one| *one == too_often), "{refused:?}");

    // Nobody else pays for it.
    let ask = ben.client.clone().check_members(pb::CheckMembersRequest {}).await;
    let mut answers = ask.expect("it is checked").into_inner();
    let mut by_ann = None;
    while let Some(one) = answers.message().await.expect("no error") {
        if one.peer_id == ann.id() {
            by_ann = Some((one.inward(), one.inward_problem));
        }
    }
    assert_eq!(by_ann, Some((Reach::Reached, String::new())));
    ben.says(LUNCH, "as ever").await;
    assert_eq!(ann.texts().await, ["as ever"]);
}
