//! What may happen next in a fuzzed chat.

use std::fmt;

use bytes::Bytes;
use demes_protocol::event::{DiskState, Event, Proposal};
use demes_protocol::message::{Body, Join, Message};
use demes_protocol::types::{MemberState, Membership, Payload};

use super::super::process::Wish;
use super::chat::{Chat, Key};

/// One thing that happens. A step that has no meaning where it stands does nothing, so that steps
/// can be left out of a schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    Deliver(Key),
    /// Delivers it, and it is on its way still.
    Double(Key),
    Lose(Key),
    /// The oldest write that waits returns.
    Sync(usize),
    /// The peer's next timer is due.
    Wake(usize),
    Pass(u64),
    /// A peer looks at its own connection to another one.
    Look(usize, usize),
    Say(usize),
    Read(usize),
    HandOver(Option<usize>),
    /// Gracefully.
    Stop(usize),
    Leave(usize),
    Remove(usize, usize),
    Invite(usize, usize),
    /// The first, who is not in the chat, answers its invitation: yes, or no.
    Join(usize, usize),
    Decline(usize, usize),
    /// Of what is being written, so many parts become durable.
    Crash(usize, usize),
    Start(usize),
    /// A part of the last batch is gone after all.
    Tear(usize, u64),
    Wipe(usize),
    Disk(usize, bool),
    Cut(usize, usize),
    Mend(usize, usize),
    /// Nothing passes between that one and all others.
    Isolate(usize),
    MendAll,
    /// All that is under way arrives and is written, in order and at this moment.
    Rest,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}→{} {} ({})", self.from + 1, self.to + 1, self.kind, self.count)
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = |peer: &usize| peer + 1;
        match self {
            Self::Deliver(key) => write!(f, "deliver {key}"),
            Self::Double(key) => write!(f, "deliver {key}, which comes again"),
            Self::Lose(key) => write!(f, "lose {key}"),
            Self::Sync(peer) => write!(f, "sync {}", n(peer)),
            Self::Wake(peer) => write!(f, "wake {}", n(peer)),
            Self::Pass(us) => write!(f, "pass {us} us"),
            Self::Look(peer, other) => write!(f, "{} looks at {}", n(peer), n(other)),
            Self::Say(peer) => write!(f, "{} says something", n(peer)),
            Self::Read(peer) => write!(f, "{} has read everything", n(peer)),
            Self::HandOver(to) => write!(f, "hand over to {:?}", to.as_ref().map(n)),
            Self::Stop(peer) => write!(f, "{} stops", n(peer)),
            Self::Leave(peer) => write!(f, "{} leaves", n(peer)),
            Self::Remove(by, peer) => write!(f, "{} removes {}", n(by), n(peer)),
            Self::Invite(by, peer) => write!(f, "{} invites {}", n(by), n(peer)),
            Self::Join(peer, at) => write!(f, "{} joins at {}", n(peer), n(at)),
            Self::Decline(peer, at) => write!(f, "{} declines at {}", n(peer), n(at)),
            Self::Crash(peer, durable) => write!(f, "crash {} after {durable} writes", n(peer)),
            Self::Start(peer) => write!(f, "start {}", n(peer)),
            Self::Tear(peer, pick) => write!(f, "{}'s last batch is torn ({pick})", n(peer)),
            Self::Wipe(peer) => write!(f, "{}'s store is lost", n(peer)),
            Self::Disk(peer, full) => write!(f, "{}'s disk is full: {full}", n(peer)),
            Self::Cut(a, b) => write!(f, "cut {} and {}", n(a), n(b)),
            Self::Mend(a, b) => write!(f, "mend {} and {}", n(a), n(b)),
            Self::Isolate(peer) => write!(f, "cut off {}", n(peer)),
            Self::MendAll => f.write_str("mend all"),
            Self::Rest => f.write_str("everything arrives"),
        }
    }
}

