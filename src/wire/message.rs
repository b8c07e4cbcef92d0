//! What peers say to each other on the wire. Every function of this file is one of two kinds:
//! `to_*` makes a request or response, `from_*` reads one.

use std::sync::Arc;

use super::entry::{from_entry, from_submission, to_entry, to_submission};
use super::{
    WireError, check_address, check_name, hex, milliseconds, optional_peer_id, pb, peer_id,
    signature, timestamp,
};
use crate::protocol::message::{
    Accepted, Acknowledge, Announce, Append, Attach, Body, Candidate, FindHostAnswer, HandOver,
    Heartbeat, HostAlive, Join, JoinAnswer, LookBack, Message, Nominate, NominateAnswer, Ranking,
    Receipt, Refused, RefusedReason, ReportDelays, RequestVote, SolicitAnswer, Submit,
    SubmitAnswer, SubmitProblem, Vote, Withdraw, WithdrawReason,
};
use crate::protocol::types::{Boot, ChatId, Incarnation, MEMBERS_MAX, Past, PeerId, Position};

/// The chat and the incarnations that a message names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub chat: ChatId,
    pub from_incarnation: Incarnation,
    pub from_boot: Boot,
    pub to_incarnation: Incarnation,
}

impl Header {
    /// The message that `from` sent to `to` under this header. Nobody waits for an answer yet.
    pub fn message(&self, from: PeerId, to: PeerId, body: Body) -> Message {
        Message {
            from,
            from_incarnation: self.from_incarnation,
            from_boot: self.from_boot,
            to,
            to_incarnation: self.to_incarnation,
            call: 0,
            body,
        }
    }
}

pub fn to_header(chat: ChatId, message: &Message) -> Option<pb::Header> {
    Some(pb::Header {
        chat_id: hex(&chat.0),
        from_incarnation: message.from_incarnation,
        from_boot: message.from_boot,
        to_incarnation: message.to_incarnation,
    })
}

pub fn from_header(header: Option<pb::Header>) -> Result<Header, WireError> {
    let header = header.ok_or(WireError::Missing("header"))?;
    Ok(Header {
        chat: header.chat_id.parse().map_err(|_| WireError::Invalid("chat_id"))?,
        from_incarnation: header.from_incarnation,
        from_boot: header.from_boot,
        to_incarnation: header.to_incarnation,
    })
}

// The log: Replicate.

pub fn to_replicate_request(header: Option<pb::Header>, attach: &Attach) -> pb::ReplicateRequest {
    pb::ReplicateRequest {
        header,
        term: attach.term,
        attach: attach.attach,
        look: Some(to_position(attach.look)),
    }
}

pub fn from_replicate_request(request: pb::ReplicateRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    let attach =
        Attach { term: request.term, attach: request.attach, look: from_position(request.look) };
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
    Some(pb::ReplicateResponse { header, term, attach, content: Some(content) })
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
                past: append.past.map(from_past),
            })
        }
        Content::LookBack(index) => Body::LookBack(LookBack { term, attach, index }),
        Content::Refused(refused) => Body::Refused(from_refused(&refused)?),
    };
    Ok((header, body))
}

fn to_append(append: &Append) -> pb::Append {
    pb::Append {
        previous: Some(to_position(append.previous)),
        entries: append.entries.iter().map(|entry| to_entry(entry)).collect(),
        commit: append.commit,
        past: append.past.as_ref().map(to_past),
    }
}

// Heartbeats.

pub fn to_heartbeat(chat: ChatId, message: &Message) -> Option<pb::HeartbeatsResponse> {
    let header = to_header(chat, message);
    match &message.body {
        Body::Heartbeat(heartbeat) => Some(pb::HeartbeatsResponse {
            header,
            term: heartbeat.term,
            number: heartbeat.number,
            interval_us: heartbeat.interval_us,
            probe: heartbeat.probe,
            commit: heartbeat.commit,
            receipts: heartbeat.positions.iter().map(to_receipt).collect(),
            ranking: heartbeat.ranking.as_deref().map(to_ranking),
            refused: None,
        }),
        Body::Refused(refused) => Some(pb::HeartbeatsResponse {
            header,
            term: refused.term,
            refused: Some(to_refused(refused)),
            ..Default::default()
        }),
        _ => None,
    }
}

