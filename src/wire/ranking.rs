//! The ranked candidates on the wire.

use std::collections::BTreeMap;

use super::vote::{from_absence, to_absence};
use super::{WireError, hex, pb, peer_id};
use crate::protocol::message::{Candidate, Ranking};
use crate::protocol::types::MEMBERS_MAX;

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

/// A ranking, and its delays by the places of the candidates: a peer's name is long, and each would
/// be told as often as there are members. What cannot be told so stays where it is.
pub(super) fn shorten(ranking: &Ranking) -> (pb::Ranking, Vec<pb::CandidateDelay>) {
    let candidates = ranking.candidates.iter();
    let places: BTreeMap<_, _> =
        (0..).zip(candidates).map(|(place, it)| (it.peer, place)).collect();
    let mut whole = Ranking { delays: Vec::new(), ..ranking.clone() };
    let mut delays = Vec::new();
    for (from, to, delay_us) in &ranking.delays {
        match (places.get(from), places.get(to)) {
            (Some(&from), Some(&to)) if whole.delays.is_empty() => {
                delays.push(pb::CandidateDelay { from, to, delay_us: *delay_us });
            }
            _ => whole.delays.push((*from, *to, *delay_us)),
        }
    }
    (to_ranking(&whole), delays)
}

pub(super) fn from_shortened(
    ranking: pb::Ranking,
    delays: &[pb::CandidateDelay],
) -> Result<Ranking, WireError> {
    if ranking.delays.len() + delays.len() > MEMBERS_MAX * MEMBERS_MAX {
        return Err(WireError::TooLong("delays"));
    }
    let mut ranking = from_ranking(ranking)?;
    let peer = |place: u32| {
        let candidate = usize::try_from(place).ok().and_then(|it| ranking.candidates.get(it));
        candidate.map(|it| it.peer).ok_or(WireError::Invalid("delays"))
    };
    let mut all = Vec::with_capacity(ranking.delays.len() + delays.len());
    for delay in delays {
        all.push((peer(delay.from)?, peer(delay.to)?, delay.delay_us));
    }
    all.append(&mut ranking.delays);
    Ok(Ranking { delays: all, ..ranking })
}
