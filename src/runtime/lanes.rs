//! One stream of a pair of peers, shared by all their chats: each has a lane, and they take turns,
//! so that no chat waits for what another one has under way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::Notify;

use super::pace::Pace;
use super::send_queue::merge_heartbeat;
use crate::planted::{Mistake, planted};
use crate::protocol::message::{Append, Body, Message};
use crate::protocol::types::{ChatId, Position};

/// Messages for one member in one chat. One whose lane is full is told that it has ended, and the
/// member attaches again.
const LANE_MAX: usize = 1_024;
/// The lane of what concerns a stream and none of its chats; no chat has this id.
pub const NO_CHAT: ChatId = ChatId([0; 16]);

/// What waits for a stream, by chat. One end fills it, the other one reads it; both may close it.
pub struct Lanes<T> {
    state: Mutex<State<T>>,
    filled: Notify,
}

struct State<T> {
    waiting: BTreeMap<ChatId, VecDeque<T>>,
    /// Chats of which something waits, in the order of their turns.
    turns: VecDeque<ChatId>,
    closed: bool,
    /// Nothing more is asked for, and how many lanes are still open.
    finishing: bool,
    open: usize,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        let (waiting, turns) = (BTreeMap::new(), VecDeque::new());
        let state = State { waiting, turns, closed: false, finishing: false, open: 0 };
        Self { state: Mutex::new(state), filled: Notify::new() }
    }
}

impl<T> Lanes<T> {
    /// Adds to a chat's lane, unless `max` wait there already or nobody reads any more.
    pub fn push(&self, chat: ChatId, item: T, max: usize) -> bool {
        let mut taken = false;
        self.change(chat, |lane| {
            taken = lane.len() < max;
            if taken {
                lane.push_back(item);
            }
        }) && taken
    }

    /// Puts into a chat's lane what comes of that which waits there, so that nothing else does.
    /// Says whether somebody reads.
    pub fn replace(&self, chat: ChatId, newer: impl FnOnce(Option<T>) -> T) -> bool {
        self.change(chat, |lane| {
            let newer = newer(lane.pop_back());
            lane.clear();
            lane.push_back(newer);
        })
    }

    fn change(&self, chat: ChatId, change: impl FnOnce(&mut VecDeque<T>)) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        let lane = state.waiting.entry(chat).or_default();
        let had_turn = !lane.is_empty();
        change(lane);
        if !lane.is_empty() && !had_turn {
            state.turns.push_back(chat);
        }
        drop(state);
        self.filled.notify_one();
        true
    }

    /// Puts back at the front of a chat's lane what is left of what was taken from it.
    pub fn put_back(&self, chat: ChatId, rest: T) {
        self.change(chat, |lane| lane.push_front(rest));
    }

    /// Forgets what waits of a chat.
    pub fn clear(&self, chat: ChatId) {
        let mut state = self.lock();
        state.waiting.remove(&chat);
        state.turns.retain(|turn| *turn != chat);
    }

    /// Waits for something, of the chat whose turn it is; `None` once the lanes are closed.
    pub async fn next(&self) -> Option<(ChatId, T)> {
        loop {
            let filled = self.filled.notified();
            {
                let mut state = self.lock();
                if let Some(next) = state.take() {
                    return Some(next);
                }
                if state.closed || (state.finishing && state.open == 0) {
                    return None;
                }
            }
            filled.await;
        }
    }

    /// Nothing more is taken. What waits can still be read.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// No more lanes are opened: the stream ends with the last one.
    pub fn finish(&self) {
        self.lock().finishing = true;
        self.filled.notify_one();
    }

    /// Nobody reads any more.
    fn end(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        state.turns.clear();
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Option<(ChatId, T)> {
        let chat = self.turns.pop_front()?;
        let lane = self.waiting.get_mut(&chat)?;
        let item = lane.pop_front()?;
        if lane.is_empty() {
            self.waiting.remove(&chat);
        } else if planted(Mistake::TurnsNotTaken) {
            self.turns.push_front(chat);
        } else {
            self.turns.push_back(chat);
        }
        Some((chat, item))
    }
}

/// The reading end of lanes. They close with it.
pub struct LaneReader<T> {
    lanes: Arc<Lanes<T>>,
    pace: Option<Arc<Pace>>,
}

impl<T: Piece> LaneReader<T> {
    /// Reads these lanes, at that pace if there is one.
    pub fn new(lanes: Arc<Lanes<T>>, pace: Option<Arc<Pace>>) -> Self {
        Self { lanes, pace }
    }