pub fn from_heartbeat(response: pb::HeartbeatsResponse) -> Result<(Header, Body), WireError> {
    let header = from_header(response.header)?;
    if let Some(refused) = response.refused {
        return Ok((header, Body::Refused(from_refused(&refused)?)));
    }
    if response.receipts.len() > MEMBERS_MAX {
        return Err(WireError::TooLong("receipts"));
    }
    let positions = response.receipts.iter();
    let heartbeat = Heartbeat {
        term: response.term,
        number: response.number,
        interval_us: response.interval_us,
        probe: response.probe,
        commit: response.commit,
        positions: positions.map(from_receipt).collect::<Result<_, _>>()?,
        ranking: response.ranking.map(from_ranking).transpose()?.map(Arc::new),
    };
    Ok((header, Body::Heartbeat(heartbeat)))
}

fn to_receipt((peer, receipt): &(PeerId, Receipt)) -> pb::MemberReceipt {
    pb::MemberReceipt { peer_id: hex(&peer.0), delivered: receipt.delivered, read: receipt.read }
}

fn from_receipt(receipt: &pb::MemberReceipt) -> Result<(PeerId, Receipt), WireError> {
    let peer = peer_id(&receipt.peer_id, "peer_id")?;
    Ok((peer, Receipt { delivered: receipt.delivered, read: receipt.read }))
}

/// A ranking as members and programs get it.
pub fn to_ranking(ranking: &Ranking) -> pb::Ranking {
    let candidates = ranking.candidates.iter();
    let delays = ranking.delays.iter();
    pb::Ranking {
        term: ranking.term,
        version: ranking.version,
        candidates: candidates
            .map(|c| pb::Candidate { peer_id: hex(&c.peer.0), farness_us: c.farness_us })
            .collect(),
        delays: delays
            .map(|(from, to, delay_us)| pb::Delay {
                from_peer_id: hex(&from.0),
                to_peer_id: hex(&to.0),
                delay_us: *delay_us,
            })
            .collect(),
    }
}

fn from_ranking(ranking: pb::Ranking) -> Result<Ranking, WireError> {
    if ranking.candidates.len() > MEMBERS_MAX || ranking.delays.len() > MEMBERS_MAX * MEMBERS_MAX {
        return Err(WireError::TooLong("ranking"));
    }
    let candidate = |c: &pb::Candidate| {
        let peer = peer_id(&c.peer_id, "peer_id")?;
        Ok(Candidate { peer, farness_us: c.farness_us })
    };
    let delay = |d: &pb::Delay| {
        let from = peer_id(&d.from_peer_id, "from_peer_id")?;
        Ok((from, peer_id(&d.to_peer_id, "to_peer_id")?, d.delay_us))
    };
    Ok(Ranking {
        term: ranking.term,
        version: ranking.version,
        candidates: ranking.candidates.iter().map(candidate).collect::<Result<_, _>>()?,
        delays: ranking.delays.iter().map(delay).collect::<Result<_, _>>()?,
    })
}

// Acknowledge.

pub fn to_acknowledge(header: Option<pb::Header>, a: &Acknowledge) -> pb::AcknowledgeRequest {
    pb::AcknowledgeRequest {
        header,
        term: a.term,
        attach: a.attach,
        synced: a.synced,
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
        heartbeat: request.heartbeat,
        receipt: Receipt { delivered: request.delivered, read: request.read },
        ranking_version: request.ranking_version,
    };
    Ok((header, Body::Acknowledge(acknowledge)))
}

// Submit.

