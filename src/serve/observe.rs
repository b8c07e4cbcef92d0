//! What is read off a peer when somebody collects its metrics. The loop is not asked: all of it
//! lies open, at most some 50 ms old.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use opentelemetry::KeyValue;

use crate::peer::node::Node;
use crate::protocol::event::{LinkState, Role, Status};
use crate::protocol::types::{ChatId, MemberState, PeerId};
use crate::runtime::handle::{ChatShared, Handle};
use crate::runtime::measure::chat_attribute;
use crate::storage::free_bytes;
use crate::telemetry::metrics::{LAGGING_ENTRIES, LINK_STATE, MEMBER_LAG_SERIES_MAX, Metric, PEER};
use crate::telemetry::{Observed, Readings, observe};

/// Has the peer's state read until what is returned is dropped.
pub fn observe_peer(node: &Arc<Node>, data_dir: PathBuf, reserve_bytes: u64) -> Observed {
    let node = Arc::clone(node);
    observe(move |readings| {
        if let Ok(free) = free_bytes(&data_dir) {
            readings.add(Metric::StorageFree, free as f64, &[]);
        }
        readings.add(Metric::StorageReserve, reserve_bytes as f64, &[]);
        let handle = &node.handle;
        read_queues(handle, readings);
        let chats = handle.chats();
        readings.add(Metric::ChatOpen, chats.len() as f64, &[]);
        readings.add(Metric::ChatAiling, node.lives.faulty().len() as f64, &[]);
        let mut links = BTreeMap::new();
        let mut lags = Vec::new();
        for chat in chats {
            read_chat(handle.me(), &chat, readings);
            let view = chat.view.borrow();
            links.extend(view.status.links.clone());
            lags.extend(Lag::of_members(handle.me(), chat.id, &view.status));
        }
        read_links(&links, readings);
        for lag in furthest_behind(lags) {
            let peer = KeyValue::new(PEER, lag.peer.short());
            let attributes = [chat_attribute(lag.chat), peer];
            readings.add(Metric::MemberLag, lag.entries as f64, &attributes);
        }
    })
}

fn read_queues(handle: &Handle, readings: &mut Readings) {
    let roster = handle.roster().borrow().clone();
    let waiting = || roster.values().map(|contact| contact.send_queue.len());
    let all: usize = waiting().sum();
    readings.add(Metric::InboxInputs, handle.inputs_waiting() as f64, &[]);
    readings.add(Metric::PeerQueueMessages, all as f64, &[]);
    readings.add(Metric::PeerQueueLongest, waiting().max().unwrap_or_default() as f64, &[]);
}

fn read_links(links: &BTreeMap<PeerId, LinkState>, readings: &mut Readings) {
    let states =
        [(LinkState::Up, "up"), (LinkState::Down, "down"), (LinkState::Refused, "refused")];
    for (state, name) in states {
        let count = links.values().filter(|other| **other == state).count();
        readings.add(Metric::PeerLinks, count as f64, &[KeyValue::new(LINK_STATE, name)]);
    }
}

fn read_chat(me: PeerId, chat: &ChatShared, readings: &mut Readings) {
    let view = chat.view.borrow().clone();
    let status = &view.status;
    let attributes = [chat_attribute(chat.id)];
    let members = Members::of(me, status);
    let flag = |holds| if holds { 1.0 } else { 0.0 };
    let hosts = status.role == Role::Host;
    for (metric, value) in [
        (Metric::HostTenure, chat.gauges.tenure().as_secs_f64()),
        (Metric::ChatHosting, flag(hosts)),
        (Metric::ChatServing, flag(status.serving)),
        (Metric::ChatPaused, flag(status.paused)),
        (Metric::ChatStopped, flag(!view.fault.is_empty())),
        (Metric::ChatTerm, status.term as f64),
        (Metric::LogLast, status.last as f64),
        (Metric::LogCommit, status.commit as f64),
        (Metric::VoterSeats, status.voters.0.len() as f64),
        (Metric::VoterInContact, status.voters_in_contact as f64),
        (Metric::VoterMajority, status.majority as f64),
        (Metric::MemberJoined, members.joined as f64),
        (Metric::MemberUnreachable, members.unreachable as f64),
        (Metric::MemberLagging, members.lagging as f64),
        (Metric::OutboxMessages, status.queued as f64),
        (Metric::WritesWaiting, chat.gauges.writes() as f64),
    ] {
        readings.add(metric, value, &attributes);
    }
}

/// The members of a chat in three numbers, as every peer of it sees them.
#[derive(Default, PartialEq, Eq, Debug)]
struct Members {
    joined: usize,
    unreachable: usize,
    /// Reachable members that are far behind.
    lagging: usize,
}

