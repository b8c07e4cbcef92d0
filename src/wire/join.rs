//! Joining, and refusals, on the wire. See `message.rs`.

use super::entry::{from_proof, to_proof};
use super::header::{Header, from_header, to_header, to_optional_peer};
use super::{
    WireError, check_address, check_name, milliseconds, optional_peer_id, pb, signature, timestamp,
};
use crate::protocol::invite_link::InviteLinkProblem;
use crate::protocol::message::{Body, Join, JoinAnswer, Message, Refused, RefusedReason};
use crate::protocol::types::ChatId;

pub fn to_join_request(header: Option<pb::Header>, join: &Join) -> pb::JoinRequest {
    pb::JoinRequest {
        header,
        name: join.name.clone(),
        address: join.address.clone(),
        created_at: Some(timestamp(join.created_at_ms)),
        decline: join.decline,
        signature: join.signature.to_vec(),
        proof: join.proof.as_ref().map(to_proof),
    }
}

/// The moment of arrival is left for the receiver to fill in.
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
        proof: request.proof.as_ref().map(from_proof).transpose()?,
        arrived_at_ms: 0,
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
        RefusedReason::Outlived { is_here: false } => pb::RefusedReason::Outlived,
        RefusedReason::Outlived { is_here: true } => pb::RefusedReason::KeyInUse,
        RefusedReason::OtherGeneration => pb::RefusedReason::OtherGeneration,
        RefusedReason::Removed { by } => {
            out.removed_by_peer_id = to_optional_peer(by);
            pb::RefusedReason::Removed
        }
        RefusedReason::InviteLink(problem) => match problem {
            InviteLinkProblem::Unknown => pb::RefusedReason::LinkUnknown,
            InviteLinkProblem::Expired => pb::RefusedReason::LinkExpired,
            InviteLinkProblem::UsedUp => pb::RefusedReason::LinkUsedUp,
            InviteLinkProblem::Revoked => pb::RefusedReason::LinkRevoked,
        },
        RefusedReason::ChatFull => pb::RefusedReason::ChatFull,
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
        pb::RefusedReason::Outlived => RefusedReason::Outlived { is_here: false },
        pb::RefusedReason::KeyInUse => RefusedReason::Outlived { is_here: true },
        pb::RefusedReason::OtherGeneration => RefusedReason::OtherGeneration,
        pb::RefusedReason::Removed => RefusedReason::Removed {
            by: optional_peer_id(&refused.removed_by_peer_id, "removed_by_peer_id")?,
        },
        pb::RefusedReason::LinkUnknown => RefusedReason::InviteLink(InviteLinkProblem::Unknown),
        pb::RefusedReason::LinkExpired => RefusedReason::InviteLink(InviteLinkProblem::Expired),
        pb::RefusedReason::LinkUsedUp => RefusedReason::InviteLink(InviteLinkProblem::UsedUp),
        pb::RefusedReason::LinkRevoked => RefusedReason::InviteLink(InviteLinkProblem::Revoked),
        pb::RefusedReason::ChatFull => RefusedReason::ChatFull,
        pb::RefusedReason::Unspecified => return Err(WireError::Invalid("reason")),
    };
    Ok(Refused { term: refused.term, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::types::{InviteLinkId, InviteLinkProof, PeerId};

    #[test]
    fn a_join_reads_back() {
        let message = Message {
            from: PeerId([1; 32]),
            from_incarnation: 2,
            from_boot: 1,
            to: PeerId([4; 32]),
            to_incarnation: 0,
            generation: 0,
            call: 0,
            words: Vec::new(),
            body: Body::Goodbye,
        };
        let link = InviteLinkId([6; 32]);
        for proof in [None, Some(InviteLinkProof { link, signature: [7; 64] })] {
            let join = Join {
                name: "Ann".into(),
                address: "a:1".into(),
                created_at_ms: 5,
                decline: false,
                proof,
                signature: [8; 64],
                arrived_at_ms: 0,
            };
            let header = to_header(ChatId([7; 16]), &message);
            let request = to_join_request(header, &join);
            let (_, body) = from_join_request(request.clone()).expect("valid");
            assert_eq!(body, Body::Join(join));
            let proof = pb::InviteLinkProof { link_id: "x".into(), signature: vec![7; 64] };
            let bad = pb::JoinRequest { proof: Some(proof), ..request };
            assert_eq!(from_join_request(bad), Err(WireError::Invalid("link_id")));
        }
    }
}