pub fn to_submit_request(header: Option<pb::Header>, submit: &Submit) -> pb::SubmitRequest {
    let submissions = submit.submissions.iter().map(to_submission).collect();
    pb::SubmitRequest { header, term: submit.term, submissions }
}

pub fn from_submit_request(request: pb::SubmitRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    let submissions = request.submissions.into_iter();
    let submissions = submissions.map(from_submission).collect::<Result<_, _>>()?;
    Ok((header, Body::Submit(Submit { term: request.term, submissions })))
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

// Joining, delays, goodbye.

pub fn to_join_request(header: Option<pb::Header>, join: &Join) -> pb::JoinRequest {
    pb::JoinRequest {
        header,
        name: join.name.clone(),
        address: join.address.clone(),
        created_at: Some(timestamp(join.created_at_ms)),
        decline: join.decline,
        signature: join.signature.to_vec(),
    }
}

pub fn from_join_request(request: pb::JoinRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    if !request.decline {
        check_name(&request.name, "name")?;
        check_address(&request.address, "address")?;
    }
    let join = Join {
        created_at_ms: milliseconds(request.created_at, "created_at")?,
        decline: request.decline,
        signature: signature(&request.signature)?.ok_or(WireError::Missing("signature"))?,
        name: request.name,
        address: request.address,
    };
    Ok((header, Body::Join(join)))
}

pub fn to_join_response(chat: ChatId, message: &Message) -> Option<pb::JoinResponse> {
    let header = to_header(chat, message);
    match &message.body {
        Body::JoinAnswer(answer) => Some(pb::JoinResponse {
            header,
            term: answer.term,
            host_peer_id: to_optional_peer(answer.host),
            accepted: answer.accepted,
            last_number: answer.last_number,
            refused: None,
        }),
        Body::Refused(refused) => Some(pb::JoinResponse {
            header,
            term: refused.term,
            refused: Some(to_refused(refused)),
            ..Default::default()
        }),
        _ => None,
    }
}

pub fn from_join_response(response: pb::JoinResponse) -> Result<(Header, Body), WireError> {
    let header = from_header(response.header)?;
    if let Some(refused) = response.refused {
        return Ok((header, Body::Refused(from_refused(&refused)?)));
    }
    let answer = JoinAnswer {
        term: response.term,
        host: optional_peer_id(&response.host_peer_id, "host_peer_id")?,
        accepted: response.accepted,
        last_number: response.last_number,
    };
    Ok((header, Body::JoinAnswer(answer)))
}

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
        preferences: report.preferences.iter().map(|peer| hex(&peer.0)).collect(),
    }
}

pub fn from_report_request(request: pb::ReportDelaysRequest) -> Result<(Header, Body), WireError> {
    if request.delays.len() > MEMBERS_MAX || request.preferences.len() > MEMBERS_MAX {
        return Err(WireError::TooLong("delays"));
    }
    let header = from_header(request.header)?;
    let row = request.delays.iter();
    let preferences = request.preferences.iter();
    let report = ReportDelays {
        term: request.term,
        host_weight: request.host_weight,
        row: row
            .map(|delay| Ok((peer_id(&delay.peer_id, "peer_id")?, delay.delay_us)))
            .collect::<Result<_, _>>()?,
        preferences: preferences
            .map(|peer| peer_id(peer, "preferences"))
            .collect::<Result<_, _>>()?,
    };
    Ok((header, Body::ReportDelays(report)))
}

// Elections.

pub fn to_nominate_request(header: Option<pb::Header>, n: &Nominate) -> pb::NominateRequest {
    pb::NominateRequest { header, term: n.term, last: Some(to_position(n.last)) }
}

pub fn from_nominate_request(request: pb::NominateRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    let last = from_position(request.last);
    Ok((header, Body::Nominate(Nominate { term: request.term, last })))
}

