//! THE loop: one task that owns all replicas, takes no lock for long and waits for nobody: not for
//! the disk, a peer or a reader.
//!
//! Each turn takes what is waiting into the replicas, and then executes what they want. Messages
//! to other peers go into bounded send queues, entries to members into bounded streams, what must
//! be durable to the chat's storage thread, whose return is one more thing that happens.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::sync::{Semaphore, mpsc, watch};

use super::absences::Absences;
use super::carry::Carried;
use super::chat::{Calls, Chat, ends_without_answer};
use super::feed::ChatFeed;
use super::handle::{
    Answer, Answerer, ChatShared, ChatView, Contact, Handle, INBOX_KIB_MAX, INBOX_MAX, Input,
    NewChat, NotAdded, Roster, Shared, Unable,
};
use super::journal::{Done, Journal};
use super::measure::{Gauges, Measures};
use super::requests::Requests;
use super::send_queue::SendQueue;
use super::spans::Spans;
use crate::crypto::Identity;
use crate::protocol::config::Config;
use crate::protocol::event::{DiskState, Event, LinkState, Load};
use crate::protocol::message::{Body, Message};
use crate::protocol::replica::Replica;
use crate::protocol::sign::Signer;
use crate::protocol::time::Instant;
use crate::protocol::types::{CallId, ChatId, Incarnation, MemberState, PeerId, TraceContext};
use crate::storage::StorageError;
use crate::wire::view::Names;

/// The most inputs of one turn.
const TURN_MAX: usize = 512;
/// The most bytes that one load brings.
const LOAD_BYTES_MAX: usize = 1 << 20;
/// Between looks for calls and streams that nobody waits for any more.
const SWEEP: Duration = Duration::from_secs(1);

/// What the loop needs to start.
pub struct DriverOptions {
    pub identity: Arc<Identity>,
    pub config: Config,
    /// A graceful stop says no goodbye (R26).
    pub keep_seat: bool,
}

/// What the loop tells those who started it.
pub struct Reports {
    /// Why the process must end, once it must.
    pub fatal: watch::Receiver<Option<String>>,
    /// Chats that the loop has ended.
    pub ended: mpsc::UnboundedReceiver<EndedChat>,
}

/// A chat that the loop has ended.
#[derive(Clone, Copy, Debug)]
pub struct EndedChat {
    pub chat: ChatId,
    /// The incarnation in which it ran.
    pub incarnation: Incarnation,
    pub why: Ended,
}

/// Why the loop has ended a chat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// This peer has left.
    Left,
    /// Damage was found in the chat's file (R37).
    Damaged,
    /// The others know more of this peer than its own file: an older copy (R9).
    BelowOwnPast,
}

/// Starts the loop on the current runtime. It ends when the last handle is gone.
pub fn start(options: DriverOptions) -> (Handle, Reports) {
    let (inbox_sender, inbox) = mpsc::channel(INBOX_MAX);
    let (done_sender, done) = mpsc::unbounded_channel();
    let (ended_sender, ended) = mpsc::unbounded_channel();
    let (fatal_sender, fatal) = watch::channel(None);
    let shared = Arc::new(Shared {
        me: options.identity.peer_id(),
        chats: RwLock::default(),
        activity: watch::Sender::new(0),
        roster: watch::Sender::new(Arc::default()),
        next_call: AtomicU64::new(1),
        room: Arc::new(Semaphore::new(INBOX_KIB_MAX as usize)),
    });
    let driver = Driver {
        config: options.config,
        base: std::time::Instant::now(),
        inbox,
        done,
        chats: BTreeMap::new(),
        links: HashMap::new(),
        disk_full: false,
        stopping: None,
        is_over: false,
        io: Io {
            identity: options.identity,
            keep_seat: options.keep_seat,
            calls: HashMap::new(),
            send_queues: BTreeMap::new(),
            done: done_sender,
            committed: false,
            members_changed: Vec::new(),
        },
        shared: Arc::clone(&shared),
        fatal: fatal_sender,
        ended: ended_sender,
    };
    tokio::spawn(driver.run());
    (Handle { inbox: inbox_sender, shared }, Reports { fatal, ended })
}

