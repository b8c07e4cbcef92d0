//! How a state changes: something happens to a peer, what it says is on its way or arrives, and
//! what must hold is looked at.

use std::sync::Arc;

use demes_protocol::Replica;
use demes_protocol::event::Role;
use demes_protocol::log::Log;
use demes_protocol::message::{Body, Message, WithdrawReason};
use demes_protocol::quorum::is_majority;
use demes_protocol::types::{Entry, Index, Payload, PeerId, Term};

use crate::chat::Bounds;
use crate::history::{Broken, Sight, has, logs_match, voters_match};
use crate::memory::Memory;
use crate::peer::{
    AGAIN, Around, Effect, Input, PEERS, Parcel, Peer, first_incarnation, id, index,
};
use crate::state::{Item, State, Sync};
use crate::text;

/// What happens within one step after which it is given up.
const ITEMS_MAX: usize = 10_000;

/// A state that is being changed.
pub struct Step<'a> {
    pub state: State,
    bounds: &'a Bounds,
    around: Around<'a>,
    /// What happens, in words, if anybody reads it.
    lines: Option<Vec<String>>,
}

impl<'a> Step<'a> {
    pub fn new(state: State, bounds: &'a Bounds, memory: &'a Memory, tell: bool) -> Self {
        let Bounds { config, scale, travel, .. } = bounds;
        let around = Around { config, scale: *scale, memory, travel: *travel };
        Self { state, bounds, around, lines: tell.then(Vec::new) }
    }

    /// Ends the step: what is due happens, up to what could also be late.
    pub fn end(mut self) -> (State, Vec<String>) {
        for _ in 0..ITEMS_MAX {
            if self.state.broken.is_some() || self.bounds.chooses(&self.state) || !self.next() {
                return (self.state, self.lines.unwrap_or_default());
            }
        }
        self.breaks(Broken::NoRest);
        (self.state, self.lines.unwrap_or_default())
    }

    /// What is due first happens. Whether there was anything.
    pub fn next(&mut self) -> bool {
        match self.state.due.pop_front() {
            None => return false,
            Some(Item::Arrive(parcel)) => self.arrive(parcel),
            Some(Item::Sync(p)) => self.sync(p),
        }
        true
    }

    fn replica(&self, p: usize) -> Option<&Replica> {
        self.state.peers[p].replica.as_ref()
    }

    pub fn runs(&self, p: usize) -> bool {
        self.replica(p).is_some()
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }

    fn breaks(&mut self, broken: Broken) {
        self.tell(|| format!("BROKEN: {broken:?}"));
        self.state.broken.get_or_insert(broken);
    }

    fn holds(&mut self, result: Result<(), Broken>) {
        if let Err(broken) = result {
            self.breaks(broken);
        }
    }

    // ---- what happens ----

    /// Something happens to one peer, with what comes of it.
    pub fn happen(&mut self, p: usize, input: &Input) {
        let before = Arc::clone(&self.state.peers[p]);
        let (after, effects) = self.around.memory.outcome(&before, input, &self.around);
        self.state.peers[p] = after;
        for effect in effects.iter() {
            self.effect(p, &before, effect);
        }
        let writes = !self.state.peers[p].disk.pending.is_empty();
        if writes && self.state.disks[p] == Sync::Idle {
            self.state.disks[p] = Sync::Due;
            self.state.due.push_back(Item::Sync(p));
        }
    }

    /// The oldest `Ready` of a peer becomes durable.
    pub fn sync(&mut self, p: usize) {
        self.state.disks[p] = Sync::Idle;
        self.happen(p, &Input::Sync);
    }

    /// What is due first will be late.
    pub fn hold(&mut self) {
        match self.state.due.pop_front() {
            Some(Item::Arrive(parcel)) => {
                self.tell(|| format!("{} is late", text::message(&parcel.message)));
                self.put_aside(parcel);
            }
            Some(Item::Sync(p)) => self.state.disks[p] = Sync::Held,
            None => {}
        }
    }

    pub fn put_aside(&mut self, parcel: Arc<Parcel>) {
        let place = self.state.held.partition_point(|other| other.key < parcel.key);
        self.state.held.insert(place, parcel);
    }

    /// Starts a peer and connects it with all that run.
    pub fn start(&mut self, p: usize) {
        self.happen(p, &Input::Start);
        for q in 0..PEERS {
            if q != p && self.runs(q) && !self.state.are_parted(p, q) {
                self.happen(p, &Input::Connect(q));
                self.happen(q, &Input::Connect(p));
            }
        }
    }

