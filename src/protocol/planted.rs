//! Mistakes that can be planted on purpose, one at a time, to see that the tests find each of them.
//!
//! Each stands at its place in the rules as `planted(Bug::…)`. That is `false`, and the compiler
//! removes it, unless this package is built with the feature `planted`; the program refuses to be
//! built with that (`src/lib.rs`), and `tests/mutation` is what builds it.

use super::host::Hosting;
use super::message::Body;
use super::replica::Replica;
use super::types::{Index, PeerId};

/// Whether mistakes can be planted in this build.
pub const PLANTED: bool = cfg!(feature = "planted");

/// Each mistake with the rule that it breaks, and what it does.
macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $rule:ident $bug:ident,)+) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        impl Bug {
            pub const ALL: &[Self] = &[$(Self::$bug),+];

            /// The rule that it breaks, and what it does.
            pub fn description(self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$bug => (stringify!($rule), concat!($($what),+)),)+
                }
            }
        }
    };
}

bugs! {
    // ---- voting and standing ----
    /// A vote is granted whatever log the candidate has.
    R2 LogCheckSkipped,
    /// A vote is granted though it was given to another.
    R1 VotedTwice,
    /// A vote leaves before it is durable.
    R1 VoteBeforeSync,
    /// A candidate asks for votes before its own is durable.
    R1 RequestBeforeSync,
    /// A vote is refused to whoever is not first on the ranked list.
    R2 RankIsVeto,
    /// A voter that hears its host votes for another all the same.
    R2 LeaseIgnoredByVoter,
    /// A host's permission to succeed it is good in later terms too.
    R2 PermissionOutlivesTerm,
    /// A vote is refused to who is not in the voter's own set.
    R7 OutsiderRefused,
    /// A vote is refused by who is not in its own set.
    R7 RemovedRefusesVote,
    /// Half of an even number of voters is taken for a majority.
    R3 HalfIsMajority,
    /// A restarted voter suspects at once.
    R14 RestartSuspectsAtOnce,
    /// A nomination raises the nominee's term.
    R15 NominationRaisesTerm,
    /// The suspected host is nominated.
    R15 SuspectedNominated,
    /// A nominee stands though it hears the host.
    R16 NomineeDoesNotHold,
    /// A nominee stands with a log that is behind its nominators'.
    R17 NominationIgnoresLog,
    /// The back-off of the fallback is the same each time, for everybody.
    R20 BackOffNotDrawn,
    /// A candidate adopts a log that it asked for before.
    R10 CandidateAdopts,
    /// A log of a later term is adopted without raising the own term.
    R10 AdoptionKeepsTerm,
    /// Requests of an older term are dropped in silence.
    R8 RefusalUnsaid,
    /// One peer's word is enough for a term far ahead.
    R11 LeapBelieved,

    // ---- the log ----
    /// The host counts its own copy before it is durable.
    R3 HostCountsEarly,
    /// The host counts a learner's copy.
    R3 LearnerCounts,
    /// The host counts the copy of a voter's new incarnation for the old one's.
    R9 IncarnationNotCounted,
    /// Copies commit an entry of an older term.
    R3 OlderTermCommitted,
    /// An `Append` names its last entry as committed.
    R3 CommitAheadOfQuorum,
    /// A follower commits what it has not compared with the host's log.
    R3 UnmatchedCommitted,
    /// An acknowledgement leaves before what it names is durable.
    R3 AcknowledgedBeforeSync,
    /// A follower acknowledges what it has not compared with the host's log.
    R35 UnmatchedAcknowledged,
    /// An acknowledgement of an older attach counts for the newest.
    R35 OlderAttachCounts,
    /// What the host knows a follower to have goes back.
    R35 MatchGoesBack,
    /// The host leaves out the first entry that a follower lacks.
    R35 CursorOffByOne,
    /// A follower cuts where the host tells it to look back.
    R35 CutsAtLookBack,
    /// A follower cuts an entry of its host's own term.
    R35 CutsOwnTerm,
    /// Two entries of one term at one index are taken for the same.
    R35 ContentNotCompared,
    /// A member passes on what is not committed.
    R35 UncommittedRelayed,
    /// A member passes the log on to an outsider.
    R35 OutsiderRelayed,
    /// A removed member is still sent entries.
    R35 RemovedStillServed,

    // ---- the host ----
    /// The host serves before its `TermStart` is committed.
    R4 ServesAtOnce,
    /// A host without contact to a quorum does not pause.
    R22 NeverPauses,
    /// A paused host's heartbeats renew leases.
    R22 PausedStillHeartbeats,
    /// Contact is dated by when the answer arrived.
    R22 ContactDatedByArrival,
    /// Entries renew the lease as heartbeats do.
    R22 FeedRenewsLease,
    /// A host hands over to a member that lacks entries.
    R23 HandOverToLagging,
    /// A host waits for its successor for ever, and accepts nothing meanwhile.
    R23 HandOverNeverEnds,

    // ---- voters ----
    /// A voter set is in force only once it is committed.
    R5 VotersOnCommit,
    /// Cutting the log does not roll the voter set back.
    R5 VotersNotRolledBack,
    /// A second voter change follows before the first is committed.
    R6 TwoVoterChanges,
    /// A voter change comes before `TermStart` is committed.
    R6 VoterChangeBeforeTermStart,
    /// Messages for another incarnation are taken.
    R9 WrongIncarnationTaken,
    /// A peer does not notice that its store is older than its own past.
    R9 PastIgnored,
    /// One whom the voters cannot dial keeps its vote.
    R25 UndialledKeepsVote,
    /// A goodbye is forgotten.
    R26 GoodbyeForgotten,
    /// Voters are taken out down to the last.
    R27 FloorIgnored,
    /// Voters are taken out one by one, to even numbers too.
    R27 EvenVoters,
    /// One who comes back counts as here at once.
    R28 BackAtOnce,

    // ---- messages ----
    /// The host takes its own submission before it is durable.
    R31 OwnSubmissionEarly,
    /// A new host knows of no submissions made before it.
    R32 DuplicatesForgotten,
    /// The host takes a number that leaves a gap.
    R32 GapAccepted,
    /// On a new host, what was sent to the old one is not sent again.
    R33 NotSentAgain,
    /// A submission leaves the outbox when it is sent.
    R34 OutboxClearedOnSend,
    /// A submission leaves the outbox when another's of that number is committed.
    R34 OutboxClearedByAnother,

    // ---- members ----
    /// An invite link lets in more than it has uses.
    R43 InviteReusable,
    /// A link that was made before a member was removed brings that one back.
    R43 LinkBringsBackRemoved,

    // ---- doubt ----
    /// A peer whose log was cut votes.
    R37 DoubtVotes,
    /// A peer whose log was cut knows nothing of it.
    R37 DoubtIgnored,
    /// A peer whose log was cut trusts it again at any voter's word.
    R37 DoubtEndsEarly,
}

