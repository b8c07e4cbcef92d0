//! Refusals on the wire.

use super::{WireError, hex, optional_peer_id, pb};
use crate::protocol::message::{Refused, RefusedReason};

pub fn to_refused(refused: &Refused) -> pb::Refused {
    let mut out = pb::Refused { term: refused.term, ..Default::default() };
    let reason = match refused.reason {
        RefusedReason::StaleTerm => pb::RefusedReason::StaleTerm,
        RefusedReason::NotHost { host } => {
            out.host_peer_id = host.map_or_else(String::new, |host| hex(&host.0));
            pb::RefusedReason::NotHost
        }
        RefusedReason::WrongIncarnation { incarnation } => {
            out.incarnation = incarnation;
            pb::RefusedReason::WrongIncarnation
        }
        RefusedReason::NotMember => pb::RefusedReason::NotMember,
        RefusedReason::OtherGeneration => pb::RefusedReason::OtherGeneration,
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
        pb::RefusedReason::OtherGeneration => RefusedReason::OtherGeneration,
        pb::RefusedReason::Unspecified => return Err(WireError::Invalid("reason")),
    };
    Ok(Refused { term: refused.term, reason })
}
