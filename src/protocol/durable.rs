//! What becomes durable, and what follows from it: appending, cutting, committing, confirming.

use std::collections::VecDeque;
use std::sync::Arc;

use super::election::Doubt;
use super::event::Notice;
use super::evidence::Findings;
use super::log::Log;
use super::part::Part;
use super::planted::{Bug, planted};
use super::replica::Replica;
use super::time::{Instant, Micros};
use super::timers::Estimate;
use super::types::{Ballot, Entry, Index, Membership, Number, Pasts, Payload, PeerId, Position};

/// What a store keeps beside the terms, the log and the outbox.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Kept {
    pub read: Index,
    /// The furthest that this log has ever been, where it was cut since (R9).
    pub furthest: Position,
    /// The store has lost the end of the log, and it is not known yet what of it was said (R37).
    pub doubt: Option<Doubt>,
    /// What other peers have said of themselves (R9).
    pub pasts: Pasts,
    /// Peers that were found out (L6).
    pub evidence: Findings,
    /// Who removed this peer, if it did not leave by itself.
    pub removed_by: Option<PeerId>,
}

/// How durable everything is. A number of a `Ready` stands for all that it makes durable.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Durability {
    /// The last `Ready` that is known to be durable.
    pub persisted_ready: u64,
    /// The `Ready` that makes the term durable.
    pub term_ready: u64,
    /// Up to here the log is.
    pub synced: Index,
    /// Each `Ready` on its way with the end of the log that it has.
    pub unsynced: VecDeque<(u64, Index)>,
    pub commit_persisted: Index,
    pub checkpoint_index: Index,
    /// At the latest then, what waits for a sync causes one.
    pub flush_at: Option<Instant>,
    /// From then on, what changed in the pasts is written down with the next sync.
    pub pasts_due_at: Option<Instant>,
    pub later: Later,
    /// How long a sync takes.
    pub syncs: Estimate,
}

impl Durability {
    /// All of a log that a store has recovered is durable.
    pub fn of(log: &Log, checkpoint_index: Index) -> Self {
        Self {
            persisted_ready: 0,
            term_ready: 0,
            synced: log.last().index,
            unsynced: VecDeque::new(),
            commit_persisted: log.commit(),
            checkpoint_index,
            flush_at: None,
            pasts_due_at: None,
            later: Later::default(),
            syncs: Estimate::default(),
        }
    }
}

/// Changes of the store that nothing relies on, so that no sync is made for them alone.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Later {
    pub outbox_remove_through: Option<Number>,
    pub request_ids: Vec<(String, Index)>,
}

impl Replica {
    pub(super) fn on_persisted(&mut self, ready: u64, sync_us: Micros) {
        self.durability.syncs.add(sync_us);
        self.durability.persisted_ready = self.durability.persisted_ready.max(ready);
        self.outbox.synced(ready);
        while let Some((number, index)) = self.durability.unsynced.front().copied() {
            if number > ready {
                break;
            }
            self.durability.synced = self.durability.synced.max(index.min(self.log.last().index));
            self.durability.unsynced.pop_front();
        }
        if let Part::Candidate(candidacy) = &mut self.part
            && candidacy.own_vote_ready.is_some_and(|own| own <= ready)
        {
            candidacy.own_vote_ready = None;
            let (term, end) = (self.hard_state.term, self.log.end());
            let (candidate, incarnation) = (self.me, self.incarnation);
            let ballot = Ballot { generation: self.generation, term, candidate, incarnation, end };
            candidacy.votes.insert(self.me, self.signer.vote(&ballot, candidate, incarnation));
            if !planted(Bug::VotesTimedFromStart) {
                // The voters' syncs may take as long as the own one has.
                let own_us = 2 * self.now.since(candidacy.since);
                let own_us = own_us.min(2 * self.config.lease_max_us);
                let deadline = self.now + self.time_for_votes().max(own_us);
                let Part::Candidate(candidacy) = &mut self.part else { return };
                candidacy.deadline = deadline;
            }
            self.count_votes();
            self.count_refusals();
        }
    }

    /// Whether the term that this peer is in is on its disk.
    pub(super) fn is_term_durable(&self) -> bool {
        self.durability.persisted_ready >= self.durability.term_ready
    }

    /// Whether something is on its way to the disk, or will be with this `Ready`.
    pub(super) fn is_syncing(&self) -> bool {
        let due = self.durability.flush_at.is_some_and(|at| self.now >= at);
        let written = self.durability.persisted_ready + 1 < self.ready_count;
        written || due || !self.ready.persist.is_empty()
    }

    /// Commits up to `index` and does what follows.
    pub(super) fn commit_to(&mut self, index: Index) {
        if index <= self.log.commit() {
            return;
        }
        let mut present = self.log.state().is_present(self.me, self.incarnation);
        let committed = self.log.commit_to(index);
        let mut members_changed = false;
        for entry in &committed {
            members_changed |=
                matches!(entry.payload, Payload::Membership(_) | Payload::VoterChange(_));
            let is_own = entry.author == self.me;
            if (is_own || planted(Bug::OutboxClearedByAnother)) && entry.number > 0 {
                self.confirm(entry);
            }
        }
        if members_changed {
            self.ready.notices.push(Notice::Members);
            let gone: Vec<_> = committed.iter().filter_map(|entry| removed_by(entry)).collect();
            for peer in gone {
                if !self.log.state().members.contains_key(&peer) {
                    self.forget(peer);
                }
            }
            // One who comes back reads of the end of an earlier membership as it catches up.
            let own = |entry: &&Arc<Entry>| {
                entry.author == self.me && entry.incarnation == self.incarnation
            };
            present |= committed.iter().any(|entry| own(&entry));
            if present && !self.log.state().members.contains_key(&self.me) {
                let former = self.log.state().former_members.get(&self.me);
                self.end_own_membership(former.and_then(|former| former.removed_by));
            }
        }
        let is_host = matches!(self.part, Part::Host(_));
        let has_news = members_changed || !planted(Bug::LastHostLeftBehind);
        let nobody_stays = || self.log.state().active().next().is_none();
        if present && !is_host && !self.has_gone && has_news && nobody_stays() {
            // Everybody leaves: there will be no host to say that this membership has ended. That
            // holds for the one as well who hosted when that was committed, and does no more.
            self.end_own_membership(self.removed_by_whom());
        }
        self.ready.committed.extend(committed);
        self.durability.flush_at.get_or_insert(self.now + self.config.flush_us);
    }

