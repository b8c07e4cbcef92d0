//! What people's programs are shown: chats and events.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::entry::to_quota;
use super::message::to_ranking;
use super::{hex, pb, timestamp};
use crate::protocol::event::{LinkState, Role, Status};
use crate::protocol::evidence::Evidence;
use crate::protocol::recovery::generation_text;
use crate::protocol::types::{
    ChatId, Entry, InviteLinkId, MemberState, Membership, Payload, PeerId,
};

/// The names of a chat's members, as far as known.
pub type Names = BTreeMap<PeerId, String>;

/// A chat as `me` sees it. `fault` says why it has stopped here; it is empty while it runs.
/// `away_since` has the members that are away.
pub fn to_chat(
    chat: ChatId,
    me: PeerId,
    status: &Status,
    fault: &str,
    away_since: &BTreeMap<PeerId, SystemTime>,
) -> pb::Chat {
    let role = match status.role {
        Role::Follower => pb::Role::Follower,
        Role::Suspecting => pb::Role::Suspecting,
        Role::Candidate => pb::Role::Candidate,
        Role::Host => pb::Role::Host,
    };
    let members = status.members.iter().map(|(peer, member)| {
        let state = match member.state {
            MemberState::Invited => pb::MemberState::Invited,
            MemberState::Active => pb::MemberState::Active,
            MemberState::Leaving => pb::MemberState::Leaving,
        };
        let receipt = status.receipts.get(peer).copied().unwrap_or_default();
        pb::Member {
            peer_id: hex(&peer.0),
            name: member.name.clone(),
            address: member.address.clone(),
            state: state.into(),
            voter: status.voters.contains(peer),
            reachable: *peer == me || status.links.get(peer) == Some(&LinkState::Up),
            delivered: receipt.delivered,
            read: receipt.read,
            other_generation: status
                .other_generations
                .get(peer)
                .map_or_else(String::new, |generation| generation_text(*generation)),
            away_since: away_since.get(peer).copied().map(Into::into),
        }
    });
    pb::Chat {
        chat_id: hex(&chat.0),
        name: status.chat_name.clone(),
        role: role.into(),
        term: status.term,
        host_peer_id: status.host.map_or_else(String::new, |host| hex(&host.0)),
        serving: status.serving && !status.paused,
        voters_in_contact: u32::try_from(status.voters_in_contact).unwrap_or(u32::MAX),
        majority: u32::try_from(status.majority).unwrap_or(u32::MAX),
        members: members.collect(),
        committed: status.commit,
        last: status.last,
        queued: status.queued as u64,
        ranking: Some(to_ranking(&status.ranking)),
        fault: fault.to_owned(),
        generation: generation_text(status.generation),
        majority_lost: status.majority_lost,
        over_quota: status.is_over_quota,
        quota: status.quota.map(to_quota),
        removed_by_peer_id: status.removed_by.map_or_else(String::new, |by| hex(&by.0)),
        evidence: status
            .evidence
            .iter()
            .map(|(peer, evidence)| to_evidence(peer, evidence))
            .collect(),
    }
}

fn to_evidence(peer: &PeerId, evidence: &Evidence) -> pb::Evidence {
    let what = evidence.what.text().to_owned();
    pb::Evidence { peer_id: hex(&peer.0), term: evidence.term, what }
}

/// A committed entry as programs see it. `open` opens a sealed message; what cannot be opened is
/// shown without a text. `names` are those known before this entry.
pub fn to_event(
    chat: ChatId,
    entry: &Entry,
    names: &Names,
    open: impl FnOnce(&bytes::Bytes) -> String,
) -> pb::Event {
    use pb::event::Kind;
    let author_name = match &entry.payload {
        Payload::Membership(Membership::Founded { name, .. } | Membership::Joined { name, .. }) => {
            Some(name)
        }
        _ => names.get(&entry.author),
    };
    let kind = match &entry.payload {
        Payload::TermStart(_) => Kind::Host(pb::HostEvent { term: entry.term }),
        Payload::Message { request_id, sealed } => {
            Kind::Message(pb::MessageEvent { text: open(sealed), request_id: request_id.clone() })
        }
        Payload::Membership(change) => to_membership_kind(entry.author, change, names),
        Payload::VoterChange(voters) => Kind::Voters(pb::VotersEvent {
            peer_ids: voters.peers().map(|peer| hex(&peer.0)).collect(),
        }),
        Payload::Policy(policy) => Kind::Policy(pb::PolicyEvent {
            chat_name: policy.chat_name.clone().unwrap_or_default(),
            quota: policy.quota.map(to_quota),
        }),
    };
    pb::Event {
        chat_id: hex(&chat.0),
        sequence: entry.index,
        author_peer_id: hex(&entry.author.0),
        author_name: author_name.cloned().unwrap_or_default(),
        // The host's own entries have no time: the core knows no wall clock.
        created_at: (entry.created_at_ms > 0).then(|| timestamp(entry.created_at_ms)),
        hash: hex(&entry.hash.0),
        kind: Some(kind),
    }
}

/// Notes the name that an entry gives to its author.
pub fn learn_name(names: &mut Names, entry: &Entry) {
    if let Payload::Membership(Membership::Founded { name, .. } | Membership::Joined { name, .. }) =
        &entry.payload
    {
        names.insert(entry.author, name.clone());
    }
}

fn to_membership_kind(author: PeerId, change: &Membership, names: &Names) -> pb::event::Kind {
    let of_link = |change: pb::InviteLinkChange, link: &InviteLinkId| pb::InviteLinkEvent {
        change: change.into(),
        link_id: hex(&link.0),
        ..Default::default()
    };
    pb::event::Kind::InviteLink(match change {
        Membership::InviteLinkCreated { link, uses_max, expires_at_ms } => pb::InviteLinkEvent {
            uses_max: *uses_max,
            expires_at: Some(timestamp(*expires_at_ms)),
            ..of_link(pb::InviteLinkChange::Created, link)
        },
        Membership::InviteLinkRevoked { link } => of_link(pb::InviteLinkChange::Revoked, link),
        _ => return pb::event::Kind::Member(to_member_event(author, change, names)),
    })
}

fn to_member_event(author: PeerId, change: &Membership, names: &Names) -> pb::MemberEvent {
    use pb::MemberChange as Change;
    let known = |peer: &PeerId| names.get(peer).cloned().unwrap_or_default();
    let (what, peer, name) = match change {
        Membership::Founded { name, .. } => (Change::Founded, author, name.clone()),
        Membership::Invited { peer, .. } => (Change::Invited, *peer, known(peer)),
        Membership::Joined { name, .. } => (Change::Joined, author, name.clone()),
        Membership::Declined => (Change::Declined, author, known(&author)),
        Membership::Leaving => (Change::Leaving, author, known(&author)),
        Membership::Removing { peer } => (Change::Removing, *peer, known(peer)),
        Membership::Removed { peer } => (Change::Removed, *peer, known(peer)),
        Membership::InviteRevoked { peer } => (Change::InviteRevoked, *peer, known(peer)),
        Membership::Recovered { .. } => (Change::Recovered, author, known(&author)),
        // These are events of their own kind.
        Membership::InviteLinkCreated { .. } | Membership::InviteLinkRevoked { .. } => {
            (Change::Unspecified, author, String::new())
        }
    };
    let link_id = match change {
        Membership::Joined { proof: Some(proof), .. } => hex(&proof.link.0),
        _ => String::new(),
    };
    pb::MemberEvent { change: what.into(), peer_id: hex(&peer.0), name, link_id }
}
