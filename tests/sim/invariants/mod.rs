//! What must hold: one file for each invariant, with its reason.
//!
//! They see every step of every replica, every message that leaves, and every sync of a simulated
//! disk, and compare that with the oracle. They keep their own books and believe no replica.

mod acknowledged_is_synced;
mod as_submitted;
mod author_order;
mod commit_never_back;
mod committed_everywhere_alike;
mod confirmed_is_kept;
mod feed_gap_free;
mod log_matching;
mod new_host_is_complete;
mod nothing_unsynced_is_told;
mod old_words_are_over;
mod one_host_per_term;
mod one_vote_per_term;
mod only_committed_is_relayed;
mod only_members_are_sent;
mod outbox_is_kept;
mod own_term_first;
mod paused_confirms_nothing;
mod paused_renews_nothing;
mod quorum_is_synced;
mod receipts_are_bounded;
mod receipts_only_grow;
mod successor_is_complete;
mod voters_in_force;
mod voters_step_by_step;
mod votes_go_to_full_logs;

use std::env;
use std::sync::OnceLock;

use demes_protocol::Replica;
use demes_protocol::event::{Persist, Ready, Status};
use demes_protocol::message::Message;
use demes_protocol::types::{Index, Number};

use super::oracle::Oracle;
use super::world::Peer;

/// What does not hold, and how that was seen.
#[derive(Clone, Debug)]
pub struct Broken {
    pub invariant: &'static str,
    pub what: String,
}

/// One step of one replica, before anything of its `Ready` has been done and before the oracle
/// knows what it commits.
pub struct Step<'a> {
    pub peer: usize,
    pub peers: &'a [Peer],
    pub replica: &'a Replica,
    pub before: &'a Status,
    pub status: &'a Status,
    pub ready: &'a Ready,
    pub oracle: &'a Oracle,
}

/// A message that leaves.
pub struct Sent<'a> {
    pub peer: usize,
    pub to: usize,
    pub peers: &'a [Peer],
    pub message: &'a Message,
    pub oracle: &'a Oracle,
}

/// A `Ready` that has just become durable.
pub struct Synced<'a> {
    pub peer: usize,
    pub peers: &'a [Peer],
    pub persist: &'a Persist,
    pub oracle: &'a Oracle,
}

/// A person is told that a submission is confirmed.
pub struct Confirmed<'a> {
    pub peer: &'a Peer,
    pub number: Number,
    pub index: Index,
    pub oracle: &'a Oracle,
}

/// The end: what the healed peers have.
pub struct End<'a> {
    pub healed: &'a [usize],
    pub peers: &'a [Peer],
    pub oracle: &'a Oracle,
}

/// One thing that must hold. The error says how it does not.
trait Invariant {
    /// What it says, in a few words.
    fn name(&self) -> &'static str;
    /// A process has started.
    fn start(&mut self, _peer: usize, _status: &Status) {}
    fn after_step(&mut self, _step: &Step) -> Result<(), String> {
        Ok(())
    }
    fn on_sent(&mut self, _sent: &Sent) -> Result<(), String> {
        Ok(())
    }
    fn after_sync(&mut self, _synced: &Synced) -> Result<(), String> {
        Ok(())
    }
    fn on_confirmed(&mut self, _confirmed: &Confirmed) -> Result<(), String> {
        Ok(())
    }
    fn at_end(&mut self, _end: &End) -> Result<(), String> {
        Ok(())
    }
}

/// Whether `IGNORE` names it: what is known to be broken would hide the rest.
pub fn is_ignored(invariant: &str) -> bool {
    static IGNORED: OnceLock<String> = OnceLock::new();
    let ignored = IGNORED.get_or_init(|| env::var("IGNORE").unwrap_or_default());
    ignored.split(',').any(|name| name.trim() == invariant)
}

/// All of them.
pub struct Invariants(Vec<Box<dyn Invariant + Send>>);

impl Invariants {
    pub fn new() -> Self {
        Self(vec![
            Box::new(one_host_per_term::OneHostPerTerm::default()),
            Box::new(one_vote_per_term::OneVotePerTerm::default()),
            Box::new(votes_go_to_full_logs::VotesGoToFullLogs::default()),
            Box::new(committed_everywhere_alike::CommittedEverywhereAlike),
            Box::new(log_matching::LogMatching::default()),
            Box::new(commit_never_back::CommitNeverBack),
            Box::new(quorum_is_synced::QuorumIsSynced::default()),
            Box::new(new_host_is_complete::NewHostIsComplete),
            Box::new(own_term_first::OwnTermFirst),
            Box::new(paused_confirms_nothing::PausedConfirmsNothing),
            Box::new(paused_renews_nothing::PausedRenewsNothing),
            Box::new(author_order::AuthorOrder::default()),
            Box::new(as_submitted::AsSubmitted),
            Box::new(confirmed_is_kept::ConfirmedIsKept),
            Box::new(feed_gap_free::FeedGapFree::default()),
            Box::new(acknowledged_is_synced::AcknowledgedIsSynced),
            Box::new(nothing_unsynced_is_told::NothingUnsyncedIsTold),
            Box::new(only_members_are_sent::OnlyMembersAreSent::default()),
            Box::new(only_committed_is_relayed::OnlyCommittedIsRelayed::default()),
            Box::new(outbox_is_kept::OutboxIsKept),
            Box::new(receipts_are_bounded::ReceiptsAreBounded::default()),
            Box::new(receipts_only_grow::ReceiptsOnlyGrow),
            Box::new(old_words_are_over::OldWordsAreOver),
            Box::new(successor_is_complete::SuccessorIsComplete::default()),
            Box::new(voters_step_by_step::VotersStepByStep::default()),
            Box::new(voters_in_force::VotersInForce::default()),
        ])
    }

    pub fn start(&mut self, peer: usize, status: &Status) {
        for invariant in &mut self.0 {
            invariant.start(peer, status);
        }
    }
    pub fn after_step(&mut self, step: &Step) -> Result<(), Broken> {
        self.all(|invariant| invariant.after_step(step))
    }
    pub fn on_sent(&mut self, sent: &Sent) -> Result<(), Broken> {
        self.all(|invariant| invariant.on_sent(sent))
    }
    pub fn after_sync(&mut self, synced: &Synced) -> Result<(), Broken> {
        self.all(|invariant| invariant.after_sync(synced))
    }
    pub fn on_confirmed(&mut self, confirmed: &Confirmed) -> Result<(), Broken> {
        self.all(|invariant| invariant.on_confirmed(confirmed))
    }
    pub fn at_end(&mut self, end: &End) -> Result<(), Broken> {
        self.all(|invariant| invariant.at_end(end))
    }

    fn all(
        &mut self,
        mut look: impl FnMut(&mut dyn Invariant) -> Result<(), String>,
    ) -> Result<(), Broken> {
        for invariant in &mut self.0 {
            let invariant = invariant.as_mut();
            if let Err(what) = look(invariant)
                && !is_ignored(invariant.name())
            {
                return Err(Broken { invariant: invariant.name(), what });
            }
        }
        Ok(())
    }
}
