//! One peer by itself: its process and its disk, and what they do about one thing that happens.
//!
//! What comes of it depends on nothing but the peer as it was, so that the same thing need not be
//! worked out twice (see `memory.rs`).

use std::sync::Arc;

use bytes::Bytes;
use demes_protocol::Replica;
use demes_protocol::config::Config;
use demes_protocol::event::{Event, LinkState, Notice, Proposal, Ready, Role};
use demes_protocol::message::{Body, Message};
use demes_protocol::situation::Scale;
use demes_protocol::time::Instant;
use demes_protocol::types::{
    Entry, HardState, Incarnation, Index, Membership, Payload, PeerId, Term,
};

use crate::chat::Travel;
use crate::disk::{Disk, Image};
use crate::history::{Broken, Sight};
use crate::key::{FAR_US, Key, QUANTUM_US};
use crate::memory::Memory;
use crate::signing::{is_genuine, signer};
use crate::text;

/// How many peers there are.
pub const PEERS: usize = 3;

/// How the messages begin of one whose disk is an old copy.
pub const AGAIN: &str = "again";

/// A wiped disk's incarnation is this much above the one before.
const INCARNATIONS: u64 = 1_000;

#[derive(Clone)]
pub struct Peer {
    pub id: PeerId,
    /// Its own clock, in microseconds.
    pub now: u64,
    /// Absent while it does not run.
    pub replica: Option<Replica>,
    pub disk: Disk,
    /// Those of whose processes it has been told that they are gone.
    pub gone: [bool; PEERS],
    /// Its disk is empty, and it asks to be taken on.
    pub joining: bool,
    /// What was on a disk that was lost.
    pub lost: Option<Arc<Image>>,
    /// A copy of its disk from before anything happened that is explored.
    pub copy: Option<Arc<Image>>,
    /// That copy took the place of its disk.
    pub put_back: bool,
    /// The term in which it stands because it was handed over to.
    pub handed: Term,
    /// What follows is made by `mark`.
    pub term: Term,
    pub hosts: bool,
    pub key: Key,
    /// Names it among all peers that were ever met.
    pub number: u32,
}

/// A message on its way.
pub struct Parcel {
    pub message: Message,
    pub key: Key,
    /// Names it among all that were ever sent.
    pub number: u32,
}

/// Something happens to one peer.
#[derive(Clone)]
pub enum Input {
    Hear(Arc<Parcel>),
    /// Its next timer fires, when it is due or later.
    Tick {
        at: u64,
    },
    /// Its oldest `Ready` becomes durable.
    Sync,
    /// It starts from its disk.
    Start,
    /// It is connected to that one.
    Connect(usize),
    /// That connection is closed.
    Disconnect(usize),
    /// It is told that the process of that one is gone.
    Refused(usize),
    /// The stream from that one ends.
    Detach(usize),
    /// The process ends at once.
    Crash,
    /// The disk of a peer that does not run is lost.
    Wipe,
    /// The disk of a peer that does not run is replaced by the copy.
    PutBack,
    Propose(Payload),
    HandOver(usize),
    Stop,
}

/// What comes of it outside the peer, in order.
pub enum Effect {
    Send(Arc<Parcel>),
    Commit(Vec<Arc<Entry>>),
    /// It begins to host.
    Host(Term),
    Confirmed {
        number: u64,
        index: Index,
    },
    /// The log in memory has changed.
    Log,
    /// The log on the disk was cut.
    Cut(Index),
    Sight(Sight),
    Broken(Broken),
    /// For a person who reads.
    Tell(Box<str>),
}

pub fn index(peer: PeerId) -> usize {
    usize::from(peer.0[0]) - 1
}

pub fn id(index: usize) -> PeerId {
    PeerId([index as u8 + 1; 32])
}

pub fn first_incarnation(peer: PeerId) -> u64 {
    INCARNATIONS + u64::from(peer.0[0])
}

impl Peer {
    pub fn new(p: usize, entries: Vec<Arc<Entry>>) -> Self {
        let joining = entries.is_empty();
        Self {
            id: id(p),
            now: 0,
            replica: None,
            disk: Disk::new(first_incarnation(id(p)), entries),
            gone: [false; PEERS],
            joining,
            lost: None,
            copy: None,
            put_back: false,
            handed: 0,
            term: 0,
            hosts: false,
            key: Key::default(),
            number: 0,
        }
    }