pub fn to_nominate_response(chat: ChatId, message: &Message) -> Option<pb::NominateResponse> {
    let header = to_header(chat, message);
    match &message.body {
        Body::NominateAnswer(answer) => Some(pb::NominateResponse {
            header,
            term: answer.term,
            host_alive: answer.host_alive.map(to_host_alive),
            refused: None,
        }),
        Body::Refused(refused) => Some(pb::NominateResponse {
            header,
            term: refused.term,
            host_alive: None,
            refused: Some(to_refused(refused)),
        }),
        _ => None,
    }
}

pub fn from_nominate_response(response: pb::NominateResponse) -> Result<(Header, Body), WireError> {
    let header = from_header(response.header)?;
    if let Some(refused) = response.refused {
        return Ok((header, Body::Refused(from_refused(&refused)?)));
    }
    let host_alive = response.host_alive.map(from_host_alive).transpose()?;
    Ok((header, Body::NominateAnswer(NominateAnswer { term: response.term, host_alive })))
}

pub fn to_solicit_request(header: Option<pb::Header>, n: &Nominate) -> pb::SolicitRequest {
    pb::SolicitRequest { header, term: n.term, last: Some(to_position(n.last)) }
}

pub fn from_solicit_request(request: pb::SolicitRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    let last = from_position(request.last);
    Ok((header, Body::Solicit(Nominate { term: request.term, last })))
}

pub fn to_solicit_response(chat: ChatId, message: &Message) -> Option<pb::SolicitResponse> {
    let header = to_header(chat, message);
    match &message.body {
        Body::SolicitAnswer(answer) => Some(pb::SolicitResponse {
            header,
            term: answer.term,
            nominated: answer.nominated,
            last: Some(to_position(answer.last)),
            host_alive: answer.host_alive.map(to_host_alive),
            refused: None,
        }),
        Body::Refused(refused) => Some(pb::SolicitResponse {
            header,
            term: refused.term,
            refused: Some(to_refused(refused)),
            ..Default::default()
        }),
        _ => None,
    }
}

pub fn from_solicit_response(response: pb::SolicitResponse) -> Result<(Header, Body), WireError> {
    let header = from_header(response.header)?;
    if let Some(refused) = response.refused {
        return Ok((header, Body::Refused(from_refused(&refused)?)));
    }
    let answer = SolicitAnswer {
        term: response.term,
        nominated: response.nominated,
        last: from_position(response.last),
        host_alive: response.host_alive.map(from_host_alive).transpose()?,
    };
    Ok((header, Body::SolicitAnswer(answer)))
}

pub fn to_vote_request(header: Option<pb::Header>, r: &RequestVote) -> pb::RequestVoteRequest {
    pb::RequestVoteRequest {
        header,
        term: r.term,
        last: Some(to_position(r.last)),
        hand_over: r.hand_over.as_ref().map(to_hand_over),
        past: r.past.as_ref().map(to_past),
    }
}

pub fn from_vote_request(request: pb::RequestVoteRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    let body = RequestVote {
        term: request.term,
        last: from_position(request.last),
        hand_over: request.hand_over.map(from_hand_over).transpose()?,
        past: request.past.map(from_past),
    };
    Ok((header, Body::RequestVote(body)))
}

pub fn to_vote_response(chat: ChatId, message: &Message) -> Option<pb::RequestVoteResponse> {
    let header = to_header(chat, message);
    match &message.body {
        Body::Vote(vote) => Some(pb::RequestVoteResponse {
            header,
            term: vote.term,
            granted: vote.granted,
            host_alive: vote.host_alive.map(to_host_alive),
            refused: None,
        }),
        Body::Refused(refused) => Some(pb::RequestVoteResponse {
            header,
            term: refused.term,
            refused: Some(to_refused(refused)),
            ..Default::default()
        }),
        _ => None,
    }
}

pub fn from_vote_response(response: pb::RequestVoteResponse) -> Result<(Header, Body), WireError> {
    let header = from_header(response.header)?;
    if let Some(refused) = response.refused {
        return Ok((header, Body::Refused(from_refused(&refused)?)));
    }
    let vote = Vote {
        term: response.term,
        granted: response.granted,
        host_alive: response.host_alive.map(from_host_alive).transpose()?,
    };
    Ok((header, Body::Vote(vote)))
}