/// Whether a message leaves before the sync that it relies on.
pub(crate) fn is_too_early(body: &Body) -> bool {
    match body {
        Body::Vote(_) => planted(Bug::VoteBeforeSync),
        Body::RequestVote(_) => planted(Bug::RequestBeforeSync),
        Body::Acknowledge(_) => planted(Bug::AcknowledgedBeforeSync),
        _ => false,
    }
}

impl Replica {
    /// Whether that peer is the best candidate, which must not matter to a vote.
    pub(super) fn is_first_ranked(&self, peer: PeerId) -> bool {
        self.ranking.candidates.first().is_none_or(|first| first.peer == peer)
    }
}

impl Hosting {
    /// How far anybody is, voter or not.
    pub(super) fn furthest_copy(&self) -> Index {
        self.progress.values().map(|progress| progress.matched).max().unwrap_or(0)
    }
}

#[cfg(not(feature = "planted"))]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use switch::plant;
#[cfg(feature = "planted")]
pub(crate) use switch::planted;

/// The only state that is shared by replicas, and only in a build for `tests/mutation`.
#[cfg(feature = "planted")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    const NONE: u8 = u8::MAX;
    static CHOSEN: AtomicU8 = AtomicU8::new(NONE);

    /// Plants this mistake in every replica of the process, in place of the one before.
    pub fn plant(bug: Option<Bug>) {
        CHOSEN.store(bug.map_or(NONE, |bug| bug as u8), Ordering::SeqCst);
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        CHOSEN.load(Ordering::Relaxed) == bug as u8
    }
}
