//! Processes: how they start, end, freeze and wake, and how a peer gets into the chat and out.

use bytes::Bytes;
use demes_protocol::Replica;
use demes_protocol::event::{DiskState, Event, LinkState, Notice, Proposal, Role, Status};
use demes_protocol::founding::founding_entry;
use demes_protocol::message::{Body, Join, Message, RefusedReason};
use demes_protocol::types::{
    Incarnation, Index, InviteLinkId, InviteLinkProof, MemberState, Membership, Number, Payload,
    PeerId,
};

use super::disk::{Disk, Found};
use super::invariants::{Broken, Confirmed};
use super::queue::What;
use super::signing::signer;
use super::world::{MS, Peer, SECOND, World};

/// A graceful stop that takes longer is ended.
const STOP_US_MAX: u64 = 5 * SECOND;
/// Until somebody moves a damaged store away.
const REPAIR_US_MAX: u64 = 5 * SECOND;
/// Between a process's end by itself and the next start.
const RESTART_US_MAX: u64 = 2 * SECOND;

/// How a person who is not in the chat wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    Join,
    JoinByLink(InviteLinkId),
    /// To be invited, and then not to come.
    Decline,
}

impl Wish {
    fn is_by_link(self) -> bool {
        matches!(self, Wish::JoinByLink(_))
    }
}

impl World {
    /// The peers, of which the first has just founded the chat.
    pub fn found_chat(&mut self) {
        let id = |number: usize| PeerId([number as u8 + 1; 32]);
        let incarnation = |number: usize| 1_001 + number as Incarnation;
        let (chat, name, address) = ("chat".into(), "person 1".into(), "h:1".into());
        let (_, first) = founding_entry(id(0), incarnation(0), chat, name, address, 0, |_| [0; 64]);
        let first = std::sync::Arc::new(first);
        self.oracle.commit(&first, 0);
        for number in 0..self.plan.members {
            let entries = if number == 0 { vec![first.clone()] } else { Vec::new() };
            self.peers.push(Peer::new(
                id(number),
                Disk::new(incarnation(number), entries),
                number == 0,
            ));
        }
        self.start(0);
    }

    // ---- starting ----

    /// Starts a peer's process, if it has a chat to run and nothing stands against it.
    pub fn start(&mut self, peer: usize) {
        let state = &mut self.peers[peer];
        if state.replica.is_some() || !state.joined || state.is_lost {
            return;
        }
        let found = if state.is_damaged { Found::Damaged } else { state.disk.recover() };
        let Found::Sound(recovered) = found else {
            self.counts.add("damaged stores refused");
            self.log(|| format!("{}'s store is damaged: refused", peer + 1));
            self.peers[peer].is_damaged = true;
            let delay = self.prng.below(REPAIR_US_MAX);
            self.at(delay, What::Repair { peer });
            return;
        };
        if recovered.tail_in_doubt {
            self.counts.add("torn tails cut");
        }
        let seed = self.prng.next_u64();
        let config = self.plan.config.clone();
        let now = self.now;
        let state = &mut self.peers[peer];
        // A process's clock begins with it.
        state.clock_us = 1_000 - now as i64;
        state.epoch += 1;
        state.network_epoch += 1;
        state.vanished = false;
        state.is_stopped = false;
        state.tick_at = u64::MAX;
        state.disk_state = DiskState::Fit;
        let replica =
            Replica::new(config, state.id, signer(state.id), *recovered, self.local(peer), seed);
        let state = &mut self.peers[peer];
        state.status = replica.status();
        state.replica = Some(replica);
        let epoch = state.epoch;
        self.log(|| format!("{} starts", peer + 1));
        self.invariants.start(peer, &self.peers[peer].status);
        self.links.forget(peer);
        self.look_at_all_links();
        self.at(SECOND, What::Measure { peer, epoch });
        self.event(peer, Event::Tick);
        self.tell_disk_state(peer);
    }

    pub fn start_later(&mut self, peer: usize, delay: u64) {
        self.at(delay, What::Start { peer });
    }

    // ---- ending ----

