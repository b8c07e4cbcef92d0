//! Records of the log on the wire: entries, submissions and what they do.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    WireError, check_address, check_name, hex, milliseconds, pb, peer_id, signature, timestamp,
    trace_context,
};
use crate::protocol::quota::Quota;
use crate::protocol::signed::{SignedChange, WORDS_MAX, Words};
use crate::protocol::traceparent::to_traceparent;
use crate::protocol::types::{
    ADDRESS_BYTES_MAX, Entry, Hash, INVITE_LINK_USES_MAX, InviteLinkId, InviteLinkProof,
    MEMBERS_MAX, Membership, NAME_CHARS_MAX, Payload, PeerId, Policy, REQUEST_ID_BYTES_MAX, Reign,
    SEALED_BYTES_MAX, SignedVote, Submission, TERM_MAX, VOTES_MAX, VoterSet,
};

/// An entry as other members get it.
pub fn to_entry(entry: &Entry) -> pb::Entry {
    use pb::entry::Payload as Out;
    pb::Entry {
        index: entry.index,
        term: entry.term,
        author_peer_id: hex(&entry.author.0),
        incarnation: entry.incarnation,
        number: entry.number,
        generation: entry.generation,
        created_at: Some(timestamp(entry.created_at_ms)),
        traceparent: to_traceparent(&entry.trace),
        signature: entry.signature.map(|s| s.to_vec()).unwrap_or_default().into(),
        previous_hash: entry.previous.0.to_vec().into(),
        hash: entry.hash.0.to_vec().into(),
        payload: Some(match &entry.payload {
            Payload::TermStart(reign) => Out::TermStart(to_reign(reign)),
            Payload::Message { request_id, sealed } => Out::Message(pb::SealedMessage {
                request_id: request_id.clone(),
                sealed: sealed.clone(),
            }),
            Payload::Membership(change) => Out::Membership(to_membership(change)),
            Payload::VoterChange(voters) => Out::VoterChange(to_voters(voters)),
            Payload::Policy(policy) => Out::Policy(to_policy(policy)),
        }),
    }
}

/// An entry as another member sent it. Its hash and signature are not looked at here.
pub fn from_entry(entry: pb::Entry) -> Result<Entry, WireError> {
    use pb::entry::Payload as In;
    let payload = match entry.payload.ok_or(WireError::Missing("payload"))? {
        In::TermStart(reign) => Payload::TermStart(from_reign(&reign)?),
        In::Message(message) => from_message(message)?,
        In::Membership(change) => Payload::Membership(from_membership(change)?),
        In::VoterChange(voters) => Payload::VoterChange(from_voters(voters)?),
        In::Policy(policy) => Payload::Policy(from_policy(policy)?),
    };
    if entry.term > TERM_MAX {
        return Err(WireError::Invalid("term"));
    }
    Ok(Entry {
        index: entry.index,
        term: entry.term,
        author: peer_id(&entry.author_peer_id, "author_peer_id")?,
        incarnation: entry.incarnation,
        number: entry.number,
        generation: entry.generation,
        created_at_ms: milliseconds(entry.created_at, "created_at")?,
        trace: trace_context(&entry.traceparent)?,
        payload,
        signature: signature(&entry.signature)?,
        previous: hash(&entry.previous_hash, "previous_hash")?,
        hash: hash(&entry.hash, "hash")?,
    })
}

/// A submission as the host gets it.
pub fn to_submission(submission: &Submission) -> pb::Submission {
    use pb::submission::Payload as Out;
    pb::Submission {
        number: submission.number,
        created_at: Some(timestamp(submission.created_at_ms)),
        traceparent: to_traceparent(&submission.trace),
        signature: submission.signature.map(|s| s.to_vec()).unwrap_or_default().into(),
        payload: match &submission.payload {
            Payload::Message { request_id, sealed } => Some(Out::Message(pb::SealedMessage {
                request_id: request_id.clone(),
                sealed: sealed.clone(),
            })),
            Payload::Membership(change) => Some(Out::Membership(to_membership(change))),
            Payload::Policy(policy) => Some(Out::Policy(to_policy(policy))),
            // Only hosts make these; no member submits them.
            Payload::TermStart(_) | Payload::VoterChange(_) => None,
        },
    }
}

/// A submission as a member sent it. Its signature is not looked at here.
pub fn from_submission(submission: pb::Submission) -> Result<Submission, WireError> {
    use pb::submission::Payload as In;
    let payload = match submission.payload.ok_or(WireError::Missing("payload"))? {
        In::Message(message) => from_message(message)?,
        In::Membership(change) => Payload::Membership(from_membership(change)?),
        In::Policy(policy) => Payload::Policy(from_policy(policy)?),
    };
    if submission.number == 0 {
        // 0 stands outside the authors' count, and nobody submits it.
        return Err(WireError::Invalid("number"));
    }
    Ok(Submission {
        number: submission.number,
        created_at_ms: milliseconds(submission.created_at, "created_at")?,
        trace: trace_context(&submission.traceparent)?,
        payload,
        signature: signature(&submission.signature)?,
    })
}

