//! What a peer has learned of round trips and syncs, and the times that follow from it.
//!
//! The estimators are those of TCP (Jacobson, "Congestion Avoidance and Control", 1988): a smoothed
//! value and a smoothed deviation, in integers; value + 4 deviations stands for the 99th
//! percentile.

use super::time::Micros;

/// A smoothed length of time and its smoothed deviation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Estimate {
    smoothed: Micros,
    deviation: Micros,
    last_two: [Micros; 2],
}

impl Estimate {
    /// Takes one more measurement into account.
    pub fn add(&mut self, sample: Micros) {
        if self.smoothed == 0 {
            let last_two = [sample, sample];
            *self = Self { smoothed: sample.max(1), deviation: sample / 2, last_two };
            return;
        }
        let [before, last] = self.last_two;
        self.last_two = [last, sample];
        let sample = sample.clamp(before.min(last), before.max(last));
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
        assert!(estimate.p99() < 1_100, "one alone may be a pause at either end");
        estimate.add(9_000);
        assert!(estimate.p99() > 9_000, "two in a row are the link");
    }
}
