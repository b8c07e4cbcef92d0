//! The author's side of R31–R34: what waits for its confirmation.

use std::collections::VecDeque;

use crate::event::{DiskState, Notice, Proposal, ProposeError};
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::{Instant, Micros};
use crate::types::{Entry, MemberState, Membership, Number, Payload, Submission};

/// After a time without an answer, so many are sent again at least.
const WINDOW_MIN: u64 = 4;

/// This peer's submissions that its own log has not confirmed yet, in the order of their numbers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Outbox {
    pub queue: VecDeque<Submission>,
    pub last_number: Number,
    /// Numbers whose sync has not returned: the `Ready` of each, and its last one.
    pub unsynced: VecDeque<(u64, Number)>,
    /// Everything up to here is durable.
    pub synced_through: Number,
    /// The last number that is on its way to the present host.
    pub sent_through: Number,
    /// When to send again what got no answer, and the span that the next wait takes.
    pub resend_at: Option<Instant>,
    /// The host has refused what was sent.
    pub is_put_off: bool,
    pub resend_span: Micros,
    /// So many may be on their way: few where answers did not come in time, more as they do.
    pub window: u64,
}

impl Outbox {
    pub fn new(queue: Vec<Submission>, last_number: Number) -> Self {
        let confirmed = queue.first().map_or(last_number, |first| first.number - 1);
        let last_number = queue.last().map_or(last_number, |last| last.number.max(last_number));
        Self {
            queue: queue.into(),
            last_number,
            unsynced: VecDeque::new(),
            synced_through: last_number,
            sent_through: confirmed,
            resend_at: None,
            is_put_off: false,
            resend_span: 0,
            window: u64::MAX,
        }
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }
    pub fn next_number(&self) -> Number {
        self.last_number + 1
    }
    pub fn resend_at(&self) -> Option<Instant> {
        self.resend_at
    }

    /// Whether this peer wants to leave and has not seen that in the log.
    pub fn has_leaving(&self) -> bool {
        let leaving = Payload::Membership(Membership::Leaving);
        self.queue.iter().any(|submission| submission.payload == leaving)
    }

    /// Whether nothing but the wish to leave waits.
    pub fn has_only_leaving(&self) -> bool {
        self.has_leaving() && self.queue.len() == 1
    }

    /// Whether the author's own entry is what it has said under that number, as far as is known:
    /// what is confirmed is not kept.
    pub fn has_given(&self, entry: &Entry) -> bool {
        let position = self.queue.binary_search_by_key(&entry.number, |it| it.number);
        match position {
            Ok(position) => {
                let given = &self.queue[position];
                given.created_at_ms == entry.created_at_ms && given.payload == entry.payload
            }
            Err(_) => entry.number <= self.last_number,
        }
    }

    /// Takes the next submission.
    pub fn push(&mut self, submission: Submission) {
        assert!(submission.number == self.next_number(), "numbers are dense");
        self.last_number = submission.number;
        self.queue.push_back(submission);
    }

    /// Everything so far becomes durable with this `Ready`.
    pub fn syncing(&mut self, ready: u64) {
        self.unsynced.push_back((ready, self.last_number));
    }

    /// Everything up to this `Ready` is durable.
    pub fn synced(&mut self, ready: u64) {
        while let Some((_, number)) = self.unsynced.pop_front_if(|(number, _)| *number <= ready) {
            self.synced_through = self.synced_through.max(number);
        }
    }

    // R34: a submission leaves only when its own number stands committed in the author's own log.
    /// Lets everything up to `number` go; whether that was anything.
    pub fn confirm_through(&mut self, number: Number) -> bool {
        let before = self.queue.len();
        while self.queue.front().is_some_and(|first| first.number <= number) {
            self.queue.pop_front();
        }
        self.last_number = self.last_number.max(number);
        self.sent_through = self.sent_through.max(number);
        self.is_put_off = false;
        self.resend_at = None;
        self.resend_span = 0;
        self.window = self.window.saturating_add((before - self.queue.len()) as u64);
        self.queue.len() != before
    }