fn from_message(message: pb::SealedMessage) -> Result<Payload, WireError> {
    if message.request_id.len() > REQUEST_ID_BYTES_MAX {
        return Err(WireError::TooLong("request_id"));
    }
    if message.sealed.len() > SEALED_BYTES_MAX {
        return Err(WireError::TooLong("sealed"));
    }
    Ok(Payload::Message { request_id: message.request_id, sealed: message.sealed })
}

fn from_policy(policy: pb::Policy) -> Result<Policy, WireError> {
    let quota = policy.quota.map(from_quota).transpose()?;
    // There is no chat without a name, so that none is left out.
    let chat_name = Some(policy.chat_name).filter(|name| !name.is_empty() || quota.is_none());
    chat_name.as_ref().map_or(Ok(()), |name| check_name(name, "chat_name"))?;
    Ok(Policy { chat_name, quota })
}

fn to_policy(policy: &Policy) -> pb::Policy {
    let chat_name = policy.chat_name.clone().unwrap_or_default();
    pb::Policy { chat_name, quota: policy.quota.map(to_quota) }
}

/// How much an author may add in a day, as others get it.
pub fn to_quota(quota: Quota) -> pb::Quota {
    pb::Quota { bytes_per_day: quota.bytes, changes_per_day: quota.rare }
}

/// The same as another has sent it.
pub fn from_quota(quota: pb::Quota) -> Result<Quota, WireError> {
    let quota = Quota { bytes: quota.bytes_per_day, rare: quota.changes_per_day };
    if quota.is_sound() { Ok(quota) } else { Err(WireError::Invalid("quota")) }
}

fn to_membership(change: &Membership) -> pb::Membership {
    use pb::membership::Change as Out;
    let change = match change.clone() {
        Membership::Founded { chat_name, name, address } => {
            Out::Founded(pb::Founded { chat_name, name, address })
        }
        Membership::Invited { peer, address } => {
            Out::Invited(pb::Invited { peer_id: hex(&peer.0), address })
        }
        Membership::Joined { name, address, proof } => {
            Out::Joined(pb::Joined { name, address, proof: proof.as_ref().map(to_proof) })
        }
        Membership::Declined => Out::Declined(pb::Declined {}),
        Membership::Leaving => Out::Leaving(pb::Leaving {}),
        Membership::Removed { peer } => Out::Removed(pb::Removed { peer_id: hex(&peer.0) }),
        Membership::Recovered { generation } => Out::Recovered(pb::Recovered { generation }),
        Membership::Removing { peer } => Out::Removing(pb::Removing { peer_id: hex(&peer.0) }),
        Membership::InviteRevoked { peer } => {
            Out::InviteRevoked(pb::InviteRevoked { peer_id: hex(&peer.0) })
        }
        Membership::InviteLinkCreated { link, uses_max, expires_at_ms } => {
            let expires_at = Some(timestamp(expires_at_ms));
            let link_id = hex(&link.0);
            Out::InviteLinkCreated(pb::InviteLinkCreated { link_id, uses_max, expires_at })
        }
        Membership::InviteLinkRevoked { link } => {
            Out::InviteLinkRevoked(pb::InviteLinkRevoked { link_id: hex(&link.0) })
        }
    };
    pb::Membership { change: Some(change) }
}

fn from_membership(membership: pb::Membership) -> Result<Membership, WireError> {
    use pb::membership::Change as In;
    Ok(match membership.change.ok_or(WireError::Missing("change"))? {
        In::Founded(pb::Founded { chat_name, name, address }) => {
            check_name(&chat_name, "chat_name")?;
            check_person(&name, &address)?;
            Membership::Founded { chat_name, name, address }
        }
        In::Invited(pb::Invited { peer_id: peer, address }) => {
            check_address(&address, "address")?;
            Membership::Invited { peer: peer_id(&peer, "peer_id")?, address }
        }
        In::Joined(pb::Joined { name, address, proof }) => {
            check_person(&name, &address)?;
            let proof = proof.as_ref().map(from_proof).transpose()?;
            Membership::Joined { name, address, proof }
        }
        In::Declined(_) => Membership::Declined,
        In::Leaving(_) => Membership::Leaving,
        In::Removed(removed) => Membership::Removed { peer: peer_id(&removed.peer_id, "peer_id")? },
        In::Recovered(recovered) => Membership::Recovered { generation: recovered.generation },
        In::Removing(change) => Membership::Removing { peer: peer_id(&change.peer_id, "peer_id")? },
        In::InviteRevoked(change) => {
            Membership::InviteRevoked { peer: peer_id(&change.peer_id, "peer_id")? }
        }
        In::InviteLinkCreated(change) => {
            if !(1..=INVITE_LINK_USES_MAX).contains(&change.uses_max) {
                return Err(WireError::Invalid("uses_max"));
            }
            Membership::InviteLinkCreated {
                link: link_id(&change.link_id)?,
                uses_max: change.uses_max,
                expires_at_ms: milliseconds(change.expires_at, "expires_at")?,
            }
        }
        In::InviteLinkRevoked(change) => {
            Membership::InviteLinkRevoked { link: link_id(&change.link_id)? }
        }
    })
}

