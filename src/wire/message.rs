//! What peers say to each other on the wire; what they say to choose a host stands in `vote.rs`,
//! joining and refusals in `join.rs`, and all of it is found here too. Every function is one of two
//! kinds: `to_*` makes a request or response, `from_*` reads one.

use std::sync::Arc;

use super::entry::{from_entry, from_submission, from_words, to_entry, to_submission};
pub use super::header::*;
pub use super::heartbeat::*;
pub use super::join::*;
pub use super::ranking::to_ranking;
pub use super::vote::*;
use super::{WireError, hex, optional_peer_id, pb, peer_id};
use crate::protocol::message::{
    Accepted, Acknowledge, Append, Attach, Body, FindHostAnswer, LookBack, Message, Receipt,
    ReportDelays, Submit, SubmitAnswer, SubmitProblem,
};
use crate::protocol::types::{ChatId, DELAY_US_MAX, MEMBERS_MAX, PeerId};

// The log: Replicate.

pub fn to_replicate_request(header: Option<pb::Header>, attach: &Attach) -> pb::ReplicateRequest {
    pb::ReplicateRequest {
        header,
        term: attach.term,
        attach: attach.attach,
        look: Some(to_position(attach.look)),
        relay: attach.relay,
        received: 0,
    }
}

pub fn from_replicate_request(request: pb::ReplicateRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    let attach = Attach {
        term: request.term,
        attach: request.attach,
        look: from_position(request.look),
        relay: request.relay,
    };
    Ok((header, Body::Attach(attach)))
}

/// `None` for a body that is no part of a `Replicate` stream.
pub fn to_replicate_response(chat: ChatId, message: &Message) -> Option<pb::ReplicateResponse> {
    use pb::replicate_response::Content;
    let (term, attach, content) = match &message.body {
        Body::Append(append) => (append.term, append.attach, Content::Append(to_append(append))),
        Body::LookBack(look) => (look.term, look.attach, Content::LookBack(look.index)),
        Body::Refused(refused) => (refused.term, 0, Content::Refused(to_refused(refused))),
        _ => return None,
    };
    let header = to_header(chat, message);
    Some(pb::ReplicateResponse { header, term, attach, content: Some(content), mark: 0 })
}

pub fn from_replicate_response(
    response: pb::ReplicateResponse,
) -> Result<(Header, Body), WireError> {
    use pb::replicate_response::Content;
    let header = from_header(response.header)?;
    let (term, attach) = (response.term, response.attach);
    let body = match response.content.ok_or(WireError::Missing("content"))? {
        Content::Append(append) => {
            let entries = append.entries.into_iter();
            Body::Append(Append {
                term,
                attach,
                previous: from_position(append.previous),
                entries: entries.map(|e| from_entry(e).map(Arc::new)).collect::<Result<_, _>>()?,
                commit: append.commit,
                past: append.past.map(from_past).transpose()?,
                reign: append.reign.map(from_entry).transpose()?.map(Arc::new),
                last: append.last,
            })
        }
        Content::LookBack(index) => Body::LookBack(LookBack { term, attach, index }),
        Content::Refused(refused) => Body::Refused(from_refused(&refused)?),
        // The transport's own word, which is nothing to a chat's rules.
        Content::Ended(_) => return Err(WireError::Invalid("content")),
    };
    Ok((header, body))
}

fn to_append(append: &Append) -> pb::Append {
    pb::Append {
        previous: Some(to_position(append.previous)),
        entries: append.entries.iter().map(|entry| to_entry(entry)).collect(),
        commit: append.commit,
        past: append.past.as_ref().map(to_past),
        reign: append.reign.as_deref().map(to_entry),
        last: append.last,
    }
}

// Acknowledge.

pub fn to_acknowledge(header: Option<pb::Header>, a: &Acknowledge) -> pb::AcknowledgeRequest {
    pb::AcknowledgeRequest {
        header,
        term: a.term,
        attach: a.attach,
        synced: a.synced,
        received: a.received,
        heartbeat: a.heartbeat,
        delivered: a.receipt.delivered,
        read: a.receipt.read,
        ranking_version: a.ranking_version,
    }
}

