//! Who reaches whom: this peer dials each member, and asks it to dial back; for a person who wants
//! to know why a chat does not work.
//!
//! Nobody can have this peer dial what it would not dial anyway: `dial_back` takes the address that
//! the chat has of the asking member, which the peer keeps a connection to, and no key but that
//! member's will do there. How often it may be asked is limited (`gate.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt, stream};
use tokio::time::timeout;

use super::gate::Caller;
use super::node::Node;
use super::refusal::{Refusal, chat_not_found, check_running, dialled_back_too_often, too_often};
use crate::crypto::Identity;
use crate::links::asking::NotDone;
use crate::links::dial::{Connection, DialError, dial};
use crate::protocol::types::{ChatId, MemberState, PeerId};
use crate::wire::reason::Reason;
use crate::wire::{check_address, hex, pb};

/// How long one dial may take, with its name looked up and its pings.
const DIAL_MAX: Duration = Duration::from_secs(2);
/// Members that are tried at one time.
const AT_ONCE: usize = 16;
/// The quickest of these says how far away a peer is.
const PINGS: u32 = 3;
/// A member may have left one of the chats meanwhile.
const CHATS_ASKED_MAX: usize = 3;

/// What a dial came to; the round trip is 0 unless it was reached.
struct Dialled {
    reach: pb::Reach,
    round_trip_us: u64,
    connection: Option<Connection>,
}

/// Dials a peer as the links to members do, and has it answer.
async fn try_dial(identity: &Identity, address: &str, peer: PeerId) -> Dialled {
    let not = |reach| Dialled { reach, round_trip_us: 0, connection: None };
    let dialling = async {
        let connection = match dial(identity, address, Some(peer)).await {
            Ok(connection) => connection,
            Err(error) => return not(reach_of(&error)),
        };
        match quickest(&connection).await {
            Ok(took) => Dialled {
                reach: pb::Reach::Reached,
                round_trip_us: micros(took),
                connection: Some(connection),
            },
            Err(_) => not(pb::Reach::NoPeer),
        }
    };
    timeout(DIAL_MAX, dialling).await.unwrap_or_else(|_| not(pb::Reach::NoAnswer))
}

fn reach_of(error: &DialError) -> pb::Reach {
    match error {
        DialError::Refused => pb::Reach::Refused,
        DialError::WrongKey(_) => pb::Reach::OtherPeer,
        DialError::NameUnknown => pb::Reach::NameUnknown,
        DialError::NoAnswer => pb::Reach::NoAnswer,
        DialError::NoRoute => pb::Reach::NoRoute,
        DialError::NoHybrid | DialError::Other(_) => pb::Reach::NoPeer,
    }
}

async fn quickest(connection: &Connection) -> Result<Duration, NotDone> {
    let mut quickest = connection.ping().await?;
    for _ in 1..PINGS {
        quickest = quickest.min(connection.ping().await?);
    }
    Ok(quickest)
}

/// Dials the asking peer, a member of the chat, where the chat says that it listens.
pub async fn dial_back(
    node: &Node,
    chat: ChatId,
    caller: &Caller,
) -> Result<pb::DialBackResponse, Refusal> {
    let from = caller.peer;
    let received_at = Some(SystemTime::now().into());
    let Some(address) = address_of(node, chat, from) else {
        // Others cannot tell a chat that they are not in from one that does not exist.
        let admitted = node.gate.admits(from, caller.ip);
        return Err(if admitted { chat_not_found() } else { too_often() });
    };
    let _place = node.gate.dial_back(from).ok_or_else(dialled_back_too_often)?;
    let dialled = try_dial(&node.identity, &address, from).await;
    Ok(pb::DialBackResponse {
        address,
        reach: dialled.reach.into(),
        round_trip_us: dialled.round_trip_us,
        received_at,
        answered_at: Some(SystemTime::now().into()),
    })
}

/// Where the chat says that a member listens; nothing for one who does not take part.
fn address_of(node: &Node, chat: ChatId, peer: PeerId) -> Option<String> {
    let shared = node.chat(chat).ok()?;
    let view = shared.view.borrow();
    let member = view.status.members.get(&peer)?;
    (member.state != MemberState::Invited).then(|| member.address.clone())
}

/// A member at an address, where its chats have this peer at another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    peer: PeerId,
    address: String,
    own_address: String,
}

/// Tries every member of every chat; what came of it as it comes in.
pub fn check_members(
    node: &Arc<Node>,
) -> Result<impl Stream<Item = pb::CheckMembersResponse> + Send + use<>, Refusal> {
    let place = node.gate.check_members().ok_or_else(check_running)?;
    let node = Arc::clone(node);
    let checks = stream::iter(pairs(&node))
        .map(move |(pair, chats)| check(Arc::clone(&node), pair, chats))
        .buffer_unordered(AT_ONCE);
    Ok(checks.map(move |checked| {
        let _until_the_end = &place;
        checked
    }))
}

