//! The people: they write through whichever peers there are, repeat what failed, and read along.
#![allow(dead_code)] // each test that has it uses a part of it

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use demes::cli::demo::check::line;
use demes::cli::demo::peer::{Client, until};
use demes::protocol::prng::Prng;
use demes::wire::pb;
use demes::wire::pb::event::Kind;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::common::{number_of, text};
use crate::history::{History, request_id};

/// How long a person waits for an answer.
const CALL_LIMIT: Duration = Duration::from_secs(4);
/// Calls under way at most; beyond that a beat is left out.
const IN_FLIGHT_MAX: usize = 2_000;
/// Between two attempts to read from a peer.
const READ_AGAIN: Duration = Duration::from_millis(50);
/// Without news for so long, a reader that is free to go reads from another peer.
const ROAM_AFTER: Duration = Duration::from_secs(2);
/// Events that such a reader takes from one peer.
const ROAM_EVENTS: u64 = 1_000;
/// How long the end may take: all repeated, all read.
const END_LIMIT: Duration = Duration::from_secs(60);
/// Refusals that a person may get while something is broken.
const EXPECTED: [&str; 5] =
    ["STOPPING", "STORAGE_FULL", "STORAGE_FAILED", "OUTBOX_FULL", "NO_MAJORITY"];
/// Refusals of a peer whose store was harmed, or that has left the chat and is invited again.
const EXPECTED_OF_HARMED: [&str; 3] = ["STORAGE_DAMAGED", "CHAT_NOT_FOUND", "NOT_MEMBER"];
/// Of the messages, one in so many is sent again at once until it is answered.
const INSISTED: usize = 4;
/// Between two attempts at such a one.
const INSIST_EVERY: Duration = Duration::from_millis(100);
/// How many attempts that may take.
const INSIST_MAX: u32 = 300;
/// The usual pace of those who write, in percent.
const USUAL_PACE: u32 = 100;

/// One chat as its people see it.
pub struct World {
    pub chat: String,
    pub history: History,
    /// By peer; none while it is known to be down.
    clients: Vec<Mutex<Option<Client>>>,
    /// How far each reader is: one for each peer, and one that roams.
    read: Vec<Mutex<u64>>,
    /// Peers whose store was harmed.
    harmed: Mutex<BTreeSet<usize>>,
    /// How much of the rate is written, in percent.
    pace: AtomicU32,
}

impl World {
    pub fn new(chat: String, peers: usize) -> Arc<Self> {
        let clients = (0..peers).map(|_| Mutex::default()).collect();
        let read = (0..=peers).map(|_| Mutex::default()).collect();
        Arc::new(Self {
            chat,
            history: History::default(),
            clients,
            read,
            harmed: Mutex::default(),
            pace: AtomicU32::new(USUAL_PACE),
        })
    }

    /// From now on this peer may say that it does not have the chat.
    pub fn set_harmed(&self, peer: usize) {
        self.harmed.lock().unwrap_or_else(PoisonError::into_inner).insert(peer);
    }

    fn is_harmed(&self, peer: usize) -> bool {
        self.harmed.lock().unwrap_or_else(PoisonError::into_inner).contains(&peer)
    }

    /// So much of the rate is written from now on; all of it, where nothing is given.
    pub fn set_pace(&self, percent: Option<u32>) {
        self.pace.store(percent.unwrap_or(USUAL_PACE), Ordering::Relaxed);
    }

