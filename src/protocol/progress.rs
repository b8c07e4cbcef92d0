//! How far each member has come, as the host sees it (R35, R36).

use std::collections::VecDeque;

use super::message::Receipt;
use super::planted::{Bug, planted};
use super::time::{Instant, MS, Micros};
use super::timers::Estimate;
use super::types::{Boot, Incarnation, Index, Past};

/// A copy that takes longer than this, beside the way, is one of a slow disk (R24).
pub(super) const SLOW_SYNC_US: Micros = 400 * MS;

/// One attached member. Everything here belongs to its newest attach.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Progress {
    pub incarnation: Incarnation,
    /// The member's boot number, within which it counts its attaches.
    pub boot: Boot,
    pub attach: u64,
    /// The member's durable log equals the host's up to here.
    pub matched: Index,
    /// The next entry to send; `None` until a common position is found.
    pub next: Option<Index>,
    /// What was sent and not acknowledged.
    pub in_flight: VecDeque<Batch>,
    pub in_flight_bytes: usize,
    /// The commit index that the member was told last.
    pub commit_sent: Option<Index>,
    /// Entries are being read from the store for this member.
    pub loading: bool,
    /// When the newest heartbeat that the member has echoed was sent (R22).
    pub contact: Option<Instant>,
    /// How long heartbeats take to the member and their echoes back.
    pub echoes: Estimate,
    /// The newest heartbeat when the member attached. It may have been sent long before that.
    pub first_heartbeat: u64,
    /// When the last entries were sent of which the member has said soon that it has them.
    pub copied_soon: Option<Instant>,
    pub receipt: Receipt,
    /// The version of the host's receipts that the member has been sent.
    pub receipts_version_sent: u64,
    pub ranking_version: u64,
    /// Told to the member in the first answer to its attach (R9).
    pub past: Option<Past>,
    /// Since when the member has been caught up without a break.
    pub steady_since: Option<Instant>,
}

/// Entries that were sent together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Batch {
    pub last: Index,
    pub bytes: usize,
    pub sent_at: Instant,
}

impl Progress {
    pub fn new(incarnation: Incarnation, attach: u64, past: Option<Past>) -> Self {
        Self {
            incarnation,
            boot: 0,
            attach,
            matched: 0,
            next: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            commit_sent: None,
            loading: false,
            contact: None,
            echoes: Estimate::default(),
            first_heartbeat: 0,
            copied_soon: None,
            receipt: Receipt::default(),
            receipts_version_sent: 0,
            ranking_version: 0,
            past,
            steady_since: None,
        }
    }

    /// R35: a follower that stalls gets nothing more until it acknowledges.
    pub fn has_room(&self, bytes_max: usize) -> bool {
        self.in_flight_bytes < bytes_max || planted(Bug::SlowMemberFlooded)
    }

    /// Takes note of entries up to `last` having been sent.
    pub fn sent(&mut self, now: Instant, last: Index, bytes: usize) {
        self.next = Some(last + 1);
        self.in_flight.push_back(Batch { last, bytes, sent_at: now });
        self.in_flight_bytes += bytes;
    }

    /// Takes note of an acknowledgement. Within one attach, `matched` never goes back.
    pub fn acknowledged(&mut self, now: Instant, index: Index) {
        self.matched = if planted(Bug::MatchGoesBack) { index } else { self.matched.max(index) };
        while let Some(batch) = self.in_flight.pop_front_if(|batch| batch.last <= self.matched) {
            self.in_flight_bytes -= batch.bytes;
            let took = now.since(batch.sent_at).saturating_sub(self.echoes.smoothed().unwrap_or(0));
            if took < SLOW_SYNC_US {
                self.copied_soon = Some(batch.sent_at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r35_a_stalled_follower_gets_no_more_until_it_acknowledges() {
        let mut progress = Progress::new(1, 1, None);
        let now = Instant(0);
        progress.sent(now, 10, 600);
        assert!(progress.has_room(1_000));
        progress.sent(now, 20, 600);
        assert!(!progress.has_room(1_000));
        progress.acknowledged(now, 15);
        assert!(progress.has_room(1_000));
        progress.acknowledged(now, 3);
        assert_eq!(progress.matched, 15, "an older answer takes nothing back");
    }
}