    /// The process is gone, and with it what was on its way to it.
    pub fn crash(&mut self, p: usize) {
        self.happen(p, &Input::Crash);
        self.state.disks[p] = Sync::Idle;
        self.forget(|message| message.to == id(p));
        self.state.due.retain(|item| !matches!(item, Item::Sync(q) if *q == p));
    }

    /// The peer that was parted from the others is back, over new connections.
    pub fn mend(&mut self) {
        let Some(p) = self.state.cut.take() else { return };
        let others = (0..PEERS).filter(|q| *q != p);
        let running: Vec<_> = others.filter(|q| self.runs(*q) && self.runs(p)).collect();
        for q in &running {
            self.happen(p, &Input::Disconnect(*q));
            self.happen(*q, &Input::Disconnect(p));
        }
        for q in running {
            self.happen(p, &Input::Connect(q));
            self.happen(q, &Input::Connect(p));
        }
    }

    /// A message that is late is lost. If it was part of a stream, that ends.
    pub fn lose(&mut self, place: usize) {
        let parcel = self.state.held.remove(place);
        let Message { from, to, ref body, .. } = parcel.message;
        if is_stream(body) {
            self.forget(|other| (other.from, other.to) == (from, to) && is_stream(&other.body));
            self.happen(index(to), &Input::Detach(index(from)));
        }
    }

    fn forget(&mut self, which: impl Fn(&Message) -> bool) {
        self.state.held.retain(|parcel| !which(&parcel.message));
        self.state.due.retain(|item| match item {
            Item::Arrive(parcel) => !which(&parcel.message),
            Item::Sync(_) => true,
        });
    }

    pub fn send(&mut self, parcel: &Arc<Parcel>) {
        let message = &parcel.message;
        if index(message.to) >= PEERS {
            return; // a stranger
        }
        self.sights_of(&message.body);
        let to = &self.state.peers[index(message.to)];
        let hears = to.replica.is_some() || to.joining;
        let parted = self.state.are_parted(index(message.from), index(message.to));
        if !hears || parted {
            self.tell(|| format!("{} (lost)", text::message(message)));
            return;
        }
        self.tell(|| text::message(message));
        if matches!(message.body, Body::Heartbeat(_)) {
            // A heartbeat is never queued: the newest replaces the older.
            self.forget(|other| {
                (other.from, other.to) == (message.from, message.to)
                    && matches!(other.body, Body::Heartbeat(_))
            });
        }
        self.state.due.push_back(Item::Arrive(Arc::clone(parcel)));
    }

    pub fn arrive(&mut self, parcel: Arc<Parcel>) {
        let p = index(parcel.message.to);
        if self.runs(p) {
            self.happen(p, &Input::Hear(parcel));
        } else if self.state.peers[p].joining
            && matches!(&parcel.message.body, Body::JoinAnswer(answer) if answer.accepted)
        {
            self.start(p);
        }
    }

    fn effect(&mut self, p: usize, before: &Peer, effect: &Effect) {
        match effect {
            Effect::Send(parcel) => self.send(parcel),
            Effect::Commit(entries) => self.check_commits(p, entries),
            Effect::Host(term) => self.begins_to_host(p, *term),
            Effect::Confirmed { number, index } => self.check_confirmed(p, *number, *index),
            Effect::Log => self.check_logs(p),
            Effect::Cut(from) => self.check_cut(p, before, *from),
            Effect::Sight(Sight::Removed) if self.bounds.all_stay => self.breaks(Broken::SentAway),
            Effect::Sight(sight) => self.state.sights.add(*sight),
            Effect::Broken(broken) if self.bounds.strict || !broken.is_by_itself() => {
                self.breaks(*broken);
            }
            Effect::Broken(_) => {}
            Effect::Tell(line) => self.tell(|| line.to_string()),
        }
    }

    // ---- what must hold ----

    fn check_logs(&mut self, p: usize) {
        let log = |p: usize| self.replica(p).map(Replica::log);
        let Some(own) = log(p) else { return };
        let mut others = (0..PEERS).filter(|q| *q != p).filter_map(log);
        if !others.all(|other| logs_match(own, other)) {
            self.breaks(Broken::LogsDiffer);
        } else if !voters_match(own) {
            self.breaks(Broken::VotersDiffer);
        }
    }

    /// A disk keeps what is committed even when its log is cut.
    fn check_cut(&mut self, p: usize, before: &Peer, from: Index) {
        let (before, after) = (&before.disk.image, &self.state.peers[p].disk.image);
        let lost =
            self.state.history.entries().any(|e| e.index >= from && before.has(e) && !after.has(e));
        if lost {
            self.breaks(Broken::CommittedCut);
        }
    }

