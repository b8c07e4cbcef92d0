//! Heartbeats on the wire, with all that rides in them.

use std::sync::Arc;

use super::header::{Header, from_header, from_past, to_header, to_past};
use super::join::{from_refused, to_refused};
use super::ranking::{from_shortened, shorten};
use super::{WireError, hex, pb, peer_id};
use crate::protocol::message::{Body, Heartbeat, Message, Receipt};
use crate::protocol::types::{ChatId, Incarnation, MEMBERS_MAX, Past, PeerId};

/// The most voters whose pasts one heartbeat tells: no chat has more.
pub(super) const PASTS_MAX: usize = 16;

pub fn to_heartbeat(chat: ChatId, message: &Message) -> Option<pb::HeartbeatsResponse> {
    let header = to_header(chat, message);
    match &message.body {
        Body::Heartbeat(heartbeat) => {
            let (ranking, delays) = heartbeat.ranking.as_deref().map(shorten).unzip();
            Some(pb::HeartbeatsResponse {
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
                ranking,
                refused: None,
                ended: None,
                delays: delays.unwrap_or_default(),
            })
        }
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
        ranking: response
            .ranking
            .map(|ranking| from_shortened(ranking, &response.delays))
            .transpose()?
            .map(Arc::new),
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
