//! How far each member has come, as the host sees it (R35, R36).

use std::collections::VecDeque;

use crate::message::Receipt;
use crate::planted::{Bug, planted};
use crate::time::{Instant, MS, Micros, SECOND};
use crate::timers::{Estimate, Shortest};
use crate::types::{Boot, Incarnation, Index, Past};

/// A copy that takes longer than this, beside the way, is one of a slow disk (R24).
pub(super) const SLOW_SYNC_US: Micros = 400 * MS;
/// How long what was sent may be unacknowledged before the member is told where it ends. That is a
/// last resort: a stream that has lost something says so by its end.
pub(crate) const RECALL_US: Micros = 5 * SECOND;
/// A ranking that is not acknowledged is sent again after this: it may be larger than many
/// heartbeats.
const RANKING_RESEND_US: Micros = SECOND;
/// Where an echo takes so much longer than the shortest one lately, something fills the line, most
/// likely heartbeats themselves.
pub(super) const LATE_US: Micros = 120 * MS;
/// How far back the shortest echo is looked for, and as far again.
const SHORTEST_US: Micros = 30 * SECOND;
/// For so long each, after an echo was late, heartbeats are as far apart as on a slow line and as
/// on a far one. One that is late in spite of that has them twice as far apart for so long first.
pub(super) const LATE_KEPT_US: Micros = 10 * SECOND;
/// Until heartbeats are further apart, and what waited has passed.
const SETTLED_US: Micros = 3 * SECOND / 2;

/// Echoes that come closer to each other were held up together.
const ECHOES_APART_US: Micros = 20 * MS;

/// One attached member. Everything here belongs to its newest attach.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Progress {
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
    /// When something of the log was sent last.
    pub sent_at: Option<Instant>,
    /// The commit index that the member was told last.
    pub commit_sent: Option<Index>,
    /// Entries are being read from the store for this member.
    pub loading: bool,
    /// When the newest heartbeat that the member has echoed was sent (R22).
    pub contact: Option<Instant>,
    /// How long heartbeats take to the member and their echoes back.
    pub echoes: Estimate,
    pub shortest_echo: Shortest,
    /// When the last of them was taken into account.
    pub echoed_at: Instant,
    /// The newest heartbeat when the member attached. It may have been sent long before that.
    pub first_heartbeat: u64,
    /// When the last entries were sent of which the member has said soon that it has them.
    pub copied_soon: Option<Instant>,
    /// Until then the line to the member counts as narrow: an echo came late over it.
    pub late_until: Instant,
    pub receipt: Receipt,
    /// The version of the host's receipts that the member has been sent.
    pub receipts_version_sent: u64,
    /// What was committed when it attached. A member takes no receipt of whom its log does not name
    /// yet: until it has come so far it is told all of them again.
    pub receipts_from: Index,
    /// The same of what voters have said of themselves.
    pub pasts_version_sent: u64,
    pub ranking_version: u64,
    /// The version of the ranking that was sent last, and when.
    pub ranking_sent: Option<(u64, Instant)>,
    /// Since when a ranking has been due that was withheld, since echoes were owed.
    pub ranking_withheld: Option<Instant>,
    /// Told to the member in the first answer to its attach (R9).
    pub past: Option<Past>,
    /// The first answer proves the reign, too (L3).
    pub tells_reign: bool,
    /// Since when the member has been caught up without a break.
    pub steady_since: Option<Instant>,
}