    /// See `Lanes::next`. With it comes the mark that the other end is to repeat, or 0.
    pub async fn next(&self) -> Option<(ChatId, T, u64)> {
        let Some(pace) = &self.pace else {
            let (chat, item) = self.lanes.next().await?;
            return Some((chat, item, 0));
        };
        let room = pace.room().await;
        let (chat, mut item) = self.lanes.next().await?;
        if let Some(rest) = item.split_off(room) {
            self.lanes.put_back(chat, rest);
        }
        let mark = pace.sent(Instant::now(), item.bytes());
        Some((chat, item, mark.unwrap_or_default()))
    }

    /// See `Lanes::close`.
    pub fn close(&self) {
        self.lanes.close();
    }
}

impl<T> Drop for LaneReader<T> {
    fn drop(&mut self) {
        self.lanes.end();
    }
}

/// What is sent in pieces.
pub trait Piece: Sized {
    /// About how many bytes it has on the wire.
    fn bytes(&self) -> usize;

    /// Cuts off what goes beyond so many bytes, if it can be cut. Something stays.
    fn split_off(&mut self, bytes: usize) -> Option<Self>;
}

/// How many of these fit into so many bytes; one always does.
pub fn fitting(sizes: impl Iterator<Item = usize>, bytes: usize) -> usize {
    let mut left = bytes;
    let fits = |size: &usize| {
        let fits = *size <= left;
        left = left.saturating_sub(*size);
        fits
    };
    sizes.take_while(fits).count().max(1)
}

/// What a stream carries to a member.
#[derive(Clone, PartialEq, Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are of the largest kind")]
pub enum Outgoing {
    Message(Message),
    /// Nothing more of this chat follows until it is asked again: why, where a request is at fault,
    /// and which attach of the member's has ended.
    Ended {
        reason: &'static str,
        attach: u64,
    },
}

/// What a message has on the wire beside entries: headers of all layers.
const FRAME_BYTES: usize = 128;

impl Piece for Outgoing {
    fn bytes(&self) -> usize {
        match self {
            Self::Message(Message { body: Body::Append(append), .. }) => {
                append.entries.iter().map(|entry| entry.size()).sum::<usize>() + FRAME_BYTES
            }
            _ => FRAME_BYTES,
        }
    }

    fn split_off(&mut self, bytes: usize) -> Option<Self> {
        let Self::Message(message) = self else { return None };
        let Body::Append(append) = &mut message.body else { return None };
        let first = fitting(append.entries.iter().map(|entry| entry.size()), bytes);
        if first >= append.entries.len() {
            return None;
        }
        let entries = append.entries.split_off(first);
        let last = append.entries.last()?;
        let previous = Position { term: last.term, index: last.index };
        let (term, attach, commit) = (append.term, append.attach, append.commit);
        let (past, reign, last) = (None, None, None);
        let rest = Append { term, attach, previous, entries, commit, past, reign, last };
        let words = Vec::new();
        Some(Self::Message(Message { words, body: Body::Append(rest), ..*message }))
    }
}

/// The way of one chat to one member over a stream. A newer one of the same chat takes its place;
/// otherwise the member is told when it ends.
pub struct Lane {
    lanes: Arc<Lanes<Outgoing>>,
    chat: ChatId,
    attach: u64,
    is_over: AtomicBool,
}

impl Lane {
    /// Opens a lane for `attach`, or for nothing that is counted where it is 0.
    pub fn new(lanes: &Arc<Lanes<Outgoing>>, chat: ChatId, attach: u64) -> Arc<Self> {
        lanes.lock().open += 1;
        let (lanes, is_over) = (Arc::clone(lanes), AtomicBool::new(false));
        Arc::new(Self { lanes, chat, attach, is_over })
    }

    /// Adds a message; false where it has no room, or the lane is over.
    pub fn push(&self, message: Message) -> bool {
        !self.is_over.load(Ordering::Relaxed)
            && self.lanes.push(self.chat, Outgoing::Message(message), LANE_MAX)
    }

    /// Puts a heartbeat in (R22): the newer replaces the older, which is never sent. What that told
    /// of receipts and ranking is kept.
    pub fn put_heartbeat(&self, mut message: Message) {
        if self.is_over.load(Ordering::Relaxed) {
            return;
        }
        self.lanes.replace(self.chat, |older| {
            let Some(Outgoing::Message(waiting)) = older else { return Outgoing::Message(message) };
            if planted(Mistake::OlderHeartbeatKept) {
                return Outgoing::Message(waiting);
            }
            if let (Body::Heartbeat(older), Body::Heartbeat(newer)) =
                (waiting.body, &mut message.body)
            {
                merge_heartbeat(newer, older);
            }
            Outgoing::Message(message)
        });
    }