pub fn to_withdraw_request(header: Option<pb::Header>, w: &Withdraw) -> pb::WithdrawRequest {
    let reason = match w.reason {
        WithdrawReason::NoMajority => pb::WithdrawReason::NoMajority,
        WithdrawReason::LogBehind => pb::WithdrawReason::LogBehind,
        WithdrawReason::Unfit => pb::WithdrawReason::Unfit,
    };
    pb::WithdrawRequest { header, term: w.term, reason: reason.into() }
}

pub fn from_withdraw_request(request: pb::WithdrawRequest) -> Result<(Header, Body), WireError> {
    let reason = match request.reason() {
        pb::WithdrawReason::NoMajority => WithdrawReason::NoMajority,
        pb::WithdrawReason::LogBehind => WithdrawReason::LogBehind,
        pb::WithdrawReason::Unfit => WithdrawReason::Unfit,
        pb::WithdrawReason::Unspecified => return Err(WireError::Invalid("reason")),
    };
    let header = from_header(request.header)?;
    Ok((header, Body::Withdraw(Withdraw { term: request.term, reason })))
}

pub fn from_announce_request(request: pb::AnnounceRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    Ok((header, Body::Announce(Announce { term: request.term })))
}

pub fn from_hand_over_request(
    request: pb::ElectionServiceHandOverRequest,
) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    let hand_over = request.hand_over.ok_or(WireError::Missing("hand_over"))?;
    Ok((header, Body::HandOver(from_hand_over(hand_over)?)))
}

pub fn to_hand_over(hand_over: &HandOver) -> pb::SignedHandOver {
    pb::SignedHandOver {
        host_peer_id: hex(&hand_over.host.0),
        host_incarnation: hand_over.host_incarnation,
        term: hand_over.term,
        target_peer_id: hex(&hand_over.target.0),
        signature: hand_over.signature.map(|s| s.to_vec()).unwrap_or_default(),
    }
}

fn from_hand_over(hand_over: pb::SignedHandOver) -> Result<HandOver, WireError> {
    Ok(HandOver {
        host: peer_id(&hand_over.host_peer_id, "host_peer_id")?,
        host_incarnation: hand_over.host_incarnation,
        term: hand_over.term,
        target: peer_id(&hand_over.target_peer_id, "target_peer_id")?,
        signature: signature(&hand_over.signature)?,
    })
}

// Finding the host, and refusals.

/// The answer of `peer` in the chat that was asked for.
pub fn from_find_host_response(
    response: &pb::FindHostResponse,
) -> Result<FindHostAnswer, WireError> {
    let host = optional_peer_id(&response.host_peer_id, "host_peer_id")?;
    Ok(FindHostAnswer { term: response.term, host })
}

pub fn to_refused(refused: &Refused) -> pb::Refused {
    let mut out = pb::Refused { term: refused.term, ..Default::default() };
    let reason = match refused.reason {
        RefusedReason::StaleTerm => pb::RefusedReason::StaleTerm,
        RefusedReason::NotHost { host } => {
            out.host_peer_id = to_optional_peer(host);
            pb::RefusedReason::NotHost
        }
        RefusedReason::WrongIncarnation { incarnation } => {
            out.incarnation = incarnation;
            pb::RefusedReason::WrongIncarnation
        }
        RefusedReason::NotMember => pb::RefusedReason::NotMember,
    };
    out.reason = reason.into();
    out
}

pub fn from_refused(refused: &pb::Refused) -> Result<Refused, WireError> {
    let reason = match refused.reason() {
        pb::RefusedReason::StaleTerm => RefusedReason::StaleTerm,
        pb::RefusedReason::NotHost => RefusedReason::NotHost {
            host: optional_peer_id(&refused.host_peer_id, "host_peer_id")?,
        },
        pb::RefusedReason::WrongIncarnation => {
            RefusedReason::WrongIncarnation { incarnation: refused.incarnation }
        }
        pb::RefusedReason::NotMember => RefusedReason::NotMember,
        pb::RefusedReason::Unspecified => return Err(WireError::Invalid("reason")),
    };
    Ok(Refused { term: refused.term, reason })
}

