//! When keys change, and for how long old ones are kept: pure functions over numbers that come
//! with the call.

use std::collections::BTreeSet;

use demes_protocol::types::{Index, PeerId};

use crate::planted::{Bug, planted};
use crate::suite::Suite;

/// How long each waits for the one before it, in milliseconds (S3).
const TURN_MS: u64 = 250;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// What the refreshes of a whole chat may add to its log in one interval.
const REFRESH_BYTES: u64 = 16 << 20;

/// Whose the change was that made the roster differ, and who could key.
#[derive(Clone, Copy, Debug)]
pub struct Turns<'a> {
    /// Whose entry made the roster differ.
    pub author: PeerId,
    pub host: Option<PeerId>,
    /// The ranked candidates, best first.
    pub ranked: &'a [PeerId],
    /// Who holds the group.
    pub holders: &'a BTreeSet<PeerId>,
}

impl Turns<'_> {
    // S3: who keys, and when.
    /// How long `me` waits before it keys, in milliseconds from when the roster differed; `None`
    /// for one that holds no group. The author goes at once, the host next, then the others in the
    /// order of the ranked candidates, and those that are not listed last, by peer id. `draw` is
    /// random and anew each time, so that two who wait alike part.
    pub fn wait_ms(&self, me: &PeerId, draw: u64) -> Option<u64> {
        if !self.holders.contains(me) {
            return None;
        }
        if *me == self.author {
            return Some(0);
        }
        if Some(*me) == self.host {
            return Some(TURN_MS);
        }
        let listed = self.ranked.iter().filter(|peer| self.holders.contains(peer));
        let unlisted = self.holders.iter().filter(|peer| !self.ranked.contains(peer));
        let mut others = listed
            .chain(unlisted)
            .filter(|peer| **peer != self.author && Some(**peer) != self.host);
        let place = others.position(|peer| peer == me)? as u64;
        Some(TURN_MS * (place + 2) + draw % (TURN_MS / 2))
    }
}

/// When a participant renews its leaf (S10). All of it is settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefreshLimits {
    pub interval_ms: u64,
    /// Own messages since the last refresh.
    pub messages: u64,
    pub pause_ms: u64,
}

impl Default for RefreshLimits {
    fn default() -> Self {
        Self { interval_ms: 7 * DAY_MS, messages: 10_000, pause_ms: HOUR_MS }
    }
}

/// How it stands with a participant's leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefreshState {
    /// Since the leaf was made or renewed.
    pub age_ms: u64,
    pub own_messages: u64,
    /// How many leaves the group has.
    pub leaves: u64,
    pub suite: Suite,
    /// Drawn once for each leaf.
    pub draw: u64,
}

impl RefreshLimits {
    // S10: refresh.
    /// Whether the leaf is due. A refresh of a large post-quantum group is large and each member
    /// makes one: both limits grow with what all of them would add to the log. The draw spreads
    /// the times over a quarter of the interval.
    pub fn is_due(&self, state: &RefreshState) -> bool {
        let each = state.leaves.saturating_mul(state.suite.refresh_bytes_per_member());
        let all = each.saturating_mul(state.leaves);
        let factor = all.div_ceil(REFRESH_BYTES).max(1);
        let interval_ms = self.interval_ms.saturating_mul(factor);
        let spread_ms = state.draw % (interval_ms / 4).max(1);
        let is_old = state.age_ms >= interval_ms.saturating_add(spread_ms);
        let is_worn = state.own_messages >= self.messages.saturating_mul(factor);
        (is_old || is_worn) && state.age_ms >= self.pause_ms && !planted(Bug::NeverRefreshed)
    }
}

/// A past epoch whose keys are still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PastEpoch {
    pub epoch: u64,
    /// The entry that ended it.
    pub ended_at: Index,
    /// The own wall clock then, in milliseconds since 1970. A clock that is wrong keeps keys for
    /// longer or shorter; nothing that others see depends on it.
    pub ended_at_ms: u64,
}

/// The most past epochs.
pub const PAST_EPOCHS_MAX: usize = 32;
/// The longest that a past epoch is kept, in milliseconds.
const PAST_MAX_MS: u64 = 30 * DAY_MS;
/// The shortest that it is kept where fewer than `PAST_EPOCHS_MAX` are.
const PAST_MIN_MS: u64 = DAY_MS;

