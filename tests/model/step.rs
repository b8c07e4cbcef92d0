//! How a state changes: what a driver, a disk, a network and a clock do around the replicas.

use std::collections::VecDeque;
use std::sync::Arc;

use demes_protocol::Replica;
use demes_protocol::event::{Event, LinkState, Notice, Proposal, Ready, Role};
use demes_protocol::message::{Body, Join, Message, WithdrawReason};
use demes_protocol::quorum::is_majority;
use demes_protocol::time::Instant;
use demes_protocol::types::{Entry, Index, Number, Payload, PeerId};

use crate::chat::Bounds;
use crate::disk::Disk;
use crate::history::{Broken, Sight, has, logs_match};
use crate::state::{PEERS, Parcel, Peer, SCALE, State};
use crate::text;

/// Deliveries within one step after which it is given up.
const DELIVERIES_MAX: usize = 10_000;

/// A state that is being changed.
pub struct Step<'a> {
    pub state: State,
    bounds: &'a Bounds,
    /// What arrives within this step.
    urgent: VecDeque<Message>,
    changed: [bool; PEERS],
    /// Told in words, if anybody reads it.
    pub lines: Option<Vec<String>>,
}

pub fn index(peer: PeerId) -> usize {
    usize::from(peer.0[0]) - 1
}

pub fn id(index: usize) -> PeerId {
    PeerId([index as u8 + 1; 32])
}

impl<'a> Step<'a> {
    pub fn new(state: State, bounds: &'a Bounds) -> Self {
        let urgent = VecDeque::new();
        Self { state, bounds, urgent, changed: [false; PEERS], lines: None }
    }

    /// Ends the step: what is urgent arrives, and the changed peers are marked.
    pub fn end(mut self) -> (State, Vec<String>) {
        for _ in 0..DELIVERIES_MAX {
            let Some(message) = self.urgent.pop_front() else { break };
            self.arrive(message);
        }
        if !self.urgent.is_empty() {
            self.breaks(Broken::NoRest);
        }
        for p in 0..PEERS {
            if self.changed[p] {
                self.change(p).mark();
            }
        }
        (self.state, self.lines.unwrap_or_default())
    }

    pub fn change(&mut self, p: usize) -> &mut Peer {
        self.changed[p] = true;
        Arc::make_mut(&mut self.state.peers[p])
    }

    fn replica(&self, p: usize) -> Option<&Replica> {
        self.state.peers[p].replica.as_ref()
    }

    fn running(&self) -> impl Iterator<Item = usize> + use<> {
        let running: Vec<_> = (0..PEERS).filter(|p| self.replica(*p).is_some()).collect();
        running.into_iter()
    }

    fn line(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }

    fn breaks(&mut self, broken: Broken) {
        self.line(|| format!("BROKEN: {broken:?}"));
        self.state.broken.get_or_insert(broken);
    }

    fn holds(&mut self, result: Result<(), Broken>) {
        if let Err(broken) = result {
            self.breaks(broken);
        }
    }

    fn sight(&mut self, sight: Sight) {
        self.state.sights.add(sight);
    }

    // ---- processes ----

    /// Starts a peer from its disk and connects it with all that run.
    pub fn start(&mut self, p: usize) {
        let config = self.bounds.config.clone();
        let peer = self.change(p);
        peer.joining = false;
        let now = Instant(peer.now);
        peer.replica = Some(Replica::new(config, peer.id, peer.disk.recover(), now, 0));
        for q in self.running() {
            if q != p {
                self.connect(p, q);
                self.connect(q, p);
            }
        }
        self.event(p, Event::Tick);
    }

    fn connect(&mut self, p: usize, q: usize) {
        self.change(p).gone[q] = false;
        self.event(p, Event::RoundTrip { peer: id(q), rtt_us: 1 });
        self.event(p, Event::Link { peer: id(q), state: LinkState::Up });
    }

    /// The process is gone, and with it what was not synced and what was on its way to it.
    pub fn crash(&mut self, p: usize) {
        let peer = self.change(p);
        peer.replica = None;
        peer.gone = [false; PEERS];
        peer.handed = 0;
        let lost = peer.disk.pending.iter().any(|ready| !ready.persist.entries.is_empty());
        peer.disk.pending.clear();
        if lost {
            self.sight(Sight::UnsyncedLost);
        }
        self.state.network.retain(|parcel| parcel.message.to != id(p));
    }

