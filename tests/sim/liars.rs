//! A member that lies: about who hosts and in which term, or about its delays, in its reports to
//! the host, in the list that it publishes
//! when it hosts itself, in the heartbeats that it says it has heard, and by answering pings late.

use std::sync::Arc;

use bytes::Bytes;
use demes_protocol::event::{Event, Role};
use demes_protocol::message::{
    Announce, Append, Attach, Body, Candidate, Heartbeat, Message, Nominate, Ranking, Refused,
    RefusedReason, ReportDelays, RequestVote,
};
use demes_protocol::types::{End, Entry, Payload, PeerId, Position};

use super::false_reign::reign_of_one;
use super::plan::{Action, Draw};
use super::world::{SECOND, World};

/// How late it may answer a ping.
const LATE_US_MAX: u64 = 3 * SECOND;

const STRANGER: PeerId = PeerId([88; 32]);

/// What a liar wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// Confusion: each time it says something else.
    Anything,
    /// To host: nobody is nearer to anybody.
    Nearest,
    /// The same, and then it does not answer a hand-over. That is more than a lie: of two voters,
    /// the one that hosts cannot leave while the other does not take over. So no seed draws it.
    TakesNothing,
    /// To lead the others astray: it claims reigns, terms and logs that nobody has given it (L3,
    /// L5).
    Reigns,
}

impl Lie {
    pub fn draw(draw: &mut Draw) -> Self {
        [Lie::Anything, Lie::Nearest, Lie::Reigns][draw.below(3) as usize]
    }
}

/// It does not stop when all else has healed.
pub fn lie_from_now_on(peer: usize, lie: Lie) -> Action {
    let words = format!("{} lies about its delays from now on: {lie:?}", peer + 1);
    Action::new(words, move |world| world.peers[peer].lie = Some(lie))
}

/// A liar that hosts makes another one host.
pub fn pass_it_on() -> Action {
    Action::new("a liar passes the hosting on".into(), |world| {
        if let Some(host) = world.host().filter(|host| world.peers[*host].lie.is_some()) {
            world.tell(host, Event::HandOver { target: None });
        }
    })
}

impl World {
    /// What a liar says in place of that.
    pub fn lie(&mut self, peer: usize, lie: Lie, body: &mut Body) {
        let liar = self.peers[peer].id;
        // As a host, it may do as it likes within its reign.
        if lie == Lie::Reigns && self.peers[peer].status.role == Role::Host {
            return;
        }
        match body {
            Body::ReportDelays(report) if lie == Lie::Anything => self.lie_of_delays(report),
            Body::ReportDelays(report) if lie != Lie::Reigns => {
                report.row.iter_mut().for_each(|(_, delay)| *delay = 0);
                report.host_weight = u32::MAX;
            }
            Body::FindHostAnswer(answer) if lie == Lie::Reigns && answer.host.is_none() => {
                answer.term += 1;
                answer.host = Some(liar);
            }
            Body::FetchLogAnswer(answer) if lie == Lie::Reigns => {
                if let Some(before) = answer.entries.last() {
                    let end = End { last: answer.last, hash: before.hash };
                    let start = self.false_start(liar, end, before.term + 3);
                    answer.last = Position { term: start.term, index: start.index };
                    answer.entries.push(start);
                }
            }
            _ if lie != Lie::Anything => return,
            Body::Heartbeat(Heartbeat { ranking: Some(ranking), .. }) => {
                *ranking = Arc::new(self.false_ranking(ranking));
            }
            Body::Acknowledge(acknowledge) => {
                let heard = acknowledge.heartbeat;
                acknowledge.heartbeat = match self.prng.below(10) {
                    0 => u64::MAX,
                    1 => 0,
                    back => heard.saturating_sub(back / 4),
                };
            }
            _ => return,
        }
        self.counts.add("lies told of delays");
    }

    /// What a liar says of itself beside that: that it hosts, with its own vote or none, that it is
    /// in a later term, that its log is further, or that it stands; and of others, that they are no
    /// members.
    fn false_word(&mut self, peer: usize) -> Option<Body> {
        let status = &self.peers[peer].status;
        // As a host, it may do as it likes within its reign.
        if status.role == Role::Host {
            return None;
        }
        let log = self.peers[peer].replica.as_ref()?.log();
        let last = Position { term: log.term_at(log.last().index)?, index: log.last().index };
        let end = End { last, hash: log.last_hash() };
        let (liar, commit) = (self.peers[peer].id, status.commit);
        let ahead = [1, 1, 2, 7, 1_000, 1 << 40][self.prng.below(6) as usize];
        let term = status.term + ahead;
        let others: Vec<_> = self.peers.iter().map(|it| it.id).filter(|it| *it != liar).collect();
        let other = others[self.prng.below(others.len() as u64) as usize];
        let refused = |reason| Body::Refused(Refused { term: status.term, reason });
        let body = match self.prng.below(12) {
            0 => Body::Announce(Announce { term, reign: None }),
            1 => {
                let reign = Some(self.false_start(liar, end, term));
                Body::Announce(Announce { term, reign })
            }
            2 => Body::Heartbeat(Heartbeat {
                term,
                number: 1_000_000,
                interval_us: 50_000,
                sent_us: 0,
                lease_us: 2_000_000,
                probe: false,
                commit: commit + 5,
                positions: Vec::new(),
                pasts: Vec::new(),
                ranking: None,
            }),
            3 => {
                Body::Refused(Refused { term, reason: RefusedReason::NotHost { host: Some(liar) } })
            }
            4 => Body::Refused(Refused { term, reason: RefusedReason::StaleTerm }),
            5 => {
                let further = Position { term: last.term, index: last.index + self.prng.below(2) };
                let end = End { last: further, ..end };
                Body::RequestVote(RequestVote { term, end, hand_over: None, past: None })
            }
            // Words that would end the part of whoever believed them (L1).
            6 => refused(RefusedReason::Removed { by: Some(other) }),
            7 => refused(RefusedReason::Removed { by: None }),
            8 => refused(RefusedReason::Outlived { is_here: self.prng.below(2) == 0 }),
            9 => refused(RefusedReason::NotMember),
            10 => refused(RefusedReason::OtherGeneration),
            _ => {
                let last = Position { term: last.term + ahead, index: last.index + ahead };
                Body::Nominate(Nominate { term, last })
            }
        };
        self.counts.add("reigns claimed");
        Some(body)
    }