    fn check_commits(&mut self, p: usize, entries: &[Arc<Entry>]) {
        let peer = &self.state.peers[p];
        let (hosts, term) = (peer.hosts, peer.term);
        let older = entries.last().is_some_and(|last| last.term != term);
        if hosts && older {
            self.breaks(Broken::CommitOfOlderTerm);
        }
        for entry in entries {
            self.check_commit(p, entry);
        }
    }

    /// `p` commits an entry: the one that was committed before; or, as the host, the first to do
    /// so, and then a majority of the voters has it durably, and so have all later hosts.
    fn check_commit(&mut self, p: usize, entry: &Arc<Entry>) {
        self.tell(|| format!("{} commits {}", p + 1, text::entry(entry)));
        if let Some(result) = self.state.history.agrees(entry) {
            return self.holds(result);
        }
        let Some(replica) = self.replica(p) else { return };
        let status = replica.status();
        let durable = is_majority(&status.voters, |peer, incarnation| {
            self.state.peers[index(*peer)].has_durably(*incarnation, entry)
        });
        let lacks = |peer: &Arc<Peer>| {
            let log = peer.replica.as_ref().map(Replica::log);
            peer.hosts && peer.term > status.term && !log.is_some_and(|log: &Log| has(log, entry))
        };
        let lacking = self.state.peers.iter().any(lacks);
        let history = Arc::make_mut(&mut self.state.history);
        let result = history.commit(Arc::clone(entry), status.term);
        self.holds(result);
        if !durable || status.role != Role::Host {
            self.breaks(Broken::CommitNotDurable);
        }
        if lacking {
            self.breaks(Broken::HostLacksCommitted);
        }
        self.sights_of_commit(entry, status.term);
    }

    fn begins_to_host(&mut self, p: usize, term: Term) {
        let peer = Arc::clone(&self.state.peers[p]);
        let Some(replica) = &peer.replica else { return };
        let history = Arc::make_mut(&mut self.state.history);
        let result = history.hosts(id(p), term, replica.log());
        self.holds(result);
        let sights = &mut self.state.sights;
        match term {
            2 => sights.add(Sight::HostInTerm2),
            3 => sights.add(Sight::HostInTerm3),
            _ => {}
        }
        if peer.handed == term {
            sights.add(Sight::HandedOver);
        }
    }

    /// What an author is told is true.
    fn check_confirmed(&mut self, p: usize, number: u64, index: Index) {
        let known = self.state.history.entry(index);
        let put_back = self.state.peers[p].put_back;
        // Under the same number others' logs may have what was said before the copy was put back.
        let is_own = |entry: &Entry| match &entry.payload {
            Payload::Message { sealed, .. } => sealed.starts_with(AGAIN.as_bytes()) == put_back,
            _ => true,
        };
        let own = known
            .is_some_and(|entry| entry.author == id(p) && entry.number == number && is_own(entry));
        self.state.sights.add(Sight::Confirmed);
        if !own {
            self.breaks(Broken::ConfirmedWrongly);
        }
    }

    // ---- what is worth seeing ----

    fn sights_of_commit(&mut self, entry: &Entry, term: Term) {
        let sights = &mut self.state.sights;
        if matches!(entry.payload, Payload::Message { .. }) && term > 1 {
            sights.add(Sight::CommitInTerm2);
        }
        if let Payload::VoterChange(voters) = &entry.payload {
            sights.add(match voters.len() {
                1 => Sight::OneVoter,
                2 => Sight::TwoVoters,
                _ => Sight::ThreeVotersAgain,
            });
            let is_new =
                |(peer, incarnation): (&PeerId, &u64)| *incarnation != first_incarnation(*peer);
            if voters.0.iter().any(is_new) {
                sights.add(Sight::NewIncarnationVotes);
            }
        }
    }

    fn sights_of(&mut self, body: &Body) {
        let sight = match body {
            Body::Withdraw(withdraw) => match withdraw.reason {
                WithdrawReason::LogBehind => Sight::WithdrewBehind,
                WithdrawReason::NoMajority => Sight::WithdrewWithoutMajority,
                WithdrawReason::Unfit | WithdrawReason::HostHeard => return,
            },
            Body::NominateAnswer(answer) if answer.host_alive.is_some() => Sight::Held,
            Body::Solicit(_) => Sight::FellBack,
            _ => return,
        };
        self.state.sights.add(sight);
    }
}

/// What travels in the stream that a member opens by attaching.
pub fn is_stream(body: &Body) -> bool {
    matches!(body, Body::Append(_) | Body::LookBack(_))
}