fn to_optional_peer(peer: Option<PeerId>) -> String {
    peer.map_or_else(String::new, |peer| hex(&peer.0))
}

fn to_position(position: Position) -> pb::Position {
    pb::Position { term: position.term, index: position.index }
}

/// An absent position is the one before the first entry.
fn from_position(position: Option<pb::Position>) -> Position {
    position.map_or_else(Position::default, |p| Position { term: p.term, index: p.index })
}

fn to_past(past: &Past) -> pb::Past {
    let acknowledged = Some(to_position(past.acknowledged));
    pb::Past { boot: past.boot, term: past.term, acknowledged }
}

fn from_past(past: pb::Past) -> Past {
    Past { boot: past.boot, term: past.term, acknowledged: from_position(past.acknowledged) }
}

fn to_host_alive(alive: HostAlive) -> pb::HostAlive {
    pb::HostAlive {
        host_peer_id: hex(&alive.host.0),
        term: alive.term,
        retry_in_us: alive.retry_in_us,
    }
}

fn from_host_alive(alive: pb::HostAlive) -> Result<HostAlive, WireError> {
    let host = peer_id(&alive.host_peer_id, "host_peer_id")?;
    Ok(HostAlive { host, term: alive.term, retry_in_us: alive.retry_in_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: ChatId = ChatId([7; 16]);

    fn message(body: Body) -> Message {
        Message {
            from: PeerId([1; 32]),
            from_incarnation: 2,
            from_boot: 3,
            to: PeerId([4; 32]),
            to_incarnation: 5,
            call: 0,
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
            candidates: vec![Candidate { peer: PeerId([1; 32]), farness_us: Some(5) }],
            delays: vec![(PeerId([1; 32]), PeerId([2; 32]), 77)],
        };
        let heartbeat = message(Body::Heartbeat(Heartbeat {
            term: 2,
            number: 3,
            interval_us: 4,
            probe: true,
            commit: 5,
            positions: vec![(PeerId([1; 32]), Receipt { delivered: 1, read: 0 })],
            ranking: Some(Arc::new(ranking)),
        }));
        let wire = to_heartbeat(CHAT, &heartbeat).expect("a heartbeat");
        read_back(&heartbeat, from_heartbeat(wire).expect("valid"));

        let look = message(Body::LookBack(LookBack { term: 1, attach: 2, index: 3 }));
        let wire = to_replicate_response(CHAT, &look).expect("part of the stream");
        read_back(&look, from_replicate_response(wire).expect("valid"));
        assert!(to_replicate_response(CHAT, &message(Body::Goodbye)).is_none());
    }

    #[test]
    fn answers_and_refusals_read_back() {
        let alive = HostAlive { host: PeerId([6; 32]), term: 2, retry_in_us: 9 };
        let vote = Vote { term: 1, granted: true, host_alive: Some(alive) };
        let vote = message(Body::Vote(vote));
        let wire = to_vote_response(CHAT, &vote).expect("a vote");
        read_back(&vote, from_vote_response(wire).expect("valid"));
        for reason in [
            RefusedReason::StaleTerm,
            RefusedReason::NotHost { host: None },
            RefusedReason::NotHost { host: Some(PeerId([8; 32])) },
            RefusedReason::WrongIncarnation { incarnation: 4 },
            RefusedReason::NotMember,
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
        let withdraw = pb::WithdrawRequest { header: header.clone(), term: 1, reason: 77 };
        assert!(from_withdraw_request(withdraw).is_err());
        let submit = pb::SubmitResponse { header, problem: 99, ..Default::default() };
        assert!(from_submit_response(submit).is_err());
    }
}
