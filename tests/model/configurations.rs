//! What is explored: the same chat of three, with other things left free and other bounds.
//!
//! Some let much go wrong and do not get far, others keep order and get further.

use demes_protocol::message::{Append, Body};
use demes_protocol::types::Payload;

use crate::chat::{Bounds, Travel};
use crate::history::Sight;
use crate::start::{Begin, Time};
use crate::state::Left;

/// One configuration. What does not appear in `left` does not happen in it.
pub struct Configuration {
    pub name: &'static str,
    pub time: Time,
    pub begin: Begin,
    pub left: Left,
    pub bounds: Bounds,
    /// States whose successors are looked at in the normal run.
    pub states: u64,
}

/// Terms up to 3, four more entries, two things late at once.
fn bounds(time: Time) -> Bounds {
    Bounds {
        config: time.config(),
        scale: time.scale(),
        terms_max: 3,
        entries_max: 4,
        held_max: 2,
        travel: |_| Travel::InTurn,
        late_syncs: true,
        hosts_say: false,
        refusals: false,
        all_stay: false,
        strict: true,
        sights: &[],
    }
}

/// Members learn of a new host from itself, and not by asking others.
fn without_search(body: &Body) -> Travel {
    match body {
        Body::FindHost => Travel::Lost,
        _ => Travel::InTurn,
    }
}

/// How a host is chosen: nominations, votes, withdrawals and announcements travel freely.
pub fn elections() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "elections",
        time,
        begin: Begin::Grown,
        left: Left { crashes: 1, doubles: 1, ..Left::default() },
        bounds: Bounds {
            refusals: true,
            travel: |body| match body {
                Body::Nominate(_)
                | Body::NominateAnswer(_)
                | Body::Solicit(_)
                | Body::SolicitAnswer(_)
                | Body::RequestVote(_)
                | Body::Vote(_)
                | Body::Withdraw(_)
                | Body::Announce(_) => Travel::Free,
                other => without_search(other),
            },
            sights: &[
                Sight::HostInTerm2,
                Sight::HostInTerm3,
                Sight::Paused,
                Sight::FellBack,
                Sight::WithdrewWithoutMajority,
            ],
            ..bounds(time)
        },
        states: 120_000,
    }
}

/// Who is alive: heartbeats and what echoes them travel freely, and leases have a length.
pub fn leases() -> Configuration {
    let time = Time::Fine;
    Configuration {
        name: "leases",
        time,
        begin: Begin::Grown,
        left: Left { says: 1, sleeps: 1, ..Left::default() },
        bounds: Bounds {
            late_syncs: false,
            travel: |body| match body {
                Body::Heartbeat(_) | Body::Acknowledge(_) | Body::NominateAnswer(_) => Travel::Free,
                _ => Travel::InTurn,
            },
            sights: &[Sight::HostInTerm2, Sight::Paused, Sight::Resumed, Sight::Held],
            ..bounds(time)
        },
        states: 120_000,
    }
}

/// Lies: a stranger and a member tell what is not so, at any moment, twice.
pub fn lies() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "lies",
        time,
        begin: Begin::Grown,
        left: Left { lies: 2, crashes: 1, says: 1, ..Left::default() },
        bounds: Bounds {
            late_syncs: false,
            hosts_say: true,
            all_stay: true,
            travel: without_search,
            sights: &[Sight::HostInTerm2, Sight::HostInTerm3, Sight::Confirmed],
            ..bounds(time)
        },
        states: 60_000,
    }
}

/// The log: entries and what acknowledges them travel freely, crashes lose what is not synced.
pub fn replication() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "replication",
        time,
        begin: Begin::Grown,
        left: Left { crashes: 1, says: 2, cuts: 1, ..Left::default() },
        bounds: Bounds {
            travel: |body| match body {
                Body::Attach(_) | Body::Append(_) | Body::LookBack(_) | Body::Acknowledge(_) => {
                    Travel::Free
                }
                other => without_search(other),
            },
            sights: &[
                Sight::HostInTerm2,
                Sight::CommitInTerm2,
                Sight::Confirmed,
                Sight::Cut,
                Sight::UnsyncedLost,
                Sight::Adopted,
            ],
            ..bounds(time)
        },
        states: 120_000,
    }
}

