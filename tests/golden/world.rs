//! One to seven replicas with disks, a network and a clock that do only what a script says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use demes_protocol::Replica;
use demes_protocol::config::Config;
use demes_protocol::event::{Event, LinkState, Notice, Ready};
use demes_protocol::founding::founding_entry;
use demes_protocol::message::{Body, Join, Message};
use demes_protocol::prng::Prng;
use demes_protocol::recovery::recovery;
use demes_protocol::time::Instant;
use demes_protocol::types::{ChatId, Incarnation, InviteLinkId, InviteLinkProof, PeerId};

use super::disk::Disk;
use super::signing::{is_genuine, signer};
use super::text;

/// Steps after which a world that does not come to rest is given up.
const STEPS_MAX: usize = 200_000;
/// What every sync takes, as far as the replicas are told.
pub const SYNC_US: u64 = 1_000;
/// Kinds of message that are seldom the point; `show` shows them.
const HIDDEN: [&str; 5] =
    ["Heartbeat", "Acknowledge", "ReportDelays", "FindHost", "FindHostAnswer"];
/// The replicas' seeds are drawn from this one.
const SEED: u64 = 1;

pub struct Peer {
    /// Absent while crashed, and before it has joined.
    pub replica: Option<Replica>,
    pub disk: Disk,
    /// What is written is durable at once.
    pub autosync: bool,
    /// The last batch is found torn at the next start (R37).
    pub torn: bool,
}

pub struct World {
    pub config: Config,
    pub now: u64,
    pub peers: BTreeMap<u8, Peer>,
    pub in_flight: VecDeque<Message>,
    /// Directed ways that carry nothing. Nobody is told.
    pub cut: BTreeSet<(u8, u8)>,
    /// Round trips between pairs, in microseconds.
    pub round_trips: BTreeMap<(u8, u8), u64>,
    pub hidden: BTreeSet<String>,
    /// Those who have answered an invitation with no.
    declining: BTreeSet<u8>,
    /// Nothing is written down.
    pub quiet: bool,
    pub lines: Vec<String>,
    /// What a sync takes, as the replicas are told.
    pub sync_us: u64,
    shown_at: u64,
    prng: Prng,
}

pub fn id(number: u8) -> PeerId {
    PeerId([number; 32])
}

pub fn link_id(number: u8) -> InviteLinkId {
    InviteLinkId([number; 32])
}

pub fn first_incarnation(number: u8) -> Incarnation {
    1_000 + u64::from(number)
}

impl World {
    /// Peer 1 with a chat of its own that it has just founded, not started yet.
    pub fn new() -> Self {
        let (_, first) = founding_entry(
            id(1),
            first_incarnation(1),
            "chat".into(),
            "one".into(),
            "h:1".into(),
            0,
            |_| [0; 64],
        );
        let mut world = Self {
            config: Config::default(),
            now: 0,
            peers: BTreeMap::new(),
            in_flight: VecDeque::new(),
            cut: BTreeSet::new(),
            round_trips: BTreeMap::new(),
            hidden: HIDDEN.map(String::from).into(),
            declining: BTreeSet::new(),
            quiet: false,
            lines: Vec::new(),
            sync_us: SYNC_US,
            shown_at: 0,
            prng: Prng::new(SEED),
        };
        world.add(1, Disk::new(first_incarnation(1), vec![first.into()]));
        world
    }

    pub fn add(&mut self, number: u8, disk: Disk) {
        let peer = Peer { replica: None, disk, autosync: true, torn: false };
        self.peers.insert(number, peer);
    }

    // ---- the transcript ----

    /// Writes a line down, after the time if that has changed.
    pub fn line(&mut self, line: impl Into<String>) {
        if self.quiet {
            return;
        }
        if self.shown_at != self.now {
            self.shown_at = self.now;
            self.lines.push(format!("@ {}.{:03} ms", self.now / 1_000, self.now % 1_000));
        }
        self.lines.push(line.into());
    }

    fn message_line(&mut self, message: &Message, suffix: &str) {
        if !self.hidden.contains(text::kind(&message.body)) {
            self.line(format!("{}{suffix}", text::message(message)));
        }
    }

    // ---- peers ----

    pub fn peer(&mut self, number: u8) -> Result<&mut Peer, String> {
        self.peers.get_mut(&number).ok_or(format!("there is no peer {number}"))
    }

    pub fn replica(&self, number: u8) -> Result<&Replica, String> {
        let peer = self.peers.get(&number).ok_or(format!("there is no peer {number}"))?;
        peer.replica.as_ref().ok_or(format!("peer {number} does not run"))
    }

    pub fn running(&self) -> Vec<u8> {
        let running = self.peers.iter().filter(|(_, peer)| peer.replica.is_some());
        running.map(|(number, _)| *number).collect()
    }