/// What bears a message out, as others get it.
pub fn to_words(words: &Words) -> Vec<pb::SignedChange> {
    let words = words.iter().map(|word| pb::SignedChange {
        author_peer_id: hex(&word.author.0),
        incarnation: word.incarnation,
        number: word.number,
        generation: word.generation,
        change: Some(to_membership(&word.change)),
        signature: word.signature.map(|s| s.to_vec()).unwrap_or_default(),
    });
    words.collect()
}

/// The same as another peer sent it. The signatures are not looked at here.
pub fn from_words(words: Vec<pb::SignedChange>) -> Result<Words, WireError> {
    if words.len() > WORDS_MAX {
        return Err(WireError::TooLong("words"));
    }
    let words = words.into_iter().map(|word| {
        Ok(Arc::new(SignedChange {
            author: peer_id(&word.author_peer_id, "author_peer_id")?,
            incarnation: word.incarnation,
            number: word.number,
            generation: word.generation,
            change: from_membership(word.change.ok_or(WireError::Missing("change"))?)?,
            signature: signature(&word.signature)?,
        }))
    });
    words.collect()
}

/// That a peer has an invite link, as others get it.
pub fn to_proof(proof: &InviteLinkProof) -> pb::InviteLinkProof {
    pb::InviteLinkProof { link_id: hex(&proof.link.0), signature: proof.signature.to_vec() }
}

/// The same as another peer sent it. Its signature is not looked at here.
pub fn from_proof(proof: &pb::InviteLinkProof) -> Result<InviteLinkProof, WireError> {
    let signature = signature(&proof.signature)?.ok_or(WireError::Missing("signature"))?;
    Ok(InviteLinkProof { link: link_id(&proof.link_id)?, signature })
}

fn link_id(text: &str) -> Result<InviteLinkId, WireError> {
    text.parse().map_err(|_| WireError::Invalid("link_id"))
}

fn check_person(name: &str, address: &str) -> Result<(), WireError> {
    if name.chars().count() > NAME_CHARS_MAX {
        return Err(WireError::TooLong("name"));
    }
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(WireError::TooLong("address"));
    }
    Ok(())
}

fn to_voters(voters: &VoterSet) -> pb::VoterSet {
    let voters = voters.0.iter();
    pb::VoterSet {
        voters: voters
            .map(|(peer, &incarnation)| pb::Voter { peer_id: hex(&peer.0), incarnation })
            .collect(),
    }
}

fn from_voters(voters: pb::VoterSet) -> Result<VoterSet, WireError> {
    if voters.voters.len() > MEMBERS_MAX {
        return Err(WireError::TooLong("voters"));
    }
    let voters = voters.voters.iter();
    voters
        .map(|voter| Ok((peer_id(&voter.peer_id, "peer_id")?, voter.incarnation)))
        .collect::<Result<_, _>>()
        .map(VoterSet)
}

fn to_reign(reign: &Reign) -> pb::TermStart {
    let vote = |(voter, vote): (&PeerId, &SignedVote)| pb::SignedVote {
        voter_peer_id: hex(&voter.0),
        incarnation: vote.incarnation,
        signature: vote.signature.to_vec(),
    };
    pb::TermStart { last_term: reign.last_term, votes: reign.votes.iter().map(vote).collect() }
}

fn from_reign(reign: &pb::TermStart) -> Result<Reign, WireError> {
    if reign.votes.len() > VOTES_MAX {
        return Err(WireError::TooLong("votes"));
    }
    let mut votes = BTreeMap::new();
    for vote in &reign.votes {
        let signature = signature(&vote.signature)?.ok_or(WireError::Missing("signature"))?;
        let vote = (
            peer_id(&vote.voter_peer_id, "voter_peer_id")?,
            SignedVote { incarnation: vote.incarnation, signature },
        );
        if votes.insert(vote.0, vote.1).is_some() {
            return Err(WireError::Invalid("votes"));
        }
    }
    Ok(Reign { last_term: reign.last_term, votes })
}