    /// Takes note of the peer as it is now.
    pub fn mark(&mut self, scale: Scale) {
        let status = self.replica.as_ref().map(Replica::status).unwrap_or_default();
        self.term = status.term;
        self.hosts = status.role == Role::Host;
        self.key = Key::of_peer(self, scale);
    }

    /// When its clock should show what, for its next timer to fire.
    pub fn timeout(&self) -> Option<u64> {
        let Instant(at) = self.replica.as_ref()?.poll_timeout()?;
        let at = at.next_multiple_of(QUANTUM_US).max(self.now);
        // Timers that are far away never fire.
        (at < self.now + FAR_US).then_some(at)
    }

    /// Numbers are given again by one with an old copy, to other words.
    pub fn message(&self, text: &str) -> Payload {
        let text = if self.put_back { AGAIN } else { text };
        let number = self.replica.as_ref().map_or(0, Replica::next_number);
        let sealed = Bytes::from(format!("{text} {number} of {}", self.id.0[0]));
        Payload::Message { request_id: String::new(), sealed }
    }

    /// Whether this incarnation of it has, or had, that entry on its disk.
    pub fn has_durably(&self, incarnation: Incarnation, entry: &Entry) -> bool {
        let images = [Some(&self.disk.image), self.lost.as_deref()];
        let mut images = images.into_iter().flatten();
        images.any(|image| image.incarnation == incarnation && image.has(entry))
    }

    /// Lets it happen.
    pub fn happen(self, input: &Input, around: &Around<'_>) -> (Self, Vec<Effect>) {
        let mut doing = Doing { peer: self, around, effects: Vec::new() };
        doing.happen(input);
        doing.peer.mark(around.scale);
        (doing.peer, doing.effects)
    }
}

/// What a peer is given from outside.
pub struct Around<'a> {
    pub config: &'a Config,
    /// How moments are told apart.
    pub scale: Scale,
    pub memory: &'a Memory,
    /// What never arrives is not sent.
    pub travel: fn(&Body) -> Travel,
}

struct Doing<'a> {
    peer: Peer,
    around: &'a Around<'a>,
    effects: Vec<Effect>,
}