    /// Starts a peer from its disk and connects it with all that run.
    pub fn start(&mut self, number: u8) -> Result<(), String> {
        let seed = self.prng.next_u64();
        let (config, now) = (self.config.clone(), Instant(self.now));
        let peer = self.peer(number)?;
        let mut recovered = peer.disk.recover();
        recovered.tail_in_doubt = std::mem::take(&mut peer.torn);
        peer.replica =
            Some(Replica::new(config, id(number), signer(id(number)), recovered, now, seed));
        for other in self.running() {
            if other != number {
                self.connect(number, other);
                self.connect(other, number);
            }
        }
        self.event(number, Event::Tick)
    }

    /// The link comes up, and a few pings measure it.
    fn connect(&mut self, from: u8, to: u8) {
        let pair = (from.min(to), from.max(to));
        let rtt_us = self.round_trips.get(&pair).copied().unwrap_or(2_000);
        let peer = id(to);
        for _ in 0..8 {
            self.tell(from, Event::RoundTrip { peer, rtt_us });
        }
        self.tell(from, Event::Link { peer, state: LinkState::Up });
    }

    /// As `event`, for a peer that is known to run.
    fn tell(&mut self, number: u8, event: Event) {
        self.event(number, event).expect("it runs");
    }

    /// The process is gone: what was not synced is lost, and so is what was on its way to it.
    pub fn crash(&mut self, number: u8) -> Result<(), String> {
        self.replica(number)?;
        let peer = self.peer(number)?;
        peer.replica = None;
        peer.disk.pending.clear();
        self.in_flight.retain(|message| message.to != id(number));
        Ok(())
    }

    /// A crash that everybody's connections notice: redials are refused.
    pub fn kill(&mut self, number: u8) -> Result<(), String> {
        self.crash(number)?;
        for other in self.running() {
            let link = Event::Link { peer: id(number), state: LinkState::Refused };
            self.event(other, link)?;
        }
        Ok(())
    }

    /// R30: goes on without the majority. The peer does not run.
    pub fn recover(&mut self, number: u8, generation: u64) -> Result<(), String> {
        let image = &mut self.peer(number)?.disk.image;
        let chat = ChatId::default();
        let change = recovery(chat, id(number), &image.recovered(), generation, 0, |_| [0; 64]);
        let Ok(persist) = &change else {
            let why = change.err();
            self.line(format!("{number} recovers nothing: {why:?}"));
            return Ok(());
        };
        image.apply(persist);
        Ok(())
    }

    // ---- what a driver does ----

    pub fn event(&mut self, number: u8, event: Event) -> Result<(), String> {
        let now = Instant(self.now);
        let peer = self.peer(number)?;
        let replica = peer.replica.as_mut().ok_or(format!("peer {number} does not run"))?;
        replica.handle(now, event);
        self.execute(number)
    }

    /// Carries out a `Ready` as its contract says.
    fn execute(&mut self, number: u8) -> Result<(), String> {
        let peer = self.peer(number)?;
        let Some(replica) = &mut peer.replica else { return Ok(()) };
        let mut ready = replica.take_ready();
        for message in std::mem::take(&mut ready.early) {
            self.send(message);
        }
        if let (Some(first), Some(last)) = (ready.committed.first(), ready.committed.last()) {
            let range = match first.index == last.index {
                true => text::entry(first),
                false => format!("{}..{}", first.index, last.index),
            };
            self.line(format!("{number} commits {range}"));
        }
        for notice in std::mem::take(&mut ready.notices) {
            self.notice(number, &notice);
        }
        for load in std::mem::take(&mut ready.loads) {
            let entries = &self.peer(number)?.disk.image.entries;
            let end = (load.through as usize).min(entries.len());
            let entries = entries[load.from as usize - 1..end].to_vec();
            self.line(format!("{number} reads {}..{} from its store", load.from, load.through));
            // Who asks for what its store does not have asks again and again.
            if !entries.is_empty() {
                self.event(number, Event::Loaded { load, entries })?;
            }
        }
        self.store(number, ready)
    }

    fn store(&mut self, number: u8, ready: Ready) -> Result<(), String> {
        let peer = self.peer(number)?;
        if ready.persist.is_empty() && peer.disk.pending.is_empty() {
            self.release(number, ready);
            return Ok(());
        }
        if ready.is_empty() {
            return Ok(());
        }
        peer.disk.pending.push_back(ready);
        if peer.autosync { self.sync(number) } else { Ok(()) }
    }

