//! Taking over a longer log before standing (R10), and how doubt about one's own log ends (R37).
//!
//! A nominee whose nominators are ahead of it fetches what it lacks from the furthest of them. That
//! is safe because the other log was some host's: if its last term is the same, it goes on where
//! this one ends; if it is later, it has everything that was committed before that term, and what
//! conflicts with it here can never be committed any more, since a majority had voted for a host
//! without it. So that this peer cannot help to commit it all the same, its own term is raised to
//! the adopted one in the same sync.
//!
//! All of that holds for a log that is further than the own one, and for no other: what comes in
//! pieces is put together first, and an answer that was asked for in another situation is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::LinkState;
use crate::evidence::Offence;
use crate::log::quorum::is_majority;
use crate::message::{Body, FetchLog, FetchLogAnswer, Message, RefusedReason, WithdrawReason};
use crate::part::Part;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::time::Instant;
use crate::types::{Entry, Index, Membership, Payload, PeerId, Position, Term};

/// A fetch that is on its way. It ends with the situation that it began in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Adoption {
    pub from: PeerId,
    /// Counts the fetches; the answer names it.
    pub fetch: u64,
    /// The position that was asked about last: one of the own log, or the end of `pieces`.
    pub look: Position,
    pub deadline: Instant,
    /// The end of the own log when the fetch began.
    pub own_last: Position,
    /// What has come so far, without a gap, and its bytes.
    pub pieces: Vec<Arc<Entry>>,
    pub bytes: usize,
}

/// What a voter has said of the end of its log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TailReport {
    pub term: Term,
    pub last: Position,
    /// It may have lost something itself.
    pub in_doubt: bool,
    /// It says that a host is alive.
    pub is_served: bool,
}

/// The last batch of this store was torn (R37): what was acknowledged may be missing here.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Doubt {
    /// What was acknowledged and lost was acknowledged in this term at the latest.
    pub term: Term,
    /// What the voters have said of their tails.
    pub reports: BTreeMap<PeerId, TailReport>,
}

impl Replica {
    // ---- asking ----

    /// Fetches what it lacks from `from`. Whether that is on its way.
    pub(super) fn adopt_from(&mut self, from: PeerId) -> bool {
        if self.search.adoption.is_none() && self.world.links.get(&from) == Some(&LinkState::Up) {
            let adoption = Adoption {
                from,
                fetch: 0,
                look: self.log.last(),
                deadline: self.now,
                own_last: self.log.last(),
                pieces: Vec::new(),
                bytes: 0,
            };
            self.fetch_log(adoption);
        }
        self.search.adoption.is_some()
    }

    /// Asks for what follows `adoption.look`.
    fn fetch_log(&mut self, adoption: Adoption) {
        self.fetch_count += 1;
        let fetch = self.fetch_count;
        let deadline = self.now + 2 * self.round();
        let (from, look) = (adoption.from, adoption.look);
        self.search.adoption = Some(Adoption { fetch, deadline, ..adoption });
        let term = self.hard_state.term;
        self.send(from, Body::FetchLog(FetchLog { term, fetch, look }));
    }

    pub(super) fn adoption_on_time(&mut self) {
        let now = self.now;
        let overdue = self.search.adoption.take_if(|adoption| now >= adoption.deadline).is_some();
        if overdue && self.search.suspicion.is_some() {
            self.withdraw(WithdrawReason::LogBehind);
        }
    }

    // ---- answering ----

