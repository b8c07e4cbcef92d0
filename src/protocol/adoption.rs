//! Taking over a longer log before standing (R10), and how doubt about one's own log ends (R37).
//!
//! A nominee whose nominators are ahead of it fetches what it lacks from the furthest of them. That
//! is safe because the other log was some host's: if its last term is the same, it goes on where
//! this one ends; if it is later, it has everything that was committed before that term, and what
//! conflicts with it here can never be committed any more, since a majority had voted for a host
//! without it. So that this peer cannot help to commit it all the same, its own term is raised to
//! the adopted one in the same sync.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::event::LinkState;
use super::message::{Body, FetchLog, FetchLogAnswer, Message, RefusedReason, WithdrawReason};
use super::planted::{Bug, planted};
use super::quorum::is_majority;
use super::replica::{Part, Replica};
use super::time::Instant;
use super::types::{Entry, Index, PeerId, Position};

/// A fetch that is on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Adoption {
    pub from: PeerId,
    /// Counts the fetches; the answer names it.
    pub fetch: u64,
    pub look: Position,
    pub deadline: Instant,
}

/// What a voter has said of the end of its log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct TailReport {
    pub last: Position,
    /// It may have lost something itself.
    pub in_doubt: bool,
}

/// What this peer knows of the voters' tails while its own is in doubt.
pub(super) type TailReports = BTreeMap<PeerId, TailReport>;

impl Replica {
    // ---- asking ----

    /// Fetches what it lacks from `from`. Whether that is on its way.
    pub(super) fn adopt_from(&mut self, from: PeerId) -> bool {
        if self.adoption.is_none() && self.links.get(&from) == Some(&LinkState::Up) {
            self.fetch_log(from, self.log.last());
        }
        self.adoption.is_some()
    }

    fn fetch_log(&mut self, from: PeerId, look: Position) {
        self.fetch_count += 1;
        let fetch = self.fetch_count;
        let deadline = self.now + 2 * self.round();
        self.adoption = Some(Adoption { from, fetch, look, deadline });
        let term = self.hard_state.term;
        self.send(from, Body::FetchLog(FetchLog { term, fetch, look }));
    }

    pub(super) fn adoption_on_time(&mut self) {
        let now = self.now;
        let overdue = self.adoption.take_if(|adoption| now >= adoption.deadline).is_some();
        if overdue && self.suspicion.is_some() {
            self.withdraw(WithdrawReason::LogBehind);
        }
    }

    // ---- answering ----

    /// Gives a member what follows the position that it looks at, as far as this peer has it in
    /// memory, or says where to look back. One whose gap is larger than that is not the one to
    /// host next, and gets nothing.
    pub(super) fn on_fetch_log(&mut self, message: &Message, fetch: FetchLog) {
        if !self.gives_log_to(message.from, message.from_incarnation) {
            self.refuse(message, RefusedReason::NotMember);
            return;
        }
        let look = fetch.look;
        let known = self.log.has(look);
        let look_back =
            (!known).then(|| self.log.look_back(look).min(look.index.saturating_sub(1)));
        let entries = match known && self.log.in_window(look.index + 1) {
            true => self.log.entries_from(look.index + 1, self.config.append_bytes_max),
            false => Vec::new(),
        };
        let answer = FetchLogAnswer {
            term: self.hard_state.term,
            fetch: fetch.fetch,
            previous: look,
            entries,
            last: self.log.last(),
            look_back,
        };
        self.answer(message, Body::FetchLogAnswer(answer));
    }

    // ---- adopting ----