pub(super) fn hash(bytes: &[u8], field: &'static str) -> Result<Hash, WireError> {
    bytes.try_into().map(Hash).map_err(|_| WireError::Invalid(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(payload: Payload) -> Entry {
        Entry {
            index: 7,
            term: 3,
            author: PeerId([9; 32]),
            incarnation: 11,
            number: 5,
            generation: 6,
            created_at_ms: 1_700_000_000_123,
            trace: Some([1; 25]),
            payload,
            signature: Some([2; 64]),
            previous: Hash([3; 32]),
            hash: Hash([4; 32]),
        }
    }

    fn reign(votes: u8) -> Reign {
        let vote = SignedVote { incarnation: 7, signature: [6; 64] };
        Reign { last_term: 2, votes: (1..=votes).map(|n| (PeerId([n; 32]), vote)).collect() }
    }

    fn link_created(uses_max: u32) -> Payload {
        let link = InviteLinkId([2; 32]);
        Payload::Membership(Membership::InviteLinkCreated { link, uses_max, expires_at_ms: 7 })
    }

    #[test]
    fn every_kind_of_entry_reads_back() {
        let address = "host:7443".to_owned();
        let name = "Ann".to_owned();
        let peer = PeerId([1; 32]);
        let link = InviteLinkId([2; 32]);
        let joined = |proof| {
            let (name, address) = (name.clone(), address.clone());
            Payload::Membership(Membership::Joined { name, address, proof })
        };
        for payload in [
            Payload::TermStart(Reign::default()),
            Payload::TermStart(reign(1)),
            Payload::Message { request_id: "r".into(), sealed: vec![0, 1].into() },
            Payload::Membership(Membership::Founded {
                chat_name: "c".into(),
                name: name.clone(),
                address: address.clone(),
            }),
            Payload::Membership(Membership::Invited { peer, address: address.clone() }),
            joined(None),
            joined(Some(InviteLinkProof { link, signature: [5; 64] })),
            Payload::Membership(Membership::Declined),
            Payload::Membership(Membership::Leaving),
            Payload::Membership(Membership::Removing { peer }),
            Payload::Membership(Membership::Removed { peer }),
            Payload::Membership(Membership::Recovered { generation: u64::MAX }),
            Payload::Membership(Membership::InviteRevoked { peer }),
            link_created(INVITE_LINK_USES_MAX),
            Payload::Membership(Membership::InviteLinkRevoked { link }),
            Payload::VoterChange(VoterSet([(peer, 3)].into())),
            Payload::Policy(Policy::named("d")),
            Payload::Policy(Policy { chat_name: None, quota: Some(Quota::LEAST) }),
        ] {
            let entry = entry(payload);
            assert_eq!(from_entry(to_entry(&entry)), Ok(entry));
        }
    }

    #[test]
    fn what_bears_a_message_out_reads_back_and_is_bounded() {
        let word = |number| {
            let (author, peer) = (PeerId([1; 32]), PeerId([2; 32]));
            let change = Membership::Removing { peer };
            Arc::new(SignedChange {
                author,
                incarnation: 3,
                number,
                generation: 5,
                change,
                signature: Some([4; 64]),
            })
        };
        let words: Words = (1..=WORDS_MAX as u64).map(word).collect();
        assert_eq!(from_words(to_words(&words)), Ok(words.clone()));
        let more = [words, vec![word(9)]].concat();
        assert_eq!(from_words(to_words(&more)), Err(WireError::TooLong("words")));
    }

    #[test]
    fn bad_entries_are_errors() {
        let good = to_entry(&entry(Payload::TermStart(reign(1))));
        let mut twice = to_reign(&reign(1));
        twice.votes.extend(twice.votes.clone());
        let twice = pb::entry::Payload::TermStart(twice);
        let bad = [
            pb::Entry { payload: None, ..good.clone() },
            pb::Entry { payload: Some(twice), ..good.clone() },
            to_entry(&entry(Payload::TermStart(reign(VOTES_MAX as u8 + 1)))),
            pb::Entry { author_peer_id: "x".into(), ..good.clone() },
            pb::Entry { hash: vec![1].into(), ..good.clone() },
            pb::Entry { signature: vec![1].into(), ..good.clone() },
            pb::Entry { created_at: None, ..good.clone() },
            pb::Entry { term: TERM_MAX + 1, ..good.clone() },
            pb::Entry { traceparent: "?".into(), ..good },
            to_entry(&entry(link_created(0))),
            to_entry(&entry(link_created(INVITE_LINK_USES_MAX + 1))),
        ];
        for entry in bad {
            assert!(from_entry(entry).is_err());
        }
    }
}
