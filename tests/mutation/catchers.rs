//! Which golden script finds which mistake. The difference that it gives was read, and is the
//! mistake's doing; `-- NAME` shows it again.

use demes_protocol::planted::Bug;

/// The script that shows the rule that this mistake breaks.
pub fn script(bug: Bug) -> &'static str {
    match bug {
        Bug::LogCheckSkipped
        | Bug::PermissionOutlivesTerm
        | Bug::LeaseIgnoredByVoter
        | Bug::RankIsVeto => "votes",
        Bug::VotedTwice | Bug::VoteBeforeSync => "one_vote",
        Bug::RequestBeforeSync => "host_killed",
        Bug::OutsiderRefused | Bug::RemovedRefusesVote | Bug::LearnerCounts => "who_counts",
        Bug::RemovedStillServed => "removed",
        Bug::HalfIsMajority => "newcomer",
        Bug::RestartSuspectsAtOnce => "everyone_offline_and_back",
        Bug::NominationRaisesTerm => "stale_requests",
        Bug::SuspectedNominated => "host_silent",
        Bug::NomineeDoesNotHold => "nominee_holds",
        Bug::NominationIgnoresLog => "log_behind",
        Bug::BackOffNotDrawn => "list_exhausted",
        Bug::CandidateAdopts => "adoption_while_standing",
        Bug::AdoptionKeepsTerm => "adoption_in_pieces",
        Bug::RefusalUnsaid => "stale_requests",
        Bug::LeapBelieved => "term_far_ahead",
        Bug::HostCountsEarly | Bug::AcknowledgedBeforeSync => "host_copy",
        Bug::IncarnationNotCounted | Bug::OutboxClearedByAnother => "copies_of_a_new_incarnation",
        Bug::OlderTermCommitted => "older_term",
        Bug::CommitAheadOfQuorum => "host_copy",
        Bug::UnmatchedCommitted | Bug::UnmatchedAcknowledged => "only_what_was_compared",
        Bug::OlderAttachCounts | Bug::MatchGoesBack => "late_acknowledgement",
        Bug::CursorOffByOne => "founding_and_growing",
        Bug::CutsAtLookBack => "attach",
        Bug::CutsOwnTerm => "attach_faults",
        Bug::ContentNotCompared => "two_hosts_in_one_term",
        Bug::UncommittedRelayed | Bug::OutsiderRelayed => "relay",
        Bug::ServesAtOnce => "older_term",
        Bug::NeverPauses | Bug::PausedStillHeartbeats | Bug::ContactDatedByArrival => {
            "pause_and_resume"
        }
        Bug::FeedRenewsLease => "feed_renews_nothing",
        Bug::HandOverToLagging | Bug::HandOverNeverEnds => "hand_over_fails",
        Bug::VotersOnCommit | Bug::TwoVoterChanges => "voters_rolled_back",
        Bug::VoterChangeBeforeTermStart => "voters_after_term_start",
        Bug::VotersNotRolledBack => "voters_cut",
        Bug::WrongIncarnationTaken => "incarnations",
        Bug::PastIgnored => "old_copy_restored",
        Bug::UndialledKeepsVote => "one_way",
        Bug::GoodbyeForgotten | Bug::EvenVoters => "away",
        Bug::FloorIgnored => "stop",
        Bug::BackAtOnce => "flapping",
        Bug::OwnSubmissionEarly => "hosts_own_submission",
        Bug::DuplicatesForgotten => "adoption_of_a_later_term",
        Bug::GapAccepted => "submissions",
        Bug::NotSentAgain => "accepted_by_a_dying_host",
        Bug::OutboxClearedOnSend => "hosts_own_submission",
        Bug::InviteReusable => "invite_links",
        Bug::LinkBringsBackRemoved => "member_removed",
        Bug::DoubtVotes | Bug::DoubtIgnored | Bug::DoubtEndsEarly => "torn_tail",
    }
}