pub fn from_acknowledge(request: pb::AcknowledgeRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    let acknowledge = Acknowledge {
        term: request.term,
        attach: request.attach,
        synced: request.synced,
        received: request.received,
        heartbeat: request.heartbeat,
        receipt: Receipt { delivered: request.delivered, read: request.read },
        ranking_version: request.ranking_version,
    };
    Ok((header, Body::Acknowledge(acknowledge)))
}

pub fn from_acknowledge_response(
    response: pb::AcknowledgeResponse,
) -> Result<(Header, Body), WireError> {
    let refused = response.refused.ok_or(WireError::Missing("refused"))?;
    Ok((from_header(response.header)?, Body::Refused(from_refused(&refused)?)))
}

// Submit.

pub fn to_submit_request(header: Option<pb::Header>, submit: &Submit) -> pb::SubmitRequest {
    let submissions = submit.submissions.iter().map(to_submission).collect();
    let author = submit.author.map(|(peer, incarnation)| {
        let peer_id = hex(&peer.0);
        pb::Author { peer_id, incarnation }
    });
    pb::SubmitRequest { header, term: submit.term, submissions, author, mark: 0 }
}

pub fn from_submit_request(request: pb::SubmitRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    let submissions = request.submissions.into_iter();
    let submissions = submissions.map(from_submission).collect::<Result<_, _>>()?;
    let author = request
        .author
        .map(|author| Ok((peer_id(&author.peer_id, "author.peer_id")?, author.incarnation)));
    let author = author.transpose()?;
    Ok((header, Body::Submit(Submit { term: request.term, author, submissions })))
}

pub fn to_submit_response(chat: ChatId, message: &Message) -> Option<pb::SubmitResponse> {
    let header = to_header(chat, message);
    let answer = match &message.body {
        Body::SubmitAnswer(answer) => answer,
        Body::Refused(refused) => {
            return Some(pb::SubmitResponse {
                header,
                term: refused.term,
                refused: Some(to_refused(refused)),
                ..Default::default()
            });
        }
        _ => return None,
    };
    let (problem, last_number) = match answer.problem {
        None => (pb::SubmitProblem::Unspecified, 0),
        Some(SubmitProblem::Gap { last }) => (pb::SubmitProblem::Gap, last),
        Some(SubmitProblem::NotServing) => (pb::SubmitProblem::NotServing, 0),
        Some(SubmitProblem::StorageFull) => (pb::SubmitProblem::StorageFull, 0),
        Some(SubmitProblem::OverQuota) => (pb::SubmitProblem::OverQuota, 0),
        Some(SubmitProblem::NotMember) => (pb::SubmitProblem::NotMember, 0),
    };
    let accepted = answer.accepted.iter().map(|a| pb::AcceptedSubmission {
        number: a.number,
        index: a.index,
        term: a.term,
        committed: a.committed,
    });
    Some(pb::SubmitResponse {
        header,
        term: answer.term,
        accepted: accepted.collect(),
        problem: problem.into(),
        last_number,
        refused: None,
        ended: None,
        received: 0,
    })
}

pub fn from_submit_response(response: pb::SubmitResponse) -> Result<(Header, Body), WireError> {
    let problem = match response.problem() {
        pb::SubmitProblem::Unspecified if response.problem != 0 => {
            return Err(WireError::Invalid("problem"));
        }
        pb::SubmitProblem::Unspecified => None,
        pb::SubmitProblem::Gap => Some(SubmitProblem::Gap { last: response.last_number }),
        pb::SubmitProblem::NotServing => Some(SubmitProblem::NotServing),
        pb::SubmitProblem::StorageFull => Some(SubmitProblem::StorageFull),
        pb::SubmitProblem::OverQuota => Some(SubmitProblem::OverQuota),
        pb::SubmitProblem::NotMember => Some(SubmitProblem::NotMember),
    };
    let header = from_header(response.header)?;
    if let Some(refused) = response.refused {
        return Ok((header, Body::Refused(from_refused(&refused)?)));
    }
    let accepted = response.accepted.iter().map(|a| Accepted {
        number: a.number,
        index: a.index,
        term: a.term,
        committed: a.committed,
    });
    let answer = SubmitAnswer { term: response.term, accepted: accepted.collect(), problem };
    Ok((header, Body::SubmitAnswer(answer)))
}

// Delays.