    /// Hands the stream's lane to a newer owner.
    pub fn give_way(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Forgets what waits.
    pub fn clear(&self) {
        self.lanes.clear(self.chat);
    }

    /// The member is told by a refusal that nothing follows.
    pub fn refuse(&self, message: Message) {
        if !self.is_over.swap(true, Ordering::Relaxed) {
            self.lanes.push(self.chat, Outgoing::Message(message), usize::MAX);
        }
    }

    /// Ends the lane after what waits in it.
    pub fn end(&self) {
        if !self.is_over.swap(true, Ordering::Relaxed) {
            let ended = Outgoing::Ended { reason: "", attach: self.attach };
            self.lanes.push(self.chat, ended, usize::MAX);
        }
    }

    /// Whether nothing that is put in here would be read.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || self.lanes.is_closed()
    }

    /// Whether both are ways over the same stream.
    pub fn is_beside(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.lanes, &other.lanes)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.end();
        self.lanes.lock().open -= 1;
        self.lanes.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::{Heartbeat, LookBack, Ranking, Receipt};
    use crate::protocol::types::PeerId;

    const A: ChatId = ChatId([1; 16]);
    const B: ChatId = ChatId([2; 16]);

    fn message(body: Body) -> Message {
        Message {
            from: PeerId([1; 32]),
            from_incarnation: 1,
            from_boot: 1,
            to: PeerId([2; 32]),
            to_incarnation: 1,
            generation: 0,
            call: 0,
            words: Vec::new(),
            body,
        }
    }

    fn piece(attach: u64) -> Message {
        message(Body::LookBack(LookBack { term: 1, attach, index: 1 }))
    }

    #[tokio::test]
    async fn chats_take_turns_and_each_keeps_its_order() {
        let lanes = Lanes::default();
        for item in 0..3 {
            assert!(lanes.push(A, item, 9));
        }
        assert!(lanes.push(B, 10, 9));
        let mut read = Vec::new();
        for _ in 0..4 {
            read.push(lanes.next().await.expect("it waits"));
        }
        assert_eq!(read, [(A, 0), (B, 10), (A, 1), (A, 2)]);
    }

    #[tokio::test]
    async fn a_full_lane_takes_nothing_more_and_the_others_do() {
        let lanes = Lanes::default();
        assert!(lanes.push(A, 1, 2) && lanes.push(A, 2, 2));
        assert!(!lanes.push(A, 3, 2), "it is full");
        assert!(lanes.push(B, 4, 2));
        assert!(lanes.replace(A, |older| older.expect("the newest") + 10));
        assert_eq!(lanes.next().await, Some((A, 12)), "it has taken the place of both");
        lanes.close();
        assert!(!lanes.push(A, 5, 2), "it is closed");
        assert_eq!((lanes.next().await, lanes.next().await), (Some((B, 4)), None));
    }

    #[tokio::test]
    async fn the_member_is_told_when_a_lane_ends_and_not_when_a_newer_one_takes_its_place() {
        let lanes = Arc::new(Lanes::default());
        let first = Lane::new(&lanes, A, 1);
        assert!(first.push(piece(1)));
        first.give_way();
        first.clear();
        let second = Lane::new(&lanes, A, 2);
        drop(first);
        assert!(second.push(piece(2)));
        drop(second);
        assert_eq!(lanes.next().await, Some((A, Outgoing::Message(piece(2)))));
        let ended = Outgoing::Ended { reason: "", attach: 2 };
        assert_eq!(lanes.next().await, Some((A, ended)));
        let third = Lane::new(&lanes, A, 3);
        third.refuse(piece(3));
        assert!(third.is_over() && !third.push(piece(3)));
        drop(third);
        assert_eq!(lanes.next().await, Some((A, Outgoing::Message(piece(3)))));
        lanes.close();
        assert_eq!(lanes.next().await, None, "the refusal has told it");
    }

    #[tokio::test]
    async fn a_replaced_heartbeat_leaves_its_news() {
        let heartbeat = |number, positions, ranking| {
            message(Body::Heartbeat(Heartbeat {
                term: 1,
                number,
                interval_us: 1,
                sent_us: 1,
                lease_us: 1,
                probe: false,
                commit: 0,
                positions,
                pasts: Vec::new(),
                ranking,
            }))
        };
        let receipt = |delivered| Receipt { delivered, read: 0 };
        let (a, b) = (PeerId([3; 32]), PeerId([4; 32]));
        let ranking = Some(Arc::new(Ranking::default()));
        let lanes = Arc::new(Lanes::default());
        let lane = Lane::new(&lanes, A, 0);
        lane.put_heartbeat(heartbeat(1, vec![(a, receipt(1)), (b, receipt(1))], ranking.clone()));
        lane.put_heartbeat(heartbeat(2, vec![(a, receipt(2))], None));
        let merged = heartbeat(2, vec![(a, receipt(2)), (b, receipt(1))], ranking);
        assert_eq!(lanes.next().await, Some((A, Outgoing::Message(merged))));
    }
}