    /// The process ends by itself, or of its own accord, and is started again after a while.
    pub fn end_process(&mut self, peer: usize, gracefully: bool) {
        let unknown = if gracefully { u64::MAX } else { self.prng.below(3) };
        self.end_process_losing(peer, unknown);
        let delay = self.prng.below(RESTART_US_MAX);
        self.start_later(peer, delay);
    }

    /// The process is gone. Of what was being written, `durable` parts have become so without
    /// anyone knowing.
    pub fn end_process_losing(&mut self, peer: usize, durable: u64) {
        let state = &mut self.peers[peer];
        if state.replica.take().is_none() {
            return;
        }
        self.log(|| format!("{}'s process ends", peer + 1));
        let state = &mut self.peers[peer];
        let written = state.disk.crash(usize::try_from(durable).unwrap_or(usize::MAX));
        state.frozen = false;
        state.asleep_since = None;
        state.held.clear();
        state.busy_until = 0;
        state.trap = None;
        state.trapped_ready = None;
        state.status = Status::default();
        written.iter().for_each(|ready| self.check_synced(peer, ready));
        self.look_at_all_links();
    }

    // ---- time standing still ----

    /// The process gets no time (or its machine sleeps) for a while.
    pub fn freeze(&mut self, peer: usize, length_us: u64, is_asleep: bool) {
        let now = self.now;
        let state = &mut self.peers[peer];
        if state.replica.is_none() || state.frozen {
            return;
        }
        state.frozen = true;
        state.asleep_since = is_asleep.then_some(now);
        let epoch = state.epoch;
        self.counts.add(if is_asleep { "processes asleep" } else { "processes frozen" });
        self.at(length_us, What::Thaw { peer, epoch });
        self.look_at_all_links();
    }

    pub fn thaw(&mut self, peer: usize) {
        let now = self.now;
        let state = &mut self.peers[peer];
        if !std::mem::take(&mut state.frozen) {
            return;
        }
        self.log(|| format!("{} goes on", peer + 1));
        let state = &mut self.peers[peer];
        if let Some(since) = state.asleep_since.take() {
            // A sleeping machine's clock stands, and its connections are gone when it wakes.
            state.clock_us -= (now - since) as i64;
            state.network_epoch += 1;
        }
        self.look_at_all_links();
        self.catch_up(peer);
    }

    /// The peer's clock is found to be later than it was.
    pub fn jump_clock(&mut self, peer: usize, by_us: u64) {
        if self.peers[peer].replica.is_none() {
            return;
        }
        self.counts.add("clocks that jumped");
        self.peers[peer].clock_us += by_us as i64;
        self.tell(peer, Event::Tick);
    }

    // ---- getting in ----

    /// A newcomer is invited by somebody, finds the host through somebody, and asks it until it is
    /// taken on. So does one that has a new store.
    pub fn join(&mut self, peer: usize) {
        let state = &self.peers[peer];
        if state.joined || !state.wants_in || state.is_lost {
            return;
        }
        let id = state.id;
        let known = (0..self.peers.len()).filter(|other| {
            let other = &self.peers[*other];
            other.replica.is_some()
                && !other.frozen
                && (other.status.members.get(&other.id))
                    .is_some_and(|member| member.state == MemberState::Active)
        });
        let known: Vec<_> = known.collect();
        if !known.is_empty() {
            let helper = known[self.prng.below(known.len() as u64) as usize];
            let is_invited = self.peers[helper].status.members.contains_key(&id);
            let (has_answered, wish) = (self.peers[peer].has_answered, self.peers[peer].wish);
            let needs_invitation = !is_invited && !has_answered && !wish.is_by_link();
            if needs_invitation && self.prng.below(4) == 0 {
                let address = format!("h:{}", peer + 1);
                let invited = Membership::Invited { peer: id, address };
                self.propose(helper, Payload::Membership(invited));
            }
            let host = self.peers[helper].status.host.and_then(|host| self.index_of(host));
            let is_answering = is_invited || has_answered || wish != Wish::Decline;
            if let Some(host) = host
                && is_answering
                && self.network.can_dial(peer, helper)
            {
                self.peers[peer].has_answered = is_invited || has_answered;
                self.ask_to_join(peer, host);
            }
        }
        let delay = 50 * MS + self.prng.below(200 * MS);
        self.at(delay, What::Join { peer });
    }

