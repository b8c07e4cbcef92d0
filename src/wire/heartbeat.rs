//! Heartbeats on the wire, with all that rides in them.

use std::sync::Arc;

use super::message::{
    Header, from_header, from_past, from_refused, to_header, to_past, to_refused,
};
use super::vote::{from_absence, to_absence};
use super::{WireError, hex, pb, peer_id};
use crate::protocol::message::{Body, Candidate, Heartbeat, Message, Ranking, Receipt};
use crate::protocol::types::{ChatId, Incarnation, MEMBERS_MAX, Past, PeerId};

/// The most voters whose pasts one heartbeat tells: no chat has more.
pub(super) const PASTS_MAX: usize = 16;

pub fn to_heartbeat(chat: ChatId, message: &Message) -> Option<pb::HeartbeatsResponse> {
    let header = to_header(chat, message);
    match &message.body {
        Body::Heartbeat(heartbeat) => Some(pb::HeartbeatsResponse {
            header,
            term: heartbeat.term,
            number: heartbeat.number,
            interval_us: heartbeat.interval_us,
            sent_us: heartbeat.sent_us,
            lease_us: heartbeat.lease_us,
            probe: heartbeat.probe,
            commit: heartbeat.commit,
            receipts: heartbeat.positions.iter().map(to_receipt).collect(),
            pasts: heartbeat.pasts.iter().map(to_voter_past).collect(),
            ranking: heartbeat.ranking.as_deref().map(to_ranking),
            refused: None,
            ended: None,
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
    if response.pasts.len() > PASTS_MAX {
        return Err(WireError::TooLong("pasts"));
    }
    let positions = response.receipts.iter();
    let heartbeat = Heartbeat {
        term: response.term,
        number: response.number,
        interval_us: response.interval_us,
        sent_us: response.sent_us,
        lease_us: response.lease_us,
        probe: response.probe,
        commit: response.commit,
        positions: positions.map(from_receipt).collect::<Result<_, _>>()?,
        pasts: response.pasts.into_iter().map(from_voter_past).collect::<Result<_, _>>()?,
        ranking: response.ranking.map(from_ranking).transpose()?.map(Arc::new),
    };
    Ok((header, Body::Heartbeat(heartbeat)))
}

fn to_voter_past((peer, incarnation, past): &(PeerId, Incarnation, Past)) -> pb::VoterPast {
    let past = Some(to_past(past));
    pb::VoterPast { peer_id: hex(&peer.0), incarnation: *incarnation, past }
}

fn from_voter_past(past: pb::VoterPast) -> Result<(PeerId, Incarnation, Past), WireError> {
    let peer = peer_id(&past.peer_id, "peer_id")?;
    let said = past.past.ok_or(WireError::Missing("past"))?;
    Ok((peer, past.incarnation, from_past(said)?))
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
            .map(|c| pb::Candidate {
                peer_id: hex(&c.peer.0),
                farness_us: c.farness_us,
                absence: to_absence(c.absence).into(),
            })
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
        let absence = from_absence(c.absence());
        Ok(Candidate { peer, farness_us: c.farness_us, absence })
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