struct Driver {
    config: Config,
    base: std::time::Instant,
    inbox: mpsc::Receiver<Input>,
    done: mpsc::UnboundedReceiver<Done>,
    chats: BTreeMap<ChatId, Chat>,
    links: HashMap<PeerId, LinkState>,
    disk_full: bool,
    stopping: Option<oneshot::Sender<()>>,
    /// The peer stops, or has stopped: no chat begins to run any more.
    is_over: bool,
    io: Io,
    shared: Arc<Shared>,
    fatal: watch::Sender<Option<String>>,
    ended: mpsc::UnboundedSender<EndedChat>,
}

/// What chats reach the world with.
pub(super) struct Io {
    pub identity: Arc<Identity>,
    pub keep_seat: bool,
    /// Something was committed, or ended, in this turn.
    pub committed: bool,
    /// Chats whose members changed in this turn.
    pub members_changed: Vec<ChatId>,
    calls: Calls,
    send_queues: BTreeMap<PeerId, Arc<SendQueue>>,
    done: mpsc::UnboundedSender<Done>,
}

impl Io {
    /// Sends a message over this peer's own connection to the addressee, if there is one. `trace`
    /// goes with it as metadata.
    pub fn send(&self, chat: ChatId, message: Message, trace: TraceContext) {
        if let Some(send_queue) = self.send_queues.get(&message.to) {
            send_queue.push(chat, message, trace);
        }
    }

    /// Answers the call that the message names, if somebody still waits.
    pub fn answer(&mut self, message: Message) {
        match self.calls.remove(&message.call) {
            Some(Answerer::Once(call)) => drop(call.send(Answer::Message(message))),
            Some(Answerer::Stream(lane)) => {
                let Some(stream) = lane.upgrade() else { return };
                if matches!(message.body, Body::Refused(_)) {
                    let call = message.call;
                    stream.refuse(message);
                    self.calls.insert(call, Answerer::Stream(lane));
                }
            }
            None => {}
        }
    }

    /// Does something on a thread that may block, and tells the loop.
    pub fn beside(&self, work: impl FnOnce() -> Option<Done> + Send + 'static) {
        let done = self.done.clone();
        tokio::task::spawn_blocking(move || {
            if let Some(message) = work() {
                let _ = done.send(message);
            }
        });
    }

    /// Reads entries.
    pub fn load(&self, of: &ChatShared, load: Load) {
        let (chat, incarnation, reader) = (of.id, of.incarnation, of.reader.clone());
        self.beside(move || {
            Some(match reader.entries(load.from, load.through, LOAD_BYTES_MAX) {
                Ok(entries) => Done::Loaded { chat, incarnation, load, entries },
                Err(error) if error.needs_repair() => Done::Damaged { chat, incarnation },
                // The chat has ended meanwhile.
                Err(StorageError::Closed { .. }) => return None,
                Err(error) => Done::Failed { what: error.to_string() },
            })
        });
    }
}

impl Driver {
    async fn run(mut self) {
        let mut inputs = Vec::with_capacity(TURN_MAX);
        let mut sweep_at = tokio::time::Instant::now() + SWEEP;
        loop {
            let timeout = self.chats.values().filter_map(Chat::timeout).min();
            let wake_at = timeout.map_or(sweep_at, |at| self.tokio_instant(at).min(sweep_at));
            tokio::select! {
                biased;
                Some(done) = self.done.recv() => self.on_done(done),
                count = self.inbox.recv_many(&mut inputs, TURN_MAX) => {
                    if count == 0 {
                        break;
                    }
                }
                () = tokio::time::sleep_until(wake_at) => {}
            }
            while let Ok(done) = self.done.try_recv() {
                self.on_done(done);
            }
            if inputs.is_empty() {
                while inputs.len() < TURN_MAX
                    && let Ok(input) = self.inbox.try_recv()
                {
                    inputs.push(input);
                }
            }
            let mut calls = Vec::new();
            for input in inputs.drain(..) {
                self.on_input(input, &mut calls);
            }
            self.on_time();
            self.execute();
            for call in calls {
                if let Some(Answerer::Once(call)) = self.io.calls.remove(&call) {
                    let _ = call.send(Answer::Empty);
                }
            }
            if tokio::time::Instant::now() >= sweep_at {
                sweep_at = tokio::time::Instant::now() + SWEEP;
                self.io.calls.retain(|_, call| !call.is_closed());
                self.chats.values_mut().for_each(Chat::sweep);
            }
        }
        self.chats.values_mut().for_each(Chat::close);
    }

