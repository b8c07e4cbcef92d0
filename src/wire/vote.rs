//! What members say to each other to choose a host, on the wire.

use std::sync::Arc;

use super::entry::{from_entry, hash, to_entry};
use super::header::{
    Header, from_header, from_past, from_position, to_header, to_past, to_position,
};
use super::join::{from_refused, to_refused};
use super::{WireError, hex, pb, peer_id, signature};
use crate::protocol::message::{
    Absence, Announce, Body, FetchLog, FetchLogAnswer, Granted, HandOver, HostAlive, Message,
    Nominate, NominateAnswer, RequestVote, SolicitAnswer, Vote, Withdraw, WithdrawReason,
};
use crate::protocol::types::{ChatId, End};

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
    let last = Some(to_position(n.last));
    pb::SolicitRequest { header, term: n.term, last }
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
            in_doubt: answer.in_doubt,
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
        in_doubt: response.in_doubt,
        host_alive: response.host_alive.map(from_host_alive).transpose()?,
    };
    Ok((header, Body::SolicitAnswer(answer)))
}

pub fn to_vote_request(header: Option<pb::Header>, r: &RequestVote) -> pb::RequestVoteRequest {
    pb::RequestVoteRequest {
        header,
        term: r.term,
        last: Some(to_position(r.end.last)),
        last_hash: r.end.hash.0.to_vec(),
        hand_over: r.hand_over.as_ref().map(to_hand_over),
        past: r.past.as_ref().map(to_past),
    }
}

pub fn from_vote_request(request: pb::RequestVoteRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    let body = RequestVote {
        term: request.term,
        end: End {
            last: from_position(request.last),
            hash: hash(&request.last_hash, "last_hash")?,
        },
        hand_over: request.hand_over.map(from_hand_over).transpose()?,
        past: request.past.map(from_past).transpose()?,
    };
    Ok((header, Body::RequestVote(body)))
}

