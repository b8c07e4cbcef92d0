//! That the model finds mistakes: some are planted in the rules, one at a time, and each has to
//! break a promise in the configuration that is named here.
//!
//! The switch is one for the process, so this is one test, and no other runs meanwhile.
//!
//! ```text
//! cargo test --release -p demes-protocol --features planted --test model mistakes -- --nocapture
//!     MISTAKES=VotedTwice,HostCountsEarly     these only
//! ```

use demes_protocol::planted::{Bug, plant};

use crate::chat::Chat;
use crate::configurations::{self, Configuration};
use crate::{explore, number, unplanted};

/// States of which it is looked at what may follow, for each mistake.
const STATES: u64 = 500_000;

struct Mistake {
    bug: Bug,
    explored: fn() -> Configuration,
    /// Whether what a peer does by itself counts, or only what comes of it (`Bounds::strict`).
    strict: bool,
    promise: &'static str,
}

const fn mistake(
    bug: Bug,
    explored: fn() -> Configuration,
    strict: bool,
    promise: &'static str,
) -> Mistake {
    Mistake { bug, explored, strict, promise }
}

const DURABLE: &str = "what is committed is durable at a majority of the voters";
const LACKS: &str = "every host has what hosts before it committed";
const TOO_EARLY: &str = "nothing is said before it is durable";
const VOTERS: &str = "the voters are those of the latest change in the log";

const MISTAKES: &[Mistake] = &[
    mistake(Bug::LogCheckSkipped, configurations::adoptions, true, LACKS),
    mistake(Bug::VotedTwice, configurations::elections, true, "a durable vote is kept"),
    mistake(Bug::VotedTwice, configurations::votes, false, "one host per term"),
    mistake(Bug::VoteBeforeSync, configurations::elections, true, TOO_EARLY),
    mistake(
        Bug::VoteBeforeSync,
        configurations::votes,
        false,
        "logs with an entry in common are equal up to it",
    ),
    mistake(Bug::AcknowledgedBeforeSync, configurations::leases, true, TOO_EARLY),
    mistake(Bug::AcknowledgedBeforeSync, configurations::late_voters, false, DURABLE),
    mistake(Bug::RequestBeforeSync, configurations::adoptions, true, TOO_EARLY),
    mistake(Bug::HalfIsMajority, configurations::voters, true, LACKS),
    mistake(Bug::HostCountsEarly, configurations::growing, true, DURABLE),
    mistake(Bug::CommitAheadOfQuorum, configurations::leases, true, DURABLE),
    mistake(
        Bug::OutboxClearedByAnother,
        configurations::leases,
        true,
        "what is confirmed is committed",
    ),
    mistake(Bug::LearnerCounts, configurations::voters, true, DURABLE),
    mistake(Bug::VotersOnCommit, configurations::late_voters, true, VOTERS),
    mistake(Bug::VotersNotRolledBack, configurations::parted_voters, true, VOTERS),
    mistake(
        Bug::TwoVoterChanges,
        configurations::parted_voters,
        true,
        "what is committed never changes",
    ),
    mistake(Bug::UnmatchedAcknowledged, configurations::attaches, false, DURABLE),
    mistake(Bug::ReignUnproven, configurations::lies, true, "messages come to rest"),
    mistake(Bug::AnnouncementBelieved, configurations::lies, true, "messages come to rest"),
    mistake(
        Bug::RemovalNotShown,
        configurations::lies,
        true,
        "nobody is sent away who has not gone",
    ),
    mistake(
        Bug::OwnWordNotCompared,
        configurations::old_copies,
        true,
        "what is confirmed is committed",
    ),
    mistake(Bug::GoesBeforeVote, configurations::voters, true, DURABLE),
    mistake(
        Bug::OlderTermCommitted,
        configurations::attaches,
        true,
        "a host commits an entry of its own term, older ones with it",
    ),
];

#[test]
fn mistakes() {
    let _turn = unplanted();
    let states = number("STATES").unwrap_or(STATES);
    let chosen = std::env::var("MISTAKES").ok();
    let mut missed = Vec::new();
    println!(
        "\n| rule | mistake | configuration | unique states | promise |\n|---|---|---|---|---|"
    );
    for mistake in MISTAKES {
        let Mistake { bug, explored, strict, promise } = mistake;
        let name = format!("{bug:?}");
        if chosen.as_ref().is_some_and(|chosen| !chosen.split(',').any(|one| one == name)) {
            continue;
        }
        let mut configuration = explored();
        configuration.bounds.strict = *strict;
        let place = match strict {
            true => configuration.name.to_owned(),
            false => format!("{} (late)", configuration.name),
        };
        // The chat that it begins with has no mistakes.
        plant(None);
        let chat = Chat::new(configuration, states);
        plant(Some(*bug));
        let explored = explore(&place, chat);
        let (rule, _) = bug.description();
        let found: Vec<_> = explored.broken.iter().map(|(promise, _)| *promise).collect();
        println!("| {rule} | `{name}` | {place} | {} | {} |", explored.unique, found.join(", "));
        if !found.contains(promise) {
            missed.push(format!("{name} in {place}: {}", explored.line));
        }
    }
    plant(None);
    assert!(missed.is_empty(), "not found:\n{}", missed.join("\n"));
}
