//! What is read off a peer when somebody collects its metrics. The loop is not asked: all of it
//! lies open, at most some 50 ms old.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use opentelemetry::KeyValue;

use super::node::Node;
use crate::protocol::event::{LinkState, Role, Status};
use crate::protocol::types::{Member, MemberState, PeerId};
use crate::runtime::handle::{ChatShared, Handle};
use crate::runtime::measure::chat_attribute;
use crate::storage::free_bytes;
use crate::telemetry::metrics::{LAGGING_ENTRIES, LINK_STATE, Metric};
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
        readings.add(Metric::ChatAiling, node.repairs.ailing().len() as f64, &[]);
        let mut links = BTreeMap::new();
        for chat in chats {
            read_chat(handle.me(), &chat, readings);
            links.extend(chat.view.borrow().status.links.clone());
        }
        read_links(&links, readings);
    })
}

fn read_queues(handle: &Handle, readings: &mut Readings) {
    let roster = handle.roster().borrow().clone();
    let waiting = || roster.values().map(|contact| contact.outbox.len());
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
        (Metric::MemberLag, members.lag as f64),
        (Metric::MemberLagging, members.lagging as f64),
        (Metric::OutboxMessages, status.queued as f64),
        (Metric::WritesWaiting, chat.gauges.writes() as f64),
    ] {
        readings.add(metric, value, &attributes);
    }
}

/// The members of a chat in four numbers: one value for each would be up to 256 for every chat.
#[derive(Default, PartialEq, Eq, Debug)]
struct Members {
    joined: usize,
    unreachable: usize,
    /// Of the reachable member that is furthest behind.
    lag: u64,
    /// Reachable members that are far behind.
    lagging: usize,
}

impl Members {
    fn of(me: PeerId, status: &Status) -> Self {
        let mut members = Self::default();
        let has_joined = |member: &Member| member.state != MemberState::Invited;
        for (peer, _) in status.members.iter().filter(|(_, member)| has_joined(member)) {
            members.joined += 1;
            if *peer == me {
                continue;
            }
            if status.links.get(peer) != Some(&LinkState::Up) {
                members.unreachable += 1;
                continue;
            }
            // Where a member stands is told by the host; until then nothing is known.
            let Some(receipt) = status.receipts.get(peer) else { continue };
            let lag = status.commit.saturating_sub(receipt.delivered);
            members.lag = members.lag.max(lag);
            members.lagging += usize::from(lag >= LAGGING_ENTRIES);
        }
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::Receipt;

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
        let expected = Members { joined: 4, unreachable: 1, lag: LAGGING_ENTRIES, lagging: 1 };
        assert_eq!(Members::of(me, &status), expected);
    }
}