    /// The disk of a peer that does not run is lost. It asks to be taken on again, as another
    /// incarnation.
    pub fn wipe(&mut self, p: usize) {
        let peer = self.change(p);
        peer.disk = Disk::new(peer.disk.image.incarnation + 1_000, Vec::new());
        peer.joining = true;
    }

    /// A peer without a replica asks `host` to take it on.
    pub fn join(&mut self, p: usize, host: usize) {
        let join = Join {
            name: format!("person {p}"),
            address: format!("h:{p}"),
            created_at_ms: 0,
            decline: false,
            signature: [0; 64],
        };
        let message = Message {
            from: id(p),
            from_incarnation: self.state.peers[p].disk.image.incarnation,
            from_boot: 1,
            to: id(host),
            to_incarnation: 0,
            call: 0,
            body: Body::Join(join),
        };
        self.send(message);
    }

    /// `p` notices that the process of `q` is gone.
    pub fn refused(&mut self, p: usize, q: usize) {
        self.change(p).gone[q] = true;
        self.event(p, Event::Link { peer: id(q), state: LinkState::Refused });
    }

    /// The next timer of a peer fires, at its time or when its clock shows `at_least_us`.
    pub fn tick(&mut self, p: usize, at_least_us: u64) {
        let timeout = self.replica(p).and_then(Replica::poll_timeout);
        let peer = self.change(p);
        if let Some(Instant(at)) = timeout {
            peer.now = peer.now.max(at.next_multiple_of(SCALE.quantum_us)).max(at_least_us);
        }
        self.event(p, Event::Tick);
    }

    pub fn propose(&mut self, p: usize, payload: impl FnOnce(Number) -> Payload) {
        let Some(replica) = self.replica(p) else { return };
        let payload = payload(replica.next_number());
        if replica.can_propose(&payload).is_ok() {
            let proposal = Proposal { payload, created_at_ms: 0, trace: None, signature: None };
            self.event(p, Event::Propose(proposal));
        }
    }

    // ---- what a driver does ----

    pub fn event(&mut self, p: usize, event: Event) {
        let peer = self.change(p);
        let now = Instant(peer.now);
        let Some(replica) = &mut peer.replica else { return };
        let commit = replica.log().commit();
        replica.handle(now, event);
        let ready = replica.take_ready();
        if replica.log().commit() < commit {
            self.breaks(Broken::CommitWentBack);
        }
        self.execute(p, ready);
    }

    /// Carries out a `Ready` as its contract says.
    fn execute(&mut self, p: usize, mut ready: Ready) {
        if ready.persist.truncate_from.is_some() {
            self.sight(Sight::Cut);
        }
        if !ready.persist.entries.is_empty() {
            self.check_log(p);
        }
        for entry in std::mem::take(&mut ready.committed) {
            self.line(|| format!("{} commits {}", p + 1, text::entry(&entry)));
            self.check_commit(p, entry);
        }
        for notice in std::mem::take(&mut ready.notices) {
            self.notice(p, &notice);
        }
        for message in std::mem::take(&mut ready.early) {
            self.send(message);
        }
        for load in std::mem::take(&mut ready.loads) {
            let entries = &self.state.peers[p].disk.image.entries;
            let end = (load.through as usize).min(entries.len());
            let entries = entries[load.from as usize - 1..end].to_vec();
            self.event(p, Event::Loaded { load, entries });
        }
        self.store(p, ready);
    }

    fn store(&mut self, p: usize, ready: Ready) {
        if ready.is_empty() {
            return;
        }
        let pending = &mut self.change(p).disk.pending;
        match pending.back_mut() {
            None if ready.persist.is_empty() => self.release(p, ready),
            // What waits for no sync of its own leaves with the one before.
            Some(last) if ready.persist.is_empty() => {
                last.messages.extend(ready.messages);
                last.persisted_notices.extend(ready.persisted_notices);
            }
            _ => {
                pending.push_back(ready);
                if self.bounds.syncs_at_once {
                    self.sync(p);
                }
            }
        }
    }

