//! Messages of every kind, as the peer 1 says them to the peer 3: as values, and as the bytes that
//! the targets `request` and `response` read, which begin with a number for the kind.

use std::sync::Arc;

use demes::crypto::link::LinkSeed;
use demes::protocol::invite_link::InviteLinkProblem;
use demes::protocol::message::*;
use demes::protocol::sign::{signed_hand_over, signed_past, signed_submission};
use demes::protocol::types::{
    ChatId, Course, End, Entry, InviteLinkProof, Membership, Past, Payload, PeerId, Position,
    Submission,
};
use demes::wire::entry::to_proof;
use demes::wire::message as convert;
use demes::wire::{hex, pb, timestamp};
use ed25519_dalek::Signer as _;
use prost::Message as _;

use super::{Seeds, entry, key, message, named, submission};
use crate::targets::talk::{chat, incarnation, message_of, peer};

/// The number of a kind, and the message without it.
type Kind = (u8, Vec<u8>);

/// Every request.
pub fn requests() -> Seeds {
    let of = |(name, body): (&str, Body)| {
        let (kind, bytes) = request(body)?;
        Some(named(name, [vec![kind], bytes].concat()))
    };
    let mut seeds: Seeds = bodies().into_iter().filter_map(of).collect();
    let invite = pb::InviteRequest {
        chat_id: hex(&chat().0.0),
        chat_name: "chat".into(),
        inviter_name: "one".into(),
        inviter_address: "a.example:1".into(),
        expires_at: Some(timestamp(1 << 40)),
    };
    seeds.push(named("invite", [vec![14], invite.encode_to_vec()].concat()));
    let proof = LinkSeed([5; 16]).prove(chat().0, peer(1), incarnation(1));
    let find = pb::FindHostRequest {
        chat_id: hex(&chat().0.0),
        incarnation: incarnation(1),
        proof: Some(to_proof(&proof)),
    };
    seeds.push(named("find_host_by_link", [vec![15], find.encode_to_vec()].concat()));
    let dial_back = pb::DialBackRequest { chat_id: hex(&chat().0.0) };
    seeds.push(named("dial_back", [vec![16], dial_back.encode_to_vec()].concat()));
    let bad = pb::DialBackRequest { chat_id: "no id".into() };
    seeds.push(named("bad_dial_back", [vec![16], bad.encode_to_vec()].concat()));
    seeds.push(named("ping", [17]));
    for (kind, (name, bytes)) in (18..).zip(of_programs()) {
        seeds.push(named(name, [vec![kind], bytes].concat()));
        seeds.push(named(&format!("bad_{name}"), [kind, 0xff]));
    }
    seeds.push(named("bad_kind_only", vec![1]));
    let far = Body::Announce(Announce { term: u64::MAX, reign: None });
    let (kind, bytes) = request(far).expect("it is a request");
    seeds.push(named("bad_term", [vec![kind], bytes].concat()));
    seeds
}

