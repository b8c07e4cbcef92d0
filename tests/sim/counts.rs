//! How often something interesting happened, over all seeds. A run in which one of these never
//! happens proves nothing about it, and fails.

use std::collections::BTreeMap;

use demes_protocol::event::{Notice, Ready};
use demes_protocol::message::{Body, SubmitProblem};
use demes_protocol::types::{Membership, Payload};

use super::oracle::Oracle;

/// What must have happened at least once in the normal run.
pub const WANTED: [&str; 50] = [
    "reigns claimed",
    "false logs given",
    "messages confirmed",
    "hosts that served",
    "hosts that paused",
    "suspicions",
    "nominations",
    "candidacies",
    "hand-overs sent",
    "adopted logs",
    "relayed submissions",
    "candidacies with a hand-over",
    "withdrawals",
    "fallbacks",
    "logs cut",
    "looks further back",
    "reads from the store",
    "gaps in submissions",
    "changes of voters",
    "members joined",
    "members declined",
    "members removed",
    "members sent away",
    "members joined by a link",
    "invitations revoked",
    "new incarnations",
    "restored stores noticed",
    "torn tails cut",
    "damaged stores refused",
    "damaged entries met while running",
    "stores wiped",
    "disks full",
    "disks stalled",
    "processes ended by a stall",
    "processes ended by a failed write",
    "processes killed",
    "processes killed in a step",
    "processes stopped gracefully",
    "processes frozen",
    "processes asleep",
    "clocks that jumped",
    "streams broken",
    "messages lost",
    "messages doubled",
    "slow readers cut off",
    "links that flapped",
    "lies told of delays",
    "liars that hosted",
    "quorums healed",
    "chats healed whole",
];

/// The counters of one run, or of many.
#[derive(Default)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_insert(0) += 1;
    }

    /// What a replica says and wants done.
    pub fn step(&mut self, ready: &Ready, oracle: &Oracle) {
        for notice in &ready.notices {
            match notice {
                Notice::Serving { .. } => self.add("hosts that served"),
                Notice::Paused { paused: true } => self.add("hosts that paused"),
                Notice::Suspect { .. } => self.add("suspicions"),
                Notice::Nominated { .. } => self.add("nominations"),
                Notice::Standing { .. } => self.add("candidacies"),
                _ => {}
            }
        }
        if ready.persist.truncate_from.is_some() {
            self.add("logs cut");
        }
        for entry in ready.committed.iter().filter(|entry| entry.index > oracle.last()) {
            match &entry.payload {
                Payload::VoterChange(_) => self.add("changes of voters"),
                Payload::Membership(Membership::Joined { proof: Some(_), .. }) => {
                    self.add("members joined by a link");
                }
                Payload::Membership(Membership::Joined { .. }) => {
                    let is_back = oracle.roll.was_member(entry.author);
                    self.add(if is_back { "new incarnations" } else { "members joined" });
                }
                Payload::Membership(Membership::Removing { .. }) => {
                    self.add("members sent away");
                }
                Payload::Membership(Membership::InviteRevoked { .. }) => {
                    self.add("invitations revoked");
                }
                Payload::Membership(Membership::Declined) => self.add("members declined"),
                Payload::Membership(Membership::Removed { .. }) => self.add("members removed"),
                _ => {}
            }
        }
    }

    /// What a replica says to another.
    pub fn sent(&mut self, body: &Body) {
        match body {
            Body::HandOver(_) => self.add("hand-overs sent"),
            Body::RequestVote(request) if request.hand_over.is_some() => {
                self.add("candidacies with a hand-over");
            }
            Body::Withdraw(_) => self.add("withdrawals"),
            Body::Solicit(_) => self.add("fallbacks"),
            Body::Submit(submit) if submit.author.is_some() => self.add("relayed submissions"),
            Body::FetchLogAnswer(answer) if !answer.entries.is_empty() => {
                self.add("adopted logs");
            }
            Body::LookBack(_) => self.add("looks further back"),
            Body::SubmitAnswer(answer) => {
                if let Some(SubmitProblem::Gap { .. }) = answer.problem {
                    self.add("gaps in submissions");
                }
            }
            _ => {}
        }
    }

    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    pub fn merge(&mut self, other: &Counts) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_insert(0) += count;
        }
    }

    /// What was wanted and never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        WANTED.into_iter().filter(|what| self.get(what) == 0).collect()
    }

    /// One line for each counter.
    pub fn table(&self) -> String {
        self.0.iter().map(|(what, count)| format!("{count:>12} {what}\n")).collect()
    }
}
