//! What is explored: the same chat of three, with other things left free and other bounds.

use demes_protocol::message::Body;

use crate::chat::{Bounds, Travel};
use crate::history::Sight;
use crate::start::Time;
use crate::state::Left;

/// One configuration. What does not appear in `left` does not happen in it.
pub struct Configuration {
    pub name: &'static str,
    pub time: Time,
    pub left: Left,
    pub bounds: Bounds,
    /// States whose successors are looked at in the normal run.
    pub states: u64,
}

fn bounds(time: Time) -> Bounds {
    Bounds {
        config: time.config(),
        past_us: time.past_us(),
        terms_max: 3,
        entries_max: 4,
        held_max: 2,
        travel: |_| Travel::InTurn,
        late_syncs: true,
        refusals: false,
        sights: &[],
    }
}

/// How a host is chosen: nominations, votes, withdrawals and announcements travel freely.
pub fn elections() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "elections",
        time,
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
                Body::FindHost => Travel::Lost,
                _ => Travel::InTurn,
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
        states: 200_000,
    }
}

/// The log: entries and acknowledgements travel freely, crashes lose what is not synced.
pub fn replication() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "replication",
        time,
        left: Left { crashes: 2, says: 2, ..Left::default() },
        bounds: Bounds {
            travel: |body| match body {
                Body::Attach(_) | Body::Append(_) | Body::LookBack(_) | Body::Acknowledge(_) => {
                    Travel::Free
                }
                Body::FindHost => Travel::Lost,
                _ => Travel::InTurn,
            },
            sights: &[
                Sight::HostInTerm2,
                Sight::HostInTerm3,
                Sight::CommitInTerm2,
                Sight::Confirmed,
                Sight::Cut,
                Sight::UnsyncedLost,
                Sight::WithdrewBehind,
            ],
            ..bounds(time)
        },
        states: 200_000,
    }
}

/// Who is alive: heartbeats and what echoes them travel freely, leases have a length.
pub fn leases() -> Configuration {
    let time = Time::Fine;
    Configuration {
        name: "leases",
        time,
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
        states: 200_000,
    }
}

/// Handing over: on request and before a graceful stop.
pub fn hand_overs() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "hand-overs",
        time,
        left: Left { hand_overs: 2, stops: 1, crashes: 1, says: 1, ..Left::default() },
        bounds: Bounds {
            travel: |body| match body {
                Body::HandOver(_) | Body::RequestVote(_) | Body::Vote(_) | Body::Append(_) => {
                    Travel::Free
                }
                Body::FindHost => Travel::Lost,
                _ => Travel::InTurn,
            },
            sights: &[Sight::HandedOver, Sight::HostInTerm2, Sight::HostInTerm3],
            ..bounds(time)
        },
        states: 200_000,
    }
}

/// Members leave, and voters with them.
pub fn voters() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "voters",
        time,
        left: Left { leaves: 2, crashes: 1, ..Left::default() },
        bounds: Bounds {
            entries_max: 8,
            late_syncs: false,
            travel: |body| match body {
                Body::Append(_) | Body::Acknowledge(_) => Travel::Free,
                Body::FindHost => Travel::Lost,
                _ => Travel::InTurn,
            },
            sights: &[Sight::TwoVoters, Sight::OneVoter, Sight::Removed],
            ..bounds(time)
        },
        states: 200_000,
    }
}

/// A disk is lost, and its peer comes back as another incarnation.
pub fn incarnations() -> Configuration {
    let time = Time::Coarse;
    Configuration {
        name: "incarnations",
        time,
        left: Left { crashes: 2, wipes: 1, says: 1, ..Left::default() },
        bounds: Bounds {
            entries_max: 6,
            late_syncs: false,
            travel: |body| match body {
                Body::RequestVote(_) | Body::Vote(_) | Body::Append(_) | Body::Acknowledge(_) => {
                    Travel::Free
                }
                Body::FindHost => Travel::Lost,
                _ => Travel::InTurn,
            },
            sights: &[Sight::TwoVoters, Sight::ThreeVotersAgain, Sight::NewIncarnationVotes],
            ..bounds(time)
        },
        states: 200_000,
    }
}