    /// R33: forgets what was sent, because the host is another or asked for it.
    pub fn resend_after(&mut self, number: Number) {
        if self.is_put_off && !planted(Bug::GapAfterRefusal) {
            return;
        }
        let confirmed = self.confirmed();
        self.sent_through = self.sent_through.min(number.max(confirmed));
        self.resend_at = None;
    }

    /// The host takes nothing at the moment: all waits until the time for an answer is over.
    pub fn put_off(&mut self) {
        self.is_put_off = true;
    }

    /// The time for an answer is over: sends all again, and less at once, since what was sent may
    /// be what fills the line.
    pub fn time_out(&mut self) {
        let on_their_way = self.sent_through - self.confirmed();
        if !planted(Bug::AllSentAgainAtOnce) {
            self.window = (on_their_way.min(self.window) / 2).max(WINDOW_MIN);
        }
        self.resend_all();
    }

    /// Sends everything again.
    pub fn resend_all(&mut self) {
        self.is_put_off = false;
        if !planted(Bug::NotSentAgain) {
            self.sent_through = self.confirmed();
        }
        self.resend_at = None;
    }

    /// The next submissions that may leave: at most `in_flight_max` beyond the confirmed ones and
    /// about `bytes_max` at once. They count as sent.
    pub fn take_unsent(&mut self, in_flight_max: u64, bytes_max: usize) -> Vec<Submission> {
        let confirmed = self.confirmed();
        let limit = confirmed.saturating_add(in_flight_max.min(self.window));
        let skip = usize::try_from(self.sent_through - confirmed).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut unsent = Vec::new();
        for submission in self.queue.iter().skip(skip) {
            bytes += submission.size();
            let too_many = submission.number > limit && !planted(Bug::InFlightUnbounded);
            if too_many || (bytes > bytes_max && !unsent.is_empty()) {
                break;
            }
            self.sent_through = submission.number;
            unsent.push(submission.clone());
        }
        unsent
    }

    /// Sets the clock for a missing answer: `min` at first, doubled each time up to `max`.
    pub fn expect_answer(&mut self, now: Instant, min: Micros, max: Micros) {
        if self.resend_at.is_none() && self.sent_through > self.confirmed() {
            self.resend_span = (self.resend_span * 2).clamp(min, max);
            self.resend_at = Some(now + self.resend_span);
        }
    }

    // R31: a host passes entries on before its own sync, so what it says itself must be durable
    // before it becomes an entry. Otherwise a crash would give the number away a second time, and
    // the log would answer for the second submission with the first.
    /// What waits after `number` and is durable, for a host that takes its own submissions.
    pub fn durable_after(&self, number: Number) -> impl Iterator<Item = &Submission> {
        let position = self.queue.partition_point(|submission| submission.number <= number);
        let durable = |submission: &&Submission| {
            planted(Bug::OwnSubmissionEarly) || submission.number <= self.synced_through
        };
        self.queue.iter().skip(position).take_while(durable)
    }

    fn confirmed(&self) -> Number {
        self.queue.front().map_or(self.last_number, |first| first.number - 1)
    }
}

impl Replica {
    /// Whether a proposal would be taken now.
    pub fn can_propose(&self, payload: &Payload) -> Result<(), ProposeError> {
        let me = self.log.state().members.get(&self.me);
        let is_active = me.is_some_and(|me| {
            me.state == MemberState::Active && me.incarnation == self.incarnation
        });
        if self.stopping.is_none() && !is_active {
            return Err(ProposeError::NotMember);
        }
        // L8: what would only wait is not taken; leaving is, and sending somebody away.
        let goes = matches!(
            payload,
            Payload::Membership(Membership::Leaving | Membership::Removing { .. })
        );
        if self.is_over_quota && self.outbox.len() > 0 && !goes {
            return Err(ProposeError::OverQuota);
        }
        self.can_keep(0)
    }