    fn ask_to_join(&mut self, peer: usize, host: usize) {
        let state = &self.peers[peer];
        if state.wish == Wish::Decline {
            self.oracle.decline(state.id);
        }
        let state = &self.peers[peer];
        let join = Join {
            name: format!("person {}", peer + 1),
            address: format!("h:{}", peer + 1),
            created_at_ms: 0,
            decline: state.wish == Wish::Decline,
            signature: [0; 64],
            proof: match state.wish {
                Wish::JoinByLink(link) => Some(InviteLinkProof { link, signature: [0; 64] }),
                Wish::Join | Wish::Decline => None,
            },
            arrived_at_ms: 0,
        };
        let message = Message {
            from: state.id,
            from_incarnation: state.disk.incarnation(),
            from_boot: 1,
            to: self.peers[host].id,
            to_incarnation: 0,
            generation: 0,
            call: 1,
            words: Vec::new(),
            body: Body::Join(join),
        };
        self.send(peer, message);
    }

    /// Whether the message was the answer to a newcomer, who starts with it.
    pub fn answers_join(&mut self, peer: usize, message: &Message) -> bool {
        let state = &mut self.peers[peer];
        if state.joined || message.to_incarnation != state.disk.incarnation() {
            return false;
        }
        let is_accepted = matches!(&message.body, Body::JoinAnswer(answer) if answer.accepted);
        let refused = match &message.body {
            Body::Refused(refused) => Some(refused.reason),
            _ => None,
        };
        let declines = state.wish == Wish::Decline;
        if declines && (is_accepted || refused == Some(RefusedReason::NotMember)) {
            // Where there is no such invitation, there is nothing to decline. The next one is
            // answered in a new incarnation.
            state.wants_in = false;
            self.forget_store(peer);
        } else if is_accepted {
            state.joined = true;
            self.start(peer);
        } else if refused.is_some() {
            // There is no such invitation any more, and no such link: another one is needed.
            state.has_answered = false;
            if !declines {
                state.wish = Wish::Join;
            }
            // The membership that it did not hear of has ended already. The person is told, and
            // the next invitation is answered in a new incarnation.
            if matches!(refused, Some(RefusedReason::Removed { .. })) {
                self.forget_store(peer);
            }
        }
        true
    }

    // ---- getting out ----

    /// Does what the peer's driver does when its replica says so.
    pub fn obey(&mut self, peer: usize, notice: Notice) {
        match notice {
            Notice::Queued { number } => {
                let state = &self.peers[peer];
                self.oracle.queue((state.id, state.disk.incarnation(), number));
            }
            Notice::Confirmed { number, index } => self.confirm(peer, number, index),
            Notice::Fault { what } if !self.peers[peer].is_stopped => {
                let what = format!("{}: {what}", peer + 1);
                self.break_off(Broken { invariant: "no proof of a fault", what });
            }
            Notice::MayStop if self.peers[peer].is_stopped => {}
            Notice::MayStop => {
                self.counts.add("processes stopped gracefully");
                self.end_process_losing(peer, u64::MAX);
            }
            // Links that the replica forgot with a membership are told again.
            Notice::Members => {
                let others = (0..self.peers.len()).filter(|other| *other != peer);
                for other in
                    others.filter(|other| self.is_connected(peer, *other)).collect::<Vec<_>>()
                {
                    let (id, state) = (self.peers[other].id, LinkState::Up);
                    self.tell(peer, Event::Link { peer: id, state });
                }
            }
            Notice::Removed { .. } => {
                self.log(|| format!("{} is out of the chat", peer + 1));
                self.end_process_losing(peer, u64::MAX);
                self.peers[peer].wants_in = false;
                self.forget_store(peer);
            }
            Notice::BelowOwnPast => {
                if !self.peers[peer].disk.has_lost {
                    let what = format!("{} has lost nothing", peer + 1);
                    self.break_off(Broken { invariant: "no false alarm", what });
                }
                self.counts.add("restored stores noticed");
                self.peers[peer].is_stopped = true;
                let delay = self.prng.below(REPAIR_US_MAX);
                self.at(delay, What::Repair { peer });
            }
            _ => {}
        }
    }