    /// R34: this peer's own submission stands committed in its own log. One of an earlier
    /// incarnation counts for its request id only: whoever repeats that finds it.
    fn confirm(&mut self, entry: &Entry) {
        if let Payload::Message { request_id, .. } = &entry.payload {
            self.durability.later.request_ids.push((request_id.clone(), entry.index));
        }
        let is_of_now = entry.author == self.me && entry.incarnation == self.incarnation;
        if !is_of_now && !planted(Bug::OutboxClearedByAnother) {
            return;
        }
        self.clear_outbox_through(entry.number);
        let (number, index) = (entry.number, entry.index);
        self.ready.notices.push(Notice::Confirmed { number, index });
    }

    /// After a restart: what the committed log already has need not wait in the outbox. That is so
    /// after a recovery (R30); whoever repeats such a request must find it.
    pub(super) fn confirm_from_log(&mut self) {
        let confirmed = self.log.state().submissions.last(self.me, self.incarnation);
        let Some(first) = self.outbox.queue.front().map(|first| first.number) else { return };
        for index in self.log.base() + 1..=self.log.commit() {
            let Some(entry) = self.log.entry(index) else { continue };
            let is_own = entry.author == self.me && entry.incarnation == self.incarnation;
            if let Payload::Message { request_id, .. } = &entry.payload
                && is_own
                && entry.number >= first
            {
                self.durability.later.request_ids.push((request_id.clone(), index));
            }
        }
        self.clear_outbox_through(confirmed);
    }

    pub(super) fn clear_outbox_through(&mut self, number: Number) {
        if self.outbox.confirm_through(number) {
            self.durability.later.outbox_remove_through = Some(number);
            self.is_over_quota = false;
        }
    }

    /// Only who has gone is forgotten: a peer that catches up is linked to members that its log
    /// does not name yet.
    fn forget(&mut self, peer: PeerId) {
        self.world.forget(peer);
        self.kept.pasts.retain(|(other, _), _| *other != peer);
    }

    /// Adds what may wait for a sync to one that happens anyway, or causes one when it has waited
    /// long enough.
    pub(super) fn flush_store(&mut self) {
        let due = self.durability.flush_at.is_some_and(|at| self.now >= at);
        if self.ready.persist.is_empty() && !due {
            return;
        }
        self.durability.flush_at = None;
        let commit = self.log.commit();
        let later = std::mem::take(&mut self.durability.later);
        let persist = &mut self.ready.persist;
        persist.outbox_remove_through = later.outbox_remove_through;
        persist.request_ids = later.request_ids;
        if commit > self.durability.commit_persisted {
            self.durability.commit_persisted = commit;
            persist.commit = Some(commit);
        }
        if self.durability.pasts_due_at.take_if(|at| self.now >= *at).is_some() {
            persist.pasts = Some(Arc::new(self.kept.pasts.clone()));
        }
        if commit >= self.durability.checkpoint_index + self.config.checkpoint_every {
            self.durability.checkpoint_index = commit;
            persist.checkpoint = Some(Arc::new(self.log.checkpoint()));
        }
        let stored = if planted(Bug::UnstoredRead) { Index::MAX } else { self.durability.synced };
        self.log.shrink_window(self.config.window_entries, self.config.window_bytes, stored);
    }

    /// Cuts the log; what was not durable yet no longer will be.
    pub(super) fn truncate_from(&mut self, from: Index) {
        // R9: what was acknowledged of it stays said.
        self.kept.furthest = self.kept.furthest.max(self.log.last());
        self.ready.persist.furthest = Some(self.kept.furthest);
        self.log.truncate_from(from);
        self.durability.synced = self.durability.synced.min(from - 1);
        for (_, index) in &mut self.durability.unsynced {
            *index = (*index).min(from - 1);
        }
        let persist = &mut self.ready.persist;
        persist.entries.retain(|entry| entry.index < from);
        persist.truncate_from = Some(persist.truncate_from.map_or(from, |other| other.min(from)));
    }

    /// Appends an entry, to be durable with this `Ready`.
    pub(super) fn append(&mut self, entry: Arc<Entry>) {
        self.log.append(Arc::clone(&entry));
        if matches!(entry.payload, Payload::TermStart(_)) {
            self.sources.reign = Some(Arc::clone(&entry));
        }
        self.ready.persist.entries.push(entry);
    }
}

/// Whose membership the entry ends.
fn removed_by(entry: &Entry) -> Option<PeerId> {
    match &entry.payload {
        Payload::Membership(
            Membership::Removed { peer }
            | Membership::Removing { peer }
            | Membership::InviteRevoked { peer },
        ) => Some(*peer),
        Payload::Membership(Membership::Declined) => Some(entry.author),
        _ => None,
    }
}
