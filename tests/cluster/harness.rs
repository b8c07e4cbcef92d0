//! A chat of real peers for one story.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::{Duration, Instant};

use demes::cli::demo::check::{Confirmed, check};
use demes::cli::demo::cluster::{Cluster, say};
use demes::cli::demo::peer::{Place, until};
use demes::wire::pb;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Stories that run side by side: each has up to five processes, and two cores must carry them.
static STORIES: Semaphore = Semaphore::const_new(2);
/// The longest story.
const STORY_LIMIT: Duration = Duration::from_secs(120);
/// The longest step of a story.
pub const STEP: Duration = Duration::from_secs(20);

/// Runs a story when there is room for it, for a bounded time.
pub async fn story(story: impl Future<Output = ()>) {
    let _room: SemaphorePermit = STORIES.acquire().await.expect("it is never closed");
    tokio::time::timeout(STORY_LIMIT, story).await.expect("the story ends in time");
}

const NAMES: [&str; 7] = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Fay", "Gus"];

/// Whether every thread of the process has stopped: a signal is only on its way at first.
fn is_stopped(pid: Pid) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
    })
}

/// The program under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_demes"))
}

/// A cluster with one chat, and what its senders were told.
pub struct Chat {
    cluster: Cluster,
    confirmed: Confirmed,
    said: u64,
}

impl Deref for Chat {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Chat {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

/// A message under way: who sent it, its request id, and the call that waits for its confirmation.
pub struct UnderWay {
    author: String,
    pub request_id: String,
    call: JoinHandle<anyhow::Result<u64>>,
}

impl Chat {
    /// That many peers, all of them in the chat and voting. With delays, proxies stand between
    /// them.
    pub async fn of(peers: usize, delays_ms: &[u64]) -> Self {
        let mut chat = Self::prepared(peers, delays_ms);
        chat.start_all().await.unwrap();
        chat.found("Friday").await.unwrap();
        chat
    }

    /// That many peers, of which only the first is in the chat, which it has just founded.
    pub async fn founded_by_the_first_of(peers: usize) -> Self {
        let mut chat = Self::prepared(peers, &[]);
        chat.start_all().await.unwrap();
        let request = pb::CreateChatRequest { name: "Friday".into(), ..Default::default() };
        let answer = chat.peers[0].client().create_chat(request).await.unwrap().into_inner();
        chat.chat = answer.chat.expect("CreateChat answers with the chat").chat_id;
        chat
    }

    /// That many peers, not yet started.
    pub fn prepared(peers: usize, delays_ms: &[u64]) -> Self {
        let delays: Vec<_> = delays_ms.iter().map(|ms| Duration::from_millis(*ms)).collect();
        let cluster = Cluster::new(binary(), &NAMES[..peers], &delays).unwrap();
        Self { cluster, confirmed: Confirmed::default(), said: 0 }
    }

    /// A peer at each of these places, all of them in the chat and voting.
    pub async fn at(places: Vec<Place>) -> Self {
        let mut chat = Self::prepared(0, &[]);
        chat.cluster = Cluster::at(binary(), &NAMES[..places.len()], places).unwrap();
        chat.start_all().await.unwrap();
        chat.found("Friday").await.unwrap();
        chat
    }

    /// Sends a message through a peer and begins to wait for its confirmation.
    pub fn send(&mut self, peer: usize) -> UnderWay {
        self.said += 1;
        self.send_as(peer, format!("request-{}", self.said))
    }

    /// The same with a chosen request id.
    pub fn send_as(&mut self, peer: usize, request_id: String) -> UnderWay {
        let (client, chat) = (self.peers[peer].client(), self.chat.clone());
        let (text, id) = (format!("text of {request_id}"), request_id.clone());
        let call = tokio::spawn(async move { say(client, &chat, &text, &id).await });
        UnderWay { author: self.peers[peer].id.clone(), request_id, call }
    }

    /// Waits for the confirmation.
    pub async fn confirm(&mut self, message: UnderWay) -> u64 {
        let told = tokio::time::timeout(STEP, message.call).await;
        let sequence = match told {
            Ok(told) => told.expect("the call does not panic").expect("the call succeeds"),
            Err(_) => panic!("{} waits: {}", message.request_id, self.describe().await),
        };
        self.confirmed.note(&message.author, &message.request_id, sequence);
        sequence
    }