    /// Everything that is being written becomes durable.
    pub fn sync(&mut self, number: u8) -> Result<(), String> {
        while let Some(ready) = self.peer(number)?.disk.sync_one() {
            if let Some(what) = text::persist(&ready.persist) {
                self.line(format!("{number} syncs {what}"));
            }
            let (number_of_ready, durable) = (ready.number, !ready.persist.is_empty());
            self.release(number, ready);
            if durable {
                let sync_us = self.sync_us;
                self.event(number, Event::Persisted { ready: number_of_ready, sync_us })?;
            }
        }
        Ok(())
    }

    fn release(&mut self, number: u8, ready: Ready) {
        for message in ready.messages {
            self.send(message);
        }
        for notice in ready.persisted_notices {
            self.notice(number, &notice);
        }
    }

    fn notice(&mut self, number: u8, notice: &Notice) {
        self.line(format!("{number}: {}", text::notice(notice)));
    }

    // ---- the network ----

    pub fn send(&mut self, message: Message) {
        let way = (message.from.0[0], message.to.0[0]);
        let runs = self.replica(way.1).is_ok() || self.is_joining(&message);
        if self.cut.contains(&way) || !runs {
            self.message_line(&message, " (lost)");
        } else {
            self.message_line(&message, "");
            self.in_flight.push_back(message);
        }
    }

    fn is_joining(&self, message: &Message) -> bool {
        matches!(message.body, Body::JoinAnswer(_) | Body::Refused(_))
            && self.peers.contains_key(&message.to.0[0])
    }

    /// A newcomer's `Join`, as its runtime sends it before there is a replica.
    pub fn join(
        &mut self,
        number: u8,
        host: u8,
        decline: bool,
        link: Option<u8>,
    ) -> Result<(), String> {
        if !self.peers.contains_key(&number) {
            self.add(number, Disk::new(first_incarnation(number), Vec::new()));
        }
        if decline {
            self.declining.insert(number);
        }
        let image = &self.peer(number)?.disk.image;
        let (from_incarnation, generation) = (image.incarnation, image.generation);
        let join = Join {
            name: format!("person {number}"),
            address: format!("h:{number}"),
            created_at_ms: 0,
            decline,
            proof: link.map(|link| InviteLinkProof { link: link_id(link), signature: [0; 64] }),
            signature: [0; 64],
            arrived_at_ms: self.now / 1_000,
        };
        self.send(Message {
            from: id(number),
            from_incarnation,
            from_boot: 1,
            to: id(host),
            to_incarnation: 0,
            generation,
            call: 1,
            words: Vec::new(),
            body: Body::Join(join),
        });
        Ok(())
    }

    pub fn arrive(&mut self, message: Message) -> Result<(), String> {
        let number = message.to.0[0];
        if self.replica(number).is_err() {
            // The runtime of a newcomer starts the chat once it is taken on.
            return match &message.body {
                Body::JoinAnswer(answer)
                    if answer.accepted && !self.declining.contains(&number) =>
                {
                    self.start(number)
                }
                _ => Ok(()),
            };
        }
        if self.cut.contains(&(message.from.0[0], number)) {
            self.message_line(&message, " (lost)");
            return Ok(());
        }
        if !is_genuine(&message) {
            self.message_line(&message, " (not genuine)");
            return Ok(());
        }
        self.event(number, Event::Message(message))
    }

    /// Delivers everything, and what follows from it, until nothing is on its way.
    pub fn deliver_all(&mut self) -> Result<(), String> {
        for _ in 0..STEPS_MAX {
            let Some(message) = self.in_flight.pop_front() else { return Ok(()) };
            self.arrive(message)?;
        }
        Err("messages go back and forth without an end".into())
    }

    /// Takes out what is on its way from one peer to another, of one kind or all.
    pub fn take(&mut self, from: u8, to: u8, kind: Option<&str>) -> Vec<Message> {
        let (taken, kept) = std::mem::take(&mut self.in_flight).into_iter().partition(|message| {
            message.from == id(from)
                && message.to == id(to)
                && kind.is_none_or(|kind| text::kind(&message.body) == kind)
        });
        self.in_flight = kept;
        taken.into()
    }

    // ---- time ----

    /// Lets time pass; timers fire when they are due. With `delivering`, messages take no time;
    /// without, they stay on their way.
    pub fn pass(&mut self, length: u64, delivering: bool) -> Result<(), String> {
        let end = self.now + length;
        for _ in 0..STEPS_MAX {
            if delivering {
                self.deliver_all()?;
            }
            let timeouts = self.peers.iter().filter_map(|(number, peer)| {
                Some((peer.replica.as_ref()?.poll_timeout()?.0, *number))
            });
            let Some((at, number)) = timeouts.min().filter(|(at, _)| *at <= end) else {
                self.now = end;
                return Ok(());
            };
            // A timer that was due in the past fires now, and time goes on all the same.
            self.now = if at > self.now { at } else { self.now + 1 };
            self.event(number, Event::Tick)?;
        }
        Err("timers fire without an end".into())
    }
}
