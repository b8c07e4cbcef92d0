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
    pub bytes: u64,
    pub rare: u64,
    /// When that was counted last.
    pub at: Instant,
}

impl Added {
    /// What is left of it at `now`, if that much may be added in a day. Of what was added while it
    /// was more, no more counts, or one who has agreed to less would be silent for many days.
    fn faded(self, now: Instant, quota: Quota) -> Self {
        let faded = |added: u64, most: u64| {
            let part = u128::from(most) * u128::from(now.since(self.at)) / u128::from(DAY_US);
            added.min(most).saturating_sub(u64::try_from(part).unwrap_or(u64::MAX))
        };
        Self { bytes: faded(self.bytes, quota.bytes), rare: faded(self.rare, quota.rare), at: now }
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
    fn quota(&self) -> Quota {
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
        let added = self.added.get(&author).copied().unwrap_or_default().faded(self.now, quota);
        let bytes_fit = added.bytes.saturating_add(size as u64) <= quota.bytes;
        let rare_fit = !is_rare(payload) || added.rare < quota.rare;
        (bytes_fit && rare_fit) || planted(Bug::QuotaIgnored)
    }

    /// Counts an entry that has just been added.
    pub(crate) fn count_added(&mut self, entry: &Entry) {
        let (now, quota) = (self.now, self.quota());
        let is_by_host = entry.number == 0 && !is_rare(&entry.payload);
        if is_by_host {
            return;
        }
        if !self.added.contains_key(&entry.author) {
            let is_left = |added: Added| added.bytes > 0 || added.rare > 0;
            self.added.retain(|_, added| is_left(added.faded(now, quota)));
        }
        let added = self.added.entry(entry.author).or_default();
        *added = added.faded(now, quota);
        added.bytes = added.bytes.saturating_add(entry.size() as u64);
        added.rare += u64::from(is_rare(&entry.payload));
    }
}
