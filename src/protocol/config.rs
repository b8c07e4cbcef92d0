//! The numbers of the protocol: timers and limits, with their defaults.

use super::quota::Quota;
use super::time::{MS, Micros, SECOND};

/// Timers in microseconds, limits in their own units. `config.rs` at the top fills it from the
/// configuration and calls `check` before anything starts.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// Between heartbeats while messages flow and the round trip is short.
    pub heartbeat_us: Micros,
    /// The same above 30 ms of round trip.
    pub heartbeat_far_us: Micros,
    /// The same when no message came for `idle_after_us`.
    pub heartbeat_idle_us: Micros,
    pub idle_after_us: Micros,
    /// How long a member regards the host as alive after a heartbeat, at least and at most.
    pub lease_min_us: Micros,
    pub lease_max_us: Micros,
    /// A host without contact to a quorum for this share of the lease pauses (R22).
    pub pause_percent: u64,
    /// The shortest round of nominations (R19).
    pub round_min_us: Micros,
    /// The back-off of the fallback: its first and its greatest span (R20).
    pub fallback_min_us: Micros,
    pub fallback_max_us: Micros,
    /// Between reports of delays, and between published rankings.
    pub report_us: Micros,
    pub publish_us: Micros,
    /// Farness is rounded to this, so that noise does not reorder (R12).
    pub rank_quantum_us: Micros,
    /// Resending a submission that got no answer.
    pub resend_min_us: Micros,
    pub resend_max_us: Micros,
    /// How long a changed commit index may wait for the next sync.
    pub flush_us: Micros,
    /// The most voters (an odd number).
    pub voters_max: usize,
    /// The most submissions of one author in flight to the host (R33).
    pub in_flight_max: u64,
    /// The most submissions in the outbox; more are refused.
    pub outbox_max: usize,
    /// The most bytes of entries in one `Append`, and unacknowledged at one follower.
    pub append_bytes_max: usize,
    pub unacknowledged_bytes_max: usize,
    /// The most entries that the host takes beyond its commit index; more wait.
    pub uncommitted_max: u64,
    /// Entries kept in memory behind the commit index.
    pub window_entries: usize,
    pub window_bytes: usize,
    /// Committed entries between checkpoints.
    pub checkpoint_every: u64,
    /// A newly caught-up learner must be steady for this long before it votes.
    pub steady_us: Micros,
    /// A voter that is silent for this long is away (R26): where one more loss would stop the chat,
    /// and else.
    pub silent_critical_us: Micros,
    pub silent_us: Micros,
    /// One who was away must be steady for this long to be given a vote again, and at most for the
    /// second time if it keeps coming and going (R28).
    pub back_us: Micros,
    pub back_max_us: Micros,
    /// The chat moves to a better host (R23) that is better by this share, in percent, and by this
    /// much farness, for this long without a break.
    pub move_gain_percent: u64,
    pub move_gain_us: Micros,
    pub move_after_us: Micros,
    /// It does so no earlier than this after its host was elected, or handed over to.
    pub tenure_us: Micros,
    pub move_every_us: Micros,
    /// What an author may add in a day (L8).
    pub quota: Quota,
    /// This peer's farness is multiplied by 100 / weight; 0 stands last (R12).
    pub host_weight: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat_us: 50 * MS,
            heartbeat_far_us: 100 * MS,
            heartbeat_idle_us: 250 * MS,
            idle_after_us: 10 * SECOND,
            lease_min_us: 250 * MS,
            lease_max_us: 2 * SECOND,
            pause_percent: 80,
            round_min_us: 15 * MS,
            fallback_min_us: 20 * MS,
            fallback_max_us: 2 * SECOND,
            report_us: SECOND,
            publish_us: 5 * SECOND,
            rank_quantum_us: MS,
            resend_min_us: 100 * MS,
            resend_max_us: 5 * SECOND,
            flush_us: 50 * MS,
            voters_max: 7,
            in_flight_max: 256,
            outbox_max: 10_000,
            append_bytes_max: 1 << 20,
            unacknowledged_bytes_max: 4 << 20,
            uncommitted_max: 8_192,
            window_entries: 8_192,
            window_bytes: 8 << 20,
            checkpoint_every: 4_096,
            steady_us: 0,
            silent_critical_us: 10 * SECOND,
            silent_us: 60 * SECOND,
            back_us: 10 * SECOND,
            back_max_us: 600 * SECOND,
            move_gain_percent: 25,
            move_gain_us: 10 * MS,
            move_after_us: 60 * SECOND,
            tenure_us: 300 * SECOND,
            move_every_us: 600 * SECOND,
            quota: Quota::default(),
            host_weight: 100,
        }
    }
}

impl Config {
    /// By how much a span may become longer for what was measured.
    pub(super) fn stretch_max_us(&self) -> Micros {
        self.lease_max_us - self.lease_min_us
    }

    /// Between heartbeats that are late even where they are as far apart as in an idle chat.
    pub(super) fn heartbeat_narrow_us(&self) -> Micros {
        (2 * self.heartbeat_idle_us).min(self.lease_max_us / 4).max(self.heartbeat_idle_us)
    }

    /// The relations that the protocol relies on. The error names the first key that breaks one
    /// and says what it must be.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let rule = |holds: bool, key: &'static str, must: String| {
            if holds { Ok(()) } else { Err((key, must)) }
        };
        rule(self.heartbeat_us >= MS, "heartbeat_ms", "be at least 1".into())?;
        rule(
            self.lease_min_us >= 3 * self.heartbeat_us,
            "lease_ms_min",
            format!("be at least three heartbeats ({} ms)", 3 * self.heartbeat_us / MS),
        )?;
        rule(
            self.lease_max_us >= self.lease_min_us
                && self.lease_max_us >= 3 * self.heartbeat_idle_us,
            "lease_ms_max",
            "be at least lease_ms_min and three idle heartbeats".into(),
        )?;
        rule(
            (50..100).contains(&self.pause_percent),
            "pause_percent",
            "lie between 50 and 99, so that a host pauses before it is given up".into(),
        )?;
        rule(self.round_min_us >= MS, "round_ms_min", "be at least 1".into())?;
        rule(
            self.fallback_max_us >= self.fallback_min_us && self.fallback_min_us > 0,
            "fallback_ms_max",
            "be at least fallback_ms_min, which must not be 0".into(),
        )?;
        rule(self.rank_quantum_us > 0, "rank_quantum_us", "not be 0".into())?;
        rule(
            self.silent_critical_us > self.lease_max_us
                && self.silent_us >= self.silent_critical_us,
            "silent_critical_ms",
            "be more than lease_ms_max and at most silent_ms".into(),
        )?;
        rule(
            self.back_us > 0 && self.back_max_us >= self.back_us,
            "back_ms_max",
            "be at least back_ms, which must not be 0".into(),
        )?;
        rule(self.move_gain_percent < 100, "move_gain_percent", "be less than 100".into())?;
        rule(
            self.voters_max % 2 == 1 && self.voters_max <= 15,
            "voters_max",
            "be an odd number up to 15".into(),
        )?;
        rule(
            (1..=self.uncommitted_max).contains(&self.in_flight_max),
            "in_flight_max",
            format!("lie between 1 and {}", self.uncommitted_max),
        )?;
        rule(self.outbox_max > 0, "outbox_max", "not be 0".into())
    }
}
