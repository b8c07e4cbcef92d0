//! Mistakes that can be planted on purpose, one at a time, to see that the tests find each of them.
//!
//! Each stands at its place in the rules as `planted(Bug::…)`. That is `false`, and the compiler
//! removes it, unless this package is built with the feature `planted`; the program refuses to be
//! built with that (`src/lib.rs`), and `tests/mutation` is what builds it.

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
    /// A vote of an older term is counted.
    R8 OlderVoteCounts,
    /// A vote leaves before it is durable.
    R1 VoteBeforeSync,
    /// A restart forgets whom it has voted for.
    R1 VoteForgotten,
    /// A candidate asks for votes before its own is durable.
    R1 RequestBeforeSync,
    /// A vote is refused to whoever is not first on the ranked list.
    R2 RankIsVeto,
    /// A voter that hears its host votes for another all the same.
    R2 LeaseIgnoredByVoter,
    /// A host's permission to succeed it is good in later terms too.
    R2 PermissionOutlivesTerm,
    /// A host's permission to succeed it is good for others than the successor.
    R2 PermissionForAnyone,
    /// A vote is refused to who is not in the voter's own set.
    R7 OutsiderRefused,
    /// A vote is refused by who is not in its own set.
    R7 RemovedRefusesVote,
    /// One without a vote stands.
    R7 LearnerStands,
    /// Half of an even number of voters is taken for a majority.
    R3 HalfIsMajority,
    /// A restarted voter suspects at once.
    R14 RestartSuspectsAtOnce,
    /// A nomination raises the nominee's term.
    R15 NominationRaisesTerm,
    /// The suspected host is nominated.
    R15 SuspectedNominated,
    /// A nomination counts for ever.
    R15 NominationNeverEnds,
    /// A nominee stands though it hears the host.
    R16 NomineeDoesNotHold,
    /// A nominee stands with a log that is behind its nominators'.
    R17 NominationIgnoresLog,
    /// A voter that has voted nominates the next one at once.
    R17 GrantedNominatesAtOnce,
    /// Who has withdrawn is nominated again.
    R18 WithdrawnNominated,
    /// The back-off of the fallback is the same each time, for everybody.
    R20 BackOffNotDrawn,
    /// A candidate adopts a log that it asked for before.
    R10 CandidateAdopts,
    /// A log of a later term is adopted without raising the own term.
    R10 AdoptionKeepsTerm,
    /// A log that was asked for in another situation is adopted.
    R10 LateLogAdopted,
    /// A log is adopted piece by piece, also where a piece is not further than the own log.
    R10 PiecesAdopted,
    /// Requests of an older term are dropped in silence.
    R8 RefusalUnsaid,
    /// A host that is told of a later term goes on.
    R8 LaterTermIgnored,
    /// One peer's word is enough for a term far ahead.
    R11 LeapBelieved,
    /// A nomination counts from one that cannot be dialled.
    R25 OneWayNominationCounts,

    // ---- reigns ----
    /// A reign needs no votes.
    L3 ReignUnproven,
    /// The entries of a term follow though no reign has begun.
    L3 TermWithoutStart,
    /// What comes before its proof is held without an end.
    L3 TrialUnbounded,
    /// Whoever passes the log on may change the voters in it.
    L3 VotersByAnyone,
    /// A vote counts that was given for another end of the log.
    L3 VoteForAnotherEnd,
    /// Who announces itself hosts.
    L3 AnnouncementBelieved,
    /// Any heartbeat renews the lease.
    L3 AnyHeartbeatRenews,
    /// What a nominator's log has is adopted, whoever hosted there.
    L3 AdoptedUnproven,
    /// A vote is given to one that has none itself, though its log goes no further.
    L5 LearnerVotedFor,
    /// The term of whoever asks for a vote is entered.
    L5 AskedTermEntered,
    /// One that never hosts is voted for as often as it asks.
    L5 VotesInVain,
    /// A host stands anew as often as it is told of a later term.
    L5 RenewedAgain,

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
    /// An acknowledgement of an earlier boot counts.
    R35 OlderBootCounts,
    /// What the host knows a follower to have goes back.
    R35 MatchGoesBack,
    /// An attach that was overtaken by a newer one is taken.
    R8 OvertakenAttachTaken,
    /// A follower passes over entries that leave a gap, and waits for the rest.
    R35 GapPassedOver,
    /// What is not written yet is read from the store all the same, for those who are behind.
    R35 UnstoredRead,
    /// A host never says where what it has sent ends.
    R35 NeverRecalled,
    /// A member that acknowledges nothing is sent entries without end.
    R35 SlowMemberFlooded,
    /// The host leaves out the first entry that a follower lacks.
    R35 CursorOffByOne,
    /// A follower cuts where the host tells it to look back.
    R35 CutsAtLookBack,
    /// A follower cuts an entry of its host's own term.
    R35 CutsOwnTerm,
    /// A follower cuts what is committed.
    R35 CutsCommitted,
    /// An entry that does not hold the hash of the one before is taken.
    R35 ChainNotChecked,
    /// Two entries of one term at one index are taken for the same.
    R35 ContentNotCompared,
    /// A member passes on what is not committed.
    R35 UncommittedRelayed,
    /// A member that does not hear its host passes on what it has.
    R35 RelayWithoutHost,
    /// A member hands in what it is given to pass on as its own.
    R35 RelayedInOwnName,
    /// One who passes the log on and is behind its reader is asked again at once.
    R35 AskedAgainBehind,
    /// An attach to one who passes the log on is taken though a newer one has overtaken it.
    R35 OvertakenRelayTaken,
    /// One in a later term that cannot reach the host reads nothing through others.
    R21 LaterTermReadsNothing,
    /// A member that reads through another never looks for the host again.
    R35 RelayedForEver,
    /// A member reads through another without having looked for the host.
    R35 RelayedAtOnce,
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
    /// A paused host commits.
    R22 PausedCommits,
    /// A host whose disk is stalled does not pause.
    R24 StalledNotPaused,
    /// Entries renew the lease as heartbeats do.
    R22 FeedRenewsLease,
    /// A host that has fallen silent is shown to serve until another is looked for.
    R22 ServedBySilence,
    /// A host hands over to a member that lacks entries.
    R23 HandOverToLagging,
    /// A host waits for its successor for ever, and accepts nothing meanwhile.
    R23 HandOverNeverEnds,
    /// A host hands over what it does not have durably itself.
    R23 HandOverBeforeSync,
    /// A host accepts submissions while it hands over.
    R23 AcceptsWhileHandingOver,
    /// A host that must go asks for successors without a pause, though all have refused.
    R23 HandsOverWithoutPause,
    /// A host that leaves hands over to one that leaves too.
    R7 HandsOverToLeaving,
    /// Anybody can hand over.
    R23 HandOverByAnyone,
    /// The chat moves as soon as another is better placed.
    R23 MovesAtOnce,
    /// A better placed member that did not take over is asked again a minute later.
    R23 FailedMoveAtOnce,
    /// A host accepts submissions though its disk is full.
    R38 FullDiskAccepts,

    // ---- voters ----
    /// A voter set is in force only once it is committed.
    R5 VotersOnCommit,
    /// Cutting the log does not roll the voter set back.
    R5 VotersNotRolledBack,
    /// A second voter change follows before the first is committed.
    R6 TwoVoterChanges,
    /// A voter change comes before `TermStart` is committed.
    R6 VoterChangeBeforeTermStart,
    /// A step is taken to a set that has no majority in contact.
    R22 StepStopsChat,
    /// A step is taken though those who would have to commit it may just have died.
    R27 StepNotConfirmed,
    /// Messages for another incarnation are taken.
    R9 WrongIncarnationTaken,
    /// An outlived incarnation is served.
    R9 OutlivedServed,
    /// An outlived incarnation keeps its vote.
    R9 OutlivedKeepsVote,
    /// A peer whose log was cut is held to what its log has now.
    R9 FurthestForgotten,
    /// A peer does not compare what the log has of it with what it has said.
    R9 OwnWordNotCompared,
    /// A peer is not told that it goes on in another incarnation.
    R9 OutlivedNotTold,
    /// An incarnation that has ended is let in again by its old word.
    R9 OutlivedComesBack,
    /// A member's word is enough to tell another that it was removed.
    L1 RemovalNotShown,
    /// The word that ended an earlier membership ends a later one.
    L1 OldRemovalBelieved,
    /// Hosts go on by the quota that members had before they agreed on another.
    L8 AgreedQuotaIgnored,
    /// A restart forgets who was found out.
    L6 EvidenceForgotten,
    /// A host's word is enough to tell a peer that it goes on in another incarnation.
    L1 OutlivedNotShown,
    /// Who claims a log that is ahead may ask for votes without having joined.
    L2 JoiningNotShown,
    /// A link whose secret somebody has lets in any number of candidates.
    L2 LinkUsesNotCounted,
    /// Whom a link has let in, as it has shown once, uses it up for ever.
    L2 ShownByLinkForEver,
    /// What an author has added fades only in steps that a whole one fades in.
    L8 PartsOfOneForgotten,
    /// What a peer said of itself last takes the place of more that it has said before.
    L5 PastForgotten,
    /// Only the host remembers what voters have said of themselves.
    L5 PastsNotPassedOn,
    /// How far a member has come is told only where its delays have changed.
    L5 PastToldWithDelays,
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
    /// A new host takes learners that may have been away for newcomers.
    R28 NewHostTrustsLearners,
    /// Who has not been heard of by a new host is shown to be back.
    R28 UnheardShownAsBack,
    /// A chat with too few voters lets those wait who could vote.
    R28 ShortChatWaits,
    /// After a recovery, a sole voter lets all wait who could vote.
    R28 SoleVoterStaysAlone,
    /// Who is a sync behind the commit index does not keep up.
    R28 SyncBreaksKeepingUp,

    // ---- messages ----
    /// The host takes its own submission before it is durable.
    R31 OwnSubmissionEarly,
    /// A member says what is new before it has read what it has said.
    R31 SaysBeforeReading,
    /// A new host knows of no submissions made before it.
    R32 DuplicatesForgotten,
    /// A checkpoint leaves out what it knows of submissions.
    R32 CheckpointForgetsNumbers,
    /// A follower takes what the host has put into the log twice.
    L4 DoubledTaken,
    /// A follower takes a number of an author before the ones that come before it.
    L4 GapTaken,
    /// A set of voters is in force that the log does not bear out.
    L4 AnyVotersTaken,
    /// One host's word is enough to show a peer that it has forgotten what it said.
    L4 ForeignWordBelieved,
    /// A peer that knows its own words takes those that a host made up for forgotten ones.
    L4 ForgeryTakenForForgotten,
    /// Who has read a member's made-up words in good faith stays blamed for showing them.
    L6 ReadersBlamed,
    /// The host of an earlier term is blamed for words that a later one may have made up.
    L6 EarlierHostBlamed,
    /// A host takes whatever an author adds.
    L8 QuotaIgnored,
    /// One member may fill the chat with invitations.
    L8 InvitationsUnbounded,
    /// A peer that was found out is followed all the same.
    L6 LiarFollowed,
    /// What another peer shows stops this one.
    L6 LiarStopsAll,
    /// The host takes a number that leaves a gap.
    R32 GapAccepted,
    /// What has a gap because the host has refused what comes before it is sent again at once.
    R33 GapAfterRefusal,
    /// On a new host, what was sent to the old one is not sent again.
    R33 NotSentAgain,
    /// An author sends all that it has at once.
    R33 InFlightUnbounded,
    /// A submission leaves the outbox when it is sent.
    R34 OutboxClearedOnSend,
    /// A submission leaves the outbox when another's of that number is committed.
    R34 OutboxClearedByAnother,
    /// How far a person has read goes back.
    R36 ReadGoesBack,
    /// A host that steps down forgets how far the members are.
    R36 ReceiptsEndWithTerm,
    /// What is told of how far others are goes back.
    R36 ReceiptsGoBack,
    /// What is told of those who are no members is kept.
    R36 ReceiptsOfAnybody,

    // ---- members ----
    /// An invite link lets in more than it has uses.
    R43 InviteReusable,
    /// A link that was made before a member was removed brings that one back.
    R43 LinkBringsBackRemoved,
    /// A revoked link lets people in.
    R43 RevokedLinkGood,
    /// A link never expires.
    R43 LinkNeverExpires,
    /// The last use of a link is given to two at the same time.
    R43 UsePromisedTwice,
    /// An invitation that was taken back lets the invited one in.
    R43 InvitationStands,
    /// One who is to go comes back as another incarnation.
    R41 LeavingComesBack,
    /// A host removes one of whom nobody said that it is to go.
    R41 RemovedByHostAlone,
    /// Who leaves is gone before its vote is.
    R7 GoesBeforeVote,
    /// A host that is to go does not hand over before.
    R7 HostLeavesAtOnce,
    /// A voter of whose joining this one has not read yet is refused like a stranger.
    R7 UnknownVoterRefused,
    /// A voter whose joining is not known to be committed is given no log.
    R35 JoiningVoterRefused,
    /// A host that leaves hands over to one that has just said that it leaves as well.
    R7 HandsOverToWhoJustLeaves,
    /// Where everybody leaves, who hosted until then stays behind.
    R26 LastHostLeftBehind,
    /// Who said goodbye counts as gone though it is reached again.
    R26 GoodbyeForEver,
    /// Who said goodbye counts as back once a link to it comes up.
    R26 LinkTakenForReturn,
    /// A stranger is answered like a member.
    R39 StrangerAnswered,
    /// A former member is answered like a member.
    R39 FormerMemberAnswered,
    /// Who is told that it is no member, and wants to leave, gives up what it has queued.
    R35 QueueDroppedAtNotMember,
    /// One who is told that it was removed takes part all the same.
    R35 RemovalNotBelieved,
    /// One who was removed takes part again after a restart.
    R35 RemovalForgotten,

    // ---- recovery ----
    /// What is said in one generation is heard in another.
    R30 GenerationsMixed,
    /// What was signed in one generation bears out something in another.
    R30 WordOfAnotherCourse,
    /// A log takes entries that were said in another generation.
    R30 EntryOfAnotherCourse,
    /// A log on its way to its own generation follows a host of an earlier one.
    R30 EarlierCourseFollowed,
    /// Those who were given up keep their votes.
    R30 LostKeepVotes,
    /// A host can recover a running chat.
    R30 RunningChatRecovered,

    // ---- how long things take ----
    /// What takes long three times in a row is taken for a pause.
    R14 StepNotBelieved,
    /// A heartbeat that comes late says nothing about the way.
    R14 LatenessIgnored,
    /// The lease that the host tells is not kept.
    R14 ToldLeaseIgnored,
    /// Echoes of heartbeats say nothing about the round trip.
    R22 EchoesNotMeasured,
    /// Echoes that come late say nothing about the line.
    R22 LateEchoesIgnored,
    /// Who hosts no more forgets what echoes have shown of the ways.
    R18 WaysForgotten,
    /// A new list is sent to all members with the same heartbeat.
    R13 ListToAllAtOnce,
    /// Who owes echoes at every turn never gets a new list.
    R13 ListWithheldForEver,
    /// Heartbeats go on at their pace though none of them is echoed.
    R22 OwedEchoesIgnored,
    /// A voter that is away counts as near, and in time.
    R22 AwayCountAsNear,
    /// A host whose heartbeats get closer reckons with the leases of now, not with those it told.
    R22 ToldLeaseForgotten,
    /// A host that pauses and resumes over narrow lines sends another heartbeat each time.
    R22 FlapsFillLines,
    /// All receipts are told whenever one has changed.
    R36 AllReceiptsTold,
    /// Over narrow lines it announces itself each second to all whose echoes are late.
    R21 AnnouncedToLate,
    /// Where no answer comes, everything is sent again at once.
    R33 AllSentAgainAtOnce,
    /// Delays are reported each second, whether they have changed or not.
    R12 ReportsAllTheTime,
    /// The echo of a heartbeat waits for the sync.
    R22 EchoWaitsForSync,
    /// A nomination is held though the host was heard after it.
    R16 RefutedNominationHeld,
    /// A host whose disk stalls hands over to one whose disk is as slow.
    R24 SlowTakesOver,
    /// A peer whose disk is slow does not stand, though nobody else does.
    R24 SlowNeverStands,
    /// Who hears the host again does not take its nominations back.
    R16 NominationNotTakenBack,
    /// A candidate waits for the others when it can win no more.
    R18 RefusalsNotCounted,
    /// Those who cannot be reached are waited for like the others.
    R18 UnreachableWaitedFor,
    /// The time for votes runs while the candidate's own vote is being written.
    R18 VotesTimedFromStart,
    /// Whose vote is out nominates others beside it.
    R17 NominatesBesideVote,
    /// Who stands or votes leaves its nominations of others as they are.
    R17 NominationOutlivesVote,
    /// A paused host leaves one alone that is in a later term and cannot do without it.
    R21 LaterVoterLeft,
    /// Whom a voter has voted for is waited for though it has given up or is gone.
    R17 LostCandidateAwaited,
    /// A nomination counts for the shortest lease, however long rounds are.
    R15 NominationShort,
    /// Two who ask for nominations at the same time nominate each other.
    R20 AskersBothStand,
    /// Nominations and what answers them wait for the syncs that run.
    R24 NominationWaitsForSync,
    /// A host stands anew against one who is about to be elected.
    R21 RenewedBesideCandidate,
    /// The log is asked for again and again while it is on its way.
    R35 AttachImpatient,
    /// A refusal for the sake of an outlived incarnation counts as one of the claim to host.
    R9 AddressTakenForProof,
    /// Whose claim was false is not read of through others either.
    L1 ProofFromNobody,
    /// The term that somebody asks for the log of counts as its own.
    L5 AskedTermHeard,
    /// Rounds are no longer in a search that has come to nothing so far.
    R19 SearchNotPatient,

    // ---- doubt ----
    /// A peer whose log was cut votes.
    R37 DoubtVotes,
    /// A peer whose log was cut knows nothing of it.
    R37 DoubtIgnored,
    /// A peer whose log was cut trusts it again at any voter's word.
    R37 DoubtEndsEarly,
    /// It counts the word of voters that may still help to commit what it has lost.
    R37 DoubtReportsEarly,
    /// It trusts its log again once one who passes the log on has nothing more.
    R37 RelayEndsDoubt,
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