impl Doing<'_> {
    fn happen(&mut self, input: &Input) {
        match input {
            Input::Hear(parcel) if !is_genuine(&parcel.message) => {}
            Input::Hear(parcel) => self.hear(&parcel.message),
            Input::Tick { at } => {
                self.peer.now = *at;
                self.event(Event::Tick);
            }
            Input::Sync => self.sync(),
            Input::Start => {
                let peer = &mut self.peer;
                let (config, now) = (self.around.config.clone(), Instant(peer.now));
                peer.joining = false;
                peer.replica = Some(Replica::new(
                    config,
                    peer.id,
                    signer(peer.id),
                    peer.disk.recover(),
                    now,
                    0,
                ));
                self.event(Event::Tick);
            }
            Input::Connect(q) => {
                self.peer.gone[*q] = false;
                self.event(Event::RoundTrip { peer: id(*q), rtt_us: 1 });
                self.event(Event::Link { peer: id(*q), state: LinkState::Up });
            }
            Input::Disconnect(q) => {
                self.event(Event::Link { peer: id(*q), state: LinkState::Down });
            }
            Input::Refused(q) => {
                self.peer.gone[*q] = true;
                self.event(Event::Link { peer: id(*q), state: LinkState::Refused });
            }
            Input::Detach(q) => self.event(Event::Detached { peer: id(*q) }),
            Input::Crash => self.crash(),
            Input::Wipe => {
                let incarnation = self.peer.disk.image.incarnation + INCARNATIONS;
                let disk = Disk::new(incarnation, Vec::new());
                let lost = std::mem::replace(&mut self.peer.disk, disk);
                self.peer.lost = Some(Arc::new(lost.image));
                self.peer.joining = true;
            }
            Input::PutBack => {
                let Some(copy) = &self.peer.copy else { return };
                let image = std::mem::replace(&mut self.peer.disk.image, Image::clone(copy));
                self.peer.lost = Some(Arc::new(image));
                self.peer.put_back = true;
            }
            Input::Propose(payload) => {
                let taken = self.peer.replica.as_ref().map(|r| r.can_propose(payload).is_ok());
                let (payload, created_at_ms) = (payload.clone(), 0);
                if taken == Some(true) {
                    let (trace, signature) = (None, None);
                    let proposal = Proposal { payload, created_at_ms, trace, signature };
                    self.event(Event::Propose(proposal));
                }
            }
            Input::HandOver(q) => self.event(Event::HandOver { target: Some(id(*q)) }),
            Input::Stop => self.event(Event::Stop),
        }
    }

    fn hear(&mut self, message: &Message) {
        let (last, effects) = (self.last_hash(), self.effects.len());
        self.event(Event::Message(message.clone()));
        if matches!(message.body, Body::FetchLogAnswer(_)) && self.last_hash() != last {
            let is_cut = |effect: &Effect| matches!(effect, Effect::Sight(Sight::Cut));
            let cuts = self.effects[effects..].iter().any(is_cut);
            let sight = if cuts { Sight::AdoptedAndCut } else { Sight::Adopted };
            self.effects.push(Effect::Sight(sight));
        }
        if matches!(message.body, Body::HandOver(_)) {
            let status = self.peer.replica.as_ref().map(Replica::status).unwrap_or_default();
            let stands = status.role == Role::Candidate;
            self.peer.handed = if stands { status.term } else { 0 };
        }
    }

    fn last_hash(&self) -> Option<demes_protocol::types::Hash> {
        self.peer.replica.as_ref().map(|replica| replica.log().last_hash())
    }

    /// What was not synced is lost.
    fn crash(&mut self) {
        let pending = &mut self.peer.disk.pending;
        if pending.iter().any(|ready| !ready.persist.entries.is_empty()) {
            self.effects.push(Effect::Sight(Sight::UnsyncedLost));
        }
        pending.clear();
        self.peer.replica = None;
        self.peer.gone = [false; PEERS];
        self.peer.handed = 0;
    }

    // ---- what a driver does ----

    fn event(&mut self, event: Event) {
        let now = Instant(self.peer.now);
        let Some(replica) = &mut self.peer.replica else { return };
        let commit = replica.log().commit();
        replica.handle(now, event);
        let mut ready = replica.take_ready();
        let travels = |message: &Message| (self.around.travel)(&message.body) != Travel::Lost;
        ready.early.retain(travels);
        ready.messages.retain(travels);
        if replica.log().commit() < commit {
            self.effects.push(Effect::Broken(Broken::CommitWentBack));
        }
        if ready.persist.truncate_from.is_some() {
            self.effects.push(Effect::Sight(Sight::Cut));
        }
        if !ready.persist.entries.is_empty() {
            self.effects.push(Effect::Log);
        }
        let committed = std::mem::take(&mut ready.committed);
        if !committed.is_empty() {
            self.effects.push(Effect::Commit(committed));
        }
        for notice in std::mem::take(&mut ready.notices) {
            self.notice(&notice);
        }
        for message in std::mem::take(&mut ready.early) {
            self.send(message);
        }
        for load in std::mem::take(&mut ready.loads) {
            let entries = &self.peer.disk.image.entries;
            let end = (load.through as usize).min(entries.len());
            let entries = entries[load.from as usize - 1..end].to_vec();
            self.event(Event::Loaded { load, entries });
        }
        self.store(ready);
    }

    fn store(&mut self, ready: Ready) {
        if ready.is_empty() {
            return;
        }
        let pending = &mut self.peer.disk.pending;
        match pending.back_mut() {
            None if ready.persist.is_empty() => self.release(ready),
            // What waits for no sync of its own leaves with the one before.
            Some(last) if ready.persist.is_empty() => {
                last.messages.extend(ready.messages);
                last.persisted_notices.extend(ready.persisted_notices);
            }
            _ => pending.push_back(ready),
        }
    }

    fn sync(&mut self) {
        let before = self.peer.disk.image.hard_state;
        let Some(ready) = self.peer.disk.sync_one() else { return };
        let after = self.peer.disk.image.hard_state;
        if let Some(what) = text::persist(&ready.persist) {
            self.tell(format!("{} syncs {what}", self.peer.id.0[0]));
        }
        if !keeps_vote(before, after) {
            self.effects.push(Effect::Broken(Broken::VoteChanged));
        }
        let last = self.peer.disk.image.entries.last();
        if last.is_some_and(|last| last.term > after.term) {
            self.effects.push(Effect::Broken(Broken::TermBehindLog));
        }
        if let Some(from) = ready.persist.truncate_from {
            self.effects.push(Effect::Cut(from));
        }
        let number = ready.number;
        self.release(ready);
        self.event(Event::Persisted { ready: number, sync_us: 0 });
    }

    fn release(&mut self, ready: Ready) {
        for message in ready.messages {
            self.send(message);
        }
        for notice in ready.persisted_notices {
            self.notice(&notice);
        }
    }

    fn tell(&mut self, line: String) {
        self.effects.push(Effect::Tell(line.into()));
    }

    fn notice(&mut self, notice: &Notice) {
        let me = self.peer.id;
        self.tell(format!("{}: {}", me.0[0], text::notice(notice)));
        let effect = match *notice {
            Notice::Host { host, term } if host == Some(me) => Effect::Host(term),
            Notice::Confirmed { number, index } => Effect::Confirmed { number, index },
            Notice::Paused { paused: true } => Effect::Sight(Sight::Paused),
            Notice::Paused { paused: false } => Effect::Sight(Sight::Resumed),
            Notice::Removed { .. } => Effect::Sight(Sight::Removed),
            Notice::BelowOwnPast if self.peer.put_back => Effect::Sight(Sight::OldCopyNoticed),
            Notice::Fault { .. } if self.peer.put_back => return,
            // No other store is ever older than what was told of it.
            Notice::BelowOwnPast | Notice::Fault { .. } => Effect::Broken(Broken::Fault),
            _ => return,
        };
        self.effects.push(effect);
    }

    fn send(&mut self, message: Message) {
        if !is_durable(&self.peer, &message) {
            self.tell(text::message(&message));
            self.effects.push(Effect::Broken(Broken::SaidBeforeDurable));
        }
        // A nominee that has nothing to tell says nothing that is listened to.
        let silent =
            matches!(&message.body, Body::NominateAnswer(answer) if answer.host_alive.is_none());
        if !silent {
            self.effects.push(Effect::Send(self.around.memory.parcel(message, self.around.scale)));
        }
    }
}