/// One peer after the other is parted from the rest: logs fork and are cut, over more terms. Apart
/// from that the network and the disks keep order.
pub fn partitions() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "partitions",
        time,
        begin: Begin::Grown,
        left: Left { crashes: 1, says: 2, cuts: 2, ..Left::default() },
        bounds: Bounds {
            terms_max: 4,
            entries_max: 6,
            held_max: 0,
            late_syncs: false,
            hosts_say: true,
            travel: without_search,
            sights: &[Sight::HostInTerm3, Sight::CommitInTerm2, Sight::Cut, Sight::Adopted],
            ..bounds(time)
        },
        states: 120_000,
    }
}

/// Handing over, on request and before a graceful stop.
pub fn hand_overs() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "hand-overs",
        time,
        begin: Begin::Grown,
        left: Left { hand_overs: 2, stops: 1, crashes: 1, says: 1, ..Left::default() },
        bounds: Bounds {
            travel: |body| match body {
                Body::HandOver(_) | Body::RequestVote(_) | Body::Vote(_) | Body::Append(_) => {
                    Travel::Free
                }
                other => without_search(other),
            },
            sights: &[Sight::HandedOver, Sight::HostInTerm2, Sight::HostInTerm3],
            ..bounds(time)
        },
        states: 120_000,
    }
}

pub fn changes_voters(append: &Append) -> bool {
    append.entries.iter().any(|entry| matches!(entry.payload, Payload::VoterChange(_)))
}

/// Members leave, and their votes before them, while the network parts one peer or another, and
/// the changes of the voters are late.
pub fn voters() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "voters",
        time,
        begin: Begin::Grown,
        left: Left { leaves: 2, cuts: 2, ..Left::default() },
        bounds: Bounds {
            entries_max: 8,
            held_max: 2,
            late_syncs: false,
            travel: |body| match body {
                Body::Append(append) if changes_voters(append) => Travel::Free,
                other => without_search(other),
            },
            sights: &[Sight::TwoVoters, Sight::OneVoter, Sight::Removed],
            ..bounds(time)
        },
        states: 60_000,
    }
}

/// Two hosts in two terms, the earlier with a change of the voters that it alone has: it must not
/// count by that, nor keep it, nor begin another before (R5, R6).
pub fn parted_voters() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "parted voters",
        time,
        begin: Begin::Changing,
        left: Left { crashes: 1, cuts: 1, ..Left::default() },
        bounds: Bounds {
            terms_max: 4,
            entries_max: 8,
            held_max: 1,
            travel: |body| match body {
                Body::Append(append) if changes_voters(append) => Travel::Free,
                other => without_search(other),
            },
            sights: &[Sight::TwoVoters, Sight::OneVoter, Sight::Cut, Sight::HostInTerm3],
            ..bounds(time)
        },
        states: 60_000,
    }
}

/// One member leaves while entries, acknowledgements and syncs are late, and peers crash.
pub fn late_voters() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "late voters",
        time,
        begin: Begin::Grown,
        left: Left { leaves: 1, crashes: 1, cuts: 1, ..Left::default() },
        bounds: Bounds {
            held_max: 1,
            travel: |body| match body {
                Body::Append(_) | Body::Acknowledge(_) => Travel::Free,
                other => without_search(other),
            },
            sights: &[Sight::TwoVoters, Sight::UnsyncedLost, Sight::Cut],
            ..bounds(time)
        },
        states: 120_000,
    }
}

/// A disk is lost, and its peer comes back as another incarnation, which gets a vote.
pub fn incarnations() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "incarnations",
        time,
        begin: Begin::Grown,
        left: Left { crashes: 2, wipes: 1, says: 1, cuts: 1, ..Left::default() },
        bounds: Bounds {
            entries_max: 6,
            held_max: 1,
            late_syncs: false,
            travel: |body| match body {
                Body::RequestVote(_) | Body::Vote(_) => Travel::Free,
                other => without_search(other),
            },
            sights: &[Sight::TwoVoters, Sight::ThreeVotersAgain, Sight::NewIncarnationVotes],
            ..bounds(time)
        },
        states: 120_000,
    }
}