/// Entries that were sent together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Batch {
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
            sent_at: None,
            commit_sent: None,
            loading: false,
            contact: None,
            echoes: Estimate::default(),
            shortest_echo: Shortest::default(),
            echoed_at: Instant::default(),
            first_heartbeat: 0,
            copied_soon: None,
            late_until: Instant(0),
            receipt: Receipt::default(),
            receipts_version_sent: 0,
            receipts_from: 0,
            pasts_version_sent: 0,
            ranking_version: 0,
            ranking_sent: None,
            ranking_withheld: None,
            past,
            tells_reign: true,
            steady_since: None,
        }
    }

    /// R35: a follower that stalls gets nothing more until it acknowledges.
    pub fn has_room(&self, bytes_max: usize) -> bool {
        self.in_flight_bytes < bytes_max || planted(Bug::SlowMemberFlooded)
    }

    /// Takes note of how long a new heartbeat and its echo took. What was held up somewhere and
    /// comes all at once is one measurement.
    pub fn echoed(&mut self, now: Instant, took: Micros, stretch_max_us: Micros) {
        let usual = self.shortest_echo.add(now, SHORTEST_US, took as i64) as Micros;
        // Where no lease can be longer, nothing is to be gained.
        if took > usual + LATE_US && stretch_max_us > 0 {
            let left = self.late_us(now);
            let is_late_all_the_same = left > LATE_KEPT_US && left + SETTLED_US <= 2 * LATE_KEPT_US;
            let levels = if is_late_all_the_same || left > 2 * LATE_KEPT_US { 3 } else { 2 };
            self.late_until = self.late_until.max(now + levels * LATE_KEPT_US);
        }
        if now.since(self.echoed_at) >= ECHOES_APART_US {
            self.echoed_at = now;
            self.echoes.add(took);
        }
    }

    /// For how long the line to the member still counts as narrow.
    pub fn late_us(&self, now: Instant) -> Micros {
        if planted(Bug::LateEchoesIgnored) { 0 } else { self.late_until.since(now) }
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

    /// Takes note of entries that the member holds and has not written (L3): they are not on their
    /// way any more, and that is all.
    pub fn received(&mut self, index: Index) {
        while let Some(batch) = self.in_flight.pop_front_if(|batch| batch.last <= index) {
            self.in_flight_bytes -= batch.bytes;
        }
    }

    /// Whether the next heartbeat tells the ranking; it is taken for sent then. Who owes echoes is
    /// spared it, but not for ever: a line may always be so.
    pub fn is_ranking_due(&mut self, now: Instant, version: u64, owes: bool) -> bool {
        // Over a narrow line its acknowledgement takes longer, and what it says can wait.
        let again = if self.late_us(now) > 0 { LATE_KEPT_US } else { RANKING_RESEND_US };
        let is_sent =
            self.ranking_sent.is_some_and(|(sent, at)| sent == version && now.since(at) < again);
        if self.ranking_version == version || is_sent {
            return false;
        }
        if owes {
            let since = *self.ranking_withheld.get_or_insert(now);
            if now.since(since) < LATE_KEPT_US || planted(Bug::ListWithheldForEver) {
                return false;
            }
        }
        self.ranking_withheld = None;
        self.ranking_sent = Some((version, now));
        true
    }

    /// Whether what was sent last has been unacknowledged for too long.
    pub fn is_recall_due(&self, now: Instant) -> bool {
        let is_long_ago = |at: Instant| now.since(at) >= RECALL_US;
        !self.in_flight.is_empty()
            && self.sent_at.is_some_and(is_long_ago)
            && !planted(Bug::NeverRecalled)
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

    #[test]
    fn r13_over_a_narrow_line_a_list_is_sent_again_late() {
        let mut progress = Progress::new(1, 1, None);
        progress.echoed(Instant(SECOND), MS, SECOND);
        assert!(progress.is_ranking_due(Instant(SECOND), 1, false));
        assert!(progress.is_ranking_due(Instant(2 * SECOND), 1, false));
        progress.echoed(Instant(3 * SECOND), 500 * MS, SECOND);
        assert!(!progress.is_ranking_due(Instant(4 * SECOND), 1, false));
        assert!(progress.is_ranking_due(Instant(4 * SECOND), 2, false), "that is another one");
        assert!(progress.is_ranking_due(Instant(14 * SECOND), 2, false));
    }

    #[test]
    fn echoes_that_come_all_at_once_are_one_measurement() {
        let mut progress = Progress::new(1, 1, None);
        progress.echoed(Instant(1_000_000), MS, SECOND);
        for count in 0..5 {
            progress.echoed(Instant(3_000_000 + count), 1_500 * MS, SECOND);
        }
        assert!(progress.echoes.p99() < 100 * MS, "{:?}", progress.echoes);
    }
}
