//! Which golden script finds which mistake. The difference that it gives was read, and is the
//! mistake's doing; `-- NAME` shows it again.

use demes_protocol::planted::Bug;

/// The script that shows the rule that this mistake breaks.
pub fn script(bug: Bug) -> &'static str {
    match bug {
        Bug::LogCheckSkipped
        | Bug::RankIsVeto
        | Bug::LeaseIgnoredByVoter
        | Bug::PermissionOutlivesTerm
        | Bug::PermissionForAnyone => "votes",
        Bug::VotedTwice | Bug::VoteBeforeSync | Bug::VoteForgotten => "one_vote",
        Bug::OlderVoteCounts | Bug::GrantedNominatesAtOnce => "voted_and_waiting",
        Bug::RequestBeforeSync => "host_killed",
        Bug::OutsiderRefused | Bug::RemovedRefusesVote | Bug::LearnerCounts => "who_counts",
        Bug::LearnerStands | Bug::WithdrawnNominated => "who_may_stand",
        Bug::RemovalNotShown | Bug::OldRemovalBelieved | Bug::OutlivedNotShown => "shown",
        Bug::JoiningNotShown => "strangers",
        Bug::LinkUsesNotCounted | Bug::ShownByLinkForEver => "strangers_with_a_link",
        Bug::UnknownVoterRefused => "voter_behind_the_candidate",
        Bug::JoiningVoterRefused => "host_behind_a_joining",
        Bug::HalfIsMajority => "newcomer",
        Bug::RestartSuspectsAtOnce => "everyone_offline_and_back",
        Bug::NominationRaisesTerm | Bug::RefusalUnsaid => "stale_requests",
        Bug::SuspectedNominated => "host_silent",
        Bug::NominationNeverEnds => "nomination_ends",
        Bug::NomineeDoesNotHold => "nominee_holds",
        Bug::NominationIgnoresLog => "log_behind",
        Bug::BackOffNotDrawn => "list_exhausted",
        Bug::EchoWaitsForSync | Bug::SlowTakesOver | Bug::SlowNeverStands => "disk_slow_everywhere",
        Bug::RefutedNominationHeld => "nomination_refuted",
        Bug::LatenessIgnored | Bug::NominationNotTakenBack => "late_heartbeats",
        Bug::StepNotBelieved | Bug::EchoesNotMeasured | Bug::ToldLeaseIgnored => "longer_way",
        Bug::SearchNotPatient => "list_exhausted",
        Bug::RefusalsNotCounted => "refused_by_a_majority",
        Bug::UnreachableWaitedFor => "unreachable_voter",
        Bug::VotesTimedFromStart => "own_vote_and_own_copy",
        Bug::NominatesBesideVote => "bound_by_a_vote",
        Bug::NominationOutlivesVote => "lost_candidate",
        Bug::LaterVoterLeft => "paused_for_a_later_voter",
        Bug::LostCandidateAwaited => "lost_candidate",
        Bug::NominationShort => "nominations_meet",
        Bug::AskersBothStand => "askers",
        Bug::NominationWaitsForSync => "nominations_and_disks",
        Bug::RenewedBesideCandidate => "host_and_a_candidate",
        Bug::AttachImpatient => "patience",
        Bug::AddressTakenForProof => "refused_address",
        Bug::ProofFromNobody => "false_claim_made_true",
        Bug::AskedTermHeard => "asked_term",
        Bug::LateLogAdopted => "stale_adoption",
        Bug::PiecesAdopted => "fetch_loop",
        Bug::AskedAgainBehind => "pingpong",
        Bug::OvertakenRelayTaken => "relay_overtaken",
        Bug::LaterTermReadsNothing => "stuck_term",
        Bug::OlderBootCounts => "find_host",
        Bug::HandsOverWithoutPause => "full_disk",
        Bug::HandsOverToLeaving => "leaving_two",
        Bug::FurthestForgotten => "past",
        Bug::OwnWordNotCompared => "old_copy_of_an_author",
        Bug::PastsNotPassedOn => "old_copy_and_another_host",
        Bug::PastForgotten => "pasts",
        Bug::PastToldWithDelays => "pasts",
        Bug::GapAfterRefusal => "refused_in_pieces",
        Bug::ReceiptsEndWithTerm => "receipts_of_a_former_host",
        Bug::OutlivedNotTold => "outlived_and_back",
        Bug::OutlivedComesBack => "old_join",
        Bug::ReceiptsGoBack => "receipts_of_strangers",
        Bug::ReceiptsOfAnybody => "receipts_of_strangers",
        Bug::QueueDroppedAtNotMember => "leaving_and_not_known",
        Bug::DoubtReportsEarly => "doubt_reports",
        Bug::UnstoredRead => "relay_of_an_old_tail",
        Bug::RelayEndsDoubt => "doubt_at_a_relay",
        Bug::CandidateAdopts => "adoption_while_standing",
        Bug::AdoptionKeepsTerm => "adoption_in_pieces",
        Bug::LaterTermIgnored => "refused_by_a_later_term",
        Bug::LeapBelieved => "term_far_ahead",
        Bug::OneWayNominationCounts | Bug::UndialledKeepsVote => "one_way",
        Bug::HostCountsEarly | Bug::CommitAheadOfQuorum | Bug::AcknowledgedBeforeSync => {
            "host_copy"
        }
        Bug::IncarnationNotCounted | Bug::OutboxClearedByAnother => "copies_of_a_new_incarnation",
        Bug::OlderTermCommitted | Bug::ServesAtOnce => "older_term",
        Bug::UnmatchedCommitted | Bug::UnmatchedAcknowledged => "only_what_was_compared",
        Bug::OlderAttachCounts | Bug::MatchGoesBack => "late_acknowledgement",
        Bug::OvertakenAttachTaken | Bug::CutsAtLookBack => "attach",
        Bug::GapPassedOver | Bug::NeverRecalled => "lost_append",
        Bug::SlowMemberFlooded => "slow_member",
        Bug::CursorOffByOne => "founding_and_growing",
        Bug::CutsOwnTerm | Bug::CutsCommitted => "attach_faults",
        Bug::ChainNotChecked => "chain_broken",
        Bug::ContentNotCompared => "two_hosts_in_one_term",
        Bug::UncommittedRelayed
        | Bug::RelayedInOwnName
        | Bug::RelayedForEver
        | Bug::RelayedAtOnce => "relay",
        Bug::RelayWithoutHost => "relay_without_host",
        Bug::RemovedStillServed => "removed",
        Bug::NeverPauses
        | Bug::PausedStillHeartbeats
        | Bug::ContactDatedByArrival
        | Bug::PausedCommits => "pause_and_resume",
        Bug::StalledNotPaused => "disk_stalled",
        Bug::FeedRenewsLease | Bug::ServedBySilence => "feed_renews_nothing",
        Bug::HandOverToLagging | Bug::HandOverNeverEnds | Bug::HandOverByAnyone => {
            "hand_over_fails"
        }
        Bug::HandOverBeforeSync => "hand_over_when_durable",
        Bug::AcceptsWhileHandingOver => "hand_over",
        Bug::MovesAtOnce => "moving_after_a_while",
        Bug::FailedMoveAtOnce => "moving_refused",
        Bug::FullDiskAccepts => "disk",
        Bug::VotersOnCommit | Bug::TwoVoterChanges => "voters_rolled_back",
        Bug::VotersNotRolledBack => "voters_cut",
        Bug::VoterChangeBeforeTermStart => "voters_after_term_start",
        Bug::StepStopsChat => "leaving_of_few",
        Bug::StepNotConfirmed => "leaving_just_after_losses",
        Bug::WrongIncarnationTaken | Bug::OutlivedServed | Bug::OutlivedKeepsVote => "incarnations",
        Bug::PastIgnored => "old_copy_restored",
        Bug::GoodbyeForgotten | Bug::EvenVoters => "away",
        Bug::FloorIgnored => "stop",
        Bug::BackAtOnce | Bug::NewHostTrustsLearners => "flapping",
        Bug::ShortChatWaits => "stores_lost_in_a_row",
        Bug::SoleVoterStaysAlone => "recovered_and_joined_by_two",
        Bug::SyncBreaksKeepingUp => "busy_and_back",
        Bug::AllReceiptsTold => "receipts_changed",
        Bug::LateEchoesIgnored
        | Bug::ReportsAllTheTime
        | Bug::AllSentAgainAtOnce
        | Bug::FlapsFillLines
        | Bug::AnnouncedToLate => "narrow_line",
        Bug::ListWithheldForEver => "list_for_one_who_owes",
        Bug::ListToAllAtOnce => "list_in_turns",
        Bug::WaysForgotten => "ways_kept",
        Bug::OwedEchoesIgnored => "owed_echoes",
        Bug::AwayCountAsNear => "narrow_beside_a_dead_voter",
        Bug::ToldLeaseForgotten => "quicker_pace",
        Bug::RemovalNotBelieved => "removed_while_away",
        Bug::UnheardShownAsBack => "recover",
        Bug::SaysBeforeReading => "old_copy_reads_first",
        Bug::OwnSubmissionEarly | Bug::OutboxClearedOnSend => "hosts_own_submission",
        Bug::DuplicatesForgotten => "adoption_of_a_later_term",
        Bug::CheckpointForgetsNumbers => "numbers_in_a_checkpoint",
        Bug::DoubledTaken | Bug::RemovedByHostAlone | Bug::AnyVotersTaken => "lying_host",
        Bug::QuotaIgnored => "quota",
        Bug::PartsOfOneForgotten => "quota_fades",
        Bug::InvitationsUnbounded => "invited_by_one",
        Bug::ForeignWordBelieved => "foreign_words",
        Bug::ForgeryTakenForForgotten => "forged_words",
        Bug::ReadersBlamed | Bug::EarlierHostBlamed => "forged_words_read_later",
        Bug::AgreedQuotaIgnored => "quota_agreed",
        Bug::EvidenceForgotten => "evidence_kept",
        Bug::LiarFollowed | Bug::LiarStopsAll | Bug::GapTaken => "liar_hosts",
        Bug::GapAccepted | Bug::InFlightUnbounded => "submissions",
        Bug::NotSentAgain => "accepted_by_a_dying_host",
        Bug::ReadGoesBack => "receipts",
        Bug::InviteReusable
        | Bug::RevokedLinkGood
        | Bug::LinkNeverExpires
        | Bug::UsePromisedTwice => "invite_links",
        Bug::LinkBringsBackRemoved | Bug::InvitationStands | Bug::LeavingComesBack => {
            "to_go_is_to_go"
        }
        Bug::GoesBeforeVote => "leaving_waits",
        Bug::HostLeavesAtOnce => "host_removed",
        Bug::HandsOverToWhoJustLeaves => "everybody_leaves_at_once",
        Bug::LastHostLeftBehind => "last_host_as_all_leave",
        Bug::GoodbyeForEver => "goodbye_and_back",
        Bug::LinkTakenForReturn => "goodbye_and_a_new_link",
        Bug::StrangerAnswered => "strangers",
        Bug::FormerMemberAnswered | Bug::RemovalForgotten => "member_removed",
        Bug::GenerationsMixed | Bug::RunningChatRecovered => "recover_and_return",
        Bug::WordOfAnotherCourse | Bug::EntryOfAnotherCourse | Bug::EarlierCourseFollowed => {
            "words_of_another_course"
        }
        Bug::LostKeepVotes => "recover",
        Bug::TrialUnbounded => "trial_is_bounded",
        Bug::ReignUnproven
        | Bug::AnnouncementBelieved
        | Bug::AnyHeartbeatRenews
        | Bug::LearnerVotedFor => "reign_unproven",
        Bug::VotersByAnyone => "voters_by_anyone",
        Bug::VoteForAnotherEnd => "vote_for_another_end",
        Bug::TermWithoutStart | Bug::AdoptedUnproven => "adoption_unproven",
        Bug::AskedTermEntered => "doubt_at_a_relay",
        Bug::VotesInVain => "votes_in_vain",
        Bug::RenewedAgain => "renewed_once",
        Bug::DoubtVotes | Bug::DoubtIgnored | Bug::DoubtEndsEarly => "torn_tail",
    }
}