    /// Waits for a confirmation that the final check does not ask for: it belongs to a course of
    /// the chat that has been given up by then.
    pub async fn confirm_apart(&self, message: UnderWay) -> u64 {
        let told = tokio::time::timeout(STEP, message.call).await.expect("it is confirmed in time");
        told.expect("the call does not panic").expect("the call succeeds")
    }

    /// Asserts that the message is not confirmed for as long as `span`.
    pub async fn stays_unconfirmed(&self, message: &mut UnderWay, span: Duration) {
        let told = tokio::time::timeout(span, &mut message.call).await;
        assert!(told.is_err(), "confirmed without a majority: {told:?}");
    }

    /// Sends through a peer and waits until a majority has it.
    pub async fn says(&mut self, peer: usize) -> u64 {
        let message = self.send(peer);
        self.confirm(message).await
    }

    /// Puts a message into a peer's outbox and returns its request id.
    pub async fn queues(&mut self, peer: usize) -> String {
        self.said += 1;
        let request_id = format!("request-{}", self.said);
        let request = pb::SendMessageRequest {
            chat: self.chat.clone(),
            text: format!("text of {request_id}"),
            request_id: request_id.clone(),
            wait: pb::Wait::Queued.into(),
        };
        let answer = self.peers[peer].client().send_message(request).await.unwrap().into_inner();
        assert_eq!(answer.request_id, request_id);
        request_id
    }

    /// Sends a signal to a running peer.
    pub fn signal(&self, peer: usize, signal: Signal) {
        let pid = self.peers[peer].pid().expect("the peer runs");
        let pid = Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
        kill(pid, signal).expect("the process exists");
        if signal == Signal::SIGSTOP {
            let until = Instant::now() + STEP;
            while !is_stopped(pid) {
                assert!(Instant::now() < until, "{pid} runs on");
                std::thread::yield_now();
            }
        }
    }

    /// Waits until `seen` holds for the chat as one peer sees it.
    pub async fn sees(&self, peer: usize, what: &str, seen: impl Fn(&pb::Chat) -> bool) {
        let looked = until(STEP, what, || async {
            let chat = self.chat_at(peer).await.ok()?;
            seen(&chat).then_some(())
        });
        if let Err(error) = looked.await {
            panic!("{error}: {}", self.describe().await);
        }
    }

    /// All running peers but these.
    pub fn others(&self, but: &[usize]) -> Vec<usize> {
        (0..self.peers.len()).filter(|place| !but.contains(place)).collect()
    }

    /// The final check: everybody runs, sees the same host, and has the same feed, and nothing that
    /// was confirmed is missing, doubled or moved. The outboxes are empty.
    pub async fn finish(mut self) {
        self.check().await;
    }

    /// The same for one of several chats; what its senders were told is then forgotten.
    pub async fn check(&mut self) {
        self.start_all().await.unwrap();
        self.all_see("one host and empty outboxes", |chat| chat.serving && chat.queued == 0)
            .await
            .unwrap();
        let last = self.says(0).await;
        let feeds = self.feeds(last).await.unwrap();
        let seen = check(&feeds, &self.confirmed).unwrap_or_else(|problems| {
            panic!("the final check failed:\n{}", problems.join("\n"));
        });
        assert_eq!(seen.feeds, self.peers.len());
        for place in 0..self.peers.len() {
            let fault = self.chat_at(place).await.unwrap().fault;
            assert_eq!(fault, "", "{}", self.describe().await);
        }
        self.confirmed = Confirmed::default();
    }

    /// Remembers a confirmation that a test got by itself.
    pub fn note(&mut self, peer: usize, request_id: &str, sequence: u64) {
        self.confirmed.note(&self.cluster.peers[peer].id, request_id, sequence);
    }
}

/// Asserts an error's code and its machine-readable reason.
#[track_caller]
pub fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) {
    let status = answer.expect_err("the call is refused");
    assert_eq!(status.code(), code, "{status:?}");
    let info = status.get_details_error_info().expect("an ErrorInfo comes with it");
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("demes", reason));
    assert!(!status.message().is_empty(), "people can read what to do");
}