    /// Says something of that beside a true word.
    pub fn tell_beside(&mut self, from: usize, message: &Message) {
        if self.prng.below(4) > 0 {
            return;
        }
        let other = self.prng.below(self.peers.len() as u64) as usize;
        if let Some(body) = self.false_word(from).filter(|_| other != from) {
            let (to, to_incarnation) = (self.peers[other].id, self.peers[other].disk.incarnation());
            // Or somebody says so whom nobody knows (L2).
            let me = if self.prng.below(4) == 0 { STRANGER } else { message.from };
            let word = Message { from: me, to, to_incarnation, call: 0, body, ..message.clone() };
            self.carry(from, other, word);
        }
    }

    /// Gives its log to one who asks it as a host.
    pub fn answer_falsely(&mut self, liar: usize, asked: &Message, attach: &Attach) {
        let Some(body) = self.false_log(liar, attach) else { return };
        let image = self.peers[liar].disk.image();
        let answer = Message {
            from: asked.to,
            from_incarnation: image.incarnation,
            from_boot: image.boot,
            to: asked.from,
            to_incarnation: asked.from_incarnation,
            body,
            ..asked.clone()
        };
        if let Some(to) = self.index_of(asked.from) {
            self.carry(liar, to, answer);
        }
    }

    /// What a liar gives to who asks it for its log, as the host that it is not.
    fn false_log(&mut self, peer: usize, attach: &Attach) -> Option<Body> {
        let log = self.peers[peer].replica.as_ref()?.log();
        let (last, hash) = (log.last(), log.last_hash());
        let liar = self.peers[peer].id;
        if attach.look != last {
            return None;
        }
        let start = self.false_start(liar, End { last, hash }, attach.term);
        let mut word = Entry {
            index: start.index + 1,
            number: 1,
            payload: Payload::Message {
                request_id: "never said".into(),
                sealed: Bytes::from_static(b"never said"),
            },
            previous: start.hash,
            ..Entry::clone(&start)
        };
        word.hash = word.computed_hash();
        let commit = word.index;
        let (term, attach) = (attach.term, attach.attach);
        let reign = Some(Arc::clone(&start)).filter(|_| self.prng.below(2) == 0);
        let entries = vec![start, Arc::new(word)];
        self.counts.add("false logs given");
        let (past, end) = (None, Some(commit));
        let append =
            Append { term, attach, previous: last, entries, commit, past, reign, last: end };
        Some(Body::Append(append))
    }

    fn false_start(&self, liar: PeerId, end: End, term: u64) -> Arc<Entry> {
        let incarnation = self.index_of(liar).map_or(0, |at| self.peers[at].disk.incarnation());
        reign_of_one(liar, incarnation, end, term)
    }

    /// How much later than it could a liar answers a ping.
    pub fn late_answer(&mut self) -> u64 {
        match self.prng.below(4) {
            0 => self.prng.below(LATE_US_MAX),
            _ => 0,
        }
    }

    fn lie_of_delays(&mut self, report: &mut ReportDelays) {
        let peers: Vec<_> = self.peers.iter().map(|peer| peer.id).collect();
        let friend = peers[self.prng.below(peers.len() as u64) as usize];
        report.row = match self.prng.below(6) {
            0 => peers.iter().map(|peer| (*peer, 0)).collect(),
            1 => peers.iter().map(|peer| (*peer, u64::MAX)).collect(),
            2 => peers.iter().map(|peer| (*peer, self.prng.next_u64() >> 20)).collect(),
            3 => Vec::new(),
            4 => {
                peers.iter().map(|peer| (*peer, if *peer == friend { 0 } else { SECOND })).collect()
            }
            // Its friend again and again, each time otherwise, and somebody whom nobody knows.
            _ => (0..99).map(|n| (friend, n)).chain([(PeerId([99; 32]), 0)]).collect(),
        };
        report.preferences = vec![friend; self.prng.below(256) as usize];
        report.host_weight = [0, 1, 100, u32::MAX][self.prng.below(4) as usize];
    }

    /// Anybody in any order, some twice, some missing.
    fn false_ranking(&mut self, ranking: &Ranking) -> Ranking {
        let drawn = |world: &mut World| {
            let peer = world.prng.below(world.peers.len() as u64) as usize;
            let farness_us = [None, Some(0), Some(u64::MAX)][world.prng.below(3) as usize];
            Candidate { peer: world.peers[peer].id, farness_us, absence: None }
        };
        let count = self.prng.below(2 * self.peers.len() as u64);
        let candidates = (0..count).map(|_| drawn(self)).collect();
        Ranking { candidates, delays: Vec::new(), ..ranking.clone() }
    }
}
