//! A reign that is no reign.

use std::sync::Arc;

use demes_protocol::sign::signed_vote;
use demes_protocol::types::{Ballot, ChatId, End, Entry, Hash, Payload, PeerId, Reign, SignedVote};

use super::signing::sign;

/// The first entry of a reign that nobody has voted for but who claims it.
pub fn reign_of_one(liar: PeerId, incarnation: u64, end: End, term: u64) -> Arc<Entry> {
    let ballot = Ballot { generation: 0, term, candidate: liar, incarnation, end };
    let signed = signed_vote(ChatId::default(), &ballot, liar, incarnation);
    let vote = SignedVote { incarnation, signature: sign(liar, &signed) };
    let votes = [(liar, vote)].into();
    let mut entry = Entry {
        index: end.last.index + 1,
        term,
        author: liar,
        incarnation,
        number: 0,
        generation: 0,
        created_at_ms: 0,
        trace: None,
        payload: Payload::TermStart(Reign { last_term: end.last.term, votes }),
        signature: None,
        previous: end.hash,
        hash: Hash::default(),
    };
    entry.hash = entry.computed_hash();
    Arc::new(entry)
}