fn keeps_vote(before: HardState, after: HardState) -> bool {
    before.term != after.term || before.vote.is_none() || before.vote == after.vote
}

/// Whether what the message reveals is on the sender's disk.
fn is_durable(peer: &Peer, message: &Message) -> bool {
    let image = &peer.disk.image;
    let (state, last) = (image.hard_state, image.entries.len() as Index);
    let term = message.body.term();
    let this_term = term == state.term;
    // Who reads from a reign that has not been proven to it names that one's term, not its own.
    let tries = match &message.body {
        Body::Attach(_) => true,
        Body::Acknowledge(acknowledge) => acknowledge.received > 0,
        _ => false,
    };
    (term <= state.term || tries)
        && match &message.body {
            Body::Vote(vote) => {
                !(vote.granted.is_some() && this_term) || state.vote == Some(message.to)
            }
            Body::RequestVote(_) => !this_term || state.vote == Some(message.from),
            Body::Acknowledge(acknowledge) => last >= acknowledge.synced,
            Body::Attach(attach) => last >= attach.look.index,
            _ => true,
        }
}

/// A newcomer's request, as its runtime sends it before there is a replica.
pub fn join(peer: &Peer, host: usize) -> Message {
    let number = peer.id.0[0];
    Message {
        from: peer.id,
        from_incarnation: peer.disk.image.incarnation,
        from_boot: 1,
        to: id(host),
        to_incarnation: 0,
        generation: 0,
        call: 0,
        words: Vec::new(),
        body: Body::Join(demes_protocol::message::Join {
            name: format!("person {number}"),
            address: format!("h:{number}"),
            created_at_ms: 0,
            arrived_at_ms: 0,
            decline: false,
            proof: None,
            signature: [0; 64],
        }),
    }
}

/// An invitation of that peer.
pub fn invitation(p: usize) -> Payload {
    Payload::Membership(Membership::Invited { peer: id(p), address: format!("h:{p}") })
}
