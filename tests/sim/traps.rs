//! Ends of a process at every step of the protocol: right before or after a certain `Ready` is
//! executed, or in its middle.

use std::fmt;

use demes_protocol::event::Ready;
use demes_protocol::message::Body;
use demes_protocol::types::{Payload, PeerId};

use super::world::World;

/// What a `Ready` does that the trap waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    EntersTerm,
    VotesForAnother,
    VotesForItself,
    StartsTerm,
    ChangesVoters,
    ChangesMembers,
    Appends,
    Cuts,
    Commits,
    Queues,
    Checkpoints,
    HandsOver,
    Acknowledges,
}

/// Where in the execution of the `Ready` the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// Nothing of it has happened.
    Before,
    /// What is early has left; nothing is durable.
    AfterEarly,
    /// It is durable, and nothing that relies on that has left.
    AfterSync,
    /// That has left, and the replica does not know yet that it is durable.
    AfterMessages,
}

pub const DOINGS: [Doing; 13] = [
    Doing::EntersTerm,
    Doing::VotesForAnother,
    Doing::VotesForItself,
    Doing::StartsTerm,
    Doing::ChangesVoters,
    Doing::ChangesMembers,
    Doing::Appends,
    Doing::Cuts,
    Doing::Commits,
    Doing::Queues,
    Doing::Checkpoints,
    Doing::HandsOver,
    Doing::Acknowledges,
];

pub const MOMENTS: [Moment; 4] =
    [Moment::Before, Moment::AfterEarly, Moment::AfterSync, Moment::AfterMessages];

/// Set at a peer. It springs once.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    pub doing: Doing,
    pub moment: Moment,
    /// So many of them pass before it springs.
    pub skips: u64,
    /// How long the process stays away.
    pub down_us: u64,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doing = match self.doing {
            Doing::EntersTerm => "enters a term",
            Doing::VotesForAnother => "votes for another",
            Doing::VotesForItself => "votes for itself",
            Doing::StartsTerm => "starts its term",
            Doing::ChangesVoters => "gets a change of voters",
            Doing::ChangesMembers => "gets a change of members",
            Doing::Appends => "appends entries",
            Doing::Cuts => "cuts its log",
            Doing::Commits => "commits",
            Doing::Queues => "queues a submission",
            Doing::Checkpoints => "writes a checkpoint",
            Doing::HandsOver => "hands over",
            Doing::Acknowledges => "acknowledges",
        };
        let moment = match self.moment {
            Moment::Before => "before anything of it happens",
            Moment::AfterEarly => "before it is durable",
            Moment::AfterSync => "as it is durable",
            Moment::AfterMessages => "as its messages have left",
        };
        write!(f, "when it {doing} for the {}. time, {moment}", self.skips + 1)
    }
}

impl Doing {
    fn is_in(self, me: PeerId, ready: &Ready) -> bool {
        let persist = &ready.persist;
        let vote = persist.hard_state.map(|state| state.vote);
        let entry = |wanted: fn(&Payload) -> bool| {
            persist.entries.iter().any(|entry| wanted(&entry.payload))
        };
        let message = |wanted: fn(&Body) -> bool| {
            ready.early.iter().chain(&ready.messages).any(|message| wanted(&message.body))
        };
        match self {
            Doing::EntersTerm => vote == Some(None),
            Doing::VotesForAnother => vote.flatten().is_some_and(|vote| vote != me),
            Doing::VotesForItself => vote.flatten() == Some(me),
            Doing::StartsTerm => entry(|payload| matches!(payload, Payload::TermStart(_))),
            Doing::ChangesVoters => entry(|payload| matches!(payload, Payload::VoterChange(_))),
            Doing::ChangesMembers => entry(|payload| matches!(payload, Payload::Membership(_))),
            Doing::Appends => !persist.entries.is_empty(),
            Doing::Cuts => persist.truncate_from.is_some(),
            Doing::Commits => !ready.committed.is_empty(),
            Doing::Queues => !persist.outbox_put.is_empty(),
            Doing::Checkpoints => persist.checkpoint.is_some(),
            Doing::HandsOver => message(|body| matches!(body, Body::HandOver(_))),
            Doing::Acknowledges => message(|body| matches!(body, Body::Acknowledge(_))),
        }
    }
}

impl World {
    /// Whether the peer's trap closes around this `Ready`, and the process ends at once.
    pub fn is_trapped_before(&mut self, peer: usize, ready: &Ready) -> bool {
        let state = &mut self.peers[peer];
        let id = state.id;
        let Some(trap) = state.trap.as_mut().filter(|trap| trap.doing.is_in(id, ready)) else {
            return false;
        };
        if trap.skips > 0 {
            trap.skips -= 1;
            return false;
        }
        state.trapped_ready = Some(ready.number);
        let springs = trap.moment == Moment::Before;
        self.springs(peer, springs)
    }

    /// The same, after what is early has left.
    pub fn is_trapped_after_early(&mut self, peer: usize, ready: &Ready) -> bool {
        let state = &self.peers[peer];
        let moment = state.trap.map(|trap| trap.moment);
        let nothing_to_sync = ready.persist.is_empty();
        let trapped = state.trapped_ready == Some(ready.number);
        let springs = trapped && (moment == Some(Moment::AfterEarly) || nothing_to_sync);
        self.springs(peer, springs)
    }

    /// Whether the process ends only after the messages that rely on the sync have left.
    pub fn trap_lets_messages_go(&self, peer: usize) -> bool {
        self.peers[peer].trap.is_some_and(|trap| trap.moment == Moment::AfterMessages)
    }

    /// Ends the process of a trap that springs.
    pub fn springs(&mut self, peer: usize, now: bool) -> bool {
        if now && let Some(trap) = self.peers[peer].trap.take() {
            self.log(|| format!("{} is killed {trap}", peer + 1));
            self.counts.add("processes killed in a step");
            self.end_process_losing(peer, 0);
            self.start_later(peer, trap.down_us);
        }
        now
    }
}