impl Members {
    fn of(me: PeerId, status: &Status) -> Self {
        let mut members = Self { joined: usize::from(has_joined(status, me)), ..Self::default() };
        for peer in others(status, me) {
            members.joined += 1;
            if status.links.get(&peer) == Some(&LinkState::Up) {
                let lag = lag(status, peer);
                members.lagging += usize::from(lag.is_some_and(|lag| lag >= LAGGING_ENTRIES));
            } else {
                members.unreachable += 1;
            }
        }
        members
    }
}

fn has_joined(status: &Status, peer: PeerId) -> bool {
    status.members.get(&peer).is_some_and(|member| member.state != MemberState::Invited)
}

/// The other members that have joined.
fn others(status: &Status, me: PeerId) -> impl Iterator<Item = PeerId> {
    let peers = status.members.keys().copied();
    peers.filter(move |peer| *peer != me && has_joined(status, *peer))
}

/// Committed entries that a member has not told it has; nothing is known before it has told
/// where it stands.
fn lag(status: &Status, peer: PeerId) -> Option<u64> {
    let receipt = status.receipts.get(&peer)?;
    Some(status.commit.saturating_sub(receipt.delivered))
}

/// How far one member of one chat is behind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Lag {
    entries: u64,
    chat: ChatId,
    peer: PeerId,
}

impl Lag {
    /// Of each other member, reachable or not, if this peer hosts the chat: the members tell the
    /// host where they stand, and all others only hear of it.
    fn of_members(me: PeerId, chat: ChatId, status: &Status) -> Vec<Self> {
        if status.role != Role::Host {
            return Vec::new();
        }
        let known = others(status, me).filter_map(|peer| Some((peer, lag(status, peer)?)));
        known.map(|(peer, entries)| Self { entries, chat, peer }).collect()
    }
}

/// As many as there may be series.
fn furthest_behind(mut lags: Vec<Lag>) -> Vec<Lag> {
    lags.sort_unstable_by(|one, other| other.cmp(one));
    lags.truncate(MEMBER_LAG_SERIES_MAX);
    lags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::Receipt;
    use crate::protocol::types::Member;

    fn member(state: MemberState) -> Member {
        Member {
            name: "A".into(),
            address: "a:1".into(),
            incarnation: 1,
            state,
            since: 1,
            removed_by: None,
        }
    }

    #[test]
    fn who_is_away_or_only_invited_does_not_lag() {
        let [me, near, far, away, invited] = [1, 2, 3, 4, 5].map(|byte| PeerId([byte; 32]));
        let joined = [me, near, far, away].map(|peer| (peer, member(MemberState::Active)));
        let mut members = BTreeMap::from(joined);
        members.insert(invited, member(MemberState::Invited));
        let receipt = |delivered| Receipt { delivered, read: 0 };
        let status = Status {
            members: Arc::new(members),
            commit: 1_000,
            links: BTreeMap::from([
                (near, LinkState::Up),
                (far, LinkState::Up),
                (away, LinkState::Down),
                (invited, LinkState::Up),
            ]),
            receipts: BTreeMap::from([
                (near, receipt(999)),
                (far, receipt(1_000 - LAGGING_ENTRIES)),
                (away, receipt(1)),
            ]),
            ..Status::default()
        };
        let expected = Members { joined: 4, unreachable: 1, lagging: 1 };
        assert_eq!(Members::of(me, &status), expected);
    }

    #[test]
    fn the_host_tells_of_each_member_that_has_told_it_where_it_stands() {
        let [me, near, away, silent, invited] = [1, 2, 3, 4, 5].map(|byte| PeerId([byte; 32]));
        let joined = [me, near, away, silent].map(|peer| (peer, member(MemberState::Active)));
        let mut members = BTreeMap::from(joined);
        members.insert(invited, member(MemberState::Invited));
        let receipt = |delivered| Receipt { delivered, read: 0 };
        let mut status = Status {
            role: Role::Host,
            members: Arc::new(members),
            commit: 1_000,
            links: BTreeMap::from([(near, LinkState::Up), (silent, LinkState::Up)]),
            receipts: BTreeMap::from([
                (me, receipt(1_000)),
                (near, receipt(1_000)),
                (away, receipt(10)),
                (invited, receipt(1)),
            ]),
            ..Status::default()
        };
        let chat = ChatId([7; 16]);
        let of = |peer, entries| Lag { entries, chat, peer };
        assert_eq!(Lag::of_members(me, chat, &status), [of(near, 0), of(away, 990)]);
        status.role = Role::Follower;
        assert_eq!(Lag::of_members(me, chat, &status), [], "others only hear of it");
    }

    #[test]
    fn of_more_members_than_there_may_be_series_those_furthest_behind_are_told() {
        let lag = |entries| Lag { entries, chat: ChatId([7; 16]), peer: PeerId([2; 32]) };
        let all: Vec<_> = (0..=MEMBER_LAG_SERIES_MAX as u64).map(lag).collect();
        let told = furthest_behind(all);
        assert_eq!(told.len(), MEMBER_LAG_SERIES_MAX);
        assert_eq!(told.last(), Some(&lag(1)), "the one that has everything is left out");
    }
}
