//! Messages on their way to other peers. Every queue here is bounded, and what does not fit is
//! dropped and counted: the protocol resends what matters.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use opentelemetry::KeyValue;
use tokio::sync::Notify;

use crate::protocol::message::{Body, Heartbeat, Message};
use crate::protocol::types::{ChatId, TraceContext};
use crate::telemetry::metrics::{self, DROP_REASON, Metric};

/// The most messages that wait for one peer; further ones are dropped.
const QUEUE_MAX: usize = 4_096;

/// What waits to leave over this peer's own connection to one other peer.
///
/// While the connection is down nothing is kept. An `Acknowledge` replaces the older one of its
/// chat; all others keep their order.
#[derive(Default)]
pub struct SendQueue {
    queue: Mutex<Queue>,
    filled: Notify,
    dialled_us: Notify,
    heard: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    up: bool,
    messages: VecDeque<(ChatId, Message, TraceContext)>,
    acknowledges: BTreeMap<ChatId, Message>,
}

impl SendQueue {
    /// Adds a message, or drops it where the connection is down or the queue is full. `trace` is
    /// what it follows from, where that is traced.
    pub fn push(&self, chat: ChatId, message: Message, trace: TraceContext) {
        let mut queue = self.lock();
        if !queue.up || queue.messages.len() >= QUEUE_MAX {
            let reason = if queue.up { "queue_full" } else { "link_down" };
            drop(queue);
            self.drop_messages(1, reason);
            return;
        }
        if matches!(message.body, Body::Acknowledge(_)) {
            queue.acknowledges.insert(chat, message);
        } else {
            queue.messages.push_back((chat, message, trace));
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// Waits until there is something, and takes all of it in order.
    pub async fn drain(&self) -> Vec<(ChatId, Message, TraceContext)> {
        loop {
            let filled = self.filled.notified();
            {
                let mut queue = self.lock();
                let mut taken: Vec<_> = queue.messages.drain(..).collect();
                let acknowledges = std::mem::take(&mut queue.acknowledges);
                taken.extend(acknowledges.into_iter().map(|(chat, message)| (chat, message, None)));
                if !taken.is_empty() {
                    return taken;
                }
            }
            filled.await;
        }
    }

    /// Opens or closes the queue with the connection. What waits is dropped in both cases.
    pub fn set_up(&self, up: bool) {
        let mut queue = self.lock();
        queue.up = up;
        let lost = queue.messages.len() + queue.acknowledges.len();
        queue.messages.clear();
        queue.acknowledges.clear();
        drop(queue);
        if lost > 0 {
            self.drop_messages(lost as u64, "link_down");
        }
    }

    /// The peer has just dialled this one, so it is there.
    pub fn dialled_us(&self) {
        self.dialled_us.notify_one();
    }

    /// Waits until the peer has dialled this one since the last time.
    pub async fn until_dialled(&self) {
        self.dialled_us.notified().await;
    }

    /// Something has come over the peer's own connection to this one.
    pub fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was so.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        let queue = self.lock();
        queue.messages.len() + queue.acknowledges.len()
    }

    /// How many messages have been dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn drop_messages(&self, count: u64, reason: &'static str) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
        dropped(count, reason);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it holds this lock")
    }
}

/// Counts messages that do not leave.
pub(super) fn dropped(count: u64, reason: &'static str) {
    metrics::add(Metric::PeerDropped, count, &[KeyValue::new(DROP_REASON, reason)]);
}

/// Keeps of a heartbeat that is never sent what it told of receipts and ranking (R22).
pub(super) fn merge_heartbeat(newer: &mut Heartbeat, older: Heartbeat) {
    if older.term != newer.term {
        return;
    }
    newer.ranking = newer.ranking.take().or(older.ranking);
    if newer.pasts.is_empty() {
        // They are told whole.
        newer.pasts = older.pasts;
    }
    for (peer, receipt) in older.positions {
        if newer.positions.iter().all(|(other, _)| *other != peer) {
            newer.positions.push((peer, receipt));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::{Acknowledge, Receipt};
    use crate::protocol::types::PeerId;

    const CHAT: ChatId = ChatId([1; 16]);

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

    fn acknowledge(synced: u64) -> Message {
        message(Body::Acknowledge(Acknowledge {
            term: 1,
            attach: 1,
            synced,
            received: 0,
            heartbeat: 0,
            receipt: Receipt::default(),
            ranking_version: 0,
        }))
    }

    #[tokio::test]
    async fn the_newest_acknowledge_replaces_the_older() {
        let send_queue = SendQueue::default();
        send_queue.set_up(true);
        send_queue.push(CHAT, acknowledge(1), None);
        send_queue.push(CHAT, message(Body::Goodbye), None);
        send_queue.push(CHAT, acknowledge(2), None);
        let taken = send_queue.drain().await;
        let expected = [(CHAT, message(Body::Goodbye), None), (CHAT, acknowledge(2), None)];
        assert_eq!(taken, expected);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let send_queue = SendQueue::default();
        send_queue.push(CHAT, message(Body::Goodbye), None);
        assert_eq!(send_queue.dropped(), 1);
        send_queue.set_up(true);
        for _ in 0..QUEUE_MAX + 3 {
            send_queue.push(CHAT, message(Body::Goodbye), None);
        }
        assert_eq!(send_queue.dropped(), 4);
    }

    #[tokio::test]
    async fn a_dial_is_remembered_until_somebody_waits_for_it() {
        let send_queue = SendQueue::default();
        send_queue.dialled_us();
        send_queue.dialled_us();
        send_queue.until_dialled().await;
        let again = tokio::time::timeout(std::time::Duration::ZERO, send_queue.until_dialled());
        assert!(again.await.is_err(), "two dials before it are one");
    }
}
