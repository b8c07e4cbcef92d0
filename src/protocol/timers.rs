//! What a peer has learned of round trips and syncs, and the times that follow from it.
//!
//! The estimators are those of TCP (Jacobson, "Congestion Avoidance and Control", 1988): a smoothed
//! value and a smoothed deviation, in integers; value + 4 deviations stands for the 99th
//! percentile.

use super::planted::{Bug, planted};
use super::time::{Instant, MS, Micros, SECOND};

/// No measurement counts for more. A first one has nothing to be compared with, and one sync or
/// ping that took many seconds would be believed for as many minutes.
const SAMPLE_MAX_US: Micros = 2 * SECOND;

/// What is usual is what was so within this span, or the one before.
const USUAL_US: Micros = 5 * SECOND;

/// A smoothed length of time and its smoothed deviation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Estimate {
    smoothed: Micros,
    deviation: Micros,
    /// The last two measurements, the older one first.
    recent: (Micros, Micros),
}

impl Estimate {
    /// Takes one more measurement into account. What is far beyond the known was a pause of either
    /// side and counts for little, however often it happens, so that freezes do not lengthen
    /// leases. What takes that long three times in a row is no pause: the least of the three is
    /// believed at once.
    pub fn add(&mut self, sample: Micros) {
        let sample = sample.min(SAMPLE_MAX_US);
        let (before, last) = self.recent;
        self.recent = (last, sample);
        if self.smoothed == 0 {
            *self = Self { smoothed: sample.max(1), deviation: sample / 2, ..*self };
            return;
        }
        let mut three = [before, last, sample];
        three.sort_unstable();
        let [least, middle, _] = three;
        if least > self.p99() && !planted(Bug::StepNotBelieved) {
            let deviation = self.deviation.max(middle - least);
            *self = Self { smoothed: least, deviation, ..*self };
            return;
        }
        let sample = sample.min(2 * self.smoothed + 10 * MS);
        let error = sample.abs_diff(self.smoothed);
        self.deviation = (3 * self.deviation + error) / 4;
        self.smoothed = ((7 * self.smoothed + sample) / 8).max(1);
    }

    /// The smoothed value; `None` before the first measurement.
    pub fn smoothed(&self) -> Option<Micros> {
        (self.smoothed > 0).then_some(self.smoothed)
    }

    /// What hardly any measurement exceeds.
    pub fn p99(&self) -> Micros {
        self.smoothed + 4 * self.deviation
    }
}

/// The shortest of lengths within a span, and the one before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Shortest {
    lengths: (i64, i64),
    turned_at: Option<Instant>,
}

impl Shortest {
    /// Takes one more into account, and gives the shortest.
    pub fn add(&mut self, now: Instant, span: Micros, length: i64) -> i64 {
        let Some(turned_at) = self.turned_at else {
            *self = Self { lengths: (length, length), turned_at: Some(now) };
            return length;
        };
        if now.since(turned_at) >= span {
            *self = Self { lengths: (length, self.lengths.0), turned_at: Some(now) };
        }
        self.lengths.0 = self.lengths.0.min(length);
        self.lengths.0.min(self.lengths.1)
    }

    /// The shortest one; `None` before the first.
    pub fn known(&self) -> Option<Micros> {
        self.turned_at.map(|_| self.lengths.0.min(self.lengths.1).unsigned_abs())
    }
}

/// How much later than usual the heartbeats of one host arrive. Each says when it was sent, by the
/// host's clock, so that a way that has got longer is known by the first one that comes over it,
/// and is told from a host that was frozen, whose heartbeats then come as fast as ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Lateness {
    newest: u64,
    /// Of passages: how far this peer's clock was ahead of the host's when a heartbeat arrived.
    usual: Option<Shortest>,
    late: Micros,
}

impl Lateness {
    /// Takes note of a heartbeat. One that was overtaken says nothing about the way now, and 0 says
    /// nothing at all.
    pub fn add(&mut self, now: Instant, number: u64, sent_us: Micros) {
        if sent_us == 0 || (self.usual.is_some() && number <= self.newest) {
            return;
        }
        self.newest = number;
        let passage = now.0.wrapping_sub(sent_us) as i64;
        let usual = self.usual.get_or_insert_default().add(now, USUAL_US, passage);
        let late = u64::try_from(passage.saturating_sub(usual)).unwrap_or(0);
        self.late = late.min(SAMPLE_MAX_US).max(self.late - self.late / 8);
    }

