//! What a member takes from the log that it is shown, and what it makes of the rest (R35, L4, L6).

use std::sync::Arc;

use super::following::Hint;
use crate::evidence::Offence;
use crate::planted::{Bug, planted};
use crate::replica::Replica;
use crate::types::{Entry, Index, Membership, Payload, PeerId, Position, Term};

impl Replica {
    // L6: what cannot be of an honest host is this host's fault, and nothing is cut for it.
    /// Whether the entry stands in the log afterwards. It is one of those that come after `since`.
    pub(super) fn take_entry(
        &mut self,
        from: PeerId,
        entry: &Arc<Entry>,
        since: Index,
        host_term: Term,
    ) -> bool {
        let own = self.log.term_at(entry.index);
        let commit = self.log.commit();
        if own == Some(entry.term) {
            let same = self.log.hash_at(entry.index).is_none_or(|own| own == entry.hash);
            if same || planted(Bug::ContentNotCompared) {
                return true;
            }
        }
        if own.is_some() {
            if entry.index <= commit && !planted(Bug::CutsCommitted) {
                self.blame(from, Offence::HostAgainstCommitted);
                return false;
            }
            if own == Some(host_term) && !planted(Bug::CutsOwnTerm) {
                self.blame(from, Offence::TwoEntries);
                return false;
            }
        }
        let before = self.log.last();
        let follows = own.is_some() || entry.index == before.index + 1;
        let term_before = self.log.term_at(entry.index - 1).unwrap_or(0);
        if !follows || entry.term < term_before || entry.term > host_term {
            return false;
        }
        let chained = self.log.hash_at(entry.index - 1).is_none_or(|hash| hash == entry.previous);
        if !chained && !planted(Bug::ChainNotChecked) {
            self.on_broken_chain(from, entry, since);
            return false;
        }
        if let Some(what) = self.log.misfit(entry) {
            self.blame(from, what);
            return false;
        }
        // R30: a running chat is never recovered; only a log on its way to its own generation
        // still meets recoveries.
        let arrived =
            self.log.state().generation == self.generation && !planted(Bug::RunningChatRecovered);
        if arrived && matches!(entry.payload, Payload::Membership(Membership::Recovered { .. })) {
            self.blame(from, Offence::RunningChatRecovered);
            return false;
        }
        // L3: a reign that is proven does not make true what came before it, or comes in it.
        let is_admitted = match own {
            None => self.log.admits(entry),
            Some(_) => self.log.head_at(entry.index - 1).is_none_or(|head| head.admits(entry)),
        };
        if !is_admitted {
            let own = self.log.generation_at(entry.index - 1);
            let is_elsewhere = own.is_some_and(|own| own != entry.generation);
            let what = if is_elsewhere { Offence::AnotherCourse } else { Offence::NotChosen };
            self.blame(from, what);
            return false;
        }
        if self.is_foreign_word(from, entry) {
            return false;
        }
        if own.is_some() {
            self.truncate_from(entry.index);
        }
        self.append(Arc::clone(entry));
        let is_new = self.part.attached().is_some_and(|attached| attached.caught_up);
        if is_new {
            self.count_added(entry);
        }
        true
    }

    // L6: an earlier host may have shown this peer another entry than the others, which is in its
    // log and not committed. What is committed here, both have; where they go on from there shows
    // which of the two it is.
    pub(super) fn on_broken_chain(&mut self, from: PeerId, entry: &Entry, since: Index) {
        let commit = self.log.commit();
        let Some(attached) = self.part.attached() else { return };
        if entry.index != since + 1 || since <= commit {
            self.blame(from, Offence::BrokenChain);
            return;
        }
        let reign = Hint { host: attached.host, term: attached.term };
        let term = self.log.term_at(commit).unwrap_or(0);
        self.attach_at(from, reign, Position { term, index: commit });
    }
}
