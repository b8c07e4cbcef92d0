//! What one that lies may say at any moment: a stranger, or a member whose honest peer knows
//! nothing of it and gets the answers.
//!
//! A lying voter may also vote twice, and acknowledge what it does not have. With one of three that
//! breaks what a majority stands for (`docs/verification.md`), so that the model leaves it out.

use std::sync::Arc;

use demes_protocol::message::{
    Announce, Body, FindHostAnswer, Heartbeat, Message, Nominate, Refused, RefusedReason,
    RequestVote,
};
use demes_protocol::types::{End, PeerId, Position};

use crate::false_reign::reign_of_one;
use crate::peer::{PEERS, Peer, id};

/// Whom nobody knows.
const STRANGER: PeerId = PeerId([99; 32]);
const STRANGERS_INCARNATION: u64 = 7;

/// Who lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liar {
    Stranger,
    Member(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// It hosts, and shows nothing for it, or its own vote alone.
    Hosts,
    HostsByItself,
    /// It is heard, and has committed more.
    IsHeard,
    /// It stands with a log that goes further, or wants another to stand for it.
    Stands,
    Nominates,
    /// The other is no member any more.
    SendsAway,
    /// Another one hosts, in a later term.
    NamesAnother,
}

impl Lie {
    pub const ALL: [Lie; 7] = [
        Lie::Hosts,
        Lie::HostsByItself,
        Lie::IsHeard,
        Lie::Stands,
        Lie::Nominates,
        Lie::SendsAway,
        Lie::NamesAnother,
    ];
}

/// What is told to the peer `to`, of whose term and log the liar knows.
pub fn told(liar: Liar, lie: Lie, peers: &[Arc<Peer>; PEERS], to: usize) -> Option<Message> {
    let (from, from_incarnation, from_boot) = match liar {
        Liar::Stranger => (STRANGER, STRANGERS_INCARNATION, 1),
        Liar::Member(p) => {
            let image = &peers[p].disk.image;
            (peers[p].id, image.incarnation, image.boot)
        }
    };
    let hearer = &peers[to];
    let log = hearer.replica.as_ref()?.log();
    let end = End { last: log.last(), hash: log.last_hash() };
    let further = Position { term: end.last.term, index: end.last.index + 1 };
    let term = hearer.term + 1;
    let body = match lie {
        Lie::Hosts => Body::Announce(Announce { term, reign: None }),
        Lie::HostsByItself => {
            let reign = Some(reign_of_one(from, from_incarnation, end, term));
            Body::Announce(Announce { term, reign })
        }
        Lie::IsHeard => Body::Heartbeat(Heartbeat {
            term,
            number: 1_000,
            interval_us: 50_000,
            sent_us: 0,
            lease_us: 1_000_000,
            probe: false,
            commit: further.index,
            positions: Vec::new(),
            pasts: Vec::new(),
            ranking: None,
        }),
        Lie::Stands => {
            let end = End { last: further, ..end };
            Body::RequestVote(RequestVote { term, end, hand_over: None, past: None })
        }
        Lie::Nominates => Body::Nominate(Nominate { term, last: further }),
        Lie::SendsAway => {
            let by = Some(id((to + 1) % PEERS));
            Body::Refused(Refused { term: hearer.term, reason: RefusedReason::Removed { by } })
        }
        Lie::NamesAnother => {
            let host = Some(id((to + 1) % PEERS));
            Body::FindHostAnswer(FindHostAnswer { term, host })
        }
    };
    Some(Message {
        from,
        from_incarnation,
        from_boot,
        to: hearer.id,
        to_incarnation: hearer.disk.image.incarnation,
        generation: 0,
        call: 0,
        words: Vec::new(),
        body,
    })
}