    /// The oldest `Ready` that is being written becomes durable.
    pub fn sync(&mut self, p: usize) {
        let before = self.state.peers[p].disk.image.hard_state;
        let cuts = |ready: &Ready| ready.persist.truncate_from;
        let cut = self.state.peers[p].disk.pending.front().and_then(cuts);
        let promised = match cut {
            Some(from) => self.promised(p, from),
            None => Vec::new(),
        };
        let Some(ready) = self.change(p).disk.sync_one() else { return };
        if let Some(what) = text::persist(&ready.persist) {
            self.line(|| format!("{} syncs {what}", p + 1));
        }
        let image = &self.state.peers[p].disk.image;
        let after = image.hard_state;
        let kept = before.term != after.term || before.vote.is_none_or(|v| after.vote == Some(v));
        let all_kept = promised.iter().all(|entry| image.has(entry));
        if !kept {
            self.breaks(Broken::VoteChanged);
        }
        if !all_kept {
            self.breaks(Broken::CommittedCut);
        }
        let number = ready.number;
        self.release(p, ready);
        self.event(p, Event::Persisted { ready: number, sync_us: 0 });
    }

    /// Committed entries from `from` on that the disk has.
    fn promised(&self, p: usize, from: Index) -> Vec<Arc<Entry>> {
        let image = &self.state.peers[p].disk.image;
        let known = self.state.history.entries();
        known.filter(|entry| entry.index >= from && image.has(entry)).cloned().collect()
    }

    fn release(&mut self, p: usize, ready: Ready) {
        for message in ready.messages {
            self.send(message);
        }
        for notice in ready.persisted_notices {
            self.notice(p, &notice);
        }
    }

    // ---- the network ----

    fn send(&mut self, message: Message) {
        self.check_said(&message);
        self.sights_of(&message.body);
        let to = index(message.to);
        // Nothing is done with this one.
        if matches!(&message.body, Body::NominateAnswer(answer) if answer.host_alive.is_none()) {
            return;
        }
        let peer = &self.state.peers[to];
        if peer.replica.is_none() && !peer.joining {
            self.line(|| format!("{} (lost)", text::message(&message)));
            return;
        }
        if (self.bounds.at_once)(&message.body) {
            self.line(|| text::message(&message));
            self.urgent.push_back(message);
            return;
        }
        self.line(|| format!("{} (on its way)", text::message(&message)));
        if matches!(message.body, Body::Heartbeat(_)) {
            // A heartbeat is never queued: the newest replaces the older.
            self.state.network.retain(|other| {
                let Message { from, to, body, .. } = &other.message;
                (*from, *to) != (message.from, message.to) || !matches!(body, Body::Heartbeat(_))
            });
        }
        let parcel = Parcel::new(message);
        let place = self.state.network.partition_point(|other| other.key < parcel.key);
        self.state.network.insert(place, Arc::new(parcel));
    }

    pub fn arrive(&mut self, message: Message) {
        let p = index(message.to);
        if self.replica(p).is_some() {
            let handed = matches!(message.body, Body::HandOver(_));
            self.event(p, Event::Message(message));
            if handed && let Some(status) = self.replica(p).map(Replica::status) {
                self.change(p).handed =
                    if status.role == Role::Candidate { status.term } else { 0 };
            }
            return;
        }
        let accepted = matches!(&message.body, Body::JoinAnswer(answer) if answer.accepted);
        if accepted && self.state.peers[p].joining {
            self.start(p);
        }
    }

    // ---- what must hold ----

    /// Nothing leaves that relies on what is not durable yet.
    fn check_said(&mut self, message: &Message) {
        let peer = &self.state.peers[index(message.from)];
        let image = &peer.disk.image;
        let state = image.hard_state;
        let term = message.body.term();
        let durable = match &message.body {
            Body::Join(_) => true,
            Body::Vote(vote) if vote.granted && term == state.term => {
                state.vote == Some(message.to)
            }
            Body::RequestVote(_) if term == state.term => state.vote == Some(message.from),
            Body::Acknowledge(acknowledge) => image.entries.len() as Index >= acknowledge.synced,
            Body::Attach(attach) => image.entries.len() as Index >= attach.look.index,
            _ => true,
        };
        if !durable || term > state.term {
            self.line(|| text::message(message));
            self.breaks(Broken::SaidBeforeDurable);
        }
    }

    fn check_log(&mut self, p: usize) {
        let log = |p: usize| self.replica(p).map(Replica::log);
        let Some(own) = log(p) else { return };
        if !(0..PEERS).filter(|q| *q != p).filter_map(log).all(|other| logs_match(own, other)) {
            self.breaks(Broken::LogsDiffer);
        }
    }