fn pairs(node: &Node) -> BTreeMap<Pair, Vec<ChatId>> {
    let me = node.handle.me();
    let mut pairs: BTreeMap<Pair, Vec<ChatId>> = BTreeMap::new();
    for chat in node.handle.chats() {
        if chat.is_read_only() {
            continue;
        }
        let members = Arc::clone(&chat.view.borrow().status.members);
        let own = members.get(&me).map_or_else(String::new, |own| own.address.clone());
        let others = members.iter().filter(|(peer, _)| **peer != me);
        for (&peer, member) in others.filter(|(_, it)| it.state != MemberState::Invited) {
            let pair = Pair { peer, address: member.address.clone(), own_address: own.clone() };
            pairs.entry(pair).or_default().push(chat.id);
        }
    }
    pairs
}

async fn check(node: Arc<Node>, pair: Pair, chats: Vec<ChatId>) -> pb::CheckMembersResponse {
    let dialled = try_dial(&node.identity, &pair.address, pair.peer).await;
    let mut checked = pb::CheckMembersResponse {
        peer_id: hex(&pair.peer.0),
        address: pair.address,
        chat_ids: chats.iter().map(|chat| hex(&chat.0)).collect(),
        outward: dialled.reach.into(),
        round_trip_us: dialled.round_trip_us,
        own_address: pair.own_address,
        ..Default::default()
    };
    if let Some(connection) = dialled.connection {
        ask(&connection, &chats, &mut checked).await;
    }
    checked
}

/// Asks the member at the other end to dial back.
async fn ask(connection: &Connection, chats: &[ChatId], checked: &mut pb::CheckMembersResponse) {
    for chat in chats.iter().take(CHATS_ASKED_MAX) {
        let request = pb::DialBackRequest { chat_id: hex(&chat.0) };
        let (asked_at, asked) = (SystemTime::now(), Instant::now());
        let answer = match connection.dial_back(request).await {
            Ok(answer) => answer,
            Err(error) => {
                checked.inward_problem = error.name().to_owned();
                match error.reason {
                    Some(Reason::ChatNotFound) => continue,
                    _ => return,
                }
            }
        };
        checked.inward_problem.clear();
        checked.inward = answer.reach().into();
        if check_address(&answer.address, "address").is_ok() {
            checked.inward_address.clone_from(&answer.address);
        }
        if let Some(clock) = compare_clocks(since_1970_us(asked_at), asked.elapsed(), &answer) {
            checked.clock_ahead_us = Some(clock.ahead_us);
            checked.clock_error_us = clock.error_us;
        }
        return;
    }
}

/// How another clock differs from this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Clock {
    ahead_us: i64,
    /// The difference may be off by as much, as nobody knows how the way there and back was shared.
    error_us: u64,
}

/// Compares clocks as NTP does (RFC 5905): what the other one did in between takes no part.
fn compare_clocks(asked_us: i64, took: Duration, answer: &pb::DialBackResponse) -> Option<Clock> {
    let (received_us, answered_us) = (to_us(answer.received_at)?, to_us(answer.answered_at)?);
    let took_us = i64::try_from(took.as_micros()).ok()?;
    let way_us = took_us.checked_sub(answered_us.checked_sub(received_us)?)?;
    let there = received_us.checked_sub(asked_us)?;
    let back = answered_us.checked_sub(asked_us.checked_add(took_us)?)?;
    // A clock that was set in between may give anything.
    let error_us = u64::try_from(way_us / 2).ok()?;
    Some(Clock { ahead_us: there.checked_add(back)? / 2, error_us })
}

fn since_1970_us(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn to_us(timestamp: Option<prost_types::Timestamp>) -> Option<i64> {
    let timestamp = timestamp?;
    timestamp.seconds.checked_mul(1_000_000)?.checked_add(i64::from(timestamp.nanos) / 1_000)
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(received_us: i64, answered_us: i64) -> pb::DialBackResponse {
        let time = |us: i64| {
            Some(prost_types::Timestamp {
                seconds: us / 1_000_000,
                nanos: i32::try_from(us % 1_000_000).expect("below a million") * 1_000,
            })
        };
        pb::DialBackResponse {
            received_at: time(received_us),
            answered_at: time(answered_us),
            ..Default::default()
        }
    }

    #[test]
    fn clocks_are_compared_without_what_the_other_one_did_in_between() {
        // 3 ms there, 900 ms of work, 5 ms back; the other clock is two seconds ahead.
        let asked = 1_000_000;
        let answer = answer(asked + 2_003_000, asked + 2_903_000);
        let clock = compare_clocks(asked, Duration::from_millis(908), &answer);
        assert_eq!(clock, Some(Clock { ahead_us: 1_999_000, error_us: 4_000 }));
    }

    #[test]
    fn a_clock_that_tells_nonsense_is_not_compared() {
        let none = pb::DialBackResponse::default();
        assert_eq!(compare_clocks(0, Duration::from_secs(1), &none), None);
        let longer_than_all = answer(1_000_000, 9_000_000);
        assert_eq!(compare_clocks(0, Duration::from_secs(1), &longer_than_all), None);
        let far = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
        let far = pb::DialBackResponse {
            received_at: Some(far),
            answered_at: Some(far),
            ..Default::default()
        };
        assert_eq!(compare_clocks(0, Duration::from_secs(1), &far), None);
        let ages_ago = answer(i64::MIN / 2_000_000, i64::MIN / 2_000_000);
        assert_eq!(compare_clocks(i64::MAX, Duration::from_secs(1), &ages_ago), None);
    }
}
