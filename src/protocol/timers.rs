//! What a peer has learned of round trips and syncs, and the times that follow from it.
//!
//! The estimators are those of TCP (Jacobson, "Congestion Avoidance and Control", 1988): a smoothed
//! value and a smoothed deviation, in integers; value + 4 deviations stands for the 99th
//! percentile.

use super::time::{MS, Micros, SECOND};

/// No measurement counts for more. A first one has nothing to be compared with, and one sync or
/// ping that took many seconds would be believed for as many minutes.
const SAMPLE_MAX_US: Micros = 2 * SECOND;

/// A smoothed length of time and its smoothed deviation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Estimate {
    smoothed: Micros,
    deviation: Micros,
}

impl Estimate {
    /// Takes one more measurement into account. What is far beyond the known was a pause of either
    /// side and counts for little, however often it happens, so that freezes do not lengthen
    /// leases; a link that has got longer is known all the same after some measurements.
    pub fn add(&mut self, sample: Micros) {
        let sample = sample.min(SAMPLE_MAX_US);
        if self.smoothed == 0 {
            *self = Self { smoothed: sample.max(1), deviation: sample / 2 };
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
        for _ in 0..20 {
            estimate.add(200 * MS);
        }
        assert!(estimate.p99() > 200 * MS, "{estimate:?}");
    }
}