    /// Whether one would be kept for later, beside `others`: while the log is coming in that says
    /// whether this peer takes part.
    pub fn can_keep(&self, others: usize) -> Result<(), ProposeError> {
        if self.stopping.is_some() {
            return Err(ProposeError::Stopping);
        }
        // Who has asked to leave says nothing more.
        if self.is_over() || self.outbox.has_leaving() {
            return Err(ProposeError::NotMember);
        }
        if self.disk == DiskState::Full {
            return Err(ProposeError::StorageFull);
        }
        if self.outbox.len() + others >= self.config.outbox_max {
            return Err(ProposeError::OutboxFull);
        }
        Ok(())
    }

    pub(crate) fn on_propose(&mut self, proposal: Proposal) {
        let submission = Submission {
            number: self.outbox.next_number(),
            created_at_ms: proposal.created_at_ms,
            trace: proposal.trace,
            payload: proposal.payload,
            signature: proposal.signature,
        };
        // R31: durable in the outbox before anyone is told that it is queued, or hears of it.
        self.ready.persisted_notices.push(Notice::Queued { number: submission.number });
        self.ready.persist.outbox_put.push(submission.clone());
        self.outbox.push(submission);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(numbers: std::ops::RangeInclusive<u64>) -> Outbox {
        let mut outbox = Outbox::new(Vec::new(), numbers.start() - 1);
        for number in numbers {
            outbox.push(submission(number));
        }
        outbox
    }

    fn submission(number: Number) -> Submission {
        let payload = Payload::Policy(Default::default());
        Submission { number, created_at_ms: 0, trace: None, payload, signature: None }
    }

    fn numbers(submissions: Vec<Submission>) -> Vec<Number> {
        submissions.iter().map(|submission| submission.number).collect()
    }

    #[test]
    fn r33_only_so_many_are_in_flight_and_a_new_host_gets_them_again() {
        let mut outbox = outbox(5..=9);
        assert_eq!(numbers(outbox.take_unsent(3, usize::MAX)), [5, 6, 7]);
        assert!(outbox.take_unsent(3, usize::MAX).is_empty());
        assert!(outbox.confirm_through(5));
        assert_eq!(numbers(outbox.take_unsent(3, usize::MAX)), [8]);
        outbox.resend_all();
        assert_eq!(numbers(outbox.take_unsent(3, usize::MAX)), [6, 7, 8]);
        outbox.resend_after(7);
        assert_eq!(numbers(outbox.take_unsent(9, 1)), [8], "one goes however large it is");
    }

    #[test]
    fn r34_only_a_confirmed_number_leaves() {
        let mut outbox = outbox(1..=3);
        assert!(!outbox.confirm_through(0));
        assert_eq!(outbox.len(), 3);
        assert!(outbox.confirm_through(2));
        assert_eq!(outbox.len(), 1);
        assert_eq!(outbox.next_number(), 4);
    }

    #[test]
    fn r31_a_host_takes_only_what_is_durable() {
        let mut outbox = Outbox::new(Vec::new(), 4);
        let durable = |outbox: &Outbox| numbers(outbox.durable_after(4).cloned().collect());
        for number in 5..=6 {
            outbox.push(submission(number));
            outbox.syncing(number * 10);
        }
        assert!(durable(&outbox).is_empty());
        outbox.synced(50);
        assert_eq!(durable(&outbox), [5]);
        outbox.synced(60);
        assert_eq!(durable(&outbox), [5, 6]);
        assert_eq!(numbers(outbox.durable_after(5).cloned().collect()), [6]);
    }

    #[test]
    fn a_missing_answer_is_waited_for_longer_each_time() {
        let mut outbox = outbox(1..=1);
        outbox.expect_answer(Instant(0), 100, 500);
        assert_eq!(outbox.resend_at(), None, "nothing was sent");
        let mut spans = Vec::new();
        for _ in 0..4 {
            outbox.take_unsent(9, 9);
            outbox.expect_answer(Instant(0), 100, 500);
            spans.push(outbox.resend_at().unwrap().0);
            outbox.resend_all();
        }
        assert_eq!(spans, [100, 200, 400, 500]);
    }
}