impl Chat {
    pub fn take_step(&mut self, deed: Deed) {
        self.log(|| format!("-- {deed}"));
        match deed {
            Deed::Deliver(key) => {
                if let Some(message) = self.take(self.first_of_stream(key)) {
                    self.deliver(message);
                }
            }
            Deed::Double(key) => {
                let flying = self.flying.iter().find(|flying| flying.key == key);
                let flying = flying.filter(|flying| flying.stream().is_none());
                if let Some(message) = flying.map(|flying| flying.message.clone()) {
                    self.deliver(message);
                }
            }
            Deed::Lose(key) => self.lose(key),
            Deed::Sync(peer) => self.sync(peer),
            Deed::Wake(peer) => self.wake(peer),
            Deed::Pass(us) => self.now += us,
            Deed::Look(peer, other) => self.look(peer, other),
            Deed::Say(peer) => self.say(peer),
            Deed::Read(peer) => {
                let index = self.peers[peer].status.commit;
                self.handle(peer, Event::MarkRead { index });
            }
            Deed::HandOver(target) => {
                let target = target.map(|target| self.peers[target].id);
                if let Some(host) = self.host() {
                    self.handle(host, Event::HandOver { target });
                }
            }
            Deed::Stop(peer) => self.handle(peer, Event::Stop),
            Deed::Leave(peer) => self.propose_change(peer, Membership::Leaving),
            Deed::Remove(by, peer) => {
                let peer = self.peers[peer].id;
                self.propose_change(by, Membership::Removing { peer });
            }
            Deed::Invite(by, peer) => {
                let address = format!("h:{}", peer + 1);
                let peer = self.peers[peer].id;
                self.propose_change(by, Membership::Invited { peer, address });
            }
            Deed::Join(peer, at) => self.ask_to_join(peer, at, Wish::Join),
            Deed::Decline(peer, at) => self.ask_to_join(peer, at, Wish::Decline),
            Deed::Crash(peer, durable) => self.crash(peer, durable),
            Deed::Start(peer) => self.start(peer),
            Deed::Tear(peer, pick) => {
                if self.can_spare(Some(peer)) {
                    self.crash(peer, usize::MAX);
                    self.peers[peer].disk.tear(pick);
                }
            }
            Deed::Wipe(peer) => {
                let is_spent = self.peers[peer].is_stopped;
                if self.peers[peer].joined && (is_spent || self.can_spare(Some(peer))) {
                    self.crash(peer, 0);
                    self.forget_store(peer);
                }
            }
            Deed::Disk(peer, full) => {
                let state = if full { DiskState::Full } else { DiskState::Fit };
                self.handle(peer, Event::Disk(state));
            }
            Deed::Cut(a, b) => {
                self.cuts.insert((a.min(b), a.max(b)));
            }
            Deed::Mend(a, b) => {
                self.cuts.remove(&(a.min(b), a.max(b)));
            }
            Deed::Isolate(peer) => {
                let others = (0..self.peers.len()).filter(|other| *other != peer);
                self.cuts.extend(others.map(|other| (peer.min(other), peer.max(other))));
            }
            Deed::MendAll => self.cuts.clear(),
            Deed::Rest => self.rest(),
        }
    }

    fn propose(&mut self, peer: usize, payload: Payload) {
        let state = &self.peers[peer];
        let Some(replica) = &state.replica else { return };
        if replica.can_propose(&payload).is_err() || state.is_stopped {
            return;
        }
        let number = replica.next_number();
        self.oracle.propose(state.id, state.disk.incarnation(), number, &payload);
        let proposal = Proposal { payload, created_at_ms: 0, trace: None, signature: None };
        self.handle(peer, Event::Propose(proposal));
    }

    fn propose_change(&mut self, peer: usize, change: Membership) {
        self.propose(peer, Payload::Membership(change));
    }

    pub fn say(&mut self, peer: usize) {
        self.said += 1;
        let said = self.said;
        let sealed = Bytes::from(format!("words {said}"));
        self.propose(peer, Payload::Message { request_id: said.to_string(), sealed });
    }

    fn ask_to_join(&mut self, peer: usize, at: usize, wish: Wish) {
        if self.peers[peer].joined || peer == at {
            return;
        }
        // Who was not invited has nothing to decline.
        let known = self.peers[at].status.members.get(&self.peers[peer].id);
        let is_invited = known.is_some_and(|known| known.state == MemberState::Invited);
        let has_declined = self.peers[peer].has_answered;
        if wish == Wish::Decline && !is_invited && !has_declined {
            return;
        }
        // A person answers an invitation once.
        let state = &mut self.peers[peer];
        if std::mem::replace(&mut state.has_answered, true) && state.wish != wish {
            return;
        }
        state.wants_in = true;
        state.wish = wish;
        let state = &self.peers[peer];
        let decline = wish == Wish::Decline;
        if decline {
            self.oracle.decline(state.id);
        }
        let join = Join {
            name: format!("person {}", peer + 1),
            address: format!("h:{}", peer + 1),
            created_at_ms: 0,
            decline,
            signature: [0; 64],
            proof: None,
            arrived_at_ms: 0,
        };
        let message = Message {
            from: state.id,
            from_incarnation: state.disk.incarnation(),
            from_boot: 1,
            to: self.peers[at].id,
            to_incarnation: 0,
            generation: 0,
            call: 1,
            words: Vec::new(),
            body: Body::Join(join),
        };
        self.send(peer, message);
    }

    /// Whether that peer has all that it ever promised to keep, in that incarnation.
    fn is_sound(&self, peer: usize, incarnation: u64) -> bool {
        let state = &self.peers[peer];
        state.joined
            && !state.is_stopped
            && !self.doubting[peer]
            && state.disk.incarnation() == incarnation
            && state.disk.is_sound()
    }

    /// Whether a majority of every voter set in some log keeps its memory, without that peer too.
    pub fn can_spare(&self, peer: Option<usize>) -> bool {
        let sets = self.peers.iter().filter(|other| other.joined).map(|other| {
            other.replica.as_ref().map_or_else(|| other.disk.voters(), |r| r.log().voters().clone())
        });
        sets.into_iter().all(|set| {
            let sound = set.0.iter().filter(|(id, incarnation)| {
                let voter = self.index_of(**id);
                Some(voter) != peer && self.is_sound(voter, **incarnation)
            });
            peer.is_some_and(|peer| !set.contains(&self.peers[peer].id))
                || sound.count() >= set.majority()
        })
    }
}