    // R10: only a follower that hears no host adopts. What arrives after it stood is dropped.
    pub(super) fn on_fetch_log_answer(&mut self, message: &Message, answer: &FetchLogAnswer) {
        let awaited = |adoption: &mut Adoption| {
            adoption.from == message.from && adoption.fetch == answer.fetch
        };
        let Some(adoption) = self.adoption.take_if(awaited) else { return };
        let may = matches!(self.part, Part::Follower) && self.now >= self.suspect_at;
        if !may && !planted(Bug::CandidateAdopts) {
            return;
        }
        if let Some(index) = answer.look_back {
            let index = index.max(self.log.commit());
            if index < adoption.look.index {
                let term = self.log.term_at(index).unwrap_or(0);
                self.fetch_log(message.from, Position { term, index });
                return;
            }
        } else if self.adopt(answer) {
            if answer.last > self.log.last() {
                self.fetch_log(message.from, self.log.last());
                return;
            }
            self.resolve_doubt();
            self.try_stand();
            return;
        }
        self.withdraw(WithdrawReason::LogBehind);
    }

    /// Whether this log has gone on.
    fn adopt(&mut self, answer: &FetchLogAnswer) -> bool {
        let fits = self.log.has(answer.previous) && is_chain(answer.previous, &answer.entries);
        let Some(last) = answer.entries.last().filter(|_| fits) else { return false };
        let position = Position { term: last.term, index: last.index };
        if last.term > self.hard_state.term && !planted(Bug::AdoptionKeepsTerm) {
            self.enter_term(last.term);
        } else {
            // Where a host of this very term is known, its log is attached to anew.
            self.attached = None;
        }
        for entry in &answer.entries {
            if self.log.term_at(entry.index) == Some(entry.term) {
                if self.log.entry(entry.index).is_some_and(|own| own.hash != entry.hash) {
                    self.fault("two hosts have made different entries in one term");
                    return false;
                }
                continue;
            }
            if entry.index <= self.log.last().index {
                if entry.index <= self.log.commit() {
                    self.fault("a member's log conflicts with what is committed here");
                    return false;
                }
                self.truncate_from(entry.index);
            }
            if entry.previous != self.log.last_hash() {
                self.fault("the chain of hashes is broken");
                return false;
            }
            self.append(Arc::clone(entry));
        }
        self.log.has(position)
    }

    // ---- doubt (R37) ----

    /// Takes note of the end of a voter's log while the own one is in doubt.
    pub(super) fn on_tail_report(&mut self, message: &Message, report: TailReport) {
        if self.tail_in_doubt && self.is_voting(message.from, message.from_incarnation) {
            self.tail_reports.insert(message.from, report);
            self.resolve_doubt();
        }
    }

    // R37: whatever was committed with this peer's help is in the log of one of any majority whose
    // logs are whole, or, where all are in doubt, of one of all. With a log as far as those this
    // one lacks nothing that is committed.
    pub(super) fn resolve_doubt(&mut self) {
        if !self.tail_in_doubt || !matches!(self.part, Part::Follower) {
            return;
        }
        let voters = self.log.voters();
        let whole =
            |peer: &PeerId| self.tail_reports.get(peer).is_some_and(|report| !report.in_doubt);
        let all =
            voters.peers().all(|peer| *peer == self.me || self.tail_reports.contains_key(peer));
        let enough = all || is_majority(voters, |peer, _| whole(peer));
        if !enough && !planted(Bug::DoubtEndsEarly) {
            return;
        }
        let furthest = self.tail_reports.iter().max_by_key(|(_, report)| report.last);
        match furthest.map(|(peer, report)| (*peer, report.last)) {
            Some((peer, last)) if last > self.log.last() => {
                self.adopt_from(peer);
            }
            _ => self.end_doubt(),
        }
    }

    pub(super) fn end_doubt(&mut self) {
        self.tail_in_doubt = false;
        self.tail_reports.clear();
    }
}

/// Whether the entries follow `previous` and each other without a gap, and their terms do not fall.
fn is_chain(previous: Position, entries: &[Arc<Entry>]) -> bool {
    let mut last = previous;
    entries.iter().all(|entry| {
        let follows = entry.index == last.index + 1 as Index && entry.term >= last.term;
        last = Position { term: entry.term, index: entry.index };
        follows
    })
}