// S8: past epochs.
/// The epochs to be forgotten, oldest first. `epochs` are in their order; `acknowledged` is the
/// least position that any participant has acknowledged.
pub fn epochs_to_forget(epochs: &[PastEpoch], acknowledged: Index, now_ms: u64) -> Vec<u64> {
    let too_many = epochs.len().saturating_sub(PAST_EPOCHS_MAX);
    let is_over = |(place, past): (usize, &PastEpoch)| {
        let age_ms = now_ms.saturating_sub(past.ended_at_ms);
        let is_done = acknowledged > past.ended_at && age_ms >= PAST_MIN_MS;
        (place < too_many || age_ms >= PAST_MAX_MS || is_done).then_some(past.epoch)
    };
    // mls-rs goes by the newest: what is kept has no gaps, so that one that stays keeps those
    // after it.
    epochs.iter().enumerate().map_while(is_over).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: u8) -> PeerId {
        PeerId([name; 32])
    }

    // S3: one after the other, and nobody who cannot.
    #[test]
    fn turns_are_the_authors_the_hosts_and_the_lists() {
        let holders = BTreeSet::from([peer(1), peer(2), peer(3), peer(4), peer(5)]);
        let ranked = [peer(9), peer(4), peer(2), peer(1), peer(3)];
        let turns =
            Turns { author: peer(1), host: Some(peer(2)), ranked: &ranked, holders: &holders };
        let wait = |name| turns.wait_ms(&peer(name), 0);
        assert_eq!([wait(1), wait(2), wait(4)], [Some(0), Some(250), Some(500)]);
        assert_eq!([wait(3), wait(5)], [Some(750), Some(1_000)]);
        assert_eq!(wait(9), None, "it is listed, and holds no group");
        let late = turns.wait_ms(&peer(4), u64::MAX).unwrap();
        assert!((500..625).contains(&late), "{late}");
        // Who made the roster differ may be gone.
        let gone = Turns { author: peer(9), ..turns };
        assert_eq!(gone.wait_ms(&peer(2), 0), Some(250));
    }

    // S10: an old leaf and a worn one, with pauses, and less often where it costs much.
    #[test]
    fn leaves_are_renewed_when_they_are_old_or_worn() {
        let limits = RefreshLimits::default();
        let fresh =
            RefreshState { age_ms: 0, own_messages: 0, leaves: 5, suite: Suite::Hybrid, draw: 0 };
        assert!(!limits.is_due(&fresh));
        assert!(limits.is_due(&RefreshState { age_ms: 7 * DAY_MS, ..fresh }));
        assert!(!limits.is_due(&RefreshState { age_ms: 7 * DAY_MS, draw: DAY_MS, ..fresh }));
        assert!(limits.is_due(&RefreshState { age_ms: 9 * DAY_MS, draw: u64::MAX, ..fresh }));
        let worn = RefreshState { own_messages: 10_000, age_ms: HOUR_MS, ..fresh };
        assert!(limits.is_due(&worn));
        assert!(!limits.is_due(&RefreshState { age_ms: HOUR_MS - 1, ..worn }));
        let large = RefreshState { leaves: 256, ..worn };
        assert!(!limits.is_due(&large), "84 MB in a week are too much");
        assert!(limits.is_due(&RefreshState { suite: Suite::X25519, ..large }));
        assert!(!limits.is_due(&RefreshState { age_ms: 30 * DAY_MS, own_messages: 0, ..large }));
        assert!(limits.is_due(&RefreshState { age_ms: 45 * DAY_MS, own_messages: 0, ..large }));
    }

    // S8: kept until all have read on and a day has passed; 32 and 30 days at most.
    #[test]
    fn past_epochs_are_forgotten_in_their_order() {
        let past = |epoch| PastEpoch { epoch, ended_at: 10 * epoch, ended_at_ms: epoch * DAY_MS };
        let epochs: Vec<_> = (1..=4).map(past).collect();
        let forget = |acknowledged, now_ms| epochs_to_forget(&epochs, acknowledged, now_ms);
        assert_eq!(forget(9, 9 * DAY_MS), [0_u64; 0]);
        assert_eq!(forget(21, 9 * DAY_MS), [1, 2]);
        assert_eq!(forget(100, 3 * DAY_MS), [1, 2], "the third has not ended a day ago");
        assert_eq!(forget(0, 33 * DAY_MS), [1, 2, 3], "30 days");
        let many: Vec<_> = (1..=40).map(past).collect();
        assert_eq!(epochs_to_forget(&many, 0, 0), (1..=8).collect::<Vec<_>>());
    }
}