/// What a person's programs ask for, in the order of `targets::REQUESTS`.
fn of_programs() -> Vec<(&'static str, Vec<u8>)> {
    use pb::list_messages_request::From;
    let chat = || String::from("chat");
    let link = || String::from("demes:AbC_-1");
    let cursors = vec![pb::FeedCursor { chat: chat(), after: 3 }, pb::FeedCursor::default()];
    let (page_size, page_token, from) = (-1, "b1f".into(), Some(From::After(u64::MAX)));
    let (text, request_id, wait) = ("a text".into(), "r1".into(), pb::Wait::Committed.into());
    let addresses = vec!["a.example:1".into(), "[2001:db8::1]:7443".into()];
    vec![
        ("get_peer", pb::GetPeerRequest {}.encode_to_vec()),
        (
            "create_chat",
            pb::CreateChatRequest {
                name: chat(),
                addresses,
                invite_timeout_s: 9,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        ("list_chats", pb::ListChatsRequest {}.encode_to_vec()),
        ("get_chat", pb::GetChatRequest { chat: chat() }.encode_to_vec()),
        (
            "update_chat",
            pb::UpdateChatRequest {
                chat: chat(),
                name: "new".into(),
                quota: None,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "invite_member",
            pb::InviteMemberRequest {
                chat: chat(),
                address: "a:1".into(),
                timeout_s: 9,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "create_invite_link",
            pb::CreateInviteLinkRequest {
                chat: chat(),
                uses_max: 300,
                valid_s: 9,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "revoke_invite",
            pb::RevokeInviteRequest { chat: chat(), invite: link(), ..Default::default() }
                .encode_to_vec(),
        ),
        ("list_invites", pb::ListInvitesRequest {}.encode_to_vec()),
        ("accept_invite", pb::AcceptInviteRequest { chat: chat(), link: link() }.encode_to_vec()),
        ("decline_invite", pb::DeclineInviteRequest { chat: chat() }.encode_to_vec()),
        (
            "remove_member",
            pb::RemoveMemberRequest { chat: chat(), peer: "two".into(), ..Default::default() }
                .encode_to_vec(),
        ),
        ("leave_chat", pb::LeaveChatRequest { chat: chat(), ..Default::default() }.encode_to_vec()),
        (
            "send_message",
            pb::SendMessageRequest { chat: chat(), text, request_id, wait }.encode_to_vec(),
        ),
        ("feed", pb::FeedRequest { cursors }.encode_to_vec()),
        (
            "list_messages",
            pb::ListMessagesRequest { chat: chat(), page_size, page_token, from }.encode_to_vec(),
        ),
        ("watch_chat", pb::WatchChatRequest { chat: chat() }.encode_to_vec()),
        ("mark_read", pb::MarkReadRequest { chat: chat(), sequence: 3 }.encode_to_vec()),
        (
            "hand_over_by_person",
            pb::ClientServiceHandOverRequest { chat: chat(), peer: "two".into() }.encode_to_vec(),
        ),
        ("check_members", pb::CheckMembersRequest {}.encode_to_vec()),
    ]
}

/// Every answer.
pub fn responses() -> Seeds {
    let of = |(name, body): (&str, Body)| {
        let (kind, bytes) = response(body)?;
        Some(named(name, [vec![kind], bytes].concat()))
    };
    let mut seeds: Seeds = bodies().into_iter().filter_map(of).collect();
    seeds.push(named("bad_kind_only", vec![1]));
    seeds
}

/// The body as a request, if it is one.
pub fn request(body: Body) -> Option<Kind> {
    let message = message_of(1, body);
    let header = convert::to_header(chat().0, &message);
    Some(match &message.body {
        Body::Join(join) => (0, convert::to_join_request(header, join).encode_to_vec()),
        Body::Attach(attach) => (1, convert::to_replicate_request(header, attach).encode_to_vec()),
        Body::Acknowledge(a) => (2, convert::to_acknowledge(header, a).encode_to_vec()),
        Body::Submit(submit) => (3, convert::to_submit_request(header, submit).encode_to_vec()),
        Body::ReportDelays(report) => {
            (4, convert::to_report_request(header, report).encode_to_vec())
        }
        Body::Goodbye => (5, pb::GoodbyeRequest { header }.encode_to_vec()),
        Body::FindHost => (6, pb::HeartbeatsRequest { header, term: 1 }.encode_to_vec()),
        Body::Nominate(n) => (7, convert::to_nominate_request(header, n).encode_to_vec()),
        Body::Solicit(n) => (8, convert::to_solicit_request(header, n).encode_to_vec()),
        Body::RequestVote(r) => (9, convert::to_vote_request(header, r).encode_to_vec()),
        Body::Withdraw(w) => (10, convert::to_withdraw_request(header, w).encode_to_vec()),
        Body::Announce(a) => (11, convert::to_announce_request(header, a).encode_to_vec()),
        Body::HandOver(h) => {
            let hand_over = Some(convert::to_hand_over(h));
            (12, pb::ElectionServiceHandOverRequest { header, hand_over }.encode_to_vec())
        }
        Body::FetchLog(f) => (13, convert::to_fetch_log_request(header, f).encode_to_vec()),
        _ => return None,
    })
}

/// The body as an answer, if it is one. A refusal comes as the answer to a goodbye.
pub fn response(body: Body) -> Option<Kind> {
    let chat = chat().0;
    let message = message_of(1, body);
    let encoded = match &message.body {
        Body::JoinAnswer(_) => (0, convert::to_join_response(chat, &message)?.encode_to_vec()),
        Body::Append(_) | Body::LookBack(_) => {
            (1, convert::to_replicate_response(chat, &message)?.encode_to_vec())
        }
        Body::Heartbeat(_) => (2, convert::to_heartbeat(chat, &message)?.encode_to_vec()),
        Body::SubmitAnswer(_) => (3, convert::to_submit_response(chat, &message)?.encode_to_vec()),
        Body::NominateAnswer(_) => {
            (4, convert::to_nominate_response(chat, &message)?.encode_to_vec())
        }
        Body::SolicitAnswer(_) => {
            (5, convert::to_solicit_response(chat, &message)?.encode_to_vec())
        }
        Body::Vote(_) => (6, convert::to_vote_response(chat, &message)?.encode_to_vec()),
        Body::FetchLogAnswer(_) => {
            (7, convert::to_fetch_log_response(chat, &message)?.encode_to_vec())
        }
        Body::FindHostAnswer(answer) => {
            let host = answer.host?;
            let response = pb::FindHostResponse {
                term: answer.term,
                host_peer_id: hex(&host.0),
                host_address: "b.example:2".into(),
                incarnation: incarnation(1),
                boot: 3,
                members: vec![pb::PeerAddress {
                    peer_id: hex(&peer(3).0),
                    address: "c.example:3".into(),
                }],
                ..Default::default()
            };
            (8, response.encode_to_vec())
        }
        Body::Refused(refused) => {
            let header = convert::to_header(chat, &message);
            let refused = Some(convert::to_refused(refused));
            (9, pb::GoodbyeResponse { header, refused }.encode_to_vec())
        }
        _ => return None,
    };
    Some(encoded)
}

/// What the peer 1 could say to the peer 3: a name, and a body.
pub fn bodies() -> Vec<(&'static str, Body)> {
    let (chat, entries) = chat();
    let end = Position { term: 1, index: entries.len() as u64 };
    let alive = Some(HostAlive { host: peer(2), term: 1, retry_in_us: 90_000 });
    let said = |number: u8| {
        let past = Past { boot: 1, term: 1, acknowledged: end, signature: None };
        let signed = signed_past(Course::founded(chat), peer(number), incarnation(number), &past);
        Past { signature: Some(key(number).sign(&signed).to_bytes()), ..past }
    };
    let past = Some(said(3));
    let mut hand_over = HandOver {
        host: peer(1),
        host_incarnation: incarnation(1),
        term: 1,
        target: peer(3),
        signature: None,
    };
    hand_over.signature =
        Some(key(1).sign(&signed_hand_over(Course::founded(chat), &hand_over)).to_bytes());
    let ranking = Ranking {
        term: 1,
        version: 2,
        candidates: [None, Some(Absence::Goodbye), Some(Absence::Silent)]
            .into_iter()
            .zip(1..)
            .map(|(absence, number)| Candidate {
                peer: peer(number),
                farness_us: absence.is_none().then_some(900),
                absence,
            })
            .collect(),
        delays: vec![(peer(1), peer(2), 450), (peer(2), peer(1), 450)],
    };
    let next = Entry { index: end.index + 1, term: 1, number: 1, ..entry(message("a text")) };
    let next = Entry { signature: None, previous: entries[entries.len() - 1].hash, ..next };
    let next = Arc::new(Entry { hash: next.computed_hash(), ..next });
    let start = entry(Payload::TermStart(super::reign()));
    let start = Entry { index: end.index + 1, term: 2, number: 0, signature: None, ..start };
    let start = Entry { previous: entries[entries.len() - 1].hash, ..start };
    let start = Arc::new(Entry { hash: start.computed_hash(), ..start });
    let hash_at_end = entries[entries.len() - 1].hash;
    let voted_for = End { last: end, hash: hash_at_end };
    let granted = Granted { end: voted_for, signature: [5; 64] };
    let receipt = Receipt { delivered: 4, read: 3 };
    let refused = |reason| Body::Refused(Refused { term: 1, reason });
    vec![
        ("attach", Body::Attach(Attach { term: 1, attach: 3, look: end, relay: true })),
        (
            "append",
            Body::Append(Append {
                term: 1,
                attach: 3,
                previous: end,
                entries: vec![next.clone()],
                commit: end.index,
                past,
                reign: Some(start.clone()),
                last: Some(9),
            }),
        ),
        ("look_back", Body::LookBack(LookBack { term: 1, attach: 3, index: 2 })),
        (
            "heartbeat",
            Body::Heartbeat(Heartbeat {
                term: 1,
                number: 9,
                interval_us: 50_000,
                sent_us: 6,
                lease_us: 7,
                probe: false,
                commit: end.index,
                positions: vec![(peer(2), receipt)],
                pasts: vec![(peer(2), incarnation(2), said(2))],
                ranking: Some(Arc::new(ranking)),
            }),
        ),
        (
            "acknowledge",
            Body::Acknowledge(Acknowledge {
                term: 1,
                attach: 3,
                synced: end.index,
                received: 0,
                heartbeat: 9,
                receipt,
                ranking_version: 2,
            }),
        ),
        ("submit", Body::Submit(submit(chat, None))),
        ("submit_relayed", Body::Submit(submit(chat, Some((peer(2), incarnation(2)))))),
        (
            "submit_answer",
            Body::SubmitAnswer(SubmitAnswer {
                term: 1,
                accepted: vec![Accepted { number: 1, index: 8, term: 1, committed: true }],
                problem: Some(SubmitProblem::Gap { last: 1 }),
            }),
        ),
        (
            "report",
            Body::ReportDelays(ReportDelays {
                term: 1,
                row: vec![(peer(2), 450), (peer(3), 700)],
                preferences: vec![peer(3), peer(1)],
                host_weight: 100,
                unchanged: false,
                past: Some(said(1)),
            }),
        ),
        ("goodbye", Body::Goodbye),
        ("find_host", Body::FindHost),
        ("find_host_answer", Body::FindHostAnswer(FindHostAnswer { term: 1, host: Some(peer(2)) })),
        ("join", Body::Join(join(chat, None))),
        (
            "join_by_link",
            Body::Join(join(chat, Some(LinkSeed([5; 16]).prove(chat, peer(1), incarnation(1))))),
        ),
        (
            "join_answer",
            Body::JoinAnswer(JoinAnswer {
                term: 1,
                host: Some(peer(2)),
                accepted: true,
                last_number: 3,
            }),
        ),
        ("nominate", Body::Nominate(Nominate { term: 1, last: end })),
        ("nominate_answer", Body::NominateAnswer(NominateAnswer { term: 1, host_alive: alive })),
        ("solicit", Body::Solicit(Nominate { term: 1, last: end })),
        (
            "solicit_answer",
            Body::SolicitAnswer(SolicitAnswer {
                term: 1,
                nominated: true,
                last: end,
                in_doubt: true,
                host_alive: alive,
            }),
        ),
        (
            "request_vote",
            Body::RequestVote(RequestVote {
                term: 2,
                end: voted_for,
                hand_over: Some(hand_over),
                past,
            }),
        ),
        ("vote", Body::Vote(Vote { term: 2, granted: Some(granted), host_alive: alive })),
        ("withdraw", Body::Withdraw(Withdraw { term: 2, reason: WithdrawReason::LogBehind })),
        ("fetch_log", Body::FetchLog(FetchLog { term: 1, fetch: 3, look: end })),
        (
            "fetch_log_answer",
            Body::FetchLogAnswer(FetchLogAnswer {
                term: 1,
                fetch: 3,
                previous: end,
                entries: vec![next],
                last: Position { term: 1, index: end.index + 1 },
                look_back: None,
            }),
        ),
        ("announce", Body::Announce(Announce { term: 2, reign: Some(start) })),
        ("hand_over", Body::HandOver(hand_over)),
        ("refused_stale", refused(RefusedReason::StaleTerm)),
        ("refused_not_host", refused(RefusedReason::NotHost { host: Some(peer(2)) })),
        ("refused_incarnation", refused(RefusedReason::WrongIncarnation { incarnation: 7 })),
        ("refused_generation", refused(RefusedReason::OtherGeneration)),
        ("refused_removed", refused(RefusedReason::Removed { by: Some(peer(2)) })),
        ("refused_link", refused(RefusedReason::InviteLink(InviteLinkProblem::Expired))),
    ]
}

fn submit(chat: ChatId, author: Option<(PeerId, u64)>) -> Submit {
    let of = |number| {
        let (from, incarnation) = author.unwrap_or((peer(1), incarnation(1)));
        let signed =
            signed_submission(Course::founded(chat), from, incarnation, number, &message("a text"));
        let key = key(if author.is_some() { 2 } else { 1 });
        let signature = Some(key.sign(&signed).to_bytes());
        Submission { signature, ..submission(number, message("a text")) }
    };
    Submit { term: 1, author, submissions: vec![of(1), of(2)] }
}

fn join(chat: ChatId, proof: Option<InviteLinkProof>) -> Join {
    let (name, address) = (String::from("one"), String::from("a.example:1"));
    let payload = Payload::Membership(Membership::Joined {
        name: name.clone(),
        address: address.clone(),
        proof,
    });
    let signed = signed_submission(Course::founded(chat), peer(1), incarnation(1), 0, &payload);
    Join {
        name,
        address,
        created_at_ms: 0,
        decline: false,
        proof,
        signature: key(1).sign(&signed).to_bytes(),
        arrived_at_ms: 0,
    }
}