    /// `p` commits an entry: the one that was committed before, or, as the host, the first to do
    /// so, and then a majority of the voters has it durably.
    fn check_commit(&mut self, p: usize, entry: Arc<Entry>) {
        if let Some(result) = self.state.history.agrees(&entry) {
            return self.holds(result);
        }
        let Some(replica) = self.replica(p) else { return };
        let status = replica.status();
        let durable = is_majority(&status.voters, |peer, incarnation| {
            let image = &self.state.peers[index(*peer)].disk.image;
            image.incarnation == *incarnation && image.has(&entry)
        });
        let later = self.running().filter_map(|q| self.replica(q)).all(|other| {
            let other_status = other.status();
            let later = other_status.role == Role::Host && other_status.term > status.term;
            !later || has(other.log(), &entry)
        });
        let result = Arc::make_mut(&mut self.state.history).commit(entry.clone(), status.term);
        self.holds(result);
        if !durable || status.role != Role::Host {
            self.breaks(Broken::CommitNotDurable);
        }
        if !later {
            self.breaks(Broken::HostLacksCommitted);
        }
        self.committed(&entry, status.term);
    }

    fn committed(&mut self, entry: &Entry, term: u64) {
        if matches!(entry.payload, Payload::Message { .. }) && term > 1 {
            self.sight(Sight::CommitInTerm2);
        }
        if let Payload::VoterChange(voters) = &entry.payload {
            let changed = |(peer, incarnation): (&PeerId, &u64)| *incarnation != first_incarnation(*peer);
            match voters.len() {
                1 => self.sight(Sight::OneVoter),
                2 => self.sight(Sight::TwoVoters),
                _ => self.sight(Sight::ThreeVotersAgain),
            }
            if voters.0.iter().any(changed) {
                self.sight(Sight::NewIncarnationVotes);
            }
        }
    }

    fn notice(&mut self, p: usize, notice: &Notice) {
        self.line(|| format!("{}: {}", p + 1, text::notice(notice)));
        match notice {
            Notice::Host { host: Some(host), term } if *host == id(p) => self.begins_to_host(p, *term),
            Notice::Confirmed { number, index } => self.check_confirmed(p, *number, *index),
            Notice::Paused { paused: true } => self.sight(Sight::Paused),
            Notice::Paused { paused: false } => self.sight(Sight::Resumed),
            Notice::Removed => self.sight(Sight::Removed),
            Notice::BelowOwnPast => self.sight(Sight::BelowOwnPast),
            Notice::Fault { .. } => self.breaks(Broken::Fault),
            _ => {}
        }
    }

    fn begins_to_host(&mut self, p: usize, term: u64) {
        let Some(replica) = &self.state.peers[p].replica else { return };
        let result = Arc::make_mut(&mut self.state.history).hosts(id(p), term, replica.log());
        self.holds(result);
        match term {
            2 => self.sight(Sight::HostInTerm2),
            3 => self.sight(Sight::HostInTerm3),
            _ => {}
        }
        if self.state.peers[p].handed == term {
            self.sight(Sight::HandedOver);
        }
    }

    /// What an author is told is true.
    fn check_confirmed(&mut self, p: usize, number: Number, index: Index) {
        let known = self.state.history.entry(index);
        let own = known.is_some_and(|entry| entry.author == id(p) && entry.number == number);
        self.sight(Sight::Confirmed);
        if !own {
            self.breaks(Broken::ConfirmedWrongly);
        }
    }

    /// Takes note of what a message shows.
    fn sights_of(&mut self, body: &Body) {
        match body {
            Body::Withdraw(withdraw) => match withdraw.reason {
                WithdrawReason::LogBehind => self.sight(Sight::WithdrewBehind),
                WithdrawReason::NoMajority => self.sight(Sight::WithdrewWithoutMajority),
                WithdrawReason::Unfit => {}
            },
            Body::NominateAnswer(answer) if answer.host_alive.is_some() => self.sight(Sight::Held),
            Body::Solicit(_) => self.sight(Sight::FellBack),
            _ => {}
        }
    }
}

pub fn first_incarnation(peer: PeerId) -> u64 {
    1_000 + u64::from(peer.0[0])
}