    fn confirm(&mut self, peer: usize, number: Number, index: Index) {
        let state = &self.peers[peer];
        let confirmed = Confirmed { peer: state, number, index, oracle: &self.oracle };
        if let Err(broken) = self.invariants.on_confirmed(&confirmed) {
            self.break_off(broken);
            return;
        }
        self.counts.add("messages confirmed");
        self.oracle.confirm((state.id, state.disk.incarnation(), number), index);
    }

    /// The process is asked to stop, and comes back after a while.
    pub fn stop(&mut self, peer: usize, down_us: u64) {
        let state = &self.peers[peer];
        if state.replica.is_none() || state.frozen {
            return;
        }
        let epoch = state.epoch;
        self.event(peer, Event::Stop);
        self.at(STOP_US_MAX, What::StopDeadline { peer, epoch });
        self.start_later(peer, STOP_US_MAX + down_us);
    }

    /// Somebody moves a store away that is of no use any more. The peer joins anew.
    pub fn move_store_away(&mut self, peer: usize) {
        let state = &self.peers[peer];
        if state.is_damaged || state.is_stopped {
            self.end_process_losing(peer, 0);
            self.wipe(peer);
        }
    }

    /// The store is gone; the person still wants to be in the chat.
    pub fn wipe(&mut self, peer: usize) {
        self.counts.add("stores wiped");
        self.log(|| format!("{} begins with an empty store", peer + 1));
        self.forget_store(peer);
        if self.peers[peer].wants_in {
            self.at(10 * MS, What::Join { peer });
        }
    }

    fn forget_store(&mut self, peer: usize) {
        let state = &mut self.peers[peer];
        let incarnation = state.disk.incarnation() + 1_000;
        state.disk = Disk::new(incarnation, Vec::new());
        state.joined = false;
        state.is_damaged = false;
        state.is_stopped = false;
    }

    /// A person wants to be in the chat, or to be asked and then decline.
    pub fn want_in(&mut self, peer: usize, wish: Wish) {
        let state = &mut self.peers[peer];
        if !state.wants_in && !state.joined && !state.is_lost {
            state.wants_in = true;
            state.wish = wish;
            state.has_answered = false;
            self.at(0, What::Join { peer });
        }
    }

    /// Puts a wish into the peer's outbox, if it takes one.
    pub fn propose(&mut self, peer: usize, payload: Payload) {
        let state = &self.peers[peer];
        let Some(replica) = state.replica.as_ref().filter(|_| !state.frozen) else { return };
        if replica.can_propose(&payload).is_err() || state.is_stopped {
            self.counts.add("submissions refused");
            return;
        }
        let number = replica.next_number();
        self.oracle.propose(state.id, state.disk.incarnation(), number, &payload);
        let proposal = Proposal { payload, created_at_ms: 0, trace: None, signature: None };
        self.event(peer, Event::Propose(proposal));
    }

    /// Says something that nobody has said before.
    pub fn say(&mut self, peer: usize) {
        self.said += 1;
        let said = self.said;
        let sealed = Bytes::from(format!("message {said}"));
        self.propose(peer, Payload::Message { request_id: said.to_string(), sealed });
    }

    /// Whether the peer takes part in the chat, as far as the oracle knows, and has not said that
    /// it goes.
    pub fn is_active(&self, peer: usize) -> bool {
        let state = &self.peers[peer];
        let me = state.status.members.get(&state.id);
        state.replica.is_some() && me.is_some_and(|me| me.state == MemberState::Active)
    }

    /// Whether it is the peer's turn to host.
    pub fn hosts(&self, peer: usize) -> bool {
        self.peers[peer].replica.is_some() && self.peers[peer].status.role == Role::Host
    }
}
