//! What the loop counts of one chat. While nobody asked for metrics there is none of this.
//!
//! The loop pays for what it counts, so it notes one time for each write and each batch of commits,
//! never one for each entry, and everything that can be read later is left to `serve/observe.rs`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;

use crate::protocol::event::Notice;
use crate::protocol::time::Instant;
use crate::protocol::types::{ChatId, Entry, Index, Number, Payload, PeerId};
use crate::telemetry::metrics::{self, CHAT, ELECTION_EVENT, Metric, add, record};

/// What others read of a chat when metrics are collected.
#[derive(Default)]
pub struct Gauges {
    /// Writes that the storage thread has not finished.
    pub(super) writes: AtomicU64,
    hosting_since: Mutex<Option<std::time::Instant>>,
}

impl Gauges {
    /// Writes that wait for the storage thread, the one under way included.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// How long this peer has been hosting; zero while it does not.
    pub fn tenure(&self) -> Duration {
        let since = *self.hosting_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn hosts(&self, hosts: bool) {
        let mut since = self.hosting_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = hosts.then(|| since.unwrap_or_else(std::time::Instant::now));
    }
}

/// The clocks and counts of one chat.
pub(super) struct Measures {
    me: PeerId,
    chat: [KeyValue; 1],
    gauges: Arc<Gauges>,
    /// Own submissions that are not confirmed, and since when each is here. As many as the outbox
    /// may have at most, since those of before the start are not among them.
    proposed: VecDeque<(Number, Instant)>,
    /// The last entry of each write that is not committed; of a host alone.
    appended: VecDeque<(Index, Instant)>,
    hosting: bool,
    standing: bool,
    last_host: Option<PeerId>,
    /// When what happens at the moment began.
    now: Instant,
}

impl Measures {
    /// None while metrics are off.
    pub fn new(me: PeerId, chat: ChatId, gauges: &Arc<Gauges>) -> Option<Box<Self>> {
        metrics::is_enabled().then(|| {
            Box::new(Self {
                me,
                chat: [chat_attribute(chat)],
                gauges: Arc::clone(gauges),
                proposed: VecDeque::new(),
                appended: VecDeque::new(),
                hosting: false,
                standing: false,
                last_host: None,
                now: Instant::default(),
            })
        })
    }

    /// The time of what follows.
    pub fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// A submission of this person was taken.
    pub fn on_proposed(&mut self, number: Number) {
        self.proposed.push_back((number, self.now));
    }

    /// Entries go to the disk.
    pub fn on_written(&mut self, entries: &[Arc<Entry>]) {
        if self.hosting
            && let Some(last) = entries.last()
        {
            self.appended.push_back((last.index, self.now));
        }
    }

    /// Entries have become committed; those up to `known` were so before.
    pub fn on_committed(&mut self, entries: &[Arc<Entry>], known: Index) {
        let new = entries.iter().skip_while(|entry| entry.index <= known);
        let Some(last) = entries.last().filter(|last| last.index > known) else { return };
        add(Metric::EntryCommitted, new.clone().count() as u64, &self.chat);
        let is_message = |entry: &&&Arc<Entry>| matches!(entry.payload, Payload::Message { .. });
        if let Some(first) = new.clone().find(|entry| is_message(&entry)) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let took = now.saturating_sub(Duration::from_millis(first.created_at_ms));
            record(Metric::DeliveryDuration, took, &[]);
        }
        while let Some((_, since)) = self.appended.pop_front_if(|(index, _)| *index <= last.index) {
            record(Metric::CommitDuration, Duration::from_micros(self.now.since(since)), &[]);
        }
    }

    /// The replica tells something.
    pub fn on_notice(&mut self, notice: &Notice) {
        match *notice {
            Notice::Confirmed { number, .. } => self.on_confirmed(number),
            Notice::Suspect { .. } => self.election("suspected"),
            Notice::Standing { .. } => {
                if std::mem::replace(&mut self.standing, true) {
                    self.election("lost");
                }
                self.election("started");
            }
            Notice::Host { host, .. } => self.on_host(host),
            _ => {}
        }
    }

    fn on_confirmed(&mut self, number: Number) {
        while let Some((of, since)) = self.proposed.pop_front_if(|(of, _)| *of <= number) {
            if of == number {
                let took = Duration::from_micros(self.now.since(since));
                record(Metric::ConfirmDuration, took, &[]);
            }
        }
    }

    fn on_host(&mut self, host: Option<PeerId>) {
        self.hosting = host == Some(self.me);
        self.gauges.hosts(self.hosting);
        self.appended.clear();
        let Some(host) = host else { return };
        if std::mem::take(&mut self.standing) {
            self.election(if self.hosting { "won" } else { "lost" });
        }
        if self.last_host.replace(host).is_some_and(|before| before != host) {
            add(Metric::HostChanges, 1, &self.chat);
        }
    }

    fn election(&self, event: &'static str) {
        let [chat] = self.chat.clone();
        add(Metric::ElectionEvents, 1, &[chat, KeyValue::new(ELECTION_EVENT, event)]);
    }
}

/// Which chat a value is about.
pub fn chat_attribute(chat: ChatId) -> KeyValue {
    KeyValue::new(CHAT, chat.to_string())
}