pub fn to_report_request(
    header: Option<pb::Header>,
    report: &ReportDelays,
) -> pb::ReportDelaysRequest {
    let row = report.row.iter();
    pb::ReportDelaysRequest {
        header,
        term: report.term,
        host_weight: report.host_weight,
        delays: row
            .map(|(peer, us)| pb::PeerDelay { peer_id: hex(&peer.0), delay_us: *us })
            .collect(),
        preferences: if is_order_of(&report.row, &report.preferences) {
            Vec::new()
        } else {
            report.preferences.iter().map(|peer| hex(&peer.0)).collect()
        },
        past: report.past.as_ref().map(to_past),
        unchanged: report.unchanged,
    }
}

fn is_order_of(row: &[(PeerId, u64)], preferences: &[PeerId]) -> bool {
    preferences.iter().eq(row.iter().map(|(peer, _)| peer))
}

pub fn from_report_request(request: pb::ReportDelaysRequest) -> Result<(Header, Body), WireError> {
    if request.delays.len() > MEMBERS_MAX || request.preferences.len() > MEMBERS_MAX {
        return Err(WireError::TooLong("delays"));
    }
    let header = from_header(request.header)?;
    let row = request.delays.iter();
    // Where nothing else is said, those who are near are wanted most.
    let preferences: Vec<_> = match request.preferences.is_empty() {
        true => request.delays.iter().map(|delay| &delay.peer_id).collect(),
        false => request.preferences.iter().collect(),
    };
    let report = ReportDelays {
        term: request.term,
        host_weight: request.host_weight,
        row: row
            .map(|delay| {
                let fits = delay.delay_us <= DELAY_US_MAX;
                let delay_us = fits.then_some(delay.delay_us).ok_or(WireError::Invalid("delay"))?;
                Ok((peer_id(&delay.peer_id, "peer_id")?, delay_us))
            })
            .collect::<Result<_, _>>()?,
        preferences: preferences
            .into_iter()
            .map(|peer| peer_id(peer, "preferences"))
            .collect::<Result<_, _>>()?,
        unchanged: request.unchanged,
        past: request.past.map(from_past).transpose()?,
    };
    Ok((header, Body::ReportDelays(report)))
}

// Finding the host.