pub fn to_vote_response(chat: ChatId, message: &Message) -> Option<pb::RequestVoteResponse> {
    let header = to_header(chat, message);
    match &message.body {
        Body::Vote(vote) => Some(pb::RequestVoteResponse {
            header,
            term: vote.term,
            granted: vote.granted.as_ref().map(to_granted),
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
        granted: response.granted.map(from_granted).transpose()?,
        host_alive: response.host_alive.map(from_host_alive).transpose()?,
    };
    Ok((header, Body::Vote(vote)))
}

fn to_granted(granted: &Granted) -> pb::GrantedVote {
    pb::GrantedVote {
        last: Some(to_position(granted.end.last)),
        last_hash: granted.end.hash.0.to_vec(),
        signature: granted.signature.to_vec(),
    }
}

fn from_granted(granted: pb::GrantedVote) -> Result<Granted, WireError> {
    let hash = hash(&granted.last_hash, "last_hash")?;
    let end = End { last: from_position(granted.last), hash };
    let signature = signature(&granted.signature)?.ok_or(WireError::Missing("signature"))?;
    Ok(Granted { end, signature })
}

pub fn to_withdraw_request(header: Option<pb::Header>, w: &Withdraw) -> pb::WithdrawRequest {
    let reason = match w.reason {
        WithdrawReason::NoMajority => pb::WithdrawReason::NoMajority,
        WithdrawReason::LogBehind => pb::WithdrawReason::LogBehind,
        WithdrawReason::Unfit => pb::WithdrawReason::Unfit,
        WithdrawReason::HostHeard => pb::WithdrawReason::HostHeard,
    };
    pb::WithdrawRequest { header, term: w.term, reason: reason.into() }
}

pub fn from_withdraw_request(request: pb::WithdrawRequest) -> Result<(Header, Body), WireError> {
    let reason = match request.reason() {
        pb::WithdrawReason::NoMajority => WithdrawReason::NoMajority,
        pb::WithdrawReason::LogBehind => WithdrawReason::LogBehind,
        pb::WithdrawReason::Unfit => WithdrawReason::Unfit,
        pb::WithdrawReason::HostHeard => WithdrawReason::HostHeard,
        pb::WithdrawReason::Unspecified => return Err(WireError::Invalid("reason")),
    };
    let header = from_header(request.header)?;
    Ok((header, Body::Withdraw(Withdraw { term: request.term, reason })))
}

pub fn to_announce_request(header: Option<pb::Header>, announce: &Announce) -> pb::AnnounceRequest {
    let reign = announce.reign.as_deref().map(to_entry);
    pb::AnnounceRequest { header, term: announce.term, reign }
}

pub fn from_announce_request(request: pb::AnnounceRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    let reign = request.reign.map(from_entry).transpose()?.map(Arc::new);
    Ok((header, Body::Announce(Announce { term: request.term, reign })))
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

pub fn to_fetch_log_request(header: Option<pb::Header>, f: &FetchLog) -> pb::FetchLogRequest {
    pb::FetchLogRequest { header, term: f.term, fetch: f.fetch, look: Some(to_position(f.look)) }
}

pub fn from_fetch_log_request(request: pb::FetchLogRequest) -> Result<(Header, Body), WireError> {
    let header = from_header(request.header)?;
    let (term, fetch, look) = (request.term, request.fetch, from_position(request.look));
    Ok((header, Body::FetchLog(FetchLog { term, fetch, look })))
}

pub fn to_fetch_log_response(chat: ChatId, message: &Message) -> Option<pb::FetchLogResponse> {
    let header = to_header(chat, message);
    match &message.body {
        Body::FetchLogAnswer(answer) => Some(pb::FetchLogResponse {
            header,
            term: answer.term,
            fetch: answer.fetch,
            previous: Some(to_position(answer.previous)),
            entries: answer.entries.iter().map(|entry| to_entry(entry)).collect(),
            last: Some(to_position(answer.last)),
            look_back: answer.look_back,
            refused: None,
        }),
        Body::Refused(refused) => Some(pb::FetchLogResponse {
            header,
            term: refused.term,
            refused: Some(to_refused(refused)),
            ..Default::default()
        }),
        _ => None,
    }
}

pub fn from_fetch_log_response(
    response: pb::FetchLogResponse,
) -> Result<(Header, Body), WireError> {
    let header = from_header(response.header)?;
    if let Some(refused) = response.refused {
        return Ok((header, Body::Refused(from_refused(&refused)?)));
    }
    let entries = response.entries.into_iter().map(|entry| from_entry(entry).map(Arc::new));
    let answer = FetchLogAnswer {
        term: response.term,
        fetch: response.fetch,
        previous: from_position(response.previous),
        entries: entries.collect::<Result<_, _>>()?,
        last: from_position(response.last),
        look_back: response.look_back,
    };
    Ok((header, Body::FetchLogAnswer(answer)))
}

pub(super) fn to_absence(absence: Option<Absence>) -> pb::Absence {
    match absence {
        None => pb::Absence::Unspecified,
        Some(Absence::Goodbye) => pb::Absence::Goodbye,
        Some(Absence::Silent) => pb::Absence::Silent,
        Some(Absence::NotDialled) => pb::Absence::NotDialled,
        Some(Absence::Returning) => pb::Absence::Returning,
    }
}

/// One that this version does not know is as good as none: it is for showing only.
pub(super) fn from_absence(absence: pb::Absence) -> Option<Absence> {
    match absence {
        pb::Absence::Unspecified => None,
        pb::Absence::Goodbye => Some(Absence::Goodbye),
        pb::Absence::Silent => Some(Absence::Silent),
        pb::Absence::NotDialled => Some(Absence::NotDialled),
        pb::Absence::Returning => Some(Absence::Returning),
    }
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
    use crate::protocol::types::{Hash, PeerId, Position};

    const CHAT: ChatId = ChatId([7; 16]);

    #[test]
    fn a_vote_reads_back_and_nonsense_is_an_error() {
        let alive = HostAlive { host: PeerId([6; 32]), term: 2, retry_in_us: 9 };
        let last = Position { term: 3, index: 9 };
        let end = End { last, hash: Hash([8; 32]) };
        let granted = Some(Granted { end, signature: [9; 64] });
        let body = Body::Vote(Vote { term: 1, granted, host_alive: Some(alive) });
        let vote = Message {
            from: PeerId([1; 32]),
            from_incarnation: 2,
            from_boot: 3,
            to: PeerId([4; 32]),
            to_incarnation: 5,
            generation: 6,
            call: 0,
            words: Vec::new(),
            body: body.clone(),
        };
        let wire = to_vote_response(CHAT, &vote).expect("a vote");
        let (header, read) = from_vote_response(wire).expect("valid");
        assert_eq!((header.chat, read), (CHAT, body));

        let header = to_header(CHAT, &vote);
        let withdraw = pb::WithdrawRequest { header, term: 1, reason: 77 };
        assert!(from_withdraw_request(withdraw).is_err());
        assert!(from_vote_response(Default::default()).is_err());
    }
}