    /// The peer is there, or it is not.
    pub fn set_client(&self, peer: usize, client: Option<Client>) {
        *self.clients[peer].lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn client(&self, peer: usize) -> Option<Client> {
        self.clients[peer].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives a new message to a peer; why it was refused, if it was.
    pub async fn send_new(&self, peer: usize, wait: pb::Wait) -> Option<String> {
        self.send(self.history.sending(peer), wait).await
    }

    /// Gives a new message of a peer to another process that has the peer's key.
    pub async fn send_through(&self, client: Client, author: usize) {
        let number = self.history.sending(author);
        self.call(client, number, pb::Wait::Committed).await;
    }

    /// Gives a message to its peer; why it was refused, if it was.
    async fn send(&self, number: usize, wait: pb::Wait) -> Option<String> {
        let (why, repeat) = self.attempt(number, wait).await?;
        self.history.failed(number, &why, repeat);
        Some(why)
    }

    /// The same, at once again with the same request id until it is answered.
    async fn insist(&self, number: usize, wait: pb::Wait, stop: &CancellationToken) {
        for attempt in 0..INSIST_MAX {
            let Some((why, _)) = self.attempt(number, wait).await else { return };
            let is_last = attempt + 1 == INSIST_MAX || stop.is_cancelled();
            self.history.failed(number, &why, is_last);
            if is_last {
                return;
            }
            let _ = timeout(INSIST_EVERY, stop.cancelled()).await; // both lead to the next attempt
        }
    }

    /// One call at the message's peer; why it failed, if it did, and whether to repeat it.
    async fn attempt(&self, number: usize, wait: pb::Wait) -> Option<(String, bool)> {
        match self.client(self.history.author(number)) {
            Some(client) => self.call(client, number, wait).await,
            None => Some(("the peer is down".to_owned(), true)),
        }
    }

    /// One call; why it failed, if it did, and whether to repeat it.
    async fn call(
        &self,
        mut client: Client,
        number: usize,
        wait: pb::Wait,
    ) -> Option<(String, bool)> {
        let request = pb::SendMessageRequest {
            chat: self.chat.clone(),
            text: text(number as u64),
            request_id: request_id(number),
            wait: wait.into(),
        };
        // Half of the calls that fail are never repeated: their messages stay unknown.
        let repeat = number.is_multiple_of(2);
        let asked = Instant::now();
        match timeout(CALL_LIMIT, client.send_message(request)).await {
            Ok(Ok(answer)) => {
                match answer.get_ref().sequence {
                    0 => self.history.queued(number, asked),
                    sequence => self.history.confirmed(number, sequence),
                }
                None
            }
            Ok(Err(status)) => {
                let why = reason(&status);
                let harmed = self.is_harmed(self.history.author(number));
                let expected = EXPECTED.contains(&why.as_str())
                    || harmed && EXPECTED_OF_HARMED.contains(&why.as_str());
                if !is_lost(&status) && !expected {
                    let text = format!("a send was answered {why}: {}", status.message());
                    self.history.problem(text);
                }
                Some((why, repeat))
            }
            Err(_) => Some(("no answer".to_owned(), repeat)),
        }
    }

    fn read_up_to(&self, reader: usize) -> u64 {
        *self.read[reader].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a call failed: the peer's reason, or what became of the connection.
pub fn reason(status: &Status) -> String {
    match status.get_details_error_info() {
        Some(info) => info.reason,
        None if is_lost(status) => "connection lost".to_owned(),
        None => format!("{:?}", status.code()),
    }
}

/// Whether the connection to the peer broke.
fn is_lost(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || status.code() == Code::Unavailable
}

/// The tasks of all people.
pub struct Workload {
    world: Arc<World>,
    stop_writing: CancellationToken,
    writers: JoinSet<()>,
    readers: JoinSet<()>,
}

impl Workload {
    /// Begins: `rate` messages a second through random peers, a reader for each peer, and one that
    /// goes from peer to peer with its cursor.
    pub fn start(world: Arc<World>, rate: u32, seed: u64) -> Self {
        let stop_writing = CancellationToken::new();
        let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
        writers.spawn(write(world.clone(), rate, seed, stop_writing.clone()));
        for peer in 0..world.clients.len() {
            readers.spawn(read_one_peer(world.clone(), peer));
        }
        readers.spawn(read_here_and_there(world.clone(), seed));
        Self { world, stop_writing, writers, readers }
    }

    /// Ends, with everyone there again: what must be confirmed is, and every reader has read it.
    pub async fn end(mut self) -> Result<()> {
        self.stop_writing.cancel();
        while self.writers.join_next().await.is_some() {}
        let world = &self.world;
        until(END_LIMIT, "all that was queued or repeated to be confirmed", || async {
            let open = world.history.open();
            for number in &open {
                world.send(*number, pb::Wait::Committed).await;
            }
            open.is_empty().then_some(())
        })
        .await?;
        let last = world.history.last_confirmed();
        let all_read = until(END_LIMIT, "every reader to read it", || async {
            (0..world.read.len()).all(|reader| world.read_up_to(reader) >= last).then_some(())
        });
        let far: Vec<u64> = (0..world.read.len()).map(|reader| world.read_up_to(reader)).collect();
        all_read.await.with_context(|| format!("of {last} they have read {far:?}"))?;
        self.readers.shutdown().await;
        Ok(())
    }
}

/// Sends at a steady rate, whether or not answers come.
async fn write(world: Arc<World>, rate: u32, seed: u64, stop: CancellationToken) {
    let mut prng = Prng::new(seed);
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut beats = interval(Duration::from_secs(1) / rate);
    let (mut calls, mut due) = (JoinSet::new(), 0);
    while !stop.is_cancelled() {
        beats.tick().await;
        while calls.try_join_next().is_some() {}
        // Evenly, so that a quiet chat is silent for no longer than its pace says.
        due += world.pace.load(Ordering::Relaxed);
        if due < 100 {
            continue;
        }
        due -= 100;
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let there: Vec<usize> =
            (0..world.clients.len()).filter(|peer| world.client(*peer).is_some()).collect();
        if there.is_empty() {
            continue;
        }
        let mut draw = |below: usize| usize::try_from(prng.below(below as u64)).expect("few");
        let repeated = match draw(10) {
            0 | 1 => world.history.to_repeat(|author| there.contains(&author)),
            2 => world.history.to_ask_again(&mut draw),
            _ => None,
        };
        let number = repeated.unwrap_or_else(|| world.history.sending(there[draw(there.len())]));
        let wait = if prng.below(5) == 0 { pb::Wait::Queued } else { pb::Wait::Committed };
        let (world, stop) = (world.clone(), stop.clone());
        calls.spawn(async move {
            match number.is_multiple_of(INSISTED) {
                true => world.insist(number, wait, &stop).await,
                false => drop(world.send(number, wait).await),
            }
            drop(place);
        });
    }
    while calls.join_next().await.is_some() {}
}

/// Reads one peer's feed, for ever, and goes on from the cursor when it ends.
async fn read_one_peer(world: Arc<World>, peer: usize) {
    let mut again = interval(READ_AGAIN);
    loop {
        again.tick().await;
        read(&world, peer, peer, None).await;
    }
}

/// Goes on from the same cursor at one peer after the other.
async fn read_here_and_there(world: Arc<World>, seed: u64) {
    let mut prng = Prng::new(seed ^ 1);
    let mut again = interval(READ_AGAIN);
    let peers = world.clients.len();
    loop {
        again.tick().await;
        let peer = usize::try_from(prng.below(peers as u64)).expect("there are few");
        read(&world, peers, peer, Some(ROAM_EVENTS)).await;
    }
}

/// One feed, to its end; a reader that roams leaves it after so many events, or without news.
async fn read(world: &World, reader: usize, peer: usize, events_max: Option<u64>) {
    let Some(mut client) = world.client(peer) else { return };
    let begun = world.read_up_to(reader);
    let cursors = vec![pb::FeedCursor { chat: world.chat.clone(), after: begun }];
    let patience = if events_max.is_some() { ROAM_AFTER } else { Duration::MAX };
    let answer = timeout(patience, client.feed(pb::FeedRequest { cursors })).await;
    let Ok(Ok(feed)) = answer else { return };
    let mut feed = feed.into_inner();
    let name = if events_max.is_some() { "roaming".to_owned() } else { format!("peer {peer}") };
    while let Ok(Ok(Some(frame))) = timeout(patience, feed.message()).await {
        for event in frame.events {
            take(world, reader, &name, &event);
        }
        if events_max.is_some_and(|max| world.read_up_to(reader) - begun >= max) {
            return;
        }
    }
}

fn take(world: &World, reader: usize, name: &str, event: &pb::Event) {
    let line = match line(event) {
        Ok(Some(line)) => line,
        Ok(None) => return,
        Err(error) => return world.history.problem(format!("{name}: {error:#}")),
    };
    if let Some(Kind::Message(message)) = &event.kind {
        let number = number_of(&message.text);
        let right = number.is_some_and(|number| {
            message.text == text(number)
                && usize::try_from(number).is_ok_and(|it| message.request_id == request_id(it))
        });
        if !right {
            let text = format!("altered: {} as {name} saw it", message.request_id);
            world.history.problem(text);
        }
    }
    let mut read = world.read[reader].lock().unwrap_or_else(PoisonError::into_inner);
    if line.sequence != *read + 1 {
        let text = format!("gap: {name} saw {} after {}", line.sequence, *read);
        world.history.problem(text);
    }
    *read = line.sequence;
    drop(read);
    world.history.read(name, line);
}