/// The answer of a peer in the chat that was asked for.
pub fn from_find_host_response(
    chat: ChatId,
    response: pb::FindHostResponse,
) -> Result<(Header, Body), WireError> {
    let header = Header {
        chat,
        from_incarnation: response.incarnation,
        from_boot: response.boot,
        to_incarnation: 0,
        generation: response.generation,
        words: from_words(response.words)?,
    };
    if let Some(refused) = &response.refused {
        return Ok((header, Body::Refused(from_refused(refused)?)));
    }
    let host = optional_peer_id(&response.host_peer_id, "host_peer_id")?;
    Ok((header, Body::FindHostAnswer(FindHostAnswer { term: response.term, host })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::invite_link::InviteLinkProblem;
    use crate::protocol::message::{
        Absence, Candidate, Heartbeat, Ranking, Refused, RefusedReason,
    };
    use crate::protocol::types::{DELAYS_SHOWN_MAX, Past, Position};

    const CHAT: ChatId = ChatId([7; 16]);

    fn message(body: Body) -> Message {
        Message {
            from: PeerId([1; 32]),
            from_incarnation: 2,
            from_boot: 3,
            to: PeerId([4; 32]),
            to_incarnation: 5,
            generation: 6,
            call: 0,
            words: Vec::new(),
            body,
        }
    }

    fn read_back(sent: &Message, (header, body): (Header, Body)) {
        assert_eq!(header.chat, CHAT);
        assert_eq!(&header.message(sent.from, sent.to, body), sent);
    }

    #[test]
    fn streams_read_back() {
        let ranking = Ranking {
            term: 2,
            version: 9,
            candidates: vec![Candidate {
                peer: PeerId([1; 32]),
                farness_us: Some(5),
                absence: Some(Absence::Silent),
            }],
            delays: vec![
                (PeerId([1; 32]), PeerId([1; 32]), 66),
                (PeerId([1; 32]), PeerId([2; 32]), 77),
            ],
        };
        let acknowledged = Position { term: 2, index: 9 };
        let past = Past { boot: 3, term: 2, acknowledged, signature: Some([7; 64]) };
        let heartbeat = message(Body::Heartbeat(Heartbeat {
            term: 2,
            number: 3,
            interval_us: 4,
            sent_us: 6,
            lease_us: 7,
            probe: true,
            commit: 5,
            positions: vec![(PeerId([1; 32]), Receipt { delivered: 1, read: 0 })],
            pasts: vec![(PeerId([1; 32]), 5, past)],
            ranking: Some(Arc::new(ranking)),
        }));
        let wire = to_heartbeat(CHAT, &heartbeat).expect("a heartbeat");
        read_back(&heartbeat, from_heartbeat(wire).expect("valid"));

        let look = message(Body::LookBack(LookBack { term: 1, attach: 2, index: 3 }));
        let wire = to_replicate_response(CHAT, &look).expect("part of the stream");
        read_back(&look, from_replicate_response(wire).expect("valid"));
        assert!(to_replicate_response(CHAT, &message(Body::Goodbye)).is_none());
    }

    // R44: a heartbeat that is too long for its receiver would end its stream again and again.
    #[test]
    fn the_longest_ranking_and_receipts_fit_into_half_a_message() {
        let peer = PeerId([0xff; 32]);
        let candidate = Candidate { peer, farness_us: Some(u64::MAX), absence: None };
        let receipt = Receipt { delivered: u64::MAX, read: u64::MAX };
        let acknowledged = Position { term: u64::MAX, index: u64::MAX };
        let signature = Some([0xff; 64]);
        let past = Past { boot: u64::MAX, term: u64::MAX, acknowledged, signature };
        let ranking = Ranking {
            term: u64::MAX,
            version: u64::MAX,
            candidates: vec![candidate; MEMBERS_MAX],
            delays: vec![(peer, peer, DELAY_US_MAX); DELAYS_SHOWN_MAX],
        };
        let heartbeat = message(Body::Heartbeat(Heartbeat {
            term: u64::MAX,
            number: u64::MAX,
            interval_us: u64::MAX,
            sent_us: u64::MAX,
            lease_us: u64::MAX,
            probe: true,
            commit: u64::MAX,
            positions: vec![(peer, receipt); MEMBERS_MAX],
            pasts: vec![(peer, u64::MAX, past); PASTS_MAX],
            ranking: Some(Arc::new(ranking)),
        }));
        let wire = to_heartbeat(CHAT, &heartbeat).expect("a heartbeat");
        assert!(prost::Message::encoded_len(&wire) < 1 << 20);
    }

    #[test]
    fn answers_and_refusals_read_back() {
        for reason in [
            RefusedReason::StaleTerm,
            RefusedReason::NotHost { host: None },
            RefusedReason::NotHost { host: Some(PeerId([8; 32])) },
            RefusedReason::WrongIncarnation { incarnation: 4 },
            RefusedReason::NotMember,
            RefusedReason::Outlived { is_here: false },
            RefusedReason::Outlived { is_here: true },
            RefusedReason::OtherGeneration,
            RefusedReason::Removed { by: None },
            RefusedReason::Removed { by: Some(PeerId([8; 32])) },
            RefusedReason::InviteLink(InviteLinkProblem::Unknown),
            RefusedReason::InviteLink(InviteLinkProblem::Expired),
            RefusedReason::InviteLink(InviteLinkProblem::UsedUp),
            RefusedReason::InviteLink(InviteLinkProblem::Revoked),
            RefusedReason::ChatFull,
        ] {
            let refused = message(Body::Refused(Refused { term: 3, reason }));
            let wire = to_submit_response(CHAT, &refused).expect("a refusal");
            read_back(&refused, from_submit_response(wire).expect("valid"));
        }
        for problem in [None, Some(SubmitProblem::Gap { last: 4 }), Some(SubmitProblem::NotMember)]
        {
            let accepted = vec![Accepted { number: 1, index: 2, term: 3, committed: true }];
            let answer = message(Body::SubmitAnswer(SubmitAnswer { term: 3, accepted, problem }));
            let wire = to_submit_response(CHAT, &answer).expect("an answer");
            read_back(&answer, from_submit_response(wire).expect("valid"));
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(from_replicate_response(Default::default()).is_err());
        assert!(from_heartbeat(Default::default()).is_err());
        assert!(from_join_request(Default::default()).is_err());
        let header = to_header(CHAT, &message(Body::Goodbye));
        let submit = pb::SubmitResponse { header, problem: 99, ..Default::default() };
        assert!(from_submit_response(submit).is_err());
    }
}