/// A peer ends, and starts again from an old copy of its disk, while the chat goes on and another
/// may host: it gives numbers away again, to other words (R9, R34). More may not fail, or nobody is
/// left who knows better.
pub fn old_copies() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "old copies",
        time,
        begin: Begin::Grown,
        left: Left { crashes: 1, copies: 1, says: 2, cuts: 1, ..Left::default() },
        bounds: Bounds {
            held_max: 0,
            late_syncs: false,
            travel: without_search,
            sights: &[Sight::OldCopyNoticed, Sight::Confirmed, Sight::HostInTerm2],
            ..bounds(time)
        },
        states: 30_000,
    }
}

/// A chat grows from one voter to three: newcomers come, and anybody may be cut off or crash.
pub fn growing() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "growing",
        time,
        begin: Begin::Alone,
        left: Left { crashes: 1, cuts: 1, says: 1, ..Left::default() },
        bounds: Bounds {
            entries_max: 6,
            held_max: 1,
            hosts_say: true,
            travel: |body| match body {
                Body::Append(_) | Body::Acknowledge(_) => Travel::Free,
                other => without_search(other),
            },
            sights: &[
                Sight::TwoVoters,
                Sight::ThreeVotersAgain,
                Sight::HostInTerm2,
                Sight::UnsyncedLost,
            ],
            ..bounds(time)
        },
        states: 120_000,
    }
}

/// Nominees are behind, and what they fetch travels freely.
pub fn adoptions() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "adoptions",
        time,
        begin: Begin::Forked,
        left: Left { crashes: 1, says: 1, ..Left::default() },
        bounds: Bounds {
            held_max: 1,
            late_syncs: false,
            hosts_say: true,
            travel: |body| match body {
                Body::FetchLog(_) | Body::FetchLogAnswer(_) => Travel::Free,
                other => without_search(other),
            },
            sights: &[
                Sight::HostInTerm3,
                Sight::Adopted,
                Sight::AdoptedAndCut,
                Sight::WithdrewBehind,
            ],
            ..bounds(time)
        },
        states: 120_000,
    }
}

/// Nobody hosts, and three logs end differently: who is nominated asks one that is ahead, and the
/// answer comes after somebody else was elected, and has had an entry acknowledged (R10).
pub fn late_adoptions() -> Configuration {
    let time = Time::Far;
    Configuration {
        name: "late adoptions",
        time,
        begin: Begin::Asunder,
        left: Left::default(),
        bounds: Bounds {
            terms_max: 4,
            held_max: 1,
            late_syncs: false,
            hosts_say: true,
            travel: |body| match body {
                Body::FetchLogAnswer(_) => Travel::Free,
                other => without_search(other),
            },
            sights: &[Sight::HostInTerm3, Sight::Adopted, Sight::CommitInTerm2],
            ..bounds(time)
        },
        states: 120_000,
    }
}

/// Votes and what they rely on: the network keeps order, but peers crash before every sync.
pub fn votes() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "votes",
        time,
        begin: Begin::Grown,
        left: Left { crashes: 2, cuts: 1, ..Left::default() },
        bounds: Bounds {
            terms_max: 2,
            held_max: 0,
            travel: without_search,
            sights: &[Sight::HostInTerm2],
            ..bounds(time)
        },
        states: 120_000,
    }
}

/// Two logs differ: attaches and what answers them travel freely until they are one (R35).
pub fn attaches() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "attaches",
        time,
        begin: Begin::Forked,
        left: Left { crashes: 1, says: 1, doubles: 1, ..Left::default() },
        bounds: Bounds {
            late_syncs: false,
            hosts_say: true,
            travel: |body| match body {
                Body::Attach(_) | Body::Append(_) | Body::LookBack(_) | Body::Acknowledge(_) => {
                    Travel::Free
                }
                other => without_search(other),
            },
            sights: &[Sight::Cut, Sight::CommitInTerm2, Sight::HostInTerm3],
            ..bounds(time)
        },
        states: 120_000,
    }
}
