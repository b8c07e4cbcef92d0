//! What authors have added to a chat of late, and whether they may add more (L8): bytes, and
//! changes of a kind that people make rarely.
//!
//! The host takes no more than that, and every member counts along, so that whoever hosts next goes
//! on with what it has seen itself. Nobody is at fault for what it takes: one that has just started
//! knows of less. Nobody's wall clock is asked: what was added fades away over a day by the
//! counting peer's own clock. What a member catches up on was added at other times, and is not
//! counted.

use crate::planted::{Bug, planted};
use crate::quota::Quota;
use crate::replica::Replica;
use crate::time::{Instant, Micros, SECOND};
use crate::types::{Entry, MemberState, Membership, Payload, PeerId};

/// In this time all that was counted has faded away.
const DAY_US: Micros = 86_400 * SECOND;

/// What an author has added of late.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Added {
    pub bytes: Fading,
    pub rare: Fading,
}

/// A count that fades away over a day.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Fading {
    pub amount: u64,
    /// Up to here it has faded.
    pub at: Instant,
}

impl Added {
    /// What is left of it at `now`, if that much may be added in a day.
    fn faded(self, now: Instant, quota: Quota) -> Self {
        Self { bytes: self.bytes.faded(now, quota.bytes), rare: self.rare.faded(now, quota.rare) }
    }
}

impl Fading {
    /// What is left of it at `now`, if `most` may be added in a day. Of what was added while it
    /// was more, no more counts, or one who has agreed to less would be silent for many days.
    fn faded(self, now: Instant, most: u64) -> Self {
        let (most, day) = (u128::from(most), u128::from(DAY_US));
        let amount = u128::from(self.amount).min(most);
        let part = most * u128::from(now.since(self.at)) / day;
        let left = u64::try_from(amount.saturating_sub(part)).unwrap_or(u64::MAX);
        if left == 0 || planted(Bug::PartsOfOneForgotten) {
            return Self { amount: left, at: now };
        }
        // Only whole ones fade. The time that has gone towards the next one is kept, or nothing
        // would ever fade of who is counted again and again before that.
        let faded_in = Micros::try_from((part * day).div_ceil(most)).unwrap_or(Micros::MAX);
        Self { amount: left, at: self.at + faded_in }
    }
}

/// Whether people make such a change rarely, and others pay for it.
fn is_rare(payload: &Payload) -> bool {
    match payload {
        Payload::Policy(_) => true,
        Payload::Membership(change) => !matches!(change, Membership::Removed { .. }),
        Payload::TermStart(_) | Payload::Message { .. } | Payload::VoterChange(_) => false,
    }
}

impl Replica {
    /// How much an author may add in a day, as the members have agreed.
    pub(crate) fn quota(&self) -> Quota {
        let agreed = self.log.state().quota.filter(|_| !planted(Bug::AgreedQuotaIgnored));
        agreed.unwrap_or(self.config.quota)
    }

    /// Whether the author may add that now. Leaving is never refused, nor is sending somebody away
    /// who is there.
    pub(crate) fn may_add(&self, author: PeerId, payload: &Payload, size: usize) -> bool {
        let is_there = |peer: &PeerId| {
            let member = self.log.state().members.get(peer);
            member.is_some_and(|member| member.state != MemberState::Leaving)
        };
        match payload {
            Payload::Membership(Membership::Leaving) => return true,
            Payload::Membership(Membership::Removing { peer }) if is_there(peer) => return true,
            _ => {}
        }
        let quota = self.quota();
        let added =
            self.world.added.get(&author).copied().unwrap_or_default().faded(self.now, quota);
        let bytes_fit = added.bytes.amount.saturating_add(size as u64) <= quota.bytes;
        let rare_fit = !is_rare(payload) || added.rare.amount < quota.rare;
        (bytes_fit && rare_fit) || planted(Bug::QuotaIgnored)
    }

    /// Counts an entry that has just been added.
    pub(crate) fn count_added(&mut self, entry: &Entry) {
        let (now, quota) = (self.now, self.quota());
        let is_by_host = entry.number == 0 && !is_rare(&entry.payload);
        if is_by_host {
            return;
        }
        if !self.world.added.contains_key(&entry.author) {
            let is_left = |added: Added| added.bytes.amount > 0 || added.rare.amount > 0;
            self.world.added.retain(|_, added| is_left(added.faded(now, quota)));
        }
        let added = self.world.added.entry(entry.author).or_default();
        *added = added.faded(now, quota);
        added.bytes.amount = added.bytes.amount.saturating_add(entry.size() as u64);
        added.rare.amount += u64::from(is_rare(&entry.payload));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Micros = 3_600 * SECOND;

    #[test]
    fn l8_what_is_counted_often_fades_as_fast_as_what_is_counted_once() {
        // One in an hour; and far less than one in the time between two messages.
        for (most, step) in [(24, HOUR / 7), (24, 1), (1 << 20, 1_000), (1 << 30, 7)] {
            let mut often = Fading { amount: most, at: Instant(5) };
            for i in 1..=1_000 {
                often = often.faded(Instant(5 + i * step), most);
            }
            let once = Fading { amount: most, at: Instant(5) };
            let once = once.faded(Instant(5 + 1_000 * step), most);
            assert_eq!(often.amount, once.amount, "{most} in a day, each {step} us");
            assert!(often.at <= Instant(5 + 1_000 * step));
        }
        let counted = Fading { amount: 24, at: Instant(0) };
        assert_eq!(counted.faded(Instant(HOUR), 24).amount, 23);
        assert_eq!(counted.faded(Instant(24 * HOUR), 24).amount, 0, "all of it in a day");
        assert_eq!(counted.faded(Instant(0), 10).amount, 10, "no more counts than is agreed now");
    }
}