    /// The next heartbeat is another host's: what is usual for it has to be learned. The way is as
    /// long as it was.
    pub fn forget_host(&mut self) {
        self.usual = None;
    }

    /// By how much the way to the host and back is longer than it was, as far as that is known:
    /// twice the way here, and once more for what the next ones may take longer.
    pub fn longer_by(&self) -> Micros {
        3 * self.late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_settles_and_remembers_how_much_it_varied() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.smoothed(), None);
        for _ in 0..50 {
            estimate.add(1_000);
        }
        assert_eq!(estimate.smoothed(), Some(1_000));
        assert!(estimate.p99() < 1_100);
        estimate.add(9_000);
        assert!(estimate.p99() > 9_000);
    }

    #[test]
    fn a_first_measurement_that_was_a_stall_is_forgotten_soon() {
        let mut estimate = Estimate::default();
        estimate.add(15 * SECOND);
        assert!(estimate.p99() <= 6 * SECOND, "{estimate:?}");
        for _ in 0..40 {
            estimate.add(MS);
        }
        assert!(estimate.p99() < 250 * MS, "{estimate:?}");
    }

    #[test]
    fn freezes_are_no_distance_and_a_link_that_got_longer_is_known_soon() {
        let mut estimate = Estimate::default();
        for _ in 0..10 {
            estimate.add(300);
            estimate.add(900 * MS);
        }
        assert!(estimate.p99() < 100 * MS, "{estimate:?}");
        for _ in 0..3 {
            estimate.add(200 * MS);
        }
        assert!(estimate.p99() >= 200 * MS, "{estimate:?}");
        assert!(estimate.p99() < 800 * MS, "{estimate:?}");
    }

    #[test]
    fn a_link_that_got_longer_and_uneven_is_known_with_its_spread() {
        let mut estimate = Estimate::default();
        for _ in 0..50 {
            estimate.add(MS);
        }
        for sample in [500, 860, 640] {
            estimate.add(sample * MS);
        }
        assert_eq!(estimate.smoothed(), Some(500 * MS));
        assert!(estimate.p99() > 860 * MS, "{estimate:?}");
    }

    /// Heartbeats every 50 ms from `first` on, each so much later than it was sent; what the last
    /// one shows. The two clocks are `ahead` apart.
    fn heartbeats(lateness: &mut Lateness, first: u64, ways_ms: &[u64], ahead: u64) -> Micros {
        for (number, way) in (first..).zip(ways_ms) {
            let sent_us = number * 50 * MS;
            lateness.add(Instant(sent_us + way * MS + ahead), number, sent_us);
        }
        lateness.longer_by()
    }

    #[test]
    fn the_first_heartbeat_over_a_longer_way_shows_it() {
        for ahead in [0, 77 * SECOND] {
            let mut lateness = Lateness::default();
            assert_eq!(heartbeats(&mut lateness, 1, &[1; 30], ahead), 0);
            assert_eq!(heartbeats(&mut lateness, 31, &[401], ahead), 1_200 * MS);
            // After a while that is usual.
            assert!(heartbeats(&mut lateness, 32, &[401; 100], ahead) >= 1_200 * MS);
            assert!(heartbeats(&mut lateness, 132, &[401; 200], ahead) < 10 * MS);
        }
    }

    #[test]
    fn a_freeze_of_either_side_makes_no_heartbeat_late_for_long() {
        let mut lateness = Lateness::default();
        heartbeats(&mut lateness, 1, &[1; 30], 0);
        // The host sends nothing for a second.
        assert_eq!(heartbeats(&mut lateness, 51, &[1; 10], 0), 0);
        // This peer reads nothing for a second, and then all of it.
        let piled_up: Vec<_> = (0..20).map(|count| 1_000 - 50 * count).collect();
        assert!(heartbeats(&mut lateness, 61, &piled_up, 0) > 0);
        assert!(heartbeats(&mut lateness, 81, &[1; 30], 0) < 20 * MS);
    }
}
