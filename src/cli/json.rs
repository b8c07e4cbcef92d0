//! The same messages for programs. Names are the protos' field names, enums their names there,
//! numbers are numbers, times RFC 3339.

use serde_json::{Value, json};

use super::output::utc_time;
use super::pb;
use super::pb::event::Kind;

/// A chat.
pub fn chat(chat: &pb::Chat) -> Value {
    json!({
        "chat_id": chat.chat_id,
        "name": chat.name,
        "role": chat.role().as_str_name(),
        "term": chat.term,
        "host_peer_id": chat.host_peer_id,
        "serving": chat.serving,
        "voters_in_contact": chat.voters_in_contact,
        "majority": chat.majority,
        "members": chat.members.iter().map(member).collect::<Vec<_>>(),
        "committed": chat.committed,
        "last": chat.last,
        "queued": chat.queued,
        "ranking": chat.ranking.as_ref().map(ranking),
        "fault": chat.fault,
        "generation": chat.generation,
        "majority_lost": chat.majority_lost,
        "removed_by_peer_id": chat.removed_by_peer_id,
        "over_quota": chat.over_quota,
        "quota": chat.quota.as_ref().map(quota),
        "evidence": chat.evidence.iter().map(evidence).collect::<Vec<_>>(),
    })
}

/// How much an author may add.
pub fn quota(quota: &pb::Quota) -> Value {
    json!({ "bytes_per_day": quota.bytes_per_day, "changes_per_day": quota.changes_per_day })
}

fn evidence(evidence: &pb::Evidence) -> Value {
    json!({ "peer_id": evidence.peer_id, "term": evidence.term, "what": evidence.what })
}

/// This peer.
pub fn peer(peer: &pb::GetPeerResponse) -> Value {
    json!({
        "peer_id": peer.peer_id,
        "name": peer.name,
        "address": peer.address,
        "client_address": peer.client_address,
        "version": peer.version,
    })
}

/// An invitation.
pub fn invite(invite: &pb::Invite) -> Value {
    json!({
        "chat_id": invite.chat_id,
        "chat_name": invite.chat_name,
        "incoming": invite.incoming,
        "peer_id": invite.peer_id,
        "name": invite.name,
        "address": invite.address,
        "state": invite.state().as_str_name(),
        "expires_at": invite.expires_at.as_ref().and_then(utc_time),
        "by_link": invite.by_link,
        "problem": invite.problem,
    })
}

/// An invite link.
pub fn link(link: &pb::InviteLink) -> Value {
    json!({
        "link_id": link.link_id,
        "chat_id": link.chat_id,
        "chat_name": link.chat_name,
        "created_by_peer_id": link.created_by_peer_id,
        "text": link.text,
        "uses_max": link.uses_max,
        "uses_left": link.uses_left,
        "expires_at": link.expires_at.as_ref().and_then(utc_time),
        "state": link.state().as_str_name(),
    })
}

/// An event: its kind is the one key among `message`, `member`, `invite_link`, `host`, `voters`,
/// `policy`, `caught_up` and `progress` that is there.
pub fn event(event: &pb::Event) -> Value {
    let mut value = json!({
        "chat_id": event.chat_id,
        "sequence": event.sequence,
        "author_peer_id": event.author_peer_id,
        "author_name": event.author_name,
        "created_at": event.created_at.as_ref().and_then(utc_time),
        "hash": event.hash,
    });
    if let Some(kind) = &event.kind {
        let (name, kind) = event_kind(kind);
        value[name] = kind;
    }
    value
}

fn event_kind(kind: &Kind) -> (&'static str, Value) {
    match kind {
        Kind::Message(message) => {
            ("message", json!({ "text": message.text, "request_id": message.request_id }))
        }
        Kind::Member(member) => (
            "member",
            json!({
                "change": member.change().as_str_name(),
                "peer_id": member.peer_id,
                "name": member.name,
                "link_id": member.link_id,
            }),
        ),
        Kind::InviteLink(link) => (
            "invite_link",
            json!({
                "change": link.change().as_str_name(),
                "link_id": link.link_id,
                "uses_max": link.uses_max,
                "expires_at": link.expires_at.as_ref().and_then(utc_time),
            }),
        ),
        Kind::Host(host) => ("host", json!({ "term": host.term })),
        Kind::Voters(voters) => ("voters", json!({ "peer_ids": voters.peer_ids })),
        Kind::Policy(policy) => (
            "policy",
            json!({ "chat_name": policy.chat_name, "quota": policy.quota.as_ref().map(quota) }),
        ),
        Kind::CaughtUp(caught_up) => ("caught_up", json!({ "sequence": caught_up.sequence })),
        Kind::Progress(progress) => ("progress", json!({ "sequence": progress.sequence })),
    }
}

fn member(member: &pb::Member) -> Value {
    json!({
        "peer_id": member.peer_id,
        "name": member.name,
        "address": member.address,
        "state": member.state().as_str_name(),
        "voter": member.voter,
        "reachable": member.reachable,
        "delivered": member.delivered,
        "read": member.read,
        "other_generation": member.other_generation,
        "away_since": member.away_since.as_ref().and_then(utc_time),
    })
}

fn ranking(ranking: &pb::Ranking) -> Value {
    let candidate = |candidate: &pb::Candidate| {
        let (peer_id, farness_us) = (&candidate.peer_id, candidate.farness_us);
        let absence = match candidate.absence() {
            pb::Absence::Unspecified => Value::Null,
            absence => {
                let name = absence.as_str_name().trim_start_matches("ABSENCE_");
                Value::from(name.to_lowercase())
            }
        };
        json!({ "peer_id": peer_id, "farness_us": farness_us, "absence": absence })
    };
    let delay = |delay: &pb::Delay| {
        json!({
            "from_peer_id": delay.from_peer_id,
            "to_peer_id": delay.to_peer_id,
            "delay_us": delay.delay_us,
        })
    };
    json!({
        "term": ranking.term,
        "version": ranking.version,
        "candidates": ranking.candidates.iter().map(candidate).collect::<Vec<_>>(),
        "delays": ranking.delays.iter().map(delay).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_protos() {
        let value = chat(&super::super::output::tests::sample_chat());
        assert_eq!(value["role"], "ROLE_HOST");
        assert_eq!(value["members"][2]["reachable"], false);
        assert_eq!(value["ranking"]["candidates"][0]["farness_us"], 12_000);
        assert_eq!(value["ranking"]["candidates"][2]["farness_us"], Value::Null);
    }

    #[test]
    fn an_event_has_its_kind_as_a_key() {
        let value = event(&pb::Event {
            sequence: 5,
            created_at: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            kind: Some(Kind::Host(pb::HostEvent { term: 2 })),
            ..pb::Event::default()
        });
        assert_eq!(value["host"]["term"], 2);
        assert_eq!(value["created_at"], "1970-01-01T00:00:01Z");
        assert_eq!(value.get("message"), None);
    }
}