    fn now(&self) -> Instant {
        Instant(u64::try_from(self.base.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn tokio_instant(&self, at: Instant) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.base + Duration::from_micros(at.0.min(1 << 50)))
    }

    fn on_done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Persisted { chat, incarnation, ready, sync_us } => {
                if let Some((chat, io)) = self.running(chat, incarnation) {
                    chat.on_persisted(now, ready, sync_us, io);
                }
            }
            Done::Loaded { chat, incarnation, load, entries } => {
                if let Some((chat, _)) = self.running(chat, incarnation) {
                    chat.handle(now, Event::Loaded { load, entries });
                }
            }
            Done::Damaged { chat, incarnation } => {
                if let Some((chat, _)) = self.running(chat, incarnation) {
                    chat.end(Ended::Damaged);
                }
            }
            Done::Carried { chat, incarnation, count } => {
                if let Some((chat, _)) = self.running(chat, incarnation) {
                    chat.on_carried(count);
                }
            }
            Done::Located { chat, incarnation, found } => {
                if let Some((chat, _)) = self.running(chat, incarnation) {
                    chat.on_located(found);
                }
            }
            Done::Failed { what } => self.fail(what),
        }
    }

    /// The chat, if it is the one that runs. What the file of one before has done or shown says
    /// nothing of its successor's.
    fn running(&mut self, chat: ChatId, incarnation: Incarnation) -> Option<(&mut Chat, &mut Io)> {
        let chat = self.chats.get_mut(&chat)?;
        (chat.shared.incarnation == incarnation).then_some((chat, &mut self.io))
    }

    fn on_input(&mut self, input: Input, calls: &mut Vec<CallId>) {
        let now = self.now();
        match input {
            Input::Message { chat, message, answer, trace, room: _room } => {
                let Some(chat) = self.chats.get_mut(&chat) else { return };
                if let Some(answer) = answer {
                    if ends_without_answer(&message.body) {
                        calls.push(message.call);
                    }
                    self.io.calls.insert(message.call, answer);
                }
                chat.receive(now, message, trace);
            }
            Input::Replicate { chat, attach, lane } => {
                let Some(chat) = self.chats.get_mut(&chat) else { return };
                let refused = Answerer::Stream(Arc::downgrade(&lane));
                chat.open_replicate(attach.from, lane);
                self.io.calls.insert(attach.call, refused);
                chat.handle(now, Event::Message(attach));
            }
            Input::Heartbeats { chat, member, lane } => {
                if let Some(chat) = self.chats.get_mut(&chat) {
                    chat.open_heartbeats(member, lane);
                }
            }
            Input::Link { peer, state } => self.on_link(now, peer, state),
            Input::Detached { chat, peer } => {
                if let Some(chat) = self.chats.get_mut(&chat) {
                    chat.handle(now, Event::Detached { peer });
                }
            }
            Input::RoundTrip { peer, rtt_us } => {
                for chat in self.chats.values_mut().filter(|chat| chat.knows(&peer)) {
                    chat.handle(now, Event::RoundTrip { peer, rtt_us });
                }
            }
            Input::Propose { chat, proposal, reply } => match self.chats.get_mut(&chat) {
                Some(chat) => chat.propose(now, proposal, reply, &self.io),
                None => drop(reply.send(Err(Unable::NoChat))),
            },
            Input::MarkRead { chat, index } => {
                if let Some(chat) = self.chats.get_mut(&chat) {
                    chat.handle(now, Event::MarkRead { index });
                }
            }
            Input::HandOver { chat, target, trace } => {
                if let Some(chat) = self.chats.get_mut(&chat) {
                    if let Some(spans) = &mut chat.spans {
                        spans.ask_hand_over(trace);
                    }
                    chat.handle(now, Event::HandOver { target });
                }
            }
            Input::View { chat, reply } => {
                if let Some(chat) = self.chats.get_mut(&chat) {
                    let _ = reply.send(chat.view_now());
                }
            }
            Input::Add { new, reply } => drop(reply.send(self.add(now, *new))),
            Input::Remove { chat, reply } => {
                self.remove(chat, Ended::Left);
                let _ = reply.send(());
            }
            Input::DialStranger { chat, peer, address } => {
                if let Some(chat) = self.chats.get_mut(&chat) {
                    chat.dial_stranger(peer, address);
                    self.renew_roster();
                }
            }
            Input::DiskFull(full) => self.disk_full = full,
            Input::Stop { reply } => {
                self.is_over = true;
                self.stopping = Some(reply);
                for chat in self.chats.values_mut() {
                    chat.handle(now, Event::Stop);
                }
            }
            Input::Close { reply } => {
                self.is_over = true;
                let chats = std::mem::take(&mut self.chats).into_values();
                let threads: Vec<_> = chats.map(Chat::into_thread).collect();
                self.io.beside(move || {
                    threads.into_iter().for_each(|thread| drop(thread.join()));
                    let _ = reply.send(());
                    None
                });
            }
        }
    }

    fn on_link(&mut self, now: Instant, peer: PeerId, state: LinkState) {
        self.links.insert(peer, state);
        for chat in self.chats.values_mut().filter(|chat| chat.knows(&peer)) {
            chat.handle(now, Event::Link { peer, state });
        }
    }

    fn on_time(&mut self) {
        let now = self.now();
        let mut failed = None;
        for chat in self.chats.values_mut() {
            if let Err(what) = chat.on_time(now, self.disk_full) {
                failed = Some(what);
            }
        }
        if let Some(what) = failed {
            self.fail(what);
        }
    }

    fn execute(&mut self) {
        let now = self.now();
        for chat in self.chats.values_mut().filter(|chat| chat.touched) {
            chat.run(now, &mut self.io);
        }
        for chat in std::mem::take(&mut self.io.members_changed) {
            self.on_members(now, chat);
        }
        // What the members' links made the replicas want.
        for chat in self.chats.values_mut().filter(|chat| chat.touched) {
            chat.run(now, &mut self.io);
        }
        let ended = self.chats.values().filter_map(|chat| Some((chat.id, chat.ended?)));
        for (chat, why) in ended.collect::<Vec<_>>() {
            self.end(chat, why);
        }
        if std::mem::take(&mut self.io.committed) {
            self.shared.activity.send_modify(|count| *count += 1);
        }
        if self.stopping.is_some()
            && self.chats.values().all(|chat| chat.may_stop)
            && let Some(stopped) = self.stopping.take()
        {
            let _ = stopped.send(());
        }
    }

    /// Members came or went: links that they have are told to the replica, and the roster follows.
    fn on_members(&mut self, now: Instant, id: ChatId) {
        let Some(chat) = self.chats.get_mut(&id) else { return };
        let members = chat.replica.status().members;
        let before = std::mem::replace(&mut chat.members, Arc::clone(&members));
        chat.close_streams_of_others(&members);
        let contacts = chat.contacts.iter().map(|(peer, _)| peer);
        let contacts = contacts.filter(|peer| !members.contains_key(peer));
        // One who was removed and has come back within one turn looks like one who stayed, and the
        // replica has forgotten its link all the same.
        let is_up = |peer: &PeerId| self.links.get(peer) == Some(&LinkState::Up);
        let new = members.keys().filter(|peer| is_up(peer) || !before.contains_key(peer));
        let new = new.chain(contacts);
        for peer in new.copied().collect::<Vec<_>>() {
            if let Some(&state) = self.links.get(&peer) {
                chat.handle(now, Event::Link { peer, state });
            }
        }
        self.renew_roster();
    }

    fn add(&mut self, now: Instant, new: NewChat) -> Result<(), NotAdded> {
        // Nobody would tell it to stop.
        if self.is_over {
            return Err(NotAdded::Stopping);
        }
        let failed = NotAdded::Failed;
        if self.chats.contains_key(&new.id) {
            return Err(failed("the chat is here already".to_owned()));
        }
        let seed = getrandom::u64().map_err(|error| failed(error.to_string()))?;
        let requests = Requests::of(&new.recovered, self.shared.me);
        let carried = Carried::new(new.carried, &new.recovered.outbox);
        let queued_through = new.recovered.last_number;
        let incarnation = new.recovered.incarnation;
        let reader = new.store.reader();
        let gauges = Arc::new(Gauges::default());
        let journal = Journal::start(new.store, self.io.done.clone(), Arc::clone(&gauges))
            .map_err(|error| failed(format!("cannot start a thread: {error}")))?;
        let config = self.config.clone();
        let identity = Arc::clone(&self.io.identity);
        let signer = Signer::new(new.id, move |bytes| identity.sign(bytes));
        let replica = Replica::new(config, self.shared.me, signer, new.recovered, now, seed);
        let status = replica.status();
        let members = Arc::clone(&status.members);
        let names: Names = members.iter().map(|(peer, m)| (*peer, m.name.clone())).collect();
        let feed = ChatFeed::new(new.id, status.commit, names);
        let (view, shown) = watch::channel(Arc::new(ChatView { status, ..Default::default() }));
        let away = AtomicBool::new(false);
        let measures = Measures::new(self.shared.me, new.id, &gauges);
        let shared = Arc::new(ChatShared {
            id: new.id,
            incarnation,
            feed,
            reader,
            view: shown,
            gauges,
            forgotten: Arc::clone(requests.forgotten()),
            away,
        });
        let mut chat = Chat {
            id: new.id,
            replica,
            journal,
            shared: Arc::clone(&shared),
            view,
            members,
            contacts: new.contacts,
            requests,
            pending: Default::default(),
            streams: HashMap::new(),
            waiting: BTreeMap::new(),
            queued_through,
            disk: DiskState::Fit,
            fault: "",
            absences: Absences::new(self.shared.me),
            view_at: now,
            view_due: None,
            may_stop: false,
            ended: None,
            read_only: false,
            carried,
            measures,
            spans: Spans::new(new.id, self.shared.me),
            touched: true,
        };
        chat.note_join(self.shared.me);
        if chat.replica.status().removed_by.is_some() {
            chat.stay_readable();
        }
        for (&peer, &state) in &self.links {
            if chat.knows(&peer) {
                chat.handle(now, Event::Link { peer, state });
            }
        }
        self.chats.insert(new.id, chat);
        self.shared.chats.write().expect("nothing panics in there").insert(new.id, shared);
        self.io.committed = true;
        self.renew_roster();
        Ok(())
    }

    /// Ends a chat by itself, and tells that.
    fn end(&mut self, chat: ChatId, why: Ended) {
        if let Some(incarnation) = self.remove(chat, why) {
            let _ = self.ended.send(EndedChat { chat, incarnation, why });
        }
    }

    /// Takes a chat out, and gives the incarnation in which it ran. Its file is closed once its
    /// thread and its readers have come to their ends.
    fn remove(&mut self, id: ChatId, why: Ended) -> Option<Incarnation> {
        let mut chat = self.chats.remove(&id)?;
        chat.close();
        chat.shared.away.store(why != Ended::Left, Ordering::Relaxed);
        chat.shared.reader.close();
        self.shared.chats.write().expect("nothing panics in there").remove(&id);
        self.io.committed = true;
        self.renew_roster();
        Some(chat.shared.incarnation)
    }

    /// Everybody who has joined a chat that runs here, and the contacts of chats that begin.
    fn renew_roster(&mut self) {
        let mut addresses: BTreeMap<PeerId, String> = BTreeMap::new();
        for chat in self.chats.values().filter(|chat| !chat.read_only) {
            let joined = chat.members.iter().filter(|(_, m)| m.state != MemberState::Invited);
            addresses.extend(joined.map(|(peer, member)| (*peer, member.address.clone())));
            for (peer, address) in &chat.contacts {
                addresses.entry(*peer).or_insert_with(|| address.clone());
            }
        }
        addresses.remove(&self.shared.me);
        self.io.send_queues.retain(|peer, _| addresses.contains_key(peer));
        self.links.retain(|peer, _| addresses.contains_key(peer));
        let contact = |(peer, address): (PeerId, String)| {
            let send_queue = Arc::clone(self.io.send_queues.entry(peer).or_default());
            (peer, Contact { address, send_queue })
        };
        let roster: Roster = addresses.into_iter().map(contact).collect();
        self.shared.roster.send_replace(Arc::new(roster));
    }

    fn fail(&mut self, what: String) {
        tracing::error!(
            what,
            "the peer cannot go on and ends: see to its disk, then start it again"
        );
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            fatal.get_or_insert(what);
            first
        });
    }
}