    /// Gives a member what follows the position that it looks at, as far as this peer has it in
    /// memory, or says where to look back. One whose gap is larger than that is not the one to
    /// host next, and gets nothing.
    pub(crate) fn on_fetch_log(&mut self, message: &Message, fetch: FetchLog) {
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

    // R10: only a follower that hears no host adopts, and only what it asked for as the one that it
    // still is. What arrives after it stood, followed a host, or wrote into its log, knows nothing
    // of what it has acknowledged by then.
    pub(crate) fn on_fetch_log_answer(&mut self, message: &Message, answer: &FetchLogAnswer) {
        let awaited = |adoption: &mut Adoption| {
            adoption.from == message.from && adoption.fetch == answer.fetch
        };
        let Some(adoption) = self.search.adoption.take_if(awaited) else { return };
        let hears_nobody =
            matches!(self.part, Part::Follower(_)) && self.now >= self.lease.suspect_at;
        let unchanged = adoption.own_last == self.log.last();
        if !(hears_nobody || planted(Bug::CandidateAdopts))
            || !(unchanged || planted(Bug::LateLogAdopted))
        {
            return;
        }
        let leads_on = match self.look_back_for_adoption(&adoption, answer) {
            Some(adoption) => {
                self.fetch_log(adoption);
                true
            }
            None => answer.look_back.is_none() && self.collect(adoption, message, answer),
        };
        if !leads_on {
            self.withdraw(WithdrawReason::LogBehind);
        }
    }

    /// Where to go on where the other does not have the position that was asked about. What has
    /// come so far is its own, so that it says this only at the beginning.
    fn look_back_for_adoption(
        &self,
        adoption: &Adoption,
        answer: &FetchLogAnswer,
    ) -> Option<Adoption> {
        let index = answer.look_back?.max(self.log.commit());
        let goes_back = index < adoption.look.index && adoption.pieces.is_empty();
        let term = self.log.term_at(index).filter(|_| goes_back)?;
        Some(Adoption { look: Position { term, index }, ..adoption.clone() })
    }

    /// Takes a piece, and the whole once it is further than the own log. Whether that leads on.
    fn collect(
        &mut self,
        mut adoption: Adoption,
        message: &Message,
        answer: &FetchLogAnswer,
    ) -> bool {
        let fits = answer.previous == adoption.look && is_chain(adoption.look, &answer.entries);
        let Some(last) = answer.entries.last().filter(|_| fits) else { return false };
        let end = Position { term: last.term, index: last.index };
        adoption.bytes += answer.entries.iter().map(|entry| entry.size()).sum::<usize>();
        adoption.pieces.extend(answer.entries.iter().cloned());
        let is_further = end > self.log.last();
        let anyway = planted(Bug::PiecesAdopted) || planted(Bug::LateLogAdopted);
        if !is_further && !anyway {
            // A piece that ends in what both have, or in what the own log has in place of it.
            let leads_on = answer.last > self.log.last()
                && adoption.bytes <= self.config.window_bytes
                && answer.last > end;
            if leads_on {
                self.fetch_log(Adoption { look: end, ..adoption });
            }
            return leads_on;
        }
        if !self.adopt(message.from, &adoption.pieces) {
            return false;
        }
        if answer.last > self.log.last() {
            self.adopt_from(message.from);
            return true;
        }
        self.resolve_doubt();
        self.try_stand();
        true
    }

    /// Puts a part of another log, which is further, in the place of what this one has there.
    /// Whether this log ends where that one does.
    pub(crate) fn adopt(&mut self, from: PeerId, entries: &[Arc<Entry>]) -> bool {
        let Some(last) = entries.last() else { return false };
        if !self.is_proven_part(entries) {
            return false;
        }
        let position = Position { term: last.term, index: last.index };
        if last.term > self.hard_state.term && !planted(Bug::AdoptionKeepsTerm) {
            self.enter_term(last.term);
        } else {
            // Where a host of this very term is known, its log is attached to anew.
            self.part.detach();
        }
        for entry in entries {
            // L6: where an earlier host has shown two different entries, the further log counts.
            let has_term = self.log.term_at(entry.index) == Some(entry.term);
            if has_term && self.log.hash_at(entry.index).is_none_or(|own| own == entry.hash) {
                continue;
            }
            if entry.index <= self.log.commit() {
                self.blame(from, Offence::MemberAgainstCommitted);
                return false;
            }
            if self.log.hash_at(entry.index - 1) != Some(entry.previous) {
                self.blame(from, Offence::BrokenChain);
                return false;
            }
            if let Some(what) = self.log.misfit(entry) {
                self.blame(from, what);
                return false;
            }
            if self.is_foreign_word(from, entry) {
                return false;
            }
            if entry.index <= self.log.last().index {
                self.truncate_from(entry.index);
            }
            self.append(Arc::clone(entry));
        }
        self.log.has(position)
    }

    // L3: one reign after the other, before anything is cut. R30: a running chat is not recovered.
    fn is_proven_part(&self, entries: &[Arc<Entry>]) -> bool {
        let first = entries.first().and_then(|first| first.index.checked_sub(1));
        let Some(mut reading) = first.and_then(|before| self.log.reading_from(before)) else {
            return false;
        };
        entries.iter().all(|entry| {
            let recovers =
                matches!(entry.payload, Payload::Membership(Membership::Recovered { .. }));
            let may = reading.read(entry) && !recovers;
            may || planted(Bug::AdoptedUnproven)
        })
    }

    // ---- doubt (R37) ----

    /// Whether this peer may lack what it has acknowledged.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.kept.doubt.is_some()
    }

    /// Takes note of the end of a voter's log while the own one is in doubt.
    pub(super) fn on_tail_report(&mut self, message: &Message, report: TailReport) {
        let is_voting = self.is_voting(message.from, message.from_incarnation);
        if let Some(doubt) = self.kept.doubt.as_mut().filter(|_| is_voting) {
            doubt.reports.insert(message.from, report);
            self.resolve_doubt();
        }
    }

    // R37: whatever was committed with this peer's help is in the log of one of any majority whose
    // logs are whole, and who can no longer help to commit what was lost: they are in a later term
    // than the one in which it was acknowledged at the latest. Where that is nobody, all must have
    // said that they hear no host, so that nobody is left who would count this peer's old word.
    // With a log as far as those this one lacks nothing that is committed.
    pub(super) fn resolve_doubt(&mut self) {
        let Some(doubt) =
            self.kept.doubt.as_ref().filter(|_| matches!(self.part, Part::Follower(_)))
        else {
            return;
        };
        let voters = self.log.voters();
        let early = planted(Bug::DoubtReportsEarly);
        let report = |peer: &PeerId| doubt.reports.get(peer).filter(|it| early || !it.is_served);
        let whole = |peer: &PeerId| {
            report(peer).is_some_and(|it| !it.in_doubt && (early || it.term > doubt.term))
        };
        let all = voters.peers().all(|peer| *peer == self.me || report(peer).is_some());
        let enough = all || is_majority(voters, |peer, _| whole(peer));
        if !enough && !planted(Bug::DoubtEndsEarly) {
            return;
        }
        let furthest = doubt.reports.iter().max_by_key(|(_, report)| report.last);
        match furthest.map(|(peer, report)| (*peer, report.last)) {
            Some((peer, last)) if last > self.log.last() => {
                self.adopt_from(peer);
            }
            _ => self.kept.doubt = None,
        }
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
